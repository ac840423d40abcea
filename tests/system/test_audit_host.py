# SPDX-License-Identifier: Apache-2.0
"""`tidegate audit`: each kind of stray is planted and named, nothing of a living instance is, and what is provably dead can be swept."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from client import Client
from conftest import MARK, eventually, marked_processes
from daemon import plan, program
from lives import Process, cgroups_in, stat_of
from survive import stream
from test_hung_path import hung  # noqa: F401

NOBODY = 65534


@pytest.fixture
def audit(build, node_environment, home, tmp_path):
    """Run it, look only at what the test has made (--cgroup-root), unless it is to look at all of the host; returns (exit status, what it says)."""

    def run(*args, everywhere=False, runtime=tmp_path / "no-runtime", preexec=None, prefix=(), timeout=60):
        where = [] if everywhere else ["--cgroup-root", home]
        command = [*prefix, build / "bin/tidegate", "audit", "--json", "--runtime-dir", runtime, *where, *args]
        done = subprocess.run(list(map(str, command)), env=node_environment, preexec_fn=preexec, capture_output=True, text=True, timeout=timeout)
        assert done.stderr == "", done.stderr
        said = json.loads(done.stdout)
        assert done.returncode == (3 if said["strays"] else 0 if said["complete"] else 1)
        return said

    return run


def strays(said, kind=None):
    return [s for s in said["strays"] if kind in (None, s["kind"])]


def until_killed(pids):
    for pid in pids:
        assert eventually(lambda: (s := stat_of(pid)) is None or s[0] == "Z", 10)


def kill_all(run):
    """Command, guard, supervisor and keeper at once: none of them sees another one die."""
    parts = [run.take(name) for name in ("command", "guard", "supervisor", "keeper")]
    for signo in (signal.SIGSTOP, signal.SIGKILL):
        for part in parts:
            part.send(signo)
    run.process.wait(10)
    until_killed(p.pid for p in parts[1:])
    for part in parts:
        part.close()


def test_of_a_run_that_was_killed_whole_it_names_cgroup_and_processes_and_sweeps_them(live, dataflow, audit, traces, home):
    run = live(dataflow({"nodes": [{"id": "left", "path": "sleep", "args": "1000"}]}))
    node = run.until_event(type="node", node="left", to="running")["pid"]
    assert strays(audit()) == [] and audit()["living"] >= 1
    kill_all(run)
    said = eventually(lambda: strays(s := audit(), "cgroup") and s, 10)  # its logger ends a little later
    (cgroup,) = strays(said, "cgroup")
    assert cgroup["where"].startswith(f"{home}/tidegate/run-") and "nobody holds its lock" in cgroup["what"]
    assert (cgroup["uid"], cgroup["do"]) == (os.geteuid(), "tidegate audit --sweep")
    (process,) = strays(said, "process")
    assert process["pid"] == node and "(sleep)" in process["what"] and abs(process["since"] - time.time()) < 120
    swept = audit("--sweep")
    assert [(s["where"], s["killed"]) for s in swept["swept"]] == [(cgroup["where"], 1)]
    assert strays(swept) == [] and cgroups_in(home) == [] and marked_processes(traces.mark) == {}


def test_nodes_of_a_dead_daemon_wait_for_the_next_one_unless_they_are_swept_by_force(survivor, build, audit, tmp_path, traces, home):
    daemon = survivor()
    with Client(daemon.socket) as client:
        list(client.stream("Start", plan=stream(build, tmp_path / "seen")))
    nodes = set(daemon.pids().values())
    assert strays(audit(runtime=daemon.runtime)) == [], "all of it lives"
    guard, keeper = daemon.send("guard", "keeper", signo=signal.SIGSTOP)
    supervisor = daemon.send("supervisor")[0]
    for pid in (keeper, guard):
        daemon.send_to(pid, signal.SIGKILL)
    until_killed([guard, keeper, supervisor])
    said = eventually(lambda: strays(s := audit(runtime=daemon.runtime), "cgroup") and s, 10)  # their loggers end a little later
    (cgroup,), (files,) = strays(said, "cgroup"), strays(said, "files")
    assert f"tidegate up --runtime-dir {daemon.runtime} adopts them" in cgroup["do"]
    assert {s["pid"] for s in strays(said, "process")} == {s["pid"] for s in strays(said, "memfd")} == nodes
    assert files["where"] == str(daemon.runtime) and "of a daemon that has ended" in files["what"]
    kept = audit("--sweep", runtime=daemon.runtime)
    assert kept["swept"] == [] and {s["pid"] for s in strays(kept, "process")} == nodes, "they may be adopted yet"
    done = audit("--sweep", "--force", runtime=daemon.runtime)
    assert [s["where"] for s in done["swept"]] == [cgroup["where"], str(daemon.runtime)] and done["swept"][0]["killed"] == len(nodes)
    assert strays(done) == [] and cgroups_in(home) == [] and marked_processes(traces.mark) == {} and not daemon.runtime.exists()


def test_nothing_of_a_living_daemon_is_a_stray_not_even_a_program_started_by_hand(daemon, build, audit, node_environment, traces, dataflow):
    viewer = {**program("viewer", ""), "kind": "dynamic", "argv": [], "inputs": [
        {"id": "in", "line": 1, "source": {"node": "count", "output": "out"}, "queue_size": 10, "queue_policy": "drop_oldest", "input_timeout_ns": 0}]}  # fmt: skip
    count = {**program("count", ""), "kind": "node", "argv": [str(build / "tests/system/count")], "outputs": ["out"]}
    with Client(daemon.socket) as client:
        list(client.stream("Start", plan=plan(count, viewer)))
    env = {**node_environment, MARK: traces.mark, "TIDEGATE_NODE_SOCKET": str(daemon.runtime / "node.sock")}
    with subprocess.Popen([build / "bin/tidegate-pipe", "--as", "viewer", "--receive", "in"], env=env, stdout=subprocess.PIPE) as by_hand:
        assert by_hand.stdout.readline(), "messages arrive, so it has mapped what is the daemon's"
        found = audit(runtime=daemon.runtime, everywhere=True)
        assert [s for s in strays(found) if s.get("pid") in marked_processes(traces.mark)] == []
        by_hand.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a PID namespace without a user namespace")
def test_an_instance_without_cgroups_is_known_by_its_directory(build, start_tidegate, audit, traces, dataflow, tmp_path):
    place = tmp_path / "places"
    place.mkdir()
    node = {"id": "count", "path": str(build / "tests/system/count"), "outputs": ["out"]}
    run = start_tidegate("run", dataflow({"nodes": [node]}), "--enforcer", "pidns", "--cgroup-root", place, "--json")
    assert eventually(lambda: '"to":"running"' in run.output().replace(" ", ""), 20), run.output()
    said = audit("--cgroup-root", place, everywhere=True)
    assert strays(said) == [] and said["living"] >= 1
    assert [s for s in strays(audit(everywhere=True)) if s.get("pid") in marked_processes(traces.mark)] == [], "its nodes are in no cgroup of ours, and no strays"
    pids = [Process(p) for p in marked_processes(traces.mark)]
    for signo in (signal.SIGSTOP, signal.SIGKILL):
        for process in pids:
            process.send(signo)
    run.process.wait(10)
    until_killed(p.pid for p in pids)
    for process in pids:
        process.close()
    (cgroup,) = eventually(lambda: strays(audit("--cgroup-root", place, everywhere=True)), 10)
    assert cgroup["where"].startswith(f"{place}/tidegate/run-") and cgroup["where"].endswith(".pidns")
    assert strays(audit("--sweep", "--cgroup-root", place, everywhere=True)) == [] and list(place.iterdir()) == []


HOLD = "import os, sys, time; fd = os.memfd_create('tidegate-ring'); os.ftruncate(fd, 4096); print('holds', flush=True); time.sleep(1000)"
MAP = (
    "import mmap, os, time; fd = os.memfd_create('tidegate-pool'); os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096); os.close(fd)\n"
    "print('holds', flush=True); time.sleep(1000)"
)


@pytest.fixture
def plant(traces):
    """Start a Python program that says when it is ready; ended with the test."""
    planted = []

    def start(text, env=None, **kwargs):
        environment = {**os.environ, MARK: traces.mark, **(env or {})}
        planted.append(subprocess.Popen([sys.executable, "-c", text], env=environment, stdout=subprocess.PIPE, text=True, **kwargs))
        assert planted[-1].stdout.readline() == "holds\n"
        return planted[-1].pid

    yield start
    for process in planted:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_shared_memory_of_no_living_instance_is_found_open_or_mapped(plant, audit):
    pids = {plant(HOLD), plant(MAP)}
    found = [s for s in strays(audit(everywhere=True), "memfd") if s["pid"] in pids]
    assert {s["pid"] for s in found} == pids
    assert all("has 1 piece of shared memory of no living instance" in s["what"] and s["do"].startswith("kill ") for s in found)


def test_a_node_that_got_away_is_found_by_its_marks(plant, audit):
    pid = plant("import time; print('holds', flush=True); time.sleep(1000)", env={"TIDEGATE_NODE_FD": "3"})
    (found,) = [s for s in strays(audit(everywhere=True), "process") if s["pid"] == pid]
    assert "was started as a node and is in no living instance" in found["what"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_user_sees_what_is_his_own(plant, audit):
    def become_nobody():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    his, root_s = plant(HOLD, user=NOBODY, group=NOBODY, extra_groups=[]), plant(HOLD)
    assert {s["pid"] for s in strays(audit(everywhere=True)) if s.get("pid") in (his, root_s)} == {his, root_s}
    said = audit(everywhere=True, runtime="/nonexistent", preexec=become_nobody)
    assert {s["uid"] for s in strays(said)} == {NOBODY} and [s["pid"] for s in strays(said) if s.get("pid") in (his, root_s)] == [his]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make cgroups beside those of an instance")
def test_what_a_doctor_a_scope_and_an_empty_base_leave_is_named(audit, tidegate, home):
    doctor, scope, base = home / "tidegate-doctor-0123abcd", home / "tidegate-0123abcd.scope", home / "tidegate"
    for path in (doctor, scope, base):
        path.mkdir()
    os.utime(scope, (0, time.time() - 3600))
    try:
        said = audit()
        assert {s["where"]: s["kind"] for s in strays(said)} == {str(doctor): "cgroup", str(scope): "scope", str(base): "cgroup"}
        assert [s["do"] for s in strays(said, "scope")] == [f"systemctl stop {scope.name}"]
        told = tidegate("audit", "--cgroup-root", home, "--runtime-dir", "/nonexistent")
        assert told.returncode == 3 and [line.split()[0] for line in told.stdout.splitlines()[1::2]] == [s["kind"] for s in strays(said)]
        assert f"no daemon lives in it: systemctl stop {scope.name}" in told.stdout
        assert {s["where"] for s in audit("--sweep")["swept"]} == {str(doctor), str(base)} and not doctor.exists() and not base.exists()
    finally:
        scope.rmdir()


def test_a_directory_that_somebody_locks_meanwhile_is_no_stray(audit, home):
    """The lock alone decides: one that is held lives, whatever is in it."""
    instance = home / "tidegate/run-0123abcd"
    instance.mkdir(parents=True)
    fd = os.open(instance, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert strays(audit("--sweep")) == [] and instance.exists()
    finally:
        os.close(fd)
    assert [s["where"] for s in strays(audit())] == [str(instance)]
    assert strays(audit("--sweep")) == [] and not instance.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and /dev/fuse")
def test_a_process_that_cannot_be_looked_at_costs_a_second_and_is_named(hung, audit, plant):  # noqa: F811
    """Where the audit runs, and nowhere else, a file that is never read lies over the environment of one; the working directory of another hangs."""
    elsewhere = "import os, time; os.chdir({!r}); print('holds', flush=True); time.sleep(1000)"
    stuck, after = plant("import time; print('holds', flush=True); time.sleep(1000)"), plant(HOLD)
    hanging = subprocess.Popen([*hung.prefix(), sys.executable, "-c", elsewhere.format(str(hung.path))], stdout=subprocess.PIPE, text=True)
    try:
        assert hanging.stdout.readline() == "holds\n"
        cover = f"mount --bind {hung.path}/open /proc/{stuck}/environ && exec"
        begin = time.monotonic()
        said = audit(everywhere=True, prefix=[*hung.prefix(), "sh", "-c", f'{cover} "$@"', "sh"])
        took = time.monotonic() - begin
        hung.until_asked()
    finally:
        hanging.kill()
        hanging.wait(10)
        hanging.stdout.close()
        hung.end()
    assert [u["what"] for u in said["unlooked"] if u["step"] in (stuck, hanging.pid)] == [f"pid {stuck}"]
    assert said["complete"] and after in [s["pid"] for s in strays(said, "memfd")], "the others were looked at"
    assert took < 1 + 5


def test_without_anything_it_says_so_and_what_it_is_told_wrong(tidegate, home):
    done = tidegate("audit", "--cgroup-root", home, "--runtime-dir", "/nonexistent")
    assert done.returncode == 0 and done.stdout.startswith("nothing is left over; living instances: ")
    assert tidegate("audit", "--force").returncode == 2 and "--force goes with --sweep" in tidegate("audit", "--force").stderr
    assert tidegate("audit", "all").returncode == 2
