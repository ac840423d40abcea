# SPDX-License-Identifier: Apache-2.0
"""What the Python module sends, against a scripted libtidegate: outputs, batches, samples that are written in place; every outcome of every call.

Each test runs in a process of its own, below play.py.
"""

import errno
import threading
import time

if __name__ == "played":
    import play
    import tidegate
    from play import played, raises
else:
    from conftest import played


# sending


@played
def test_anything_with_a_contiguous_buffer_is_sent():
    import array

    import numpy

    node = tidegate.Node()
    things = [
        b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], array.array("h", [1, 2]), numpy.eye(3),
        numpy.array(7, numpy.int32), numpy.zeros(0), b"",
    ]  # fmt: skip
    for thing in things:
        node.send_output("out", thing)
    node.send_output("other")
    node.send_output(output_id="other", data=None, metadata=None)
    expected = [bytes(memoryview(t).cast("B") if memoryview(t).nbytes else b"") for t in things]
    assert [s[1] for s in play.sent()] == [*expected, b"", b""]
    assert {s[0] for s in play.sent()[-2:]} == {"other"}
    play.push(play.INPUT, "in", b"pass me on", 0, [("string", b"k", b"v")])
    event = node.next()
    node.send_output("out", event.data, event.metadata)
    assert play.sent()[-1] == ("out", b"pass me on", {"k": 4})


@played
def test_what_cannot_be_sent_is_refused_with_advice():
    import numpy

    node = tidegate.Node()
    assert "text.encode()" in str(raises(TypeError, node.send_output, "out", "text"))
    assert "not list" in str(raises(TypeError, node.send_output, "out", [1, 2]))
    assert "ascontiguousarray" in str(raises(BufferError, node.send_output, "out", numpy.eye(4)[:, 0]))
    assert "ascontiguousarray" in str(raises(BufferError, node.send_output, "out", numpy.ones((3, 4), order="F")))
    raises(BufferError, node.send_output, "out", memoryview(b"abcdef")[::2])
    view = memoryview(b"abc")
    view.release()
    raises((ValueError, BufferError), node.send_output, "out", view)
    raises(TypeError, node.send_output, None, b"")
    raises(ValueError, node.send_output, "a\0b", b"")
    assert play.sent() == []


@played
def test_metadata_of_every_type_is_sent():
    import numpy

    node = tidegate.Node()
    node.send_output("out", b"", {
        "b": True, "i": -5, "f": 0.5, "s": "x", "li": [1, 2], "lf": [1, 2.5], "ls": ["a"], "t": (1,), "e": [],
        "ni": numpy.int64(4), "nf": numpy.float32(0.5), "nd": numpy.float64(0.5), "nl": [numpy.int16(4)],
        "nb": numpy.int64(3) > 2,
    })  # fmt: skip
    assert play.sent()[-1][2] == {
        "b": 1, "i": 2, "f": 3, "s": 4, "li": 5, "lf": 6, "ls": 7, "t": 5, "e": 5, "ni": 2, "nf": 3, "nd": 3, "nl": 5,
        "nb": 1,
    }  # fmt: skip
    node.send_output("out", b"", {"parameters": {"a": 1}, "b": 2})
    assert play.sent()[-1][2] == {"a": 2, "b": 2}


@played
def test_a_wrong_metadata_value_is_named_by_its_key():
    import numpy

    node = tidegate.Node()
    cases = [
        (TypeError, None), (TypeError, b"x"), (TypeError, {"deep": 1}), (TypeError, {1}), (TypeError, object()),
        (TypeError, numpy.zeros(2)), (TypeError, numpy.zeros(1)), (TypeError, [numpy.bool_(True)]), (TypeError, 1j),
        (TypeError, [None]), (TypeError, [True]), (TypeError, [[1]]), (TypeError, [1, "a"]), (TypeError, [0.5, "a"]),
        (OverflowError, 2**63), (OverflowError, [1, -(2**63) - 1]), (OverflowError, [0.5, 10**400]),
        (ValueError, "a\0b"), (ValueError, ["\0"]), (ValueError, "\ud800"), (ValueError, "x" * 100000),
    ]  # fmt: skip
    for type, value in cases:
        assert "'speed'" in str(raises(type, node.send_output, "out", b"", {"ok": 1, "speed": value})), repr(value)
    for key in ["", "k" * 257, "a\0b"]:
        assert repr(key) in str(raises(ValueError, node.send_output, "out", b"", {key: 1}))
    assert "3 is not" in str(raises(TypeError, node.send_output, "out", b"", {3: 1}))
    assert "not list" in str(raises(TypeError, node.send_output, "out", b"", [("a", 1)]))
    assert play.sent() == []


