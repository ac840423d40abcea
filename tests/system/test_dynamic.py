# SPDX-License-Identifier: Apache-2.0
"""Dynamic nodes that capture: who started by hand takes such a place is moved into the dataflow, or told why not, and ends with it."""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import pathlib
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import pytest
from conftest import MARK, PYTHON, counters_agree, eventually, marked_processes
from daemon import plan, program
from lives import SLACK, Process, cgroups_in, stat_of, status_field
from survive import node
from test_control_hostile import NOBODY, as_user, error_of, open_daemon  # noqa: F401
from test_daemon import SLEEP, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="capturing is for root")

# Takes a node's place and tells: "in", or the error. It hears neither SIGTERM nor a stop event. Told `CHILDREN=1` it has a child from before
# and one from after; told `THREADS=1` threads that it had before.
HAND = """
import os, signal, sys, threading, time
import tidegate

def child():
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid

for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signo, signal.SIG_IGN)
before = child() if os.environ.get("CHILDREN") else 0
if os.environ.get("THREADS"):
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
try:
    node = tidegate.Node(sys.argv[1])
except Exception as e:
    print("refused", e, flush=True)
    sys.exit(7)
after = child() if os.environ.get("CHILDREN") else 0
print("in", before, after, flush=True)
if os.environ.get("LEAVES"):
    sys.exit(0)
while True:
    time.sleep(1000)
"""


def dynamic(id="viewer", **keys):
    return {**program(id, ""), "kind": "dynamic", "argv": [], "capture": True, **keys}


class Hand:
    """A program that was started by hand."""

    def __init__(self, command, env, stdin=subprocess.DEVNULL):
        self.process = subprocess.Popen(list(map(str, command)), env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        bufsize=1)  # fmt: skip
        self.pid = self.process.pid
        self.before = self.after = 0

    def line(self, seconds=20):
        assert select.select([self.process.stdout], [], [], seconds)[0], "nothing was printed in time"
        return self.process.stdout.readline()

    def joined(self):
        words = self.line().split()
        assert words and words[0] == "in", (words, self.process.poll() is not None and self.process.stderr.read())
        self.before, self.after = int(words[1]), int(words[2])
        return self

    def refusal(self):
        """What its library printed."""
        out, err = self.process.communicate(timeout=20)
        assert self.process.returncode == 7, (out, err)
        return err

    def wait(self, seconds):
        return self.process.wait(seconds)

    def alive(self):
        return self.process.poll() is None


@pytest.fixture
def hand(node_environment, traces, tmp_path):
    """Start HAND as this node of this daemon; @prefix: a command that ends by executing its arguments."""
    hands = []
    file = tmp_path / "hand.py"
    file.write_text(HAND)

    def begin(daemon, id="viewer", prefix=(), **env):
        environment = {**node_environment, MARK: traces.mark, "TIDEGATE_NODE_SOCKET": str(daemon.runtime / "node.sock"), **env}
        hands.append(Hand([*prefix, node_environment["TIDEGATE_PYTHON"], file, id], environment))
        return hands[-1]

    yield begin
    for h in hands:
        if h.alive():
            h.process.kill()
        for pid in (h.before, h.after):
            if pid in marked_processes(traces.mark):
                with contextlib.suppress(ProcessLookupError):
                    process = Process(pid)
                    process.send(signal.SIGKILL)
                    process.close()
        h.process.communicate(timeout=10)


def cgroup_of(pid, task=None):
    text = pathlib.Path(f"/proc/{pid}/task/{task}/cgroup" if task else f"/proc/{pid}/cgroup").read_text()
    return next(line for line in text.splitlines() if line.startswith("0::")).partition("0::")[2]


