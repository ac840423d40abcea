# SPDX-License-Identifier: Apache-2.0
"""tidegated as PID 1 of a container: init of a PID namespace with a /proc of its own, as a container's runtime starts it."""

import os
import pathlib
import re
import signal
import subprocess

import pytest
from conftest import MARK, PYTHON, counters_agree, eventually, marked_processes, unified_root
from lives import cgroups_in, children_of

TREE = """\
nodes:
  - id: steady
    path: steady.sh
  - id: tree
    path: tree.sh
"""
TREE_SH = """\
#!/bin/sh
# 60 processes that are nobody's children any more, in sessions of their own, deaf to SIGTERM
trap '' TERM
i=0
while [ $i -lt 60 ]; do
    (setsid sleep 1000 &)
    i=$((i + 1))
done
echo ready
while :; do sleep 1000; done
"""


# As most containers are: cgroups are read-only, and a filter forbids namespaces and clone3. What is on /run is the host's otherwise.
BARE = 'mount -o remount,bind,ro "$1" && mount --bind "$2" /run && shift 2 && exec "$@"'


class Container:
    def __init__(self, build, env, directory, home, enforcer="cgroup"):
        self.build, self.home, self.directory, self.enforcer = build, home, directory, enforcer
        self.runtime, self.log = directory / "run", directory / "log"
        command = ["unshare", "--pid", "--fork", "--mount-proc"]
        if enforcer == "pid1":
            filtered = pathlib.Path(__file__).parent / "no_namespaces.py"
            command += ["sh", "-c", BARE, "sh", unified_root(), home, PYTHON, filtered, build / "bin/tidegated", "--runtime-dir", self.runtime]
        else:
            command += [build / "bin/tidegated", "--runtime-dir", self.runtime, "--cgroup-root", home]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.init = eventually(lambda: next(iter(children_of(self.process.pid)), None), 10)
        assert self.init, self.output()
        self.init_fd = os.pidfd_open(self.init)
        assert eventually(lambda: (self.runtime / "control.sock").exists() and self.tidegate("status").returncode == 0, 20), self.output()

    def output(self):
        return self.log.read_text(errors="replace")

    def inside(self, *command, seconds=30):
        """As `docker exec` does it."""
        return subprocess.run(["nsenter", "-t", str(self.init), "-p", "-m", *map(str, command)], capture_output=True, text=True, timeout=seconds)

    def tidegate(self, verb, *args, seconds=30):
        return self.inside(self.build / "bin/tidegate", verb, "--runtime-dir", self.runtime, *args, seconds=seconds)

    def signal(self, signo):
        signal.pidfd_send_signal(self.init_fd, signo)

    def processes(self):
        """(pid, ppid, state, arguments) of each, as seen inside; without the one that looks."""
        rows = [line.split(None, 3) for line in self.inside("ps", "-e", "-o", "pid=,ppid=,stat=,args=").stdout.splitlines()]
        return [(int(pid), int(ppid), stat, args) for pid, ppid, stat, args in rows if not args.startswith("ps ")]

    def zombies(self):
        return [p for p in self.processes() if p[2].startswith("Z")]

    def supervisor(self):
        return next((pid for pid, _, _, args in self.processes() if "--role=supervisor" in args), None)


@pytest.fixture(params=["cgroup", "pid1"])
def enforcer(request):
    return request.param