@played
def test_every_outcome_of_a_send_is_an_exception_of_its_own():
    node = tidegate.Node()
    table = [
        (play.NO_OUTPUT, tidegate.NoSuchOutput, errno.ENOENT), (play.CLOSED, tidegate.Closed, errno.EPIPE),
        (play.STOPPING, tidegate.Stopping, errno.ECANCELED), (play.DROPPED, tidegate.Dropped, errno.ENOBUFS),
        (-errno.EMSGSIZE, tidegate.TooLarge, errno.EMSGSIZE), (-errno.EPROTO, tidegate.Error, errno.EPROTO),
    ]  # fmt: skip
    for r, type, number in table:
        for function, call in [
            ("tg_send", lambda: node.send_output("out", b"abc")),
            ("tg_alloc", lambda: node.alloc_output("out", 3)),
            ("tg_send_sample", lambda: node.alloc_output("out", 3).send()),
        ]:
            play.fail(function, r)
            e = raises(type, call)
            assert isinstance(e, tidegate.Error) and isinstance(e, OSError) and e.errno == number
            assert "'out'" in str(e) and "3 bytes" in str(e), str(e)
    play.fail("tg_send", -errno.ENOMEM)
    raises(MemoryError, node.send_output, "out", b"")
    raises(tidegate.NoSuchOutput, node.send_output, "nowhere", b"")
    assert play.sent() == [] and play.live("samples") == 0
    node.send_output("out", b"still works")


@played
def test_a_send_waits_for_room_for_as_long_as_send_timeout_says():
    node = tidegate.Node()
    assert node.send_timeout is None
    play.lib.fake_hold_sends(True)
    for seconds in [0, 0.05, 0.5]:
        node.send_timeout = seconds
        assert node.send_timeout == seconds
        for call in [lambda: node.send_output("out", b"abc"), lambda: node.alloc_output("out", 3).send()]:
            begin = time.monotonic()
            e = raises(tidegate.Timeout, call)
            assert isinstance(e, TimeoutError) and e.errno == errno.ETIMEDOUT and "'out'" in str(e)
            assert seconds <= time.monotonic() - begin < seconds + 10
    node.send_timeout = None
    threading.Timer(0.6, play.lib.fake_hold_sends, [False]).start()
    node.send_output("out", b"at last")
    assert [s[1] for s in play.sent()] == [b"at last"], "a try that ran out of time sent nothing"
    raises(ValueError, setattr, node, "send_timeout", -1)
    raises(TypeError, setattr, node, "send_timeout", "x")


# batches


@played
def test_a_batch_is_sent_in_one_call_in_its_order():
    import numpy

    node = tidegate.Node()
    node.send_batch("out", [b"one", (b"two", {"k": 1}), (bytearray(b"three"), None), numpy.arange(3, dtype=numpy.uint8), None, (None, {"k": "v"})])
    assert play.sent() == [
        ("out", b"one", {}), ("out", b"two", {"k": 2}), ("out", b"three", {}), ("out", b"\0\1\2", {}), ("out", b"", {}), ("out", b"", {"k": 4})
    ]  # fmt: skip
    node.send_batch(output_id="other", messages=(b"%d" % i for i in range(300)))
    node.send_batch("out", numpy.eye(2, dtype=numpy.uint8))  # a row is a message
    node.send_batch("out", [])
    assert [s[1] for s in play.sent()[6:]] == [*(b"%d" % i for i in range(300)), b"\1\0", b"\0\1"]
    assert play.live("batches") == 4


