# SPDX-License-Identifier: Apache-2.0
"""Nodes in Python on the real thing: library, supervisor and shared memory."""

import re
import signal
import textwrap

import pytest
from conftest import ROOT, eventually


def printed(run, node):
    return re.findall(rf"^\[{node}\] (.*)$", run.output(), re.MULTILINE)


@pytest.fixture
def flow(dataflow, run_tidegate, tmp_path):
    """Run nodes given as {id: (source text, further keys)}; returns the Run."""

    def run(nodes, *args, **kwargs):
        described = []
        for id, (text, keys) in nodes.items():
            path = tmp_path / f"{id}.py"
            path.write_text(textwrap.dedent(text))
            described.append({"id": id, "path": str(path), **keys})
        return run_tidegate("run", dataflow({"nodes": described}), *args, **kwargs)

    return run


def lossless(source, **keys):
    return {"source": source, "queue_policy": "backpressure", **keys}


EVERYTHING = """
    import numpy

    METADATA = {
        "bool": True, "int": -(2**63), "float": 0.1, "str": "grün\\n", "ints": [1, -2, 2**63 - 1], "floats": [1.5, -0.0, 1e300],
        "strs": ["", "a", "ö" * 100], "none": [], "k" * 256: 1, "x" * 40: "y" * 60000,
    }
    SIZES = [0, 1, 7, 191, 192, 193, 1000, 4095, 4096, 4097, 65536, 250000]

    def payload(n):
        return numpy.random.default_rng(n).integers(0, 256, n, numpy.uint8)
"""


@pytest.mark.sanitized
def test_every_size_and_type_arrives_as_it_was_sent(flow):
    sender = EVERYTHING + """
    import tidegate

    with tidegate.Node() as node:
        assert node.outputs == ("out",) and node.inputs == () and node.node_id == "sender" and node.restart_count() == 0
        for n in SIZES:
            node.send_output("out", payload(n), METADATA | {"n": n})
            with node.alloc_output("out", n) as sample:
                numpy.frombuffer(sample, numpy.uint8)[:] = payload(n)
                sample.send({"n": n, "in place": True})
            node.fill_output("out", lambda out: numpy.copyto(out, payload(n)), n, "uint8", {"n": n, "in place": True})
        node.send_batch("out", [(payload(n), METADATA | {"n": n}) for n in SIZES])
    """
    receiver = EVERYTHING + """
    import datetime, tidegate

    node = tidegate.Node()
    seen = []
    for event in node:
        if event.type != "INPUT":
            continue
        metadata = dict(event.metadata)
        n, age = metadata.pop("n"), datetime.datetime.now(datetime.timezone.utc) - metadata.pop("timestamp")
        assert 0 <= age.total_seconds() < 60
        assert metadata == ({"in place": True} if "in place" in metadata else METADATA)
        assert numpy.array_equal(numpy.frombuffer(event.data, numpy.uint8), payload(n)), n
        assert event.seq == len(seen)
        seen.append(n)
    assert seen == [n for n in SIZES for _ in range(3)] + SIZES
    assert node.input_stats("in") == {
        "delivered": len(seen), "dropped_queue": 0, "dropped_pool": 0, "dropped_source": 0, "dropped_invalid": 0}
    print("all right")
    """
    run = flow({"sender": (sender, {"outputs": ["out"]}), "receiver": (receiver, {"inputs": {"in": lossless("sender/out")}})})
    assert printed(run, "receiver") == ["all right"]


def test_batches_are_the_same_messages_and_hold_them(flow):
    sender = """
    import tidegate

    with tidegate.Node() as node:
        for i in range(3000):
            node.send_output("out", b"%d " % i * (1 + i % 90), {"n": i})
    """
    receiver = """
    import tidegate

    node, kept, n, kinds, sizes = tidegate.Node(), [], 0, [], set()
    for events in node.batches(limit=50):
        assert 1 <= len(events) <= 50
        sizes.add(len(events))
        for event in events:
            kinds.append(event.type)
            if event.type == "INPUT":
                assert event.metadata["n"] == event.seq == n and event.data == b"%d " % n * (1 + n % 90)
                n += 1
        kept += events[-1:]
    assert n == 3000 and kinds[3000:] == ["INPUT_CLOSED", "STOP"] and max(sizes) > 1, sizes
    for event in kept:
        assert event.type != "INPUT" or event.data == b"%d " % event.seq * (1 + event.seq % 90)
    print("all right")
    """
    run = flow({"sender": (sender, {"outputs": ["out"]}), "receiver": (receiver, {"inputs": {"in": lossless("sender/out")}})})
    assert printed(run, "receiver") == ["all right"]


