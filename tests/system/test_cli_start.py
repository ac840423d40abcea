# SPDX-License-Identifier: Apache-2.0
"""start: what is sent, what attached and detached show, Ctrl-C, and a supervisor that changes on the way."""

import json
import os
import re
import signal
import threading
import time

import pytest
from conftest import eventually
from lives import stat_of
from supervisor import now_ms, result

pytestmark = pytest.mark.sanitized
UUID = "aaaa0000-1111-4000-8000-000000000000"


@pytest.fixture
def flow(tmp_path):
    path = tmp_path / "flow.yml"
    path.write_text("nodes:\n  - id: beat\n    path: /bin/sleep\n    args: '60'\n    startup_timeout: 3\n")
    return path


def shown():
    return {"uuid": UUID, "name": "flow", "nodes": [{"id": "beat", "line": 2}]}


def accept(c):
    c.event(type="accepted", at_ms=now_ms(), uuid=UUID, name="flow", dataflow=UUID)


def starts(c, p):
    accept(c)
    c.event(type="node", at_ms=now_ms(), name="flow", node="beat", to="running", **{"from": "starting"})
    c.event(type="dataflow", at_ms=now_ms(), name="flow", state="running")
    c.reply(uuid=UUID, state="running")


def test_detached_it_returns_once_the_dataflow_runs(talk, fake, flow):
    fake.answers["Start"] = starts
    p = talk("start", flow, "--detach")
    assert p.returncode == 0 and p.stderr == "" and f"flow ({UUID}) is running" in p.stdout


def test_what_is_sent_is_the_callers(talk, fake, flow, tmp_path):
    fake.answers["Start"] = starts
    p = talk("start", flow, "--name", "other", "--replace", "--grace-duration", "3s", env={"A_VARIABLE": "with value", "NOT_UTF8": b"\xff"},
             preexec_fn=lambda: os.umask(0o027), cwd=tmp_path)  # fmt: skip
    assert p.returncode == 0, p.stderr
    sent = fake.called("Start")
    assert sent["plan"]["name"] == "other" and sent["plan"]["nodes"][0]["id"] == "beat"
    assert "A_VARIABLE=with value" in sent["environment"] and sent["umask"] == 0o027
    assert sent["log_dir"] == str(tmp_path / "out") and sent["replace"] is True and sent["grace_ms"] == 3000
    assert "wait" not in sent and sent["timeout_ms"] == 3000 + 10_000 + 4500 + 2000
    assert "NOT_UTF8 is not UTF-8" in p.stderr


def test_log_files_go_where_it_was_said(talk, fake, flow, tmp_path):
    fake.answers["Start"] = starts
    assert talk("start", flow, "--log-dir", "here", cwd=tmp_path).returncode == 0
    assert fake.called("Start")["log_dir"] == str(tmp_path / "here")
    assert talk("start", flow, "--no-logs").returncode == 0
    assert "log_dir" not in fake.called("Start", 2)


def test_a_descriptor_with_errors_is_not_sent(talk, fake, tmp_path):
    path = tmp_path / "bad.yml"
    path.write_text("nodes:\n  - id: beat\n    pith: /bin/sleep\n")
    p = talk("start", path)
    assert p.returncode == 1 and "bad.yml:" in p.stderr and not fake.calls


def test_a_plan_that_does_not_fit_is_not_sent(talk, fake, flow):
    p = talk("start", flow, "--detach", env={f"LONG{i}": "x" * 100_000 for i in range(12)})
    assert p.returncode == 1 and "1 MiB" in p.stderr and not fake.calls


@pytest.mark.parametrize("error,status", [("InvalidPlan", 1), ("Busy", 1), ("Refused", 1), ("ShuttingDown", 5)])
def test_a_refusal_is_told(talk, fake, flow, error, status):
    fake.answers["Start"] = lambda c, p: c.error(error, "because of this")
    p = talk("start", flow)
    assert p.returncode == status and f"{error}: because of this" in p.stderr


def test_a_dataflow_that_failed_to_start_is_no_success(talk, fake, flow):
    def fails(c, p):
        accept(c)
        c.event(type="node", at_ms=now_ms(), name="flow", node="beat", to="failed", line=2, error="no such program", **{"from": "starting"})
        c.reply(uuid=UUID, state="ended")

    fake.answers["Start"] = fails
    p = talk("start", flow, "--detach")
    assert p.returncode == 1 and "node beat (line 2) failed: no such program" in p.stderr


def test_a_start_that_takes_long_says_what_it_waits_for(talk_on, fake, flow):
    said = threading.Event()

    def slow(c, p):
        accept(c)
        c.event(type="dataflow", at_ms=now_ms(), name="flow", state="starting")
        fake.called("GetHealth")  # longer than --timeout
        said.wait(20)
        c.reply(uuid=UUID, state="running")

    fake.answers["Start"] = slow
    t = talk_on("start", flow, "--detach", "--timeout", "0.8s")
    read_until(t.process, "starting: waiting for beat")
    said.set()
    assert t.finish().returncode == 0, t.stderr


