# SPDX-License-Identifier: Apache-2.0
"""The daemon's control interface: what each method does, and that two orders at once leave one result."""

import json
import os
import signal
import subprocess
import threading
import time

import interface
import pytest
from client import Client, ControlError
from conftest import PYTHON, ROOT, eventually
from daemon import STUBBORN, plan, program, until_deaf
from lives import Process

SLEEP = "exec sleep 1000"


def start(daemon, *nodes, name="flow", **parameters):
    """Start and wait until it runs, or has ended; returns the last reply."""
    with Client(daemon.socket) as client:
        last = list(client.stream("Start", plan=plan(*nodes, name=name), **parameters))[-1]
    if any(STUBBORN in node["argv"] for node in nodes):
        until_deaf(daemon, name)
    return last


def refused(client, error, method, **parameters):
    with pytest.raises(ControlError) as e:
        client.call(method, **parameters)
    assert e.value.error == error, e.value
    return e.value.parameters


# Life of a dataflow


def test_a_dataflow_is_started_listed_followed_and_stopped(daemon):
    listener = daemon.client()
    listener.send("Events", more=True)
    replies = list(daemon.client().stream("Start", plan=plan(program("a", SLEEP))))
    assert replies[0]["event"]["type"] == "accepted"
    uuid = replies[0]["event"]["uuid"]
    assert replies[-1] == {"uuid": uuid, "state": "running"}
    listed = daemon.call("List")["dataflows"]
    assert [(d["uuid"], d["name"], d["state"], d["wanted"], d["n_running"]) for d in listed] == [(uuid, "flow", "running", "running", 1)]
    assert listed[0]["nodes"] == []
    node = daemon.status("flow")["nodes"][0]
    assert (node["id"], node["state"], node["generation"]) == ("a", "running", 1)

    replies = list(daemon.client().stream("Stop", dataflow=uuid[:8]))
    assert [r["event"]["rung"] for r in replies if r.get("event", {}).get("type") == "ledger"][:2] == ["stop", "escrow"]
    (result,) = replies[-1]["results"]
    assert (result["uuid"], result["success"], result["left"]) == (uuid, True, 0)
    assert daemon.call("List")["dataflows"] == []
    assert [d["result"] for d in daemon.call("List", all=True)["dataflows"]] == ["succeeded"]
    assert daemon.call("Clean") == {"cleaned": 1}
    assert daemon.call("List", all=True)["dataflows"] == []

    states = []
    while states[-1:] != ["ended"]:
        event = listener.reply()[0]["event"]
        assert event["name"] == "flow" and event["dataflow"] == uuid
        if event["type"] == "dataflow":
            states.append(event["state"])
    assert states == ["starting", "running", "stopping", "ending", "ended"]
    log = daemon.log.read_text()
    for state in states:
        assert log.count(f"{uuid[:8]}: {state}") == 1, "each change of state is logged once"


def test_a_start_that_fails_or_ends_has_its_result_in_the_last_reply(daemon):
    last = start(daemon, program("a", "exit 3"), wait="ended")
    assert last["state"] == "ended"
    assert (last["result"]["success"], last["result"]["nodes"][0]["exit"]) == (False, {"code": "exited", "status": 3})
    missing = program("b", "")
    missing["argv"] = ["/nonexistent"]
    last = start(daemon, missing, name="other")
    assert last["state"] == "ended" and "/nonexistent" in last["result"]["error"]


def test_what_the_call_says_is_what_nodes_get(daemon, tmp_path):
    tell = program("a", "umask; pwd; echo $A $B; env | wc -l; exec sleep 1000")
    tell["env"] = {"B": "plan"}
    replies = daemon.client().stream("Start", plan=plan(tell, directory=str(tmp_path)), name="named", environment=["A=call", "B=call", "PATH=/usr/bin:/bin"],
                                     umask=0o27, log_dir=str(tmp_path / "out"))  # fmt: skip
    uuid = list(replies)[-1]["uuid"]
    assert daemon.status("named")["log_dir"] == f"{tmp_path}/out/{uuid}"
    lines = eventually(lambda: _messages(tmp_path / "out" / uuid / "log_a.jsonl", 4), 10)
    assert lines[:3] == ["0027", str(tmp_path), "call plan"]
    assert int(lines[3]) <= 8, "nothing of the daemon's environment"
    daemon.call("Restart", dataflow="named")
    again = eventually(lambda: next((d for d in daemon.call("List")["dataflows"] if d["uuid"] != uuid and d["n_running"]), None), 10)
    assert again["log_dir"] == f"{tmp_path}/out/{again['uuid']}"
    assert eventually(lambda: _messages(tmp_path / "out" / again["uuid"] / "log_a.jsonl", 4), 10) == lines


