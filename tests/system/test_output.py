# SPDX-License-Identifier: Apache-2.0
"""What nodes print: whoever reads gets every line, whoever does not holds up nobody for long."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time

import pytest
from conftest import MARK, eventually
from lives import SLACK

N = 100_000
LIBC = ctypes.CDLL(None)
SYS_pidfd_getfd = 438


@pytest.fixture
def counting(dataflow):
    return dataflow({"nodes": [{"id": "count", "path": "/usr/bin/seq", "args": str(N)}]})


@pytest.fixture
def into_pipe(build, node_environment, traces, home):
    """Start `tidegate run DESCRIPTOR ARGS...` with stdout and stderr into a pipe each; returns a Popen."""
    started = []

    def start(descriptor, *args):
        command = [build / "bin/tidegate", "run", descriptor, "--cgroup-root", home, *args]
        started.append(subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**node_environment, MARK: traces.mark}, start_new_session=True,
        ))  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def shown(text):
    return [line for line in text.splitlines() if line.startswith("[")]


EVERY = [f"[count] {i}" for i in range(1, N + 1)]


def test_every_line_of_a_fast_node_reaches_a_file(counting, live, nothing_left):
    run = live(counting, json=False).wait(60)
    assert run.status == 0
    assert shown(run.stdout.read_text()) == EVERY
    nothing_left()


def test_every_line_of_a_fast_node_reaches_a_file_as_json(counting, live, nothing_left):
    run = live(counting).wait(60)
    assert run.status == 0
    assert [e["text"] for e in run.events() if e["type"] in ("log", "dropped")] == [str(i) for i in range(1, N + 1)]
    nothing_left()


@pytest.mark.sanitized
def test_every_line_of_a_fast_node_reaches_a_pipe(counting, into_pipe, nothing_left):
    out, err = into_pipe(counting).communicate(timeout=60)
    assert shown(out.decode()) == EVERY and err == b""
    nothing_left()


def test_lines_of_two_nodes_are_whole_and_each_node_in_order(dataflow, live, nothing_left):
    flow = dataflow({"nodes": [{"id": id, "path": "/usr/bin/seq", "args": "30000"} for id in ("a", "b")]})
    run = live(flow, json=False).wait(60)
    lines = shown(run.stdout.read_text())
    for id in ("a", "b"):
        assert [line for line in lines if line.startswith(f"[{id}]")] == [f"[{id}] {i}" for i in range(1, 30001)]
    assert len(lines) == 60000
    nothing_left()


def waits_to_be_read(pid):
    """What stands in the sockets of a process that does not run."""
    waiting, process = b"", os.pidfd_open(pid)
    for fd in os.listdir(f"/proc/{pid}/fd"):
        got = LIBC.syscall(SYS_pidfd_getfd, process, int(fd), 0) if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:") else -1
        if got < 0:
            continue
        with socket.socket(fileno=got) as s, contextlib.suppress(BlockingIOError):
            waiting += s.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    os.close(process)
    return waiting


def test_events_that_came_together_are_all_shown_though_none_follows(dataflow, live, tmp_path, nothing_left):
    """A command that did not run has more of them to read than one turn of its loop takes, and then its socket is quiet."""
    n, fifo = 50, tmp_path / "fifo"  # two events each: more than 64 in all, and they fit into the socket
    os.mkfifo(fifo)
    stays = {"id": "stays", "path": "/bin/sleep", "args": "1000"}
    with open(fifo, "r+b", buffering=0) as held:  # for both ways, so nobody waits for anybody to open it
        run = live(dataflow({"nodes": [stays, *({"id": f"n{i}", "path": "/usr/bin/head", "args": f"-c1 {fifo}"} for i in range(n))]}))
        run.until_event(60, type="dataflow", state="running")
        run.process.send_signal(signal.SIGSTOP)
        held.write(b"x" * n)  # one ends each, also who has not come to read yet
        assert eventually(lambda: waits_to_be_read(run.process.pid).count(b'"to":"stopped"') == n, 30), waits_to_be_read(run.process.pid)[-3000:]
        run.process.send_signal(signal.SIGCONT)
        assert eventually(lambda: sum(e["type"] == "node" and e["to"] == "stopped" for e in run.events()) == n, 20), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    nothing_left()


def test_a_reader_slower_than_the_nodes_gets_every_line_also_after_their_end(dataflow, into_pipe, nothing_left):
    """The nodes end long before the last line is read: nearly all of this lies in the buffers on the way."""
    process = into_pipe(dataflow({"nodes": [{"id": "count", "path": "/usr/bin/seq", "args": "12000"}]}))
    out = b""
    while chunk := os.read(process.stdout.fileno(), 4096):
        out += chunk
        time.sleep(0.05)  # a second and more: what nobody reads is waited for no longer than that
    assert shown(out.decode()) == [f"[count] {i}" for i in range(1, 12001)]
    assert process.wait(10) == 0
    nothing_left()


def test_a_reader_that_never_reads_holds_up_the_nodes_only_for_a_moment(dataflow, script, into_pipe, tmp_path, nothing_left):
    node = script("node", "seq 1000000\ntouch done")
    process = into_pipe(dataflow({"nodes": [{"id": "node", "path": str(node)}]}))
    assert eventually((tmp_path / "done").exists, 20), "8 MB were printed although nobody reads"
    assert process.wait(20) == 0
    assert b"whoever reads this output is too slow" in process.stderr.read()
    nothing_left()
    (log,) = tmp_path.glob("out/*/log_node.jsonl")
    with open(log) as f:
        assert sum(1 for _ in f) == 1000000, "the file has every line"


def test_a_stop_does_not_wait_for_a_slow_reader(dataflow, into_pipe, nothing_left):
    process = into_pipe(dataflow({"nodes": [{"id": "yes", "path": "/usr/bin/yes"}]}), "--grace-duration", "1s")
    out = b""
    while len(out) < 100_000:  # more than the pipe holds: everything on the way fills up
        out += os.read(process.stdout.fileno(), 1024)
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    while process.poll() is None:
        os.read(process.stdout.fileno(), 1024)
        time.sleep(0.005)  # megabytes are on their way: this reader would need many seconds for them
    assert time.monotonic() - begin < 1.5 + 2 + 2 + SLACK
    assert process.wait() == 0
    nothing_left()


@pytest.mark.sanitized
def test_what_was_not_shown_is_counted(dataflow, script, live, build, node_environment, traces, home, nothing_left):
    """A reader that stops for a while and goes on: gaps are told, and add up."""
    n = 300000
    node = script("node", f"seq {n}\ntouch printed\nwhile [ ! -e go ]; do sleep 0.02; done\necho end")
    here = node.parent
    flow = dataflow({"nodes": [{"id": "node", "path": str(node)}]})
    command = [build / "bin/tidegate", "run", flow, "--cgroup-root", home, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**node_environment, MARK: traces.mark}) as process:
        try:
            assert eventually((here / "printed").exists, 20)
            lines = []
            for line in process.stdout:
                lines.append(json.loads(line))
                if lines[-1]["type"] == "dropped":
                    (here / "go").touch()
            assert process.wait(20) == 0
        finally:
            process.kill()
    got = [e["text"] for e in lines if e["type"] == "log"]
    dropped = sum(e["count"] for e in lines if e["type"] == "dropped")
    assert dropped > 0 and len(got) + dropped == n + 1
    assert got[-1] == "end"
    nothing_left()
