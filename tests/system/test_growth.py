# SPDX-License-Identifier: Apache-2.0
"""Pools that grow: with a burst, to a bound, and across the deaths of supervisor, guard and reader."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import MARK, eventually
from daemon import plan
from survive import node, restarting

SENDER = """
import os, sys, tidegate

wanted, node, i = sys.argv[1], tidegate.Node(), 0
for event in node:
    if event.type == "INPUT":
        size = int(open(wanted).read())
        node.send_output("out", i.to_bytes(8, "little") + bytes([i % 251]) * size)
        i += 1
"""
TICK = {"id": "tick", "line": 1, "source": {"timer_ns": 5_000_000}, "queue_size": 10, "queue_policy": "drop_oldest", "input_timeout_ns": 0}
READER = """
import sys, tidegate

log = open(sys.argv[1], "a", buffering=1)
for event in tidegate.Node():
    if event.type == "INPUT":
        data = memoryview(event.data)
        i, size = int.from_bytes(data[:8], "little"), len(data) - 8
        good = bytes(data[8:]) == bytes([i % 251]) * size
        print(i, size if good else "torn", file=log)
"""


def report(run, node):
    return json.loads(re.findall(rf"^\[{node}\] (\{{.*\}})$", run.output(), re.MULTILINE)[-1])


def flood_and_tally(build, n, size, slow_us, pool=None, policy="drop_oldest", queue_size=10):
    memory = {"shared_memory_pool_size": pool} if pool else {}
    nodes = build / "tests/system"
    return {"nodes": [
        {"id": "flood", "path": f"{nodes}/flood", "args": f"{n} {size}", "outputs": ["out"], **memory},
        {"id": "tally", "path": f"{nodes}/tally", "args": f"{slow_us}",
         "inputs": {"in": {"source": "flood/out", "queue_policy": policy, "queue_size": queue_size}}},
    ]}  # fmt: skip


def test_a_burst_that_the_first_segment_cannot_hold_is_not_dropped_for_want_of_memory(build, dataflow, run_tidegate):
    run = run_tidegate("run", dataflow(flood_and_tally(build, 200, 900_000, 5000)))
    assert report(run, "flood") == {"sent": 200, "refused": 0}
    got = report(run, "tally")
    assert got["dropped_pool"] == 0 and got["dropped_queue"] > 0 and got["delivered"] + got["dropped_queue"] == 200
    assert "shared_memory_pool_size" not in run.output()


def test_a_message_larger_than_the_first_segment_passes_by_default(build, dataflow, run_tidegate):
    run = run_tidegate("run", dataflow(flood_and_tally(build, 6, 20_000_000, 0, policy="backpressure")))
    got = report(run, "tally")
    assert got["delivered"] == got["messages"] == 6 and got["gaps"] == 0


def test_past_its_bound_messages_are_dropped_and_counted_and_it_is_said_once(build, dataflow, run_tidegate):
    run = run_tidegate("run", dataflow(flood_and_tally(build, 300, 900_000, 2000, pool="6 MB")))
    got = report(run, "tally")
    assert got["dropped_pool"] > 0 and got["dropped_invalid"] == 0
    assert got["delivered"] + got["dropped_queue"] + got["dropped_pool"] == report(run, "flood")["sent"]
    (said,) = re.findall(r"^.*the pool of output out is full at .*$", run.output(), re.MULTILINE)
    assert "shared_memory_pool_size: 6.0 MiB" in said or "shared_memory_pool_size: 5.7 MiB" in said
    assert said.endswith("messages are dropped (pool), and counted") and "flood" in said


def test_a_message_that_no_segment_can_hold_is_refused_with_the_figures_and_the_keys(build, dataflow, run_tidegate):
    run = run_tidegate("run", dataflow(flood_and_tally(build, 2, 20_000_000, 0, pool="6 MB")), status=None)
    (said,) = re.findall(r"^.*the pool of output out is full at .*$", run.output(), re.MULTILINE)
    assert re.search(r"at 4\.0 MiB and may not grow to hold 20000000 bytes more \(shared_memory_pool_size: 6\.0 MiB\)", said), said
    assert re.search(r"refused, for no segment holds more than 4\.0 MiB \(expected_message_size makes room beforehand\)", said), said
    assert "larger than what a segment of the output's pool can hold" in run.output()


def test_a_lossless_consumer_without_memory_for_what_a_pool_grows_by_says_that_it_is_its_own(build, dataflow, run_tidegate):
    graph = flood_and_tally(build, 6, 20_000_000, 0, policy="backpressure")
    tally = graph["nodes"][1]
    tally["args"] = f"-c 'ulimit -v 60000 && exec {tally['path']} 0'"
    tally["path"] = "/bin/sh"
    run = run_tidegate("run", dataflow(graph))
    assert report(run, "flood") == {"sent": 6, "refused": 0}, "who lets go of a link holds up nobody"
    got = report(run, "tally")
    assert got["messages"] < 6 and got["gaps"] == 0 and got["dropped_pool"] > 0 and got["dropped_invalid"] == 0
    (said,) = re.findall(r"^.*let go of flood/out -> tally/in: .*$", run.output(), re.MULTILINE)
    assert "it has no memory for a segment that the producer's pool has grown by" in said
    assert "broke the protocol" not in run.output()


def test_past_its_bound_a_lossless_sender_waits(build, dataflow, run_tidegate):
    run = run_tidegate("run", dataflow(flood_and_tally(build, 40, 900_000, 500, pool="6 MB", policy="backpressure")))
    got = report(run, "tally")
    assert got["delivered"] == 40 and got["gaps"] == 0
    (said,) = re.findall(r"^.*the pool of output out is full at .*$", run.output(), re.MULTILINE)
    assert said.endswith("send waits for its readers")


class Stream:
    """Messages whose size the test chooses, under backpressure, to a reader that is started again when it dies."""

    def __init__(self, daemon, directory, more=(), **keys):
        self.daemon, self.wanted, self.log = daemon, directory / "wanted", directory / "log"
        for name, text in (("sender.py", SENDER), ("reader.py", READER)):
            (directory / name).write_text(text)
        self.want(1000)
        python = daemon.env["TIDEGATE_PYTHON"]
        graph = plan(
            {**node("sender", [python, directory / "sender.py", self.wanted], outputs=["out"], **{"pool_size": 0, **keys}), "inputs": [TICK]},
            node("reader", [python, directory / "reader.py", self.log], inputs=[("in", "sender", "out")], restart=restarting()),
            *more,
        )
        environment = [f"{k}={v}" for k, v in daemon.env.items() if k in ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH") or k.startswith("TIDEGATE_TEST")]
        daemon.talk("Start", plan=graph, environment=environment, grace_ms=1000, budget_ms=1000)

    def want(self, size):
        new = self.wanted.with_suffix(".new")
        new.write_text(str(size))
        os.replace(new, self.wanted)

    def seen(self):
        """(number, size) of each message, in the order in which they came."""
        text = self.log.read_text() if self.log.exists() else ""
        return [tuple(map(int, line.split())) for line in text[: text.rfind("\n") + 1].splitlines()]

    def until(self, size, seconds=20):
        self.want(size)
        n = len(self.seen())
        found = eventually(lambda: [s for s in self.seen()[n:] if s[1] == size][3:], seconds)
        assert found, f"no message of {size} bytes came\n{self.daemon.output()}"

    def is_whole(self, lives=1):
        """Nothing is missing and nothing comes twice, but for what a reader had in its hands when it was killed."""
        numbers = [i for i, _ in self.seen()]
        gaps = [b - a for a, b in zip(numbers, numbers[1:]) if b != a + 1]
        return len(gaps) < lives and all(gap == 2 for gap in gaps)

    def memfds(self):
        folder, found = f"/proc/{self.daemon.parts('supervisor')[0]}/fd", []
        for fd in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed since: a client's who has hung up
                if "/memfd:tidegate-pool" in os.readlink(f"{folder}/{fd}"):
                    found.append(os.stat(f"{folder}/{fd}"))
        return found

    def segments(self):
        """Bytes of each segment of the sender's pool: what the supervisor holds."""
        return [st.st_size for st in self.memfds()]

    def n_segments(self):
        return len(self.segments())

    def kill_reader(self):
        pid = self.daemon.pids()["flow", "reader"]
        self.daemon.send_to(pid, 9)
        assert eventually(lambda: self.daemon.pids().get(("flow", "reader"), pid) != pid, 20), self.daemon.output()