@played
def test_a_batch_with_one_bad_message_is_not_sent_at_all():
    import numpy

    node = tidegate.Node()
    good = bytearray(b"good")
    cases = [
        (TypeError, "text"), (TypeError, 5), (BufferError, numpy.eye(4)[:, 0]), (TypeError, (b"x", {"k": None})), (ValueError, (b"x", {"": 1})),
        (TypeError, (b"x",)), (TypeError, (b"x", {}, 3)), (TypeError, (b"x", 7)), (TypeError, ("text", {})),
    ]  # fmt: skip
    for type, bad in cases:
        e = raises(type, node.send_batch, "out", [good, (good, {"k": 1}), bad])
        assert e.__notes__ == ["This is message 2 of the batch; none was sent."], bad
        good += b"!"  # nobody holds it: a bytearray that is lent cannot grow
    raises(TypeError, node.send_batch, "out", 5)
    raises(TypeError, node.send_batch, "out")
    assert play.sent() == [] and play.live("batches") == 0


@played
def test_a_batch_that_fails_says_how_many_were_sent():
    node = tidegate.Node()
    messages = [b"0", b"1", b"2", b"bad", b"4"]
    assert raises(tidegate.NoSuchOutput, node.send_batch, "nowhere", messages).n_sent == 0
    for r, type in [(play.DROPPED, tidegate.Dropped), (play.STOPPING, tidegate.Stopping), (play.CLOSED, tidegate.Closed)]:
        play.fail("bad", r)
        e = raises(type, node.send_batch, "out", messages)
        assert e.n_sent == 3 and "message 3 of 5" in str(e) and "'out'" in str(e)
        assert play.lib.fake_n_sent() % 3 == 0
    play.fail("tg_send_batch", -errno.ENOMEM)
    assert raises(MemoryError, node.send_batch, "out", messages).n_sent == 0


@played
def test_a_batch_that_waits_for_room_goes_on_where_it_was():
    node = tidegate.Node()
    messages = [b"%d" % i for i in range(10)]
    node.send_timeout = 0.3
    play.lib.fake_room(4)
    begin = time.monotonic()
    e = raises(tidegate.Timeout, node.send_batch, "out", messages)
    assert e.n_sent == 4 and "message 4 of 10" in str(e) and "'out'" in str(e) and 0.3 <= time.monotonic() - begin < 10
    node.send_timeout = None
    threading.Timer(0.3, play.lib.fake_hold_sends, [False]).start()
    node.send_batch("out", messages[4:])
    assert [s[1] for s in play.sent()] == messages, "each of them once, after two slices of waiting"


# samples


@played
def test_a_sample_is_written_in_place_and_sent_once():
    import numpy

    node = tidegate.Node()
    sample = node.alloc_output("out", 8)
    numpy.frombuffer(sample, numpy.int32)[:] = [1, 2]
    assert len(sample) == sample.nbytes == 8 and "not sent" in repr(sample)
    sample.send({"k": 1})
    assert play.sent() == [("out", b"\1\0\0\0\2\0\0\0", {"k": 2})]
    assert "already sent" in str(raises(BufferError, sample.send))
    assert "already sent" in str(raises(BufferError, memoryview, sample))
    sample.discard()
    assert play.live("samples") == 0 and len(play.sent()) == 1


@played
def test_a_sample_is_not_sent_while_a_view_of_it_lives():
    import numpy

    node = tidegate.Node()
    sample = node.alloc_output("out", 8)
    array = numpy.frombuffer(sample, numpy.uint8)
    array[:] = 7
    assert "1 view of it exists" in str(raises(BufferError, sample.send))
    raises(BufferError, sample.discard)
    view = memoryview(sample)
    assert "2 views of it exist" in str(raises(BufferError, sample.send))
    view.release()
    del array
    sample.send()
    assert play.sent() == [("out", b"\7" * 8, {})]