def test_a_start_that_times_out_goes_on_and_says_so(talk, fake, flow):
    def late(c, p):
        accept(c)
        c.error("TimedOut", "beat is not ready")

    fake.answers["Start"] = late
    p = talk("start", flow, "--detach")
    assert p.returncode == 3 and f"the start of {UUID} goes on" in p.stderr


def test_what_comes_at_once_is_all_read_though_nothing_follows(talk, fake, flow):
    """More than one turn takes: no socket tells of the rest again."""

    def start(c, p):
        accept(c)
        notes = [{"continues": True, "parameters": {"event": {"type": "note", "text": f"note {i}"}}} for i in range(300)]
        c.at_once(*notes, {"parameters": {"uuid": UUID, "state": "running"}})
        c.silence()

    fake.answers["Start"] = start
    p = talk("start", flow, "--detach", timeout=20)
    assert p.returncode == 0, p.stderr
    assert [line for line in p.stdout.splitlines() if "note" in line] == [f"tidegate: note {i}" for i in range(300)]
    assert f"flow ({UUID}) is running" in p.stdout


# ---- attached


class Attached:
    """Conversation of an attached start: lines come, and the end comes when a Stop does (or when told)."""

    def __init__(self, fake):
        self.fake, self.stops, self.stopped, self.told = fake, [], threading.Event(), threading.Event()
        self.needs_force = False
        fake.answers.update(Start=self.start, Logs=self.logs, Stop=self.stop)

    def start(self, c, p):
        assert p["wait"] == "ended"
        accept(c)
        c.event(type="dataflow", at_ms=now_ms(), name="flow", state="running")
        self.stopped.wait(60)
        c.event(type="ledger", at_ms=100, name="flow", node="beat", rung="term", count=1, result="sent")
        c.reply(uuid=UUID, state="ended", result=result(shown()))
        self.told.set()

    def logs(self, c, p):
        assert p == {"dataflow": UUID}
        c.line(node="beat", stream=1, time_ms=int(time.time() * 1000), line="tick\x1b[31m tock")
        c.line(node="beat", stream=1, time_ms=int(time.time() * 1000), dropped=5)
        c.silence()

    def stop(self, c, p):
        self.stops.append(p)
        if p["force"] or not self.needs_force:
            self.stopped.set()
        c.reply(results=[])


def read_until(process, text, seconds=20):
    """What stdout says until it says @text; the pipe has a deadline by the supervisor's end."""
    said, end = "", time.monotonic() + seconds
    while text not in said:
        line = process.stdout.readline()
        assert line and time.monotonic() < end, said
        said += line
    return said


def packet(*lines):
    return [{"continues": True, "parameters": {"line": {"node": "beat", "line": f"line {i}"}}} for i in lines]


def test_lines_that_come_at_once_are_all_shown_though_nothing_follows(talk_on, fake, flow):
    attached = Attached(fake)
    fake.answers["Logs"] = lambda c, p: (c.at_once(*packet(*range(300))), c.silence())
    t = talk_on("start", flow, "--attach")
    said = read_until(t.process, "[beat] line 299\n")
    assert said.count("[beat] line ") == 300
    attached.stopped.set()
    assert t.finish().returncode == 0


def test_the_last_lines_are_all_shown_when_they_come_with_the_end(talk_on, fake, flow):
    """Of a command that could not read meanwhile."""
    attached, stopped = Attached(fake), threading.Event()

    def logs(c, p):
        stopped.wait(20)
        for i in range(0, 780, 260):
            c.at_once(*packet(*range(i, i + 260)))
        attached.stopped.set()
        c.silence()

    fake.answers["Logs"] = logs
    t = talk_on("start", flow, "--attach")
    fake.called("Logs")
    t.interrupt(signal.SIGSTOP)
    assert eventually(lambda: stat_of(t.process.pid)[0] == "T", 20)
    stopped.set()
    assert eventually(lambda: attached.told.is_set(), 20)
    t.interrupt(signal.SIGCONT)
    t.finish()
    assert t.returncode == 0 and [line for line in t.stdout.splitlines() if "line" in line] == [f"[beat] line {i}" for i in range(780)]


def test_ctrl_c_stops_an_attached_dataflow(talk_on, fake, flow):
    attached = Attached(fake)
    t = talk_on("start", flow, "--attach", "--grace-duration", "3s")
    said = read_until(t.process, "5 lines not shown")
    assert "[beat] tick\x1b[31m tock\n" in said
    t.interrupt()
    t.finish()
    assert t.returncode == 0, t.stderr
    assert "Ctrl-C: stopping, nodes have 3.0 s to end" in t.stdout and "SIGTERM to 1 process of beat" in t.stdout
    assert "flow succeeded" in t.stdout
    assert attached.stops == [{"dataflow": UUID, "force": False}]


