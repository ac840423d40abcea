# SPDX-License-Identifier: Apache-2.0
"""Supervisor, guard and keepers are killed and stopped while three dataflows run: they run on, nothing is lost, nothing runs twice."""

import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import time

import pytest
from client import Client
from conftest import eventually, marked_processes
from daemon import plan, program
from lives import LONG, SLACK, stat_of, status_field
from survive import Seen, appends, lines, n_descriptors, node, restarting, stream

SEED = int(os.environ.get("TIDEGATE_SEED", "20251125"))
SPAWN, RESUMED = 2, 44  # enum KeeperMsgType
N_MOMENTS = 40 if LONG else 5
ADOPTED_WITHIN_MS = 1000


class Scene:
    """Three dataflows: programs, a stream of numbers, a crash loop with backoff."""

    STEADY = [("programs", "steady"), ("stream", "count"), ("stream", "relay"), ("stream", "check")]

    def __init__(self, daemon, build, directory):
        self.daemon, self.directory = daemon, directory
        self.once, self.crashes, self.gate = directory / "once", directory / "crashes", directory / "gate"
        self.seen = Seen(directory / "seen")
        os.mkfifo(self.gate)
        self.n_descriptors = n_descriptors(daemon.guard_pid())
        self.start(plan(
            program("steady", "exec sleep 1000"),
            program("once", appends(self.once)),
            program("gated", f"read line < {self.gate}; exit 7"),
            name="programs",
        ))  # fmt: skip
        self.start(stream(build, self.seen.file))
        self.start(plan(program("crash", appends(self.crashes, "exit 3"), restart=restarting(delay=0.1, max_delay=0.3)), name="loop"))
        assert self.seen.until_more(seconds=20), daemon.output()
        assert eventually(lambda: lines(self.crashes) >= 2, 20), daemon.output()
        # Each dataflow has a keeper of its own, and none of them knows how far the others are.
        assert eventually(lambda: self.pids().keys() == {*self.STEADY} and self.once_state() == "stopped", 20), daemon.output()
        self.before = self.pids()
        self.crashes_before = self.crash()

    def start(self, plan, **parameters):
        environment = [f"{k}={v}" for k, v in self.daemon.env.items() if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
        return self.daemon.talk("Start", plan=plan, environment=environment, grace_ms=1000, budget_ms=1000, **parameters)["uuid"]

    def pids(self):
        return {key: pid for key, pid in self.daemon.pids().items() if key in self.STEADY}

    def crash(self):
        return self.daemon.nodes()["loop", "crash"]

    def once_state(self):
        return self.daemon.nodes()["programs", "once"]["state"]

    def let_gated_end(self):
        """The node that waits for it exits with status 7."""
        fd = os.open(self.gate, os.O_WRONLY)
        os.close(fd)

    def check_runs_on(self):
        """The same processes, the stream without a gap, the crash loop where it was."""
        assert self.seen.until_more(), "no data flows\n" + self.daemon.output()
        assert self.seen.wrong() == 0
        assert self.pids() == self.before, self.daemon.output()
        crash = self.crash()
        assert crash["generation"] >= self.crashes_before["generation"] and crash["restarts"] >= self.crashes_before["restarts"]
        n = lines(self.crashes)
        assert eventually(lambda: lines(self.crashes) > n, 5), "the crash loop stands still\n" + self.daemon.output()
        assert self.once_state() == "stopped"
        assert lines(self.once) == 1, "a node ran twice"

    def check_adoption(self, adoption, at_least=4, within_ms=ADOPTED_WITHIN_MS):
        adopted, lost, duplicated, ms = adoption
        # The node behind the gate lives too, unless it was let go, and so may one life of the crash loop.
        assert at_least <= adopted <= 6 and (lost, duplicated) == (0, 0), self.daemon.output()
        assert ms <= within_ms, f"adopted only after {ms} ms\n{self.daemon.output()}"
        health = self.daemon.talk("GetHealth")["health"]
        assert (health["adopted"], health["lost"], health["duplicated"]) == (adopted, 0, 0)

    def finish(self):
        """Stop all. Each life of the crash loop wrote one line; the stream is whole; the guard holds no more than before."""
        results = {r["name"]: r for r in self.daemon.talk("Stop", seconds=20, all=True)["results"]}
        assert set(results) == {"programs", "stream", "loop"}
        assert all(r["left"] == 0 for r in results.values()), results
        assert self.seen.wrong() == 0
        loop = next(d for d in self.daemon.talk("List", all=True)["dataflows"] if d["name"] == "loop")
        assert loop["state"] == "ended"
        generation = self.daemon.talk("Status", names=["loop"])["dataflows"][0]["nodes"][0]["generation"]
        assert generation - 1 <= lines(self.crashes) <= generation, "the last one may have been stopped before it wrote"
        assert lines(self.once) == 1
        self.daemon.talk("Clean")
        left = eventually(lambda: n_descriptors(self.daemon.guard_pid()) <= self.n_descriptors, SLACK)
        assert left, f"{n_descriptors(self.daemon.guard_pid())} descriptors of the guard, {self.n_descriptors} before\n{self.daemon.output()}"


@pytest.fixture
def scene(survivor, build, tmp_path):
    def start(*args):
        directory = tmp_path / "scene"
        directory.mkdir()
        return Scene(survivor(*args), build, directory)

    return start


# The supervisor


def test_a_killed_supervisor_is_replaced_and_nothing_is_touched(scene):
    s = scene()
    s.daemon.send("supervisor")
    assert s.seen.until_more(), "data flows while nobody supervises"
    s.check_adoption(s.daemon.until_adopted(1))
    s.check_runs_on()
    s.finish()


def test_supervisors_that_are_killed_again_and_again_lose_nothing(scene):
    s = scene()
    rng = random.Random(SEED)
    for i in range(N_MOMENTS):
        time.sleep(rng.uniform(0, 0.08))  # any moment will do: also one in the middle of an adoption
        s.daemon.send("supervisor")
    eventually(lambda: s.daemon.parts("supervisor"), 10)
    s.daemon.talk("GetHealth")
    assert eventually(lambda: s.daemon.adoptions() and len(s.pids()) == 4, 10), s.daemon.output()
    assert all((lost, duplicated) == (0, 0) for _, lost, duplicated, _ in s.daemon.adoptions()), s.daemon.output()
    s.check_runs_on()
    s.finish()


def holds(pid, other):
    """A pidfd of the other one."""
    try:
        return any(f"Pid:\t{other}\n" in file.read_text() for file in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:
        return False


def test_what_a_keeper_tells_a_supervisor_that_dies_meanwhile_is_not_the_next_one_s_answer(survivor, withhold):
    """The first half of it has been read, by the one that is dead; the second half is still on its way."""
    withhold, env = withhold
    daemon = survivor(env=env)
    daemon.talk("Start", plan=plan(program("a", "exec sleep 1000")), grace_ms=500, budget_ms=1000)
    daemon.talk("Wait", dataflow="flow", state="running")
    pids = daemon.pids()
    withhold.write_text(str(RESUMED))
    (dead,) = daemon.send("supervisor")  # which holds one too, until it has died
    reader = eventually(lambda: next((p for p in daemon.parts("supervisor") if p != dead and holds(p, pids["flow", "a"])), None), 10)
    assert reader, daemon.output()
    daemon.send_to(reader, signal.SIGKILL)
    withhold.unlink()
    _, lost, duplicated, _ = daemon.until_adopted(1)
    assert (lost, duplicated) == (0, 0) and daemon.pids() == pids, daemon.output()
    daemon.talk("Stop", dataflow="flow", force=True)


def test_who_was_stopped_before_its_start_had_left_the_supervisor_never_began(survivor, withhold, tmp_path):
    """The order to start it waits for room in the supervisor's own memory, and dies with it. Nobody is lost: nobody was there."""
    withhold, env = withhold
    withhold.write_text(str(SPAWN))
    daemon = survivor(env=env)
    daemon.talk("Start", plan=plan(program("a", appends(tmp_path / "ran", "exec sleep 1000"))), grace_ms=60_000, budget_ms=1000)
    assert eventually(lambda: daemon.nodes()["flow", "a"]["state"] == "starting", 10), daemon.output()
    with Client(daemon.socket) as client:
        client.send("Stop", dataflow="flow")
        assert eventually(lambda: daemon.nodes()["flow", "a"]["state"] == "stopping", 10), daemon.output()
        daemon.send("supervisor")
        withhold.unlink()
    _, lost, duplicated, _ = daemon.until_adopted(1)
    assert (lost, duplicated) == (0, 0), daemon.output()
    daemon.talk("Wait", dataflow="flow", state="ended")  # long before its ladder does anything
    said = daemon.nodes()["flow", "a"]
    assert (said["state"], said.get("error"), lines(tmp_path / "ran")) == ("stopped", None, 0), said


def test_linked_nodes_that_are_just_being_started_are_started_once(survivor, build, tmp_path):
    """The keeper's answer to the one that died must not count as one to its successor, or their sockets and memory are made twice."""
    daemon = survivor()
    environment = [f"{k}={v}" for k, v in daemon.env.items() if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
    for i in range(8) if LONG else range(1, 6):
        seen, adoptions = Seen(tmp_path / f"seen-{i}"), len(daemon.adoptions())
        supervisor, client = daemon.take("supervisor"), daemon.client()
        client.send("Start", plan=stream(build, seen.file), environment=environment, grace_ms=500, budget_ms=1000)
        time.sleep(i * 0.0005)  # from before it is accepted to after its keeper has begun
        supervisor.send(signal.SIGKILL)
        supervisor.close()
        client.close()
        daemon.until_adopted(adoptions + 1)
        if not daemon.talk("List", all=False)["dataflows"]:  # and it says so: adopted 0
            continue  # killed before it was accepted
        assert seen.until_more(seconds=10), f"round {i}: no data flows\n{daemon.output()}"
        daemon.talk("Stop", dataflow="stream", force=True)
    assert all((lost, duplicated) == (0, 0) for _, lost, duplicated, _ in daemon.adoptions()), daemon.output()


def test_a_dataflow_that_had_ended_but_for_its_keeper_is_not_lost(survivor):
    daemon = survivor()
    for _ in range(6):
        adoptions, client, supervisor = len(daemon.adoptions()), daemon.client(), daemon.take("supervisor")
        uuid = client.call("Start", plan=plan(program("once", "exit 0"), name="short"))["uuid"]
        client.call("Wait", dataflow=uuid, state="ended", timeout_ms=5000)
        supervisor.send(signal.SIGKILL)
        supervisor.close()
        client.close()
        daemon.until_adopted(adoptions + 1)
    assert {(lost, duplicated) for _, lost, duplicated, _ in daemon.adoptions()} == {(0, 0)}, daemon.output()


def test_the_exit_of_a_node_that_ended_meanwhile_is_learnt(scene):
    s = scene()
    pid = s.daemon.send("supervisor", signo=signal.SIGSTOP)[0]
    gated = s.before and s.daemon.parts("keeper")
    s.let_gated_end()
    assert gated
    s.daemon.send_to(pid, signal.SIGKILL)
    s.check_adoption(s.daemon.until_adopted(1))
    assert eventually(lambda: s.daemon.nodes()["programs", "gated"]["state"] == "failed", 5), s.daemon.output()
    assert s.daemon.nodes()["programs", "gated"]["exit"] == {"code": "exited", "status": 7}
    s.check_runs_on()
    s.finish()


def test_a_stopped_supervisor_is_found_and_replaced(scene):
    s = scene("--watchdog", "500ms")
    pid = s.daemon.send("supervisor", signo=signal.SIGSTOP)[0]
    begin = time.monotonic()
    adoption = s.daemon.until_adopted(1)
    assert time.monotonic() - begin < 0.5 + 1 + SLACK
    assert eventually(lambda: (state := stat_of(pid)) is None or state[0] == "Z", 5), "it was killed before it was replaced"
    s.check_adoption(adoption)
    s.check_runs_on()
    s.finish()


def test_backoff_and_counters_are_kept(survivor, tmp_path):
    daemon = survivor()
    crashes = tmp_path / "crashes"
    daemon.talk("Start", plan=plan(program("crash", appends(crashes, "exit 3"), restart=restarting(delay=2.0, max_delay=2.0, max_restarts=2)), name="loop"), grace_ms=500)
    assert eventually(lambda: daemon.nodes()["loop", "crash"]["state"] == "backoff", 10), daemon.output()
    since = daemon.nodes()["loop", "crash"]["since_at_ms"]
    daemon.send("supervisor")
    daemon.until_adopted(1)
    node = daemon.nodes()["loop", "crash"]
    assert (node["state"], node["restarts"], node["generation"], node["since_at_ms"]) == ("backoff", 1, 1, since)
    assert eventually(lambda: lines(crashes) == 2, 5)
    waited = daemon.nodes()["loop", "crash"]["since_at_ms"] - since
    assert waited >= 1900, f"the second life began {waited} ms after the first one's end"
    assert eventually(lambda: daemon.nodes()["loop", "crash"]["state"] == "backoff", 10)
    daemon.send("supervisor")
    daemon.until_adopted(2)
    assert eventually(lambda: daemon.nodes()["loop", "crash"]["state"] == "failed", 10), daemon.output()
    assert lines(crashes) == 3, "two restarts, counted over three supervisors"


# A stop


STUBBORN = "trap '' TERM INT; while :; do sleep 1000 & wait; done"


def stubborn(daemon, grace_ms=600, budget_ms=1000):
    """A dataflow of which only SIGKILL ends anybody."""
    uuid = daemon.talk("Start", plan=plan(program("deaf", STUBBORN), program("too", STUBBORN), name="deaf"), grace_ms=grace_ms, budget_ms=budget_ms)["uuid"]
    assert eventually(lambda: len(daemon.pids()) == 2, 10)
    assert eventually(lambda: all(int(status_field(pid, "SigIgn"), 16) >> (signal.SIGTERM - 1) & 1 for pid in daemon.pids().values()), 20)
    return uuid


def order_stop(daemon, name="deaf"):
    """Order it, and be gone: it goes on. Returns when it was ordered and by when it has to be over."""
    client = daemon.client()
    client.send("Stop", more=True, dataflow=name)
    for event in client.replies():
        if (event.get("event") or {}).get("rung") == "escrow":
            break
    return time.monotonic()


def living(pids):
    return [pid for pid in pids if (s := stat_of(pid)) and s[0] != "Z"]


@pytest.mark.parametrize("whom,signo", [
    (("supervisor",), signal.SIGKILL),
    (("supervisor",), signal.SIGSTOP),
    (("guard",), signal.SIGKILL),
    (("guard",), signal.SIGSTOP),
    (("keeper",), signal.SIGKILL),
    (("keeper",), signal.SIGSTOP),
    (("supervisor", "keeper"), signal.SIGKILL),
    (("supervisor", "keeper"), signal.SIGSTOP),
    (("guard", "keeper"), signal.SIGKILL),
    (("guard", "keeper"), signal.SIGSTOP),
], ids=lambda p: "+".join(p) if isinstance(p, tuple) else signal.Signals(p).name)  # fmt: skip
@pytest.mark.parametrize("after", [0.0, 0.3])
def test_a_stop_ends_on_time_whoever_dies_or_is_stopped_in_it(whom, signo, after, survivor):
    daemon = survivor("--watchdog", "2s")
    stubborn(daemon)
    pids = list(daemon.pids().values())
    processes = [daemon.take(role) for role in whom]  # by now: once the stop is over the keeper is gone
    ordered = order_stop(daemon)
    time.sleep(after)
    for process in processes:
        process.send(signo)
        process.close()
    struck = [process.pid for process in processes]
    ended = eventually(lambda: not living(pids), 10)
    seconds = time.monotonic() - ordered
    assert ended, f"{living(pids)} live on\n{daemon.output()}"
    assert seconds <= 1.5 * 0.6 + 1.0 + 0.1 + 1.0, f"the stop took {seconds:.2f} s\n{daemon.output()}"
    assert eventually(lambda: daemon.talk("List", all=True)["dataflows"][0]["state"] == "ended", 10), daemon.output()
    for pid in struck:
        if stat_of(pid):
            daemon.send_to(pid, signal.SIGCONT)
    assert eventually(lambda: set(living(struck)) <= {daemon.guard_pid()}, 10), f"{struck}: who was replaced meanwhile has nothing left to do\n{daemon.output()}"


def test_a_pending_stop_keeps_its_deadline(survivor):
    daemon = survivor()
    stubborn(daemon, grace_ms=1500)
    pids = list(daemon.pids().values())
    begun = time.monotonic()
    ordered = order_stop(daemon)
    until = daemon.status("deaf")["stop_until_at_ms"]
    time.sleep(0.4)
    daemon.send("supervisor")
    daemon.until_adopted(1)
    flow = daemon.talk("Status", names=["deaf"])["dataflows"][0]
    assert (flow["state"], flow["stop_until_at_ms"]) == ("stopping", until)
    assert eventually(lambda: not living(pids), 10)
    ended = time.monotonic()
    assert 1.5 * 1.5 - 0.1 <= ended - begun and ended - ordered <= 1.5 * 1.5 + 1.0 + SLACK


# The guard


def test_a_killed_guard_is_replaced_by_its_supervisor(scene):
    s = scene()
    supervisor = s.daemon.parts("supervisor")[0]
    s.daemon.send("guard")
    assert s.seen.until_more(), "data flows while nobody guards"
    s.check_adoption(s.daemon.until_adopted(1))
    assert s.daemon.guard_pid() == supervisor, "the supervisor became the guard"
    s.check_runs_on()
    s.let_gated_end()
    assert eventually(lambda: s.daemon.nodes()["programs", "gated"].get("exit") == {"code": "exited", "status": 7}, 5), s.daemon.output()
    s.finish()


def test_nodes_of_a_guard_that_was_a_supervisor_inherit_no_limit_of_its_own(survivor):
    """A supervisor is watched by RLIMIT_RTTIME, which would end a node that runs at a real-time priority."""
    daemon = survivor()
    (supervisor,) = daemon.parts("supervisor")
    limit = pathlib.Path(f"/proc/{daemon.guard_pid()}/limits").read_text()
    assert pathlib.Path(f"/proc/{supervisor}/limits").read_text() != limit
    daemon.send("guard")
    daemon.until_adopted(1)
    assert daemon.guard_pid() == supervisor
    daemon.talk("Start", plan=plan(program("late", "exec sleep 1000")), environment=[], grace_ms=1000, budget_ms=1000)
    assert eventually(lambda: daemon.nodes()["flow", "late"]["state"] == "running", 10), daemon.output()
    of_node = pathlib.Path(f"/proc/{daemon.nodes()['flow', 'late']['pid']}/limits").read_text()
    for of in (of_node, pathlib.Path(f"/proc/{supervisor}/limits").read_text()):
        assert [line.split() for line in of.splitlines() if "realtime timeout" in line] == [["Max", "realtime", "timeout", "unlimited", "unlimited", "us"]]


def test_guards_that_are_killed_again_and_again_lose_nothing(scene):
    s = scene()
    rng = random.Random(SEED + 1)
    for i in range(N_MOMENTS):
        s.daemon.send("guard")
        s.daemon.until_adopted(i + 1)
        time.sleep(rng.uniform(0, 0.1))
    assert all((lost, duplicated) == (0, 0) for _, lost, duplicated, _ in s.daemon.adoptions()), s.daemon.output()
    s.check_runs_on()
    s.finish()


def test_when_both_die_the_next_daemon_adopts(scene):
    s = scene()
    s.daemon.kill_both()
    assert s.seen.until_more(), "data flows while nobody is there"
    s.daemon.again()
    s.daemon.wait_until_ready()
    s.check_adoption(s.daemon.until_adopted(1))
    s.check_runs_on()
    s.let_gated_end()
    assert eventually(lambda: "exit" in s.daemon.nodes()["programs", "gated"], 5), s.daemon.output()
    assert s.daemon.nodes()["programs", "gated"]["exit"]["code"] in ("exited", "unknown")
    s.finish()


def test_who_took_over_a_keeper_ends_with_it_also_where_that_is_the_last_to_go(survivor, build):
    """It is no child of that guard. Its tracer keeps it from being gone before the supervisor is."""
    daemon = survivor()
    daemon.talk("Start", plan=plan(program("n", "exec sleep 1000")), environment=[], grace_ms=1000, budget_ms=1000)
    assert eventually(lambda: daemon.pids(), 10), daemon.output()
    daemon.kill_both()
    daemon.again()
    daemon.wait_until_ready()
    daemon.until_adopted(1)
    (keeper,) = daemon.parts("keeper")
    with subprocess.Popen([build / "tests/hostile/hostile_tree", "--trace", "exit", str(keeper)], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout.readline() == "ready\n"
            daemon.send("guard", signo=signal.SIGTERM)
            assert eventually(lambda: not daemon.parts("supervisor"), 10), daemon.output()
            assert daemon.process.poll() is None, "it waits for the keeper"
        finally:
            tracer.kill()
    assert daemon.process.wait(10) == 0, daemon.output()


# Keepers


@pytest.mark.cgroup_only
def test_a_killed_keeper_is_replaced(scene):
    s = scene()
    for keeper in s.daemon.parts("keeper"):
        s.daemon.send_to(keeper, signal.SIGKILL)
    s.check_runs_on()
    s.let_gated_end()
    assert eventually(lambda: s.daemon.nodes()["programs", "gated"].get("exit") == {"code": "exited", "status": 7}, 5), s.daemon.output()
    s.finish()


@pytest.mark.cgroup_only
def test_supervisor_and_keepers_die_together(scene):
    s = scene()
    pids = s.daemon.parts("keeper") + s.daemon.parts("supervisor")
    for pid in pids:
        s.daemon.send_to(pid, signal.SIGKILL)
    s.check_adoption(s.daemon.until_adopted(1), at_least=0)
    s.check_runs_on()
    s.let_gated_end()
    assert eventually(lambda: s.daemon.nodes()["programs", "gated"].get("exit") == {"code": "exited", "status": 7}, 5), s.daemon.output()
    s.finish()


@pytest.mark.parametrize("whom", [("supervisor",), ("keeper",), ("guard",), ("supervisor", "keeper")], ids="+".join)
def test_nothing_runs_twice_whenever_they_die(whom, survivor, tmp_path):
    """Many nodes start while they die: each writes one line and ends."""
    daemon = survivor()
    rng = random.Random(f"{SEED} {whom}")
    for i in range(N_MOMENTS):
        files = [tmp_path / f"line-{i}-{k}" for k in range(8)]
        daemon.talk("Start", plan=plan(*[program(f"n{k}", appends(f)) for k, f in enumerate(files)], name=f"burst{i}"), grace_ms=500, budget_ms=1000)
        time.sleep(rng.uniform(0, 0.03))
        killed = [p for role in whom for p in daemon.parts(role)]
        for pid in killed:
            daemon.send_to(pid, signal.SIGKILL)

        def ended():
            flows = daemon.talk("List", all=True)["dataflows"]
            return next((f for f in flows if f["name"] == f"burst{i}" and f["state"] == "ended"), None)

        flow = eventually(ended, 15)
        assert flow, f"round {i}\n{daemon.output()}"
        nodes = daemon.talk("Status", names=[f"burst{i}"])["dataflows"][0]["nodes"]
        assert all(lines(f) <= n["generation"] for f, n in zip(files, nodes)), f"round {i}: {[lines(f) for f in files]} {nodes}"
        if "keeper" not in whom:  # with its keeper a start may be lost, and is begun anew
            assert [lines(f) for f in files] == [1] * 8, f"round {i}: {[lines(f) for f in files]}\n{daemon.output()}"
    if "guard" in whom:  # the last one may be dying yet: it is its successor that is asked to end
        assert eventually(lambda: daemon.guard_pid() not in [None, *killed], 10), daemon.output()
    if whom != ("keeper",):
        assert all(duplicated == 0 for _, _, duplicated, _ in daemon.adoptions()), daemon.output()
    assert marked_processes(daemon.mark)


def test_a_stop_that_is_ordered_while_its_keeper_is_silent_is_not_forgotten_by_the_next_supervisor(survivor, tmp_path):
    """The keeper has not said yet what is there when the stop comes; then it does, and that supervisor dies too."""
    daemon = survivor()
    file = tmp_path / "lives"
    deaf = program("deaf", f"trap '' TERM; {appends(file, 'while :; do sleep 0.05; done')}", restart=restarting("always"))
    daemon.talk("Start", plan=plan(deaf), grace_ms=2000, budget_ms=2000)
    assert eventually(lambda: lines(file) == 1, 5)
    keeper = daemon.take("keeper")
    keeper.send(signal.SIGSTOP)
    daemon.send("supervisor")
    client = daemon.client()
    ordered = time.monotonic()
    client.send("Stop", dataflow="flow")
    assert eventually(lambda: "escrow: confirmed" in daemon.log.read_text(), 1.5), daemon.output()
    keeper.send(signal.SIGCONT)
    keeper.close()
    daemon.until_adopted(1)
    daemon.send("supervisor")
    daemon.until_adopted(2)
    flow = daemon.talk("Status", names=["flow"])["dataflows"][0]
    assert flow["wanted"] == "stopped", daemon.output()
    daemon.talk("Wait", dataflow="flow", state="ended")
    assert time.monotonic() - ordered < 3.1 + 2 + SLACK
    assert lines(file) == 1, "it was started again"
    rungs = [line.split(": ", 2)[2] for line in daemon.log.read_text().splitlines() if "kill deaf" in line or "guard:" in line]
    assert rungs and rungs[0] == "kill deaf: sent", f"its own ladder was not climbed: {rungs}\n{daemon.output()}"


# tidegated --reexec


def test_a_reexec_in_the_middle_of_the_end_moves_no_deadline(survivor):
    """The guard was told to end, executes itself anew, and no supervisor helps it: its escrow still holds."""
    daemon = survivor("--grace-duration", "1s", "--watchdog", "0")
    daemon.talk("Start", plan=plan(program("deaf", "trap '' TERM; while :; do sleep 0.05; done")), grace_ms=60000)
    daemon.talk("Wait", dataflow="flow", state="running")
    assert eventually(lambda: all(int(status_field(pid, "SigIgn"), 16) >> (signal.SIGTERM - 1) & 1 for pid in daemon.pids().values()), 20)
    guard = daemon.take("guard")
    guard.send(signal.SIGTERM)
    begin = time.monotonic()
    assert eventually(lambda: "step 3/5" in daemon.log.read_text(), 1), daemon.output()
    guard.send(signal.SIGUSR2)
    guard.close()
    assert eventually(lambda: "this process is the guard now" in daemon.log.read_text(), 1), daemon.output()
    daemon.send("supervisor", signo=signal.SIGSTOP)
    daemon.process.wait(20)
    assert time.monotonic() - begin < 1.6 + 2 + 4 + 3 + SLACK, daemon.output()  # escrow, budget, who lingers, keepers


def test_a_program_that_cannot_be_executed_changes_nothing(survivor, build, tmp_path):
    copy = tmp_path / "tidegated"
    shutil.copy(build / "bin/tidegated", copy)
    daemon = survivor(program=copy)
    daemon.talk("Start", plan=plan(program("n", "exec sleep 1000")), grace_ms=500)
    daemon.talk("Wait", dataflow="flow", state="running")
    pids = daemon.pids()
    copy.unlink()
    copy.write_text("no program\n")
    copy.chmod(0o755)
    supervisor = daemon.parts("supervisor")
    daemon.send("guard", signo=signal.SIGUSR2)
    assert eventually(lambda: f"cannot execute {copy} anew: Exec format error" in daemon.log.read_text(), 10), daemon.output()
    assert daemon.pids() == pids and daemon.parts("supervisor") == supervisor and daemon.adoptions() == []
    guard = pathlib.Path(f"/proc/{daemon.guard_pid()}/fdinfo")
    flags = {f.name: int(f.read_text().split("flags:")[1].split()[0], 8) for f in guard.iterdir() if int(f.name) > 2}
    assert [n for n, f in flags.items() if not f & os.O_CLOEXEC] == [], "whom it forks next would hold these"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR2], ids=["guard dies", "reexec"])
@pytest.mark.parametrize("state", ["wrong", "hangs"])
def test_who_becomes_the_guard_does_not_need_the_configuration(how, state, survivor, tmp_path):
    """It has what was read before; and it knows the file, and what the command line said, for the next SIGHUP."""
    file = tmp_path / "tidegated.conf"
    file.write_text("grace_duration = 7s\nwatchdog = 9s\n")
    daemon = survivor("--config", file, "--watchdog", "3s")
    daemon.talk("Start", plan=plan(program("n", "exec sleep 1000")), grace_ms=500)
    daemon.talk("Wait", dataflow="flow", state="running")
    pids = daemon.pids()
    file.unlink()
    if state == "wrong":
        file.write_text("watchdoc = 1s\n")
    else:
        os.mkfifo(file)
    daemon.send("guard", signo=how)
    daemon.until_adopted(1)
    assert daemon.pids() == pids
    file.unlink()
    file.write_text("kill_budget = 1s\nwatchdog = 8s\n")
    daemon.send("guard", signo=signal.SIGHUP)
    said = "was read: grace 7.0 s, kill budget 1.0 s, watchdog 3.0 s"
    assert eventually(lambda: said in daemon.log.read_text(), 5), daemon.output()


# Versions

VERSION = int(re.search(r"#define NODE_MSG_VERSION +(\d+)", (pathlib.Path(__file__).parents[2] / "protocol/node_msg.h").read_text())[1])


def test_a_node_of_another_version_is_told_which(survivor, build):
    """Also one that a newer supervisor finds: its predecessor understood it."""
    daemon = survivor()
    older = build / "tests/system/older"
    kept = [f"{k}={v}" for k, v in daemon.env.items() if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
    for name, first in (("new", 2), ("found", VERSION)):
        daemon.talk("Start", plan=plan(node("older", [older, first, 2], outputs=["out"]), name=name),
                    environment=kept, grace_ms=500, budget_ms=1000)  # fmt: skip
        if name == "found":
            assert eventually(lambda: daemon.nodes()["found", "older"]["state"] == "running", 20), daemon.output()
            daemon.send("supervisor")
        assert eventually(lambda: daemon.nodes()[name, "older"]["state"] == "failed", 20), daemon.output()
        error = daemon.nodes()[name, "older"]["error"]
        assert error.startswith(f"speaks version 2 of the node protocol (tidegate 0.0.2), and tidegated version {VERSION}:"), error


def test_a_program_of_another_version_that_comes_by_name_is_told_which(survivor, build):
    daemon = survivor()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(str(daemon.runtime / "node.sock"))
        program = subprocess.Popen(
            [build / "tests/system/older", "2", "2"],
            env={**daemon.env, "TIDEGATE_NODE_FD": str(s.fileno())}, pass_fds=[s.fileno()], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert select.select([program.stdout], [], [], 20)[0]
    assert program.stdout.readline().startswith(f"ABORT speaks version 2 of the node protocol (tidegate 0.0.2), and tidegated version {VERSION}\n")
    program.kill()
    program.wait(20)
    program.stdout.close()
