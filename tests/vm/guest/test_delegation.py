# SPDX-License-Identifier: Apache-2.0
"""Where cgroups are made, and by whom: an ordinary user with and without a delegated cgroup, a container."""

import json
import os
import pathlib
import signal
import subprocess
import time

from guest import BUILD, CGROUPS, SLACK, UID, USER, Cgroup, cgroups, descriptor, doctor, eventually, kill_daemon, pids_in, probe, processes, run, start, state_of, tidegate

LEAF = "tidegate-self"


def root_probe(**kwargs):
    return probe(doctor(**kwargs), "cgroup_root")


def long_run(*nodes, **kwargs):
    """`tidegate run` in the background, once its nodes live."""
    file = descriptor("/tmp/flow", *(nodes or [("a", "exec sleep 1000")]))
    command = start(BUILD / "bin/tidegate", "run", file, "--grace-duration", "5s", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    names = {"sleep"}
    assert eventually(lambda: names & set(processes().values()), 20), command.stdout
    return command


def interrupt(command):
    begin = time.monotonic()
    command.send_signal(signal.SIGINT)
    output = command.communicate(timeout=50)[0]
    print(output)
    assert time.monotonic() - begin < 7.5 + 2 + SLACK
    assert "0 left" in output, output
    return command.returncode


def sleeper():
    return next(pid for pid, comm in processes().items() if comm == "sleep")


def cgroup_of(pid):
    return CGROUPS / pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


# An ordinary user


def test_a_user_without_a_cgroup_and_without_a_manager_is_told_why():
    found = root_probe(user=True)
    assert found["result"] == "no"
    assert "is not delegated to us" in found["evidence"] and "no service manager of this user's runs" in found["evidence"], found


def test_a_user_runs_in_a_cgroup_that_is_delegated_to_him():
    with Cgroup("delegated", user=USER) as home:
        assert f"own delegated cgroup {home}" in root_probe(user=True, cgroup=home)["evidence"]
        before = cgroups(home)
        command = long_run(user=True, cgroup=home)
        assert cgroup_of(sleeper()).is_relative_to(home / "tidegate")
        assert os.stat(f"/proc/{sleeper()}").st_uid == UID
        assert interrupt(command) == 0
        assert cgroups(home) == before and pids_in(home) == []


def test_who_is_alone_in_a_delegated_cgroup_makes_way_for_controllers():
    with Cgroup("delegated", user=USER) as home:
        command = long_run(user=True, cgroup=home)
        assert pids_in(home) == [], "the command and its parts are in a leaf"
        assert command.pid in pids_in(home / LEAF)
        (home / "cgroup.subtree_control").write_text("+memory +pids")
        assert (home / "tidegate/memory.max").exists()
        assert interrupt(command) == 0
        assert cgroups(home) == set() and (home / "cgroup.subtree_control").read_text().strip() == ""


def test_two_in_one_delegated_cgroup_leave_nothing_and_the_first_one_ends_first():
    with Cgroup("delegated", user=USER) as home:
        first = long_run(user=True, cgroup=home)
        assert eventually(lambda: first.pid in pids_in(home / LEAF))
        second = start(BUILD / "bin/tidegate", "run", descriptor("/tmp/second", ("b", "exec sleep 1001")), "--grace-duration", "5s",
                       user=True, cgroup=home / LEAF, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert eventually(lambda: list(processes().values()).count("sleep") == 2, 20)
        assert second.pid in pids_in(home / LEAF)
        assert interrupt(first) == 0
        assert second.poll() is None and list(processes().values()).count("sleep") == 1
        assert interrupt(second) == 0
        assert cgroups(home) == set()


def test_beside_other_processes_there_are_no_limits_and_doctor_says_so():
    with Cgroup("delegated", user=USER) as home:
        other = start("/bin/sleep", "77", cgroup=home)
        assert "no limits below it, for 1 other process is in it" in root_probe(user=True, cgroup=home)["evidence"]
        result = tidegate("run", descriptor("/tmp/flow", ("a", "true")), user=True, cgroup=home)
        assert result.returncode == 0 and "0 left" in result.stdout
        limited = descriptor("/tmp/limited", ("a", "true", "resources: {pids_max: 100}"))
        result = tidegate("run", limited, user=True, cgroup=home)
        assert result.returncode == 1 and "processes live in the cgroup that is ours itself" in result.stdout
        assert pids_in(home) == [other.pid] and cgroups(home) == set()
        other.kill()
        other.wait(10)


def test_the_daemon_of_a_user_in_his_delegated_cgroup_is_adopted_there():
    runtime = "/tmp/user-runtime"
    os.makedirs(runtime, exist_ok=True)
    os.chown(runtime, UID, UID)
    with Cgroup("delegated", user=USER) as home:
        def call(*args):
            return tidegate(*args, "--runtime-dir", f"{runtime}/tidegate", user=True, cgroup=home)

        file = descriptor("/tmp/flow", ("a", "exec sleep 1000"))
        assert call("up").returncode == 0
        assert call("start", file, "--name", "flow", "--detach").returncode == 0
        a = int(call("pid", "flow:a").stdout)
        assert int(call("pid", "--guard").stdout) in pids_in(home / LEAF)
        kill_daemon(call)
        assert call("up").returncode == 0
        assert eventually(lambda: call("pid", "flow:a").stdout.strip() == str(a))
        assert state_of(a) is not None
        assert call("down").returncode == 0
        assert cgroups(home) == set()


# A container: its own cgroup is the top of what it sees


def in_container(*command, read_only=False, namespace=True):
    """The words that run a command as a container of cgroup /container would be."""
    umount = "umount -l /sys/fs/cgroup"
    mount = f"{umount} && mount -t cgroup2 cgroup2 /sys/fs/cgroup" if namespace else f"mount --bind /sys/fs/cgroup/container /mnt && {umount} && mount --move /mnt /sys/fs/cgroup"
    remount = " && mount -o remount,ro,bind /sys/fs/cgroup" if read_only else ""
    unshare = ["unshare", "--mount", *(["--cgroup"] if namespace else [])]
    return [*unshare, "/bin/sh", "-c", f'{mount}{remount} && exec "$@"', "sh", *command]


def container_doctor(home, **kwargs):
    return probe(json.loads(run(*in_container(BUILD / "bin/tidegate", "doctor", "--json", **kwargs), cgroup=home, quiet=True).stdout), "cgroup_root")


def test_a_container_runs_in_its_own_cgroup_with_and_without_a_namespace():
    for namespace in (True, False):
        with Cgroup("container") as home:
            found = container_doctor(home, namespace=namespace)
            assert found["result"] == "yes" and "the top of what this container sees" in found["evidence"], found
            result = run(*in_container(BUILD / "bin/tidegate", "run", descriptor("/tmp/flow", ("a", "cat /proc/self/cgroup")), namespace=namespace), cgroup=home)
            assert result.returncode == 0 and "0 left" in result.stdout
            assert cgroups(home) == set()


def test_the_only_process_of_a_container_makes_way_for_controllers():
    with Cgroup("container") as home:
        file = descriptor("/tmp/flow", ("a", "exec sleep 1000"))
        command = start(*in_container(BUILD / "bin/tidegate", "run", file, "--grace-duration", "5s"), cgroup=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert eventually(lambda: "sleep" in processes().values(), 20)
        assert pids_in(home) == [] and command.pid in pids_in(home / LEAF)
        (home / "cgroup.subtree_control").write_text("+memory")
        assert interrupt(command) == 0
        assert cgroups(home) == set()


def test_a_container_that_may_not_write_its_cgroup_is_told_so():
    with Cgroup("container") as home:
        found = container_doctor(home, read_only=True)
        assert found["result"] == "no" and "Read-only file system" in found["evidence"], found
