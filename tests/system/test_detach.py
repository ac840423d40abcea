# SPDX-License-Identifier: Apache-2.0
"""`detach: true`: a node that shall outlive its dataflow is a dataflow of its own, held and ended like any other."""

import json
import os
import signal

import pytest
from client import Client, ControlError
from conftest import eventually
from daemon import STUBBORN, plan, program, until_deaf
from lives import status_field
from test_control_hostile import NOBODY, as_user, open_daemon  # noqa: F401

SLEEP = "exec sleep 1000"


def start(daemon, *nodes, name="flow", **parameters):
    """Its notes, and the last reply."""
    with Client(daemon.socket) as client:
        replies = list(client.stream("Start", plan=plan(*nodes, name=name), **parameters))
    notes = {r["event"]["node"]: r["event"]["text"] for r in replies if "event" in r and r["event"]["type"] == "note" and "node" in r["event"]}
    return notes, replies[-1]


def detached(id="keeps", script=SLEEP, **keys):
    return program(id, script, detach=True, **keys)


def alive(daemon):
    return {d["name"]: d for d in daemon.call("List")["dataflows"] if d["state"] != "ended"}


def pid_of(daemon, name, id):
    return {node["id"]: node["pid"] for node in daemon.status(name)["nodes"]}[id]


def has_ended(pid):
    """Gone, or a zombie, which a supervisor that sleeps lets nobody reap."""
    try:
        return status_field(pid, "State")[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # also one that goes between open() and read()
        return True


def cgroup_of(pid):
    return next(line[3:-1] for line in open(f"/proc/{pid}/cgroup") if line.startswith("0::"))


def test_it_outlives_the_stop_of_its_dataflow_in_a_cgroup_of_its_own(daemon):
    notes, _ = start(daemon, program("a", SLEEP), detached(), wait="running")
    assert "runs as dataflow flow.keeps" in notes["keeps"]
    flows = alive(daemon)
    assert flows["flow.keeps"]["detached_from"] == "flow" and "detached_from" not in flows["flow"]
    assert [n["id"] for n in daemon.status("flow")["nodes"]] == ["a"]
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pid = pid_of(daemon, "flow.keeps", "keeps")
    assert flows["flow"]["uuid"] not in cgroup_of(pid) and flows["flow.keeps"]["uuid"] in cgroup_of(pid)
    assert daemon.call("Stop", dataflow="flow")["results"][0]["left"] == 0
    assert list(alive(daemon)) == ["flow.keeps"] and pid_of(daemon, "flow.keeps", "keeps") == pid
    assert daemon.call("Stop", dataflow="flow.keeps")["results"][0]["success"]
    assert not os.path.exists(f"/proc/{pid}")


def test_a_second_start_leaves_it_alone_and_says_so(daemon):
    start(daemon, program("a", SLEEP), detached(), wait="running")
    eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pid = pid_of(daemon, "flow.keeps", "keeps")
    notes, _ = start(daemon, program("a", SLEEP), detached(), replace=True, wait="running")
    assert notes["keeps"] == "detached, and runs already as dataflow flow.keeps: is left alone"
    notes, _ = start(daemon, program("a", SLEEP), detached(script="exec sleep 1001"), replace=True, wait="running")
    assert "although it was to be another: stop it first" in notes["keeps"]
    assert pid_of(daemon, "flow.keeps", "keeps") == pid and sorted(alive(daemon)) == ["flow", "flow.keeps"]
    daemon.call("Stop", dataflow="flow.keeps")
    notes, _ = start(daemon, program("a", SLEEP), detached(script="exec sleep 1001"), replace=True, wait="running")
    assert "it runs as dataflow flow.keeps" in notes["keeps"]
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps") not in (0, pid), 10)


def test_one_that_is_being_stopped_is_waited_for(daemon):
    start(daemon, program("a", SLEEP), detached(script=STUBBORN), wait="running")
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    until_deaf(daemon, "flow.keeps")
    old = pid_of(daemon, "flow.keeps", "keeps")
    with Client(daemon.socket) as stopping:
        stopping.send("Stop", more=True, dataflow="flow.keeps", grace_ms=500)
        told = stopping.replies()
        assert next(r for r in told if r["event"].get("state") == "stopping")
        notes, _ = start(daemon, program("a", SLEEP), detached(), replace=True, wait="running")
        assert "it runs as dataflow flow.keeps" in notes["keeps"]
        assert eventually(lambda: alive(daemon).get("flow.keeps", {}).get("state") == "running", 10)
        assert has_ended(old), "never two beside each other"
        assert list(told)[-1]["results"]


def test_it_is_found_and_stopped_by_the_name_of_the_node(daemon, tidegate):
    start(daemon, program("a", SLEEP), detached(), wait="running")
    at = ("--runtime-dir", daemon.runtime)
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    assert "flow.keeps:keeps" in tidegate("status", "flow:keeps", *at).stdout
    assert "Detached: from flow, whose stop leaves it" in tidegate("status", "flow.keeps", *at).stdout
    assert json.loads(tidegate("node", "info", "flow:keeps", "--json", *at).stdout)["dataflow"] == "flow.keeps"
    p = tidegate("node", "stop", "flow:keeps", *at)
    assert p.returncode == 0, p.stderr
    assert eventually(lambda: list(alive(daemon)) == ["flow"], 10)
    # A client of the interface names it so, too.
    start(daemon, program("a", SLEEP), detached(), name="other", wait="running")
    assert eventually(lambda: pid_of(daemon, "other.keeps", "keeps"), 10)
    daemon.call("StopNode", dataflow="other", node="keeps")
    assert eventually(lambda: "other.keeps" not in alive(daemon), 10)


def test_it_is_restarted_by_its_own_policy_after_its_dataflow_has_ended(daemon):
    restart = {"policy": "always", "max_restarts": 0, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0}
    start(daemon, program("a", SLEEP), detached(restart=restart), wait="running")
    daemon.call("Stop", dataflow="flow")
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pid = pid_of(daemon, "flow.keeps", "keeps")
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps") not in (0, pid), 10)


def test_it_survives_the_death_of_the_supervisor_and_ends_with_its_successor(daemon):
    start(daemon, program("a", SLEEP), detached(), wait="running")
    daemon.call("Stop", dataflow="flow")
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pid, before = pid_of(daemon, "flow.keeps", "keeps"), daemon.supervisor()
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: daemon.supervisor() not in (None, before) and pid_of(daemon, "flow.keeps", "keeps") == pid, 10)
    assert alive(daemon)["flow.keeps"]["detached_from"] == "flow"
    notes, _ = start(daemon, program("a", SLEEP), detached(), wait="running")
    assert "runs already" in notes["keeps"], "the successor starts no second one"


