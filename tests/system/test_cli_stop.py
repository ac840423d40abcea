# SPDX-License-Identifier: Apache-2.0
"""stop, restart, down: the ladder as it is told, and what is done when the supervisor vanishes, hangs or lies half way."""

import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest
from conftest import eventually
from supervisor import dataflow, node, now_ms, result
from test_cli_start import read_until

pytestmark = pytest.mark.sanitized


@pytest.fixture
def one(fake):
    fake.dataflows = [dataflow("audio", node("camera"), node("plot"), uuid="aaaa0000-1111-4000-8000-000000000000")]
    fake.answers["Stop"] = lambda c, p: stop_well(fake, c, p)
    return fake


def stop_well(fake, c, p, until=None):
    chosen = [d for d in fake.dataflows if p.get("all") or d["uuid"] == p["dataflow"]]
    for d in chosen:
        d.update(state="stopping", stop_until_at_ms=now_ms() + 17_000)
        c.event(type="dataflow", at_ms=now_ms(), dataflow=d["uuid"], name=d["name"], state="stopping")
        c.event(type="ledger", at_ms=1000, name=d["name"], node=d["nodes"][0]["id"], rung="term", count=2, result="sent")
    if until:
        until.wait(30)
    for d in chosen:
        d.update(state="ended", result="succeeded")
        c.event(type="dataflow", at_ms=now_ms(), dataflow=d["uuid"], name=d["name"], state="ended")
    c.reply(results=[result(d) for d in chosen])


@pytest.fixture
def victims(home):
    """Processes in a cgroup of their own: `victims(script)` starts one, which has done @first by then; they are gone at the end."""
    leaf, started = home / "victims", []
    leaf.mkdir()

    def start(script, first=":"):
        p = subprocess.Popen(["/bin/sh", "-c", f"{first}; echo $$ > {leaf}/cgroup.procs; {script}"], start_new_session=True)
        started.append(p)
        assert eventually(lambda: str(p.pid) in (leaf / "cgroup.procs").read_text().split(), 20)
        return p

    start.path = leaf
    yield start
    (leaf / "cgroup.kill").write_text("1")
    for p in started:
        p.wait(20)
    eventually(lambda: "populated 0" in (leaf / "cgroup.events").read_text(), 10)
    leaf.rmdir()


# ---- as it should be


def test_stop_shows_the_ladder_and_prints_the_ledger(talk, one):
    p = talk("stop")
    assert p.returncode == 0 and p.stderr == ""
    assert "+1.0 s: SIGTERM to 2 processes of camera: sent" in p.stdout
    assert "ledger of audio:" in p.stdout
    assert re.search(r"\+0\.300 s  ask +camera +0 processes +empty", p.stdout)
    assert "audio succeeded after 5.00 s" in p.stdout
    asked = one.called("Stop")
    assert asked["dataflow"] == "aaaa0000-1111-4000-8000-000000000000" and "force" not in asked and "grace_ms" not in asked


def test_stop_passes_on_what_was_asked(talk, one):
    assert talk("stop", "audio", "--force", "--grace-duration", "1500ms").returncode == 0
    assert one.called("Stop")["force"] is True and one.called("Stop")["grace_ms"] == 1500


def test_a_time_of_the_clock_in_a_ledger_is_told_from_its_order(talk, one):
    def stop(c, p):
        c.event(type="ledger", at_ms=now_ms(), name="audio", node="camera", rung="term", count=1, result="sent")
        c.reply(results=[result(one.dataflows[0])])

    one.answers["Stop"] = stop
    assert "+0.0 s: SIGTERM to 1 process of camera" in talk("stop").stdout


