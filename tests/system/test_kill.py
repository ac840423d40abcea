# SPDX-License-Identifier: Apache-2.0
"""SIGKILL and SIGSTOP for any process of a run at any moment: everything ends in bounded time, and nobody is left.

TIDEGATE_LONG=1 kills many more times; TIDEGATE_SEED=N repeats a sequence."""

import functools
import os
import random
import select
import signal
import time

import pytest
from conftest import eventually, marked_processes
from lives import LONG, SLACK, Process

SEED = int(os.environ.get("TIDEGATE_SEED", "20250611"))
TIMES = 40 if LONG else 5
GRACE = 0.6
# After the death of any part: half the grace or one and a half (the escrow), the kill budget, keepers' and guard's leave.
BOUND = 1.5 * GRACE + 2 + 2 + SLACK
STUBBORN = "trap '' TERM INT HUP\n(trap '' TERM; exec sleep 1000) &\nsetsid sleep 1000 &\necho ready\nexec sleep 1000"


@pytest.fixture
def live(live, sanitizer, node_environment):
    """Who is killed while it looks for leaks leaves half a report, and that would count as one."""
    if not sanitizer:
        return live
    options = f"{node_environment.get('ASAN_OPTIONS', '')}:detect_leaks=0".lstrip(":")
    return functools.partial(live, env={"ASAN_OPTIONS": options})


@pytest.fixture
def stubborn(script, dataflow):
    """Three trees that ignore SIGTERM."""
    path = script("stubborn", STUBBORN)
    return dataflow({"nodes": [{"id": f"n{i}", "path": str(path)} for i in range(3)]}, "stubborn.yml")


@pytest.fixture
def moving(build, dataflow):
    """Two nodes that move data as fast as they can."""
    nodes = build / "tests/system"
    link = {"in": {"source": "beat/out", "queue_policy": "backpressure"}}
    return dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "0", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": link},
    ]}, "moving.yml")  # fmt: skip


@pytest.fixture(params=["stubborn", "moving"])
def flow(request):
    return request.getfixturevalue(request.param)


def running(run):
    run.until_event(type="dataflow", state="running")
    return run


def deaf(run):
    """All that `stubborn` starts ignores SIGTERM by now: a program runs before its shell has read that it shall not."""
    for i in range(3):
        run.until_event(type="log", node=f"n{i}", text="ready")
    return running(run)


def ended(run, nothing_left, bound=BOUND):
    """The command has ended, or was killed, and everything it had started ends within the bound."""
    begin = time.monotonic()
    run.wait(bound)
    nothing_left(max(bound - (time.monotonic() - begin), 0.1))


# One at a time, somewhere in the middle


@pytest.mark.each_enforcer
@pytest.mark.sanitized
@pytest.mark.parametrize("part", ["command", "supervisor", "keeper", "guard"])
def test_killed_while_running(part, flow, live, nothing_left):
    run = running(live(flow, "--grace-duration", f"{GRACE}s"))
    assert run.kill(part)
    ended(run, nothing_left)
    if part != "command":
        assert run.status == 1, "a run that lost a part of itself did not succeed"
        assert part in run.stderr.read_text() or part in run.result().get("error", ""), "and says which"


@pytest.mark.sanitized
@pytest.mark.parametrize("part", ["command", "supervisor", "keeper", "guard"])
def test_killed_in_the_middle_of_a_stop(part, stubborn, live, nothing_left):
    run = deaf(live(stubborn, "--grace-duration", f"{GRACE}s"))
    run.process.send_signal(signal.SIGINT)
    run.until_event(type="dataflow", state="stopping")
    begin = time.monotonic()
    assert run.kill(part)
    ended(run, nothing_left, 1.5 * GRACE + 2 + 2 + SLACK)
    assert time.monotonic() - begin < 1.5 * GRACE + 2 + SLACK, "the stop's own deadline holds"


@pytest.mark.sanitized
@pytest.mark.parametrize("part", ["command", "supervisor", "keeper", "guard"])
def test_killed_at_random_moments(part, stubborn, moving, live, nothing_left):
    random_ = random.Random(f"{SEED} {part}")
    for turn in range(TIMES):
        flow = random_.choice([stubborn, moving])
        moment = random_.uniform(0, 0.5)
        run = live(flow, "--grace-duration", f"{GRACE}s", *random_.choice([[], ["--stop-after", "150ms"]]))
        time.sleep(moment)
        killed = run.kill(part)
        if not killed and run.process.poll() is None:  # not born yet, or gone already
            run.process.send_signal(signal.SIGINT)
        try:
            ended(run, nothing_left)
        except (AssertionError, pytest.fail.Exception):
            print(f"turn {turn}, {moment:.4f} s, {'killed' if killed else 'stopped'}")
            raise


# Several at once


@pytest.mark.sanitized
@pytest.mark.parametrize("parts", [("command", "supervisor"), ("supervisor", "keeper"), ("command", "keeper"), ("guard", "supervisor")])
def test_two_killed_at_once(parts, stubborn, live, nothing_left):
    run = running(live(stubborn, "--grace-duration", f"{GRACE}s"))
    processes = [run.take(p) for p in parts]
    for p in processes:
        p.send(signal.SIGKILL)
        p.close()
    ended(run, nothing_left)


