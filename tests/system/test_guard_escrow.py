# SPDX-License-Identifier: Apache-2.0
"""What the guard enforces when the supervisor cannot, and that it is told afterwards: who was killed, when, and by whom."""

import signal
import time

import pytest
from conftest import eventually
from daemon import plan, program
from lives import SLACK, Process, stat_of, status_field

GRACE, BUDGET = 0.6, 1.0
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


def begin(daemon, *nodes, name="flow"):
    daemon.talk("Start", plan=plan(*nodes, name=name), grace_ms=int(GRACE * 1000), budget_ms=int(BUDGET * 1000))
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
    daemon = survivor()
    begin(daemon, program("deaf", DEAF.format(tmp_path / "pid")))
    told(tmp_path / "pid")
    result = daemon.talk("Stop", dataflow="flow", seconds=20)["results"][0]
    assert [(n["killed"], n["killed_by"]) for n in result["nodes"]] == [(True, "keeper")]
    assert daemon.nodes()["flow", "deaf"]["killed_by"] == "keeper"


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


def test_an_enforcer_that_is_killed_at_its_work_is_followed_by_another(mixed):
    """Three of them are killed as soon as they are seen; as a rule at least the first before it has killed anybody."""
    daemon, child = mixed("--watchdog", "0")
    guard = daemon.guard_pid()
    _, ordered = order_stop(daemon)
    for pid in daemon.parts("supervisor") + daemon.parts("keeper"):
        daemon.send_to(pid, signal.SIGSTOP)
    struck = []

    def forked():
        with open(f"/proc/{guard}/task/{guard}/children") as children:
            return set(map(int, children.read().split()))

    def strike():
        """Whoever the guard forks next."""
        for pid in forked():
            if pid not in known and pid not in struck:
                struck.append(pid)
                daemon.send_to(pid, signal.SIGKILL)
        return not lives(child) or len(struck) >= 3

    known = forked()
    assert eventually(strike, 10, step=0.0002) and struck, daemon.output()
    until_dead(child, ordered, daemon)
    for pid in daemon.parts("supervisor") + daemon.parts("keeper"):
        daemon.send_to(pid, signal.SIGCONT)
    assert eventually(lambda: daemon.talk("List", all=True)["dataflows"][0]["state"] == "ended", 10), daemon.output()