def _messages(path, n):
    try:
        lines = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return None
    return lines if len(lines) >= n else None


def test_names_and_beginnings_of_uuids_mean_what_the_interface_says(daemon):
    first = start(daemon, program("a", SLEEP))["uuid"]
    client = daemon.client()
    for name in ("flow", first, first[:4], first[:13]):
        assert [d["uuid"] for d in client.call("Status", names=[name])["dataflows"]] == [first]
    refused(client, "NoSuchDataflow", "Status", names=["nope"])
    refused(client, "NoSuchDataflow", "Stop", dataflow=first[:3])
    refused(client, "NoSuchNode", "StopNode", dataflow="flow", node="b")
    client.call("Stop", dataflow="flow")
    refused(client, "NotRunning", "Stop", dataflow="flow")
    second = start(daemon, program("a", SLEEP))["uuid"]
    assert client.call("Status", names=["flow"])["dataflows"][0]["uuid"] == second, "one that lives comes before one that has ended"
    assert client.call("Status", names=[first])["dataflows"][0]["state"] == "ended"
    assert {d["uuid"] for d in client.call("Status")["dataflows"]} == {first, second}
    refused(client, "Busy", "Clean", dataflow=second)
    refused(client, "Busy", "Restart", dataflow=first)
    assert client.call("Clean", dataflow=first) == {"cleaned": 1}


def test_ended_dataflows_are_kept_up_to_a_hundred(daemon):
    client = daemon.client()
    uuids = [client.call("Start", plan=plan(program("a", "exit 0"), name=f"n{i}"))["uuid"] for i in range(103)]
    assert eventually(lambda: client.call("List")["dataflows"] == [], 20)
    kept = {d["uuid"] for d in client.call("List", all=True)["dataflows"]}
    assert len(kept) == 100
    assert kept <= set(uuids)
    assert client.call("Clean") == {"cleaned": 100}


# Two at once


def test_a_second_start_of_a_name_is_busy_unless_it_replaces(daemon):
    first = start(daemon, program("a", SLEEP))["uuid"]
    client = daemon.client()
    assert "running" in refused(client, "Busy", "Start", plan=plan(program("a", SLEEP)))["text"]
    replies = list(client.stream("Start", plan=plan(program("a", SLEEP)), replace=True))
    accepted, last = replies[0]["event"], replies[-1]
    assert last["state"] == "running" and last["uuid"] == accepted["uuid"] != first
    steps = [(r["event"]["dataflow"], r["event"]["state"]) for r in replies[1:-1] if r["event"]["type"] == "dataflow"]
    assert steps == [(first, "stopping"), (first, "ending"), (first, "ended"), (last["uuid"], "starting"), (last["uuid"], "running")]
    assert [d["uuid"] for d in client.call("List")["dataflows"]] == [last["uuid"]]


def test_one_that_waits_says_so_and_a_stop_by_name_ends_both(daemon):
    first = start(daemon, program("a", STUBBORN), grace_ms=1500)["uuid"]
    client = daemon.client()
    second = client.call("Start", plan=plan(program("a", SLEEP)), replace=True)["uuid"]
    by_uuid = {d["uuid"]: d for d in client.call("List")["dataflows"]}
    assert by_uuid[first]["state"] == "stopping" and by_uuid[first]["wanted"] == "stopped"
    assert (by_uuid[second]["state"], by_uuid[second]["waits_for"], by_uuid[second]["wanted"]) == ("beginning", first, "running")
    assert client.call("Status", names=["flow"])["dataflows"][0]["uuid"] == first
    third = client.call("Restart", dataflow=first)["uuid"]
    assert "took its place" in client.call("Status", names=[second])["dataflows"][0]["error"]
    assert {d["uuid"] for d in client.call("List")["dataflows"]} == {first, third}
    refused(client, "NotRunning", "StopNode", dataflow=third, node="a")
    results = client.call("Stop", dataflow="flow")["results"]
    assert {r["uuid"]: r["success"] for r in results} == {first: False, third: False}
    assert client.call("List")["dataflows"] == []