@pytest.mark.each_enforcer
@pytest.mark.sanitized
def test_what_the_death_of_all_of_them_leaves_is_swept_by_the_next_run(stubborn, dataflow, live, home, enforcer, traces, nothing_left):
    run = running(live(stubborn))
    run.until('"text":"ready"')
    parts = [run.take(p) for p in ("command", "guard", "supervisor", "keeper")]
    for p in parts:
        p.send(signal.SIGSTOP)  # nobody reacts to another's death before its own
    for p in parts:
        p.send(signal.SIGKILL)
    for p in parts:  # until then they hold the lock of what is to be swept
        assert select.select([p.fd], [], [], 10)[0]
        p.close()
    run.wait(10)
    if enforcer == "cgroup":
        survive = lambda: len([c for c in marked_processes(traces.mark).values() if c.startswith("sleep")]) >= 6  # noqa: E731 some were about to begin
        assert eventually(survive, 10), "nobody was there to end them"
    else:
        assert eventually(lambda: not marked_processes(traces.mark), 5), "their reapers end with the keeper, and they with their reapers"
    assert live(dataflow({"nodes": [{"id": "next", "path": "true"}]}, "next.yml")).wait(20).status == 0
    nothing_left()


# Not dead, but deaf


@pytest.mark.parametrize("part", ["supervisor", "keeper"])
def test_stopped_in_the_middle_of_a_stop_the_guard_ends_it_on_time(part, stubborn, live, traces, nothing_left):
    run = deaf(live(stubborn, "--grace-duration", f"{GRACE}s"))
    struck = run.take(part)
    run.process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    run.until_event(type="dataflow", state="stopping")
    struck.send(signal.SIGSTOP)
    gone = eventually(lambda: not any(c.startswith("sleep") for c in marked_processes(traces.mark).values()), 20)
    assert gone and time.monotonic() - begin < 1.5 * GRACE + 0.4 + SLACK, "no node outlives the escrow"
    ended(run, nothing_left, 2 + 7 + SLACK)
    struck.close()
    assert run.status != 0


@pytest.mark.parametrize("part", ["guard", "supervisor", "keeper"])
def test_a_part_that_hangs_does_not_hold_up_ctrl_c(part, stubborn, live, nothing_left):
    run = running(live(stubborn, "--grace-duration", f"{GRACE}s"))
    deaf = run.take(part)
    deaf.send(signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    try:
        run.wait(1.5 * GRACE + 2 + 7 + SLACK)
        assert run.status != 0
    finally:
        deaf.send(signal.SIGKILL)
        deaf.close()
    nothing_left(5 + SLACK)


@pytest.mark.parametrize("kind", ["stubborn", "moving"])
def test_a_keeper_that_hangs_is_replaced_by_what_the_guard_sees(kind, request, live, nothing_left):
    run = running(live(request.getfixturevalue(kind), "--grace-duration", f"{GRACE}s"))
    deaf = run.take("keeper")
    deaf.send(signal.SIGSTOP)
    deaf.close()
    run.process.send_signal(signal.SIGINT)
    run.wait(1.5 * GRACE + 0.4 + 1 + 2 + SLACK)
    assert run.status == 1
    assert "keeper" in run.result()["error"] and run.result()["left"] == 0
    nothing_left()


@pytest.mark.each_enforcer
@pytest.mark.sanitized
def test_three_ctrl_c_end_the_nodes_though_every_part_hangs(stubborn, dataflow, live, enforcer, traces, nothing_left):
    run = running(live(stubborn))
    parts = [run.take(p) for p in ("guard", "supervisor", "keeper")]
    for p in parts:
        p.send(signal.SIGSTOP)
    for said in ("once more to stop now", "once more to abort", "aborted"):  # two that wait are one
        run.process.send_signal(signal.SIGINT)
        assert eventually(lambda said=said: said in run.output(), 10), run.output()
    try:
        run.wait(5 + SLACK)
        assert eventually(lambda: not any(c.startswith("sleep") for c in marked_processes(traces.mark).values()), 5)
    finally:
        for p in parts:
            p.send(signal.SIGKILL)
            p.close()
    assert eventually(lambda: not marked_processes(traces.mark), 5)
    live(dataflow({"nodes": [{"id": "next", "path": "true"}]}, "next.yml")).wait(20)  # sweeps what nobody could remove
    nothing_left()


# The nodes


@pytest.mark.sanitized
def test_random_nodes_killed_from_outside_end_the_run_with_their_names(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    flow = dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "0", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": {"source": "beat/out", "queue_policy": "backpressure"}}},
    ]})  # fmt: skip
    random_ = random.Random(SEED)
    for victim in ["beat", "hear"] * (4 if LONG else 1):
        run = running(live(flow, "--grace-duration", f"{GRACE}s"))
        process = Process(run.until_event(type="node", to="running", node=victim)["pid"])
        time.sleep(random_.uniform(0, 0.2))
        process.send(signal.SIGKILL)
        process.close()
        if victim == "hear":  # its sender has nobody to send to, which is no reason to end
            run.until_event(type="node", node="hear", to="failed")
            run.process.send_signal(signal.SIGINT)
        ended(run, nothing_left)
        assert run.status == 1
        assert run.node(victim)["error"] == "was ended by SIGKILL"
        assert run.node({"beat": "hear", "hear": "beat"}[victim])["state"] == "stopped"