def test_room_for_three_of_the_expected_size_is_there_from_the_beginning(survivor, tmp_path):
    stream = Stream(survivor(), tmp_path, expected_message=9_000_008)
    stream.until(1000)
    (size,) = stream.segments()
    assert 3 * 9_000_008 < size < 4 * 9_000_008 + (4 << 20)
    stream.until(9_000_000)


VIEWER = """
import sys, tidegate

node = tidegate.Node("viewer")
print("in", flush=True)
for event in node:
    if event.type == "INPUT" and len(event.data) > 1_000_000:
        data = memoryview(event.data)
        print(len(data) - 8, bytes(data[8:]) == bytes([int.from_bytes(data[:8], "little") % 251]) * (len(data) - 8), flush=True)
        break
"""


def test_who_was_started_by_hand_after_it_had_grown_reads_it_too(survivor, tmp_path):
    viewer = {**node("viewer", [], inputs=[("in", "sender", "out")]), "kind": "dynamic", "capture": False}
    stream = Stream(survivor(), tmp_path, more=[viewer])
    stream.until(3_000_000)
    env = {**stream.daemon.env, "TIDEGATE_NODE_SOCKET": str(stream.daemon.runtime / "node.sock")}
    by_hand = subprocess.run([env["TIDEGATE_PYTHON"], "-c", VIEWER], env=env, stdout=subprocess.PIPE, text=True, timeout=20, check=True)
    assert by_hand.stdout == "in\n3000000 True\n"
    assert stream.is_whole(), stream.seen()