def listens(path):
    """The file alone is there before."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


def is_gone(pid):
    s = stat_of(pid)
    return s is None or s[0] == "Z"


def viewer_of(daemon, name="flow", id="viewer"):
    return next(n for n in daemon.status(name)["nodes"] if n["id"] == id)


def state_of(daemon):
    n = viewer_of(daemon)
    return n["state"], n["captured"]


# What it is for


@pytest.mark.sanitized
def test_one_that_is_deaf_is_ended_by_a_stop_with_what_it_started_since(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=600, budget_ms=2000)
    outside = cgroup_of(os.getpid())
    h = hand(daemon, CHILDREN="1").joined()
    assert eventually(lambda: state_of(daemon) == ("running", True), 10)
    assert viewer_of(daemon)["pid"] == h.pid and viewer_of(daemon)["kind"] == "dynamic"
    uuid = daemon.status("flow")["uuid"]
    assert cgroup_of(h.pid).endswith(f"/{uuid}/viewer.1") and cgroup_of(h.after) == cgroup_of(h.pid)
    assert cgroup_of(h.before) == outside, "one thread group is moved, and nobody else"
    begun = time.monotonic()
    result = daemon.client().call("Stop", dataflow="flow", timeout=20)["results"][0]
    seconds = time.monotonic() - begun
    assert 0.9 <= seconds < 0.9 + 2 + SLACK, "it has its grace, and not more"
    assert result["left"] == 0 and next(n for n in result["nodes"] if n["id"] == "viewer")["killed"], result
    assert h.wait(10) == -signal.SIGKILL and eventually(lambda: is_gone(h.after), 5)
    assert not is_gone(h.before)


def test_all_threads_of_it_are_moved(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    h = hand(daemon, THREADS="1").joined()
    tasks = os.listdir(f"/proc/{h.pid}/task")
    assert len(tasks) == 4 and {cgroup_of(h.pid, t) for t in tasks} == {cgroup_of(h.pid)} and cgroup_of(h.pid).endswith("/viewer.1")


def test_one_that_hears_ends_when_it_is_asked(daemon, build, node_environment, traces):
    start(daemon, node("talker", ["/bin/sh", "-c", f"while :; do echo x; sleep 0.05; done | {build}/bin/tidegate-pipe --send out"], outputs=["out"]),
          dynamic(inputs=[{"id": "in", "line": 1, "source": {"node": "talker", "output": "out"}, "queue_size": 10, "queue_policy": "drop_oldest",
                           "input_timeout_ns": 0}]))  # fmt: skip
    env = {**node_environment, MARK: traces.mark, "TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    process = subprocess.Popen([build / "bin/tidegate-pipe", "--as", "viewer", "--receive", "in"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    assert viewer_of(daemon)["captured"] is True
    begun = time.monotonic()
    result = daemon.client().call("Stop", dataflow="flow", timeout=20)["results"][0]
    assert time.monotonic() - begun < 5 and result["success"], result
    assert process.wait(10) == 0
    process.communicate(timeout=10)


def test_one_that_is_not_to_be_captured_outlives_the_stop_where_it_was(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(capture=False), grace_ms=300)
    outside = cgroup_of(os.getpid())
    h = hand(daemon).joined()
    assert cgroup_of(h.pid) == outside and state_of(daemon)[1] is False
    daemon.client().call("Stop", dataflow="flow", timeout=20)
    assert h.alive()


def test_the_place_is_free_again_once_the_last_of_it_has_ended(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    h = hand(daemon).joined()
    second = hand(daemon)
    assert "viewer is connected already" in second.refusal()
    h.process.kill()
    assert eventually(lambda: (v := viewer_of(daemon))["state"] == "starting" and v["generation"] == 2, 10), viewer_of(daemon)
    assert state_of(daemon)[1] is False
    third = hand(daemon).joined()
    assert cgroup_of(third.pid).endswith("/viewer.2") and viewer_of(daemon)["pid"] == third.pid


def test_one_that_ends_leaves_nobody_behind(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    h = hand(daemon, LEAVES="1", CHILDREN="1").joined()
    assert h.wait(10) == 0
    assert eventually(lambda: is_gone(h.after), 10), "what it started since is ended as a node's leftovers are"
    assert eventually(lambda: viewer_of(daemon)["generation"] == 2, 10)
    assert not is_gone(h.before)


def test_a_restart_or_a_stop_of_the_node_ends_it(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    h = hand(daemon).joined()
    with contextlib.suppress(Exception):  # the new life waits for somebody to come
        daemon.client().call("RestartNode", dataflow="flow", node="viewer", timeout_ms=1, timeout=20)
    assert h.wait(10) == -signal.SIGKILL
    assert eventually(lambda: viewer_of(daemon)["generation"] == 2, 10)  # who comes before that is refused
    h = hand(daemon).joined()
    assert daemon.client().call("StopNode", dataflow="flow", node="viewer", timeout=20)["node"]["state"] in ("stopped", "failed")
    assert h.wait(10) == -signal.SIGKILL
    assert next(n for n in daemon.status("flow")["nodes"] if n["id"] == "a")["state"] == "running"


def test_what_status_and_info_say(daemon, hand, tidegate):
    start(daemon, program("a", SLEEP), dynamic(), dynamic("other", capture=False), grace_ms=300)
    h = hand(daemon).joined()
    hand(daemon, "other").joined()
    assert eventually(lambda: state_of(daemon) == ("running", True), 10)
    at = ("--runtime-dir", daemon.runtime)
    text = tidegate("status", "flow", *at).stdout
    assert f"pid {h.pid}" in text and ", captured" in text
    assert any("viewer" in line and line.endswith(", captured") for line in text.splitlines()), text
    assert f"{h.pid} python3" in text.replace(PYTHON.rpartition("/")[2], "python3"), "it is in the tree"
    assert "captured: yes" in tidegate("node", "info", "flow:viewer", *at).stdout
    assert "captured: no" in tidegate("node", "info", "flow:other", *at).stdout
    assert "captured" not in tidegate("node", "info", "flow:a", *at).stdout
    assert json.loads(tidegate("node", "info", "flow:viewer", "--json", *at).stdout)["captured"] is True
    assert tidegate("node", "signal", "USR1", "flow:viewer", *at).returncode == 0
    assert h.wait(10) == -signal.SIGUSR1


@pytest.mark.parametrize("capture", [False, True], ids=["loose", "captured"])
def test_one_that_dies_does_not_end_those_that_read_it(daemon, build, node_environment, traces, tmp_path, capture):
    out = tmp_path / "out"
    start(daemon, dynamic("source", capture=capture, outputs=["out"]),
          node("reader", ["/bin/sh", "-c", f"exec {build}/bin/tidegate-pipe --receive in > {out}"], inputs=[("in", "source", "out")]))  # fmt: skip
    env = {**node_environment, MARK: traces.mark, "TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    for word in (b"first", b"second"):
        process = subprocess.Popen([build / "bin/tidegate-pipe", "--as", "source", "--send", "out"], env=env, stdin=subprocess.PIPE, bufsize=0)

        def arrives():
            process.stdin.write(word + b"\n")  # noqa: B023
            return out.exists() and word in out.read_bytes()  # noqa: B023

        try:
            assert eventually(arrives, 10), daemon.output()
        finally:
            process.kill()
            process.communicate(timeout=10)
        assert eventually(lambda: viewer_of(daemon, id="source")["state"] == "starting", 10)
    assert viewer_of(daemon, id="reader")["generation"] == 1 and viewer_of(daemon, id="reader")["state"] == "running"


# Who is refused


@pytest.mark.parametrize("kind, why", [("--pid --fork", "PID namespace"), ("--mount", "mount namespace"), ("--cgroup", "cgroup namespace"), ("--user", "user namespace")])
def test_one_in_a_container_is_told_so(daemon, hand, kind, why):
    prefix = ["unshare", *kind.split()]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip(f"unshare {kind} is not allowed here")
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    text = hand(daemon, prefix=prefix).refusal()
    assert "tidegate: the start was given up: viewer cannot be captured: it belongs to a container: " in text and why in text
    before = viewer_of(daemon)
    assert (before["state"], before["captured"], before["restarts"], before.get("error")) == ("starting", False, 0, None), "nothing of the node's has failed"
    assert not [c for c in cgroups_in(daemon.home) if "viewer" in c]
    hand(daemon).joined()
    assert state_of(daemon)[1] is True


def test_one_that_is_part_of_a_dataflow_is_told_so(daemon, hand, build, node_environment):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    env = [f"{k}={node_environment[k]}" for k in ("PATH", "LD_LIBRARY_PATH")] + [f"TIDEGATE_NODE_SOCKET={daemon.runtime}/node.sock"]
    with tempfile.TemporaryDirectory() as place:
        script = f"TIDEGATE_NODE_SOCKET={daemon.runtime}/node.sock {build}/bin/tidegate-pipe --as viewer --receive in >{place}/said 2>&1; echo $? >{place}/status"
        start(daemon, program("b", script), name="second", environment=env)
        status = pathlib.Path(place, "status")
        assert eventually(lambda: status.exists() and status.read_text(), 10)
        assert "viewer cannot be captured: it is part of a dataflow already" in pathlib.Path(place, "said").read_text()
        assert int(status.read_text()) != 0
    assert state_of(daemon) == ("starting", False)


def test_only_root_may_have_processes_captured(open_daemon):  # noqa: F811
    daemon = open_daemon()
    error, text = as_user(NOBODY, lambda: error_of(daemon.socket, "Start", plan=plan(program("a", SLEEP), dynamic(line=7))))
    assert error == "InvalidPlan" and 'viewer (line 7): "capture: true" is for root alone: you are user 65534' in text
    assert daemon.call("List")["dataflows"] == []


def test_the_daemon_of_another_user_captures_nobody(build, home, traces, node_environment):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        for name in ("tidegate", "tidegated"):
            shutil.copy(build / "bin" / name, place)
        if subprocess.run([f"{place}/tidegate", "version"], user=NOBODY, stdout=subprocess.DEVNULL).returncode:
            pytest.skip("this build cannot run as another user")
        delegated = home / "delegated"
        delegated.mkdir()
        for p in (delegated, delegated / "cgroup.procs", delegated / "cgroup.threads", delegated / "cgroup.subtree_control"):
            os.chown(p, NOBODY, NOBODY)
        command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"', delegated,
                   f"{place}/tidegated", "--runtime-dir", f"{place}/run"]  # fmt: skip
        process = subprocess.Popen(command, env={**node_environment, MARK: traces.mark}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert eventually(lambda: listens(f"{place}/run/control.sock"), 10)
            error, text = as_user(NOBODY, lambda: error_of(f"{place}/run/control.sock", "Start", plan=plan(program("a", SLEEP), dynamic(line=7))))
            assert error == "InvalidPlan" and 'viewer (line 7): "capture: true" is for root alone: this is the daemon of user 65534' in text
        finally:
            process.terminate()
            counters_agree(process.communicate(timeout=20)[0].decode(errors="replace"))
            eventually(lambda: not [p for p in delegated.iterdir() if p.is_dir()], 5)
            delegated.rmdir()


def test_a_process_of_another_user_sees_no_such_node(open_daemon, hand):  # noqa: F811
    daemon = open_daemon()
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    said = as_user(NOBODY, greet, daemon.runtime / "node.sock", "viewer", True)
    assert b'no dataflow that runs here has a dynamic node "viewer"' in said


def test_a_private_instance_has_no_place_for_it(tidegate, dataflow):
    p = tidegate("run", dataflow({"nodes": [{"id": "viewer", "path": "dynamic", "capture": True}, {"id": "a", "path": "/bin/true"}]}))
    assert p.returncode == 1 and '"capture: true" needs a daemon' in p.stderr and "viewer (line " in p.stderr


# Whoever dies meanwhile


@pytest.fixture
def flow(survivor, hand):
    """A daemon with a captured process: (daemon, process)."""
    daemon = survivor()
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=600, budget_ms=2000)
    h = hand(daemon).joined()
    assert eventually(lambda: state_of(daemon) == ("running", True), 10)
    return daemon, h


def ends_in_time(daemon, h):
    begun = time.monotonic()
    result = daemon.talk("Stop", seconds=20, dataflow="flow")["results"][0]
    assert time.monotonic() - begun < 0.9 + 2 + SLACK and result["left"] == 0
    assert next(n for n in result["nodes"] if n["id"] == "viewer")["error"] == "did not react to stop in time and was killed", result
    assert h.wait(10) == -signal.SIGKILL


@pytest.mark.sanitized
def test_it_stays_captured_when_the_supervisor_dies(flow):
    daemon, h = flow
    before = viewer_of(daemon)
    daemon.send("supervisor")
    assert daemon.until_adopted(1)[:3] == (2, 0, 0)
    now = daemon.nodes()["flow", "viewer"]
    assert [now[k] for k in ("state", "captured", "pid", "generation", "restarts")] == ["running", True, h.pid, before["generation"], 0]
    assert cgroup_of(h.pid).endswith("/viewer.1")
    ends_in_time(daemon, h)


def test_it_stays_captured_when_the_keeper_dies(flow):
    daemon, h = flow
    daemon.send("keeper")
    assert eventually(lambda: daemon.parts("keeper"), 10)
    daemon.talk("RestartNode", dataflow="flow", node="a")  # by the new keeper, which has said all by then
    now = daemon.nodes()["flow", "viewer"]
    assert [now[k] for k in ("state", "captured", "pid", "generation")] == ["running", True, h.pid, 1] and h.alive()
    ends_in_time(daemon, h)


@pytest.mark.parametrize("roles", [("guard",), ("guard", "keeper"), ("supervisor", "keeper")], ids="+".join)
def test_it_stays_captured_when_others_die(flow, roles):
    daemon, h = flow
    daemon.send(*roles)
    assert daemon.until_adopted(1)[:3] == (2, 0, 0)
    now = daemon.nodes()["flow", "viewer"]
    assert [now[k] for k in ("state", "captured", "pid", "generation")] == ["running", True, h.pid, 1]
    ends_in_time(daemon, h)


def test_it_stays_captured_when_supervisor_and_guard_die_together(flow):
    daemon, h = flow
    daemon.send("supervisor", signo=signal.SIGSTOP)  # or it takes the guard's place before it is its turn
    daemon.send("guard", "supervisor")
    daemon.again()
    assert daemon.until_adopted(1)[:3] == (2, 0, 0)
    assert [daemon.nodes()["flow", "viewer"][k] for k in ("captured", "pid", "generation")] == [True, h.pid, 1]
    ends_in_time(daemon, h)


def test_a_loose_one_is_not_touched_when_the_keeper_dies(survivor, hand):
    daemon = survivor()
    start(daemon, program("a", SLEEP), dynamic(capture=False), grace_ms=300)
    h = hand(daemon).joined()
    daemon.send("keeper")
    assert eventually(lambda: daemon.parts("keeper"), 10)
    daemon.talk("RestartNode", dataflow="flow", node="a")  # by the new keeper, which has said all by then
    now = daemon.nodes()["flow", "viewer"]
    assert (now["state"], now["generation"], now["restarts"]) == ("running", 1, 0)
    daemon.talk("Stop", dataflow="flow")
    assert h.alive()


# While it is being moved: the keeper is stopped then


@pytest.fixture
def halfway(survivor, hand):
    """The keeper is stopped, and a process waits to be moved."""
    daemon = survivor()
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=600, budget_ms=2000)
    keeper = daemon.take("keeper")
    keeper.send(signal.SIGSTOP)
    h = hand(daemon)

    def waits():
        daemon.send_to(daemon.guard_pid(), signal.SIGUSR1)
        return "captured, " in daemon.output()

    assert eventually(waits, 10, step=0.1), daemon.output()
    assert state_of(daemon) == ("starting", False)
    yield daemon, keeper, h
    keeper.send(signal.SIGCONT)
    keeper.close()


def test_the_order_outlives_the_supervisor(halfway):
    daemon, keeper, h = halfway
    daemon.send("supervisor")
    keeper.send(signal.SIGCONT)
    h.joined()
    assert eventually(lambda: daemon.adoptions(), 10)
    assert eventually(lambda: state_of(daemon) == ("running", True), 10), daemon.output()
    assert viewer_of(daemon)["generation"] == 1
    ends_in_time(daemon, h)


def test_the_order_outlives_the_keeper(halfway):
    daemon, keeper, h = halfway
    keeper.send(signal.SIGKILL)
    h.joined()
    assert eventually(lambda: state_of(daemon) == ("running", True), 10), daemon.output()
    assert cgroup_of(h.pid).endswith("/viewer.1") and viewer_of(daemon)["pid"] == h.pid
    ends_in_time(daemon, h)


@pytest.mark.sanitized
def test_the_order_outlives_supervisor_and_keeper(halfway):
    daemon, keeper, h = halfway
    daemon.send("supervisor", "keeper")
    h.joined()
    assert eventually(lambda: state_of(daemon) == ("running", True), 10), daemon.output()
    ends_in_time(daemon, h)


def test_one_that_dies_before_it_is_moved_leaves_the_place_free(halfway, hand):
    daemon, keeper, h = halfway
    h.process.kill()
    h.wait(10)
    keeper.send(signal.SIGCONT)
    assert eventually(lambda: viewer_of(daemon)["generation"] == 2, 10), daemon.output()
    assert state_of(daemon) == ("starting", False) and viewer_of(daemon)["restarts"] == 0
    hand(daemon).joined()


def test_a_stop_that_comes_before_the_move_is_in_time(halfway):
    daemon, keeper, h = halfway
    begun = time.monotonic()
    daemon.client().send("Stop", dataflow="flow")
    assert eventually(lambda: daemon.status("flow")["state"] == "stopping", 5)
    keeper.send(signal.SIGCONT)
    assert eventually(lambda: daemon.status("flow")["state"] == "ended", 0.9 + 2 + SLACK)
    assert time.monotonic() - begun < 0.9 + 2 + SLACK
    h.process.communicate(timeout=10)
    assert h.process.returncode in (7, -signal.SIGKILL), "refused, or moved and ended"


# Who delays nobody


def greet(path, id, read=False):
    """HELLO as protocol/node_msg.c writes it, and nothing more; the socket, or with @read what is answered."""

    def text(s):
        return struct.pack("<I", len(s)) + s.encode() + b"\0"

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(path))
    sock.send(struct.pack("<BH", HELLO, VERSION) + text("test") + bytes(16) + text("") + text(id) + struct.pack("<Q", 0))
    if not read:
        return sock
    with sock:
        return sock.recv(65536)


def of_header(name):
    text = (pathlib.Path(__file__).parents[2] / "protocol/node_msg.h").read_text()
    return int(text.partition(name)[2].split()[0 if name.startswith("#") else 1].rstrip(",u"))


FUTURE_WRITE = 0x10
HELLO, WELCOME, VERSION = of_header("NODE_MSG_HELLO "), of_header("NODE_MSG_WELCOME "), of_header("#define NODE_MSG_VERSION ")
MAPPED, GROW, SETUP_END = of_header("NODE_MSG_MAPPED "), of_header("NODE_MSG_GROW "), of_header("NODE_MSG_SETUP_END ")
TURNED = of_header("NODE_MSG_TURNED ")


def map_setup(sock, hollow=None, unsealed=None, on_unsealed=lambda fd: None):
    """Takes all that it is given, makes its pages, seals it, and says so. @hollow: of what has that in its name the last page is not there.
    @unsealed: what has that in its name is not sealed."""
    said = None
    while said != SETUP_END:
        data, fds, _, _ = socket.recv_fds(sock, 65536, 2)
        said = data[0]
        for fd in fds:
            lacks = hollow and hollow in os.readlink(f"/proc/self/fd/{fd}")
            os.posix_fallocate(fd, 0, os.fstat(fd).st_size - 4096 * bool(lacks))
            name = os.readlink(f"/proc/self/fd/{fd}")
            if unsealed and unsealed in name:
                on_unsealed(fd)
            elif "control" not in name:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, FUTURE_WRITE | fcntl.F_SEAL_SEAL)
            os.close(fd)
    sock.send(bytes([MAPPED]))


MUTE = """
import os, sys, time
sys.path.insert(0, os.environ["HERE"])
from test_dynamic import cgroup_of, greet
sock = greet(sys.argv[2], sys.argv[1])
if os.environ.get("AGAIN"):
    while "/viewer.1" not in cgroup_of("self"):
        time.sleep(0.01)
    sock.close()
    print("closed", flush=True)
    sys.stdin.readline()
    sock = greet(sys.argv[2], sys.argv[1])
    print(sock.recv(65536)[0], flush=True)
