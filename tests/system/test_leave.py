# SPDX-License-Identifier: Apache-2.0
"""Who leaves the cgroup of its node is seen by the kernel at that moment, told and ended: by a witness that nothing depends on."""

import json
import os
import pathlib
import re
import shutil
import signal
import time

import pytest
from conftest import eventually
from daemon import program
from lives import arguments_of, children_of, stat_of, status_field
from test_escape import escapes, hierarchy_path, start, while_it_runs

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/sys/kernel/btf/vmlinux"), reason="this kernel has no type information (BTF)"),
]

SEES = "is seen by the kernel"


def witnesses(daemon):
    return [p for p in children_of(daemon.process.pid) if "tidegate-witness" in arguments_of(p)[:1]]


def keeper_of(daemon, name):
    """The keeper whose dataflow's nodes are its children."""
    pids = {node["pid"] for node in daemon.status(name)["nodes"]}
    return next(p for p in children_of(daemon.process.pid) if "--role=keeper" in arguments_of(p) and pids & set(children_of(p)))


@pytest.fixture
def watched(build, start_daemon, tmp_path):
    """A daemon with a node that does nothing, and a witness whose probe is loaded."""
    if not (build / "bin/tidegate-witness").exists():
        pytest.skip("built without kernel probes")
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"})
    start(daemon, program("still", "exec sleep 1000"), name="quiet", wait="running", grace_ms=300)
    assert eventually(lambda: SEES in daemon.output() or "is looked for, not seen" in daemon.output(), 20), daemon.output()
    assert SEES in daemon.output(), daemon.output()
    return daemon


def leaver(home, script, id="a", **keys):
    return program(id, script.replace("$OUT", f"{home}/cgroup.procs"), cgroup_writable=True, **keys)


def members(home):
    return [int(p) for p in (home / "cgroup.procs").read_text().split()]


# Waits for a line in $GO (a FIFO): nothing happens before the test says so.
def at(path):
    return f"read _ < {path}"


@pytest.fixture
def go(tmp_path):
    path = tmp_path / "go"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def say(path):
    path.write_text("go\n")


def test_whoever_leaves_is_told_and_ended_at_that_moment_with_its_own_session_and_no_parent(watched, home, go):
    # First it makes itself nobody's: no look through /proc can know it any more.
    orphan = f"setsid sh -c 'sh -c \"{at(go)}; echo \\$\\$ > $OUT; exec sleep 1000\" & exit 0'"
    start(watched, leaver(home, f"{orphan}; exec sleep 1000"), wait="running", grace_ms=300)
    took = []

    def act():
        say(go)
        begin = time.monotonic()
        assert eventually(lambda: re.search(r"ESCAPE: .* was killed there", watched.output()), 5), watched.output()
        assert eventually(lambda: not members(home), 5), "it is ended while its dataflow runs"
        took.append(time.monotonic() - begin)

    events = while_it_runs(watched, 5, act, escapes)
    event, flow = escapes(events)[0], watched.status("flow")
    assert (event["node"], event["from"], event["to"]) == ("a", f"{flow['uuid']}/a.1", hierarchy_path(home)), event
    assert event["comm"] in ("sh", "sleep") and event["text"].endswith("and was killed there")
    # It has left the list of its cgroup, and may be on its way out yet; then somebody waits for it at any moment.
    assert eventually(lambda: (s := stat_of(event["pid"])) is None or s[0] == "Z", 5), stat_of(event["pid"])
    assert took[0] < 1, f"{took[0]:.3f} s"
    assert flow["nodes"][0]["state"] == "running", "its node runs on"
    assert len(escapes(events)) == 1


