# SPDX-License-Identifier: Apache-2.0
"""What the guard enforces when the supervisor cannot, and that it is told afterwards: who was killed, when, and by whom."""

import contextlib
import signal
import struct
import subprocess
import time

import pytest
from client import Client, ControlError
from conftest import eventually
from daemon import plan, program
from lives import LONG, SLACK, arguments_of, stat_of, status_field

GRACE, BUDGET = 1.2, 1.0
T = 1.5 * GRACE + 0.1  # when the guard begins to kill

# Its leader leaves at once when it is asked to; what it has left behind does not.
LEAVES_A_CHILD = "trap 'exit 0' TERM; sh -c 'trap \"\" TERM; echo $$ > {0}; while :; do sleep 0.1; done' & while :; do wait; done"
POLITE = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
DEAF = "trap '' TERM INT; echo $$ > {0}; while :; do sleep 0.1; done"


def lives(pid):
    return (s := stat_of(pid)) is not None and s[0] != "Z"


def ignores_sigterm(pid):
    return bool(int(status_field(pid, "SigIgn"), 16) >> (signal.SIGTERM - 1) & 1)


def told(file):
    """The pid that a program has written there, once it is deaf."""
    assert eventually(lambda: file.exists() and file.read_text().endswith("\n"), 20)
    pid = int(file.read_text())
    assert ignores_sigterm(pid)
    return pid


def begin(daemon, *nodes, name="flow", budget=BUDGET):
    daemon.talk("Start", plan=plan(*nodes, name=name), grace_ms=int(GRACE * 1000), budget_ms=int(budget * 1000))
    daemon.talk("Wait", dataflow=name, state="running")


def rungs(ledger, rung):
    return [(e.get("node"), e["result"]) for e in ledger if e["rung"] == rung]


@pytest.fixture
def mixed(survivor, tmp_path):
    """A node whose child is deaf, one that is polite; returns the daemon and that child's pid."""

    def start(*args):
        daemon = survivor(*args)
        begin(daemon, program("leaver", LEAVES_A_CHILD.format(tmp_path / "pid")), program("polite", POLITE))
        return daemon, told(tmp_path / "pid")

    return start


def order_stop(daemon):
    """A client that waits for the stop's result; the guard has confirmed."""
    client = daemon.client()
    client.send("Stop", more=True, dataflow="flow")
    for reply in client.replies():
        if (reply.get("event") or {}).get("rung") == "escrow":
            return client, time.monotonic()
    raise AssertionError(daemon.output())


def until_dead(pid, ordered, daemon):
    """It is the guard that ends it, at its time."""
    assert eventually(lambda: not lives(pid), 10), daemon.output()
    seconds = time.monotonic() - ordered
    assert seconds <= T + BUDGET + SLACK, f"after {seconds:.2f} s\n{daemon.output()}"


@pytest.mark.sanitized
def test_whom_the_guard_killed_while_the_supervisor_was_stopped_is_told(mixed):
    daemon, child = mixed("--watchdog", "0")
    client, ordered = order_stop(daemon)
    supervisor = daemon.take("supervisor")
    assert eventually(lambda: daemon.nodes()["flow", "polite"]["state"] == "stopped", 10)
    supervisor.send(signal.SIGSTOP)
    until_dead(child, ordered, daemon)
    supervisor.send(signal.SIGCONT)
    supervisor.close()
    replies = list(client.replies())
    result = replies[-1]["results"][0]
    nodes = {n["id"]: n for n in result["nodes"]}
    assert (nodes["leaver"]["killed"], nodes["leaver"].get("killed_by")) == (True, "guard"), result
    assert (nodes["polite"]["killed"], nodes["polite"].get("killed_by")) == (False, None), result
    assert nodes["leaver"]["error"] == "did not react to stop in time and was killed by the guard"
    assert (result["killed"] >= 1, result["left"], result["success"]) == (True, 0, False)
    assert ("leaver", "killed") in rungs(result["ledger"], "guard"), result["ledger"]
    assert all(node != "polite" for node, _ in rungs(result["ledger"], "guard"))
    at = next(e["at_ms"] for e in result["ledger"] if e["rung"] == "guard" and e.get("node"))
    assert T * 1000 - 1 <= at <= (T + SLACK) * 1000, "when it was killed, and not when that was heard of"
    events = [r["event"] for r in replies if r.get("event")]
    assert any(e["type"] == "node" and e["node"] == "leaver" and e["to"] == "failed" and e.get("killed_by") == "guard" for e in events)
    assert any(e["type"] == "ledger" and e["rung"] == "guard" and e.get("node") == "leaver" for e in events)
    assert daemon.nodes()["flow", "leaver"].get("killed_by") == "guard"
    assert "killed_by" not in daemon.nodes()["flow", "polite"]


