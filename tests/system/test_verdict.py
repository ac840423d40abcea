# SPDX-License-Identifier: Apache-2.0
"""Processes that nothing can kill: the stop ends all the same, says who they are and why, keeps them in sight until they are gone, and begins
nothing beside them unless it is told to."""

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import eventually
from daemon import plan, program, until_deaf
from lives import SLACK, Process, cgroups_in, children_of, arguments_of
from test_hung_path import hung  # noqa: F401
from test_stop import helpers  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

GRACE = 0.2
LADDER = 1.5 * GRACE + 2  # grace, half of it again, and the kill budget
IMMORTAL = "trap '' TERM INT HUP\nwhile :; do sleep 0.1; done"


@pytest.fixture
def hold(helpers):
    """`hold(pid)` keeps a process from dying; returns what lets it go."""
    tracers = []

    def start(pid):
        tracer = subprocess.Popen([helpers / "undying", "--trace", str(pid)], stdout=subprocess.PIPE, text=True)
        tracers.append(tracer)
        assert tracer.stdout.readline() == "ready\n"

        def let_go():
            tracer.kill()
            tracer.wait(10)

        let_go.pid = tracer.pid
        return let_go

    yield start
    for tracer in tracers:
        tracer.kill()
        tracer.wait(10)
        tracer.stdout.close()


def node_of(daemon, name="flow", id="victim"):
    return next(n for n in daemon.status(name)["nodes"] if n["id"] == id)


def start_victim(daemon, hold, *others, name="flow", script=IMMORTAL, **keys):
    daemon.call("Start", plan=plan(program("victim", script, **keys), *others, name=name), grace_ms=int(GRACE * 1000))
    assert eventually(lambda: daemon.status(name)["state"] == "running", 20)
    until_deaf(daemon, name)
    return hold(node_of(daemon, name)["pid"])


def stop_in_time(daemon, name="flow", grace=GRACE):
    begin = time.monotonic()
    (result,) = daemon.call("Stop", timeout=60, dataflow=name, grace_ms=int(grace * 1000))["results"]
    assert time.monotonic() - begin < 1.5 * (grace - GRACE) + LADDER + 2 + SLACK
    return result


def cleared(daemon, name="flow"):
    assert eventually(lambda: not node_of(daemon, name)["quarantined"], 10), daemon.output()
    assert eventually(lambda: cgroups_of(daemon, name) == [], 10), (cgroups_of(daemon, name), daemon.output())


def cgroups_of(daemon, name):
    path = daemon.status(name)["cgroup"].rstrip("/")
    try:
        return [c for c in cgroups_in(daemon.home) if path.endswith(str(c)) or str(c).startswith(path)] if os.path.exists(path) else []
    except FileNotFoundError:
        return [path]  # it goes while it is looked at


def end(daemon, let_go, *names):
    """Whoever is held dies, and the daemon has nothing left."""
    let_go()
    for name in names or ("flow",):
        cleared(daemon, name)


