# SPDX-License-Identifier: Apache-2.0
"""What nodes use, asked of the daemon: held against what a node says of itself, with and without cgroups."""

import json
import os
import re
import signal

import pytest
from conftest import PYTHON, eventually
from daemon import plan, program
from lives import stat_of
from test_control import SLEEP, refused, start

BURNED, HELD = 0.15, 48 << 20
# Burns, itself and by a child that it waits for, holds memory, threads and a child, and writes down what it has used.
BUSY = f"""
import json, os, sys, threading, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
burn({BURNED})
if os.fork() == 0:
    burn({BURNED})
    os._exit(0)
os.wait()
held = bytearray({HELD})
for _ in range(2):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
if os.fork() == 0:
    os.execv('/bin/sleep', ['sleep', '1000'])
t = os.times()
open(sys.argv[1] + '.new', 'w').write(json.dumps([t.user + t.system, t.children_user + t.children_system]))
os.rename(sys.argv[1] + '.new', sys.argv[1])
time.sleep(1000)
"""


def usage(daemon, name="flow"):
    return {one["node"]: one for one in daemon.call("Usage", dataflow=name)["usage"]}


@pytest.mark.each_enforcer
def test_usage_is_what_a_node_burned_and_holds_whatever_it_is_ended_with(daemon, enforcer, tmp_path):
    said = tmp_path / "said"
    node = program("busy", "")
    node["argv"] = [PYTHON, "-c", BUSY, str(said)]
    start(daemon, node, program("calm", SLEEP), program("done", "exit 0"))
    assert eventually(said.exists, 20), daemon.output()
    assert eventually(lambda: usage(daemon).keys() == {"busy", "calm"}, 5), "of those that live"
    found = usage(daemon)
    own, waited = json.loads(said.read_text())
    busy, calm = found["busy"], found["calm"]
    assert own >= BURNED - 0.02 and waited >= BURNED - 0.02  # the kernel counts ticks
    assert own + waited - 0.05 <= busy["cpu_ns"] / 1e9 <= own + waited + 0.25, (busy, own, waited)
    assert HELD < busy["memory_bytes"] < HELD + (100 << 20), busy
    assert (busy["processes"], busy["threads"]) == (2, 4)
    assert (calm["processes"], calm["threads"], calm["generation"]) == (1, 1, 1)
    assert 0 < calm["memory_bytes"] < 16 << 20 and calm["cpu_ns"] < 0.2e9
    later = usage(daemon)
    assert later["busy"]["at_ms"] >= busy["at_ms"] and later["busy"]["cpu_ns"] >= busy["cpu_ns"]
    if "cgroup" not in enforcer:
        assert busy["source"] == "proc" and "pressure" not in busy


@pytest.mark.cgroup_only
def test_usage_has_the_pressure_that_the_kernel_counts_for_the_cgroup(daemon, tidegate):
    start(daemon, program("a", SLEEP))
    flow = daemon.status("flow")
    there = [name for name in ("cpu", "memory", "io") if os.path.exists(f"{flow['cgroup']}/a.1/{name}.pressure")]
    assert sorted(usage(daemon)["a"].get("pressure", {})) == sorted(there)
    for one in usage(daemon)["a"].get("pressure", {}).values():
        assert 0 <= one["some"] <= 100
    for said in (("node", "info", "flow:a"), ("status", "flow")):
        told = json.loads(tidegate(*said, "--json", "--runtime-dir", daemon.runtime).stdout)
        node = told if said[0] == "node" else told["dataflows"][0]["nodes"][0]
        assert node["usage"]["processes"] == 1 and node["usage"]["node"] == "a"
    shown = tidegate("node", "info", "flow:a", "--runtime-dir", daemon.runtime).stdout
    assert not there or re.search(r"waits: .*cpu [\d.]+ %.* \(some waited, of the last 10 s\)", shown), shown


def test_a_keeper_that_is_silent_costs_the_question_and_nothing_else(survivor):
    daemon = survivor()
    start(daemon, program("a", SLEEP))
    (keeper,) = daemon.parts("keeper")
    os.kill(keeper, signal.SIGSTOP)
    try:
        refused(daemon.client(), "TimedOut", "Usage", dataflow="flow", timeout_ms=100)
        assert daemon.status("flow")["state"] == "running"
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert usage(daemon)["a"]["processes"] == 1, "who asks next gets the late answer, or one of its own"
    assert usage(daemon)["a"]["processes"] == 1


def test_the_question_survives_the_keeper_and_the_supervisor(survivor):
    daemon = survivor()
    start(daemon, program("a", SLEEP))
    (keeper,) = daemon.parts("keeper")
    os.kill(keeper, signal.SIGSTOP)  # the question lies in its socket when it dies
    asking = daemon.client()
    asking.call("GetHealth")
    asking.send("Usage", dataflow="flow")
    daemon.status("flow")  # who is heard only while another keeper takes over is Busy
    os.kill(keeper, signal.SIGKILL)
    assert asking.reply()[0]["usage"][0]["node"] == "a", "its successor is asked again"
    os.kill(daemon.supervisor(), signal.SIGKILL)

    def answered():
        try:
            return usage(daemon)["a"]["processes"] == 1
        except Exception:  # not taken over yet: no connection, or Busy
            return False

    assert eventually(answered, 10), daemon.output()


def test_a_question_that_comes_when_the_keeper_is_dead_and_nobody_has_heard_of_it_waits_for_the_next_one(survivor):
    """The guard tells of its death, and is stopped."""
    daemon = survivor()
    start(daemon, program("a", SLEEP))
    keeper, guard = daemon.take("keeper"), daemon.take("guard")
    guard.send(signal.SIGSTOP)
    assert eventually(lambda: stat_of(guard.pid)[0] == "T", 10)
    try:
        keeper.send(signal.SIGKILL)
        assert eventually(lambda: stat_of(keeper.pid)[0] == "Z", 10)
        refused(daemon.client(), "TimedOut", "Usage", dataflow="flow", timeout_ms=100)
        asking = daemon.client()
        asking.send("Usage", dataflow="flow")
        assert daemon.status("flow")["state"] == "running", "which was asked later: the question was heard"
    finally:
        guard.send(signal.SIGCONT)
    assert asking.reply()[0]["usage"][0]["node"] == "a"
    for process in (keeper, guard):
        process.close()


def test_usage_of_what_does_not_run_is_refused(daemon):
    start(daemon, program("a", "exit 0"), wait="ended")
    refused(daemon.client(), "NotRunning", "Usage", dataflow="flow")
    refused(daemon.client(), "NoSuchDataflow", "Usage", dataflow="other")