@played
def test_a_with_block_sends_at_its_end_and_gives_back_on_an_error():
    node = tidegate.Node()
    with node.alloc_output("out", 3) as sample:
        memoryview(sample)[:] = b"abc"
    with node.alloc_output("out", 1) as sample:
        sample.send({"k": "v"})
    with node.alloc_output("out", 1) as sample:
        sample.discard()

    def failing():
        with node.alloc_output("out", 3) as sample:
            view = memoryview(sample)
            view[0] = 1 / 0

    raises(ZeroDivisionError, failing)
    assert [s[1] for s in play.sent()] == [b"abc", b"\0"]
    assert play.live("samples") == 0


@played
def test_an_array_is_filled_in_place_and_sent_by_one_line():
    import numpy

    node = tidegate.Node()
    a, b = numpy.arange(6, dtype=numpy.int16).reshape(2, 3), numpy.ones((2, 3), numpy.int16)
    seen = []
    node.fill_output("out", lambda out: numpy.add(a, b, out=out), a.shape, a.dtype, {"k": 1})
    node.fill_output("out", lambda out: seen.append((out.shape, out.dtype.str, out.flags.writeable, out.flags.c_contiguous)), (2, 3), "<f8")
    node.fill_output("out", lambda out: out.fill(7), 3)
    node.fill_output("out", lambda out: seen.append(out.shape), (0, 4))
    assert seen == [((2, 3), "<f8", True, True), (0, 4)]
    assert [s[1:] for s in play.sent()] == [((a + b).tobytes(), {"k": 2}), (bytes(48), {}), (b"\7\7\7", {}), (b"", {})]
    assert play.live("samples") == 0


@played
def test_an_array_that_somebody_keeps_or_that_was_not_filled_is_not_sent():
    import numpy

    node = tidegate.Node()
    kept = []
    for keep in [kept.append, lambda out: kept.append(out[1:]), lambda out: kept.append(out.reshape(1, 3).T)]:
        assert "1 view of it exists" in str(raises(BufferError, node.fill_output, "out", keep, 3))
        kept.clear()
    raises(ZeroDivisionError, node.fill_output, "out", lambda out: out.fill(1 / 0), 3)
    raises(TypeError, node.fill_output, "out", lambda out: None, 3, "uint8", {"k": None})
    assert "Python objects" in str(raises(TypeError, node.fill_output, "out", lambda out: None, 3, object))
    raises(ValueError, node.fill_output, "out", lambda out: None, -1)
    raises(ValueError, node.fill_output, "out", lambda out: None, (-2, -2))
    raises(tidegate.NoSuchOutput, node.fill_output, "nowhere", lambda out: None, 3)
    assert play.sent() == [] and play.live("samples") == 0
    node.fill_output("out", lambda out: numpy.copyto(out, 1), 2)
    assert [s[1] for s in play.sent()] == [b"\1\1"]


@played
def test_bad_metadata_leaves_the_sample_unsent():
    node = tidegate.Node()
    sample = node.alloc_output("out", 3)
    raises(TypeError, sample.send, {"k": None})
    raises(TypeError, sample.send, metadata=3)
    sample.send({"k": 1})
    assert len(play.sent()) == 1


@played
def test_a_sample_keeps_its_memory_past_the_close_of_the_node():
    node = tidegate.Node()
    sample = node.alloc_output("out", 3)
    view = memoryview(sample)
    node.close()
    assert play.live("nodes") == 1, "its pool is still mapped"
    assert [s[1] for s in play.sent() if s[0] == "close"] == [b"out", b"other"], "the consumers know already"
    view[:] = b"abc"
    view.release()
    raises(tidegate.Closed, sample.send)
    raises(tidegate.Closed, node.send_output, "out", b"")
    del sample
    assert play.live("nodes") == 0 and play.live("samples") == 0


@played
def test_sizes_of_samples_are_checked():
    node = tidegate.Node()
    raises(ValueError, node.alloc_output, "out", -1)
    raises(OverflowError, node.alloc_output, "out", 2**64)
    raises(TypeError, node.alloc_output, "out", 1.5)
    raises(tidegate.TooLarge, node.alloc_output, "out", 2**40)
    raises(tidegate.NoSuchOutput, node.alloc_output, "nowhere", 1)
    with node.alloc_output("out", 0) as sample:
        assert bytes(sample) == b""
    assert play.sent() == [("out", b"", {})]
