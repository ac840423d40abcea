# SPDX-License-Identifier: Apache-2.0
"""What keeps a node in its cgroup, what says so, and what happens to one that leaves all the same."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest
from client import Client
from conftest import MARK, counters_agree, eventually, unified_root
from daemon import plan, program
from test_control_hostile import NOBODY, as_user, open_daemon  # noqa: F401
from test_dynamic import is_gone, listens

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Prints "moved" or why not, then stays.
LEAVE = f"echo $$ > {unified_root()}/cgroup.procs && echo moved; exec sleep 1000"


def start(daemon, *nodes, name="flow", **parameters):
    with Client(daemon.socket) as client:
        return list(client.stream("Start", plan=plan(*nodes, name=name), **parameters))[-1]


def protection(daemon, id, name="flow"):
    return {node["id"]: node["protection"] for node in daemon.status(name)["nodes"]}[id]


def cgroup_of(pid):
    return next(line[3:-1] for line in open(f"/proc/{pid}/cgroup") if line.startswith("0::"))


def pid_of(daemon, id, name="flow"):
    return {node["id"]: node["pid"] for node in daemon.status(name)["nodes"]}[id]


def print_of(directory, uuid, node="a"):
    path = directory / uuid / f"log_{node}.jsonl"
    return path.read_text() if path.exists() else ""


def test_a_node_of_root_s_sees_cgroups_read_only_and_its_own_as_the_root(daemon, tmp_path):
    tell = f"sed -n 's/^0:/own cgroup /p' /proc/self/cgroup; {LEAVE}"
    uuid = start(daemon, program("a", tell), log_dir=str(tmp_path), wait="running")["uuid"]
    assert eventually(lambda: "Read-only file system" in print_of(tmp_path, uuid), 10), print_of(tmp_path, uuid)
    assert "own cgroup :/" in print_of(tmp_path, uuid)
    assert cgroup_of(pid_of(daemon, "a")).endswith(f"/{uuid}/a.1"), "it is where it was"
    said = protection(daemon, "a")
    assert (said["backend"], said["cgroup_write"]) == ("cgroup", "read-only mounts")
    assert any("by intent, not by accident" in text for text in said["weaker"])


def test_who_manages_cgroups_itself_says_so_and_is_shown_as_free_to_leave(daemon, tmp_path):
    uuid = start(daemon, program("a", LEAVE, cgroup_writable=True), log_dir=str(tmp_path), wait="running", grace_ms=300)["uuid"]
    assert eventually(lambda: '"moved"' in print_of(tmp_path, uuid), 10), print_of(tmp_path, uuid)
    assert os.readlink(f"/proc/{pid_of(daemon, 'a')}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert protection(daemon, "a")["cgroup_write"] == "possible"
    assert any("it can leave its cgroup" in text for text in protection(daemon, "a")["weaker"])


def test_a_node_of_an_ordinary_user_is_kept_by_its_uid_alone(open_daemon, tmp_path):  # noqa: F811
    daemon = open_daemon()
    out = daemon.runtime.parent / "out"
    out.mkdir()
    os.chown(out, NOBODY, NOBODY)
    uuid = as_user(NOBODY, lambda: start(daemon, program("a", LEAVE), log_dir=str(out), wait="running"))["uuid"]
    assert eventually(lambda: "Permission denied" in print_of(out, uuid), 10), print_of(out, uuid)
    assert protection(daemon, "a") == {"backend": "cgroup", "cgroup_write": "no", "weaker": []}
    assert os.readlink(f"/proc/{pid_of(daemon, 'a')}/ns/mnt") == os.readlink("/proc/self/ns/mnt"), "and nothing more is done to it"


def test_without_the_privilege_nodes_run_and_status_says_what_is_weaker(start_daemon):
    daemon = start_daemon(prefix=("setpriv", "--bounding-set", "-sys_admin"))
    start(daemon, program("a", "exec sleep 1000"), wait="running")
    assert protection(daemon, "a")["cgroup_write"] == "possible"

    def said(events):
        return [e for e in events if e["type"] == "note" and "no mount namespace of their own could be made" in e["text"]]

    events = while_it_runs(daemon, 10, lambda: start(daemon, program("b", "exec sleep 1000"), name="other", wait="running"), said)
    assert len(said(events)) == 1, events


def test_a_delegated_user_s_own_nodes_can_leave_and_status_says_so(build, home, traces, node_environment):
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

            (pathlib.Path(place) / "flow.yml").write_text("nodes:\n- {id: a, path: /bin/sleep, args: '1000'}\n")

            def command(*args):
                # Not by fork alone: who has only just given up root's uid cannot be looked at.
                p = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"{place}/tidegate", *args, "--runtime-dir",
                                    f"{place}/run"], cwd=place, capture_output=True, text=True, timeout=20)  # fmt: skip
                assert p.returncode == 0, p.stderr
                return p.stdout

            command("start", "flow.yml", "--detach")
            said = json.loads(command("node", "info", "flow:a", "--json"))["protection"]
            assert said["cgroup_write"] == "possible"
            assert any("it can leave its cgroup" in text for text in said["weaker"])
            assert any("it can signal and trace us" in text for text in said["weaker"])
        finally:
            process.terminate()
            counters_agree(process.communicate(timeout=20)[0].decode(errors="replace"))
            eventually(lambda: not [p for p in delegated.iterdir() if p.is_dir()], 5)
            delegated.rmdir()


def test_what_the_host_mounts_later_reaches_the_nodes_where_its_mounts_propagate(start_daemon, tmp_path):
    at = tmp_path / "later"
    at.mkdir()
    daemon = start_daemon(prefix=("unshare", "-m", "--propagation", "shared"))
    start(daemon, program("a", f"until [ -e {at}/file ]; do sleep 0.02; done; touch {at}/seen; exec sleep 1000"), wait="running")
    subprocess.run(["nsenter", "-t", str(daemon.process.pid), "-m", "sh", "-c", f"mount -t tmpfs later {at} && touch {at}/file"], check=True, timeout=10)
    assert eventually(lambda: os.path.exists(f"/proc/{daemon.process.pid}/root{at}/seen"), 10), "the node does not see it"
    subprocess.run(["nsenter", "-t", str(daemon.process.pid), "-m", "umount", str(at)], check=True, timeout=10)


def test_what_is_mounted_over_a_cgroup_hierarchy_is_left_as_it_is(start_daemon, tmp_path):
    """In the daemon's own mount namespace: another cgroup2 mount, and a tmpfs over it that a node has every right to write to."""
    at = tmp_path / "covered"
    at.mkdir()
    mounts = f"mount -t cgroup2 none {at} && mount -t tmpfs over {at} && touch {at}/here && exec \"$@\""
    daemon = start_daemon(prefix=("unshare", "-m", "sh", "-c", mounts, "sh"))
    start(daemon, program("a", f"touch {at}/written; exec sleep 1000"), wait="running")
    assert protection(daemon, "a")["cgroup_write"] == "read-only mounts"
    assert eventually(lambda: os.path.exists(f"/proc/{daemon.process.pid}/root{at}/written"), 10), "it is read-only for the node"