def test_who_is_held_by_a_tracer_is_named_watched_and_cleared(daemon, hold, talk, tmp_path):
    let_go = start_victim(daemon, hold, program("other", "exec sleep 1000"))
    pid = node_of(daemon)["pid"]
    with daemon.client() as events:
        events.send("Events", more=True)
        result = stop_in_time(daemon, grace=1.0)  # the other one has to end in that
        victim, other = (next(n for n in result["nodes"] if n["id"] == i) for i in ("victim", "other"))
        assert (result["verdict"], victim["verdict"], other["verdict"]) == ("unkillable-traced", "unkillable-traced", "empty")
        (task,) = victim["tasks"]
        assert (task["pid"], task["state"], task["tracer"], task["tracer_comm"]) == (pid, "t", let_go.pid, "undying")
        assert "ptrace" in task["wchan"] and task["stack"] and len(task["stack"]) <= 6
        node = node_of(daemon)
        assert (node["quarantined"], node["state"], node["verdict"], node["n_tasks"]) == (True, "failed", "unkillable-traced", 1)
        shown = talk("status", "flow", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)})
        assert f"pid {pid} (sh): unkillable-traced" in shown.stdout and f"tracer   pid {let_go.pid} (undying)" in shown.stdout, shown
        assert max(len(line) for line in shown.stdout.partition("\u25cf")[0].splitlines() if line.startswith("  ")) <= 80, shown.stdout
        kept = talk("clean", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)})
        assert "0 dataflows were forgotten" in kept.stdout and "1 kept" in kept.stdout, kept
        refused = talk("clean", "flow", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)})
        assert refused.returncode == 3 and f"pid {pid}" in refused.stderr, refused
        let_go()
        event = next(e["event"] for e in events.replies() if e["event"]["type"] == "cleared")
        assert (event["node"], event["generation"]) == ("victim", 1) and event["took_ms"] >= 0
        assert "quarantine cleared after" in event["text"]
    cleared(daemon)
    assert node_of(daemon)["verdict"] == "killed"
    assert daemon.status("flow")["result"] == "failed"
    # Its keeper, which watched, leaves meanwhile.
    assert eventually(lambda: talk("clean", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}).stdout == "1 dataflow was forgotten\n", 10)


def test_who_is_left_is_named_although_the_keeper_does_not_answer_when_the_verdict_is_due(daemon, hold):
    """On a machine that is full it may not; it was asked before, in good time."""
    let_go = start_victim(daemon, hold, script=f"(trap '' TERM; exec sleep 1000) &\n{IMMORTAL}")
    pid = node_of(daemon)["pid"]
    child = eventually(lambda: next((p for p in children_of(pid) if "1000" in arguments_of(p)), None), 10)
    let_child_go = hold(child)
    with daemon.client() as client:
        client.send("Stop", dataflow="flow", force=True)
        assert eventually(lambda: "look victim: 2 left" in daemon.output(), 10), daemon.output()
        (keeper,) = (p for p in children_of(daemon.process.pid) if "--role=keeper" in arguments_of(p))
        process = Process(keeper)
        process.send(signal.SIGSTOP)
        (result,) = client.reply(20)[0]["results"]
        process.send(signal.SIGCONT)  # if it has not been replaced
        process.close()
    (victim,) = result["nodes"]
    assert (victim["verdict"], result["left"]) == ("unkillable-traced", 2), result
    assert {task["pid"]: task["tracer"] for task in victim["tasks"]} == {pid: let_go.pid, child: let_child_go.pid}, victim
    let_child_go()
    end(daemon, let_go)


def test_the_block_of_a_stop_fits_80_columns_and_its_json_has_the_tasks(daemon, hold, talk):
    let_go = start_victim(daemon, hold)
    pid = node_of(daemon)["pid"]
    p = talk("stop", "flow", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)})
    assert p.returncode == 3
    block = p.stderr[p.stderr.index("node victim: unkillable-traced, 1 task left") :].splitlines()
    assert any(f"pid {pid} (sh): unkillable-traced" in line for line in block), p.stderr
    assert all(len(line) <= 80 for line in block[:8] if "tidegate:   " in line), block
    for word in ("state", "waits in", "stack", "tracer"):
        assert any(f"    {word}" in line for line in block), (word, block)
    assert "verdict" in p.stdout and "1 task " in p.stdout
    end(daemon, let_go)