def test_json_has_every_event_and_the_results(talk, one):
    p = talk("stop", "--json")
    lines = [json.loads(line) for line in p.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["dataflow", "ledger", "dataflow", "result"]
    assert lines[-1]["ledger"][0]["rung"] == "stop"


def test_a_ledger_that_comes_at_once_is_all_read_though_nothing_follows(talk, one):
    """More than one turn takes, and the last word is behind it: no socket tells of the rest again."""

    def stop(c, p):
        event = {"type": "ledger", "at_ms": 1000, "name": "audio", "node": "camera", "rung": "term", "count": 2, "result": "sent"}
        c.at_once(*[{"continues": True, "parameters": {"event": event}}] * 150, {"parameters": {"results": [result(one.dataflows[0])]}})
        c.silence()

    one.answers["Stop"] = stop
    p = talk("stop", "--grace-duration", "1s", timeout=30)
    assert p.returncode == 0 and p.stderr == "" and "audio succeeded" in p.stdout
    assert p.stdout.count("SIGTERM to 2 processes of camera: sent") == 150


def test_without_a_name_only_one_may_run(talk, one):
    one.dataflows.append(dataflow("video", node("grab")))
    p = talk("stop")
    assert p.returncode == 2 and "audio" in p.stderr and "video" in p.stderr
    assert not [m for m, _ in one.calls if m == "Stop"]
    one.dataflows.clear()
    assert talk("stop").returncode == 3


def test_one_that_has_ended_is_not_stopped_again(talk, one):
    one.dataflows[0].update(state="ended", result="succeeded")
    p = talk("stop", "audio")
    assert p.returncode == 3 and "has ended already" in p.stderr


def test_several_are_stopped_at_the_same_time(talk, fake):
    fake.dataflows = [dataflow("a", node("n")), dataflow("b", node("n"))]
    together = threading.Barrier(2)

    def stop(c, p):
        together.wait(20)  # fails when the second order is not there before the first has ended
        stop_well(fake, c, p)

    fake.answers["Stop"] = stop
    p = talk("stop", "a", "b")
    assert p.returncode == 0 and "a succeeded" in p.stdout and "b succeeded" in p.stdout
    assert "SIGTERM to 2 processes of a:n" in p.stdout


def test_all_is_one_order(talk, fake):
    fake.dataflows = [dataflow("a", node("n")), dataflow("b", node("n"))]
    fake.answers["Stop"] = lambda c, p: stop_well(fake, c, p)
    p = talk("stop", "--all")
    assert p.returncode == 0 and fake.called("Stop")["all"] is True and p.stdout.count("succeeded") == 2
    fake.dataflows.clear()
    p = talk("stop", "--all")
    assert p.returncode == 0 and p.stdout == "no dataflow is running\n"


@pytest.mark.parametrize("changes,status", [({"success": False}, 1), ({"success": False, "left": 1}, 3)])
def test_the_exit_status_is_that_of_the_result(talk, one, changes, status):
    one.answers["Stop"] = lambda c, p: c.reply(results=[result(one.dataflows[0], **changes)])
    assert talk("stop").returncode == status


def test_a_refused_stop_is_told(talk, one):
    one.answers["Stop"] = lambda c, p: c.error("Refused", "not yours")
    p = talk("stop")
    assert p.returncode == 1 and "Refused: not yours" in p.stderr


def test_restart_says_the_new_uuid(talk, one):
    def restart(c, p):
        c.event(type="dataflow", at_ms=now_ms(), name="audio", state="stopping")
        c.reply(uuid="bbbb0000-1111-4000-8000-000000000000")

    one.answers["Restart"] = restart
    p = talk("restart", "audio")
    assert p.returncode == 0 and "audio is started again as bbbb0000" in p.stdout
    assert talk("restart", "nobody").returncode == 4


# ---- as it should not be


def test_ctrl_c_leaves_and_says_that_the_stop_goes_on(talk_on, one):
    one.answers["Stop"] = lambda c, p: stop_well(one, c, p, until=threading.Event())
    t = talk_on("stop")
    one.called("Status", 2)  # asked for the deadline: the first event was seen
    begin = time.monotonic()
    t.interrupt()
    t.finish()
    assert time.monotonic() - begin < 2 and t.returncode == 1
    assert re.search(r"the stop goes on without this command and ends within 1[67] s", t.stderr)


def test_a_stop_that_outlives_its_supervisor_is_followed_at_the_next(talk, one):
    def stop(c, p):
        c.event(type="dataflow", at_ms=now_ms(), name="audio", state="stopping")
        one.dataflows[0].update(state="stopping", stop_until_at_ms=now_ms() + 10_000)
        c.hang_up()

    def wait(c, p):
        assert p["state"] == "ended"
        one.dataflows[0].update(state="ended", result="succeeded")
        c.reply(state="ended")

    one.answers.update(Stop=stop, Wait=wait)
    p = talk("stop")
    assert p.returncode == 0, p.stderr
    assert "asking its successor" in p.stderr and "audio has ended: succeeded" in p.stdout


def test_a_dead_supervisor_is_passed_by_through_the_cgroup(talk, one, victims):
    """It had named the cgroup, then it and its guard vanish in the middle of the stop."""
    tame, wild = victims("exec sleep 60"), victims("while :; do sleep 0.1; done", first="trap '' TERM")
    one.dataflows[0]["cgroup"] = str(victims.path)

    def stop(c, p):
        c.event(type="dataflow", at_ms=now_ms(), name="audio", state="stopping")
        one.vanish()

    one.answers["Stop"] = stop
    p = talk("stop", "--grace-duration", "1s")
    assert p.returncode == 0, p.stdout + p.stderr
    assert "ending the processes from here" in p.stderr
    assert re.search(r"audio: \+\d\.\d{3} s  command  \d+ processes: empty", p.stdout)
    assert tame.wait(5) == -signal.SIGTERM and wild.wait(5) == -signal.SIGKILL
    assert 0.5 <= p.seconds < 8


def test_force_begins_with_sigkill(talk, one, victims):
    tame = victims("exec sleep 60")
    one.dataflows[0]["cgroup"] = str(victims.path)
    one.answers["Stop"] = lambda c, p: one.vanish()
    p = talk("stop", "--force")
    assert p.returncode == 0 and tame.wait(5) == -signal.SIGKILL and p.seconds < 5


def test_a_supervisor_that_falls_silent_is_asked_and_passed_by(talk, one, victims):
    tame = victims("exec sleep 60")
    one.dataflows[0]["cgroup"] = str(victims.path)

    def stop(c, p):
        one.answers["GetHealth"] = one.answers["Status"] = lambda c, p: c.silence()  # as if by SIGSTOP
        c.silence()

    one.answers["Stop"] = stop
    p = talk("stop", "--grace-duration", "1s", "--timeout", "0.5s")
    assert p.returncode == 0 and "does not answer; ending the processes from here" in p.stderr
    assert tame.wait(5) == -signal.SIGTERM and p.seconds < 10


def test_a_slow_stop_of_a_supervisor_that_lives_is_waited_for(talk_on, one):
    said = threading.Event()
    one.answers["Stop"] = lambda c, p: stop_well(one, c, p, until=said)
    t = talk_on("stop", "--timeout", "0.8s")
    read_until(t.process, "stopping, at most")  # longer than a second: it says what it waits for and until when
    one.called("GetHealth")
    said.set()
    t.finish()
    assert t.returncode == 0 and t.stderr == ""


def test_a_deadline_that_is_not_kept_is_not_waited_for_for_ever(talk, one, victims):
    tame = victims("exec sleep 60")
    one.dataflows[0]["cgroup"] = str(victims.path)

    def stop(c, p):
        one.dataflows[0].update(state="stopping", stop_until_at_ms=now_ms() + 300)
        c.event(type="dataflow", at_ms=now_ms(), name="audio", state="stopping")
        c.silence()

    one.answers["Stop"] = stop
    p = talk("stop", "--grace-duration", "1s")
    assert p.returncode == 0 and "overdue; ending the processes from here" in p.stderr
    assert tame.wait(5) == -signal.SIGTERM and p.seconds < 15


def test_the_last_resort_does_not_kill_the_command_itself(talk, one, victims):
    mine = victims("exec sleep 60")
    one.dataflows[0]["cgroup"] = str(victims.path)
    one.answers["Stop"] = lambda c, p: one.vanish()
    p = talk("stop", "--force", preexec_fn=lambda: (victims.path / "cgroup.procs").write_text(str(os.getpid())))
    assert p.returncode == 3 and "refused" in p.stderr
    assert mine.poll() is None


@pytest.mark.parametrize("path", ["", "relative", "/nonexistent-folder", "/tmp", "/"])
def test_a_cgroup_that_is_none_is_not_killed(talk, one, path):
    one.dataflows[0]["cgroup"] = path
    one.answers["Stop"] = lambda c, p: one.vanish()
    p = talk("stop", "--force")
    assert p.returncode == (0 if path == "/nonexistent-folder" else 5 if not path.startswith("/") else 3)


def test_files_that_look_like_a_cgroup_kill_nobody(talk, one, victims, tmp_path):
    mine = victims("exec sleep 60")
    (tmp_path / "cgroup.procs").write_text(f"{mine.pid}\n")
    (tmp_path / "cgroup.events").write_text("populated 1\n")
    one.dataflows[0]["cgroup"] = str(tmp_path)
    one.answers["Stop"] = lambda c, p: one.vanish()
    p = talk("stop", "--force")
    assert p.returncode == 3 and "no cgroup of version 2: refused" in p.stderr and mine.poll() is None


def test_the_root_of_the_hierarchy_is_not_killed(talk, one, home):
    one.dataflows[0]["cgroup"] = str(home.parent)
    one.answers["Stop"] = lambda c, p: one.vanish()
    p = talk("stop", "--force")
    assert p.returncode == 3, p.stdout


# ---- down


@pytest.fixture
def guard():
    p = subprocess.Popen(["sleep", "60"])
    yield p
    p.kill()
    p.wait()


def test_down_waits_for_the_guard(talk, one, guard):
    one.answers["GetHealth"] = lambda c, p: c.reply(health=one.health(guard_pid=guard.pid))

    def shutdown(c, p):
        c.event(type="dataflow", at_ms=now_ms(), name="audio", state="stopping")
        threading.Timer(0.5, lambda: (guard.kill(), guard.wait())).start()
        c.reply()
        c.hang_up()

    one.answers["Shutdown"] = shutdown
    p = talk("down", "--grace-duration", "2s")
    assert p.returncode == 0, p.stderr
    assert f"guard {guard.pid}" in p.stdout and p.seconds >= 0.5
    assert one.called("Shutdown") == {"force": False, "grace_ms": 2000}


def test_down_does_not_wait_for_ever_for_a_guard_that_stays(talk_on, one, guard):
    one.answers["GetHealth"] = lambda c, p: c.reply(health=one.health(guard_pid=guard.pid))
    one.answers["Shutdown"] = lambda c, p: c.reply(results=[result(one.dataflows[0])])
    t = talk_on("down", "--force")
    read_until(t.process, "audio succeeded")  # that was the last word: it waits for the guard now
    t.interrupt()
    t.finish()
    assert t.returncode == 1 and "goes on ending the daemon" in t.stderr


def test_down_may_be_refused(talk, one):
    one.answers["Shutdown"] = lambda c, p: c.error("Refused", "root only")
    one.answers["GetHealth"] = lambda c, p: c.reply(health=one.health(guard_pid=0))
    p = talk("down")
    assert p.returncode == 1 and "Refused: root only" in p.stderr
