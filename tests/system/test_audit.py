# SPDX-License-Identifier: Apache-2.0
"""What is left after a stop is counted: the ledger's last rung says so, and what it says is so."""

import collections
import os
import sys

import pytest
from client import Client
from conftest import eventually
from daemon import STUBBORN, plan, program, until_deaf
from lives import SLACK

LEFT = ["left_processes", "left_cgroups", "left_memfds", "left_sockets", "left_files"]
NOTHING = dict.fromkeys(LEFT, 0)


def links_of(pid):
    """What a process has open."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass
    return sorted(found)


def regions_of(pid):
    """Shared memory of ours among it."""
    return [link for link in links_of(pid) if link.startswith("/memfd:tidegate-")]


def audits(ledger):
    return [e for e in ledger if e["rung"] == "audit"]


def left(audit):
    return {key: audit[key] for key in LEFT}


def test_a_run_says_whom_it_killed_what_is_left_and_how_long_the_killing_took(live, script, dataflow, nothing_left):
    tree = script("tree", "trap '' TERM\nfor i in 1 2 3; do sleep 1000 & done\necho runs\nwait; wait")
    run = live(dataflow({"nodes": [{"id": "tree", "path": str(tree)}]}), "--grace-duration", "100ms")
    run.until("runs")
    run.process.terminate()
    run.wait(0.15 + 2 + SLACK)
    result = run.result()
    (rung,) = audits(result["ledger"])
    assert left(result["audit"]) == left(rung) == NOTHING
    assert result["audit"]["killed"] == result["killed"] >= 1
    assert rung["result"] == f"killed {result['killed']}, left 0, {result['audit']['ms']} ms"
    assert rung == result["ledger"][-1] and "node" not in rung
    assert result["audit"]["ms"] <= result["stop_ms"]
    nothing_left()


def test_of_a_dataflow_that_ends_by_itself_it_says_the_same_without_a_time(live, dataflow, nothing_left):
    run = live(dataflow({"nodes": [{"id": "brief", "path": "true"}]})).wait(20)
    (rung,) = audits(run.result()["ledger"])
    assert rung["result"] == "killed 0, left 0" and "ms" not in rung
    assert run.result()["audit"] == {"killed": 0, **NOTHING}
    nothing_left()


PEERS = {
    "nodes": [
        {"id": "source", "path": "sleep", "args": "1000", "outputs": ["out"], "startup_timeout": 1.0},
        {"id": "sink", "path": "sleep", "args": "1000", "inputs": {"in": "source/out"}, "startup_timeout": 1.0},
    ]
}


def test_a_dataflow_that_has_ended_holds_no_memory_no_socket_and_no_file_of_the_daemon(daemon, tidegate, dataflow):
    """It stays listed until somebody forgets it; what it had, it has not any more."""
    guard, supervisor = daemon.process.pid, daemon.supervisor()
    before = {pid: links_of(pid) for pid in (guard, supervisor)}
    started = tidegate("start", "--runtime-dir", daemon.runtime, dataflow(PEERS, "peers.yml"), "--detach", "--no-logs", "--grace-duration", "100ms")
    assert started.returncode == 1 and "never connected" in started.stderr + started.stdout, "no node of ours, so the start fails"
    assert eventually(lambda: daemon.status("peers")["state"] == "ended", 10)
    assert regions_of(guard) + regions_of(supervisor) == []
    assert os.listdir(daemon.runtime / "keeper") == []

    def held():
        """What the two hold that they did not: the connection of the last question is closed after its answer."""
        extra = [link for pid, was in before.items() for link in (collections.Counter(links_of(pid)) - collections.Counter(was)).elements()]
        return [link for link in extra if "/journal/" not in link and not link.endswith("/status.0")]

    assert eventually(lambda: not held(), 10), f"besides what is known of it, until it is forgotten: {held()}"
    assert "audit: killed" in daemon.log.read_text() and "left 0" in daemon.log.read_text()


def start(daemon, *nodes, **parameters):
    with Client(daemon.socket) as client:
        assert "running" in str(list(client.stream("Start", plan=plan(*nodes), **parameters))[-1])


def test_a_node_that_is_stopped_alone_is_audited_alone(daemon):
    start(daemon, program("deaf", STUBBORN), program("stays", "sleep 1000"))
    until_deaf(daemon)
    with Client(daemon.socket) as client:
        client.call("StopNode", dataflow="flow", node="deaf", grace_ms=50)
        client.call("RestartNode", dataflow="flow", node="stays", grace_ms=1000)
        result = client.call("Stop", dataflow="flow", grace_ms=1000)["results"][0]
    deaf, stays, whole = audits(result["ledger"])
    assert (deaf["node"], stays["node"], whole.get("node")) == ("deaf", "stays", None)
    assert deaf["killed"] >= 1 and stays["killed"] == 0 and whole["killed"] == deaf["killed"]
    assert left(deaf) == left(stays) == left(whole) == NOTHING
    assert deaf["result"] == f"killed {deaf['killed']}, left 0, {deaf['ms']} ms"


FOREIGN = "import os, sys; fd = os.memfd_create('tidegate-stray', 0); os.execv(sys.argv[1], sys.argv[1:])"


def test_memory_that_no_table_of_the_supervisor_knows_is_found_and_told_once(start_daemon):
    daemon = start_daemon(prefix=[sys.executable, "-c", FOREIGN])
    if not regions_of(daemon.supervisor()):
        pytest.fail("the supervisor was to inherit a memfd that nobody knows of")
    results = []
    for _ in range(2):
        start(daemon, program("a", "sleep 1000"))
        with Client(daemon.socket) as client:
            results.append(client.call("Stop", dataflow="flow")["results"][0])
            client.call("Clean")
    first, second = results
    assert left(first["audit"]) == {**NOTHING, "left_memfds": 1} and audits(first["ledger"])[0]["result"] == "killed 0, left 1 memfd"
    assert any("left 1 memfd" in note["text"] and "tidegate audit" in note["text"] for note in first["notes"])
    assert left(second["audit"]) == NOTHING


def test_a_guard_that_does_not_answer_delays_the_end_by_little_and_is_named(daemon):
    start(daemon, program("a", "exec sleep 1000"))
    pid = daemon.status("flow")["nodes"][0]["pid"]
    guard = daemon.process.pid
    os.kill(guard, 19)
    try:
        os.kill(pid, 9)
        assert eventually(lambda: daemon.status("flow")["state"] == "ended", 5 + SLACK)
    finally:
        os.kill(guard, 18)
    assert "did not say that it has let go" in daemon.output()
