# SPDX-License-Identifier: Apache-2.0
"""Limits on a host that cannot enforce them, and the freezer, which every host has. What limits do is tested in the guest."""

import json
import os
import re
import signal
import time

import pytest
from conftest import eventually
from daemon import plan, program

COUNT = "trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done"


def limited(*pairs, line=7):
    return {key: {"value": value, "line": line} for key, value in pairs}


@pytest.fixture
def without_memory(home):
    """The test's own cgroups, where this host has no memory controller below them (a hybrid host; else the guest tests this)."""
    controllers = (home / "cgroup.controllers").read_text().split()
    if "memory" in controllers:
        pytest.skip("this host has the memory controller; what is refused without it is tested where it is missing")
    return home


def events_of(daemon, node, name="flow"):
    """cgroup.events of the node's present life."""
    flow = daemon.status(name)
    found = next(n for n in flow["nodes"] if n["id"] == node)
    with open(f"{flow['cgroup']}/{node}.{found['generation']}/cgroup.events") as file:
        return dict(line.split() for line in file)


def node_of(daemon, node, name="flow"):
    return next(n for n in daemon.status(name)["nodes"] if n["id"] == node)


def start(daemon, *nodes, **keys):
    daemon.call("Start", plan=plan(*nodes), **keys)
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 10), daemon.output()


# What this host cannot enforce


def test_a_run_that_asks_for_what_cannot_be_enforced_is_refused_with_node_line_key_and_cause(without_memory, dataflow, live):
    run = live(dataflow({"nodes": [{"id": "calm", "path": "/bin/true"}, {"id": "greedy", "path": "/bin/sleep", "args": "1000", "resources": {"memory_max": "64M"}}]}))
    run.wait(10)
    assert run.status == 1
    assert "node greedy (line " in run.output() and "memory_max cannot be enforced here: controller memory" in run.output()
    assert "--allow-unenforced-limits" in run.output() and "left" in run.output()


def test_with_allow_unenforced_limits_it_goes_on_and_says_so(without_memory, dataflow, live):
    run = live(dataflow({"resources": {"pids_max": 9}, "nodes": [{"id": "a", "path": "/bin/true", "resources": {"memory_max": "64M"}}]}), "--allow-unenforced-limits")
    run.wait(10)
    assert run.status == 0, run.output()
    assert "memory_max is not enforced: controller memory" in run.output()
    assert "pids_max of the dataflow is not enforced: controller pids" in run.output()


def test_without_cgroups_there_are_no_limits(dataflow, tidegate):
    file = dataflow({"nodes": [{"id": "a", "path": "/bin/true", "resources": {"memory_max": "64M"}}]})
    why = "limits need cgroups, and nodes are ended without them here (subreaper)"
    said = tidegate("run", file, "--enforcer", "subreaper")
    assert said.returncode == 1 and f"memory_max cannot be enforced here: {why}" in said.stderr
    said = tidegate("run", file, "--enforcer", "subreaper", "--allow-unenforced-limits")
    assert said.returncode == 0 and (said.stdout + said.stderr).count(f"memory_max is not enforced: {why}") == 1, said


def test_a_start_is_refused_in_the_same_words(without_memory, daemon):
    daemon.call("Start", plan=plan(program("a", COUNT, resources=limited(("pids_max", "5")))))
    assert eventually(lambda: daemon.status("flow")["state"] == "ended", 10)
    assert "node a (line 7): pids_max cannot be enforced here: controller pids" in daemon.status("flow")["error"]
    assert [n["pid"] for n in daemon.status("flow")["nodes"]] == [0]


def test_a_refused_start_says_why_once_and_where_it_is_kept(without_memory, daemon, dataflow, tidegate):
    flow = dataflow({"nodes": [{"id": "greedy", "path": "/bin/sleep", "args": "1000", "resources": {"memory_max": "64M"}}]}, "heavy.yml")
    said = tidegate("start", flow, "--runtime-dir", daemon.runtime)
    assert said.returncode == 1
    assert (said.stdout + said.stderr).count("memory_max cannot be enforced here") == 1, said
    assert "`tidegate status heavy` shows it until `tidegate clean`" in said.stdout + said.stderr
    status = tidegate("status", "heavy", "--runtime-dir", daemon.runtime)
    assert re.search(r"heavy:greedy +STOPPED +Not started: node greedy \(line \d+\): memory_max cannot be enforced here", status.stdout), status
    assert tidegate("clean", "--runtime-dir", daemon.runtime).returncode == 0
    assert json.loads(tidegate("list", "--json", "--runtime-dir", daemon.runtime).stdout)["dataflows"] == []


