# SPDX-License-Identifier: Apache-2.0
"""Backpressure across the lives of a reader, in a daemon: an operator restarts and stops it, and supervisors die meanwhile."""

import signal
import struct

import pytest
from conftest import eventually
from daemon import plan
from lives import Process
from survive import Seen, node, restarting

SLOWLY = 20000  # microseconds that the reader looks at each message: when it is killed, then while it does


class Scene:
    """count, whose numbers `check` must get without a gap whatever happens to it; `look` only shows that they flow."""

    def __init__(self, daemon, build, directory, us=100, **keys):
        self.daemon, self.seen, self.flow = daemon, Seen(directory / "seen"), Seen(directory / "flow")
        nodes = build / "tests/system"
        look = node("look", [nodes / "check", self.flow.file, 10], inputs=[("in", "count", "out")])
        look["inputs"][0]["queue_policy"] = "drop_oldest"
        kept = [k for k in daemon.env if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
        daemon.talk("Start", plan=plan(
            node("count", [nodes / "count"], outputs=["out"]),
            node("check", [nodes / "check", self.seen.file, us], inputs=[("in", "count", "out")], **keys),
            look,
            name="flow",
        ), environment=[f"{k}={daemon.env[k]}" for k in kept], grace_ms=2000, budget_ms=1000)  # fmt: skip
        assert self.seen.until_more(n=5, seconds=20), daemon.output()

    def node(self, id="check"):
        return self.daemon.nodes()["flow", id]

    def is_in(self, state, generation=None, seconds=20):
        def so():
            node = self.node()
            return node["state"] == state and generation in (None, node["generation"])

        assert eventually(so, seconds), f"{self.node()}\n{self.daemon.output()}"

    def kill_reader(self):
        process = Process(self.node()["pid"])
        process.send(signal.SIGKILL)
        process.close()

    def reads_on(self, n=5, n_killed=0):
        """Without a gap; but each that was killed may have had one message in its hands that it had not noted yet."""
        assert self.seen.until_more(n, seconds=20), self.daemon.output()
        messages, _, expects = struct.unpack("=QQQ", self.seen.file.read_bytes())
        assert expects - messages <= n_killed + 1, self.daemon.output()  # one: looked at while it notes one
        assert self.seen.wrong() <= n_killed, self.daemon.output()

    def flows_on(self):
        assert self.flow.until_more(100, seconds=20), f"{self.node('count')}\n{self.daemon.output()}"

    def stop(self):
        (result,) = self.daemon.talk("Stop", seconds=20, dataflow="flow")["results"]
        assert result["left"] == 0


@pytest.fixture
def scene(survivor, build, tmp_path):
    return lambda **keys: Scene(survivor(), build, tmp_path, **keys)


def test_a_reader_that_the_operator_restarts_misses_nothing(scene):
    s = scene()  # its policy is never: nobody could expect it
    for generation in range(2, 7):
        s.daemon.talk("RestartNode", dataflow="flow", node="check")
        s.is_in("running", generation)
        s.reads_on(50)
    s.stop()


def test_a_reader_that_is_killed_and_comes_again_misses_nothing(scene):
    s = scene(us=SLOWLY, restart=restarting(delay=0.2))
    for generation in range(2, 5):
        s.kill_reader()
        s.is_in("running", generation)
        s.reads_on(n_killed=generation - 1)
    s.stop()


def test_a_source_goes_on_when_the_reader_that_it_waits_for_is_stopped(scene):
    s = scene(us=SLOWLY, restart=restarting(delay=600.0))
    s.kill_reader()
    s.is_in("backoff")
    s.daemon.talk("StopNode", dataflow="flow", node="check")
    s.is_in("stopped")
    s.flows_on()
    s.stop()


def test_a_reader_that_was_stopped_and_is_started_again_counts_what_it_missed(scene):
    s = scene(restart=restarting())
    s.daemon.talk("StopNode", dataflow="flow", node="check")
    s.flows_on()
    s.daemon.talk("RestartNode", dataflow="flow", node="check")
    s.is_in("running", 2)
    assert s.seen.until_more(50, seconds=20)
    assert s.seen.wrong() > 0, "nobody kept its place"
    s.stop()


@pytest.mark.parametrize("first", ["reader", "supervisor"])
def test_a_supervisor_that_dies_with_the_reader_leaves_its_place_to_the_heir(first, scene):
    s = scene(us=SLOWLY, restart=restarting(delay=0.2))
    for n in range(1, 4):
        reader = Process(s.node()["pid"])
        for role in (first, *{"reader", "supervisor"} - {first}):
            if role == "reader":
                reader.send(signal.SIGKILL)
            else:
                s.daemon.send("supervisor")
        reader.close()
        s.daemon.until_adopted(n)
        s.is_in("running", n + 1)
        s.reads_on(n_killed=n)
    s.stop()


def test_a_supervisor_that_dies_before_its_verdict_leaves_it_to_the_next_one(scene):
    s = scene(us=SLOWLY, restart=restarting(max_restarts=1, delay=0.0))
    s.kill_reader()
    s.is_in("running", 2)
    s.reads_on(n_killed=1)
    reader = Process(s.node()["pid"])
    pid = s.daemon.send("supervisor", signo=signal.SIGSTOP)[0]
    reader.send(signal.SIGKILL)
    reader.close()
    s.daemon.send_to(pid, signal.SIGKILL)
    s.daemon.until_adopted(1)
    s.is_in("failed")
    s.flows_on()
    s.stop()