def test_a_supervisor_that_follows_another_still_knows(daemon):
    start(daemon, program("a", "exec sleep 1000"), program("b", "exec sleep 1000", cgroup_writable=True), wait="running")
    before = daemon.supervisor()
    os.kill(before, 9)
    assert eventually(lambda: daemon.supervisor() not in (None, before), 10)
    # Its keepers have to answer first.
    assert eventually(lambda: protection(daemon, "a").get("cgroup_write") == "read-only mounts", 10)
    assert eventually(lambda: protection(daemon, "b").get("cgroup_write") == "possible", 10)


def test_it_is_shown(daemon, tidegate):
    start(daemon, program("a", "exec sleep 1000"), wait="running")
    p = tidegate("node", "info", "flow:a", "--runtime-dir", daemon.runtime)
    assert "protection: cgroup; cgroups are mounted read-only" in p.stdout and "weaker: root can mount cgroups writable again" in p.stdout
    assert "Held by: a: cgroup; cgroups are mounted read-only" in tidegate("status", "flow", "--runtime-dir", daemon.runtime).stdout


# Who leaves all the same


ROOM = "echo $$ > $HOME_/cgroup.procs"  # into the test's own cgroup, which no node is to be in


def escapes(events):
    return [e for e in events if e["type"] == "escape-attempt"]


def while_it_runs(daemon, seconds, act, wanted):
    """Events from before @act until @wanted of them, by predicate, have come."""
    with Client(daemon.socket) as client:
        client.send("Events", more=True)
        act()
        events, until = [], time.monotonic() + seconds
        while not wanted(events) and time.monotonic() < until:
            try:
                events.append(client.reply(max(0.05, until - time.monotonic()))[0]["event"])
            except TimeoutError:
                break
        return events


def leaver(id, home, script, **keys):
    return program(id, script.replace("$HOME_", str(home)), cgroup_writable=True, **keys)


