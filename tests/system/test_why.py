# SPDX-License-Identifier: Apache-2.0
"""Why a node makes no progress, told without its help: the cause, who could end it, and the way there."""

import json
import os
import signal
import subprocess

import pytest
from conftest import eventually
from daemon import plan, program
from lives import Process

MUTEXES = """\
import ctypes, threading
libc = ctypes.CDLL(None)
locks = [ctypes.create_string_buffer(64) for _ in range(2)]
barrier = threading.Barrier(2)
def take(first, second):
    libc.pthread_mutex_lock(first)
    barrier.wait()
    libc.pthread_mutex_lock(second)
threads = [threading.Thread(target=take, args=pair) for pair in (locks, locks[::-1])]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""

FLOW = """\
nodes:
  - id: asleep
    path: /bin/sleep
    args: "1000"
  - id: busy
    path: {python}
    args: "-c 'while True: pass'"
  - id: locked
    path: {python}
    args: {mutexes}
  - id: full
    path: /bin/sh
    args: "-c 'yes | sleep 1000; true'"
  - id: parent
    path: /bin/sh
    args: "-c 'sleep 1000; true'"
  - id: count
    path: {nodes}/count
    outputs: [out]
  - id: relay
    path: {nodes}/relay
    inputs:
      in: {{source: count/out, queue_size: 4, queue_policy: backpressure}}
    outputs: [out]
  - id: check
    path: {nodes}/check
    args: {seen} 1000
    stuck_timeout: 0.5
    inputs:
      in: {{source: relay/out, queue_size: 4, queue_policy: backpressure}}
