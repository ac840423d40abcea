# SPDX-License-Identifier: Apache-2.0
"""A daemon that is a service of systemd's: its nodes live in a scope beside it, and outlive the service.

There is no systemd here. A mount namespace has /run/systemd/system, the daemon is started in a cgroup `tidegated.service`, and the
`systemd-run` that is first in PATH makes the scope beside it. Who is killed with the service, and that an empty scope is removed, is done here.
"""

import contextlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from conftest import MARK, eventually, marked_processes
from daemon import plan, program
from lives import SLACK, arguments_of, cgroups_in, stat_of, status_field
from survive import Seen, Survivor, appends, lines, restarting, stream

SYSTEMD_RUN = """\
#!/bin/sh
echo "$@" >> "$FAKE_DIRECTORY/called"
case $FAKE_SYSTEMD_RUN in
fail) echo "Failed to start transient scope unit: Access denied" >&2; exit 1 ;;
hang) exec sleep 1000 ;;
esac
while [ "$1" != -- ]; do
    case $1 in --unit=*) unit=${1#--unit=} ;; esac
    shift
done
shift
mkdir "$FAKE_SLICE/$unit" 2>/dev/null || { echo "Failed to start transient scope unit: Unit $unit was already loaded" >&2; exit 1; }
echo $$ > "$FAKE_SLICE/$unit/cgroup.procs" || exit 1
echo 1000 > "$FAKE_SLICE/$unit/cgroup.max.depth" # somebody was in it: for the manager, which may look only when nobody is any more
exec "$@"
"""
AS_SERVICE = """\
/bin/mount -t tmpfs tmpfs /run && /bin/mkdir -p /run/systemd/system && echo $$ > "$FAKE_SLICE/tidegated.service/cgroup.procs" && exec "$@"
"""
HELLO, READY, END, STOP = 1, 2, 3, 4


def populated(cgroup):
    try:
        return "populated 1" in (cgroup / "cgroup.events").read_text()
    except OSError:
        return False


def was_entered(scope):
    try:
        return (scope / "cgroup.max.depth").read_text() == "1000\n"
    except OSError:
        return False


def processes_in(cgroup):
    """Of the whole tree."""
    found = []
    for file in cgroup.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return sorted(found)


def remove(cgroup):
    for path, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)


class Manager:
    """What systemd does by itself: a scope that gets empty is removed, with all that is below it."""

    def __init__(self, home):
        self.slice = home / "fake.slice"
        self.slice.mkdir()
        self.service = self.slice / "tidegated.service"
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.done.wait(0.01):
            for scope in self.slice.glob("*.scope"):
                if was_entered(scope) and not populated(scope):
                    remove(scope)  # again, if it is busy: that outlives the last process by a moment

    def close(self):
        self.done.set()
        self.thread.join(10)

    def begin_service(self):
        """Always a fresh cgroup: one that was ever killed may kill what is born into it."""
        if self.service.exists():
            assert eventually(lambda: not populated(self.service), 10)
            remove(self.service)
        self.service.mkdir()
        os.setxattr(self.service, "trusted.delegate", b"1")

    def kill_service(self):
        """Its main process has died, so all of it is killed."""
        (self.service / "cgroup.kill").write_text("1")
        assert eventually(lambda: not populated(self.service), 10)

    def scopes(self):
        return list(self.slice.glob("*.scope"))

    def scope(self):
        (scope,) = self.scopes()
        return scope


