# SPDX-License-Identifier: Apache-2.0
"""on_pressure: conditions of pressure and what follows when one is met. Memory, throttling and short windows are tested in the guest, where nobody
else is and everything is allowed."""

import os
import re
import signal
import time

import pytest
from conftest import eventually
from daemon import plan, program
from survive import restarting
from test_control import SLEEP, start

S = 10**9
# Two that want one CPU, and nobody's CPU but what is idle.
CROWD = "crowd() { while :; do :; done; }; renice -n 19 $$ >/dev/null; crowd & crowd & wait"
WHY = "the kernel watches for a user without CAP_SYS_RESOURCE in windows of 2s, 4s, ... alone"


def condition(resource, action, threshold, window, line=9):
    return {"resource": resource, "action": action, "threshold_ns": int(threshold * S), "window_ns": int(window * S), "line": line}


@pytest.fixture
def pressed(home):
    """Whether the kernel watches for us, tried in a cgroup of the test's own: raises the skip. True: in any window."""

    def takes(window):
        place = home / "pressed"
        place.mkdir()
        try:
            fd = os.open(place / "cpu.pressure", os.O_RDWR | os.O_NONBLOCK)
            try:
                os.write(fd, b"some 100000 %d\0" % window)
            finally:
                os.close(fd)
            return True
        except OSError:
            return False
        finally:
            place.rmdir()

    if not takes(2_000_000):
        pytest.skip("this kernel counts no pressure")
    return takes(1_000_000)


def node(id, *conditions, script=CROWD, **keys):
    return program(id, script, cpu_affinity=[0], on_pressure=list(conditions), **keys)


def node_of(daemon, id, name="flow"):
    return next(n for n in daemon.status(name)["nodes"] if n["id"] == id)


# What this host cannot watch


def test_without_cgroups_no_pressure_is_watched(dataflow, tidegate):
    file = dataflow({"nodes": [{"id": "a", "path": "/bin/true", "on_pressure": {"memory_some": "150ms/1s"}}]})
    why = "it is counted for cgroups, and nodes are ended without them here (subreaper)"
    said = tidegate("run", file, "--enforcer", "subreaper")
    assert said.returncode == 1 and re.search(r"node a: on_pressure \(line \d+\): memory_some cannot be watched here: (.*) \(--allow-unenf", said.stderr)[1] == why
    said = tidegate("run", file, "--enforcer", "subreaper", "--allow-unenforced-limits")
    assert said.returncode == 0 and (said.stdout + said.stderr).count(f"on_pressure: memory_some is not watched: {why}") == 1, said


@pytest.mark.cgroup_only
def test_a_window_that_is_not_allowed_is_refused_at_the_start_and_the_others_are_watched(pressed, daemon):
    if pressed:
        pytest.skip("this user may have any window")
    short, long = condition("io_some", "event", 0.1, 1), condition("io_some", "event", 0.1, 2)
    last = start(daemon, node("a", long, short, script=SLEEP))
    assert last["state"] == "ended"
    assert f"node a: on_pressure (line 9): io_some cannot be watched here: {WHY}" in last["result"]["error"]
    with daemon.client() as client:
        replies = list(client.stream("Start", plan=plan(node("a", long, short, script=SLEEP)), allow_unenforced_limits=True))
    notes = [r["event"]["text"] for r in replies if r.get("event", {}).get("type") == "note"]
    assert notes == [f"on_pressure: io_some is not watched: {WHY}"]


# What follows


def next_pressure(client, node, seconds):
    deadline = time.monotonic() + seconds
    while True:
        event = client.reply(max(0.1, deadline - time.monotonic()))[0]["event"]
        if event["type"] == "pressure" and event.get("node") == node:
            return event


@pytest.mark.cgroup_only
@pytest.mark.parametrize("dies", ["supervisor", "keeper"])
def test_a_condition_that_is_met_is_told_and_its_action_follows_also_when_who_was_told_of_it_died(pressed, survivor, tidegate, dies):
    window = 0.5 if pressed else 2
    met, never = window / 10, window
    daemon = survivor()
    nodes = [
        node("tell", condition("cpu_some", "event", met, window, line=11)),
        node("again", condition("cpu_some", "restart", met, window), restart=restarting(max_restarts=5)),
        node("end", condition("cpu_some", "stop", met, window)),
        node("calm", condition("cpu_some", "stop", never, window), script=SLEEP),
    ]
    with daemon.client() as client:
        list(client.stream("Start", plan=plan(*nodes)))
        list(client.stream("Start", plan={**plan(node("a"), node("b"), name="whole"), "on_pressure": [condition("cpu_some", "stop", met, window)]}, grace_ms=1000))
    before = daemon.health()["pid"]
    for pid in daemon.parts(dies):
        daemon.send_to(pid, signal.SIGKILL)
    if dies == "supervisor":
        assert eventually(lambda: daemon.talk("GetHealth")["health"]["pid"] != before, 10)
    listener = daemon.client()
    listener.send("Events", more=True)
    told = next_pressure(listener, "tell", 20)  # it is met again and again
    assert (told["resource"], told["action"], told["threshold"]) == ("cpu_some", "event", f"{1000 * met:g} ms in {1000 * window:g} ms".replace("2000 ms", "2 s"))
    assert " in " in told["measured"] and f"cpu_some {told['measured']}; on_pressure (line 11): event at" in told["text"]
    assert eventually(lambda: node_of(daemon, "again")["generation"] >= 2, 10), daemon.output()
    assert node_of(daemon, "again")["restarts"] >= 1
    assert eventually(lambda: node_of(daemon, "end")["state"] == "failed", 20), daemon.output()
    assert node_of(daemon, "end")["error"].startswith("was stopped for its pressure: cpu_some ")
    assert node_of(daemon, "tell")["state"] == "running" and node_of(daemon, "tell")["generation"] == 1
    shown = tidegate("status", "flow", "--runtime-dir", daemon.runtime).stdout
    assert re.search(r"Waits: tell: cpu [\d.]+ %, memory", shown), shown
    shown = tidegate("node", "info", "flow:tell", "--runtime-dir", daemon.runtime).stdout
    assert re.search(r"pressure: \d+ times, the last: cpu_some .* in .*event at", shown), shown
    assert node_of(daemon, "tell")["pressed"]["count"] >= 1 and "event at" in node_of(daemon, "tell")["pressed"]["text"]
    assert node_of(daemon, "calm")["state"] == "running" and "pressed" not in node_of(daemon, "calm")
    assert eventually(lambda: daemon.status("whole")["state"] == "ended", 20), daemon.output()
    whole = daemon.status("whole")
    assert whole["result"] == "failed" and whole["error"].startswith("was stopped for its pressure: cpu_some ")
    assert ": stop: pressure\n" in daemon.log.read_text()