def test_ctrl_c_twice_stops_now(talk_on, fake, flow):
    attached = Attached(fake)
    attached.needs_force = True
    t = talk_on("start", flow, "--attach")
    read_until(t.process, "5 lines not shown")
    t.interrupt()
    read_until(t.process, "nodes have 10.0 s to end")
    t.interrupt()
    t.finish()
    assert "stopping now" in t.stdout
    fake.called("Stop", 2)  # over two connections: either may be read first
    assert sorted(s["force"] for s in attached.stops) == [False, True]


def test_ctrl_c_three_times_leaves(talk_on, fake, flow):
    attached = Attached(fake)
    fake.answers["Stop"] = lambda c, p: attached.stops.append(p) or c.silence()
    t = talk_on("start", flow, "--attach")
    read_until(t.process, "5 lines not shown")
    for text in ("nodes have", "stopping now"):
        t.interrupt()
        read_until(t.process, text)
    t.interrupt()
    t.finish()
    assert t.returncode == 1 and "goes on without this command, and so does its stop" in t.stderr


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_leave_the_dataflow_alone(talk_on, fake, flow, signo):
    attached = Attached(fake)
    t = talk_on("start", flow, "--attach")
    read_until(t.process, "5 lines not shown")
    t.interrupt(signo)
    t.finish()
    assert t.returncode == 1 and f"flow ({UUID}) goes on without this command" in t.stderr and attached.stops == []


def test_json_has_lines_events_and_the_result(talk_on, fake, flow):
    Attached(fake)
    t = talk_on("start", flow, "--attach", "--json")
    read_until(t.process, '"type":"dropped"')
    t.interrupt()
    t.finish()
    last = json.loads(t.stdout.splitlines()[-1])
    assert last["type"] == "result" and last["success"] is True


def test_ctrl_c_before_it_was_accepted_leaves(talk_on, fake, flow):
    fake.answers["Start"] = lambda c, p: c.silence()
    t = talk_on("start", flow, "--detach")
    fake.called("Start")
    t.interrupt()
    t.finish()
    assert t.returncode == 1 and "it may start all the same" in t.stderr


def test_the_successor_is_asked_for_the_end(talk, fake, flow):
    def start(c, p):
        accept(c)
        fake.called("Logs")
        c.hang_up()

    def wait(c, p):
        assert p["dataflow"] == UUID and p["state"] == "ended"
        c.reply(state="ended")

    fake.answers.update(Start=start, Wait=wait, Logs=lambda c, p: c.silence())
    fake.answers["Status"] = lambda c, p: c.reply(dataflows=[{**shown(), "state": "ended", "result": "failed", "error": "beat failed"}])
    p = talk("start", flow, "--attach")
    assert p.returncode == 1 and "asking its successor" in p.stderr and "flow: failed: beat failed" in p.stderr


def test_a_supervisor_that_dies_for_good_is_told(talk, fake, flow):
    def start(c, p):
        accept(c)
        fake.called("Logs")
        fake.vanish()

    fake.answers.update(Start=start, Logs=lambda c, p: c.silence())
    p = talk("start", flow, "--attach")
    assert p.returncode == 5 and f"{UUID} goes on as far as its nodes live" in p.stderr


def test_nobody_there(talk, flow):
    p = talk("start", flow)
    assert p.returncode == 5 and "tidegate up" in p.stderr


def test_silence(talk, fake, flow):
    fake.answers["Start"] = fake.answers["GetHealth"] = lambda c, p: c.silence()
    p = talk("start", flow, "--timeout", "0.4s")
    assert p.returncode == 5 and "does not answer before it accepted the dataflow" in p.stderr and p.seconds < 8


@pytest.mark.parametrize("tail", [b"", b"\xff\0"], ids=["half", "garbage"])
def test_half_an_answer(talk, fake, flow, tail):
    def half(c, p):
        accept(c)
        c.raw(b'{"parameters":{' + tail)
        c.hang_up()

    fake.answers["Start"] = half
    fake.answers["Wait"] = lambda c, p: c.reply(state="running")
    p = talk("start", flow, "--detach")
    assert p.returncode == 0 and "asking its successor" in p.stderr and re.search("is running", p.stdout)


def test_a_daemon_takes_who_follows_its_dataflow_to_the_end_and_so_does_its_next_supervisor(start_daemon, start_tidegate, flow):
    """No stand-in: it is asked to answer within a year."""
    daemon = start_daemon()
    t = start_tidegate("start", flow, "--attach", "--runtime-dir", daemon.runtime)
    assert eventually(lambda: [d["state"] for d in daemon.call("List")["dataflows"]] == ["running"] or t.process.poll() is not None, 20)
    before = daemon.supervisor()
    assert t.process.poll() is None, t.output()
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: "asking its successor" in t.output(), 20), t.output()
    daemon.wait_until_ready()
    daemon.call("Stop", dataflow="flow")
    assert t.wait(20).status == 0, t.output()