@pytest.mark.parametrize("whom", ["guard", "guard and supervisor"])
def test_it_survives_the_deaths_of_the_guard_and_of_both_and_is_what_it_was(whom, survivor):
    daemon = survivor()
    start(daemon, program("a", SLEEP), detached(), wait="running")
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pids = {key: pid for key, pid in daemon.pids().items()}
    assert set(pids) == {("flow", "a"), ("flow.keeps", "keeps")}
    if whom == "guard":
        daemon.send("guard")
    else:
        daemon.kill_both()
        daemon.again()
        daemon.wait_until_ready()
    assert daemon.until_adopted(1)[:3] == (2, 0, 0), daemon.output()
    assert daemon.pids() == pids
    flows = {d["name"]: d for d in daemon.talk("List")["dataflows"]}
    assert (flows["flow.keeps"]["detached_from"], flows["flow.keeps"]["state"], flows["flow"]["state"]) == ("flow", "running", "running")
    assert daemon.talk("Stop", seconds=20, dataflow="flow")["results"][0]["left"] == 0
    assert daemon.pids() == {("flow.keeps", "keeps"): pids["flow.keeps", "keeps"]}, "the stop of its dataflow leaves it alone"
    notes, _ = start(daemon, program("a", SLEEP), detached(), wait="running")
    assert "runs already as dataflow flow.keeps" in notes["keeps"], "and no second one is started"
    (result,) = daemon.talk("Stop", seconds=20, dataflow="flow.keeps")["results"]
    assert result["left"] == 0 and not os.path.exists(f"/proc/{pids['flow.keeps', 'keeps']}")