@pytest.mark.parametrize("whom", ["supervisor", "guard"])
def test_a_grown_pool_outlives_them(whom, survivor, tmp_path):
    stream = Stream(survivor(), tmp_path)
    stream.until(3_000_000)
    before = stream.n_segments()
    assert before >= 2
    stream.daemon.send(whom)
    stream.until(3_000_001)
    assert eventually(lambda: len(stream.daemon.parts("supervisor")) == 1 and stream.daemon.talk("GetHealth"), 10)
    stream.kill_reader()  # its heir has to be told of segments that the dead supervisor made
    stream.until(3_000_002)
    stream.until(9_000_000)  # and there are more to come
    assert eventually(lambda: stream.n_segments() > before, 5)
    assert stream.is_whole(lives=2), stream.seen()


def test_a_grown_pool_grows_on_when_supervisor_and_guard_die_together(survivor, tmp_path):
    """The next daemon has none of its segments, and gives no other one the number of one that the reader has."""
    stream = Stream(survivor(), tmp_path)
    stream.until(3_000_000)
    stream.until(1000)  # for which it need not grow meanwhile
    stream.daemon.kill_both()
    stream.daemon.again()
    stream.daemon.wait_until_ready()
    stream.daemon.until_adopted(1)
    assert stream.n_segments() == 0
    stream.until(9_000_000)
    assert stream.n_segments() >= 1
    for id in ("sender", "reader"):
        now = stream.daemon.nodes()["flow", id]
        assert (now["state"], now["generation"], now.get("violations")) == ("running", 1, None), f"{now}\n{stream.daemon.output()}"
    assert stream.is_whole(), stream.seen()