def test_the_node_of_the_readme_inverts_what_it_gets(flow):
    (readme,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    both = """
    import numpy, tidegate

    image = numpy.arange(100_000, dtype=numpy.uint8)
    node = tidegate.Node()
    """
    run = flow({
        "camera": (both + "node.send_output('image', image)\n", {"outputs": ["image"]}),
        "readme": (readme, {"inputs": {"image": lossless("camera/image")}, "outputs": ["inverted"]}),
        "viewer": (both + "print(bytes(node.next().data) == bytes(255 - image))\n", {"inputs": {"inverted": lossless("readme/inverted")}}),
    })  # fmt: skip
    assert printed(run, "viewer") == ["True"]


COUNTER = """
    import tidegate

    with tidegate.Node() as node:
        for i in range({n}):
            node.send_output("out", i.to_bytes(8, "little") * {words})
"""


IN_PLACE = """
    import numpy, resource, tidegate

    SIZE, WARM, COUNT = 4_000_000, 10, 30

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def mode(array):
        for line in open("/proc/self/maps"):
            span, mode, *_ = line.split()
            low, high = (int(x, 16) for x in span.split("-"))
            if low <= array.ctypes.data and array.ctypes.data + array.nbytes <= high:
                return mode
"""


def test_a_large_message_is_written_and_read_in_place_in_memory_that_was_written_before(flow):
    """What is counted: pages. A copy into an array of its own would touch 1 000 with each message, and so would a pool that goes round."""
    writer = IN_PLACE + """
    with tidegate.Node() as node:
        places = set()
        for i in range(COUNT):
            if i == WARM:
                before = faults()
            sample = node.alloc_output("out", SIZE)
            view = numpy.frombuffer(sample, numpy.uint8)
            view[:] = i
            places.add(view.ctypes.data)
            if i == WARM - 1:
                print(mode(view))
            del view
            sample.send()
            node.next()  # it was read
        print(len(places) <= 3, faults() - before < 100)
    """
    reader = IN_PLACE + """
    with tidegate.Node() as node:
        for i in range(COUNT):
            if i == WARM:
                before = faults()
            view = numpy.frombuffer(node.next().data, numpy.uint8)
            assert view[0] == i and view[-1] == i and view.nbytes == SIZE
            if i == WARM - 1:
                print(mode(view))
            del view
            node.send_output("read")
        print(faults() - before < 100)
    """
    run = flow({
        "writer": (writer, {"outputs": ["out"], "inputs": {"read": lossless("reader/read")}}),
        "reader": (reader, {"outputs": ["read"], "inputs": {"out": lossless("writer/out")}}),
    })  # fmt: skip
    assert printed(run, "writer") == ["rw-s", "True True"]
    assert printed(run, "reader") == ["r--s", "True"]


@pytest.mark.parametrize("words", [1, 500])
def test_more_messages_can_be_held_than_are_pinned(words, flow):
    holder = f"""
    import tidegate

    held = []
    for event in tidegate.Node():
        if event.type == "INPUT":
            held.append(event.data)
    for i, data in enumerate(held):
        assert data == i.to_bytes(8, "little") * {words}, i
    print(len(held), "held")
    """
    run = flow({
        "sender": (COUNTER.format(n=300, words=words), {"outputs": ["out"]}),
        "holder": (holder, {"inputs": {"in": lossless("sender/out")}}),
    })  # fmt: skip
    assert printed(run, "holder") == ["300 held"]


def test_asyncio_node_hears_two_senders_and_a_timer(flow):
    listener = """
    import asyncio, collections, tidegate

    async def main():
        heard, ticks = collections.defaultdict(list), 0
        with tidegate.Node() as node:
            async for event in node:
                if event.type == "INPUT" and event.id == "tick":
                    ticks += 1
                elif event.type == "INPUT":
                    heard[event.id].append(int.from_bytes(event.data, "little"))
        assert dict(heard) == {"a": list(range(500)), "b": list(range(500))}, heard
        print("heard both,", "with ticks" if ticks else "without ticks")

    asyncio.run(main())
    """
    slow = COUNTER.format(n=500, words=1).replace("node.send_output", "import time; time.sleep(0.0005); node.send_output")
    run = flow({
        "a": (slow, {"outputs": ["out"]}),
        "b": (slow, {"outputs": ["out"]}),
        "listener": (listener, {"inputs": {"a": lossless("a/out"), "b": lossless("b/out"), "tick": "dora/timer/millis/20"}}),
    })  # fmt: skip
    assert printed(run, "listener") == ["heard both, with ticks"]


def test_one_thread_receives_while_another_sends(flow):
    echo = """
    import queue, threading, tidegate

    node = tidegate.Node()
    todo = queue.Queue()

    def send():
        while (event := todo.get()) is not None:
            node.send_output("back", event.data, {"seq": event.seq})

    thread = threading.Thread(target=send)
    thread.start()
    for event in node:
        if event.type == "INPUT":
            todo.put(event)
    todo.put(None)
    thread.join()
    """
    checker = """
    import tidegate

    n = 0
    for event in tidegate.Node():
        if event.type == "INPUT":
            assert event.metadata["seq"] == n and event.data == n.to_bytes(8, "little") * 100
            n += 1
    print(n, "came back")
    """
    run = flow({
        "sender": (COUNTER.format(n=1000, words=100), {"outputs": ["out"]}),
        "echo": (echo, {"inputs": {"in": lossless("sender/out")}, "outputs": ["back"]}),
        "checker": (checker, {"inputs": {"in": lossless("echo/back")}}),
    })  # fmt: skip
    assert printed(run, "checker") == ["1000 came back"]


@pytest.mark.sanitized
def test_a_stop_is_seen_without_asking_and_as_an_event(dataflow, start_tidegate, tmp_path):
    (tmp_path / "busy.py").write_text(textwrap.dedent("""
        import time, tidegate

        node = tidegate.Node()
        assert not node.should_stop and node.stop_deadline is None
        print("ready")
        while not node.should_stop:
            time.sleep(0.001)
        left = node.stop_deadline - time.monotonic()
        assert 0 < left <= 5 * 1.5 + 0.1, left
        event = node.next(timeout=5)
        print(event.type, event.id, node.next())
    """))  # fmt: skip
    node = {"id": "busy", "path": str(tmp_path / "busy.py"), "inputs": {"tick": "dora/timer/secs/60"}}
    run = start_tidegate("run", dataflow({"nodes": [node]}), "--grace-duration", "5s")
    assert eventually(lambda: printed(run, "busy") or run.process.poll() is not None, 60)
    run.process.send_signal(signal.SIGINT)
    run.wait(30)
    assert printed(run, "busy") == ["ready", "STOP MANUAL None"], run.output()


def test_forked_children_leave_the_node_alone(flow):
    forker = """
    import os, tidegate

    node = tidegate.Node()
    for i in range(50):
        pid = os.fork()
        if pid == 0:
            try:
                node.send_output("out", b"from the child")
                os._exit(3)
            except tidegate.Error:
                node.close()
                os._exit(0)
        node.send_output("out", i.to_bytes(8, "little"))
        assert os.waitpid(pid, 0)[1] == 0
    """
    counter = """
    import tidegate

    got = [int.from_bytes(e.data, "little") for e in tidegate.Node() if e.type == "INPUT"]
    assert got == list(range(50)), got
    print("all of the parent, none of the children")
    """
    run = flow({"forker": (forker, {"outputs": ["out"]}), "counter": (counter, {"inputs": {"in": lossless("forker/out")}})})
    assert printed(run, "counter") == ["all of the parent, none of the children"]


def test_signals_reach_a_node_that_waits_however_it_waits(flow):
    """A handler runs and the wait goes on, an exception of one ends it; `wait: spin` makes no system call that a signal could end."""
    node = """
    import os, signal, threading, time, tidegate

    node, handled = tidegate.Node(), []
    signal.signal(signal.SIGTERM, lambda number, frame: handled.append(time.monotonic()))
    begin = time.monotonic()

    def send():
        os.kill(os.getpid(), signal.SIGTERM)
        while not handled:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(0.3, send).start()
    try:
        node.next()
    except KeyboardInterrupt:
        print("handled and interrupted", "at once" if time.monotonic() - begin < 20 else "late")
    """
    tick = {"inputs": {"tick": "dora/timer/secs/60"}}
    modes = ["block", "adaptive", "spin"]
    run = flow({mode: (node, {"wait": mode, **tick}) for mode in modes}, timeout=30)
    assert [printed(run, mode) for mode in modes] == [["handled and interrupted at once"]] * 3


def test_sigterm_without_a_handler_ends_a_node_that_waits_however_it_waits(flow):
    node = """
    import os, signal, threading, tidegate

    node = tidegate.Node()
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    node.next()
    print("still here")
    """
    tick = {"inputs": {"tick": "dora/timer/secs/60"}}
    modes = ["block", "adaptive", "spin"]
    run = flow({mode: (node, {"wait": mode, **tick}) for mode in modes}, status=1, timeout=30)
    assert run.output().count("SIGTERM") == 3 and "still here" not in run.output(), run.output()


def test_a_full_link_holds_up_the_sender_up_to_its_timeout(flow):
    sender = """
    import time, tidegate

    node = tidegate.Node()
    node.send_timeout = 0.3
    n = 0
    try:
        while True:
            node.send_output("out", b"x")
            n += 1
    except tidegate.Timeout as e:
        print("timeout after", n)
        node.send_timeout = None
    node.send_output("out", b"last")  # waits until the reader reads
    """
    reader = """
    import time, tidegate

    node = tidegate.Node()
    time.sleep(1.5)
    got = [bytes(e.data) for e in node if e.type == "INPUT"]
    print(len(got), got[-1])
    """
    run = flow({
        "sender": (sender, {"outputs": ["out"]}),
        "reader": (reader, {"inputs": {"in": lossless("sender/out", queue_size=4)}}),
    })  # fmt: skip
    (n,) = re.findall(r"timeout after (\d+)", run.output())
    assert 4 <= int(n) <= 5
    assert printed(run, "reader") == [f"{int(n) + 1} b'last'"]


def test_a_message_that_finds_no_memory_is_refused_and_not_half_sent(flow):
    sender = """
    import tidegate

    node, sent, refused = tidegate.Node(), 0, 0
    for i in range(30):
        try:
            node.send_output("out", i.to_bytes(8, "little") * 200_000)
            sent += 1
            while node.next(timeout=10).type != "INPUT":  # it is held: what only waits in the queue would make room for the next
                pass
        except tidegate.Dropped:
            refused += 1
    print("sent", sent, "refused", refused)
    """
    hoarder = """
    import tidegate

    node, held = tidegate.Node(), []
    for event in node:
        if event.type == "INPUT":
            held.append(event)
            node.send_output("ack", b"")
    stats = node.input_stats("in")
    for event in held:
        n = int.from_bytes(event.data[:8], "little")
        assert event.data == n.to_bytes(8, "little") * 200_000
    assert [e.seq for e in held][-1] + 1 == stats["delivered"] + stats["dropped_queue"] + stats["dropped_pool"]
    print("delivered", stats["delivered"], "dropped", stats["dropped_queue"] + stats["dropped_pool"])
    """
    run = flow({
        "sender": (sender, {"outputs": ["out"], "inputs": {"ack": "hoarder/ack"}, "shared_memory_pool_size": "12MB"}),
        "hoarder": (hoarder, {"inputs": {"in": "sender/out"}, "outputs": ["ack"]}),
    }, timeout=60)  # fmt: skip
    numbers = list(map(int, re.findall(r"\d+", printed(run, "sender")[0] + printed(run, "hoarder")[0])))
    sent, refused, delivered, dropped = numbers
    assert refused > 0 and sent + refused == 30 and delivered + dropped == sent


def test_an_exception_ends_the_node_and_the_others_hear_of_it(flow):
    run = flow({
        "bad": ("import tidegate\nnode = tidegate.Node()\nnode.send_output('out', b'1')\nraise SystemExit(3)\n", {"outputs": ["out"]}),
        "other": ("import tidegate\nprint([e.type for e in tidegate.Node()])\n", {"inputs": {"in": "bad/out"}}),
    }, status=1)  # fmt: skip
    (types,) = printed(run, "other")
    assert "INPUT_CLOSED" in types and "STOP" in types
    assert "bad" in run.output()
