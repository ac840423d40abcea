# SPDX-License-Identifier: Apache-2.0
"""Backpressure across the lives of a reader, in a daemon: an operator restarts and stops it, supervisors and guards die meanwhile.

Nothing is missing and nothing comes twice, with one exception that no supervisor could make up for. A message is given to a program, and the program does
something about it: these are two stores in two memories, and SIGKILL may come between them. Whichever is the first, the heir cannot know whether the second
one was made; a place that moved after it would bring messages twice. Ours moves first, so a message that a reader was given is nobody else's (README, Known
limits). `check` says of itself when it may have one in its hands that it has not noted: a death at another moment costs nothing, and is allowed nothing.
"""

import re
import select
import signal

import pytest
from conftest import eventually
from daemon import plan
from lives import Process, status_field
from survive import Seen, node, restarting

DETACH, AWAIT = 41, 47  # NODE_MSG_*
SLOWLY = 20000  # microseconds that the reader looks at each message: when it is killed, then while it does


class Scene:
    """count, whose numbers `check` must get without a gap whatever happens to it; `look` only shows that they flow."""

    def __init__(self, daemon, build, directory, us=100, reader=None, looks=True, source={}, **keys):
        self.daemon, self.seen, self.flow = daemon, Seen(directory / "seen"), Seen(directory / "flow")
        nodes = build / "tests/system"
        look = node("look", [nodes / "check", self.flow.file, 10], inputs=[("in", "count", "out")])
        look["inputs"][0]["queue_policy"] = "drop_oldest"
        kept = [k for k in daemon.env if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
        daemon.talk("Start", plan=plan(
            node("count", [nodes / "count"], outputs=["out"], **source),
            node("check", reader or [nodes / "check", self.seen.file, us], inputs=[("in", "count", "out")], **keys),
            *([look] if looks else []),
            name="flow",
        ), environment=[f"{k}={daemon.env[k]}" for k in kept], grace_ms=2000, budget_ms=1000)  # fmt: skip
        assert (self.flow if reader else self.seen).until_more(n=5, seconds=20), daemon.output()
        self.source = self.node("count")["pid"]

    def node(self, id="check"):
        return self.daemon.nodes()["flow", id]

    def is_in(self, state, generation=None, id="check", seconds=20):
        def so():
            node = self.node(id)
            return node["state"] == state and generation in (None, node["generation"])

        assert eventually(so, seconds), f"{self.node(id)}\n{self.daemon.output()}"

    def kill(self, id):
        process = Process(self.node(id)["pid"])
        process.send(signal.SIGKILL)
        assert select.select([process.fd], [], [], 20)[0]
        process.close()

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

    def reads_on(self, n=5):
        """Without a gap and without a repetition, but for what was in the hands of one that was killed."""
        assert self.seen.until_more(n, seconds=20), self.daemon.output()
        messages, wrong, expects, in_hands = self.seen.all()
        assert 0 <= expects - messages <= in_hands + 1, self.daemon.output()  # one: looked at while it notes one
        assert wrong <= in_hands, self.daemon.output()

    def reads_anew(self, before, n=50):
        """All that is sent by a source that begins again, from 0; `before` that there were so many."""
        assert self.seen.until_more(n, seconds=20), self.daemon.output()
        messages, wrong, expects, in_hands = self.seen.all()
        assert 0 <= expects - (messages - before) <= 1, self.daemon.output()
        assert wrong <= in_hands + 1, self.daemon.output()  # one: the first

    def has_answered(self, id):
        """What a supervisor has asked each node that it found."""
        before = len(self.daemon.log.read_text())
        self.daemon.process.send_signal(signal.SIGUSR1)
        said = eventually(lambda: "end of state" in (text := self.daemon.log.read_text()[before:]) and text, 20)
        return "has not answered" not in re.search(f"node {id}: .*", said)[0]

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


def test_a_reader_that_is_killed_at_full_speed_misses_what_it_had_in_its_hands_and_nothing_else(scene):
    s = scene(us=0, restart=restarting(delay=0.0))
    for generation in range(2, 22):
        s.kill_reader()
        s.is_in("running", generation)
        s.reads_on(50)
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


def test_a_verdict_that_a_supervisor_took_with_it_is_given_again(scene, withhold):
    """All that it did was written down, and its DETACH was still waiting for room in the producer's socket."""
    withhold, env = withhold
    s = scene(us=SLOWLY, restart=restarting(max_restarts=1, delay=0.0), env=env)
    s.kill_reader()
    s.is_in("running", 2)
    s.reads_on()
    withhold.write_text(str(DETACH))
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


@pytest.mark.parametrize("heir", ["awaited", "attached"])
def test_a_source_begins_for_a_reader_that_was_to_come_when_the_supervisor_died(heir, scene, withhold):
    """AWAIT and START, and LINK_OUT if the reader was there already, were still waiting for room. The successor has the source's word first."""
    withhold, env = withhold
    s = scene(looks=False, restart=restarting(delay=1.0), source={"restart": restarting(delay=0.0)}, env=env)
    s.kill_reader()
    s.is_in("backoff")
    before = s.seen.messages()
    withhold.write_text(str(AWAIT))
    s.kill("count")
    s.is_in("running", 2, id="count")
    if heir == "attached":
        s.is_in("starting", 2)
        assert eventually(lambda: s.node()["pid"], 20)
        reader = Process(s.node()["pid"])
        reader.send(signal.SIGSTOP)
    supervisor = Process(s.daemon.send("supervisor", signo=signal.SIGSTOP)[0])
    withhold.unlink()
    supervisor.send(signal.SIGKILL)
    supervisor.close()
    s.daemon.until_adopted(1)
    if heir == "attached":
        assert eventually(lambda: s.has_answered("count") and not s.has_answered("check"), 20), s.daemon.output()
        reader.send(signal.SIGCONT)
        reader.close()
    s.is_in("running", 2)
    s.reads_anew(before)
    s.stop()


def test_a_reader_that_comes_back_after_its_source_when_both_died_has_kept_its_link(scene):
    """The next daemon has the producer's word before the reader's, who is alive."""
    s = scene(us=1000, restart=restarting())
    reader = Process(s.node()["pid"])
    reader.send(signal.SIGSTOP)
    s.daemon.kill_both()
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
    s.daemon.kill_both()
    s.daemon.again()
    s.daemon.wait_until_ready()
    s.daemon.until_adopted(1)
    s.has_come_back("count")
    s.flows_on()
    assert s.node()["generation"] == 1
    s.stop()
