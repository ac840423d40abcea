# SPDX-License-Identifier: Apache-2.0
"""Backpressure across the lives of a reader, in a daemon: an operator restarts and stops it, supervisors and guards die meanwhile.

Nothing is missing and nothing comes twice, with one exception that no supervisor could make up for. A message is given to a program, and the program does
something about it: these are two stores in two memories, and SIGKILL may come between them. Whichever is the first, the heir cannot know whether the second
one was made; a place that moved after it would bring messages twice. Ours moves first, so a message that a reader was given is nobody else's (README, Known
limits). `check` says of itself when it may have one in its hands that it has not noted: a death at another moment costs nothing, and is allowed nothing.
"""

import select
import signal

import pytest
from conftest import eventually
from daemon import plan
from lives import Process, status_field
from survive import Seen, node, restarting

SLOWLY = 20000  # microseconds that the reader looks at each message: when it is killed, then while it does


class Scene:
    """count, whose numbers `check` must get without a gap whatever happens to it; `look` only shows that they flow."""

    def __init__(self, daemon, build, directory, us=100, reader=None, **keys):
        self.daemon, self.seen, self.flow, self.in_hands = daemon, Seen(directory / "seen"), Seen(directory / "flow"), 0
        nodes = build / "tests/system"
        look = node("look", [nodes / "check", self.flow.file, 10], inputs=[("in", "count", "out")])
        look["inputs"][0]["queue_policy"] = "drop_oldest"
        kept = [k for k in daemon.env if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
        daemon.talk("Start", plan=plan(
            node("count", [nodes / "count"], outputs=["out"]),
            node("check", reader or [nodes / "check", self.seen.file, us], inputs=[("in", "count", "out")], **keys),
            look,
            name="flow",
        ), environment=[f"{k}={daemon.env[k]}" for k in kept], grace_ms=2000, budget_ms=1000)  # fmt: skip
        assert (self.flow if reader else self.seen).until_more(n=5, seconds=20), daemon.output()
        self.source = self.node("count")["pid"]

    def node(self, id="check"):
        return self.daemon.nodes()["flow", id]

    def is_in(self, state, generation=None, seconds=20):
        def so():
            node = self.node()
            return node["state"] == state and generation in (None, node["generation"])

        assert eventually(so, seconds), f"{self.node()}\n{self.daemon.output()}"

    def kill_reader(self, *roles):
        """And these parts of the daemon, in this order, in which "reader" is one."""
        reader = Process(self.node()["pid"])
        for role in roles or ("reader",):
            if role == "reader":
                reader.send(signal.SIGKILL)
            else:
                self.daemon.send(role)
        assert select.select([reader.fd], [], [], 20)[0]
        reader.close()
        self.in_hands += self.seen.all()[3]

    def reads_on(self, n=5):
        """Without a gap and without a repetition, but for what was in the hands of one that was killed."""
        assert self.seen.until_more(n, seconds=20), self.daemon.output()
        messages, wrong, expects, _ = self.seen.all()
        assert 0 <= expects - messages <= self.in_hands + 1, self.daemon.output()  # one: looked at while it notes one
        assert wrong <= self.in_hands, self.daemon.output()

    def flows_on(self):
        assert self.flow.until_more(100, seconds=20), f"{self.node('count')}\n{self.daemon.output()}"

    def has_come_back(self, id):
        text = f"node {id} of flow has come back by name"
        assert eventually(lambda: text in self.daemon.output(), 20), self.daemon.output()

    def looks_in_vain(self):
        """The source has looked for room fifty times more: it sleeps before each."""
        before = int(status_field(self.source, "voluntary_ctxt_switches"))
        assert eventually(lambda: int(status_field(self.source, "voluntary_ctxt_switches")) > before + 50, 20)

    def stop(self):
        (result,) = self.daemon.talk("Stop", seconds=20, dataflow="flow")["results"]
        assert result["left"] == 0


@pytest.fixture
def scene(survivor, build, tmp_path):
    return lambda env=None, **keys: Scene(survivor(env=env), build, tmp_path, **keys)


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
        s.reads_on()
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


@pytest.mark.sanitized
@pytest.mark.parametrize("roles", [("reader", "supervisor"), ("supervisor", "reader")], ids=["reader", "supervisor"])
def test_a_supervisor_that_dies_with_the_reader_leaves_its_place_to_the_heir(roles, scene):
    s = scene(us=SLOWLY, restart=restarting(delay=0.2))
    for n in range(1, 4):
        s.kill_reader(*roles)
        s.daemon.until_adopted(n)
        s.is_in("running", n + 1)
        s.reads_on()
    s.stop()


def test_a_supervisor_that_dies_before_its_verdict_leaves_it_to_the_next_one(scene):
    s = scene(us=SLOWLY, restart=restarting(max_restarts=1, delay=0.0))
    s.kill_reader()
    s.is_in("running", 2)
    s.reads_on()
    reader = Process(s.node()["pid"])
    pid = s.daemon.send("supervisor", signo=signal.SIGSTOP)[0]
    reader.send(signal.SIGKILL)
    reader.close()
    s.daemon.send_to(pid, signal.SIGKILL)
    s.daemon.until_adopted(1)
    s.is_in("failed")
    s.flows_on()
    s.stop()


def test_a_verdict_that_a_supervisor_took_with_it_is_given_again(scene, build, tmp_path):
    """All that it did was written down, and its DETACH was still waiting for room in the producer's socket."""
    withhold = tmp_path / "withhold"
    s = scene(
        us=SLOWLY,
        restart=restarting(max_restarts=1, delay=0.0),
        env={"LD_PRELOAD": str(build / "tests/system/libwithhold.so"), "TIDEGATE_WITHHOLD": str(withhold)},
    )
    s.kill_reader()
    s.is_in("running", 2)
    s.reads_on()
    withhold.touch()
    s.kill_reader()
    s.is_in("failed")
    supervisor = Process(s.daemon.send("supervisor", signo=signal.SIGSTOP)[0])
    s.looks_in_vain()
    withhold.unlink()
    supervisor.send(signal.SIGKILL)
    supervisor.close()
    s.daemon.until_adopted(1)
    s.flows_on()
    s.stop()


def test_a_reader_that_comes_back_after_its_source_when_both_died_has_kept_its_link(scene):
    """The next daemon has the producer's word before the reader's, who is alive."""
    s = scene(us=1000, restart=restarting())
    reader = Process(s.node()["pid"])
    reader.send(signal.SIGSTOP)
    s.daemon.send("guard", "supervisor")
    s.daemon.again()
    s.daemon.wait_until_ready()
    s.daemon.until_adopted(1)
    s.has_come_back("count")
    s.looks_in_vain()
    reader.send(signal.SIGCONT)
    reader.close()
    s.has_come_back("check")
    s.reads_on(50)
    s.flows_on()
    assert s.node()["generation"] == 1
    s.stop()


def test_a_reader_that_left_and_lives_on_keeps_no_place_when_both_die(scene, build):
    """Nobody of the next daemon has seen it leave, and it never comes back by name."""
    s = scene(reader=[build / "tests/system/mortal", 50, 9, "stay"], restart=restarting("always"))
    pid = s.node()["pid"]
    assert eventually(lambda: status_field(pid, "Name") == "left", 20)
    s.daemon.send("guard", "supervisor")
    s.daemon.again()
    s.daemon.wait_until_ready()
    s.daemon.until_adopted(1)
    s.has_come_back("count")
    s.flows_on()
    assert s.node()["generation"] == 1
    s.stop()