def test_a_pool_that_grows_waits_for_a_reader_that_has_not_come_back_yet(survivor, tmp_path):
    """It cannot be told of the new segment: what lay in there it would have to take for lost, or for something else."""
    stream = Stream(survivor(), tmp_path)
    stream.until(3_000_000)
    reader = stream.daemon.pids()["flow", "reader"]
    stream.daemon.send_to(reader, signal.SIGSTOP)
    stream.daemon.kill_both()
    stream.daemon.again()
    stream.daemon.wait_until_ready()
    stream.want(9_000_000)
    assert eventually(lambda: any(st.st_blocks * 512 >= st.st_size for st in stream.memfds()), 10), "the sender has it"
    time.sleep(0.05)  # it would be used now
    stream.daemon.send_to(reader, signal.SIGCONT)
    stream.until(9_000_000)
    for id in ("sender", "reader"):
        now = stream.daemon.nodes()["flow", id]
        assert (now["state"], now["generation"], now.get("violations")) == ("running", 1, None), f"{now}\n{stream.daemon.output()}"
    assert stream.is_whole(), stream.seen()


def test_past_its_bound_sizes_change_on_also_when_supervisor_and_reader_die(survivor, tmp_path):
    """What was cut for messages of 1.9 MB holds one of 3.5 MB, and those again: no chunk of the pool was made for it."""
    stream = Stream(survivor(), tmp_path, pool_size=8_000_000)
    stream.until(1_900_000)
    before = sorted(stream.segments())
    stream.until(3_500_000)
    assert sum(before) > 7_900_000 and sorted(stream.segments()) == before, "it was full already"
    stream.daemon.send("supervisor")
    stream.until(1_900_001)
    stream.until(3_500_001)
    stream.kill_reader()
    stream.until(1_900_002)
    stream.until(3_500_002)
    assert eventually(lambda: sorted(stream.segments()) == before, 5)
    assert stream.is_whole(lives=2), stream.seen()


def test_the_death_of_a_supervisor_in_the_middle_of_growing_loses_nothing(survivor, tmp_path):
    stream = Stream(survivor(), tmp_path)
    stream.until(1000)
    for size in (2_000_000, 5_000_000, 11_000_000):
        stream.want(size)
        time.sleep(0.003)  # any moment will do
        stream.daemon.send("supervisor")
        stream.until(size)
    assert stream.is_whole(), stream.seen()


GREEDY = """
import os, socket, struct, sys, tidegate

output, size, n = map(int, sys.argv[1:])
node = tidegate.Node()
node.send_output("out", b"x")
with socket.socket(fileno=os.dup(int(os.environ["TIDEGATE_NODE_FD"]))) as s:
    s.setblocking(True)
    for i in range(n):
        s.send(struct.pack("<BIQ", 9, output, size))  # GROW
for event in node:
    pass
"""


@pytest.mark.parametrize(
    "output,size,n,says",
    [
        (0, 1 << 20, 257, "wants the pool of output out to grow without end"),
        (7, 4096, 1, "wants a pool to grow that it does not have"),
        (0, 1 << 30, 20, None),  # more than there can be: refused, again and again, and no harm
    ],
)
def test_who_asks_without_end_or_for_what_it_has_not_is_given_up_alone(output, size, n, says, start_daemon, node_environment, traces, tmp_path):
    daemon = start_daemon()
    (tmp_path / "greedy.py").write_text(GREEDY)
    (tmp_path / "reader.py").write_text(READER)
    python = node_environment["TIDEGATE_PYTHON"]
    graph = plan(
        node("greedy", [python, tmp_path / "greedy.py", output, size, n], outputs=["out"], pool_size=0),
        node("reader", [python, tmp_path / "reader.py", tmp_path / "log"], inputs=[("in", "greedy", "out")]),
    )
    environment = [f"{k}={node_environment[k]}" for k in ("LD_LIBRARY_PATH", "PYTHONPATH")] + [f"{MARK}={traces.mark}"]
    daemon.call("Start", plan=graph, environment=environment, grace_ms=500, budget_ms=1000)
    if says:
        assert eventually(lambda: says in (daemon.status("flow")["nodes"][0].get("error") or ""), 20), daemon.output()
        assert eventually(lambda: daemon.status("flow")["nodes"][1]["state"] == "stopped", 20), "its reader ended in order"
    else:
        assert eventually(lambda: "the pool of output out is full" in daemon.log.read_text(), 20), daemon.output()
        assert [n["state"] for n in daemon.status("flow")["nodes"]] == ["running", "running"]
        assert daemon.log.read_text().count("the pool of output out is full") == 1
