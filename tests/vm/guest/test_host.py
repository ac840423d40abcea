# SPDX-License-Identifier: Apache-2.0
"""A plain host with all of cgroup v2: the usual life of dataflows and of the daemon."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from guest import BUILD, CGROUPS, SLACK, SOURCE, cgroup_of, cgroups, descriptor, doctor, eventually, kill_daemon, pids_in, probe, start, state_of, tidegate

DEAF = "trap '' TERM HUP INT; (setsid sh -c \"trap '' TERM; while :; do sleep 1; done\" &) ; echo ready; while :; do sleep 1; done"


def example(name):
    """A copy: nodes write their logs beside it."""
    return shutil.copytree(SOURCE / "examples" / name, f"/tmp/{name}") + "/dataflow.yml"


def test_doctor_sees_cgroup_v2_with_all_controllers():
    report = doctor()
    assert report["cgroup_root"] == str(CGROUPS)
    assert report["backend"] == "cgroup"
    for id in ("cgroup_root", "cgroup_make", "clone_into_cgroup", "spawn", "cgroup_kill", "pidfd_kill_headless"):
        assert probe(report, id)["result"] == "yes", probe(report, id)
    assert {"cpu", "memory", "pids", "io", "cpuset"} <= set((CGROUPS / "cgroup.controllers").read_text().split())


def test_an_example_runs():
    result = tidegate("run", example("hello"))
    assert result.returncode == 0 and "heard: hello, sea" in result.stdout and "0 left" in result.stdout


def test_a_deaf_tree_ends_by_the_deadline():
    file = pathlib.Path(example("deaf"))
    file.write_text(file.read_text().replace('args: "200"', 'args: "40"'))  # how many an emulated machine ends within the budget on a busy host
    command = start(BUILD / "bin/tidegate", "run", file, "--grace-duration", "1s", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = next(line for line in command.stdout if "40 processes that ignore SIGTERM" in line)
    begin = time.monotonic()
    command.send_signal(signal.SIGINT)
    output += command.communicate(timeout=50)[0]
    print(output)
    assert command.returncode == 1 and "was killed" in output and "0 left" in output, output
    assert time.monotonic() - begin < 1.5 + 2 + SLACK


def test_a_daemon_outlives_its_supervisor_and_ends_with_nothing_left():
    file = descriptor("/tmp/flow", ("a", "echo up; exec sleep 1000"), ("b", DEAF))
    assert tidegate("up").returncode == 0
    assert tidegate("start", file, "--name", "flow", "--detach", "--grace-duration", "300ms").returncode == 0
    a = int(tidegate("pid", "flow:a").stdout)
    assert cgroup_of(tidegate("pid", "--guard").stdout.strip()) == CGROUPS, "the root of the hierarchy need not be left"
    supervisor = int(tidegate("pid").stdout)
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: int(tidegate("pid").stdout or supervisor) != supervisor)
    assert int(tidegate("pid", "flow:a").stdout) == a and state_of(a) is not None
    result = tidegate("stop", "flow")
    assert result.returncode == 1 and "0 left" in result.stdout, "b had to be killed"
    assert tidegate("down").returncode == 0
    assert "memory" in (CGROUPS / "cgroup.subtree_control").read_text().split()


def test_nodes_of_a_daemon_that_was_killed_whole_are_adopted():
    file = descriptor("/tmp/flow", ("a", "exec sleep 1000"))
    assert tidegate("up").returncode == 0
    assert tidegate("start", file, "--name", "flow", "--detach").returncode == 0
    a = int(tidegate("pid", "flow:a").stdout)
    kill_daemon()
    assert tidegate("up").returncode == 0
    assert eventually(lambda: tidegate("pid", "flow:a").stdout.strip() == str(a))
    assert tidegate("down").returncode == 0
    assert eventually(lambda: state_of(a) is None)


def test_the_page_of_a_node_names_its_cgroup():
    file = descriptor("/tmp/flow", ("a", "exec sleep 1000"))
    assert tidegate("up").returncode == 0
    assert tidegate("start", file, "--name", "flow", "--detach").returncode == 0
    a = int(tidegate("pid", "flow:a").stdout)
    (cgroup,) = [g for g in cgroups(CGROUPS / "tidegate") if g.endswith("/a.1")]
    assert pids_in(CGROUPS / cgroup) == [a]
    assert json.loads(tidegate("status", "flow:a", "--json").stdout)
    assert tidegate("down").returncode == 0