def test_the_successor_of_a_supervisor_that_died_in_it_tells_it_too(mixed):
    daemon, child = mixed("--watchdog", "0")
    _, ordered = order_stop(daemon)
    assert eventually(lambda: daemon.nodes()["flow", "polite"]["state"] == "stopped", 10)
    stopped = daemon.send("supervisor", signo=signal.SIGSTOP)[0]
    until_dead(child, ordered, daemon)
    daemon.send_to(stopped, signal.SIGKILL)
    daemon.until_adopted(1)
    daemon.talk("Wait", dataflow="flow", state="ended")
    node = daemon.nodes()["flow", "leaver"]
    assert (node["state"], node.get("killed_by")) == ("failed", "guard"), daemon.output()
    assert "killed_by" not in daemon.nodes()["flow", "polite"]


def test_whom_the_keeper_killed_the_guard_has_not(survivor, tmp_path):
    """The guard comes 0.1 s after the keeper: where that has no CPU for so long, it is the guard's indeed, and the ledger says so."""
    daemon = survivor()
    for i in range(5):
        begin(daemon, program("deaf", DEAF.format(tmp_path / f"pid-{i}")))
        told(tmp_path / f"pid-{i}")
        result = daemon.talk("Stop", dataflow="flow", seconds=20, grace_ms=100)["results"][0]
        (node,) = result["nodes"]
        assert node["killed"] and node["killed_by"] == daemon.nodes()["flow", "deaf"]["killed_by"]
        assert (node["killed_by"] == "guard") == (("deaf", "killed") in rungs(result["ledger"], "guard")), result
        if node["killed_by"] == "keeper":
            return
    raise AssertionError(daemon.output())


def test_a_command_is_told_as_well(script, dataflow, live, nothing_left, tmp_path):
    """`tidegate run`: there it is the escrow of the command that is enforced."""
    leaver = script("leaver", LEAVES_A_CHILD.format(tmp_path / "pid"))
    polite = script("polite", POLITE)
    flow = dataflow({"nodes": [{"id": "leaver", "path": str(leaver)}, {"id": "polite", "path": str(polite)}]})
    run = live(flow, "--grace-duration", f"{GRACE}s")
    child = told(tmp_path / "pid")
    run.until_event(type="node", to="running", node="polite")
    supervisor = run.take("supervisor")
    run.process.send_signal(signal.SIGINT)
    run.until_event(type="node", to="stopped", node="polite")
    supervisor.send(signal.SIGSTOP)
    assert eventually(lambda: not lives(child), 10)
    supervisor.send(signal.SIGCONT)
    supervisor.close()
    run.wait(20)
    assert (run.node("leaver")["killed"], run.node("leaver").get("killed_by")) == (True, "guard"), run.output()
    assert (run.node("polite")["killed"], run.node("polite").get("killed_by")) == (False, None)
    assert ("leaver", "killed") in rungs(run.result()["ledger"], "guard")
    assert run.status == 1 and run.result()["left"] == 0
    nothing_left()


