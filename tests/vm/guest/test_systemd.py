# SPDX-License-Identifier: Apache-2.0
"""systemd as PID 1: the daemon as a service with its scope, a user's daemon, and an ordinary user's login session."""

import os
import pathlib
import re
import shlex
import signal

from guest import BUILD, CGROUPS, HOME, SLACK, SOURCE, UID, USER, cgroup_of, cgroups, deadline, descriptor, eventually, pids_in, run, state_of, tidegate

MODE = "systemd"
TIDEGATE = f"{BUILD}/bin/tidegate"


def systemctl(*args, **kwargs):
    return run("systemctl", *args, **kwargs)


def scopes(name="tidegate-"):
    return sorted(CGROUPS / g for g in cgroups() if g.endswith(".scope") and os.path.basename(g).startswith(name))


def gone(pid):
    return state_of(pid) in (None, "Z")


# The daemon as a service


def install():
    """packaging/tidegated.service, as meson would install it."""
    text = (SOURCE / "packaging/tidegated.service").read_text().replace("@bindir@", f"{BUILD}/bin")
    pathlib.Path("/run/systemd/system/tidegated.service").write_text(text)
    systemctl("daemon-reload", check=True)


def service(call):
    """Start it with a dataflow of one node, call(pid of the node), and stop it: then nothing may be left."""
    install()
    systemctl("start", "tidegated", check=True)
    file = descriptor("/root/flow", ("a", "exec sleep 1000"))
    assert tidegate("start", file, "--name", "flow", "--detach").returncode == 0
    a = int(tidegate("pid", "flow:a").stdout)
    (scope,) = scopes()
    assert cgroup_of(a).is_relative_to(scope / "tidegate") and pids_in(scope) == []
    call(a)
    assert tidegate("pid", "flow:a").stdout.strip() == str(a) and not gone(a)
    systemctl("stop", "tidegated", check=True)
    assert eventually(lambda: gone(a) and not scopes()), scopes()
    assert "Result=success" in systemctl("show", "tidegated", "-p", "Result").stdout


@deadline(120)
def test_nodes_of_the_service_outlive_its_supervisor_and_its_holder():
    def kill(_):
        supervisor = int(tidegate("pid").stdout)
        os.kill(supervisor, signal.SIGKILL)
        assert eventually(lambda: re.fullmatch(r"\d+\n", (new := tidegate("pid").stdout)) and int(new) != supervisor)
        (scope,) = scopes()
        (holder,) = pids_in(scope / "holder")
        os.kill(holder, signal.SIGKILL)
        assert eventually(lambda: (pids := pids_in(scope / "holder")) and pids != [holder]), "the guard starts another"

    service(kill)


@deadline(120)
def test_nodes_of_the_service_outlive_its_guard_and_are_adopted_by_the_next_one():
    def kill(a):
        guard = int(tidegate("pid", "--guard").stdout)
        os.kill(guard, signal.SIGKILL)
        assert eventually(lambda: (text := tidegate("pid", "--guard").stdout.strip()).isdigit() and int(text) != guard, 30)
        assert eventually(lambda: tidegate("pid", "flow:a").stdout.strip() == str(a))
        assert "NRestarts=1" in systemctl("show", "tidegated", "-p", "NRestarts").stdout

    service(kill)


# An ordinary user


def login(*command, **kwargs):
    """In a session of its own, as after a login. The user's manager lingers: it need not start for each."""
    pathlib.Path("/var/lib/systemd/linger").mkdir(parents=True, exist_ok=True)
    pathlib.Path(f"/var/lib/systemd/linger/{USER}").touch()
    systemctl("start", "dbus.service", "systemd-logind.service", f"user@{UID}.service", check=True)
    return run("su", "-", USER, "-c", shlex.join(map(str, command)), **kwargs)


def home(name, *nodes):
    file = descriptor(f"{HOME}/{name}", *nodes)
    return file


@deadline(150)
def test_a_login_session_runs_in_a_scope_of_the_users_manager():
    result = login(TIDEGATE, "run", home("run", ("a", "cat /proc/self/cgroup /proc/$PPID/cgroup; cut -d: -f3 /proc/$$/cgroup | head -c 20")))
    assert result.returncode == 0 and "0 left" in result.stdout
    node, keeper = re.findall(r"0::(\S+)", result.stdout)[:2]
    scope = rf"/user.slice/user-{UID}.slice/user@{UID}.service/app.slice/tidegate-run-\d+-\w+\.scope"
    assert re.fullmatch(rf"{scope}/tidegate/run-\w+/[0-9a-f-]+/a\.1", node), node
    assert re.fullmatch(rf"{scope}/tidegate-self", keeper), keeper
    assert eventually(lambda: not scopes()), "the manager removes it"


@deadline(90)
def test_doctor_in_a_login_session_says_that_there_will_be_a_scope():
    result = login(TIDEGATE, "doctor", "--json", quiet=True)
    assert "a scope that the user's service manager makes for each instance" in result.stdout
    assert eventually(lambda: not scopes())


@deadline(120)
def test_the_daemon_of_a_login_session_outlives_it_and_is_adopted_from_the_next_one():
    file = home("flow", ("a", "exec sleep 1000"))
    result = login("/bin/sh", "-c", f"{TIDEGATE} up && {TIDEGATE} start {file} --name flow --detach && {TIDEGATE} pid flow:a")
    assert result.returncode == 0, result.stdout
    a = int(result.stdout.split()[-1])
    (scope,) = scopes("tidegate-up-")
    assert cgroup_of(a).is_relative_to(scope / "tidegate") and os.stat(f"/proc/{a}").st_uid == UID
    (scope / "tidegate-self/cgroup.kill").write_text("1")  # all at once: nobody sees another one die, and makes a new one
    assert eventually(lambda: pids_in(scope / "tidegate-self") == [])
    result = login("/bin/sh", "-c", f"{TIDEGATE} up && {TIDEGATE} pid flow:a")
    assert result.returncode == 0 and int(result.stdout.split()[-1]) == a, result.stdout
    assert scopes("tidegate-up-") == [scope] and len(pids_in(scope / "tidegate-self")) >= 3
    assert login(TIDEGATE, "down").returncode == 0
    assert eventually(lambda: gone(a) and not scopes(), SLACK)


@deadline(120)
def test_the_daemon_that_is_a_users_service_has_a_scope_beside_it():
    command = ["systemd-run", "--user", "--unit=tidegated", "-p", "Type=notify", "-p", "NotifyAccess=main", "-p", "Delegate=yes", "-p", "KillMode=mixed"]
    assert login(*command, f"{BUILD}/bin/tidegated").returncode == 0
    result = login("/bin/sh", "-c", f"{TIDEGATE} start {home('flow', ('a', 'exec sleep 1000'))} --name flow --detach && {TIDEGATE} pid flow:a")
    a = int(result.stdout.split()[-1])
    (scope,) = scopes()
    assert scope.parent.name == "app.slice" and cgroup_of(a).is_relative_to(scope / "tidegate") and os.stat(f"/proc/{a}").st_uid == UID
    assert login("systemctl", "--user", "stop", "tidegated").returncode == 0
    assert eventually(lambda: gone(a) and not scopes()), scopes()