def test_status_says_which_limits_do_not_hold_also_under_the_next_supervisor(without_memory, daemon):
    nodes = [program("a", COUNT, resources=limited(("memory_max", "67108864"), ("cpu_max", "150000 100000")))]
    start(daemon, *nodes, allow_unenforced_limits=True)

    def limits():
        return {limit["key"]: limit for limit in node_of(daemon, "a")["limits"]}

    before = limits()
    assert before["memory_max"]["enforced"] is False and "controller memory" in before["memory_max"]["reason"] and before["memory_max"]["line"] == 7
    assert before["cpu_max"]["value"] == "150000 100000"
    os.kill(daemon.supervisor(), signal.SIGKILL)
    assert eventually(lambda: limits() == before, 10), limits()
    daemon.call("RestartNode", dataflow="flow", node="a")
    assert eventually(lambda: limits() == before, 10), limits()  # its keeper says it of each life anew
    daemon.call("Stop", dataflow="flow")


def test_a_limit_that_cannot_be_enforced_is_not_set_at_run_time_either(without_memory, daemon, command):
    start(daemon, program("a", COUNT), program("b", "exit 0"))
    said = command("set-limit", "flow:a", "memory_max=64M")
    assert said.returncode == 1 and "memory_max of node a is not set: controller memory" in said.stderr
    said = command("set-limit", "flow", "cpu_max=1.5")
    assert said.returncode == 1 and "cpu_max of dataflow flow is not set: controller cpu" in said.stderr
    assert "limits" not in node_of(daemon, "a")
    daemon.call("Stop", dataflow="flow")
    said = command("set-limit", "flow:a", "memory_max=64M")
    assert said.returncode == 3


def test_what_is_set_for_a_node_that_does_not_run_is_kept_for_its_next_life(daemon, command):
    start(daemon, program("a", COUNT), program("b", "exit 0"), allow_unenforced_limits=True)
    assert eventually(lambda: node_of(daemon, "b")["state"] == "stopped", 5)
    said = command("set-limit", "b", "pids_max=77", "--json")
    assert said.returncode == 0, said.stderr
    assert [(limit["key"], limit["value"], limit["set"]) for limit in json.loads(said.stdout)["limits"]] == [("pids_max", "77", True)]
    os.kill(daemon.supervisor(), signal.SIGKILL)
    assert eventually(lambda: node_of(daemon, "b").get("limits"), 10)
    assert node_of(daemon, "b")["limits"][0]["value"] == "77"
    daemon.call("Stop", dataflow="flow")


@pytest.mark.parametrize(
    "words,says",
    [
        (["flow:a"], "which limits?"),
        (["flow:a", "memory.max=1G"], "did you mean memory_max"),
        (["flow:a", "memory_max"], "has no value"),
        (["flow:a", "memory_max=lots"], "memory_max must be a size"),
        (["flow:a", "cpu_max=0"], "cpu_max must be a number of cores"),
        (["flow:*", "cpu_max=1"], "neither NAME nor"),
    ],
)
def test_set_limit_says_what_is_wrong_with_its_words(tidegate, tmp_path, words, says):
    said = tidegate("set-limit", *words, "--runtime-dir", tmp_path)
    assert said.returncode == 2 and says in said.stderr, said.stderr


def test_a_hostile_caller_of_set_limit_is_refused(daemon):
    start(daemon, program("a", COUNT))
    for limits in ({"memory.max": "1"}, {"memory_max": "1G\nmax"}, {"memory_max": -1}, {"memory_max": []}, {"io_max": "/dev/../etc rbps=1"}):
        with pytest.raises(Exception, match="Refused"):
            daemon.call("SetLimit", dataflow="flow", node="a", limits=limits)
    with pytest.raises(Exception, match="InvalidParameter"):
        daemon.call("SetLimit", dataflow="flow", limits={})
    daemon.call("Stop", dataflow="flow")


# The freezer


@pytest.fixture
def command(tidegate, daemon):
    def run(*words):
        return tidegate(*words, "--runtime-dir", daemon.runtime, "--cgroup-root", daemon.home)

    return run


def test_a_frozen_node_stands_still_and_runs_again(daemon, command):
    start(daemon, program("a", COUNT), program("b", COUNT))
    said = command("freeze", "flow:a")
    assert (said.returncode, said.stdout) == (0, "flow:a: frozen\n"), said.stderr
    assert events_of(daemon, "a")["frozen"] == "1" and events_of(daemon, "b")["frozen"] == "0"
    assert node_of(daemon, "a")["frozen"] is True and node_of(daemon, "b")["frozen"] is False
    lines = command("status").stdout.splitlines()
    assert "FROZEN" in lines[0] and "RUNNING" in lines[1]
    assert "stands still" in command("node", "info", "flow:a").stdout
    assert command("freeze", "a").returncode == 0, "once more does no harm, and the id alone will do"
    said = command("thaw", "flow:a", "--json")
    assert said.returncode == 0 and json.loads(said.stdout)["frozen"] is False
    assert events_of(daemon, "a")["frozen"] == "0" and node_of(daemon, "a")["frozen"] is False
    daemon.call("Stop", dataflow="flow")