@pytest.mark.parametrize("replace", [False, True])
def test_two_starts_of_one_name_at_the_same_instant_leave_one(daemon, replace):
    clients = [daemon.client() for _ in range(8)]
    barrier = threading.Barrier(len(clients))
    accepted, busy = [], []

    def go(client):
        barrier.wait()
        try:
            accepted.append(client.call("Start", plan=plan(program("a", SLEEP)), replace=replace)["uuid"])
        except ControlError as e:
            busy.append(e.error)

    threads = [threading.Thread(target=go, args=(c,)) for c in clients]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    if not replace:
        assert len(accepted) == 1 and busy == ["Busy"] * 7
    else:
        assert len(accepted) == 8 and busy == []

    def settled():
        live = daemon.call("List")["dataflows"]
        return live if len(live) == 1 and live[0]["state"] == "running" else None

    (live,) = eventually(settled, 10)
    assert live["uuid"] in accepted
    ended = [d for d in daemon.call("List", all=True)["dataflows"] if d["state"] == "ended"]
    assert len(ended) == len(accepted) - 1
    begun = max(ended + [live], key=lambda d: d["started_at_ms"])
    assert live["started_at_ms"] == begun["started_at_ms"], "the last that was accepted is the one that lives"


def test_what_was_accepted_goes_on_when_its_client_vanishes(daemon):
    client = daemon.client()
    client.send("Start", more=True, plan=plan(program("a", "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.05; done")))
    assert client.reply()[0]["event"]["type"] == "accepted"
    client.close()
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 10)
    client = daemon.client()
    client.send("Stop", dataflow="flow", more=True)
    client.reply()
    client.close()
    assert eventually(lambda: daemon.status("flow")["state"] == "ended", 10)
    client = daemon.client()
    client.send("Start", oneway=True, plan=plan(program("a", SLEEP)))
    client.close()
    assert eventually(lambda: daemon.call("List")["dataflows"], 10)
    assert daemon.call("GetHealth")["health"]["n_clients"] == 1


# One node


def test_a_node_is_stopped_restarted_and_signalled(daemon, tmp_path):
    go = tmp_path / "go"
    careful = f"trap 'exit 0' TERM; trap 'echo usr1' USR1; sleep 1000 & while ! test -e {go}; do sleep 0.02; done; echo up; while :; do wait; done"
    start(daemon, program("a", careful), program("b", SLEEP))
    client, lines = daemon.client(), daemon.client()
    lines.send("Logs", more=True, dataflow="flow", nodes=["a"])
    assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] >= 3, 5)
    go.touch()
    assert lines.reply()[0]["line"]["line"] == "up"
    node = client.call("RestartNode", dataflow="flow", node="a")["node"]
    assert (node["state"], node["generation"], node["restarts"]) == ("running", 2, 1)
    assert lines.reply()[0]["line"]["line"] == "up"
    node = client.call("StopNode", dataflow="flow", node="a")["node"]
    assert (node["state"], node["wanted"], node["exit"]) == ("stopped", "stopped", {"code": "exited", "status": 0})
    assert daemon.status("flow")["state"] == "running", "the others run on"
    refused(client, "NotRunning", "SignalNode", dataflow="flow", node="a", signal=10)
    node = client.call("RestartNode", dataflow="flow", node="a")["node"]
    assert (node["state"], node["generation"]) == ("running", 3)
    assert lines.reply()[0]["line"]["line"] == "up"
    assert client.call("SignalNode", dataflow="flow", node="a", signal=signal.SIGUSR1) == {"sent": 1}
    assert lines.reply()[0]["line"]["line"] == "usr1"
    assert client.call("SignalNode", dataflow="flow", node="a", signal=signal.SIGCONT, all=True)["sent"] == 2
    assert not [r for r in client.call("Stop", dataflow="flow")["results"][0]["ledger"] if r["at_ms"] < 0], "a signal is no rung of a stop"


