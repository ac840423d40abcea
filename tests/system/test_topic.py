# SPDX-License-Identifier: Apache-2.0
"""Topics: what outputs send, seen by whom nobody waits for."""

import fcntl
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import termios

import pytest
from client import Client
from conftest import MARK, PYTHON, eventually
from daemon import plan
from screen import Screen
from supervisor import dataflow as fake_dataflow
from supervisor import node as fake_node
from survive import node, restarting


@pytest.fixture
def start(node_environment, traces):
    def start(daemon, *nodes):
        environment = [f"{name}={node_environment[name]}" for name in ("LD_LIBRARY_PATH", "PYTHONPATH")]
        return daemon.call("Start", plan=plan(*nodes), environment=[*environment, f"{MARK}={traces.mark}"], grace_ms=1000, budget_ms=1000)["uuid"]

    return start


class Topic:
    """`tidegate topic ...` that goes on while the test looks."""

    def __init__(self, command, env):
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def line(self):
        return self.process.stdout.readline()

    def json(self):
        line = self.line()
        assert line.startswith("{"), line or f"it has ended, status {self.process.wait(10)}"
        return json.loads(line)

    def messages(self, n):
        """That many, without what is said between them."""
        found = []
        while len(found) < n:
            if "index" in (line := self.json()):
                found.append(line)
        return found

    def finish(self):
        out, _ = self.process.communicate(timeout=30)
        return out


@pytest.fixture
def topic(build, node_environment, traces):
    """Start `tidegate topic ARGS...` beside the daemon; ended with the test, and after a minute whatever happens."""
    started = []

    def start(daemon, *args):
        command = ["timeout", "60", build / "bin/tidegate", "topic", *map(str, args), "--runtime-dir", daemon.runtime]
        started.append(Topic(command, {**node_environment, MARK: traces.mark}))
        return started[-1]

    yield start
    for t in started:
        if t.process.poll() is None:
            t.process.send_signal(signal.SIGCONT)
            t.process.terminate()
        t.process.communicate(timeout=30)


def observe(daemon, output, node="beat", **parameters):
    """The reply, and the descriptors beside it; the caller's."""
    with Client(daemon.socket) as client:
        client.send("Observe", dataflow="flow", node=node, output=output, **parameters)
        data, fds, _, _ = socket.recv_fds(client.socket, 1 << 16, 32)
        client.buffer = data
        reply, _ = client.reply()
        return reply["observed"], fds


def n_unread(client):
    """Bytes that lie in its socket."""
    return struct.unpack("i", fcntl.ioctl(client.socket, termios.FIONREAD, b"\0" * 4))[0]


def beat(build, interval_us=2000, **keys):
    return node("beat", [build / "tests/system/beat", interval_us], outputs=["out"], **keys)


def until_it_sends(daemon):
    """The first node goes on: it has sent more than lies in a queue, so who reads it under backpressure has begun, too."""

    def published():
        (dataflow,) = daemon.call("Status", names=["flow"], links=True)["dataflows"]
        return dataflow["nodes"][0]["outputs"][0].get("published", 0)

    assert eventually(lambda: published() >= 50, 20), daemon.output()


# What an observer gets

# As the user that the argument names: what can be done with descriptors 10, 11, ...; each must fail.
THIEF = """
import fcntl, mmap, os, sys

done = []

def refused(what, do):
    try:
        do()
    except (OSError, ValueError):
        return
    done.append(what)

n = int(sys.argv[1])
for fd in range(10, 10 + n):
    own, size = f"/proc/self/fd/{fd}", os.fstat(fd).st_size
    refused("write", lambda: os.write(fd, b"x"))
    refused("pwrite", lambda: os.pwrite(fd, b"x", 200))
    refused("truncate", lambda: os.ftruncate(fd, 0))
    refused("allocate", lambda: os.posix_fallocate(fd, 0, size))
    refused("map", lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
    refused("chmod", lambda: os.fchmod(fd, 0o666))
    refused("open", lambda: os.open(own, os.O_RDWR))
    refused("open to truncate", lambda: os.open(own, os.O_WRONLY | os.O_TRUNC))
    refused("chmod by path", lambda: os.chmod(own, 0o666))
    mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ).close()
print(*done)
"""
# Root opens it again. Even so not one byte can be written.
ROOT = """
import mmap, os, sys
for fd in range(10, 10 + int(sys.argv[1])):
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    for what in (lambda: os.pwrite(again, b"x", 200), lambda: os.ftruncate(again, 0), lambda: mmap.mmap(again, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)):
        try:
            what()
            print("written")
        except PermissionError:
            pass
"""