@pytest.mark.cgroup_only
def test_whom_it_forked_before_anybody_could_act_is_found_and_ended_too(watched, home, go, tmp_path):
    # Out, and then a child that shares nothing with it any more, while its keeper stands still.
    (tmp_path / "out").write_text(f"""{at(go)}
echo $$ > {home}/cgroup.procs
setsid sh -c 'sh -c "echo \\$\\$ > {tmp_path}/pid; exec sleep 1000" & exit 0'
exit 0
""")
    start(watched, leaver(home, f"sh {tmp_path}/out & exec sleep 1000", id="n" * 128), wait="running", grace_ms=300)
    stopped = keeper_of(watched, "flow")
    os.kill(stopped, signal.SIGSTOP)
    try:
        say(go)
        assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), 5)
        pid = int((tmp_path / "pid").read_text())
        assert eventually(lambda: members(home) == [pid], 5), "whoever left is gone, and its child is nobody's"
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert eventually(lambda: not members(home), 5), watched.output()
    assert eventually(lambda: f"ESCAPE: node {'n' * 128} of flow: process {pid} (" in watched.output(), 5), watched.output()  # its keeper kills, then tells
    assert watched.status("flow")["nodes"][0]["state"] == "running"


def test_what_a_node_that_manages_cgroups_places_elsewhere_is_told_and_left_alone(watched, home, go, tmp_path):
    script = f"sleep 1000 & {at(go)}; echo $! > $OUT; wait"
    start(watched, leaver(home, script), wait="running", grace_ms=300)
    events = while_it_runs(watched, 5, lambda: say(go), escapes)
    event = escapes(events)[0]
    assert event["text"].endswith("is left alone: its node may place others elsewhere"), event
    assert members(home) == [event["pid"]]
    # A look for others finds it, and it is left alone again: another node that leaves makes one.
    start(watched, leaver(home, "sh -c 'echo $$ > $OUT; exec sleep 1000' & exec sleep 1000", id="b"), name="other", wait="running", grace_ms=300)
    assert eventually(lambda: "ESCAPE: node b of other" in watched.output(), 5)
    assert eventually(lambda: members(home) == [event["pid"]], 5)


def test_the_witness_may_do_nothing(watched):
    (pid,) = witnesses(watched)
    assert status_field(pid, "Uid").split() == ["65534"] * 4 and status_field(pid, "Gid").split() == ["65534"] * 4
    assert [int(status_field(pid, name), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert status_field(pid, "NoNewPrivs") == "1" and status_field(pid, "Groups").split() == []
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max processes +0 +0 ", limits) and re.search(r"Max file size +0 +0 ", limits)
    names = {os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
    assert not [name for name in names if not name.startswith(("/dev/null", "socket:", "anon_inode:"))], names


@pytest.mark.cgroup_only
def test_a_witness_that_is_killed_is_missed_by_nobody_and_another_one_comes(watched, home, go):
    (pid,) = witnesses(watched)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: f"the witness (pid {pid}) is gone; another one in 1 s" in watched.output(), 5), watched.output()
    # Looking finds what looking can: the first process, when its cgroup is empty.
    events = while_it_runs(
        watched, 5, lambda: start(watched, leaver(home, "echo $$ > $OUT; exec sleep 1000"), name="looked", wait="running", grace_ms=300), escapes)
    assert escapes(events)[0]["text"].endswith("and is killed with it")
    assert eventually(lambda: watched.output().count(SEES) == 2, 10), watched.output()
    start(watched, leaver(home, f"sh -c '{at(go)}; echo $$ > $OUT; exec sleep 1000' & exec sleep 1000"), wait="running", grace_ms=300)
    events = while_it_runs(watched, 5, lambda: say(go), lambda events: [e for e in escapes(events) if e["text"].endswith("was killed there")])
    assert escapes(events), watched.output()
    assert watched.status("quiet")["nodes"][0]["state"] == "running" and watched.status("quiet")["nodes"][0]["generation"] == 1


def test_the_next_supervisor_has_a_witness_of_its_own(watched, home, go):
    (before,) = witnesses(watched)
    start(watched, leaver(home, f"sh -c '{at(go)}; echo $$ > $OUT; exec sleep 1000' & exec sleep 1000"), wait="running", grace_ms=300)
    os.kill(watched.supervisor(), signal.SIGKILL)
    assert eventually(lambda: watched.output().count(SEES) == 2, 10), watched.output()
    assert eventually(lambda: len(witnesses(watched)) == 1 and before not in witnesses(watched), 5)
    say(go)
    # It was born before this witness was there.
    assert eventually(lambda: re.search(r"ESCAPE: node a of flow: .* was killed there", watched.output()), 5), watched.output()


def test_a_daemon_without_the_program_says_so_and_looks(build, start_daemon, tmp_path, tidegate):
    alone = tmp_path / "bin"
    alone.mkdir()
    shutil.copy(build / "bin/tidegated", alone)
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=("sh", "-c", f'shift; exec {alone}/tidegated "$@"', "sh"))
    start(daemon, program("still", "exec sleep 1000"), wait="running", grace_ms=300)
    assert eventually(lambda: "looked for, not seen: there is no tidegate-witness beside tidegated" in daemon.output(), 5), daemon.output()


# A stranger in its place: what it says is of no use, or it says nothing.
STRANGER = """#!/usr/bin/python3
import os, socket, struct, sys, time
sock = socket.socket(fileno=int(sys.argv[1]))
layout = struct.Struct("=IHHQQiiiI16s16s160s160s256s")


def say(type, self=0, start=0, pid=0, mover=0, comm=b"", dataflow=b"", node=b"", to=b"", magic=0x54475731):
    sock.send(layout.pack(magic, type, self, start, 0, pid, mover, 0, 0, comm, b"", dataflow, node, to))


READY, MOVED, LOOKED = 16, 18, 21
"""


@pytest.fixture
def stranger(build, start_daemon, tmp_path):
    """Starts a daemon with a dataflow and a witness that does what the script says."""

    def start_it(script):
        alone = tmp_path / "bin"
        alone.mkdir()
        shutil.copy(build / "bin/tidegated", alone)
        (alone / "tidegate-witness").write_text(STRANGER + script)
        (alone / "tidegate-witness").chmod(0o755)
        daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=("sh", "-c", f'shift; exec {alone}/tidegated "$@"', "sh"))
        start(daemon, program("still", "exec sleep 1000"), wait="running", grace_ms=300)
        return daemon

    return start_it