class Service(Survivor):
    status_at_end = 0  # of the process that was started

    def __init__(self, command, env, directory, home, mark, manager):
        self.manager = manager
        manager.begin_service()
        super().__init__(command, env, directory, home, mark)

    def places(self):
        return ["--runtime-dir", self.runtime]

    def again(self):
        self.manager.begin_service()
        super().again()
        self.wait_until_ready()

    def holder(self):
        """The pid of the one holder."""
        pids = [p for p in marked_processes(self.mark) if "--role=holder" in arguments_of(p) and (s := stat_of(p)) and s[0] != "Z"]
        return pids[0] if len(pids) == 1 else None

    def start(self, plan):
        environment = [f"{k}={v}" for k, v in self.env.items() if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
        return self.talk("Start", plan=plan, environment=environment, grace_ms=1000, budget_ms=1000)["uuid"]


@pytest.fixture
def manager(home):
    m = Manager(home)
    yield m
    m.close()
    for cgroup in (*m.scopes(), m.service, m.slice):
        remove(cgroup)


@pytest.fixture
def service(build, node_environment, traces, home, manager, tmp_path):
    """Start `tidegated ARGS...` as a service; returns a Service that answers. At the end nothing of it may be left."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a mount namespace")
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "systemd-run").write_text(SYSTEMD_RUN)
    (fake / "systemd-run").chmod(0o755)
    services = []

    def start(*args, how="", path=None, **extra):
        """@how: what becomes of systemd-run."""
        environment = {
            **node_environment, MARK: traces.mark, "FAKE_DIRECTORY": str(fake), "FAKE_SLICE": str(manager.slice), "FAKE_SYSTEMD_RUN": how,
            "PATH": path or f"{fake}:{node_environment['PATH']}",
        }  # fmt: skip
        environment.pop("SYSTEMD_EXEC_PID", None)
        environment.update(extra)
        directory = tmp_path / f"service-{len(services)}"
        directory.mkdir(exist_ok=True)
        command = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", AS_SERVICE, "sh", build / "bin/tidegated", *map(str, args)]
        services.append(Service(command, environment, directory, home, traces.mark, manager))
        services[-1].calls = lambda: (fake / "called").read_text().splitlines() if (fake / "called").exists() else []
        services[-1].wait_until_ready()
        return services[-1]

    yield start
    for daemon in services:
        ended = daemon.end()
        assert ended == daemon.status_at_end, f"status {ended}\n{daemon.output()}"
        # Of the cgroups the service's own is systemd's, which also removes the scope once it is empty.
        left = eventually(lambda: not (marked_processes(traces.mark) or manager.scopes()), SLACK)
        assert left, f"{marked_processes(traces.mark)}, {manager.scopes()}\n{daemon.output()}"
        assert cgroups_in(manager.service) == []
        assert not daemon.runtime.exists() or os.listdir(daemon.runtime) == [], os.listdir(daemon.runtime)


def steady(name="steady"):
    return plan(program("a", "exec /bin/sleep 1000"), program("b", "exec /bin/sleep 1000"), name=name)


def started(daemon, name="steady"):
    """Two programs; their pids."""
    daemon.start(steady(name))
    assert eventually(lambda: len([k for k in daemon.pids() if k[0] == name]) == 2, 20), daemon.output()
    return daemon.pids()


def test_nodes_of_a_service_live_in_a_scope_of_their_own(service, manager):
    daemon = service()
    pids = started(daemon)
    scope = manager.scope()
    assert processes_in(scope / "tidegate") == sorted(pids.values())
    assert processes_in(scope / "holder") == [daemon.holder()]
    assert (scope / "cgroup.procs").read_text() == "", "a cgroup with processes can have no controllers below"
    assert (pathlib.Path("/proc") / str(daemon.holder()) / "comm").read_text().strip() == "tidegate-holder"
    in_service = {a for p in processes_in(manager.service) for a in arguments_of(p) if a.startswith("--role=")}
    assert daemon.guard_pid() in processes_in(manager.service) and in_service == {"--role=supervisor", "--role=keeper"}
    (call,) = daemon.calls()
    for word in ("--scope", "--collect", "Delegate=yes", f"--unit={scope.name}", "--slice=fake.slice", "Before=tidegated.service"):
        assert word in call.split()
    assert f"nodes live in the scope {scope}" in daemon.output()


@pytest.mark.parametrize("how, why", [("fail", "Failed to start transient scope unit: Access denied"), ("hang", "systemd-run did not do it in time"),
                                      ("missing", "systemd-run: No such file or directory")])  # fmt: skip
def test_without_a_scope_they_live_below_the_service_and_the_log_says_why(service, manager, build, how, why):
    begin = time.monotonic()
    daemon = service(how=how, path=f"{build}/bin" if how == "missing" else None)
    assert time.monotonic() - begin < (5 if how == "hang" else 0) + SLACK
    pids = started(daemon)
    assert manager.scopes() == [] and daemon.holder() is None
    assert set(pids.values()) <= set(processes_in(manager.service / "tidegate"))
    said = [line for line in daemon.output().splitlines() if "scope" in line]
    assert len(said) == 1 and f"no scope: {why}; nodes live in the service's own cgroup" in said[0], daemon.output()
    assert not (daemon.runtime / "holder.sock").exists()


def test_who_was_not_started_by_the_manager_itself_makes_no_scope(service, manager):
    """A child of some service's."""
    daemon = service(how="fail", SYSTEMD_EXEC_PID="1")
    assert daemon.calls() == [] and "scope" not in daemon.output()


@pytest.mark.parametrize("first", ["guard", "all"])
def test_the_next_daemon_adopts_what_outlived_the_service(service, manager, build, tmp_path, first):
    daemon = service()
    seen, once = Seen(tmp_path / "seen"), tmp_path / "once"
    daemon.start(stream(build, seen.file))
    daemon.start(plan(program("steady", "exec /bin/sleep 1000"), program("once", appends(once), restart=restarting()), name="programs"))
    live = [("stream", "count"), ("stream", "relay"), ("stream", "check"), ("programs", "steady")]
    states = {**dict.fromkeys(live, "running"), ("programs", "once"): "stopped"}  # any four of them could be running, with one still to begin
    assert eventually(lambda: {key: n["state"] for key, n in daemon.nodes().items()} == states and lines(once) == 1, 20), daemon.output()
    pids, scope, holder = daemon.pids(), manager.scope(), daemon.holder()
    if first == "guard":  # as it is killed by hand; what its heir gets to do until systemd is there does not matter
        daemon.send("guard")
    manager.kill_service()
    assert eventually(lambda: not (set(marked_processes(daemon.mark)) - {*pids.values(), holder}), 10), marked_processes(daemon.mark)
    assert seen.until_more(), "data flows while nobody is there"
    daemon.again()
    adopted, lost, duplicated, _ = daemon.until_adopted(1)
    assert (adopted, lost, duplicated) == (4, 0, 0), daemon.output()
    assert eventually(lambda: daemon.pids() == pids, 10), daemon.output()
    assert seen.until_more() and seen.wrong() == 0 and lines(once) == 1
    assert manager.scope() == scope and daemon.holder() == holder and len(daemon.calls()) == 1
    assert f"nodes live in the scope {scope}, which was there" in daemon.output()


def test_a_scope_whose_holder_died_with_the_daemon_is_kept_by_its_nodes(service, manager):
    daemon = service()
    pids = started(daemon)
    daemon.send("guard", "holder")
    manager.kill_service()
    daemon.again()
    assert daemon.until_adopted(1)[:3] == (2, 0, 0), daemon.output()
    assert daemon.pids() == pids and len(daemon.calls()) == 1
    assert daemon.holder() in processes_in(manager.scope() / "holder")


def test_a_service_that_died_without_nodes_finds_its_scope(service, manager):
    daemon = service()
    holder = daemon.holder()
    manager.kill_service()
    assert eventually(lambda: set(marked_processes(daemon.mark)) == {holder}, 10)
    daemon.again()
    assert daemon.holder() == holder and len(daemon.calls()) == 1
    started(daemon)


def test_nodes_whose_journal_is_gone_are_ended_by_the_next_daemon(service, manager):
    daemon = service()
    pids = started(daemon)
    manager.kill_service()
    for path in sorted(daemon.runtime.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    daemon.again()
    assert not set(pids.values()) & set(marked_processes(daemon.mark))
    assert "the scope had 1 instance that nobody knows any more: ended" in daemon.output()
    started(daemon)
    assert len(manager.scopes()) == 1


def test_a_holder_that_is_killed_is_replaced_and_nodes_do_not_notice(service, manager):
    daemon = service()
    pids, holder = started(daemon), daemon.holder()
    for _ in range(2):
        daemon.send("holder")
        assert eventually(lambda: daemon.holder() not in (None, holder), 10), daemon.output()
        holder = daemon.holder()
        assert eventually(lambda: processes_in(manager.scope() / "holder") == [holder], 5)
    assert daemon.pids() == pids


def test_a_scope_that_is_gone_ends_the_daemon_in_failure(service, manager):
    daemon = service()
    daemon.status_at_end = 1
    daemon.send("guard", signo=signal.SIGSTOP)  # or it would have another holder there before systemd has looked
    daemon.send("holder")  # nobody else is in it
    assert eventually(lambda: not manager.scopes(), 10)
    daemon.send("guard", signo=signal.SIGCONT)
    assert daemon.process.wait(20) == 1, daemon.output()
    assert "is gone" in daemon.output()


def test_the_manager_that_ends_the_scope_ends_everything(service, manager):
    """`systemctl stop` of the scope: SIGTERM to all who are in it."""
    daemon = service()
    started(daemon)
    daemon.send("holder", signo=signal.SIGTERM)
    assert daemon.process.wait(20) == 0, daemon.output()
    assert "the service manager ends the scope" in daemon.output()


@pytest.mark.parametrize("nodes", [True, False])
def test_a_stopped_holder_holds_up_neither_a_start_nor_an_end(service, manager, nodes):
    daemon = service()
    pids, holder = started(daemon) if nodes else {}, daemon.holder()
    daemon.send("holder", signo=signal.SIGSTOP)
    manager.kill_service()
    daemon.again()
    assert not nodes or daemon.until_adopted(1)[:3] == (2, 0, 0), daemon.output()
    assert daemon.pids() == pids and len(daemon.calls()) == 1
    holders = processes_in(manager.scope() / "holder")
    assert holder in holders and len(holders) == 2, "it has got company"
    begin = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - begin < 2 + SLACK


@pytest.mark.parametrize("how", ["heir", "reexec"])
def test_whoever_takes_the_guards_place_has_the_scope(service, manager, build, how):
    daemon = service()
    pids, holder, guard = started(daemon), daemon.holder(), daemon.guard_pid()
    if how == "heir":
        daemon.send("guard")
        daemon.status_at_end = -signal.SIGKILL
    else:
        subprocess.run([build / "bin/tidegated", "--reexec", "--runtime-dir", daemon.runtime], env=daemon.env, timeout=20, check=True)
    assert daemon.until_adopted(1)[:3] == (2, 0, 0), daemon.output()
    assert daemon.pids() == pids and daemon.holder() == holder
    assert (daemon.guard_pid() == guard) == (how == "reexec")
    daemon.send("holder")
    assert eventually(lambda: daemon.holder() not in (None, holder), 10), daemon.output()


# The holder alone


def sleeps(pid):
    return int(status_field(pid, "voluntary_ctxt_switches"))


class Holder:
    """The role with a linger time of 0.3 s, in a scope of the test's own, and the test as its daemon."""

    LINGER = 0.3

    def __init__(self, build, env, home, directory):
        self.scope = home / "holder-test"
        (self.scope / "tidegate/instance").mkdir(parents=True)
        self.path = directory / "holder.sock"
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(str(self.path))
        self.listening.listen(4)
        self.daemon, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.daemon.settimeout(10)
        command = [build / "bin/tidegated", "--role=holder", f"--linger-ns={int(self.LINGER * 1e9)}"]
        self.process = subprocess.Popen(command, env=env, stdin=self.listening, stdout=theirs)
        theirs.close()
        self.hello(self.daemon)

    def hello(self, daemon):
        fd = os.open(self.scope, os.O_RDONLY | os.O_DIRECTORY)
        socket.send_fds(daemon, [struct.pack("=4sI", b"TGHD", HELLO)], [fd])
        os.close(fd)
        assert self.word(daemon) == READY

    def word(self, daemon):
        return struct.unpack("=4sI", daemon.recv(64))[1]

    def connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.settimeout(10)
        s.connect(str(self.path))
        self.hello(s)
        return s

    def node(self, env):
        """Somebody in the instance's cgroup."""
        node = subprocess.Popen(["/bin/sleep", "1000"], env=env)
        (self.scope / "tidegate/instance/cgroup.procs").write_text(str(node.pid))
        return node

    def close(self):
        self.listening.close()
        self.daemon.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        remove(self.scope)


@pytest.fixture
def holder(build, node_environment, traces, home, tmp_path):
    h = Holder(build, {**node_environment, MARK: traces.mark}, home, tmp_path)
    yield h
    h.close()


def test_a_holder_leaves_when_its_daemon_says_so(holder):
    holder.daemon.send(struct.pack("=4sI", b"TGHD", END))
    assert holder.process.wait(5) == 0


def test_a_holder_leaves_when_daemon_and_nodes_are_gone_for_its_linger_time(holder, traces, node_environment):
    node = holder.node({**node_environment, MARK: traces.mark})
    holder.daemon.close()
    with pytest.raises(subprocess.TimeoutExpired):
        holder.process.wait(3 * holder.LINGER)
    begin = time.monotonic()  # before the node dies: who is late here has not seen the holder leave early
    node.kill()
    node.wait(10)
    assert holder.process.wait(10) == 0
    assert time.monotonic() - begin >= holder.LINGER * 0.9


def test_a_holder_does_not_leave_while_a_daemon_is_there_or_comes_in_time(holder):
    with pytest.raises(subprocess.TimeoutExpired):
        holder.process.wait(3 * holder.LINGER)
    holder.daemon.close()
    with holder.connect():
        with pytest.raises(subprocess.TimeoutExpired):
            holder.process.wait(3 * holder.LINGER)
    assert holder.process.wait(10) == 0, "the directories being there is nobody's life"


def test_a_holder_is_deaf_to_signals_but_passes_the_managers_on(holder):
    for signo in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGPIPE, signal.SIGTERM):
        holder.process.send_signal(signo)
    assert holder.word(holder.daemon) == STOP
    assert holder.process.poll() is None
    holder.daemon.close()
    with holder.connect() as daemon:
        daemon.close()
        holder.process.send_signal(signal.SIGTERM)
        assert holder.process.wait(holder.LINGER + SLACK) == 0


def test_a_holder_drops_whoever_talks_nonsense_and_sleeps_otherwise(holder):
    with holder.connect() as stranger:
        stranger.send(b"x" * 1000)
        assert stranger.recv(64) == b""
    many = [holder.connect() for _ in range(6)]  # the oldest make room
    for s in many[:-1]:
        s.close()
    turns = sleeps(holder.process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        holder.process.wait(2 * holder.LINGER)
    many[-1].close()
    assert sleeps(holder.process.pid) - turns < 10
