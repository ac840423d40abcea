# SPDX-License-Identifier: Apache-2.0
"""Where no cgroup may be written: what is chosen then, on each layout of a host, and what is particular to it. That stop and kill do the same with each is
said by the tests marked each_enforcer."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest
from conftest import MARK, eventually, marked_processes, said, unified_root
from daemon import plan, program
from lives import Process, arguments_of, children_of
from survive import restarting
from test_cli_health import has_ended

NOBODY = 65534
DEAF = "trap '' TERM INT HUP\n(trap '' TERM; exec sleep 1000) &\nsetsid sleep 1000 &\necho ready\nexec sleep 1000"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else and to mount")


@pytest.fixture
def elsewhere(traces):
    """A directory that everybody may write, and in which instances without cgroups are made."""
    path = pathlib.Path(f"/tmp/tidegate-test-{traces.mark[:12]}")
    path.mkdir()
    path.chmod(0o777)
    yield path
    eventually(lambda: not (path / "tidegate-places").exists(), 3)
    left = (path / "tidegate-places").exists()
    shutil.rmtree(path)
    assert not left, "the root of the instances is removed with the last one"


@pytest.fixture
def run_as(build, node_environment, traces, elsewhere):
    """Run `PREFIX tidegate run` of one script and return the finished process."""

    def run(body, *args, prefix, seconds=30, status=0):
        script, flow = elsewhere / "node.sh", elsewhere / "flow.yml"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        flow.write_text(json.dumps({"nodes": [{"id": "node", "path": str(script)}]}))
        env = {**node_environment, MARK: traces.mark, "XDG_RUNTIME_DIR": str(elsewhere), "HOME": str(elsewhere)}
        p = said(subprocess.run([*prefix, build / "bin/tidegate", "run", flow, *args], cwd=elsewhere, env=env, capture_output=True, text=True, timeout=seconds))
        assert p.returncode == status, p.stdout + p.stderr
        assert eventually(lambda: not marked_processes(traces.mark), 3)
        return p.stdout + p.stderr

    return run


def as_nobody(build):
    return as_somebody(build, NOBODY)


def as_somebody(build, uid):
    prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    if subprocess.run([*prefix, build / "bin/tidegate", "version"], stdout=subprocess.DEVNULL).returncode:
        pytest.skip("another user may not execute this build")
    return prefix


# A fork bomb


LIMITS = "grep -h 'Max processes' /proc/self/limits /proc/$PPID/limits"


def processes_max(out):
    """(soft, hard) of the node, and of its reaper, which has its caller's."""
    return [tuple(found) for found in re.findall(r"Max processes +(\w+) +(\w+)", out)]


@pytest.mark.parametrize("name", ["pidns", "subreaper"])
def test_processes_of_a_user_s_node_are_bounded_where_no_cgroup_bounds_them(name, build, run_as):
    seen, over = [], threading.Event()

    def look():
        while not over.wait(0.01):  # other tests' come and go
            seen.append(int(re.search(r"/(\d+)", pathlib.Path("/proc/loadavg").read_text())[1]))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        node, reaper = processes_max(run_as(LIMITS, "--enforcer", name, prefix=["prlimit", "--nproc=50000:60000", *as_nobody(build)]))
    finally:
        over.set()
        looking.join()
    assert node[0] == node[1] and min(seen) / 2 < int(node[0]) - 4096 < 2 * max(seen) + 100
    assert reaper == ("50000", "60000"), "the caller's own is as it was"


def test_a_lower_bound_on_processes_stays(build, run_as):
    node, reaper = processes_max(run_as(LIMITS, "--enforcer", "subreaper", prefix=["prlimit", "--nproc=900:60000", *as_nobody(build)]))
    assert node[0] == "900" and 4096 < int(node[1]) < 60000 and reaper == ("900", "60000")


def test_root_s_processes_are_not_counted_and_have_no_bound(run_as):
    node, reaper = processes_max(run_as(LIMITS, "--enforcer", "subreaper", prefix=["prlimit", "--nproc=50000:60000"]))
    assert node == reaper == ("50000", "60000")