@pytest.mark.parametrize(
    "script, why",
    [
        ("sys.exit(1)", "is gone"),
        ("sock.send(b'x' * 648)\ntime.sleep(1000)", "broke its protocol"),
        ("say(MOVED, pid=1, dataflow=b'x', node=b'still.1')\ntime.sleep(1000)", "broke its protocol"),
        ("say(READY)\nsay(READY)\ntime.sleep(1000)", "broke its protocol"),
        ("say(READY)\nsay(MOVED, pid=1, dataflow=b'a/b', node=b'still.1')\ntime.sleep(1000)", "broke its protocol"),
        ("say(READY)\nsay(MOVED, pid=1, dataflow=b'd' * 160, node=b'still.1')\ntime.sleep(1000)", "broke its protocol"),
    ],
    ids=["ends", "garbage", "before it is ready", "ready twice", "a path for a name", "a name without an end"],
)
def test_a_witness_of_no_use_is_replaced_and_nobody_notices(stranger, script, why):
    daemon = stranger(script)
    assert eventually(lambda: re.search(rf"the witness \(pid \d+\) {why}; another one in 1 s", daemon.output()), 10), daemon.output()
    node = daemon.status("flow")["nodes"][0]
    assert (node["state"], node["generation"]) == ("running", 1)


def test_a_witness_that_lies_ends_nobody_who_is_where_it_belongs(stranger, tmp_path):
    # The daemon's own guard, the node where it is, its pid with another beginning, a node and a dataflow that there are not.
    daemon = stranger(f"""
say(READY)
while not os.path.exists("{tmp_path}/lie"):
    time.sleep(0.02)
uuid, pid, start, guard, guard_start = open("{tmp_path}/lie").read().split()
for type in (MOVED, 19, 20):
    say(type, 1, int(start), int(pid), comm=b"\\xff", dataflow=uuid.encode(), node=b"still.1")
    say(type, 1, int(start) + 10**9, int(pid), dataflow=uuid.encode(), node=b"still.1")
    say(type, 1, int(start), int(pid), dataflow=uuid.encode(), node=b"still.2")
    say(type, 1, int(start), int(pid), dataflow=uuid.encode(), node=b"still.18446744073709551616")
    say(type, 1, int(start), int(pid), dataflow=uuid.encode(), node=b"nobody.1")
    say(type, 1, int(start), int(pid), dataflow=b"nothing", node=b"still.1")
sock.recv(1000)
say(LOOKED)
time.sleep(1000)
""")
    flow = daemon.status("flow")
    pid = flow["nodes"][0]["pid"]

    def start_of(pid):
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]) * 10**9 // os.sysconf("SC_CLK_TCK")

    def act():
        (tmp_path / "lie.new").write_text(f"{flow['uuid']} {pid} {start_of(pid)} {daemon.process.pid} {start_of(daemon.process.pid)}")
        (tmp_path / "lie.new").rename(tmp_path / "lie")

    events = while_it_runs(daemon, 5, act, lambda events: len(escapes(events)) >= 6)
    assert {e["text"].rsplit(", and ", 1)[1] for e in escapes(events)} == {"has ended or come back since"}, events
    assert eventually(lambda: "of nothing/still.1, which is not known" in daemon.output(), 5), daemon.output()
    assert daemon.status("flow")["nodes"][0]["pid"] == pid and daemon.status("flow")["nodes"][0]["state"] == "running"