def with_fds(script, fds, **keys):
    """Output of a Python program that has these as its descriptors 10, 11, ..."""
    command = 'n=$#; i=10; for fd in "$@"; do eval "exec $i<&$fd"; i=$((i + 1)); done; exec "$PY" -c "$SCRIPT" "$n"'
    env = {"PY": PYTHON, "SCRIPT": script}
    p = subprocess.run(["bash", "-c", command, "bash", *map(str, fds)], pass_fds=fds, env=env, text=True, capture_output=True, timeout=30, cwd="/", **keys)
    assert p.returncode == 0, p.stderr
    return p.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_an_observer_gets_can_be_written_by_nobody(start_daemon, start, build):
    daemon = start_daemon()
    start(daemon, beat(build))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    observed, fds = observe(daemon, "out")
    try:
        assert [(r["kind"], r["number"], r["fd"]) for r in observed["regions"]] == [("ring", 0, 0), ("pool", 0, 1)] and len(fds) == 2
        assert [os.fstat(fd).st_size for fd in fds] == [r["size"] for r in observed["regions"]]
        assert with_fds(THIEF, fds, user=65534, group=65534, extra_groups=[]) == ""
        assert with_fds(ROOT, fds) == ""
    finally:
        for fd in fds:
            os.close(fd)


def test_what_is_known_is_not_sent_again_and_a_client_without_room_gets_the_reply_alone(start_daemon, start, build):
    daemon = start_daemon()
    start(daemon, beat(build))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    reply = daemon.call("Observe", dataflow="flow", node="beat", output="out")["observed"]  # received without room for descriptors
    assert (reply["over"], reply["state"], reply["generation"], len(reply["regions"])) == (False, "running", 1, 2)
    again, fds = observe(daemon, "out", ring=reply["ring"], segments=reply["segments"])
    assert (again["regions"], fds, again["ring"]) == ([], [], reply["ring"])
    with Client(daemon.socket) as client:  # descriptors that nobody takes are few
        for _ in range(2):  # the first answer lies there until the second one has come, too
            before = n_unread(client)
            client.send("Observe", dataflow="flow", node="beat", output="out")
            assert eventually(lambda: n_unread(client) > before, 20)
        assert len(client.receive()["parameters"]["observed"]["regions"]) == 2
        assert client.receive()["error"].endswith(".QuotaExceeded")
        for parameters, error in [({"output": "in"}, "NoSuchOutput"), ({"node": "x"}, "NoSuchNode"), ({"dataflow": "x"}, "NoSuchDataflow")]:
            client.send("Observe", **{"dataflow": "flow", "node": "beat", "output": "out", **parameters})
            assert client.receive()["error"].endswith(f".{error}")
    daemon.call("RestartNode", dataflow="flow", node="beat")
    anew, fds = observe(daemon, "out", ring=reply["ring"], segments=reply["segments"])
    for fd in fds:
        os.close(fd)
    assert anew["ring"] != reply["ring"] and (anew["generation"], len(fds)) == (2, 2)
    daemon.call("Stop", dataflow="flow")
    with Client(daemon.socket) as client:
        client.send("Observe", dataflow="flow", node="beat", output="out")
        assert client.receive()["error"].endswith(".NotRunning")