@pytest.mark.parametrize("name", ["pidns", "subreaper"])
def test_a_user_s_fork_bomb_at_its_bound_ends_in_time_and_leaves_nobody(name, build, run_as, elsewhere):
    """The user's own limit, which the keeper that has to end it is under as well: nothing of it may need another process then."""
    bomb, said = build / "tests/vm/greedy", elsewhere / "said"
    script = f"trap '' TERM\nmkfifo {said}\n{bomb} fork 300 >{said} &\nread -r said <{said}\necho $said\nexec {bomb} fork 2000000000"
    begin = time.monotonic()
    out = run_as(script, "--enforcer", name, "--stop-after", "1500ms", "--grace-duration", "200ms",
                 prefix=["prlimit", "--nproc=150:150", *as_somebody(build, 900000 + os.getpid())], status=1)  # fmt: skip
    forked, refused = map(int, re.search(r"forked (\d+) refused (\d+)", out).groups())
    assert 100 < forked < 150 and forked + refused == 300, out
    assert time.monotonic() - begin < 1.5 + 0.3 + 2 + 3 and " 0 left" in out, out


# What is chosen


def test_a_user_without_a_cgroup_gets_a_pid_namespace_for_each_life(build, run_as):
    look = "echo I am $$; echo $(ls -d /proc/[0-9]* | wc -l) to be seen; id -u; grep CapEff /proc/self/status"
    out = run_as(look, prefix=as_nobody(build))
    assert "[node] I am 2\n" in out, "the reaper is the first process of its namespace"
    assert f"[node] {NOBODY}\n" in out and "CapEff:\t0000000000000000" in out
    assert int(re.search(r"(\d+) to be seen", out)[1]) < 9, "it sees nobody but its own"


def test_a_user_s_deaf_tree_ends_in_time(build, run_as):
    begin = time.monotonic()
    out = run_as(DEAF, "--stop-after", "1500ms", "--grace-duration", "400ms", prefix=as_nobody(build), status=1)
    assert "0 left" in out and time.monotonic() - begin < 1.5 + 0.6 + 2 + 3


def test_a_node_in_a_pid_namespace_cannot_signal_those_who_hold_it(build, run_as, traces):
    hunt = f"for pid in $(seq 2 {os.getpid() + 3000}); do [ $pid = $$ ] || kill -9 $pid 2>/dev/null; done; kill -9 1; echo alive"
    assert "alive" in run_as(hunt, prefix=as_nobody(build))


def test_root_on_a_host_whose_cgroups_are_read_only(run_as, elsewhere):
    """In a mount namespace of the test's own; /run too, so that nothing is made on the host's."""
    mounts = 'mount -o remount,bind,ro "$1" && mount --bind "$2" /run && shift 2 && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mounts, "sh", unified_root(), elsewhere]
    out = run_as(DEAF, "--stop-after", "1500ms", "--grace-duration", "400ms", prefix=prefix, status=1)
    assert "0 left" in out
    assert "Read-only file system" in run_as("true", "--enforcer", "cgroup", prefix=prefix, status=1)


@pytest.mark.parametrize("name, why", [("pid1", "is for the first process of a container"), ("pidns", "no PID namespace can be made here")])
def test_one_that_is_not_to_be_had_is_refused_with_the_reason(name, why, run_as):
    prefix = ["/usr/bin/python3", pathlib.Path(__file__).parent / "no_namespaces.py"]
    assert why in run_as("true", "--enforcer", name, prefix=prefix, status=1)


def test_without_namespaces_and_cgroups_there_is_the_process_table(build, run_as):
    prefix = [*as_nobody(build), "/usr/bin/python3", pathlib.Path(__file__).parent / "no_namespaces.py"]
    assert "0 left" in run_as(DEAF, "--stop-after", "1500ms", "--grace-duration", "400ms", prefix=prefix, status=1)


def test_an_unknown_one_is_a_usage_error(tidegate):
    p = tidegate("run", "--enforcer", "magic", "x.yml")
    assert p.returncode == 2 and "`magic` is none of auto, cgroup" in p.stderr