@pytest.mark.parametrize("whole", [False, True], ids=["a node", "the dataflow"])
def test_what_is_frozen_is_seen_when_the_supervisor_is_silent(whole, daemon, command):
    """From the status page."""
    start(daemon, program("a", COUNT), program("b", COUNT))
    assert command("freeze", "flow" if whole else "flow:a").returncode == 0
    supervisor = daemon.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    said, data = command("status", "--timeout", "200ms"), json.loads(command("status", "--timeout", "200ms", "--json").stdout)
    os.kill(supervisor, signal.SIGCONT)
    words = [line.split()[1] for line in said.stdout.splitlines() if line.startswith("flow:")]
    assert words == ["FROZEN", "FROZEN" if whole else "RUNNING"], said
    assert data["source"] == "status page"
    assert [data["dataflows"][0].get("frozen", False), *(n.get("frozen", False) for n in data["dataflows"][0]["nodes"])] == [whole, True, whole]
    assert command("thaw", "flow" if whole else "flow:a").returncode == 0
    daemon.call("Stop", dataflow="flow")


def test_what_is_not_there_cannot_be_frozen(daemon, command):
    start(daemon, program("a", COUNT), program("b", "exit 0"))
    assert eventually(lambda: node_of(daemon, "b")["state"] == "stopped", 5)
    said = command("freeze", "flow:b")
    assert said.returncode == 3 and "node b is not frozen: it does not run" in said.stderr
    assert command("freeze", "flow:nobody").returncode == 4
    assert command("freeze", "nobody").returncode == 4
    daemon.call("Stop", dataflow="flow")
    assert command("freeze", "flow").returncode == 3


def test_frozen_nodes_outlive_their_supervisor_and_guard(daemon, command):
    start(daemon, program("a", COUNT), program("b", COUNT))
    daemon.call("Freeze", dataflow="flow", node="a")
    os.kill(daemon.supervisor(), signal.SIGKILL)
    assert eventually(lambda: node_of(daemon, "a")["frozen"], 10)
    assert node_of(daemon, "b")["frozen"] is False
    daemon.call("Freeze", dataflow="flow")
    os.kill(daemon.supervisor(), signal.SIGKILL)
    assert eventually(lambda: daemon.status("flow")["frozen"], 10)
    assert events_of(daemon, "b")["frozen"] == "1"
    with pytest.raises(Exception, match="whole dataflow is frozen"):
        daemon.call("Thaw", dataflow="flow", node="b")
    daemon.call("Thaw", dataflow="flow")
    assert node_of(daemon, "b")["frozen"] is False and node_of(daemon, "a")["frozen"] is True, "a was frozen by itself"
    daemon.call("Thaw", dataflow="flow", node="a")
    assert events_of(daemon, "a")["frozen"] == "0"
    daemon.call("Stop", dataflow="flow")


@pytest.mark.parametrize("whole", [False, True], ids=["node", "dataflow"])
def test_a_stop_thaws_first_and_is_heard(daemon, whole):
    start(daemon, program("a", COUNT), grace_ms=5000)
    daemon.call("Freeze", dataflow="flow", **({} if whole else {"node": "a"}))
    began = time.monotonic()
    result = daemon.call("Stop", dataflow="flow")["results"][0]
    assert time.monotonic() - began < 4 and result["success"] is True and result["killed"] == 0, result


@pytest.mark.parametrize("whole", [False, True], ids=["node", "dataflow"])
def test_a_forced_stop_kills_the_frozen(daemon, whole):
    start(daemon, program("a", COUNT))
    daemon.call("Freeze", dataflow="flow", **({} if whole else {"node": "a"}))
    result = daemon.call("Stop", dataflow="flow", force=True)["results"][0]
    assert result["left"] == 0 and result["killed"] >= 1, result


def test_single_nodes_are_stopped_frozen_or_not(daemon):
    start(daemon, program("a", COUNT), program("b", COUNT), program("c", COUNT), grace_ms=600)
    daemon.call("Freeze", dataflow="flow", node="a")
    assert daemon.call("StopNode", dataflow="flow", node="a")["node"]["state"] == "stopped", "thawed, and asked"
    daemon.call("Freeze", dataflow="flow")
    assert daemon.call("StopNode", dataflow="flow", node="b")["node"]["killed_by"], "of a frozen dataflow it cannot be asked"
    assert events_of(daemon, "c")["frozen"] == "1"
    daemon.call("Stop", dataflow="flow")


