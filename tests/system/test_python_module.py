# SPDX-License-Identifier: Apache-2.0
"""The Python module against a scripted libtidegate: every outcome of every call, lifetimes, threads, forks, signals. What it sends: test_python_sending.py.

Each test runs in a process of its own, below play.py.
"""

import asyncio
import ctypes
import errno
import os
import signal
import sys
import threading
import time

if __name__ == "played":
    import play
    import tidegate
    from play import played, raises
else:
    from conftest import played


# events


@played
def test_events_come_in_order_until_the_stream_ends():
    play.push(play.INPUT, "in", b"abc", 0)
    play.push(play.INPUT_CLOSED, "in")
    play.push(play.STOP, "ALL_INPUTS_CLOSED")
    play.lib.fake_end()
    with tidegate.Node() as node:
        assert [(e.type, e.id) for e in node] == [
            ("INPUT", "in"), ("INPUT_CLOSED", "in"), ("STOP", "ALL_INPUTS_CLOSED")
        ]  # fmt: skip
        assert node.ended
        assert node.next() is None
        assert node.try_recv() is None
        assert list(node) == []
    assert play.live("events") == 0 and play.live("nodes") == 0


@played
def test_a_batch_is_what_is_there_and_an_empty_one_is_the_end():
    for i in range(5):
        play.push(play.INPUT, "in", b"%d" % i, i)
    node = tidegate.Node()
    events = node.next_batch(2)
    assert [bytes(e.data) for e in events] == [b"0", b"1"] and all(type(e) is tidegate.Event for e in events)
    assert [bytes(e.data) for e in node.next_batch(timeout=0)] == [b"2", b"3", b"4"]
    begin = time.monotonic()
    raises(tidegate.Timeout, node.next_batch, 10, 0.05)
    raises(tidegate.Timeout, node.next_batch, limit=10**9, timeout=0)
    assert time.monotonic() - begin >= 0.05
    for limit in [0, -1]:
        assert "limit" in str(raises(ValueError, node.next_batch, limit))
    raises(TypeError, node.next_batch, "x")
    play.fail("tg_next_batch", -errno.ENOMEM)
    raises(MemoryError, node.next_batch)
    play.push(play.INPUT, "in", b"5")
    assert [bytes(e.data) for e in node.next_batch(1)] == [b"5"], "one at a time, too"
    play.push(play.INPUT_CLOSED, "in")
    play.push(play.STOP, "ALL_INPUTS_CLOSED")
    play.push(play.ERROR, "", b"it is over")
    play.lib.fake_end()
    assert [[e.type for e in events] for events in node.batches(2)] == [["INPUT_CLOSED", "STOP"], ["ERROR"]]
    assert node.ended and node.next_batch() == [] and node.next_batch(timeout=0) == [] and list(node.batches()) == []
    assert bytes(events[1].data) == b"1"
    del events
    assert play.live("events") == 0


@played
def test_an_event_reads_like_the_dict_of_a_dora_node():
    import collections.abc
    import datetime

    play.push(play.INPUT, "in", b"abc", 41, [("int", b"n", ctypes.c_int64(5))])
    before = datetime.datetime.now(datetime.timezone.utc)
    event = tidegate.Node().next()
    assert event["type"] == event.type == "INPUT" and event["id"] == event.id == "in"
    assert event["value"] == event.data == b"abc" and event["kind"] == "dora"
    assert event["metadata"]["n"] == 5 and event.seq == 41
    assert abs((event["metadata"]["timestamp"] - before).total_seconds()) < 10
    assert abs(event.time_ns - time.monotonic_ns()) < 10**10
    assert event.metadata is event["metadata"]
    assert list(event) == event.keys() == [k for k, _ in event.items()] == ["kind", "type", "id", "value", "metadata"]
    assert dict(event) == {**event} and len(event) == 5 and len(event.values()) == 5
    assert "id" in event and "error" not in event and 3 not in event
    assert event.get("error") is None and event.get("x", 7) == 7 and event.get("id") == "in"
    assert isinstance(event, collections.abc.Mapping)
    assert raises(KeyError, lambda: event["error"]).args == ("error",)
    assert repr(event) == "<tidegate.Event INPUT 'in', message 41, 3 bytes>"
    raises(TypeError, tidegate.Event)