# Keepers and reapers that die


@pytest.mark.parametrize("enforcer", ["cgroup+pidns", "pidns", "subreaper"], indirect=True)
def test_nodes_end_with_their_keeper_and_are_restarted_by_their_policy(survivor, enforcer, tmp_path):
    daemon = survivor()
    body = DEAF.replace("echo ready", f"echo ready >>{tmp_path}/lives")
    daemon.talk("Start", plan=plan(program("deaf", body, restart=restarting(delay=0.05)), name="flow"), grace_ms=500, budget_ms=1000,
                environment=[f"{MARK}={daemon.mark}", f"PATH={os.environ['PATH']}"])  # fmt: skip
    lives = lambda: (tmp_path / "lives").read_text().count("ready") if (tmp_path / "lives").exists() else 0  # noqa: E731
    assert eventually(lambda: lives() == 1, 10), daemon.output()
    assert eventually(lambda: daemon.nodes()["flow", "deaf"]["state"] == "running", 10), daemon.output()  # it may have spoken before its keeper has
    node = daemon.nodes()["flow", "deaf"]
    assert node["protection"]["backend"] == enforcer and "it ends with its keeper" in node["protection"]["weaker"]
    first = Process(node["pid"])
    daemon.send("keeper")
    assert eventually(lambda: lives() == 2, 10), daemon.output()
    assert has_ended(first)  # whether or not its reaper has come
    first.close()
    n_sleeps = lambda: sum(c.startswith("sleep") for c in marked_processes(daemon.mark).values())  # noqa: E731
    assert eventually(lambda: n_sleeps() == 3, 5), "one life, and not two"
    daemon.talk("Stop", dataflow="flow", force=True)


@pytest.mark.parametrize("enforcer", ["pidns", "subreaper"], indirect=True)
def test_a_reaper_that_is_killed_takes_its_node_along(enforcer, script, dataflow, live, traces, nothing_left):
    flow = dataflow({"nodes": [{"id": id, "path": str(script(id, DEAF))} for id in ("victim", "other")]})
    run = live(flow, "--grace-duration", "500ms")
    run.until_event(type="dataflow", state="running")
    assert eventually(lambda: sum(c.startswith("sleep") for c in marked_processes(traces.mark).values()) == 6, 10)
    keeper = run.part("keeper")
    process = Process(next(p for p in children_of(keeper) if "--role=reaper" in arguments_of(p)))
    process.send(signal.SIGKILL)
    process.close()
    assert eventually(lambda: sum(c.startswith("sleep") for c in marked_processes(traces.mark).values()) == 3, 5), "its orphans are found and killed"
    run.process.send_signal(signal.SIGINT)
    run.wait(15)
    assert run.status == 1 and run.result()["left"] == 0
    assert run.result()["nodes"]
    nothing_left()


@pytest.mark.parametrize("enforcer", ["pidns", "subreaper"], indirect=True)
def test_the_command_sees_and_ends_such_nodes_itself_when_nobody_answers(survivor, enforcer, tidegate):
    daemon = survivor()
    environment = [f"{MARK}={daemon.mark}", f"PATH={os.environ['PATH']}"]
    daemon.talk("Start", plan=plan(program("deaf", DEAF), name="flow"), grace_ms=500, budget_ms=1000, environment=environment)
    n_sleeps = lambda: sum(c.startswith("sleep") for c in marked_processes(daemon.mark).values())  # noqa: E731
    assert eventually(lambda: n_sleeps() == 3, 10), daemon.output()
    assert tidegate("status", "--runtime-dir", daemon.runtime, "flow").stdout.count("sleep") >= 3
    held = [daemon.take(part) for part in ("guard", "supervisor", "keeper")]
    for process in held:
        process.send(signal.SIGSTOP)
    p = tidegate("stop", "--runtime-dir", daemon.runtime, "--timeout", "300ms", "--force", "flow")
    left = n_sleeps()
    for process in held:
        process.send(signal.SIGCONT)
        process.close()
    assert p.returncode == 0 and "3 processes: empty" in p.stdout, p.stdout + p.stderr
    assert left == 0