@pytest.mark.parametrize("consumer", [False, True])
def test_an_observer_costs_a_producer_no_system_call(start_daemon, start, build, tmp_path, topic, consumer):
    """The same producer, with a consumer that sleeps and has to be woken, is killed at its first message: so the test can tell."""
    daemon, nodes = start_daemon(), build / "tests/system"
    quiet = node("quiet", [nodes / "quiet", tmp_path / "gate", 2000], outputs=["out"])
    start(daemon, quiet, *([node("tally", [nodes / "tally"], inputs=[("in", "quiet", "out")], wait="block")] if consumer else []))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    echo = [topic(daemon, "echo", "quiet/out", "--json") for _ in range(2)]
    assert eventually(lambda: all("memfd:tidegate-ring" in open(f"/proc/{p}/maps").read() for e in echo for p in children(e.process.pid)), 20)
    (tmp_path / "gate").touch()
    assert eventually(lambda: daemon.status("flow")["nodes"][0]["state"] in ("stopped", "failed"), 30), daemon.output()
    ended = daemon.status("flow")["nodes"][0]["exit"]
    assert ended == ({"code": "signalled", "status": signal.SIGSYS} if consumer else {"code": "exited", "status": 0})
    for e in echo if not consumer else ():
        lines = [json.loads(line) for line in e.finish().splitlines()]
        messages = [line for line in lines if "index" in line]
        assert messages and sum(1 + m["passed"] for m in messages) <= 2000
        assert [m["text"] for m in messages] == [str(m["index"]) for m in messages]


def children(pid):
    found = open(f"/proc/{pid}/task/{pid}/children").read().split()
    return found or [pid]