"""


@pytest.fixture
def stacks(build):
    """Does this build read stacks?"""
    options = json.loads((build / "meson-info/intro-buildoptions.json").read_text())
    return next(o["value"] for o in options if o["name"] == "unwind") != "disabled" and os.path.exists("/usr/include/elfutils/libdwfl.h")


@pytest.fixture
def tell(build, daemon):
    def tell(verb, *args, seconds=30):
        command = [build / "bin/tidegate", verb, "--runtime-dir", daemon.runtime, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)

    return tell


def node_of(daemon, node):
    return next(n for n in daemon.status("flow")["nodes"] if n["id"] == node)


def pid_of(daemon, node):
    return node_of(daemon, node)["pid"]


def events_of(client):
    """One after the other, each within 20 s."""
    while True:
        yield client.receive(20)["parameters"]["event"]


@pytest.fixture
def why(daemon):
    def why(node, cause=None, hops=1, words="", seconds=10, **keys):
        """What is said of it, once that is @cause, leads so far and has these words: it has to get there first, and so has who it waits for."""
        said = {}

        def ask():
            said.clear()
            said.update(daemon.call("Why", dataflow="flow", node=node, **keys)["why"])
            return cause is None or (said["cause"] == cause and len(said["chain"]) >= hops and words in said["text"])

        assert eventually(ask, seconds), json.dumps(said, indent=1)
        return said

    return why


@pytest.fixture
def flow(build, tell, daemon, tmp_path):
    (tmp_path / "mutexes.py").write_text(MUTEXES)
    file = tmp_path / "flow.yml"
    file.write_text(FLOW.format(nodes=build / "tests/system", seen=tmp_path / "seen", python="/usr/bin/python3", mutexes=tmp_path / "mutexes.py"))
    p = tell("start", "--detach", file)
    assert p.returncode == 0, p.stdout + p.stderr
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()


def test_each_wedge_has_its_name(flow, daemon, why, tell, stacks):
    said = why("asleep", "sleeping")
    assert "sleeps for 1000 s" in said["text"] and said["threads"][0]["pid"] == pid_of(daemon, "asleep")
    assert said["n_threads"] == 1 and said["deep"] and "lost" not in said

    said = why("busy", "busy")
    assert said["threads"][0]["run_us"] > 0

    said = why("locked", "deadlock")
    assert said["n_threads"] == 3 and [hop["cause"] for hop in said["chain"]] == ["deadlock", "deadlock"]
    tids = {thread["tid"] for thread in said["threads"] if thread["cause"] == "deadlock"}
    assert len(tids) == 2 and {hop["tid"] for hop in said["chain"]} == tids and pid_of(daemon, "locked") not in tids
    assert said["target"]["tid"] in tids and "and so on" in said["text"]
    if stacks:
        for thread in said["threads"][:2]:
            assert any("pthread_mutex_lock" in frame for frame in thread["user_stack"]), thread

    said = why("full", "pipe-full", words="sleeps for 1000 s")
    assert said["threads"][0]["comm"] == "yes" and said["target"]["comm"] == "sleep" and said["target"]["node"] == "full"

    said = why("parent", "child", words="sleeps for 1000 s")
    assert said["target"]["comm"] == "sleep"

    shown = tell("why", "flow:full")
    assert shown.returncode == 0 and shown.stdout.startswith("flow:full: pipe-full\n"), shown
    assert all(len(line) <= 80 for line in shown.stdout.splitlines()) and len(shown.stdout.splitlines()) <= 24, shown.stdout
    assert json.loads(tell("why", "flow:full", "--json").stdout)["cause"] == "pipe-full"


def test_backpressure_is_followed_to_whom_it_comes_from(flow, daemon, tell, why):
    check = Process(pid_of(daemon, "check"))
    client = daemon.client()
    client.send("Events", more=True, dataflow="flow")
    check.send(signal.SIGSTOP)
    try:
        event = next(e for e in events_of(client) if e["type"] == "stuck" and e["node"] == "check")
        assert event["why"]["cause"] == "stopped" and event["why"]["text"].startswith("check was stopped by a signal")
        assert node_of(daemon, "check")["why"] == event["why"]
        assert "messages wait, it takes none (stopped)" in tell("status", "flow").stdout
        assert why("check", "stopped")["text"].startswith("check was stopped by a signal")
        said = why("relay", "backpressure", hops=2)
        assert said["text"].startswith("relay waits for room in `out`: consumer check was stopped by a signal"), said["text"]
        said = why("count", "backpressure", hops=3)
        assert [hop["node"] for hop in said["chain"]] == ["count", "relay", "check"]
        assert said["text"].startswith("count waits for room in `out`: consumer relay waits for room in `out`: consumer check was stopped"), said["text"]
    finally:
        check.send(signal.SIGCONT)
        check.close()
    assert eventually(lambda: why("check")["cause"] != "stopped", 10)
    assert next(e for e in events_of(client) if e["type"] == "resumed")["node"] == "check"
    assert "why" not in node_of(daemon, "check")


def test_who_is_stuck_and_has_to_be_killed_is_told_with_why(flow, daemon):
    client = daemon.client()
    client.send("Events", more=True, dataflow="flow")
    os.kill(pid_of(daemon, "check"), signal.SIGSTOP)
    stuck = next(e for e in events_of(client) if e["type"] == "stuck" and e["node"] == "check")
    daemon.call("StopNode", dataflow="flow", node="check", force=True)
    event = next(e for e in events_of(client) if e["type"] == "why")
    assert event["node"] == "check" and event["why"] == stuck["why"]
    assert event["text"].startswith("is killed, and was stuck: check was stopped by a signal")
    assert node_of(daemon, "check")["why"] == stuck["why"] and node_of(daemon, "check")["killed_by"]


def test_who_stands_still_for_the_look_runs_again_and_what_was_frozen_stays_so(flow, daemon, why):
    def stood_still():
        """Or who looks has waited for it for 300 ms in vain, on a machine that is too busy, and says that."""
        said = why("locked", "deadlock", freeze=True)
        assert said["was_frozen"] or "it did not stand still in time" in said["lost"], said
        return said["was_frozen"] and said

    said = eventually(stood_still, 20)
    assert said and not said["group"]["frozen"]
    cgroup = daemon.status("flow")["cgroup"]
    assert "frozen 0" in open(f"{cgroup}/locked.1/cgroup.events").read()
    daemon.call("Freeze", dataflow="flow", node="asleep")
    said = why("asleep", "frozen", freeze=True)
    assert not said["was_frozen"]
    assert "frozen 1" in open(f"{cgroup}/asleep.1/cgroup.events").read()
    daemon.call("Thaw", dataflow="flow", node="asleep")


def test_nobody_is_asked_who_does_not_run(flow, daemon, tell):
    daemon.call("StopNode", dataflow="flow", node="asleep")
    said = tell("why", "flow:asleep")
    assert said.returncode == 3 and "node asleep does not run: it is stopped" in said.stderr
    assert tell("why", "flow:nobody").returncode == 4
    assert tell("why").returncode == 2