@pytest.mark.skipif(not os.environ.get("TIDEGATE_LONG"), reason="waits for deadlines of 5 and 20 s: --long")
@pytest.mark.parametrize("script, why", [("time.sleep(1000)", "does not get its probe loaded"), ("say(READY)\ntime.sleep(1000)", "does not answer")])
def test_a_witness_that_hangs_is_replaced(stranger, script, why):
    daemon = stranger(script)
    start(daemon, program("more", "exec sleep 1000"), name="more", wait="running", grace_ms=300)  # it is asked for a look then
    assert eventually(lambda: f"{why}; another one in 1 s" in daemon.output(), 40), daemon.output()


def test_a_run_says_it_too(live, dataflow, script, home, nothing_left, build):
    if not (build / "bin/tidegate-witness").exists():
        pytest.skip("built without kernel probes")
    # A run does not tell when its witness is there: who leaves tries until it is ended.
    leave = script("leave", f"sh -c 'while :; do setsid sh -c \"echo \\$\\$ > {home}/cgroup.procs; exec sleep 0.3\"; done' & exec sleep 1000")
    run = live(dataflow({"nodes": [{"id": "a", "path": str(leave), "cgroup_writable": True}]}), "--grace-duration", "300ms", json=False, env={"TIDEGATE_PROBES": "on"})
    run.until("and was killed there")
    run.process.send_signal(2)
    run.wait(15)
    nothing_left()


@pytest.mark.cgroup_only
def test_without_the_privilege_it_says_so_and_looks(start_daemon):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=("setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin"))
    start(daemon, program("still", "exec sleep 1000"), wait="running", grace_ms=300)
    assert eventually(lambda: "looked for, not seen: load: no privilege for BPF" in daemon.output(), 10), daemon.output()
    assert eventually(lambda: witnesses(daemon) == [], 5), "it says so before it ends"


def test_doctor_says_which_it_would_be(build, tidegate):
    def said(**env):
        report = json.loads(tidegate("doctor", "--json", env={**os.environ, **env}).stdout)
        return next(p for p in report["probes"] if p["id"] == "bpf_leave")

    on, off = said(TIDEGATE_PROBES="on"), said(TIDEGATE_PROBES="off")
    if (build / "bin/tidegate-witness").exists():
        assert on["result"] == "yes" and "told of a process that left its cgroup" in on["evidence"], on
    else:
        assert on["result"] == "no" and "built without kernel probes" in on["evidence"], on
    assert off["result"] == "no" and "turned off" in off["evidence"] and "looked for through /proc" in off["without"], off


def test_none_is_started_when_it_is_turned_off(start_daemon):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "off"})
    start(daemon, program("still", "exec sleep 1000"), wait="running", grace_ms=300)
    assert witnesses(daemon) == [] and SEES not in daemon.output() and "not seen" not in daemon.output()