print("in 0 0", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def mute(node_environment, traces, tmp_path):
    """A process that says who it wants to be, and nothing ever after."""
    hands = []
    file = tmp_path / "mute.py"
    file.write_text(MUTE)

    def begin(daemon, id="viewer", **more):
        env = {**node_environment, MARK: traces.mark, "HERE": str(pathlib.Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1", **more}
        hands.append(Hand([node_environment["TIDEGATE_PYTHON"], file, id, daemon.runtime / "node.sock"], env, stdin=subprocess.PIPE))
        return hands[-1]

    yield begin
    for h in hands:
        if h.alive():
            h.process.kill()
        h.process.communicate(timeout=10)


def test_one_that_never_comes_delays_nothing(daemon):
    begun = time.monotonic()
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=5000)
    daemon.client().call("Stop", dataflow="flow", timeout=20)
    assert time.monotonic() - begun < 4


def test_one_that_never_answers_delays_nothing_and_ends_with_the_stop(daemon, mute):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=600, budget_ms=2000)
    h = mute(daemon).joined()
    assert eventually(lambda: viewer_of(daemon)["captured"], 10) and viewer_of(daemon)["state"] == "starting"
    assert daemon.status("flow")["state"] == "running"
    begun = time.monotonic()
    daemon.client().call("Stop", dataflow="flow", timeout=20)
    assert time.monotonic() - begun < 0.9 + 2 + SLACK
    assert h.wait(10) in (-signal.SIGTERM, -signal.SIGKILL)


def test_one_that_never_answers_is_ended_when_its_time_to_start_is_over(daemon, mute, hand):
    start(daemon, program("a", SLEEP), dynamic(startup_timeout_ns=10**9), grace_ms=300)
    h = mute(daemon).joined()
    assert h.wait(20) == -signal.SIGTERM
    assert eventually(lambda: viewer_of(daemon)["generation"] == 2, 10)
    assert daemon.status("flow")["state"] == "running"
    hand(daemon).joined()


def test_one_that_hangs_up_before_it_has_begun_may_come_again_and_nobody_else(daemon, mute, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=300)
    h = mute(daemon, AGAIN="1")
    assert eventually(lambda: viewer_of(daemon)["captured"] and cgroup_of(h.pid).endswith("/viewer.1"), 10)
    assert h.line() == "closed\n"
    other = hand(daemon)
    assert "the place of viewer is taken: the process that was captured has not ended" in other.refusal()
    h.process.stdin.write("go\n")
    h.process.stdin.flush()
    assert int(h.line()) == WELCOME
    assert viewer_of(daemon)["generation"] == 1


def test_one_that_is_woken_for_nothing_and_turns_to_sockets_is_noted_once(daemon):
    start(daemon, program("a", SLEEP), dynamic(capture=False), grace_ms=300)
    with greet(daemon.runtime / "node.sock", "viewer") as sock:
        map_setup(sock)
        assert eventually(lambda: viewer_of(daemon)["state"] == "running", 10), daemon.output()
        for message in (bytes([TURNED]), bytes([TURNED]), b"no packet"):
            sock.send(message)
        assert eventually(lambda: "broke the protocol" in daemon.output(), 10), daemon.output()
    (result,) = daemon.client().call("Stop", dataflow="flow", timeout=20)["results"]
    notes = [note for note in result["notes"] if "is woken again and again for nothing" in note["text"]]
    assert [note["node"] for note in notes] == ["viewer"], notes


def test_one_that_asks_and_never_reads_is_let_go_of_and_harms_nobody(daemon):
    """Its queue is full of answers: then there is no room for the last word either."""
    start(daemon, program("a", SLEEP), dynamic(capture=False, outputs=[f"o{i}" for i in range(256)], pool_size=1 << 16), grace_ms=300)
    supervisor = daemon.supervisor()
    with greet(daemon.runtime / "node.sock", "viewer") as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        map_setup(sock)
        for i in range(5000):  # in a second it may say 5 096, and 4 096 answers are kept
            sock.send(struct.pack("<BIQ", GROW, i % 256, 1 << 29))
    assert eventually(lambda: viewer_of(daemon)["generation"] == 2, 20), daemon.output()
    assert "does not read its socket" in daemon.output()
    assert daemon.supervisor() == supervisor, daemon.output()
    assert daemon.status("flow")["state"] == "running"


@pytest.mark.parametrize("hollow", ["ring", "pool", None])
def test_one_that_says_it_has_touched_what_it_has_not_is_let_go_of(hollow, daemon):
    """What it has not touched its readers would pay for: one page of all is enough."""
    start(daemon, program("a", SLEEP), dynamic(capture=False, outputs=["out"]), grace_ms=300)
    with greet(daemon.runtime / "node.sock", "viewer") as sock:
        map_setup(sock, hollow)
        over = "viewer: stopping -> backoff (restart): broke the protocol of its socket: it says that it has touched what it has not"
        assert eventually(lambda: over in daemon.output() if hollow else viewer_of(daemon)["state"] == "running", 10), daemon.output()
    assert daemon.status("flow")["state"] == "running"


@pytest.mark.parametrize("unsealed", ["ring", "pool", "bell"])
def test_one_that_says_it_has_sealed_what_it_has_not_is_let_go_of(unsealed, daemon):
    start(daemon, program("a", SLEEP), dynamic(capture=False, outputs=["out"]), grace_ms=300)
    with greet(daemon.runtime / "node.sock", "viewer") as sock:
        map_setup(sock, unsealed=unsealed)
        over = "viewer: stopping -> backoff (restart): broke the protocol of its socket: it says that it has sealed what it has not"
        assert eventually(lambda: over in daemon.output(), 10), daemon.output()
    assert daemon.status("flow")["state"] == "running"


WRITE, USERFAULTFD = {"x86_64": (1, 323), "aarch64": (64, 282)}.get(platform.machine(), (0, 0))


def hold_lock(fd):
    """A child that is in a write() to that file from memory whose page never comes, and has the file's lock: its pid."""
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    at, libc = ctypes.addressof(ctypes.c_char.from_buffer(page)), ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        faults = libc.syscall(USERFAULTFD, os.O_CLOEXEC)
        for request, words in ((0xC018AA3F, (0xAA, 0, 0)), (0xC020AA00, (at, 4096, 1, 0))):  # UFFDIO_API, UFFDIO_REGISTER
            if libc.ioctl(faults, ctypes.c_ulong(request), struct.pack(f"{len(words)}Q", *words)) < 0:
                os._exit(1)
        libc.write(fd, ctypes.c_void_p(at), 4096)
        os._exit(2)

    def is_in_it():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "no userfaultfd"
        return pathlib.Path(f"/proc/{pid}/syscall").read_text().startswith(f"{WRITE} ")

    assert eventually(is_in_it, 10)
    return pid


@pytest.mark.skipif(not WRITE, reason="the system calls' numbers of this machine are not known here")
def test_one_that_holds_the_lock_of_its_memory_holds_nobody_up(daemon):
    """Whoever seals it waits for that without an end, and SIGKILL does not help: it is the node that has to, and others see whether it has."""
    start(daemon, program("a", SLEEP), dynamic(capture=False, outputs=["out"]), grace_ms=300)
    supervisor, holders = daemon.supervisor(), []
    try:
        with greet(daemon.runtime / "node.sock", "viewer") as sock:
            map_setup(sock, unsealed="pool", on_unsealed=lambda fd: holders.append(hold_lock(fd)))
            assert eventually(lambda: "it says that it has sealed what it has not" in daemon.output(), 10), daemon.output()
        assert holders and daemon.status("flow")["state"] == "running" and daemon.supervisor() == supervisor
    finally:
        for pid in holders:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_one_that_hangs_delays_the_stop_no_more_than_any_node(daemon, hand):
    start(daemon, program("a", SLEEP), dynamic(), grace_ms=600, budget_ms=2000)
    h = hand(daemon).joined()
    os.kill(h.pid, signal.SIGSTOP)
    begun = time.monotonic()
    daemon.client().call("Stop", dataflow="flow", timeout=20)
    assert time.monotonic() - begun < 0.9 + 2 + SLACK
    assert h.wait(10) == -signal.SIGKILL


def test_the_dataflow_ends_without_it_when_the_others_have(daemon, hand, tmp_path):
    gate = tmp_path / "gate"
    start(daemon, program("a", f"while [ ! -e {gate} ]; do sleep 0.05; done"), dynamic(), grace_ms=600, budget_ms=2000)
    h = hand(daemon).joined()
    gate.touch()
    assert h.wait(0.9 + 2 + 10) == -signal.SIGKILL
    assert eventually(lambda: daemon.status("flow")["state"] == "ended", 10)
