# SPDX-License-Identifier: Apache-2.0
"""What other users, sandboxed callers and bad clients can do to a daemon, and to those who behave: nothing."""

import contextlib
import ctypes
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

import interface
import pytest
from client import Client, ControlError
from conftest import ROOT, eventually
from daemon import plan, program
from lives import SLACK
from test_hung_path import hung  # noqa: F401 - a fixture

SLEEP = "exec sleep 1000"
NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")


@pytest.fixture
def open_daemon(start_daemon):
    """A daemon whose directory everybody may enter."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-test-"))
    directory.chmod(0o755)
    yield lambda **kwargs: start_daemon(directory=directory, **kwargs)
    shutil.rmtree(directory, ignore_errors=True)


def as_user(uid, function, *args, groups=(), prepare=None, timeout=30):
    """function(*args) in a child with that user's credentials; its result, or its failure."""

    def child(pipe):
        try:
            os.setgroups(groups)
            if prepare == "mount":
                _check(LIBC.unshare(CLONE_NEWNS))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            if prepare == "user":
                _check(LIBC.unshare(CLONE_NEWUSER))
            if prepare == "no_new_privs":
                _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    assert ours.poll(timeout), "no answer from the child"
    good, result = ours.recv()
    process.join(10)
    ours.close()
    theirs.close()
    assert good, result
    return result


LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, PR_SET_NO_NEW_PRIVS = 0x20000, 0x10000000, 38


def _check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def error_of(path, method, **parameters):
    with Client(path) as client, pytest.raises(ControlError) as e:
        client.call(method, **parameters)
    return e.value.error, e.value.parameters.get("text")


def call(path, method, **parameters):
    with Client(path) as client:
        return client.call(method, **parameters)


# Other users


def test_another_user_sees_and_stops_nothing_that_is_not_its_own(open_daemon):
    daemon = open_daemon()
    theirs = daemon.call("Start", plan=plan(program("a", SLEEP)))["uuid"]

    def look():
        assert call(daemon.socket, "List", all=True) == {"dataflows": []}
        assert call(daemon.socket, "Status") == {"dataflows": []}
        for name in ("flow", theirs, theirs[:8]):
            for method, more in [
                ("Stop", {}), ("Restart", {}), ("Clean", {}), ("StopNode", {"node": "a"}), ("SignalNode", {"node": "a", "signal": 9}),
                ("SetLimit", {"limits": {"pids_max": 1}}), ("Freeze", {}), ("Thaw", {"node": "a"}), ("Usage", {}), ("Why", {"node": "a"}),
                ("Observe", {"node": "a", "output": "out"}),
            ]:  # fmt: skip
                assert error_of(daemon.socket, method, dataflow=name, **more)[0] == "NoSuchDataflow"
        assert error_of(daemon.socket, "Shutdown")[0] == "Refused"
        assert call(daemon.socket, "Stop", all=True) == {"results": []}
        assert call(daemon.socket, "Clean") == {"cleaned": 0}
        client = Client(daemon.socket)
        client.send("Events", more=True)
        own = call(daemon.socket, "Start", plan=plan(program("a", "echo it runs; exec sleep 1000")))["uuid"]
        assert client.reply()[0]["event"]["uuid"] == own
        return own

    own = as_user(NOBODY, look)
    assert {d["uuid"]: d["uid"] for d in daemon.call("List")["dataflows"]} == {theirs: 0, own: NOBODY}
    assert daemon.call("Status", names=["flow"])["dataflows"][0]["uuid"] == theirs, "one's own comes first"
    daemon.call("Stop", dataflow=own)
    assert [d["uuid"] for d in daemon.call("List")["dataflows"]] == [theirs]