def test_a_failed_node_is_reset(daemon, tmp_path):
    flag = tmp_path / "flag"
    crash = program("a", f"test -e {flag} && exec sleep 1000; exit 1", restart={"policy": "on-failure", "max_restarts": 2, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0})
    start(daemon, crash, program("b", SLEEP))
    client = daemon.client()
    assert client.call("Wait", dataflow="flow", node="a", state="failed") == {"state": "failed"}
    flag.touch()
    assert client.call("Reset", dataflow="flow") == {"reset": 1}
    assert client.call("Wait", dataflow="flow", node="a", state="running") == {"state": "running"}
    assert daemon.status("flow")["nodes"][0]["generation"] == 4


# Waiting


def test_wait_replies_when_it_is_so_or_cannot_be_any_more(daemon, tmp_path):
    gates = {id: tmp_path / id for id in "ab"}
    start(daemon, *(program(id, f"while ! test -e {gate}; do sleep 0.02; done") for id, gate in gates.items()))
    client = daemon.client()
    begin = time.monotonic()
    refused(client, "TimedOut", "Wait", dataflow="flow", state="ended", timeout_ms=100)
    assert 0.1 <= time.monotonic() - begin < 0.4
    assert client.call("Wait", dataflow="flow", state="running") == {"state": "running"}
    client.send("Wait", dataflow="flow", node="a", state="stopping")
    daemon.call("GetHealth")  # it came later, so the other call has been taken
    gates["a"].touch()
    assert client.reply() == ({"state": "stopping"}, False), "if only for a moment"
    assert client.call("Wait", dataflow="flow", node="a", state="ended") == {"state": "stopped"}
    assert refused(client, "NotReachable", "Wait", dataflow="flow", node="a", state="running")["state"] == "stopped"
    gates["b"].touch()
    assert client.call("Wait", dataflow="flow", state="ended") == {"state": "ended"}
    assert refused(client, "NotReachable", "Wait", dataflow="flow", state="running")["state"] == "ended"
    assert refused(client, "InvalidParameter", "Wait", dataflow="flow", state="purple") == {"parameter": "state"}


# Streams


def test_lines_arrive_as_they_are_printed_and_the_stream_ends_with_the_dataflow(daemon, tmp_path):
    go = tmp_path / "go"
    script = f"while ! test -e {go}; do sleep 0.02; done; seq 1 500; echo error >&2; printf 'a\\377b\\n'"
    start(daemon, program("a", script), program("b", script))
    both, one = daemon.client(), daemon.client()
    both.send("Logs", more=True, dataflow="flow")
    one.send("Logs", more=True, dataflow="flow", nodes=["b"])
    assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] >= 3, 5)
    go.touch()
    got = [r.get("line") for r in both.replies()]
    assert got.pop() is None, "the last reply is without a line"
    for id in "ab":
        out = [g["line"] for g in got if g["node"] == id and g["stream"] == 1]
        assert out == [str(i) for i in range(1, 501)] + ["a\ufffdb"]
        assert [g["line"] for g in got if g["node"] == id and g["stream"] == 2] == ["error"]
    assert got == sorted(got, key=lambda g: g["time_ms"])
    got = [r.get("line") for r in one.replies()][:-1]
    assert {g["node"] for g in got} == {"b"} and len(got) == 502
    refused(daemon.client(), "ExpectedMore", "Logs", dataflow="flow")


def test_a_slow_reader_of_lines_loses_some_that_are_counted_and_a_quick_one_none(daemon, tmp_path):
    n, go = 60000, tmp_path / "go"
    start(daemon, program("a", f"while ! test -e {go}; do sleep 0.02; done; seq -f 'line %.0f of many that nobody reads in time' 1 {n}"))
    slow, counter = daemon.client(), daemon.client()
    slow.send("Logs", more=True, dataflow="flow")
    counter.send("Events", more=True, dataflow="flow")
    assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] >= 3, 5)
    go.touch()
    assert [r for r in counter.replies()][-1] == {}, "whoever does not read delays nobody else"
    got = [r["line"] for r in slow.replies() if "line" in r]
    dropped = sum(g.get("dropped", 0) for g in got)
    assert dropped > 0
    assert dropped + sum("line" in g for g in got) == n
    numbers = [int(g["line"].split()[1]) for g in got if "line" in g]
    assert numbers == sorted(set(numbers))