def test_nobody_is_started_in_a_frozen_dataflow(daemon):
    restart = {"policy": "always", "max_restarts": 0, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0}
    start(daemon, program("a", COUNT, restart=restart), program("b", COUNT), grace_ms=600)
    first = node_of(daemon, "a")
    daemon.call("Freeze", dataflow="flow")
    os.kill(first["pid"], signal.SIGKILL)
    assert eventually(lambda: node_of(daemon, "a")["generation"] == 2, 5)
    os.kill(daemon.supervisor(), signal.SIGKILL)
    assert eventually(lambda: daemon.status("flow")["frozen"], 10)
    assert node_of(daemon, "a")["state"] == "starting" and node_of(daemon, "a")["pid"] == 0
    daemon.call("Thaw", dataflow="flow")
    assert eventually(lambda: node_of(daemon, "a")["state"] == "running", 5)
    assert node_of(daemon, "a")["pid"] not in (0, first["pid"])
    os.kill(node_of(daemon, "a")["pid"], signal.SIGKILL)
    assert eventually(lambda: node_of(daemon, "a")["generation"] == 3 and node_of(daemon, "a")["pid"], 5)
    daemon.call("Freeze", dataflow="flow")
    os.kill(node_of(daemon, "a")["pid"], signal.SIGKILL)
    assert eventually(lambda: node_of(daemon, "a")["generation"] == 4, 5)
    result = daemon.call("Stop", dataflow="flow")["results"][0]
    assert result["left"] == 0, "who was never started needs no end"


def test_a_frozen_node_is_late_for_nothing(daemon, python, node_environment, tmp_path):
    """Its startup_timeout would pass while it stands still; with the thaw it has all of it again."""
    slow = tmp_path / "slow.py"
    slow.write_text("import os, time\nopen(os.environ['BEGUN'], 'w').close()\nwhile not os.path.exists(os.environ['GO']):\n    time.sleep(0.02)\n"
                    "import tidegate\nfor event in tidegate.Node():\n    pass\n")  # fmt: skip
    node = program("slow", "") | {
        "kind": "node", "argv": [python, str(slow)], "env": {"BEGUN": str(tmp_path / "begun"), "GO": str(tmp_path / "go")}, "outputs": ["o"], "startup_timeout_ns": 2 * 10**9,
    }  # fmt: skip
    environment = [f"{key}={value}" for key, value in node_environment.items() if "\n" not in value]
    daemon.call("Start", plan=plan(node), environment=environment)
    assert eventually(lambda: (tmp_path / "begun").exists(), 10)
    daemon.call("Freeze", dataflow="flow", node="slow")
    late = time.monotonic() + 2.3
    assert eventually(lambda: time.monotonic() > late, 5)
    assert node_of(daemon, "slow")["state"] == "starting" and node_of(daemon, "slow")["frozen"] is True
    (tmp_path / "go").touch()
    daemon.call("Thaw", dataflow="flow", node="slow")
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 10), daemon.output()
    daemon.call("Stop", dataflow="flow")


def test_a_frozen_consumer_is_neither_stuck_nor_ended_for_it(daemon, command, build, tmp_path):
    file = tmp_path / "flow.yml"
    file.write_text(f"""\
nodes:
  - {{id: count, path: {build}/tests/system/count, outputs: [out]}}
  - id: check
    path: {build}/tests/system/check
    args: {tmp_path}/seen 1000
    stuck_timeout: 0.3
    health_check_timeout: 0.8
    inputs:
      in: {{source: count/out, queue_size: 4, queue_policy: backpressure}}
""")
    assert command("start", "--detach", "--no-logs", file).returncode == 0
    pid = node_of(daemon, "check")["pid"]
    daemon.call("Freeze", dataflow="flow", node="check")

    def blamed():
        return node_of(daemon, "check")["health"] == "stuck" or node_of(daemon, "check")["state"] != "running"

    assert not eventually(blamed, 2.2), node_of(daemon, "check")
    daemon.call("Thaw", dataflow="flow", node="check")
    assert node_of(daemon, "check")["pid"] == pid
    os.kill(pid, signal.SIGSTOP)  # this is no order of anybody's: it is told, and ended
    assert eventually(lambda: "health_check_timeout" in (node_of(daemon, "check").get("error") or ""), 10)
    daemon.call("Stop", dataflow="flow", force=True)


def test_who_freezes_by_hand_is_shown_too(daemon):
    start(daemon, program("a", COUNT))
    place = daemon.status("flow")["cgroup"] + "/a.1/cgroup.freeze"
    with open(place, "w") as file:
        file.write("1")
    assert eventually(lambda: node_of(daemon, "a")["frozen"], 5)
    daemon.call("Thaw", dataflow="flow", node="a")
    assert events_of(daemon, "a")["frozen"] == "0"
    daemon.call("Stop", dataflow="flow")