@played
def test_failures_carry_their_reason():
    play.push(play.NODE_FAILED, "arm", b"exited with status 3")
    play.push(play.ERROR, None, b"the supervisor is gone")
    node = tidegate.Node()
    failed, error = node.next(), node.next()
    assert failed["value"] == {"source_node_id": "arm", "error": "exited with status 3"}
    assert failed["id"] == "arm" and failed.error == failed["error"] == "exited with status 3"
    assert error.type == "ERROR" and error["error"] == "the supervisor is gone" and "id" not in error
    assert error.id is None


@played
def test_every_type_of_parameter_arrives():
    ints = (ctypes.c_int64 * 2)(-(2**63), 2**63 - 1)
    floats = (ctypes.c_double * 2)(0.5, float("inf"))
    strings = (ctypes.c_char_p * 2)(b"a", "ö".encode())
    n = ctypes.c_size_t(2)
    play.push(play.INPUT, "in", b"", 0, [
        ("bool", b"b", ctypes.c_bool(True)), ("int", b"i", ctypes.c_int64(-3)), ("float", b"f", ctypes.c_double(1.5)),
        ("string", b"s", "grün".encode()), ("ints", b"li", ints, n), ("floats", b"lf", floats, n),
        ("strings", b"ls", strings, n), ("ints", b"none", ints, ctypes.c_size_t(0)),
    ])  # fmt: skip
    metadata = tidegate.Node().next().metadata
    del metadata["timestamp"]
    assert metadata == {
        "b": True, "i": -3, "f": 1.5, "s": "grün", "li": [-(2**63), 2**63 - 1], "lf": [0.5, float("inf")],
        "ls": ["a", "ö"], "none": [],
    }  # fmt: skip
    assert metadata["b"] is True


# payloads


@played
def test_payload_is_read_only_shared_memory_without_a_copy():
    import numpy

    play.push(play.INPUT, "in", bytes(range(256)) * 4)
    event = tidegate.Node().next()
    a = numpy.frombuffer(event.data, numpy.uint16)
    b = numpy.frombuffer(event["value"], numpy.uint8)
    assert a.shape == (512,) and b[255] == 255
    assert a.ctypes.data == b.ctypes.data, "two views of one memory"
    assert not a.flags.writeable and event.data.readonly
    raises(TypeError, event.data.__setitem__, 0, 1)
    lines = open("/proc/self/maps").read().splitlines()
    ranges = [(line.split()[1], *(int(x, 16) for x in line.split()[0].split("-"))) for line in lines]
    assert [mode for mode, lo, hi in ranges if lo <= a.ctypes.data < hi] == ["r--p"], "the library's own mapping"


@played
def test_payload_lives_as_long_as_its_last_view():
    import numpy

    play.push(play.INPUT, "in", b"x" * 100000)
    node = tidegate.Node()
    event = node.next()
    view = event.data[10:]
    array = numpy.frombuffer(event.data, numpy.uint8)[::7]
    del event
    assert play.live("events") == 1
    view.release()
    assert play.live("events") == 1 and int(array[5]) == ord("x")
    del array
    assert play.live("events") == 0


@played
def test_payload_outlives_the_node():
    play.push(play.INPUT, "in", b"x" * 100000)
    with tidegate.Node() as node:
        data = node.next().data
    del node
    assert play.live("nodes") == 0
    assert bytes(data[-3:]) == b"xxx"
    del data
    assert play.live("events") == 0


@played
def test_a_released_view_leaves_the_event_usable():
    play.push(play.INPUT, "in", b"abc")
    event = tidegate.Node().next()
    with event.data as view:
        assert view == b"abc"
    raises(ValueError, bytes, view)
    assert event.data == b"abc"


@played
def test_an_empty_message_has_an_empty_view():
    play.push(play.INPUT, "tick")
    event = tidegate.Node().next()
    assert event.data == b"" and event["value"].nbytes == 0 and event["metadata"].keys() == {"timestamp"}


# waiting


