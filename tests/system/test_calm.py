# SPDX-License-Identifier: Apache-2.0
"""Who waits sleeps: guard, supervisor and keepers use no processor while nothing happens, whatever it is that they wait for."""

import contextlib
import os
import pathlib
import subprocess
import time

import pytest
from conftest import eventually
from daemon import plan, program

DEAF = 'trap "" TERM; echo $$ >"{}"; while :; do sleep 1000; done'
SPAN = 0.4
LONG = bool(os.environ.get("TIDEGATE_LONG"))
SHARE = 0.05  # of it, of one CPU: a loop that never sleeps uses all


def used(pid):
    """Seconds of CPU of all its threads that there are: one that did a job may end at any moment, as may the keeper of a dataflow that has ended, and
    who spins does not."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def everybody(daemon):
    return {daemon.guard_pid(): "guard", **{pid: part for part in ("supervisor", "keeper") for pid in daemon.parts(part)}}


def are_calm(daemon):
    """It may have begun just now, so it has three tries; who spins does so in each."""
    for _ in range(3):
        before = {pid: used(pid) for pid in everybody(daemon)}
        time.sleep(SPAN)  # what is measured
        after = {role: used(pid) - before[pid] for pid, role in everybody(daemon).items() if pid in before}
        if all(seconds < SHARE * SPAN for seconds in after.values()):
            return
    raise AssertionError(f"seconds of CPU in {SPAN}: {after}\n{daemon.output()}")


@pytest.fixture
def daemon(survivor):
    return survivor()


def start(daemon, *nodes, grace=20, budget=20, **parameters):
    daemon.talk("Start", plan=plan(*nodes), environment=[], grace_ms=grace * 1000, budget_ms=int(budget * 1000), **parameters)


def node(daemon, id):
    return daemon.nodes()["flow", id]


def until(daemon, id, state):
    assert eventually(lambda: node(daemon, id)["state"] == state, 10), daemon.output()


def after(id, until):
    return [{"node": id, "until": until, "line": 2}]


def test_while_nothing_runs(daemon):
    are_calm(daemon)


def test_while_a_node_waits_for_another_to_complete(daemon):
    start(daemon, program("first", "exec sleep 1000"), program("second", "exec sleep 1000", after=after("first", "completed")))
    until(daemon, "first", "running")
    are_calm(daemon)


@pytest.mark.parametrize("ordered", [False, True], ids=["in any order", "in reverse"])
def test_while_the_deaf_are_given_their_grace(ordered, daemon, tmp_path):
    """In reverse: the first is asked only when the second has ended, which it does not."""
    start(daemon, program("first", "exec sleep 1000"), program("second", DEAF.format(tmp_path / "pid"), after=after("first", "started") if ordered else []))
    assert eventually(lambda: (tmp_path / "pid").exists(), 10)
    client = daemon.client()
    client.send("Stop", dataflow="flow", grace_ms=20000)
    until(daemon, "second", "stopping")
    assert ordered == (node(daemon, "first")["state"] == "running") or eventually(lambda: node(daemon, "first")["state"] == "stopped", 10)
    are_calm(daemon)
    daemon.client().send("Stop", dataflow="flow", force=True)
    assert list(client.replies())[-1]["results"]


def test_while_one_node_is_given_its_grace(daemon, tmp_path):
    start(daemon, program("deaf", DEAF.format(tmp_path / "pid")), program("other", "exec sleep 1000", after=after("deaf", "started")))
    assert eventually(lambda: (tmp_path / "pid").exists(), 10)
    client = daemon.client()
    client.send("StopNode", dataflow="flow", node="deaf", grace_ms=20000)
    until(daemon, "deaf", "stopping")
    are_calm(daemon)
    daemon.talk("Stop", dataflow="flow", force=True, seconds=20)


def test_while_a_node_waits_to_be_started_again(daemon):
    start(daemon, program("fails", "exit 3", restart={"policy": "always", "max_restarts": 0, "delay_ns": 10**12, "max_delay_ns": 10**12, "window_ns": 0}), program("other", "exec sleep 1000"))
    until(daemon, "fails", "backoff")
    are_calm(daemon)


def test_while_somebody_would_not_die(daemon, build, tmp_path):
    undying = build / "tests/supervisor/undying"
    if not undying.exists():
        pytest.skip("tests/supervisor/undying is not built (needs Criterion)")
    start(daemon, program("first", "exec sleep 1000"), program("held", DEAF.format(tmp_path / "pid"), after=after("first", "started")), budget=0.3)
    pid = eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), 10)
    with subprocess.Popen([undying, "--trace", pid], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout.readline() == "ready\n"
            assert daemon.talk("Stop", dataflow="flow", grace_ms=100, seconds=20)["results"][0]["left"] == 1
            are_calm(daemon)
        finally:
            tracer.kill()
    assert eventually(lambda: node(daemon, "held").get("left") is None, 10), daemon.output()


def test_after_the_end(daemon):
    start(daemon, program("brief", "exit 0"), program("late", "exit 0", after=after("brief", "completed")))
    assert eventually(lambda: daemon.talk("Status", names=["flow"])["dataflows"][0]["state"] == "ended", 10), daemon.output()
    are_calm(daemon)


@pytest.mark.skipif(os.geteuid() != 0, reason="real-time priorities are root's")
def test_a_supervisor_that_spins_is_an_ordinary_process_and_still_serves(survivor, build, tmp_path):
    """Its clients are answered and its nodes stopped all the same, and whoever could help gets the CPU."""
    restless = tmp_path / "restless"
    d = survivor(env={"LD_PRELOAD": str(build / "tests/system/librestless.so"), "TIDEGATE_RESTLESS": str(restless)})
    start(d, program("steady", "exec sleep 1000"))
    (supervisor,) = d.parts("supervisor")
    assert os.sched_getscheduler(supervisor) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    restless.touch()
    until(d, "steady", "running")  # it is asleep until it is asked something
    assert eventually(lambda: os.sched_getscheduler(supervisor) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER, 10), d.output()
    assert eventually(lambda: "an ordinary process for the next 10 s" in d.log.read_text(), 10), d.output()
    d.talk("Stop", dataflow="flow", seconds=20)
    assert d.parts("supervisor") == [supervisor]
    if LONG:
        restless.unlink()
        assert eventually(lambda: os.sched_getscheduler(supervisor) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR, 20), d.output()