@pytest.mark.parametrize("force", [False, True])
def test_down_ends_it(daemon, force, tidegate):
    start(daemon, program("a", SLEEP), detached(script=STUBBORN if force else SLEEP), wait="running")
    daemon.call("Stop", dataflow="flow")
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pid = pid_of(daemon, "flow.keeps", "keeps")
    tidegate("down", *(["--force"] if force else []), "--runtime-dir", daemon.runtime)
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"), 5)
    assert daemon.process.wait(10) == 0


@pytest.mark.skipif(not os.environ.get("TIDEGATE_LONG"), reason="takes 16 s: with --long")
def test_down_force_ends_it_also_when_the_supervisor_says_nothing(daemon, tidegate):
    start(daemon, program("a", SLEEP), detached(script=STUBBORN), wait="running")
    assert eventually(lambda: pid_of(daemon, "flow.keeps", "keeps"), 10)
    pid = pid_of(daemon, "flow.keeps", "keeps")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    os.kill(daemon.supervisor(), signal.SIGSTOP)
    tidegate("down", "--force", "--timeout", "1s", "--runtime-dir", daemon.runtime)
    assert eventually(lambda: has_ended(pid), 5)
    if daemon.process.poll() is None:
        os.kill(daemon.process.pid, signal.SIGCONT)
        assert daemon.process.wait(20) == 0


def test_its_name_may_be_taken(daemon):
    start(daemon, program("a", SLEEP), name="flow.keeps", wait="running")
    with pytest.raises(ControlError) as e:
        start(daemon, program("a", SLEEP), detached())
    assert e.value.error == "Busy" and "another dataflow of that name is running" in e.value.parameters["text"]
    assert list(alive(daemon)) == ["flow.keeps"], "and nothing was begun"


@pytest.mark.parametrize(
    "nodes,complaint",
    [
        ([detached()], 'every node has "detach"'),
        ([program("a", SLEEP), detached(after=[{"node": "a", "until": "started", "line": 1}])], "a program that is after nobody"),
        ([program("a", SLEEP, after=[{"node": "keeps", "until": "started", "line": 1}]), detached()], "nobody can be after it"),
        ([program("a", SLEEP), detached(kind="node", outputs=["o"])], "of a program"),
        ([program("a", SLEEP), detached("x" * 125)], "too long together"),
        ([program("a", SLEEP), program("b", SLEEP, detach=1)], "true or false"),
    ],
)
def test_a_plan_in_which_it_makes_no_sense_is_refused(daemon, nodes, complaint):
    with pytest.raises(ControlError) as e:
        start(daemon, *nodes)
    assert e.value.error == "InvalidPlan" and complaint in e.value.parameters["text"]
    assert alive(daemon) == {}


def test_a_run_without_the_daemon_ends_it_and_says_so(dataflow, live, nothing_left):
    run = live(dataflow({"nodes": [{"id": "a", "path": "/bin/true"}, {"id": "keeps", "path": "/bin/sleep", "args": "1000", "detach": True}]}), "--stop-after", "1s")
    run.wait(15)
    assert "under `tidegate run` it ends with the others" in run.output()
    nothing_left()


def test_each_counts_among_the_dataflows_that_a_user_may_run(open_daemon):  # noqa: F811
    """And so does one that is begun again after its end, but not the one that takes another's place."""
    LIMIT = 64
    daemon = open_daemon()

    def refused(**call):
        with Client(daemon.socket) as client, pytest.raises(ControlError) as error:
            client.call(**call)
        assert error.value.error == "QuotaExceeded", error.value
        return str(error.value)

    def go():
        def run(name, *nodes, **parameters):
            start(daemon, *nodes, name=name, **parameters)

        run("first", program("a", "true"), wait="ended")
        with Client(daemon.socket) as client:
            for i in range(LIMIT - 1):
                client.call("Start", plan=plan(program("a", SLEEP), name=f"flow{i}"))
        said = refused(method="Start", plan=plan(program("a", SLEEP), detached(), name="two"))
        run("last", program("a", SLEEP), wait="running")
        again = refused(method="Restart", dataflow="first")
        run("last", program("a", SLEEP), replace=True, wait="running")
        with Client(daemon.socket) as client:
            client.call("Restart", dataflow="flow0", force=True)
        return said, again

    said, again = as_user(NOBODY, go)
    assert f"you run {LIMIT - 1} dataflows already, and may run {LIMIT}" in said
    assert f"you run {LIMIT} dataflows already" in again