def test_events_of_one_dataflow_end_with_it(daemon):
    start(daemon, program("a", SLEEP))
    start(daemon, program("a", SLEEP), name="other")
    client = daemon.client()
    client.send("Events", more=True, dataflow="flow")
    assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] >= 2, 5)
    daemon.call("Stop", all=True)
    replies = list(client.replies())
    assert replies.pop() == {}
    assert {r["event"]["name"] for r in replies} == {"flow"}
    assert replies[-1]["event"]["state"] == "ended"


# The interface


def test_the_interface_describes_itself_and_errors_name_what_is_wrong(daemon):
    client = daemon.client()
    info = client.call("org.varlink.service.GetInfo")
    assert info["interfaces"] == ["org.varlink.service", interface.NAME]
    assert client.call("org.varlink.service.GetInterfaceDescription", interface=interface.NAME)["description"] == interface.TEXT
    assert "method GetInfo" in client.call("org.varlink.service.GetInterfaceDescription", interface="org.varlink.service")["description"]
    assert refused(client, "InterfaceNotFound", "org.varlink.service.GetInterfaceDescription", interface="a.b") == {"interface": "a.b"}
    assert refused(client, "InterfaceNotFound", "a.b.C") == {"interface": "a.b"}
    assert refused(client, "MethodNotFound", "Nothing") == {"method": f"{interface.NAME}.Nothing"}
    for parameters, bad in [
        ({}, "plan"),
        ({"plan": 3}, "plan"),
        ({"plan": {}, "umask": 0o1000}, "umask"),
        ({"plan": {}, "grace_ms": -1}, "grace_ms"),
        ({"plan": {}, "grace_ms": True}, "grace_ms"),
        ({"plan": {}, "wait": "forever"}, "wait"),
        ({"plan": {}, "log_dir": "relative"}, "log_dir"),
        ({"plan": {}, "environment": [1]}, "environment"),
        ({"plan": plan(program("a", SLEEP)), "environment": ["nothing"]}, "environment"),
        ({"plan": {}, "surprise": 1}, "surprise"),
    ]:
        assert refused(client, "InvalidParameter", "Start", **parameters) == {"parameter": bad}
    assert refused(client, "InvalidParameter", "Stop") == {"parameter": "dataflow"}
    assert refused(client, "InvalidParameter", "Stop", dataflow="x", all=True) == {"parameter": "dataflow"}
    assert "nodes" in refused(client, "InvalidPlan", "Start", plan={**plan(program("a", SLEEP)), "nodes": []})["text"]
    assert "id" in refused(client, "InvalidPlan", "Start", plan=plan(program("a", SLEEP)), name="../etc")["text"]


def test_every_method_and_error_of_the_interface_is_served(daemon):
    for name, (takes, _) in interface.METHODS.items():
        with Client(daemon.socket) as client, pytest.raises(ControlError) as e:
            client.call(name, **dict.fromkeys(takes, {"no": "type"}), surprise=1)
        assert e.value.error == "InvalidParameter", name
    served = "".join((ROOT / f"protocol/control_msg.{x}").read_text() for x in "h")
    for name in interface.ERRORS:
        assert f'INTERFACE ".{name}"' in served


FOREIGN = """
import json, sys, threading, varlink
address, name, plan = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with varlink.Client(address) as client, client.open(name) as service, client.open(name) as other:
    assert service.List()["dataflows"] == []
    replies = list(service.Start(plan, _more=True))
    assert replies[0]["event"]["type"] == "accepted" and replies[-1]["state"] == "running", replies
    assert [d["name"] for d in service.List()["dataflows"]] == ["flow"]
    service.RestartNode("flow", "a")
    events = other.Events("flow", _more=True)
    stopper = threading.Timer(0.3, lambda: service.Stop("flow"))  # the call above is made at the first step of the loop
    seen = []
    stopper.start()
    for reply in events:
        seen.append((reply.get("event") or {}).get("state"))
    stopper.join()
    assert [s for s in seen if s] == ["stopping", "ending", "ended"], seen
    try:
        other.Stop("nothing")
    except varlink.VarlinkError as e:
        assert e.error() == name + ".NoSuchDataflow"
    else:
        raise AssertionError("stopped nothing")
print("all of it")
"""