@played
def test_a_timeout_is_kept_and_says_so():
    node = tidegate.Node()
    for seconds in [0, 0.05, 0.45]:
        begin = time.monotonic()
        e = raises(tidegate.Timeout, node.next, timeout=seconds)
        assert seconds <= time.monotonic() - begin < seconds + 10 and e.errno == errno.ETIMEDOUT
    assert node.try_recv() is None and not node.ended
    for bad in [-1, float("nan")]:
        raises(ValueError, node.next, bad)
    raises(TypeError, node.next, "x")
    play.push(play.INPUT)
    assert node.next(float("inf")).type == "INPUT"
    play.push(play.INPUT)
    assert node.next(1e300).type == "INPUT"


@played
def test_other_threads_run_while_one_waits():
    node = tidegate.Node()
    got = []
    thread = threading.Thread(target=lambda: got.append(node.next(timeout=30)))
    thread.start()
    n = 0
    while play.lib.fake_live(b"calls") == 0 and n < 10**7:
        n += 1
    play.push(play.INPUT, "in", b"abc")
    thread.join(30)
    assert got[0].data == b"abc"


@played
def test_ctrl_c_ends_every_wait():
    node = tidegate.Node()
    play.lib.fake_hold_sends(True)

    async def wait():
        await node.recv_async()

    waits = [
        node.next, lambda: node.next(60), lambda: next(node), lambda: node.send_output("out", b""),
        lambda: node.alloc_output("out", 1).send(), lambda: asyncio.run(wait()), lambda: node.send_batch("out", [b"", b""]),
    ]  # fmt: skip
    for call in waits:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        begin = time.monotonic()
        e = raises(KeyboardInterrupt, call)
        assert time.monotonic() - begin < 20
    assert e.n_sent == 0, "of the batch"
    assert play.live("samples") == 0 and play.sent() == []


@played
def test_ctrl_c_is_seen_when_the_signal_interrupts_nothing():
    node = tidegate.Node()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    done = threading.Event()
    taker = threading.Thread(target=lambda: (signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]), done.wait(50)))
    taker.start()
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    begin = time.monotonic()
    raises(KeyboardInterrupt, node.next)
    assert time.monotonic() - begin < 30, "seen before the other thread woke"
    done.set()
    taker.join()


