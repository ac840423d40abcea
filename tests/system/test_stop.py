# SPDX-License-Identifier: Apache-2.0
"""A stop always ends, by a deadline known beforehand, and leaves nobody: whatever nodes, terminal or reader do."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
from conftest import MARK, eventually, marked_processes
from lives import SLACK, Process, arguments_of, cgroups_in, children_of, stat_of

STUBBORN = "trap '' TERM INT HUP\necho ready\nexec sleep 1000"
BUDGET = 2.0  # what a stop gets after the SIGKILL


def programs(**paths):
    return {"nodes": [{"id": id, "path": str(path)} for id, path in paths.items()]}


def until_ready(run, n):
    """@n processes have printed it; the word is in events too."""
    assert eventually(lambda: run.stdout.read_text().count('"text":"ready"') >= n, 20), run.output()


@pytest.fixture
def helpers(build):
    """Programs of the kernel tests, built where Criterion is there."""
    path = build / "tests/supervisor"
    if not (path / "tree").exists():
        pytest.skip("tests/supervisor/tree is not built (needs Criterion)")
    return path


# The ladder


@pytest.mark.each_enforcer
@pytest.mark.sanitized
def test_a_tree_of_200_that_ignores_sigterm_ends_in_time_and_whole(helpers, dataflow, live, nothing_left):
    flow = dataflow({"nodes": [
        {"id": "tree", "path": f"{helpers}/tree", "args": "200"},
        {"id": "headless", "path": f"{helpers}/headless"},
    ]})  # fmt: skip
    run = live(flow, "--stop-after", "2s", "--grace-duration", "1s").wait(30)
    result = run.result()
    assert result["left"] == 0
    assert result["killed"] >= 201
    assert 1.0 <= result["stop_ms"] / 1000 <= 1.5 + BUDGET
    assert nothing_left() < 1.0
    assert run.status == 1, "nodes that had to be killed did not succeed"


@pytest.mark.each_enforcer
@pytest.mark.sanitized
def test_a_child_that_ignores_sigterm_is_ended_though_its_leader_left_at_once(script, dataflow, live, nothing_left):
    child = script("child", STUBBORN)
    leader = script("leader", f"trap 'exit 0' TERM\n{child} &\nwhile :; do wait; done")
    run = live(dataflow(programs(leader=leader)), "--grace-duration", "600ms")
    run.until('"text":"ready"')
    run.process.send_signal(signal.SIGINT)
    run.wait(15)
    assert run.node("leader")["exit"] == {"code": "exited", "status": 0}
    assert run.node("leader")["killed"] and run.result()["left"] == 0
    assert run.result()["stop_ms"] / 1000 <= 0.9 + BUDGET
    assert run.status == 1
    nothing_left()


@pytest.mark.sanitized
def test_a_tree_whose_middle_dies_first_is_ended_whole(script, dataflow, live, nothing_left):
    grandchild = script("grandchild", STUBBORN)
    middle = script("middle", f"trap 'echo left; exit' TERM\n{grandchild} &\nsetsid {grandchild} &\nwait")
    leader = script("leader", f"{middle} &\ntrap '' TERM\necho ready\nwhile :; do sleep 1000; done")  # in this order: what is ignored is inherited
    run = live(dataflow(programs(leader=leader)), "--grace-duration", "1s")
    until_ready(run, 3)
    run.process.send_signal(signal.SIGTERM)
    run.wait(15)
    assert '"text":"left"' in run.stdout.read_text(), "the one in the middle"
    assert run.result()["left"] == 0 and run.result()["killed"] >= 3
    nothing_left()


@pytest.mark.sanitized
@pytest.mark.parametrize("stubborn", [False, True])
def test_children_that_a_program_leaves_behind_do_not_outlive_it(stubborn, script, dataflow, live, nothing_left):
    child = script("child", STUBBORN if stubborn else "echo ready\nexec sleep 1000")
    leader = script("leader", f"{child} &\nsetsid {child} &\nwhile [ ! -e go ]; do sleep 0.01; done")
    run = live(dataflow(programs(leader=leader)), "--grace-duration", "600ms" if stubborn else "20s")  # half of it from their SIGTERM on
    until_ready(run, 2)
    (leader.parent / "go").touch()
    run.wait(15)
    assert run.node("leader")["exit"] == {"code": "exited", "status": 0}
    assert run.result()["left"] == 0
    assert run.status == 0, "the program itself ended well"
    assert any("left processes behind" in n["text"] for n in run.result()["notes"]) == stubborn
    nothing_left()


@pytest.mark.sanitized
def test_sigstopped_programs_wake_up_for_sigterm(script, dataflow, live, nothing_left):
    frozen = script("frozen", "echo ready\nkill -STOP $$")
    run = live(dataflow(programs(frozen=frozen)), "--grace-duration", "20s")
    run.until('"text":"ready"')
    pid = run.until_event(type="node", to="running", node="frozen")["pid"]
    assert eventually(lambda: stat_of(pid)[0] == "T", 10)
    run.process.send_signal(signal.SIGINT)
    run.wait(15)
    assert run.result()["killed"] == 0, "SIGTERM and SIGCONT ended it long before the kill"
    assert run.status == 0
    nothing_left()


@pytest.mark.sanitized
def test_sigstopped_nodes_that_cannot_hear_their_stop_event_are_ended(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    flow = dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "1000", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "beat/out"}},
    ]})  # fmt: skip
    run = live(flow, "--grace-duration", "500ms")
    run.until_event(type="dataflow", state="running")
    for id in ("beat", "hear"):
        node = Process(run.until_event(type="node", to="running", node=id)["pid"])
        node.send(signal.SIGSTOP)
        node.close()
    run.process.send_signal(signal.SIGINT)
    run.wait(15)
    assert run.result()["left"] == 0 and run.result()["stop_ms"] / 1000 <= 0.75 + BUDGET
    nothing_left()


@pytest.mark.sanitized
def test_an_escaped_grandchild_that_holds_stdout_open_holds_up_nobody(script, dataflow, live, home, traces):
    runaway = script("runaway", f"echo 0 >{home}/cgroup.procs\necho away\nexec sleep 1000")
    leader = script("leader", f"{runaway} &\nwhile [ ! -e go ]; do sleep 0.01; done\necho bye")
    flow = {"nodes": [{"id": "leader", "path": str(leader), "cgroup_writable": True}]}
    run = live(dataflow(flow))
    run.until("away")
    (leader.parent / "go").touch()
    run.wait(15)
    try:
        assert run.seconds < 15 and run.status == 0
        assert "bye" in run.output(), "what was printed before the end is shown"
        assert cgroups_in(home) == []
    finally:
        for pid in marked_processes(traces.mark):
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not marked_processes(traces.mark), 5)


@pytest.mark.sanitized
def test_an_unkillable_process_is_named_in_the_verdict(helpers, script, dataflow, live, home, traces):
    victim = script("victim", "trap '' TERM\necho ready\nwhile :; do sleep 1000; done")
    run = live(dataflow(programs(victim=victim)), "--grace-duration", "300ms")
    run.until('"text":"ready"')
    pid = run.until_event(type="node", to="running")["pid"]
    with subprocess.Popen([helpers / "undying", "--trace", str(pid)], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout.readline() == "ready\n"
            run.process.send_signal(signal.SIGINT)
            run.wait(20)
            assert run.status == 3
            result = run.result()
            assert result["left"] == 1 and not result["success"]
            assert result["stop_ms"] / 1000 <= 0.45 + BUDGET + 0.3 + SLACK
            victim = run.node("victim")
            assert str(pid) in victim["left"], "the verdict names who is left"
            assert (victim["verdict"], result["verdict"], victim["n_tasks"]) == ("unkillable-traced",) * 2 + (1,)
            (task,) = victim["tasks"]
            assert (task["pid"], task["tid"], task["state"], task["verdict"]) == (pid, pid, "t", "unkillable-traced")
            assert (task["tracer"], task["tracer_comm"]) == (tracer.pid, "undying")
            assert task["still_ms"] > 1000, "it was looked at when it was killed, and again at the end of the budget"
            verdict = next(e for e in result["ledger"] if e["rung"] == "verdict")
            assert (verdict["node"], verdict["result"], verdict["count"], verdict["tasks"]) == ("victim", victim["verdict"], 1, [task])
        finally:
            tracer.kill()
    assert eventually(lambda: not marked_processes(traces.mark), 5), "it died once its tracer let it"
    # What could not be removed then is removed by the next run.
    again = live(dataflow(programs(short="true"), "short.yml")).wait(15)
    assert again.status == 0
    assert cgroups_in(home) == []


# When


@pytest.mark.sanitized
def test_a_stop_during_backoff_is_done_at_once(script, dataflow, live, nothing_left):
    flow = dataflow({"nodes": [{
        "id": "crashing", "path": str(script("crashing", "exit 7")), "restart_policy": "always", "restart_delay": 1000.0,
    }]})  # fmt: skip
    run = live(flow)
    run.until_event(type="node", to="backoff")
    run.process.send_signal(signal.SIGINT)
    run.wait(15)
    assert run.node("crashing")["state"] == "stopped"
    assert run.result()["stop_ms"] < 1000
    nothing_left()


@pytest.mark.sanitized
def test_a_stop_while_nodes_still_start_ends_them(script, build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    flow = dataflow({"nodes": [
        {"id": "silent", "path": str(script("silent", "echo ready\nexec sleep 1000")), "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "silent/out"}},
    ]})  # fmt: skip
    run = live(flow, "--grace-duration", "5s")
    run.until('"text":"ready"')
    run.process.send_signal(signal.SIGINT)
    run.wait(15)
    assert run.result()["left"] == 0
    assert run.result()["stop_ms"] < 4000, "SIGTERM came at once to who cannot hear a stop event"
    nothing_left()


@pytest.mark.sanitized
@pytest.mark.parametrize("signals", [1, 2, 3])
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_ctrl_c_in_the_first_moments_is_not_lost(signals, delay, script, dataflow, live, nothing_left):
    grace = "400ms" if signals == 1 else "1h"
    run = live(dataflow(programs(a=script("a", STUBBORN), b=script("b", STUBBORN))), "--grace-duration", grace)
    # Signals only count once the command blocks them: before that SIGINT ends it, as it does any program.
    eventually(lambda: not run.stdout.exists() or _sigint_is(run.process.pid, "SigBlk"), 10, step=0.0005)
    time.sleep(delay)
    for _ in range(signals):
        run.process.send_signal(signal.SIGINT)
        eventually(lambda: not _sigint_is(run.process.pid, "ShdPnd"), 10, step=0.0005)  # two that wait are one
    run.wait(20)
    assert run.status in (0, 1)
    nothing_left(10)


def test_the_last_word_of_a_command_that_is_gone_is_heard(script, dataflow, live, nothing_left):
    """It had given an hour, then ordered that all ends now, and died. The guard hears of its death and of the order at the same time, and nobody else can act."""
    run = live(dataflow(programs(a=script("a", STUBBORN))), "--grace-duration", "1h")
    run.until_event(type="node", node="a", to="running")
    guard, supervisor = run.take("guard"), run.take("supervisor")
    for process in (supervisor, guard):
        process.send(signal.SIGSTOP)
    for said in ("once more to stop now", "once more to abort"):
        run.process.send_signal(signal.SIGINT)
        assert eventually(lambda: said in run.output(), 10), run.output()
    run.process.kill()
    run.process.wait(10)
    guard.send(signal.SIGCONT)
    for process in (supervisor, guard):
        process.close()
    nothing_left(15)


def _sigint_is(pid, field):
    """Blocked ("SigBlk") or waiting to be taken ("ShdPnd"). Of a process that is gone nothing needs to be waited for."""
    try:
        signals = next(s for s in open(f"/proc/{pid}/status") if s.startswith(field))
    except OSError:
        return field == "SigBlk"
    return bool(int(signals.split()[1], 16) & (1 << (signal.SIGINT - 1)))


@pytest.mark.sanitized
@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_each_signal_that_ends_programs_stops_in_order(signo, script, dataflow, live, nothing_left):
    polite = script("polite", "trap 'echo asked; exit 0' TERM\necho trap set\nwhile :; do sleep 0.02; done")
    run = live(dataflow(programs(polite=polite)), "--grace-duration", "10s")
    run.until("trap set")
    run.process.send_signal(signo)
    run.wait(15)
    assert run.status == 0
    assert "asked" in run.stdout.read_text()
    assert run.result()["killed"] == 0
    nothing_left()


# A real terminal


class Terminal:
    """The command as the foreground job of a terminal: Ctrl-C goes where the kernel sends it."""

    def __init__(self, command, env, cwd, columns=80):
        self.text = ""
        pid, self.master = pty.fork()
        if pid == 0:
            os.chdir(cwd)
            os.execve(command[0], list(map(str, command)), env)
        self.pid, self.status = pid, None
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # EIO: everybody has closed it
                return False
        return True

    def until(self, pattern, seconds=20):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text) and time.monotonic() < deadline:
            if not self.read(0.1):
                break
        assert re.search(pattern, self.text), f"no `{pattern}`:\n{self.text}"

    def ctrl_c(self):
        os.write(self.master, b"\x03")

    def end(self, seconds=20):
        deadline = time.monotonic() + seconds
        while self.status is None and time.monotonic() < deadline:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        while self.read(0) and select.select([self.master], [], [], 0.05)[0]:
            pass
        return self.status


@pytest.fixture
def terminal(build, node_environment, traces, home, enforcer, tmp_path):
    terminals = []

    def start(descriptor, *args, columns=80):
        command = [build / "bin/tidegate", "run", descriptor, "--cgroup-root", home, "--enforcer", enforcer, *args]
        env = {**node_environment, MARK: traces.mark, "TERM": "xterm"}
        del env["NO_COLOR"]
        terminals.append(Terminal(command, env, tmp_path, columns))
        return terminals[-1]

    yield start
    for t in terminals:
        if t.status is None:
            os.kill(t.pid, signal.SIGKILL)
            os.waitpid(t.pid, 0)
        os.close(t.master)


INTERRUPTIBLE = "trap 'echo INTERRUPTED' INT\ntrap '' TERM\necho ready\nwhile :; do sleep 0.05; done"


@pytest.mark.sanitized
def test_ctrl_c_never_reaches_a_node_and_counts_up(script, dataflow, terminal, nothing_left):
    t = terminal(dataflow(programs(node=script("node", INTERRUPTIBLE))), "--grace-duration", "30s")
    t.until("ready")
    t.ctrl_c()
    t.until("Ctrl-C: stopping")
    t.until(r"at most \d+ s")  # the countdown
    begin = time.monotonic()
    t.ctrl_c()
    assert t.end() == 1
    assert time.monotonic() - begin < 2 + SLACK, "twice is: now"
    assert "stopping now" in t.text
    assert "INTERRUPTED" not in t.text
    nothing_left()


@pytest.mark.sanitized
def test_ctrl_c_three_times_aborts(script, dataflow, terminal, nothing_left):
    t = terminal(dataflow(programs(node=script("node", INTERRUPTIBLE))), "--grace-duration", "30s")
    t.until("ready")
    for said in ("once more to stop now", "once more to abort", ""):
        t.ctrl_c()
        t.until(said)  # two that wait are one signal
    assert t.end() == 1
    nothing_left()


@pytest.mark.parametrize("columns", [80, 40])
def test_the_countdown_stays_on_one_row_of_the_terminal(columns, script, dataflow, terminal, nothing_left):
    names = {f"a-node-with-quite-a-long-name-{i}": script(f"n{i}", STUBBORN) for i in range(7)}
    t = terminal(dataflow(programs(**names)), "--grace-duration", "2s", columns=columns)
    for _ in range(50):
        if t.text.count("ready") >= 7:
            break
        t.read(0.2)
    t.ctrl_c()
    assert t.end() == 1
    rows = re.findall(r"\r\x1b\[K([^\r\n]*)", t.text)
    shown = [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in rows if "stopping" in row]
    assert len(shown) >= 2, t.text
    assert all(len(row) < columns for row in shown), shown
    seconds = [int(n) for row in shown for n in re.findall(r"(\d+) s", row)]
    assert len(seconds) == len(shown) and seconds == sorted(seconds, reverse=True), shown
    nothing_left()


def test_the_countdown_does_not_wait_for_the_supervisor(script, dataflow, terminal, nothing_left):
    """It is stopped, and says nothing of the stop."""
    t = terminal(dataflow(programs(node=script("node", STUBBORN))), "--grace-duration", "1s")
    t.until("ready")
    guard = next(p for p in children_of(t.pid) if "--private" in arguments_of(p))
    supervisor = Process(next(p for p in children_of(guard) if "--role=supervisor" in arguments_of(p)))
    supervisor.send(signal.SIGSTOP)
    t.ctrl_c()
    t.until(r"stopping, at most \d+ s more")
    supervisor.send(signal.SIGCONT)
    supervisor.close()
    assert t.end() == 1
    nothing_left()


# Readers that do not read


@pytest.mark.parametrize("json", [False, True])
def test_ctrl_c_ends_a_command_whose_stdout_nobody_reads(json, script, dataflow, build, node_environment, traces, home, enforcer, nothing_left):
    chatty = script("chatty", "trap '' TERM\nyes 'a line that nobody will ever read'")
    read, write = os.pipe()
    command = [build / "bin/tidegate", "run", dataflow(programs(chatty=chatty)), "--cgroup-root", home, "--enforcer", enforcer, "--grace-duration", "1s"]
    process = subprocess.Popen(
        command + (["--json"] if json else []),
        stdin=subprocess.DEVNULL, stdout=write, stderr=write, env={**node_environment, MARK: traces.mark}, start_new_session=True,
    )  # fmt: skip
    try:
        assert eventually(lambda: not select.select([], [write], [], 0)[1], 20), "the pipe is full"
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        process.wait(20)
        assert time.monotonic() - begin < 1.5 + BUDGET + 1 + SLACK
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)
    nothing_left()


@pytest.mark.sanitized
def test_a_closed_stdout_does_not_end_the_dataflow_uncleanly(script, dataflow, build, node_environment, traces, home, enforcer, nothing_left):
    chatty = script("chatty", "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; sleep 0.01; done; touch done")
    process = subprocess.Popen(
        [build / "bin/tidegate", "run", dataflow(programs(chatty=chatty)), "--cgroup-root", home, "--enforcer", enforcer],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**node_environment, MARK: traces.mark}, start_new_session=True,
    )  # fmt: skip
    process.stdout.close()
    _, err = process.communicate(timeout=20)
    assert process.returncode in (0, 1), err
    nothing_left()


# What is told


@pytest.mark.sanitized
def test_json_is_whole_lines_from_the_first_to_the_result(script, dataflow, live, nothing_left):
    odd = script("odd", r"printf 'caf\351 \000 \033[31m\n"
                        r"\377\376\n\\\"{}\n'; printf 'err\n' >&2; printf 'no newline'; exit 4")  # fmt: skip
    run = live(dataflow(programs(odd=odd))).wait(20)
    lines = run.stdout.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert all(isinstance(e, dict) and isinstance(e["type"], str) for e in events)
    assert [e["type"] for e in events].count("result") == 1 and events[-1]["type"] == "result"
    texts = [e["text"] for e in events if e["type"] == "log" and e["stream"] == "stdout"]
    assert len(texts) == 4 and texts[2] == r'\\"{}' and texts[3] == "no newline"
    assert [e["text"] for e in events if e["type"] == "log" and e["stream"] == "stderr"] == ["err"]
    assert run.node("odd")["exit"] == {"code": "exited", "status": 4}
    nothing_left()
@pytest.mark.each_enforcer
def test_exit_status_0_for_success_and_1_for_failure(script, dataflow, live, nothing_left):
    assert live(dataflow(programs(a="true"), "a.yml")).wait(20).status == 0
    assert live(dataflow(programs(a="true", b="false"), "b.yml")).wait(20).status == 1
    stopped = live(dataflow(programs(a=script("sleeper", "exec sleep 1000")), "c.yml"), "--stop-after", "100ms").wait(20)
    assert stopped.status == 0, "a program that ends of the SIGTERM that asked it to has done what it was asked"
    nothing_left()


@pytest.mark.sanitized
def test_two_runs_side_by_side_do_not_see_each_other(script, dataflow, live, home, nothing_left):
    flow = dataflow(programs(a=script("a", STUBBORN)))
    first, second = live(flow, "--grace-duration", "200ms"), live(flow, "--grace-duration", "200ms")
    for run in (first, second):
        run.until('"text":"ready"')
    pid = second.until_event(type="node", to="running")["pid"]
    first.process.send_signal(signal.SIGINT)
    first.wait(15)
    third = live(dataflow(programs(b="true"), "third.yml")).wait(15)  # sweeps dead instances, and no others
    assert third.status == 0
    assert stat_of(pid) and second.process.poll() is None
    assert children_of(second.process.pid), "its guard lives"
    second.process.send_signal(signal.SIGINT)
    second.wait(15)
    assert second.result()["uuid"] != first.result()["uuid"]
    nothing_left()