def test_a_client_that_is_not_ours_lists_starts_follows_and_stops(daemon, tmp_path):
    tools = ROOT / "build-tools/python"
    if not (tools / "varlink").exists():
        pytest.skip("the package varlink is not installed; scripts/setup does that")
    script = tmp_path / "foreign.py"
    script.write_text(FOREIGN)
    command = [PYTHON, script, f"unix:{daemon.socket}", interface.NAME, json.dumps(plan(program("a", SLEEP)))]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tools)}, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("all of it\n", 0), done.stderr


def test_the_example_of_a_plain_client_is_as_it_is_shown(daemon, node_environment, dataflow):
    descriptor = dataflow({"nodes": [{"id": "a", "path": "/bin/sleep", "args": "1000"}]}, name="flow.yml")
    env = {**node_environment, "TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    done = subprocess.run([PYTHON, ROOT / "examples/control/plain.py", descriptor], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "a: pending -> starting", "a: starting -> running", "flow is running", "a: running, program",
        f"stop: user {os.geteuid()}", "escrow: confirmed", "term: sent", "ask: empty", "audit: killed 0, left 0", "succeeded 0 left",
    ]  # fmt: skip


def test_the_example_with_the_package_varlink_follows_a_stop(daemon):
    tools = ROOT / "build-tools/python"
    if not (tools / "varlink").exists():
        pytest.skip("the package varlink is not installed; scripts/setup does that")
    start(daemon, program("a", SLEEP))
    command = [PYTHON, ROOT / "examples/control/with_varlink.py", daemon.socket, "flow"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tools)}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "flow: running, 1 of 1 nodes run", "flow: stopping", "flow: ending", "flow: ended",
        f"{interface.NAME}.NoSuchDataflow there is no dataflow nobody",
    ]  # fmt: skip


def test_the_control_page_names_every_error(root):
    text = (root / "docs/control.md").read_text()
    assert [e for e in interface.ERRORS if f"`{e}`" not in text] == []


# The end


def test_shutdown_tells_until_everything_has_ended(daemon):
    start(daemon, program("a", SLEEP))
    start(daemon, program("a", SLEEP), name="other")
    client = daemon.client()
    replies = list(client.stream("Shutdown"))
    assert replies[-1] == {}
    assert sum(r["event"].get("state") == "ended" for r in replies[:-1]) == 2
    with pytest.raises(EOFError):
        client.receive(10)
    assert daemon.process.wait(10) == 0


def test_orders_and_who_waits_survive_the_death_of_the_supervisor(daemon):
    first = start(daemon, program("a", STUBBORN), grace_ms=1500)["uuid"]
    second = daemon.call("Start", plan=plan(program("a", SLEEP)), replace=True, environment=["A=1"])["uuid"]
    supervisor = Process(daemon.supervisor())
    supervisor.send(signal.SIGKILL)
    supervisor.close()

    def health():
        try:
            return daemon.call("GetHealth")["health"]
        except (EOFError, ConnectionError):
            return None

    assert eventually(lambda: (h := health()) and h["epoch"] == 2 and h["adopted"] == 1, 10), daemon.output()
    assert eventually(lambda: {d["uuid"]: d["state"] for d in daemon.call("List")["dataflows"]} == {second: "running"}, 10), daemon.output()
    assert daemon.status(first)["state"] == "ended"
    assert daemon.call("Stop", dataflow="flow")["results"][0]["success"] is True


def test_nothing_of_a_client_stays_with_the_daemon(daemon):
    pid = daemon.supervisor()
    daemon.call("GetHealth")
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(50):
        client = daemon.client()
        client.send("Events", more=True)
        client.close()
    assert eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before and daemon.call("GetHealth")["health"]["n_clients"] == 1, 5)