@pytest.fixture
def container(build, node_environment, traces, home, enforcer, tmp_path):
    for name, text in (("tree.yml", TREE), ("tree.sh", TREE_SH), ("steady.sh", "#!/bin/sh\nexec sleep 1000\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    c = Container(build, {**node_environment, MARK: traces.mark}, tmp_path, home, enforcer)
    yield c
    if c.process.poll() is None:
        c.signal(signal.SIGTERM)
        try:
            c.process.wait(20)
        except subprocess.TimeoutExpired:
            c.signal(signal.SIGKILL)
            c.process.wait(10)
            pytest.fail(f"it did not end\n{c.output()}")
    os.close(c.init_fd)
    counters_agree(c.output())
    assert c.process.returncode in (0, 1), c.output()  # 1 is unshare's word for one that was killed
    assert not marked_processes(traces.mark)


def removed(directory):
    try:
        (directory / "reaper").unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        return False
    return True


def start_tree(container):
    p = container.tidegate("start", "--detach", "--grace-duration", "1s", container.directory / "tree.yml")
    assert p.returncode == 0, p.stderr
    assert eventually(lambda: sum(args == "sleep 1000" for *_, args in container.processes()) >= 62, 20), container.processes()


def test_it_reaps_whoever_is_left_to_it(container):
    assert container.inside("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (setsid sh -c 'exit 3' &); done").returncode == 0
    assert eventually(lambda: len(container.processes()) == 2 and not container.zombies(), 10), container.processes()


def test_a_stop_leaves_nobody_of_a_tree_of_orphans(container):
    start_tree(container)
    if container.enforcer == "cgroup":
        assert {ppid for _, ppid, _, args in container.processes() if args == "sleep 1000"} >= {1}, "orphans are its children"
    assert f'"backend": "{container.enforcer}"' in container.tidegate("status", "--json", "tree").stdout
    held = "Held by: 2 nodes: cgroup; cgroups are" if container.enforcer == "cgroup" else f"Held by: 2 nodes: {container.enforcer}\n"
    assert held in container.tidegate("status", "tree").stdout
    p = container.tidegate("stop", "tree")
    assert "0 left" in p.stdout + p.stderr
    assert eventually(lambda: len(container.processes()) == 2, 5), container.processes()
    assert not [c for c in cgroups_in(container.home) if "tree" in c]


def test_nobody_inside_can_kill_it_and_a_killed_supervisor_has_a_successor(container):
    start_tree(container)
    before = {pid for pid, _, _, args in container.processes() if args == "sleep 1000"}
    for signo in ("KILL", "STOP", "ABRT", "SEGV", "QUIT", "ALRM", "PIPE", "USR2"):
        container.inside("kill", f"-{signo}", "1")
    first = container.supervisor()
    container.inside("kill", "-KILL", first)
    assert eventually(lambda: "adopted 2, lost 0, duplicated 0" in container.output(), 10), container.output()
    assert before <= {pid for pid, _, _, args in container.processes() if args == "sleep 1000"}
    assert eventually(lambda: container.supervisor() not in (None, first), 5), f"{container.processes()}\n{container.output()}"
    assert "2/2" in container.tidegate("list").stdout


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_the_signal_of_a_containers_end_stops_everything_in_bounded_time(container, signo):
    start_tree(container)
    container.signal(signo)
    assert container.process.wait(10 + 5 + 2 + 3) == 0, container.output()
    for step in range(1, 6):
        assert f"step {step}/5" in container.output()
    assert not any(container.runtime.glob("*"))


@pytest.mark.parametrize("cgroups", ["kept", "removed"])
def test_a_container_that_is_killed_takes_all_along_and_the_next_one_goes_on(cgroups, container, build, node_environment, traces, tmp_path):
    """The runtime directory is still there, as on a volume: it is the same instance, whose nodes have all ended unseen."""
    tree = container.directory / "tree.yml"
    tree.write_text(re.sub(r"( +)(path: .*)", r"\1\2\n\1restart_policy: on-failure", TREE))
    start_tree(container)
    container.signal(signal.SIGKILL)
    container.process.wait(10)
    assert eventually(lambda: not marked_processes(traces.mark), 10)
    for path in sorted(cgroups_in(container.home), reverse=True) if cgroups == "removed" else []:
        assert eventually(lambda path=path: removed(container.home / path), 5)
    again = Container(build, {**node_environment, MARK: traces.mark}, tmp_path, container.home, container.enforcer)
    try:
        assert eventually(lambda: again.output().count("ended, its exit status is unknown") >= 2, 10), again.output()
        assert eventually(lambda: "2/2" in again.tidegate("list").stdout, 10), again.output()  # their restart policy's doing
        assert "lost 0, duplicated 0" in again.output()
    finally:
        again.signal(signal.SIGTERM)
        status = again.process.wait(20)
        os.close(again.init_fd)
    assert status == 0, again.output()
    assert not cgroups_in(container.home)