def test_nothing_begins_beside_what_would_not_die_unless_it_is_told_to(daemon, hold, talk, dataflow, script):
    env = {"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    let_go = start_victim(daemon, hold)
    pid = node_of(daemon)["pid"]
    stop_in_time(daemon)
    flow = dataflow({"nodes": [{"id": "victim", "path": str(script("sleeps", "exec sleep 1000"))}]}, "flow.yml")
    for command in (["start", flow, "--name", "flow", "--detach"], ["restart", "flow"]):
        p = talk(*command, env=env)
        assert p.returncode == 3 and f"pid {pid}" in p.stderr and "--despite-leftover" in p.stderr, p
    p = talk("start", flow, "--name", "flow", "--detach", "--despite-leftover", env=env)
    assert p.returncode == 0, p
    new = daemon.status("flow")
    assert new["state"] == "running" and new["nodes"][0]["pid"] != pid
    assert stop_in_time(daemon)["left"] == 0, "the new one is none of the old one's business"
    let_go()
    assert eventually(lambda: talk("clean", env=env) and daemon.call("List", all=True)["dataflows"] == [], 10)


def test_what_was_to_take_its_place_does_not_begin_and_says_who_is_left(daemon, hold, talk, dataflow, script):
    """`start --replace` while it runs: that it would not die is known only after the start was accepted."""
    env = {"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    let_go = start_victim(daemon, hold, program("other", "exec sleep 1000"))
    pid, old = node_of(daemon)["pid"], daemon.status("flow")["uuid"]
    ran = daemon.runtime.parent / "ran"
    flow = dataflow({"nodes": [{"id": "victim", "path": str(script("sleeps", f"echo >> {ran}\nexec sleep 1000"))}]}, "flow.yml")
    begin = time.monotonic()
    p = talk("start", flow, "--name", "flow", "--detach", "--replace", env=env)
    assert time.monotonic() - begin < LADDER + 2 + SLACK
    said = " ".join((p.stdout + p.stderr).split())
    assert p.returncode == 1 and f"cannot begin: of its predecessor {old[:8]}" in said and f"pid {pid}" in said and "--despite-leftover" in said, said
    both = {d["uuid"]: d for d in daemon.call("List", all=True)["dataflows"]}
    assert len(both) == 2 and {d["state"] for d in both.values()} == {"ended"} and not ran.exists(), "nothing of it has run"
    for again in (["start", flow, "--name", "flow", "--detach", "--replace"], ["restart", "flow"]):
        assert talk(*again, env=env).returncode == 3, "now it is known before"
    let_go()
    assert eventually(lambda: talk("start", flow, "--name", "flow", "--detach", env=env).returncode == 0, 10) and eventually(ran.exists, 10)
    assert stop_in_time(daemon)["left"] == 0


def test_a_node_is_restarted_beside_what_would_not_die_of_it(daemon, hold, talk):
    env = {"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    let_go = start_victim(daemon, hold, program("other", "exec sleep 1000"))
    pid = node_of(daemon)["pid"]
    node = daemon.call("StopNode", timeout=60, dataflow="flow", node="victim", grace_ms=100)["node"]
    assert (node["quarantined"], node["verdict"]) == (True, "unkillable-traced")
    p = talk("node", "restart", "flow:victim", env=env)
    assert p.returncode == 3 and f"pid {pid}" in p.stderr and "--despite-leftover" in p.stderr, p
    p = talk("node", "restart", "flow:victim", "--despite-leftover", env=env)
    assert p.returncode == 0, p
    node = node_of(daemon)
    assert (node["state"], node["generation"], node["quarantined"]) == ("running", 2, False) and node["pid"] != pid
    (left,) = node["leftovers"]
    assert (left["generation"], left["verdict"], left["tasks"][0]["pid"]) == (1, "unkillable-traced", pid)
    assert "generation 1: unkillable-traced" in talk("node", "info", "flow:victim", env=env).stdout
    let_go()
    assert eventually(lambda: "leftovers" not in node_of(daemon), 10)
    assert node_of(daemon)["state"] == "running", "its own life goes on"
    until_deaf(daemon)
    assert stop_in_time(daemon)["left"] == 0


def test_a_policy_starts_nothing_beside_what_would_not_die(daemon, hold):
    always = {"policy": "always", "max_restarts": 0, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0}
    script = "trap '' HUP INT\n(trap '' TERM; while :; do sleep 0.1; done) &\necho $! > child\nwait"
    daemon.call("Start", plan=plan(program("victim", script, restart=always), program("other", "exec sleep 1000"), directory=daemon.runtime.parent),
                grace_ms=int(GRACE * 1000))  # fmt: skip
    child = daemon.runtime.parent / "child"
    pid = int(eventually(lambda: child.exists() and child.read_text().strip(), 20))
    let_go = hold(pid)
    leader = eventually(lambda: node_of(daemon)["pid"], 20)  # 0 until its keeper has said it, and that would be we
    assert leader > 0
    os.kill(leader, signal.SIGKILL)
    assert eventually(lambda: node_of(daemon)["quarantined"], LADDER + 10)
    node = node_of(daemon)
    assert (node["state"], node["generation"], node["verdict"]) == ("failed", 1, "unkillable-traced")
    assert [t["pid"] for t in node["tasks"]] == [pid]
    let_go()
    assert eventually(lambda: not node_of(daemon)["quarantined"], 10)
    stop_in_time(daemon)


@pytest.mark.parametrize("whom", ["supervisor", "keeper", "all"])
def test_they_are_watched_whoever_dies(whom, daemon, hold):
    let_go = start_victim(daemon, hold)
    stop_in_time(daemon)
    pid = node_of(daemon)["tasks"][0]["pid"]
    keeper = next(p for p in children_of(daemon.process.pid) if "--role=keeper" in " ".join(arguments_of(p)) or comm(p) == "tidegate-keeper")
    supervisor = daemon.supervisor()
    for victim in {"supervisor": [supervisor], "keeper": [keeper], "all": [supervisor, keeper]}[whom]:
        os.kill(victim, signal.SIGKILL)
    assert eventually(lambda: seen_again(daemon, pid), 15), daemon.output()
    end(daemon, let_go)


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def seen_again(daemon, pid):
    try:
        node = node_of(daemon)
    except (OSError, ConnectionError, EOFError):
        return False
    return node["quarantined"] and node["verdict"] == "unkillable-traced" and str(pid) in node.get("left", "") and any(
        comm(p) == "tidegate-keeper" for p in children_of(daemon.process.pid))  # fmt: skip


def test_the_end_of_the_daemon_is_not_held_up_by_them(start_daemon, hold, home):
    daemon = start_daemon()
    let_go = start_victim(daemon, hold)
    stop_in_time(daemon)
    begin = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(20)
    assert time.monotonic() - begin < 3 + 2 + SLACK
    let_go()
    daemon.process.returncode = 0  # somebody was left, and that is what it said
    assert eventually(lambda: all("populated 0" in (home / c / "cgroup.events").read_text() for c in cgroups_in(home)), 5)
    for c in sorted(cgroups_in(home), key=lambda c: -len(str(c))):
        os.rmdir(home / c)


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse")
def test_who_waits_for_a_dead_file_system_is_named_with_its_call_and_file(hung, daemon):
    """It closes a file there, and the server never answers that."""
    closer = f"exec 5> /proc/{hung.server.pid}/root{hung.path}/open\necho open\nexec 5>&-"
    daemon.call("Start", plan=plan(program("victim", closer)), grace_ms=int(GRACE * 1000))
    hung.until_asked()
    result = stop_in_time(daemon)
    victim = result["nodes"][0]
    assert (victim["verdict"], result["verdict"], result["left"]) == ("unkillable-uninterruptible", "unkillable-uninterruptible", 1), result
    (task,) = victim["tasks"]
    assert task["state"] == "D" and "KILL" in task["pending"], task
    assert task["syscall"] in ("close", "dup2", "exit_group"), task
    assert task["still_ms"] > 500 and task["age_ms"] > 1000
    assert node_of(daemon)["quarantined"]
    hung.end()
    cleared(daemon)


def test_json_of_a_stop_names_the_tasks(daemon, hold, talk):
    let_go = start_victim(daemon, hold)
    p = talk("stop", "flow", "--json", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)})
    lines = [json.loads(line) for line in p.stdout.splitlines()]
    verdict = next(line for line in lines if line.get("rung") == "verdict")
    assert verdict["result"] == "unkillable-traced" and verdict["tasks"][0]["verdict"] == "unkillable-traced"
    assert lines[-1]["nodes"][0]["tasks"] == verdict["tasks"]
    end(daemon, let_go)


def test_who_left_the_cgroup_and_cannot_die_is_named_with_where_it_is(daemon, hold, home):
    """cgroup_writable: nothing keeps this node's processes where they belong."""
    away = f"echo 0 > {home}/cgroup.procs; trap '' TERM; echo $$ > {{}}; while :; do sleep 0.1; done"
    places = {name: daemon.runtime.parent / name for name in ("dies", "held")}
    children = "\n".join(f"sh -c \"{away.format(path)}\" &" for path in places.values()).replace("$$", "\\$\\$")
    daemon.call("Start", plan=plan(program("victim", f"{children}\nexec sleep 1000", cgroup_writable=True)), grace_ms=int(GRACE * 1000))
    pids = {name: int(eventually(lambda: path.exists() and path.read_text().strip(), 20)) for name, path in places.items()}
    let_go = hold(pids["held"])
    result = stop_in_time(daemon)
    victim = result["nodes"][0]
    assert (victim["verdict"], result["verdict"], result["success"], result["left"]) == ("unkillable-traced", "unkillable-traced", False, 1), result
    (task,) = victim["tasks"]
    assert (task["pid"], task["state"]) == (pids["held"], "t") and home.name in task["cgroup"], task
    assert not os.path.exists(f"/proc/{pids['dies']}"), "the other one was killed"
    let_go()
    cleared(daemon)


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse")
def test_who_left_the_cgroup_and_hangs_in_a_dead_file_system_is_the_last_word_with_call_and_place(hung, daemon, home, talk):
    pid_file = daemon.runtime.parent / "hangs"
    closer = f"echo 0 > {home}/cgroup.procs\necho \\$\\$ > {pid_file}\nexec 5> /proc/{hung.server.pid}/root{hung.path}/open\nexec 5>&-"
    daemon.call("Start", plan=plan(program("victim", f'sh -c "{closer}" &\nexec sleep 1000', cgroup_writable=True)), grace_ms=int(GRACE * 1000))
    hung.until_asked()
    pid = int(pid_file.read_text())
    with daemon.client() as events:
        events.send("Events", more=True)
        result = stop_in_time(daemon)
        victim = result["nodes"][0]
        assert (victim["verdict"], result["verdict"], result["success"], result["left"]) == ("unkillable-uninterruptible",) * 2 + (False, 1), result
        (task,) = victim["tasks"]
        assert (task["pid"], task["tid"], task["comm"], task["state"], task["verdict"]) == (pid, pid, "sh", "D", "unkillable-uninterruptible"), task
        assert task["syscall"] in ("close", "dup2", "exit_group") and "KILL" in task["pending"] and home.name in task["cgroup"], task
        assert task["wchan"] and task["stack"] and task["still_ms"] > 500 and task["age_ms"] > 1000 and task["frozen"] is False, task
        escape = next(e["event"] for e in events.replies() if e["event"]["type"] == "escape-attempt")
        assert (escape["node"], escape["pid"], escape["comm"]) == ("victim", pid, "sh") and home.name in escape["to"], escape
        node = node_of(daemon)
        assert (node["quarantined"], node["verdict"], node["n_tasks"]) == (True, "unkillable-uninterruptible", 1)
        assert f"cgroup   {task['cgroup']}" in talk("status", "flow", env={"TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}).stdout
        hung.end()
        event = next(e["event"] for e in events.replies() if e["event"]["type"] == "cleared")
        assert (event["node"], event["generation"]) == ("victim", 1), event
    cleared(daemon)
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"), 10), "the guard waits for it"
