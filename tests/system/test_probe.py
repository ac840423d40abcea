# SPDX-License-Identifier: Apache-2.0
"""What nodes do in the kernel is counted while somebody asks, exactly, and nothing is attached when nobody does."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
from client import Client, ControlError
from conftest import eventually
from daemon import plan, program
from lives import arguments_of, children_of, status_field
from test_escape import start

PYTHON = "/usr/bin/python3"
BPFTOOL = shutil.which("bpftool", path=f"{os.environ['PATH']}:/usr/sbin")
COUNTED = "are counted by the kernel"

needs_bpf = [
    pytest.mark.cgroup_only,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/sys/kernel/btf/vmlinux"), reason="this kernel has no type information (BTF)"),
]


def probers(daemon):
    return [p for p in children_of(daemon.process.pid) if "tidegate-prober" in arguments_of(p)[:1]]


def programs_of(pid):
    """The kernel's numbers of the programs that a prober has attached."""
    text = "".join(p.read_text() for p in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir() if p.exists())
    return {int(number) for number in re.findall(r"^prog_id:\s*(\d+)", text, re.M)}


def loaded(numbers):
    said = json.loads(subprocess.run([BPFTOOL, "-j", "prog", "show"], capture_output=True, timeout=20, check=True).stdout)
    return numbers & {p["id"] for p in said}


@pytest.fixture
def probed(build, start_daemon):
    if not (build / "bin/tidegate-prober").exists():
        pytest.skip("built without kernel probes")
    return start_daemon(env={"TIDEGATE_PROBES": "on"})


# Does what it is told, a line at a time, and says so: "getppid 1000" is a thousand calls, by no library that knows the answer.
OBEDIENT = f"""exec {PYTHON} -c '
import ctypes
libc = ctypes.CDLL(None)
numbers = dict(getppid=110, close=3)
while True:
    with open("$DIR/order") as f:
        name, n = f.read().split()  # closed before it is done: what comes into an end that is about to be closed is lost
    for _ in range(int(n)):
        if name == "sleep":
            libc.usleep(5000)
        else:
            libc.syscall(numbers[name], -1)
    with open("$DIR/done", "w") as f:
        f.write("done")
'"""


class Obedient:
    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        os.mkfifo(directory / "order")
        os.mkfifo(directory / "done")

    def program(self, id="a", **keys):
        return program(id, OBEDIENT.replace("$DIR", str(self.directory)), **keys)

    def do(self, *order):
        (self.directory / "order").write_text(" ".join(map(str, order)) + "\n")
        assert (self.directory / "done").read_text() == "done"


@pytest.fixture
def obedient(tmp_path):
    return Obedient(tmp_path / "obedient")


def watch(daemon, name="flow", **parameters):
    """A client that sees it, once it is attached."""
    client = daemon.client()
    client.send("Probe", more=True, dataflow=name, interval_ms=parameters.pop("interval_ms", 100), **parameters)
    assert next_reply(client, lambda probes: probes["attached"])["reason"] is None
    return client