def hierarchy_path(home):
    return "/" + str(home.relative_to(unified_root()))


def test_a_first_process_that_leaves_is_an_event_at_once_and_is_killed_with_its_node(daemon, home):
    events = while_it_runs(
        daemon, 10, lambda: start(daemon, leaver("a", home, f"{ROOM}; exec sleep 1000"), wait="running", grace_ms=300), escapes)
    assert len(escapes(events)) == 1, events
    event, uuid = escapes(events)[0], daemon.status("flow")["uuid"]
    pid = pid_of(daemon, "a")
    assert (event["node"], event["pid"], event["from"], event["to"]) == ("a", pid, f"{uuid}/a.1", hierarchy_path(home))
    assert event["comm"] in ("sh", "sleep") and "is killed with it" in event["text"]
    assert f"ESCAPE: node a of flow: process {pid}" in daemon.output()
    reply = daemon.call("Stop", dataflow="flow")["results"][0]
    assert reply["left"] == 0 and not os.path.exists(f"/proc/{pid}")


def test_a_child_that_leaves_is_told_of_and_gone_when_the_node_is_over(daemon, home, tmp_path):
    script = f"sh -c '{ROOM}; echo $$ > {tmp_path}/pid; exec sleep 1000' & sleep 0.05; until [ -s {tmp_path}/pid ]; do sleep 0.02; done; exit 0"

    def act():
        assert start(daemon, leaver("a", home, script), wait="ended")["result"]["success"], "its end is its own"

    events = while_it_runs(daemon, 10, act, lambda e: escapes(e) and any(x["type"] == "dataflow" and x.get("state") == "ended" for x in e))
    pid = int((tmp_path / "pid").read_text())
    assert [e["pid"] for e in escapes(events)] == [pid], events
    assert is_gone(pid), "nobody is left of it"
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"), 5), "and it is reaped"


def test_a_stop_finds_whoever_left_and_took_a_session_of_its_own(daemon, home, tmp_path):
    # Mounted writable again: root can, and by intent.
    mount = unified_root()
    child = f"setsid sh -c 'trap \"\" TERM; mount -o remount,bind,rw {mount}; {ROOM}; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done'"
    start(daemon, program("a", f"{child} & wait; exit 0".replace("$HOME_", str(home))), wait="running", grace_ms=400)
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), 10)
    pid = int((tmp_path / "pid").read_text())
    assert cgroup_of(pid) == hierarchy_path(home), "it is out"
    events = while_it_runs(daemon, 10, lambda: daemon.call("Stop", dataflow="flow"), escapes)
    assert pid in [e["pid"] for e in escapes(events)], events
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"), 5), "the stop ended it"
    assert {e["pid"]: e["to"] for e in escapes(events)}[pid] == hierarchy_path(home)


def test_a_restart_waits_until_whoever_left_is_gone(daemon, home, tmp_path):
    restart = {"policy": "always", "max_restarts": 1, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0}
    script = (f"[ -e {tmp_path}/pid ] && {{ read p < {tmp_path}/pid; [ -e /proc/$p ] && touch {tmp_path}/beside; exec sleep 1000; }}; "
              f"sh -c '{ROOM}; echo $$ > {tmp_path}/pid; exec sleep 1000' & until [ -s {tmp_path}/pid ]; do sleep 0.02; done; exit 1")
    start(daemon, leaver("a", home, script, restart=restart), wait="running", grace_ms=300)
    assert eventually(lambda: {n["id"]: n["generation"] for n in daemon.status("flow")["nodes"]}["a"] == 2, 10)
    assert eventually(lambda: pid_of(daemon, "a"), 10)
    assert not (tmp_path / "beside").exists()


def test_nobody_is_looked_for_where_the_uid_keeps_everybody_in(open_daemon):  # noqa: F811
    daemon = open_daemon()
    as_user(NOBODY, lambda: start(daemon, program("a", "exec sleep 1000"), wait="running"))
    events = while_it_runs(daemon, 1, lambda: daemon.call("Stop", dataflow="flow"), lambda e: any(x.get("state") == "ended" for x in e))
    assert escapes(events) == []


def test_a_run_says_it_too(live, dataflow, script, home, nothing_left):
    leave = script("leave", f"echo $$ > {home}/cgroup.procs\nexec sleep 1000")
    run = live(dataflow({"nodes": [{"id": "a", "path": str(leave), "cgroup_writable": True}]}), "--grace-duration", "300ms", json=False)
    run.until("has left the cgroup of its node")
    run.process.send_signal(2)
    run.wait(15)
    nothing_left()