def test_nodes_run_as_the_caller_with_its_groups_and_limits(open_daemon, tmp_path):
    daemon = open_daemon()
    out = daemon.runtime.parent / "out"
    out.mkdir()
    os.chown(out, NOBODY, NOBODY)
    tell = "id -u; id -g; id -G; ulimit -n; ulimit -Hn; grep CapEff /proc/self/status"

    def go():
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 456))
        with Client(daemon.socket) as client:
            replies = list(client.stream("Start", plan=plan(program("a", tell)), log_dir=str(out), environment=["PATH=/usr/bin:/bin"], wait="ended"))
        return replies[-1]

    last = as_user(NOBODY, go, groups=[7, 1234])
    assert last["result"]["success"], last
    log = out / last["uuid"] / "log_a.jsonl"
    assert (log.stat().st_uid, log.stat().st_gid) == (NOBODY, NOBODY)
    lines = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert lines[:2] == ["65534", "65534"]
    assert set(lines[2].split()) == {"65534", "7", "1234"}
    assert lines[3:5] == ["123", "456"]
    assert lines[5].split()[1].strip("0") == ""


@pytest.mark.parametrize("prepare, why", [("user", "user namespace"), ("mount", "mnt namespace"), ("no_new_privs", "NoNewPrivs")])
def test_a_sandboxed_caller_may_look_and_not_start(open_daemon, prepare, why):
    daemon = open_daemon()

    def go():
        assert call(daemon.socket, "List") == {"dataflows": []}
        return error_of(daemon.socket, "Start", plan=plan(program("a", SLEEP)))

    try:
        error, text = as_user(NOBODY, go, prepare=prepare)
    except AssertionError as e:
        if "refused" in str(e) and "OSError" in str(e):
            pytest.skip(f"{prepare}: not allowed here")
        raise
    assert error == "Refused" and why in text
    assert daemon.call("List") == {"dataflows": []}


def test_a_caller_that_is_gone_starts_nothing(open_daemon):
    daemon = open_daemon()
    ours, theirs = socket.socketpair()

    def hand_over():
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(daemon.socket))
        socket.send_fds(theirs, [b"x"], [s.fileno()])

    as_user(NOBODY, hand_over)
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    with contextlib.closing(Client.__new__(Client)) as client:
        client.socket, client.buffer, client.timeout = socket.socket(fileno=fd), b"", 20
        with pytest.raises(ControlError) as e:
            client.call("Start", plan=plan(program("a", SLEEP)))
    assert e.value.error == "Refused" and "gone" in e.value.parameters["text"]
    ours.close()
    theirs.close()


# Bad clients


def until_hung_up(s, seconds):
    """Seconds until the other end hangs up."""
    begin = time.monotonic()
    s.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while s.recv(1 << 16):
            pass
    return time.monotonic() - begin


def connect(daemon):
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(daemon.socket))
    return s


NONSENSE = [
    b"\0",
    b"nonsense\0",
    b"[]\0",
    b'{"method":3}\0',
    b'{"method":"a.b","parameters":[]}\0',
    b'{"parameters":{}}\0',
    b'{"method":"a.b","method":"a.b"}\0',
    b'{"method":"a\\u0000b"}\0',
    b"[" * 100000 + b"\0",
    b'{"method":"\xff"}\0',
    b"x" * (1 << 20),
    b'{"method":"a.b","parameters":{"x":"' + b"y" * (1 << 20),
]


def test_nonsense_and_too_much_of_it_cost_a_client_its_connection_and_nobody_else(daemon):
    for data in NONSENSE:
        with connect(daemon) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(data)
            assert until_hung_up(s, 5) < 5, data[:40]
    assert daemon.call("GetHealth")["health"]["n_clients"] == 1


def test_frames_may_come_in_any_pieces_and_are_answered_one_at_a_time_in_order(daemon):
    uuid = daemon.call("Start", plan=plan(program("a", SLEEP)))["uuid"]
    calls = []
    for i in range(40):
        calls.append({"method": f"{interface.NAME}.Wait", "parameters": {"dataflow": uuid, "state": "ended", "timeout_ms": 5}})
        calls.append({"method": f"{interface.NAME}.Nothing{i}"})
    stream = b"".join(json.dumps(c).encode() + b"\0" for c in calls)
    with Client(daemon.socket) as client:
        for at in range(0, len(stream), 777):
            client.socket.sendall(stream[at : at + 777])
        for i in range(40):
            assert client.receive()["error"].endswith("TimedOut")
            assert client.receive()["parameters"]["method"].endswith(f"Nothing{i}")