@played
def test_a_handled_signal_does_not_shorten_a_wait_or_lose_a_message():
    ticks = []
    signal.signal(signal.SIGALRM, lambda *args: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    node = tidegate.Node()
    begin = time.monotonic()
    raises(tidegate.Timeout, node.next, 0.5)
    assert time.monotonic() - begin >= 0.5 and len(ticks) > 10
    play.lib.fake_hold_sends(True)
    threading.Timer(0.3, play.lib.fake_hold_sends, [False]).start()
    with node.alloc_output("out", 3) as sample:
        memoryview(sample)[:] = b"abc"
    node.send_output("out", b"def")
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert [s[1] for s in play.sent()] == [b"abc", b"def"]


@played
def test_close_from_another_thread_ends_the_waits():
    node = tidegate.Node()
    play.lib.fake_hold_sends(True)
    ends = []

    def wait(call):
        try:
            call()
        except tidegate.Closed as e:
            ends.append(e.errno)

    calls = [
        node.next, lambda: next(node), lambda: node.send_output("out", b""), lambda: node.alloc_output("out", 1).send(),
        lambda: node.send_batch("out", [b""]), node.next_batch,
    ]  # fmt: skip
    threads = [threading.Thread(target=wait, args=[c]) for c in calls]
    for thread in threads:
        thread.start()
    while play.lib.fake_live(b"calls") < 3 or play.lib.fake_live(b"samples") < 1:
        time.sleep(0.001)
    node.close()
    for thread in threads:
        thread.join(10)
    assert ends == [errno.EBADF] * 6
    del node, calls, threads, thread
    assert play.live("nodes") == 0 and play.live("samples") == 0


# asyncio


@played
def test_asyncio_gets_every_event():
    async def main():
        node = tidegate.Node()
        loop = asyncio.get_running_loop()
        for i in range(5):
            loop.call_later(0.02 * i, play.push, play.INPUT, "in", b"%d" % i)
        loop.call_later(0.15, play.lib.fake_end)
        return [bytes(e.data) async for e in node]

    assert asyncio.run(main(), debug=True) == [b"0", b"1", b"2", b"3", b"4"]


@played
def test_asyncio_waiters_share_the_descriptor_and_can_be_cancelled():
    async def main():
        node = tidegate.Node()
        begin = time.monotonic()
        try:
            await node.recv_async(timeout=0.1)
        except tidegate.Timeout:
            assert 0.1 <= time.monotonic() - begin < 10
        else:
            raise AssertionError
        cancelled = asyncio.create_task(node.recv_async())
        tasks = [asyncio.create_task(node.recv_async(5)) for _ in range(3)]
        await asyncio.sleep(0.01)
        cancelled.cancel()
        for i in range(3):
            play.push(play.INPUT, "in", b"%d" % i)
        assert sorted(bytes(e.data) for e in await asyncio.gather(*tasks)) == [b"0", b"1", b"2"]
        waiting = asyncio.create_task(node.recv_async())
        await asyncio.sleep(0.01)
        node.close()
        try:
            await asyncio.wait_for(waiting, 5)
        except tidegate.Closed:
            pass
        else:
            raise AssertionError

    before = play.fds()
    asyncio.run(main())
    assert play.fds() <= before + 1, "the stand-in's own descriptor"


@played
def test_fileno_polls_readable():
    import select

    with tidegate.Node() as node:
        assert select.select([node], [], [], 0)[0] == []
        play.push(play.INPUT)
        assert select.select([node], [], [], 5)[0] == [node]
        assert node.try_recv().type == "INPUT"
        assert node.try_recv() is None
        assert select.select([node], [], [], 0)[0] == []
        play.fail("tg_node_fd", -errno.EMFILE)
        assert raises(tidegate.Error, node.fileno).errno == errno.EMFILE


# the node


@played
def test_identity_ports_and_counters():
    with tidegate.Node() as node:
        assert (node.node_id, node.dataflow_name) == ("fake", "play") and node.dataflow_id.count("-") == 4
        assert node.inputs == ("in", "tick") and node.outputs == ("out", "other") and node.restart_count() == 3
        assert node.input_stats("in") == {
            "delivered": 1, "dropped_queue": 2, "dropped_pool": 3, "dropped_source": 4, "dropped_invalid": 5
        }  # fmt: skip
        assert "'nothing'" in str(raises(tidegate.Error, node.input_stats, "nothing"))
        assert repr(node) == "<tidegate.Node 'fake' of dataflow 'play'>"
        assert node.should_stop is False and node.stop_deadline is None
        play.lib.fake_stop(1_500_000_000)
        assert node.should_stop is True and node.stop_deadline == 1.5
    assert repr(node) == "<tidegate.Node, closed>"


@played
def test_log_lines_have_levels():
    node = tidegate.Node()
    for level in ["error", "warn", "info", "debug", "trace"]:
        getattr(node, "log_" + level)("x")
        node.log(level.upper(), "y")
    node.log_warning("z")
    assert "loud" in str(raises(ValueError, node.log, "loud", "x"))
    play.fail("tg_log", -errno.EPIPE)
    assert raises(tidegate.Error, node.log_info, "x").errno == errno.EPIPE


@played
def test_outputs_are_closed_by_name():
    node = tidegate.Node()
    node.close_outputs(["out"])
    node.close_outputs(("other",))
    assert [s[1] for s in play.sent()] == [b"out", b"other"]
    raises(TypeError, node.close_outputs, "out")
    raises(TypeError, node.close_outputs, [1])
    raises(TypeError, node.close_outputs, 1)
    raises(tidegate.NoSuchOutput, node.close_outputs, ["nowhere"])


@played
def test_nothing_works_after_close_and_nothing_crashes():
    node = tidegate.Node()
    node.close()
    node.close()
    assert node.closed
    calls = [
        node.next, node.try_recv, lambda: next(node), node.fileno, node.restart_count, lambda: node.node_id, node.next_batch, lambda: list(node.batches()),
        lambda: node.inputs, lambda: node.outputs, lambda: node.should_stop, lambda: node.stop_deadline,
        lambda: node.send_output("out", b""), lambda: node.send_batch("out", [b""]), lambda: node.alloc_output("out", 1), lambda: node.close_outputs(["out"]),
        lambda: node.log_info("x"), lambda: node.input_stats("in"), node.__enter__, lambda: asyncio.run(node.recv_async()),
    ]  # fmt: skip
    for call in calls:
        assert raises(tidegate.Closed, call).errno == errno.EBADF
    unborn = tidegate.Node.__new__(tidegate.Node)
    raises(tidegate.Closed, unborn.next)
    raises(tidegate.Closed, unborn.__enter__)
    del unborn
    assert play.live("nodes") == 0


@played
def test_a_failed_connection_says_why():
    play.fail("tg_node_open", -errno.ENOTCONN)
    e = raises(tidegate.NotConnected, tidegate.Node)
    assert e.errno == errno.ENOTCONN and "tidegate run" in str(e)
    play.fail("tg_node_open", -errno.ECANCELED)
    assert raises(tidegate.Error, tidegate.Node).errno == errno.ECANCELED
    play.fail("tg_node_open", -errno.EINTR, 3)  # a signal whose handler did not raise: the opening goes on
    node = tidegate.Node()
    assert raises(tidegate.Error, tidegate.Node).errno == errno.EALREADY
    assert raises(tidegate.Error, node.__init__).errno == errno.EALREADY
    assert play.live("nodes") == 1


@played
def test_a_program_started_by_hand_names_the_node_it_wants_to_be():
    os.environ.pop("TIDEGATE_NODE_FD", None)
    play.fail("tg_node_open_as", -errno.ENOTCONN)
    e = raises(tidegate.NotConnected, tidegate.Node, "viewer")
    assert e.errno == errno.ENOTCONN and "viewer" in str(e) and "tidegated" in str(e)
    play.fail("tg_node_open_as", -errno.ECANCELED)
    assert raises(tidegate.Error, lambda: tidegate.Node("viewer", dataflow="audio")).errno == errno.ECANCELED
    assert play.asked() == "viewer audio"
    raises(TypeError, tidegate.Node, "viewer", "audio")
    raises(TypeError, lambda: tidegate.Node(dataflow="audio"))
    raises(TypeError, tidegate.Node, 5)
    raises(ValueError, tidegate.Node, "a\0b")
    play.fail("tg_node_open_as", -errno.EINTR, 2)
    node = tidegate.Node("viewer")
    assert play.asked() == "viewer -"
    node.close()
    assert play.live("nodes") == 0


@played
def test_a_program_started_by_tidegate_is_what_it_was_started_as():
    os.environ["TIDEGATE_NODE_FD"] = "3"
    node = tidegate.Node("viewer", dataflow="audio")
    assert play.asked() == ""
    node.close()


@played
def test_a_forked_child_may_not_use_the_node_and_does_not_hurt_it():
    play.push(play.INPUT, "in", b"abc")
    node = tidegate.Node()
    event = node.next()
    sample = node.alloc_output("out", 3)
    pid = os.fork()
    if pid == 0:
        try:
            sends = [lambda: node.send_output("out", b""), lambda: node.send_batch("out", [b""]), lambda: node.alloc_output("out", 1)]
            for call in [node.next, node.next_batch, node.try_recv, *sends]:
                assert raises(tidegate.Error, call).errno == errno.EOWNERDEAD
            assert bytes(event.data) == b"abc"
            node.close()
            del node, call, sends, event
        except BaseException as e:
            print(repr(e), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    memoryview(sample)[:] = b"def"
    sample.send()
    assert play.sent()[-1][1] == b"def"


@played
def test_derived_nodes_have_their_own_attributes():
    class Mine(tidegate.Node):
        def __init__(self):
            super().__init__()
            self.me = self  # a cycle: only the collector can end it

    Mine().x = 3
    assert play.live("nodes") == 0


# leaks and races


@played
def test_a_million_small_things_leave_nothing_behind():
    import tracemalloc

    node = tidegate.Node()
    params = {"a": 1, "b": [0.5], "c": ["x", "y"], "d": "text"}

    def once():
        play.push(play.INPUT, "in", b"abc" * 100, 0, [("string", b"k", b"v")])
        event = node.next()
        dict(event), event.metadata, bytes(event.data), repr(event), event.get("x")
        event.metadata["self"] = event  # a cycle through the metadata
        del event
        for bad in [{"k": None}, {"k": [1, "a"]}, {"k": 2**70}, {3: 1}]:
            raises((TypeError, OverflowError), node.send_output, "out", b"", bad)
            raises((TypeError, OverflowError), node.send_batch, "out", [(b"abc", params), (b"", bad)])
        raises(tidegate.NoSuchOutput, node.send_batch, "nowhere", [b"abc", (b"abc", params)])
        raises(tidegate.NoSuchOutput, node.send_output, "nowhere", b"abc", params)
        raises(tidegate.NoSuchOutput, node.alloc_output, "nowhere", 1)
        raises(tidegate.Timeout, node.next, 0)
        node.alloc_output("out", 10).discard()
        sample = node.alloc_output("out", 10)
        view = memoryview(sample)
        raises(BufferError, sample.send)
        del view, sample
        node.inputs, node.outputs, node.node_id, node.input_stats("in"), node.should_stop

    for _ in range(50):
        once()
    fds = play.fds()
    counted = [node, tidegate.Event, tidegate.Payload, tidegate.Sample, tidegate.Error, None, params]
    not_the_test = [tracemalloc.Filter(False, file) for file in (play.__file__, tracemalloc.__file__, ctypes.__file__)]

    def traced():
        assert play.live("events") == 0 and play.live("samples") == 0
        return sum(t.size for t in tracemalloc.take_snapshot().filter_traces(not_the_test).traces)

    tracemalloc.start()
    for _ in range(2000):  # the interpreter's free lists fill up slowly
        once()
    before, references = traced(), [sys.getrefcount(o) for o in counted]
    for _ in range(1000):
        once()
    after, now = traced(), [sys.getrefcount(o) for o in counted]
    assert after - before < 12000, f"{after - before} bytes more after 1000 rounds"
    assert play.fds() == fds
    assert all(b - a < 100 for a, b in zip(references, now)), (references, now)


@played
def test_many_threads_use_one_node_at_once():
    node = tidegate.Node()
    stop = threading.Event()
    problems = []

    def worker(call):
        while not stop.is_set():
            try:
                call()
            except (tidegate.Timeout, tidegate.Closed):
                pass
            except BaseException as e:
                problems.append(e)
                return

    def sample():
        with node.alloc_output("out", 8) as s:
            memoryview(s)[:] = b"12345678"

    calls = [lambda: node.next(0.001), node.try_recv, sample, lambda: node.send_output("out", b"abc", {"k": [1, 2]}),
             lambda: play.push(play.INPUT, "in", b"x" * 5000), lambda: node.inputs, lambda: node.input_stats("in")]  # fmt: skip
    threads = [threading.Thread(target=worker, args=[c]) for c in calls]
    for thread in threads:
        thread.start()
    time.sleep(1)
    node.close()
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert problems == []
    del node, calls, threads, thread, sample
    assert play.live("nodes") == 0 and play.live("samples") == 0


@played
def test_one_thread_sends_a_sample_that_another_is_sending():
    node = tidegate.Node()
    play.lib.fake_hold_sends(True)
    sample = node.alloc_output("out", 3)
    thread = threading.Thread(target=sample.send)
    thread.start()
    while play.lib.fake_live(b"waits") < 1:
        time.sleep(0.001)
    raises(BufferError, sample.send)
    raises(BufferError, memoryview, sample)
    raises(BufferError, sample.discard)
    play.lib.fake_hold_sends(False)
    thread.join(10)
    assert len(play.sent()) == 1 and play.live("samples") == 0


@played
def test_who_handles_a_signal_may_not_use_the_sample_whose_sending_it_interrupts():
    node = tidegate.Node()
    play.lib.fake_hold_sends(True)
    sample = node.alloc_output("out", 3)
    refused = []

    def handle(*args):
        refused.extend(raises(BufferError, call) for call in [lambda: memoryview(sample), sample.discard, sample.send])
        play.lib.fake_hold_sends(False)

    def interrupt():
        while play.lib.fake_live(b"waits") < 1:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    signal.signal(signal.SIGALRM, handle)
    thread = threading.Thread(target=interrupt)
    thread.start()
    sample.send()
    thread.join(10)
    assert len(refused) == 3 and all("already sent" in str(e) for e in refused)
    assert len(play.sent()) == 1 and play.live("samples") == 0