@pytest.mark.parametrize("again", [False, True], ids=["once", "told_twice"])
def test_a_command_leaves_in_good_order_however_much_its_guard_has_still_to_read(dataflow, live, nothing_left, again):
    """To stop them is an order to the guard for each node: more than its socket holds, while it does not run. What is told last stands behind all that,
    also where its supervisor is told to end once more meanwhile."""
    n = 400
    run = live(dataflow({"nodes": [{"id": f"n{i}", "path": "/bin/sleep", "args": "1000"} for i in range(n)]}))
    run.until_event(60, type="dataflow", state="running")
    guard = run.take("guard")
    guard.send(signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    assert eventually(lambda: sum(e["type"] == "node" and e["to"] == "stopped" for e in run.events()) == n, 30), run.output()
    if again:
        run.until_event(5, type="dataflow", state="ended")
        with contextlib.closing(run.take("supervisor")) as supervisor:
            supervisor.send(signal.SIGTERM)
    guard.send(signal.SIGCONT)
    guard.close()
    run.wait(20)
    assert run.status == 0 and run.result()["killed"] == 0, run.output()[-2000:]
    nothing_left()


def test_an_enforcer_that_is_killed_at_its_work_is_followed_by_another(survivor, build, tmp_path):
    """It cannot finish, for a tracer holds whom it kills; killed itself, it is replaced before any time has passed."""
    undying = build / "tests/supervisor/undying"
    if not undying.exists():
        pytest.skip("tests/supervisor/undying is not built (needs Criterion)")
    daemon = survivor("--watchdog", "0")
    begin(daemon, program("deaf", DEAF.format(tmp_path / "pid")), budget=20)
    child, guard = told(tmp_path / "pid"), daemon.guard_pid()
    with subprocess.Popen([undying, "--trace", str(child)], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout.readline() == "ready\n"
            order_stop(daemon)
            struck = daemon.send("supervisor", "keeper", signo=signal.SIGSTOP)

            def enforcers():
                with open(f"/proc/{guard}/task/{guard}/children") as children:
                    return [p for p in map(int, children.read().split()) if lives(p) and not any("--role=" in a for a in arguments_of(p))]

            first = eventually(enforcers, 10)
            assert first and len(first) == 1, daemon.output()
            daemon.send_to(first[0], signal.SIGKILL)
            assert eventually(lambda: [p for p in enforcers() if p not in first], 5), "half of the budget are 10 s\n" + daemon.output()
        finally:
            tracer.kill()
    assert eventually(lambda: not lives(child), 10), daemon.output()
    for pid in struck:
        daemon.send_to(pid, signal.SIGCONT)
    assert eventually(lambda: daemon.talk("List", all=True)["dataflows"][0]["state"] == "ended", 10), daemon.output()


# One node: StopNode, RestartNode


class Order:
    """StopNode or RestartNode of "deaf", ordered by a client; returns once the guard has confirmed."""

    def __init__(self, daemon, method, node="deaf", **parameters):
        events = daemon.client()
        events.send("Events", more=True, dataflow="flow")
        daemon.call("GetHealth")  # it is served, so events are followed by now
        self.client = daemon.client()
        self.sent = time.monotonic()  # nothing is due sooner after this than it is after the order
        self.client.send(method, dataflow="flow", node=node, **parameters)
        for reply in events.replies():
            event = reply.get("event") or {}
            if (event.get("rung"), event.get("node"), event.get("result")) == ("escrow", node, "confirmed"):
                break
        self.at = time.monotonic()
        events.close()

    def node(self):
        return self.client.reply()[0]["node"]


@pytest.fixture
def deaf(survivor, tmp_path):
    """A deaf node beside a polite one; returns the daemon and the pid of the deaf one."""

    def start(*args, budget=BUDGET):
        daemon = survivor(*args)
        begin(daemon, program("deaf", DEAF.format(tmp_path / "pid")), program("polite", POLITE), budget=budget)
        return daemon, told(tmp_path / "pid")

    return start


def others_live(daemon, pids):
    assert lives(pids["flow", "polite"]), "nobody else was meant"
    assert daemon.nodes()["flow", "polite"]["pid"] == pids["flow", "polite"]


@pytest.mark.sanitized
@pytest.mark.parametrize("method", ["StopNode", "RestartNode"])
@pytest.mark.parametrize("whom", [("supervisor",), ("supervisor", "keeper")], ids="+".join)
def test_one_node_ends_on_time_though_the_supervisor_was_stopped_after_it_accepted(method, whom, deaf, tmp_path):
    daemon, pid = deaf("--watchdog", "0")
    pids = daemon.pids()
    order = Order(daemon, method)
    struck = daemon.send(*whom, signo=signal.SIGSTOP)
    assert lives(pid)
    until_dead(pid, order.at, daemon)
    assert time.monotonic() - order.sent >= T - 0.2, "not before its time"
    for p in struck:
        daemon.send_to(p, signal.SIGCONT)
    node = order.node()
    if method == "StopNode":
        assert (node["state"], node.get("killed_by")) == ("failed", "guard"), daemon.output()
    else:
        assert (node["state"], node["generation"]) == ("running", 2) and lives(node["pid"]), daemon.output()
    others_live(daemon, pids)


def is_dying(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[6]) & 0x400  # PF_SIGNALED


def test_a_keeper_that_comes_later_and_finds_the_dying_has_not_killed_them(deaf, build):
    """They stop at their exit, for they are traced: the keeper, when it goes on, counts them, kills them too, and is not told to have done it."""
    undying = build / "tests/supervisor/undying"
    if not undying.exists():
        pytest.skip("tests/supervisor/undying is not built (needs Criterion)")
    daemon, pid = deaf("--watchdog", "0", budget=20)  # no verdict before the tracer has gone
    with subprocess.Popen([undying, "--trace", str(pid)], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout.readline() == "ready\n"
            order = Order(daemon, "StopNode")
            struck = daemon.send("supervisor", "keeper", signo=signal.SIGSTOP)
            assert eventually(lambda: is_dying(pid), 10), "the guard has killed it\n" + daemon.output()
            for p in reversed(struck):
                daemon.send_to(p, signal.SIGCONT)
            assert eventually(lambda: "kill deaf: sent" in daemon.output(), 10), daemon.output()
        finally:
            tracer.kill()
    node = order.node()
    assert (node["state"], node.get("killed_by")) == ("failed", "guard"), daemon.output()


@pytest.mark.parametrize("method", ["StopNode", "RestartNode"])
def test_one_node_ends_on_time_though_the_supervisor_died_after_it_accepted(method, deaf):
    """... and the next one knows what was ordered."""
    daemon, pid = deaf()
    pids = daemon.pids()
    order = Order(daemon, method)
    daemon.send("supervisor")
    daemon.until_adopted(1)
    assert daemon.nodes()["flow", "deaf"]["state"] == "stopping", daemon.output()
    until_dead(pid, order.at, daemon)
    wanted = ("failed", 1) if method == "StopNode" else ("running", 2)
    assert eventually(lambda: (n := daemon.nodes()["flow", "deaf"])["state"] == wanted[0] and n["generation"] == wanted[1], 10), daemon.output()
    others_live(daemon, pids)


def test_its_deadline_is_held_though_every_successor_is_stopped(deaf):
    """The supervisor dies, and the next one and the keeper stand still as soon as they are there: the guard has it."""
    daemon, pid = deaf("--watchdog", "0")
    order = Order(daemon, "StopNode")
    dead = daemon.send("supervisor")
    assert eventually(lambda: [p for p in daemon.parts("supervisor") if p not in dead], 10, step=0.0005)
    daemon.send_to(next(p for p in daemon.parts("supervisor") if p not in dead), signal.SIGSTOP)
    keeper = daemon.send("keeper", signo=signal.SIGSTOP)
    until_dead(pid, order.at, daemon)
    for p in keeper + daemon.parts("supervisor"):
        daemon.send_to(p, signal.SIGCONT)
    assert eventually(lambda: daemon.nodes()["flow", "deaf"]["state"] == "failed", 10), daemon.output()
    assert daemon.nodes()["flow", "deaf"].get("killed_by") == "guard"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR2], ids=["guard dies", "reexec"])
def test_who_becomes_the_guard_holds_it_too(how, deaf):
    daemon, pid = deaf("--watchdog", "0")
    order = Order(daemon, "StopNode", grace_ms=2000)
    daemon.send("guard", signo=how)
    daemon.until_adopted(1)
    assert lives(pid)
    struck = daemon.send("supervisor", "keeper", signo=signal.SIGSTOP)
    assert eventually(lambda: not lives(pid), 10), daemon.output()
    assert time.monotonic() - order.at <= 3.1 + BUDGET + SLACK
    for p in struck:
        daemon.send_to(p, signal.SIGCONT)
    assert eventually(lambda: daemon.nodes()["flow", "deaf"]["state"] == "failed", 10), daemon.output()


def test_the_next_life_is_never_meant(deaf):
    """It was polite after all, and its next life is there when the last one's time comes: nothing happens to it."""
    daemon, _ = deaf("--watchdog", "0")
    order = Order(daemon, "RestartNode", node="polite")
    node = order.node()
    assert (node["state"], node["generation"]) == ("running", 2)
    struck = daemon.send("supervisor", signo=signal.SIGSTOP)
    assert time.monotonic() < order.at + T, "this machine is too slow for this test"
    assert not eventually(lambda: not lives(node["pid"]), T + 1.0), daemon.output()
    daemon.send_to(struck[0], signal.SIGCONT)
    assert daemon.nodes()["flow", "polite"]["pid"] == node["pid"]


def test_a_second_order_moves_it_earlier_and_never_later(deaf):
    daemon, pid = deaf("--watchdog", "0")
    Order(daemon, "StopNode", grace_ms=60000)
    order = Order(daemon, "RestartNode", grace_ms=int(GRACE * 1000))
    Order(daemon, "StopNode", grace_ms=60000)
    struck = daemon.send("supervisor", signo=signal.SIGSTOP)
    until_dead(pid, order.at, daemon)
    daemon.send_to(struck[0], signal.SIGCONT)
    assert eventually(lambda: daemon.nodes()["flow", "deaf"]["state"] == "failed", 10), "the last word counts for what follows"


def test_an_order_is_whole_or_was_never_given_whenever_the_supervisor_dies(survivor, tmp_path):
    """Killed at moments from before it has read the order to after it has told the guard, with nobody to follow it up but the guard and a successor."""
    daemon = survivor()
    for i in range(0, 8, 1 if LONG else 2):
        name, file = f"flow{i}", tmp_path / f"pid-{i}"
        begin(daemon, program("deaf", DEAF.format(file)), program("polite", POLITE), name=name)
        pid = told(file)
        supervisor, client, adoptions = daemon.take("supervisor"), daemon.client(), len(daemon.adoptions())
        client.send("StopNode", dataflow=name, node="deaf")
        ordered = time.monotonic()
        time.sleep(i * 0.0003)
        supervisor.send(signal.SIGKILL)
        supervisor.close()
        client.close()
        died = eventually(lambda: not lives(pid), T + BUDGET)
        seconds = time.monotonic() - ordered
        daemon.until_adopted(adoptions + 1)
        expected = ("failed", "stopped") if died else ("running", "running")
        assert eventually(lambda: ((n := daemon.nodes()[name, "deaf"])["state"], n["wanted"]) == expected, 5), f"{seconds:.2f} s\n{daemon.output()}"
        daemon.talk("Stop", dataflow=name, force=True)
        assert not lives(pid)


@pytest.mark.parametrize("method", ["StopNode", "RestartNode"])
def test_an_order_that_only_the_guard_knows_is_the_next_supervisor_s_too(method, deaf):
    """The guard stands still when the order is given, so it cannot confirm, and the supervisor dies before it has written it down."""
    daemon, pid = deaf()
    guard, supervisor, client = daemon.take("guard"), daemon.take("supervisor"), daemon.client()
    guard.send(signal.SIGSTOP)
    client.send(method, dataflow="flow", node="deaf")
    ordered = time.monotonic()
    daemon.call("GetHealth")  # which is served after it
    supervisor.send(signal.SIGKILL)
    guard.send(signal.SIGCONT)
    daemon.until_adopted(1)
    if "guard unresponsive" in daemon.log.read_text():
        pytest.skip("this machine is too busy: more than 200 ms have passed")
    assert f"was ordered to {method[:-4].lower()} when the last supervisor died" in daemon.log.read_text(), daemon.output()
    until_dead(pid, ordered, daemon)
    wanted = ("failed", 1) if method == "StopNode" else ("running", 2)
    assert eventually(lambda: ((n := daemon.nodes()["flow", "deaf"])["state"], n["generation"]) == wanted, 10), daemon.output()
    for process in (guard, supervisor):
        process.close()


def test_more_than_the_guard_can_hold_are_refused_and_go_on(survivor, tmp_path):
    daemon = survivor("--grace-duration", "1s")
    n_held, n = 512, 515
    nodes = [program(f"n{i}", "trap '' TERM; exec sleep 1000") for i in range(n)]
    daemon.talk("Start", plan=plan(*nodes), grace_ms=60000, budget_ms=5000, seconds=60)
    daemon.talk("Wait", dataflow="flow", state="running", seconds=60)
    assert eventually(lambda: all(ignores_sigterm(p) for p in daemon.pids().values()), 60)
    refused = []
    with Client(daemon.socket) as client:
        for i in range(n):
            with pytest.raises(ControlError) as error:
                client.call("StopNode", dataflow="flow", node=f"n{i}", timeout_ms=1000 if i >= n_held else 1)
            if error.value.error != "TimedOut":
                assert error.value.error == "QuotaExceeded", error.value
                refused.append(f"n{i}")
    assert refused == [f"n{i}" for i in range(n_held, n)], refused
    states = {id: node["state"] for (_, id), node in daemon.nodes().items()}
    assert all(states[id] == "running" for id in refused) and list(states.values()).count("stopping") == n_held
    with Client(daemon.socket) as client:  # there is room again once one has ended
        assert client.call("StopNode", dataflow="flow", node="n0", force=True)["node"]["state"] == "failed"
        assert client.call("StopNode", dataflow="flow", node=refused[0], force=True)["node"]["state"] == "failed"
    daemon.talk("Stop", dataflow="flow", force=True, seconds=60)


# A stop that nobody lived to write down


@pytest.mark.parametrize("successor", ["works", "is stopped"])
def test_a_stop_that_only_the_guard_knows_ends_on_time(successor, deaf):
    """The guard stands still when it is ordered, so it cannot confirm, and the supervisor dies at once: whatever it has journalled by then."""
    daemon, pid = deaf("--watchdog", "0")
    guard, supervisor, client = daemon.take("guard"), daemon.take("supervisor"), daemon.client()
    guard.send(signal.SIGSTOP)
    client.send("Stop", dataflow="flow")
    ordered = time.monotonic()
    daemon.call("GetHealth")  # which is served after it
    supervisor.send(signal.SIGKILL)
    guard.send(signal.SIGCONT)
    struck = []
    if successor == "is stopped":
        assert eventually(lambda: [p for p in daemon.parts("supervisor") if p != supervisor.pid], 10, step=0.0005)
        struck = [p for p in daemon.parts("supervisor") if p != supervisor.pid] + daemon.parts("keeper")
        for p in struck:
            daemon.send_to(p, signal.SIGSTOP)
    until_dead(pid, ordered, daemon)
    for p in struck:
        daemon.send_to(p, signal.SIGCONT)
    assert eventually(lambda: daemon.talk("List", all=True)["dataflows"][0]["state"] == "ended", 10), daemon.output()
    for process in (guard, supervisor):
        process.close()


COUNTED = struct.Struct("=QQI")  # fault/fault.c: calls of the system, of memory, whether it has struck
FAR = 10**12


@pytest.mark.parametrize("method,k", [("Stop", k) for k in range(1, 9, 1 if LONG else 3)] + [("StopNode", k) for k in range(1, 13, 1 if LONG else 4)])
def test_an_order_is_kept_or_was_never_given_at_whatever_call_its_supervisor_dies(method, k, survivor, build, sanitizer, tmp_path):
    """Killed before its k-th call after the order. Many have died before, so that the next one comes long after the deadline: there is the guard alone."""
    if sanitizer:
        pytest.skip("the sanitizer has an allocator of its own")
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(256))
    daemon = survivor("--watchdog", "0", env={"LD_PRELOAD": str(build / "tests/system/libfault.so"), "TIDEGATE_FAULT": f"{shared}:supervisor:calls:before:{FAR}"})
    daemon.talk("Start", plan=plan(program("deaf", DEAF.format(tmp_path / "pid")), program("polite", POLITE)), grace_ms=400, budget_ms=500)
    pid = told(tmp_path / "pid")
    for n in range(1, 8):  # after which another one is awaited for 0, 50, 100, 200, 400, 800 and 1600 ms
        daemon.send("supervisor")
        daemon.until_adopted(n)
    assert "the next one starts in 1600 ms" in daemon.log.read_text()

    def counted():
        return COUNTED.unpack(shared.read_bytes()[: COUNTED.size])

    def rests(before=[-1]):
        """It makes no call any more."""
        before.append(counted()[0])
        return before[-1] == before[-2] > 0

    client = daemon.client()
    client.call("GetHealth")
    assert eventually(rests, 10, step=0.1)
    with open(shared, "r+b", buffering=0) as file:
        file.write(struct.pack("=Q", FAR - k))
    client.send(method, dataflow="flow", **({"node": "deaf"} if method == "StopNode" else {}))
    if not eventually(lambda: counted()[2], 1, step=0.001):
        pytest.skip("there are not so many calls")
    assert eventually(lambda: "the next one starts in 3200 ms" in daemon.log.read_text(), 2), daemon.output()
    died = eventually(lambda: not lives(pid), 2.8)  # its time is 0.7 s
    assert not died or len(daemon.adoptions()) == 7, "this machine is too slow for this test"
    daemon.until_adopted(8)
    if died:
        until = {"Stop": lambda: daemon.talk("List", all=True)["dataflows"][0]["state"] == "ended",
                 "StopNode": lambda: daemon.nodes()["flow", "deaf"]["state"] == "failed"}[method]  # fmt: skip
        assert eventually(until, 10), daemon.output()
    else:
        flow = daemon.talk("Status", names=["flow"])["dataflows"][0]
        node = daemon.nodes()["flow", "deaf"]
        assert (flow["wanted"], node["wanted"], node["state"]) == ("running", "running", "running"), f"it was ordered, and late\n{daemon.output()}"