def test_half_a_message_and_a_reply_nobody_takes_have_their_deadlines(daemon):
    """10 s for the rest of a message; and idle connections are left in peace."""
    with connect(daemon) as half, connect(daemon) as idle, Client(daemon.socket) as trickle:
        begin = time.monotonic()
        half.sendall(b'{"method":"')
        stop = begin + 30
        trickle.socket.sendall(b'{"method":"x.y"')
        ended = None
        while ended is None and time.monotonic() < stop:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                trickle.socket.sendall(b" ")  # a byte now and then is not progress enough
            half.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                if half.recv(1) == b"":
                    ended = time.monotonic() - begin
        assert 9.5 < ended < 10 + SLACK
        assert until_hung_up(trickle.socket, 5) < 2
        idle.sendall(json.dumps({"method": "org.varlink.service.GetInfo"}).encode() + b"\0")
        idle.settimeout(5)
        assert b"tidegated" in idle.recv(4096)


def test_descriptors_that_are_sent_are_not_taken_and_hold_up_nobody(daemon, tmp_path):
    pid = daemon.supervisor()
    daemon.call("GetHealth")
    before = len(os.listdir(f"/proc/{pid}/fd"))
    read, write = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    lingering = socket.create_connection(listener.getsockname())
    peer, _ = listener.accept()
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    lingering.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            lingering.send(b"x" * 65536)  # unread: its last close lingers for a minute
    sent = 0
    for fd in (read, lingering.fileno()):
        with connect(daemon) as s:
            call = json.dumps({"method": "org.varlink.service.GetInfo"}).encode() + b"\0"
            try:
                socket.send_fds(s, [call], [fd])
                sent += 1
            except PermissionError:  # the kernel refuses for the daemon (SO_PASSRIGHTS)
                s.sendall(call)
            s.settimeout(5)
            assert b"tidegated" in s.recv(4096)
    if sent:  # dropped by the kernel when the daemon received: nobody may have been held up by it
        os.close(lingering.detach())
    begin = time.monotonic()
    daemon.call("GetHealth")
    assert time.monotonic() - begin < 1
    assert eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, 5)
    os.close(write)
    os.set_blocking(read, False)
    assert os.read(read, 1) == b"", "nobody holds the pipe's other end"
    os.close(read)
    for s in (peer, listener, lingering):
        s.close()