def next_reply(client, accept=lambda probes: True, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        probes = client.reply()[0]["probes"]
        probes.setdefault("reason", None)
        if accept(probes):
            return probes
    raise AssertionError(f"it did not come: {probes}")


def calls_of(probes, node="a"):
    return {call["call"]: call for n in probes["nodes"] if n["node"] == node for call in n["calls"]}


def once(daemon, **parameters):
    return daemon.call("Probe", dataflow="flow", **parameters)["probes"]


def count(probes, call, node="a"):
    return calls_of(probes, node).get(call, {"count": 0})["count"]


class TestAttached:
    pytestmark = needs_bpf

    def test_counts_between_two_looks_are_exact_and_times_are_those_of_the_calls(self, probed, obedient):
        start(probed, obedient.program(), wait="running", grace_ms=300)
        watch(probed)
        before = once(probed)
        obedient.do("getppid", 5000)
        obedient.do("close", 300)
        obedient.do("sleep", 20)
        after = once(probed)
        assert count(after, "getppid") - count(before, "getppid") == 5000
        calls = calls_of(after)
        assert calls["close"]["errors"] - calls_of(before).get("close", {"errors": 0})["errors"] == 300
        for call in calls.values():
            assert sum(call["log2_ns"]) == call["count"] and call["log2_ns"][-1] > 0, call
        # None of them was shorter than 5 ms: 2^22 ns are 4.2 ms, and 2^21 are 2.1.
        slept = calls["clock_nanosleep"]
        assert (slept["count"], sum(slept["log2_ns"][22:])) == (20, 20) and slept["total_ns"] >= 20 * 5_000_000, slept
        cost = after["cost"]
        assert 0 < cost["call_ns"] < 20_000 and cost["other_call_ns"] < 20_000 and cost["load_ms"] > 0, cost
        assert cost["budget"] == 0.03

    def test_who_is_in_which_call_now_and_for_how_long_is_told(self, probed):
        start(probed, program("a", "exec sleep 1000"), wait="running", grace_ms=300)
        client = watch(probed)
        # It has entered it before it was watched, or since: a signal that does nothing to it has it enter it again.
        pid = probed.status("flow")["nodes"][0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        assert eventually(lambda: status_field(pid, "State").startswith("T"), 10)
        os.kill(pid, signal.SIGCONT)
        asleep = next_reply(client, lambda probes: calls_of(probes).get("restart_syscall", calls_of(probes).get("clock_nanosleep", {})).get("now"))
        call = next(c for c in calls_of(asleep).values() if c.get("now"))
        assert call["now"] == 1
        later = next_reply(client, lambda probes: next((c for c in calls_of(probes).values() if c.get("now")), call)["now_longest_ns"] > call["now_longest_ns"])
        assert later["nodes"][0]["generation"] == 1

    def test_why_tells_for_how_long_who_waits_is_in_its_call(self, build, probed):
        start(probed, program("a", "exec sleep 1000"), wait="running", grace_ms=300)
        client = watch(probed)

        def why():
            return probed.call("Why", dataflow="flow", node="a")["why"]

        assert "since_ms" not in why()["threads"][0], "that call began before anybody counted"
        began = time.monotonic()
        probed.call("RestartNode", dataflow="flow", node="a")
        assert eventually(lambda: "since_ms" in why()["threads"][0], 10)
        counted = next_reply(client, lambda probes: calls_of(probes).get("clock_nanosleep", {}).get("now"))
        said = why()
        (thread,) = said["threads"]
        longest = calls_of(once(probed))["clock_nanosleep"]["now_longest_ns"] / 1e6
        assert thread["syscall"] == "clock_nanosleep"
        assert calls_of(counted)["clock_nanosleep"]["now_longest_ns"] / 1e6 - 1 <= thread["since_ms"] <= longest <= (time.monotonic() - began) * 1000
        assert thread["since_ms"] >= thread["still_ms"] > 0
        shown = subprocess.run([build / "bin/tidegate", "why", "--runtime-dir", probed.runtime, "flow:a"], capture_output=True, text=True, timeout=20).stdout
        assert re.search(r"^ +in this call for \d+\.\d{3} s$", shown, re.M), shown

    def test_a_life_counts_from_0_from_its_beginning_and_is_shown_until_the_next_begins(self, probed, obedient):
        start(probed, obedient.program(), program("still", "exec sleep 1000"), wait="running", grace_ms=300)
        client = watch(probed)
        obedient.do("getppid", 1000)
        assert count(once(probed), "getppid") == 1000
        probed.call("StopNode", dataflow="flow", node="a")
        ended = once(probed, node="a")["nodes"][0]
        assert ended["generation"] == 1 and {c["call"]: c["count"] for c in ended["calls"]}["getppid"] == 1000
        probed.call("RestartNode", dataflow="flow", node="a")
        obedient.do("getppid", 0)
        begun = count(once(probed), "getppid")
        assert begun < 10, "its shell makes one"
        obedient.do("getppid", 10)
        second = once(probed)
        assert next(n["generation"] for n in second["nodes"] if n["node"] == "a") == 2 and count(second, "getppid") == begun + 10
        client.close()

    def test_what_is_attached_is_there_for_whoever_asks_and_gone_with_the_last_of_them(self, probed, obedient):
        start(probed, obedient.program(), wait="running", grace_ms=300)
        assert probers(probed) == [] and once(probed)["reason"] == "nobody has asked for it"
        first, second = watch(probed), watch(probed, node="a")
        (pid,) = probers(probed)
        numbers = programs_of(pid)
        assert numbers and (not BPFTOOL or loaded(numbers) == numbers)
        obedient.do("getppid", 7)
        first.close()
        assert next_reply(second, lambda probes: count(probes, "getppid") == 7)["attached"]
        second.close()
        assert eventually(lambda: not probers(probed), 10), "nobody looks any more"
        assert not BPFTOOL or eventually(lambda: not loaded(numbers), 10)
        assert not once(probed)["attached"]

    def test_nothing_is_left_in_the_kernel_when_the_supervisor_dies_and_its_successor_attaches_for_who_asks(self, probed, obedient):
        start(probed, obedient.program(), wait="running", grace_ms=300)
        client = watch(probed)
        (pid,) = probers(probed)
        numbers = programs_of(pid)
        os.kill(pid, signal.SIGSTOP)  # it does not even see that its supervisor is gone
        os.kill(probed.supervisor(), signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionResetError)):
            next_reply(client, lambda probes: False)
        assert eventually(lambda: pid not in probers(probed), 10)
        assert not BPFTOOL or eventually(lambda: not loaded(numbers), 10)
        assert eventually(lambda: "adopted 1, lost 0" in probed.output(), 10), probed.output()
        again = watch(probed)
        before = count(next_reply(again), "getppid")
        obedient.do("getppid", 21)
        assert count(once(probed), "getppid") - before == 21, "the life that another supervisor has begun"

    def test_a_prober_that_is_killed_is_told_and_replaced(self, probed, obedient):
        start(probed, obedient.program(), wait="running", grace_ms=300)
        client = watch(probed)
        events = probed.client()
        events.send("Events", more=True, dataflow="flow")
        assert once(probed)["attached"]  # the call above was read
        (pid,) = probers(probed)
        os.kill(pid, signal.SIGKILL)
        gone = next_reply(client, lambda probes: not probes["attached"])
        assert gone["reason"] == "tidegate-prober is gone" and gone["nodes"] == []
        event = events.reply()[0]["event"]
        assert (event["type"], event["text"]) == ("probe-detached", "tidegate-prober is gone")
        assert next_reply(client, lambda probes: probes["attached"])["nodes"]

    def test_the_prober_may_do_nothing(self, probed, obedient):
        start(probed, obedient.program(), wait="running", grace_ms=300)
        watch(probed)
        (pid,) = probers(probed)
        assert status_field(pid, "Uid").split() == ["65534"] * 4 and status_field(pid, "Gid").split() == ["65534"] * 4
        assert [int(status_field(pid, name), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
        assert status_field(pid, "NoNewPrivs") == "1" and status_field(pid, "Groups").split() == []
        names = {os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
        assert not [name for name in names if not name.startswith(("/dev/null", "socket:", "anon_inode:"))], names

    def test_what_others_who_are_nobody_have_on_its_way_does_not_keep_it_from_handing_over(self, probed, obedient):
        """The kernel holds what all processes of a user have sent, and nobody has taken, against each sender's limit of open files."""
        hold = "import os, socket, sys\nos.setgid(65534), os.setuid(65534)\npairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(8)]\n"
        hold += "for a, b in pairs:\n    for _ in range(25):\n        socket.send_fds(a, [b'x'], [0])\nprint('sent', flush=True)\nsys.stdin.read()"
        with subprocess.Popen([PYTHON, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            try:
                assert other.stdout.readline() == "sent\n"
                start(probed, obedient.program(), wait="running", grace_ms=300)
                watch(probed)
            finally:
                other.stdin.close()

    @pytest.mark.skipif(not os.environ.get("TIDEGATE_LONG"), reason="4 s; tests/supervisor/test_prober has the rule")
    def test_who_costs_more_than_it_may_is_watched_no_more_until_somebody_asks_anew(self, probed):
        busy = f"exec {PYTHON} -c 'import os\nwhile True: os.getppid()'"
        start(probed, program("a", busy), program("still", "exec sleep 1000"), wait="running", grace_ms=300)
        events = probed.client()
        events.send("Events", more=True, dataflow="flow")
        client = watch(probed, budget=0.001)
        over = next_reply(client, lambda probes: not probes["attached"])
        assert re.fullmatch(r"counting its system calls took [\d.]+ % of a CPU for 3 s; the budget is 0.1 %", over["reason"]), over
        event = events.reply()[0]["event"]
        assert (event["type"], event["text"]) == ("probe-detached", over["reason"])
        assert eventually(lambda: not probers(probed), 10)
        assert next_reply(client)["attached"] is False, "it is not attached again by itself"
        assert watch(probed, budget=50) and once(probed)["cost"]["budget"] == 50

    def test_a_dataflow_that_says_so_is_counted_while_it_lives(self, probed, obedient):
        with Client(probed.socket) as client:
            flow = {**plan(obedient.program(), name="flow"), "probes": {"calls": True, "budget": 12.5}}
            assert list(client.stream("Start", plan=flow, wait="running", grace_ms=300))[-1]["state"] == "running"
        assert eventually(lambda: once(probed)["attached"], 20), probed.output()
        before = count(once(probed), "getppid")
        obedient.do("getppid", 13)
        seen = once(probed)
        assert count(seen, "getppid") - before == 13 and seen["cost"]["budget"] == 0.125
        watch(probed, budget=0.5).close()
        assert eventually(lambda: once(probed)["cost"]["budget"] == 0.125, 5), "a call's budget is its own"
        probed.call("Stop", dataflow="flow")
        assert eventually(lambda: not probers(probed), 10)

    def test_the_last_counts_of_a_dataflow_that_ends_are_told(self, probed, obedient):
        start(probed, obedient.program(), wait="running", grace_ms=300)
        client = watch(probed)
        obedient.do("getppid", 77)
        probed.call("Stop", dataflow="flow")
        *_, last = client.replies()
        assert count(last["probes"], "getppid") == 77
        with pytest.raises(ControlError) as e:
            once(probed)
        assert e.value.error == "NotRunning"
        assert eventually(lambda: not probers(probed), 10)


# Without a probe

STILL = program("a", "exec sleep 1000")


NONSENSE = f"""exec {PYTHON} -c 'import os, sys, time
os.write(int(sys.argv[1]), b"nonsense")
time.sleep(1000)' $1"""


def alone(build, tmp_path, script=None):
    """A tidegated with another program in the prober's place, or none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(build / "bin/tidegated", folder)
    if script:
        (folder / "tidegate-prober").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "tidegate-prober").chmod(0o755)
    return ("sh", "-c", f'shift; exec {folder}/tidegated "$@"', "sh")


def refused(daemon):
    client = daemon.client()
    client.send("Probe", more=True, dataflow="flow", interval_ms=100)
    probes = next_reply(client)
    assert not probes["attached"]
    return probes["reason"]


def test_turned_off_it_says_so(start_daemon):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "off"})
    start(daemon, STILL, wait="running", grace_ms=300)
    wanted = "turned off (TIDEGATE_PROBES=off" if os.geteuid() == 0 else "turned off"
    assert wanted in refused(daemon)


def test_a_daemon_without_the_program_says_so(build, start_daemon, tmp_path):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=alone(build, tmp_path))
    start(daemon, STILL, wait="running", grace_ms=300)
    assert re.search("there is no tidegate-prober beside tidegated|need a supervisor of root's|have no cgroup", refused(daemon))


@pytest.mark.cgroup_only
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_the_privilege_it_says_so(build, start_daemon):
    if not (build / "bin/tidegate-prober").exists():
        pytest.skip("built without kernel probes")
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=("setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin"))
    start(daemon, STILL, wait="running", grace_ms=300)
    client = daemon.client()
    client.send("Probe", more=True, dataflow="flow", interval_ms=100)
    assert "load: no privilege for BPF" in next_reply(client, lambda probes: "attached just now" not in probes["reason"] and "being" not in probes["reason"])["reason"]


@pytest.mark.cgroup_only
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_prober_that_hangs_holds_up_nobody(build, start_daemon, tmp_path):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=alone(build, tmp_path, "exec sleep 1000"))
    start(daemon, STILL, wait="running", grace_ms=300)
    client = daemon.client()
    client.send("Probe", more=True, dataflow="flow", interval_ms=100)
    for _ in range(3):
        assert next_reply(client)["reason"] == "it is being attached"
    start(daemon, program("b", "exec sleep 1000"), name="other", wait="running", grace_ms=300)
    client.close()
    assert eventually(lambda: not [p for p in children_of(daemon.process.pid) if arguments_of(p)[:2] == ["sleep", "1000"]], 10), "nobody waits for it any more"


@pytest.mark.cgroup_only
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("script, why", [("exit 1", "is gone"), (NONSENSE, "broke its protocol")])
def test_one_that_fails_is_tried_again(build, start_daemon, tmp_path, script, why):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"}, prefix=alone(build, tmp_path, script))
    start(daemon, STILL, wait="running", grace_ms=300)
    client = daemon.client()
    client.send("Probe", more=True, dataflow="flow", interval_ms=100)
    assert next_reply(client, lambda probes: probes["reason"] != "it is being attached")["reason"] == f"tidegate-prober {why}"
    assert f"tidegate-prober {why} (pid " in daemon.output() and "another one in 1 s" in daemon.output()


def test_what_cannot_be_asked_is_refused(daemon):
    start(daemon, STILL, wait="running", grace_ms=300)
    for wrong in ({"budget": 0}, {"budget": 1000}, {"interval_ms": 5}, {"node": 7}):
        with pytest.raises(ControlError) as e:
            once(daemon, **wrong)
        assert e.value.error == "InvalidParameter", wrong
    with pytest.raises(ControlError) as e:
        once(daemon, node="nobody")
    assert e.value.error == "NoSuchNode"
    with Client(daemon.socket) as client, pytest.raises(ControlError) as e:
        client.call("Probe", dataflow="none")
    assert e.value.error == "NoSuchDataflow"


def test_a_run_says_that_nobody_could_ask(run_tidegate, dataflow):
    run = run_tidegate("run", dataflow({"probes": True, "nodes": [{"id": "a", "path": "/bin/true"}]}), env={"TIDEGATE_PROBES": "off"})
    assert "probes need the daemon" in run.output()


@pytest.mark.parametrize("wrong", [True, {}, {"calls": False}, {"calls": False, "queues": False}, {"calls": True, "budget": 0}, {"calls": True, "budget": "3"}])
def test_a_plan_that_asks_for_something_else_is_refused(daemon, wrong):
    with Client(daemon.socket) as client, pytest.raises(ControlError) as e:
        client.call("Start", plan={**plan(STILL, name="flow"), "probes": wrong})
    assert e.value.error == "InvalidPlan" and "probes" in e.value.parameters["text"]


# The command


class TestCommand:
    pytestmark = needs_bpf

    def test_it_shows_what_was_counted_while_it_ran_and_writes_a_page(self, build, probed, obedient, tmp_path):
        start(probed, obedient.program(), program("still", "exec sleep 1000"), wait="running", grace_ms=300)
        watch(probed)  # somebody else, for whom more was counted
        obedient.do("getppid", 500)
        env = {**os.environ, "TIDEGATE_RUNTIME_DIR": str(probed.runtime), "LC_ALL": "C.UTF-8"}
        page = tmp_path / "page.html"
        command = subprocess.Popen([build / "bin/tidegate", "probe", "flow", "--for", "1h", "--budget", "77", "--report", page], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert eventually(lambda: once(probed)["cost"]["budget"] == 0.77, 20), "what is counted from here on is after its first look"
        obedient.do("getppid", 42)
        obedient.do("close", 9)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=20)
        assert command.returncode == 0 and err == "", err
        assert re.search(r"^flow: system calls in [\d.]+ s\nCounting took [\d.]+ % of a CPU \(budget 77 %\): \d+ ns a call", out), out
        row = re.search(r"^  getppid +42 +0 +\d+ns +\S+ +\S+ +\S+ .*█", out, re.M)
        assert row, out
        assert int(re.search(r"^  close +(\d+) +\d", out, re.M)[1]) >= 9 and "\nstill, generation 1\n" in out
        assert max(map(len, out.splitlines())) <= 100
        html = page.read_text()
        assert html.startswith("<!doctype html>") and html.endswith("</html>\n") and "<td>getppid</td><td>42</td>" in re.sub("<br>.*?</span>", "", html)
        assert "<script" not in html and "http" not in html

    def test_a_node_as_json_without_a_terminal(self, probed, obedient, tidegate):
        start(probed, obedient.program(), program("still", "exec sleep 1000"), wait="running", grace_ms=300)
        done = tidegate("probe", "flow:a", "--for", "200ms", "--budget", "50%", "--json", "--runtime-dir", probed.runtime)
        said = json.loads(done.stdout)
        assert (done.returncode, [n["node"] for n in said["nodes"]], said["cost"]["budget"]) == (0, ["a"], 0.5), done
        assert 150 <= said["for_ms"] < 20_000
        alone = json.loads(tidegate("probe", "still", "--for", "10ms", "--json", "--runtime-dir", probed.runtime).stdout)
        assert ([n["node"] for n in alone["nodes"]], alone["dataflow"]) == (["still"], "flow"), "the only one that has it"
        assert not probers(probed) or eventually(lambda: not probers(probed), 10)


# It is looked at instead


BUSY = f"exec {PYTHON} -c 'while True: pass'"


def test_where_nothing_can_be_counted_threads_are_looked_at(daemon, tidegate):
    reads = f"{PYTHON} -c 'import os, threading\nr, w = os.pipe()\nfor _ in range(2): threading.Thread(target=lambda: os.read(r, 1)).start()\nos.read(r, 1)'"
    start(daemon, program("reads", f"exec {reads}"), program("busy", BUSY), wait="running", grace_ms=300)
    client = daemon.client()
    client.send("Probe", more=True, dataflow="flow", interval_ms=100)

    def enough(probes):
        seen = {n["node"]: n["sampled"] for n in probes["nodes"]}
        # Of three threads each look finds three in read, once the interpreter has come so far.
        reading = [c["samples"] for c in seen.get("reads", {"calls": []})["calls"] if c["call"] == "read"]
        return reading and reading[0] >= 9 and seen["busy"]["outside"] > 0 and seen

    probes = next_reply(client, enough)
    assert not probes["attached"] and all(n["calls"] == [] for n in probes["nodes"])
    for sampled in enough(probes).values():
        assert sampled["threads"] == sampled["outside"] + sampled["other"] + sum(c["samples"] for c in sampled["calls"]), sampled
        assert sampled["looks"] > 0 and sampled["unseen"] == 0
    done = tidegate("probe", "--for", "400ms", "--runtime-dir", daemon.runtime, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0 and "tidegate probe: nothing is counted: kernel probes" in done.stderr, done
    assert re.search(r"^  read +(8|9|100)[\d.]* %  ##########", done.stdout, re.M) and re.search(r"^  in none +[\d.]+ %", done.stdout, re.M), done.stdout
    assert "What is lost: how many calls" in done.stdout
    client.close()
    assert eventually(lambda: once(daemon)["nodes"] == [], 5), "nobody looks when nobody asks"


@pytest.mark.parametrize("wrong, said", [(["--for", "soon"], "span of time"), (["--budget", "much"], "percentage"), (["a", "b"], "unexpected argument"), (["--for", "0"], "span")])
def test_what_the_command_cannot_read_it_names(tidegate, wrong, said):
    done = tidegate("probe", *wrong)
    assert done.returncode == 2 and said in done.stderr


def test_of_nothing_that_runs_there_is_nothing_to_see(daemon, tidegate):
    assert tidegate("probe", "none", "--runtime-dir", daemon.runtime).returncode == 4


def not_tried(said):
    """An ordinary user whose session lets him make no cgroup has nowhere to try it."""
    return os.geteuid() != 0 and (said["result"], said["evidence"]) == ("skipped", "not tried: no cgroup of our own to try it in")


def test_doctor_says_whether_it_can_be_had(build, tidegate):
    def said(**env):
        report = json.loads(tidegate("doctor", "--json", env={**os.environ, **env}).stdout)
        return next(p for p in report["probes"] if p["id"] == "bpf_calls")

    on, off = said(TIDEGATE_PROBES="on"), said(TIDEGATE_PROBES="off")
    if (build / "bin/tidegate-prober").exists() and os.geteuid() == 0 and os.path.exists("/sys/kernel/btf/vmlinux"):
        assert on["result"] == "yes" and re.search("counted 100 of 100 calls; [1-9][0-9]* ns a call", on["evidence"]), on
    else:
        assert on["result"] == "no" or not_tried(on), on
    assert not_tried(off) or (off["result"] == "no" and "turned off" in off["evidence"]), off
    assert "no counts, no errors, no times" in off["without"], off