def test_an_observer_that_hangs_holds_up_nobody(start_daemon, start, build, tmp_path, topic):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, beat(build, 1000), node("hear", [nodes / "hear"], inputs=[("in", "beat", "out")]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    echo = topic(daemon, "echo", "beat/out")
    first = int(echo.line().split()[1][1:])
    (pid,) = children(echo.process.pid)

    def counters():
        (dataflow,) = daemon.call("Status", names=["flow"], links=True)["dataflows"]
        return dataflow["nodes"][1]["links"][0]["counters"]

    os.kill(int(pid), signal.SIGSTOP)
    assert eventually(lambda: counters()["delivered"] > first + 200, 30), daemon.output()
    assert counters()["dropped"] == {} and counters()["holds"] <= 1 and counters()["refused"] == 0
    os.kill(int(pid), signal.SIGCONT)
    while "passed before they could be read" not in (line := echo.line()):
        assert line.startswith("beat/out #"), line
    daemon.call("Stop", dataflow="flow")
    assert echo.finish().splitlines()[-1] == "# beat/out: nothing more will come"


# The commands


def test_every_life_of_a_node_is_followed_and_what_was_missed_is_said(start_daemon, start, build, topic):
    daemon = start_daemon()
    start(daemon, beat(build, restart=restarting("always", delay=0.01)))
    echo = topic(daemon, "echo", "beat/out", "--json", "--last")
    before = echo.messages(5)
    assert [m["text"] for m in before] == [f"0:{m['index']}" for m in before] and {m["generation"] for m in before} == {1}
    assert all(b["index"] == a["index"] + 1 + b["passed"] for a, b in zip(before, before[1:]))
    daemon.call("RestartNode", dataflow="flow", node="beat")
    while (line := echo.json()).get("generation") == 1:
        pass
    assert "new life" in line["note"]
    after = echo.messages(3)
    assert after[0]["index"] == after[0]["passed"] and [m["text"] for m in after] == [f"1:{m['index']}" for m in after]


LARGE = """
import os, sys, time, tidegate
node = tidegate.Node()
for i in range(2):
    while not os.path.exists(f"{sys.argv[1]}{i}"):
        time.sleep(0.005)
    while True:
        try:
            node.send_output("out", bytes([i]) * (9 << 20), {"n": i, "name": "frame", "scale": 0.5, "box": [1, 2]})
            break
        except tidegate.Dropped:  # its pool grows too slowly, on a busy machine
            pass
for event in node:
    pass
"""


def test_memory_that_a_pool_has_grown_by_is_asked_for(start_daemon, start, build, tmp_path, topic):
    daemon = start_daemon()
    start(daemon, node("large", [PYTHON, "-c", LARGE, tmp_path / "gate"], outputs=["out"]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    # The last one, too, if there is one: it has the ring in its memory a moment before it looks where that ends.
    echo = topic(daemon, "echo", "large/out", "--json", "--last", "--bytes", 6, "--count", 2)
    assert eventually(lambda: all("memfd:tidegate-ring" in open(f"/proc/{p}/maps").read() for p in children(echo.process.pid)), 20)
    lines = []
    for i in range(2):  # one at a time: without a reader the memory of the first is written again with the second
        (tmp_path / f"gate{i}").touch()
        lines.append(echo.json())
    assert [(m["index"], m["size"], m["cut"], m["passed"]) for m in lines] == [(i, 9 << 20, True, 0) for i in range(2)]
    assert [m["base64"] if "base64" in m else m["text"] for m in lines] == ["AAAAAAAA", "AQEBAQEB"]
    assert lines[1]["metadata"] == {"n": 1, "name": "frame", "scale": 0.5, "box": [1, 2]}


def test_list_tells_topics_their_readers_and_their_rate(start_daemon, start, build, tidegate):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, beat(build), node("hear", [nodes / "hear"], inputs=[("in", "beat", "out"), ("more", "beat", "out")]), node("mute", [nodes / "quiet", "/nowhere", 1], outputs=["a/b"]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    until_it_sends(daemon)
    topics = json.loads(tidegate("topic", "list", "--json", "--runtime-dir", daemon.runtime).stdout)["topics"]
    assert [(t["topic"], t["dataflow"], t["subscribers"], t["closed"]) for t in topics] == [
        ("beat/out", "flow", ["hear/in", "hear/more"], False), ("mute/a/b", "flow", [], False)]  # fmt: skip
    assert topics[0]["published"] > 0 and topics[0]["bytes"] >= 3 * topics[0]["published"] and 0 < topics[0]["rate_hz"] <= 1000
    assert (topics[1]["published"], topics[1]["rate_hz"]) == (0, 0.0)
    shown = tidegate("topic", "list", "flow", "--runtime-dir", daemon.runtime).stdout.splitlines()
    assert len(shown) == 2 and shown[0].startswith("flow:beat/out ") and shown[0].endswith("-> hear/in, hear/more") and shown[1].endswith("0.0 Hz")


def test_what_is_no_topic_is_said(start_daemon, start, build, tidegate):
    daemon = start_daemon()
    start(daemon, beat(build))
    for args, status, words in [
        (["echo", "beat/none"], 4, "node beat has no output none"),
        (["echo", "nobody/out"], 4, "no such node"),
        (["echo", "other:beat/out"], 4, "other"),
        (["echo", "beat"], 2, "`beat` is no topic; say NODE/OUTPUT"),
        (["echo"], 2, "needs a topic"),
        (["echo", "flow:beat/out", "-d", "stream"], 2, "is no topic of stream"),
        (["echo", "beat/out", "--count", "none"], 2, "--count"),
        (["list", "--raw"], 2, "`topic list` has no such option: `--raw`"),
        (["shout"], 2, "`shout` is none of list, echo, hz, info, pub"),
        ([], 2, "say what to do"),
    ]:
        p = tidegate("topic", *args, "--runtime-dir", daemon.runtime) if args else tidegate("topic")
        assert p.returncode == status and words in p.stderr and p.stdout == "", (args, p)
    p = tidegate("topic", "echo", "beat/out", "--runtime-dir", daemon.runtime.parent / "nowhere")
    assert p.returncode == 5


def test_payloads_as_bytes_and_a_reader_that_leaves(start_daemon, start, build, topic, tidegate):
    daemon = start_daemon()
    start(daemon, beat(build))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    p = tidegate("topic", "echo", "flow:beat/out", "--raw", "--count", 2, "--runtime-dir", daemon.runtime)
    assert p.returncode == 0 and p.stdout.startswith("0:") and p.stdout.count(":") == 2
    echo = topic(daemon, "echo", "beat/out")
    echo.line()
    echo.process.stdout.close()
    assert echo.process.wait(30) == 0
    p = tidegate("topic", "echo", "beat/out", "--for", "200ms", "--runtime-dir", daemon.runtime)
    assert p.returncode == 0 and all(re.match(r"beat/out #\d+ |# beat/out: \d+ passed ", line) for line in p.stdout.splitlines()), p


def test_an_observer_reads_on_while_supervisors_change(start_daemon, start, build, topic):
    daemon = start_daemon()
    start(daemon, beat(build))
    echo = topic(daemon, "echo", "beat/out", "--json")
    first = echo.messages(1)[0]
    before = daemon.supervisor()
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: daemon.supervisor() not in (None, before), 20), daemon.output()
    daemon.wait_until_ready()
    daemon.call("RestartNode", dataflow="flow", node="beat")
    while (message := echo.messages(1)[0])["generation"] == 1:
        assert message["index"] > first["index"]
    assert message["text"].startswith("1:")


def test_hz_tells_rate_and_intervals(start_daemon, start, build, tidegate):
    daemon = start_daemon()
    start(daemon, beat(build), node("mute", [build / "tests/system/quiet", "/nowhere", 1], outputs=["out"]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    until_it_sends(daemon)
    p = tidegate("topic", "hz", "beat/out", "mute/out", "--for", "400ms", "--window", "5s", "--json", "--runtime-dir", daemon.runtime)
    assert p.returncode == 0, p.stderr
    beats, mute = [json.loads(line) for line in p.stdout.splitlines()][-2:]
    assert beats["topic"] == "beat/out" and 1 < beats["seen"] <= beats["count"] and beats["min_ms"] <= beats["avg_ms"] <= beats["max_ms"]
    assert beats["min_ms"] > 1 and 0 <= beats["std_ms"] < beats["max_ms"], "its timer is one of 2 ms"
    assert 1 < beats["rate_hz"] < 600 and not beats["ended"]
    assert (mute["count"], mute["rate_hz"]) == (0, 0.0) and "avg_ms" not in mute
    p = tidegate("topic", "hz", "beat/out", "--for", "200ms", "--runtime-dir", daemon.runtime)
    (line,) = p.stdout.splitlines()
    assert line.startswith("beat/out: ") and " Hz, avg " in line and "\033" not in line


@pytest.fixture
def screen(build, node_environment, traces):
    shown = []

    def start(daemon, *args, **variables):
        env = {**node_environment, "TERM": "xterm", MARK: traces.mark, "TIDEGATE_RUNTIME_DIR": str(daemon.runtime), **variables}
        shown.append(Screen([str(build / "bin/tidegate"), "topic", *args], env, rows=8, cols=70))
        return shown[-1]

    yield start
    for s in shown:
        s.close()


@pytest.mark.parametrize("locale,bars", [("C.UTF-8", "▁▂▃▄▅▆▇█"), ("C", ".:-=+*#@")])
def test_hz_is_painted_in_its_place(start_daemon, start, build, screen, locale, bars):
    daemon = start_daemon()
    start(daemon, beat(build))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    s = screen(daemon, "hz", "beat/out", "--window", "2s", LC_ALL=locale)
    for _ in range(2):
        before = len(s.raw)
        s.until(lambda s: len(s.raw) > before and any(bar in s.lines()[1] for bar in bars))
    lines = s.lines()
    assert lines[0].startswith("beat/out: ") and len(lines[0]) <= 70 and lines[1].startswith("  |") and lines[1].endswith("|"), s.text()
    assert lines[2:] == [""] * 6, s.text()
    s.type("\x03")
    assert s.status() == 0


def test_echo_is_cut_to_the_terminal(start_daemon, start, build, screen):
    daemon = start_daemon()
    start(daemon, node("long", [PYTHON, "-c", LONG], outputs=["out"]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    s = screen(daemon, "echo", "long/out", "--count", "1", "--last", LC_ALL="C.UTF-8")
    s.until(r'^long/out #0 [0-9:.]+ 5.0 KiB "abcab.*"…$')
    assert s.status() == 0 and s.lines()[1:] == [""] * 7, s.text()


LONG = """
import tidegate
node = tidegate.Node()
node.send_output("out", b"abcab" * 1024)
for event in node:
    pass
"""


def test_info_tells_who_sends_and_who_reads(start_daemon, start, build, tidegate):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, beat(build), node("hear", [nodes / "hear"], inputs=[("in", "beat", "out")]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    until_it_sends(daemon)
    p = tidegate("topic", "info", "beat/out", "--for", "300ms", "--json", "--runtime-dir", daemon.runtime)
    info = json.loads(p.stdout)
    assert info["publisher"] == {"node": "beat", "kind": "node", "state": "running", "generation": 1} and info["dataflow"] == "flow"
    assert 0 < info["count"] <= info["published"] and info["count_bytes"] >= 3 * info["count"] and info["seconds"] >= 0.3
    assert info["rate_hz"] == pytest.approx(info["count"] / info["seconds"]) and not info["closed"]
    (reader,) = info["subscribers"]
    assert (reader["node"], reader["input"], reader["state"], reader["queue_size"]) == ("hear", "in", "active", 10)
    assert reader["counters"]["published"] > 0 and reader["counters"]["dropped"] == {}
    p = tidegate("topic", "info", "beat/out", "--for", "10ms", "--runtime-dir", daemon.runtime)
    lines = p.stdout.splitlines()
    assert lines[0] == "beat/out of dataflow flow: bytes" and lines[1].startswith("  publisher    beat, running, life 1: ")
    assert lines[3].startswith("  subscriber   hear/in, active, backpressure 10: published ")
    assert tidegate("topic", "info", "beat/in", "--runtime-dir", daemon.runtime).returncode == 4


def dynamic(id, **keys):
    return {**node(id, [], **keys), "kind": "dynamic", "argv": []}


def test_pub_takes_a_free_place_and_leaves_it(start_daemon, start, build, tmp_path, topic, tidegate):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, dynamic("hand", outputs=["out"]), node("drain", [nodes / "drain", tmp_path / "got"], inputs=[("in", "hand", "out")]))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    echo = topic(daemon, "echo", "hand/out", "--json")
    assert "nobody is there yet" in echo.json()["note"]

    def pub(*args, **keys):
        return tidegate("topic", "pub", "hand/out", *args, "--runtime-dir", daemon.runtime, **keys)

    p = pub("one,")
    assert (p.returncode, p.stdout, p.stderr) == (0, "hand/out: published 1 message of 4 bytes\n", "")
    assert [(m["text"], m["index"]) for m in echo.messages(1)] == [("one,", 0)]
    (tmp_path / "two").write_bytes(b"two," * 100000)
    p = pub("--file", tmp_path / "two", "--count", 2, "--rate", 1000, "--json")
    assert p.returncode == 0 and {**json.loads(p.stdout), "dataflow": ""} == {"topic": "hand/out", "dataflow": "", "published": 2, "size": 400000}
    with open(tmp_path / "two") as f:
        assert pub("--file", "-", stdin=f).returncode == 0
    daemon.call("Stop", dataflow="flow")
    assert (tmp_path / "got").read_bytes() == b"one," + b"two," * 300000
    echo.finish()


def test_pub_says_why_it_cannot(start_daemon, start, build, tmp_path, tidegate):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, dynamic("hand", outputs=["out"]), beat(build))
    assert eventually(lambda: daemon.status("flow")["nodes"][1]["state"] == "running", 20), daemon.output()
    env = {**os.environ, "TIDEGATE_RUNTIME_DIR": str(daemon.runtime)}
    # somebody has the place already
    other = subprocess.Popen([build / "bin/tidegate-pipe", "--as", "hand", "--send", "out"], env=env, stdin=subprocess.PIPE)
    try:
        assert eventually(lambda: daemon.status("flow")["nodes"][0]["state"] == "running", 20), daemon.output()
        for args, status, words in [
            (["hand/out", "x"], 1, "node hand has a process"),
            (["beat/out", "x"], 1, "node beat (line 1) is not dynamic: what its outputs send only its own process can write"),
            (["hand/in", "x"], 4, "node hand has no output in"),
            (["hand/out"], 2, "needs one of both"),
            (["hand/out", "x", "--file", "y"], 2, "needs one of both"),
            (["hand/out", "x", "--rate", "-1"], 2, "--rate"),
        ]:
            p = tidegate("topic", "pub", *args, "--runtime-dir", daemon.runtime)
            assert p.returncode == status and words in p.stderr and p.stdout == "", (args, p)
    finally:
        other.communicate(timeout=20)
    assert eventually(lambda: daemon.status("flow")["nodes"][0]["state"] == "starting", 20), daemon.output()
    p = tidegate("topic", "pub", "hand/out", "--file", tmp_path / "none", "--runtime-dir", daemon.runtime)
    assert p.returncode == 1 and "none: No such file" in p.stderr


# A supervisor that is out of order


def observed(**changes):
    return {"uuid": "0", "generation": 1, "state": "running", "over": False, "ring": 7, "segments": 1, "regions": [], **changes}


REGIONS = [{"kind": "ring", "number": 0, "size": 5120, "fd": 0}, {"kind": "pool", "number": 0, "size": 4096, "fd": 1}]


@pytest.mark.parametrize("answer,n_fds,status,words", [
    (observed(ring=0, segments=0), 0, 0, "its shared memory was lost with a daemon"),
    (observed(ring=0, segments=0, state="starting"), 0, 0, "nobody is there yet to send anything"),
    (observed(ring=0, segments=0, state="failed", over=True), 0, 0, "nothing more will come"),
    (observed(regions=REGIONS), 0, 1, "its shared memory cannot be read"),
    (observed(regions=REGIONS), 2, 1, "its shared memory cannot be read"),
    (observed(regions=REGIONS[1:] + REGIONS[:1]), 2, 1, "its shared memory cannot be read"),
    (observed(regions=[{"kind": "ring", "number": 0, "size": 5120, "fd": -1}]), 40, 1, "its shared memory cannot be read"),
    ({}, 0, 0, "nobody is there yet"),
])  # fmt: skip
def test_what_a_supervisor_answers_is_checked(fake, talk, answer, n_fds, status, words):
    """Descriptors of the wrong kind, too few of them, too many."""

    def observe(connection, parameters):
        data = json.dumps({"parameters": {"observed": answer}}).encode() + b"\0"
        with open("/dev/null") as null:
            socket.send_fds(connection.sock, [data], [null.fileno()] * n_fds)

    fake.dataflows = [fake_dataflow("flow", fake_node("beat", outputs=[{"output": "out", "closed": False}]))]
    fake.answers["Observe"] = observe
    p = talk("topic", "echo", "beat/out", "--for", "50ms")
    assert p.returncode == status and words in p.stdout + p.stderr and bool(p.stderr) == bool(status), p


def test_a_supervisor_without_descriptors_says_so_and_goes_on(start_daemon, start, build):
    daemon = start_daemon()
    start(daemon, beat(build))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    pid = daemon.supervisor()
    with Client(daemon.socket) as client:
        client.call("GetHealth")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
        lowest = min(set(range(max(used) + 2)) - used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest + 1, before[1]))  # one more, and the ring and its pool are two
        try:
            client.send("Observe", dataflow="flow", node="beat", output="out")
            message = client.receive()
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert message["error"].endswith(".Refused") and "Too many open files" in message["parameters"]["text"]
        assert {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")} == used
        assert len(client.call("Observe", dataflow="flow", node="beat", output="out")["observed"]["regions"]) == 2