SEND_FROM_THERE = """
import os, socket, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for path, kind, data in ((sys.argv[2], socket.SOCK_STREAM, b'{"method":"org.varlink.service.GetInfo"}' + bytes(1)), (sys.argv[3], socket.SOCK_SEQPACKET, b"nonsense")):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.connect(path)
        try:
            socket.send_fds(s, [data], [fd])
        except PermissionError:  # the kernel refuses for the daemon
            s.sendall(data)
        s.settimeout(5)
        print("answered" if s.recv(65536) or kind == socket.SOCK_SEQPACKET else "hung up", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and /dev/fuse")
def test_a_file_whose_last_close_hangs_holds_up_nobody_when_it_is_sent(daemon, hung):  # noqa: F811
    sender = subprocess.Popen([*hung.prefix(), sys.executable, "-c", SEND_FROM_THERE, hung.path / "open", daemon.socket, daemon.runtime / "node.sock"],
                              stdout=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    try:
        assert [sender.stdout.readline() for _ in range(2)] == ["answered\n", "answered\n"]
        hung.until_asked()  # the sender, which closes it: so does whoever takes it
        begin = time.monotonic()
        daemon.call("GetHealth")
        daemon.call("List")
        assert time.monotonic() - begin < 1
        assert sender.poll() is None
    finally:
        hung.end()
        sender.kill()
        sender.wait(10)
        sender.stdout.close()


def test_one_user_gets_so_many_connections_streams_and_dataflows(open_daemon):
    daemon = open_daemon()

    def go():
        clients = [Client(daemon.socket) for _ in range(64)]
        errors = []
        for client in clients[:33]:
            client.send("Events", more=True)
        with pytest.raises(ControlError) as e:
            clients[32].reply()
        errors.append((e.value.error, e.value.parameters["text"]))
        with Client(daemon.socket) as more:
            error = more.receive()
        errors.append((error["error"], error["parameters"]["text"]))
        clients[63].close()
        assert eventually(lambda: _answers(daemon.socket), 5), "room again"
        return errors

    streams, connections = as_user(NOBODY, go)
    assert streams[0] == "QuotaExceeded" and "32 streams" in streams[1]
    assert connections[0] == f"{interface.NAME}.QuotaExceeded" and "connections" in connections[1]
    assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] == 1, 5)


def _answers(path):
    try:
        return call(path, "GetHealth")
    except (ControlError, EOFError, ConnectionError):  # it may be refused before it has asked
        return None


def test_ten_thousand_connections_hurt_nobody(open_daemon):
    wanted, per_user = 10000, 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 20000:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
            hard = 20000
    n = min(wanted, hard // 5 * 3 - 100)  # three in five of a daemon's descriptors are for clients
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    daemon = open_daemon()
    pid = daemon.supervisor()
    daemon.call("Start", plan=plan(program("a", SLEEP)))
    daemon.call("Wait", dataflow="flow", state="running")
    before = len(os.listdir(f"/proc/{pid}/fd"))
    memory = _memory(pid)
    sockets = []
    try:
        for i in range(n):
            if i % per_user == 0:
                os.seteuid(0)
                os.seteuid(20000 + i // per_user)
            s = socket.socket(socket.AF_UNIX)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 20, 0))  # bounds connect() when the backlog is full
            s.connect(str(daemon.socket))
            sockets.append(s)
        os.seteuid(0)
        assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] > n, 20)
        took = []
        with Client(daemon.socket) as client:
            for _ in range(200):
                begin = time.monotonic()
                client.call("List")
                took.append(time.monotonic() - begin)
        assert sorted(took)[197] < 0.05, sorted(took)[-5:]
        assert (_memory(pid) - memory) / n < 2048, "bytes an idle connection"
        health = daemon.call("GetHealth")["health"]
        assert health["n_refused"] == 0
    finally:
        os.seteuid(0)
        for s in sockets:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))
    assert eventually(lambda: daemon.call("GetHealth")["health"]["n_clients"] == 1, 20)
    assert eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, 5)
    if n < wanted:
        pytest.skip(f"done with {n} connections only: RLIMIT_NOFILE is {hard}")


def _memory(pid):
    """Resident bytes."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


# Who says that it is a node


def hello(uuid_, node, generation):
    """HELLO of protocol/node_msg.h, of a node that was one before."""

    def text(s):
        return struct.pack("<I", len(s)) + s.encode() + b"\0"

    version = int(re.search(r"#define NODE_MSG_VERSION +(\d+)", (ROOT / "protocol/node_msg.h").read_text())[1])
    return struct.pack("<BH", 1, version) + text("test") + uuid.UUID(uuid_).bytes + text("") + text(node) + struct.pack("<Q", generation)


def answer_to_hello(directory, path, packet):
    """From a process in that cgroup: the text of the answer."""
    (directory / "cgroup.procs").write_text("0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(10)
        s.connect(str(path))
        s.send(packet)
        return s.recv(8192)[5:-1].decode()


def test_a_cgroup_that_is_named_like_a_nodes_makes_nobody_that_node(start_daemon, home):
    daemon = start_daemon()
    node = {**program("n", SLEEP), "kind": "node", "outputs": ["out"]}  # it never connects
    uuid_ = daemon.call("Start", plan=plan(node), grace_ms=200)["uuid"]
    assert eventually(lambda: daemon.status(uuid_)["nodes"][0]["pid"] > 0, 5)
    real = pathlib.Path(daemon.status(uuid_)["cgroup"])
    false = home / "somebody" / real.parent.name / uuid_ / "n.1"
    false.mkdir(parents=True)
    packet = hello(uuid_, "n", 1)
    try:
        assert "is not the one that was started as that node" in as_user(0, answer_to_hello, false, daemon.runtime / "node.sock", packet)
        assert "is connected already" in as_user(0, answer_to_hello, real / "n.1", daemon.runtime / "node.sock", packet)
    finally:
        assert eventually(lambda: "populated 0" in (home / "somebody/cgroup.events").read_text(), 5)
        for directory in [false, *list(false.parents)[:3]]:
            directory.rmdir()
