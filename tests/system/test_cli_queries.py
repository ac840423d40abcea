# SPDX-License-Identifier: Apache-2.0
"""What the commands that ask say of what they are told: columns, JSON, exit statuses."""

import json
import os
import pathlib
import re

import pytest
from conftest import eventually
from supervisor import dataflow, node, now_ms

pytestmark = pytest.mark.sanitized


@pytest.fixture
def two(fake):
    """Two dataflows in the usual states."""
    fake.dataflows = [
        dataflow("audio", node("camera", pid=8581), node("plot", "failed", error="exited with status 3", exit={"code": "exited", "status": 3}),
                 uuid="aaaa0000-1111-4000-8000-000000000000"),
        dataflow("video", node("grab", pid=99), node("show", "stopped", generation=0), node("mux", "stopping"),
                 uuid="bbbb0000-1111-4000-8000-000000000000"),
    ]  # fmt: skip
    return fake


def test_status_has_the_columns_of_supervisorctl(talk, two):
    p = talk("status")
    assert p.returncode == 3 and p.stderr == ""
    lines = p.stdout.splitlines()
    assert re.fullmatch(r"audio:camera {21}RUNNING   pid 8581, uptime 0:02:3\d", lines[0])
    assert lines[1] == f"{'audio:plot':33}FAILED    exited with status 3"
    assert lines[3] == f"{'video:show':33}STOPPED   Not started"
    assert lines[4].rstrip() == f"{'video:mux':33}STOPPING"
    assert len(lines) == 5


def test_a_long_name_widens_the_column_of_all(talk, fake):
    fake.dataflows = [dataflow("d" * 40, node("n", pid=1)), dataflow("e", node("n", pid=2))]
    lines = talk("status").stdout.splitlines()
    assert [line.index("RUNNING") for line in lines] == [45, 45]


def test_days_of_uptime_and_stuck_nodes_are_told(talk, fake):
    fake.dataflows = [dataflow("d", node("n", pid=7, since_at_ms=now_ms() - 86401_000, health="stuck", stuck_since_at_ms=now_ms() - 12_000))]
    assert re.search(r"pid 7, uptime (1 day, 0:00:0\d|\d+:\d\d:\d\d), stuck for 0:00:1\d", talk("status").stdout)


@pytest.mark.parametrize(
    "args,status",
    [
        (["status", "video"], 0),
        (["status", "--exit-code-on=any-not-running", "video"], 3),
        (["status", "audio"], 3),
        (["status", "audio:camera"], 0),
        (["status", "audio:*"], 3),
        (["status", "aaaa"], 3),
        (["status", "nobody"], 4),
        (["status", "audio", "nobody"], 4),
        (["status", "audio:nobody"], 4),
        (["status", "--exit-code-on=never"], 2),
        (["node", "info", "camera"], 0),
        (["node", "info", "audio:plot"], 0),
        (["node", "info", "nobody"], 4),
        (["node", "info", "video:camera"], 4),
        (["node", "fly", "camera"], 2),
        (["node"], 2),
        (["pid", "audio:camera"], 0),
        (["pid", "audio:plot"], 3),
        (["pid", "video"], 3),
        (["list", "--status", "odd"], 2),
        (["list", "extra"], 2),
        (["list", "--timeout", "soon"], 2),
        (["wait", "audio"], 2),
        (["wait", "audio", "happy"], 2),
        (["tail"], 2),
        (["logs", "--level", "loud"], 2),
        (["logs", "--since", "yesterday"], 2),
        (["stop", "--all", "audio"], 2),
        (["restart"], 2),
        (["start"], 2),
        (["up", "extra"], 2),
        (["shell", "extra"], 2),
    ],
)
def test_exit_statuses(talk, two, args, status):
    p = talk(*args)
    assert p.returncode == status, p.stderr
    assert bool(p.stderr) == (status in (2, 4)), p.stderr


def test_status_of_one_dataflow_shows_all_about_it(talk, two, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "log_plot.jsonl").write_text(
        '{"timestamp":"2026-01-31T12:00:00.5Z","level":"error","node_id":"plot","message":"no display","target":null,"fields":null}\n'
    )
    two.dataflows[0]["log_dir"] = str(logs)
    out = talk("status", "audio").stdout
    assert "● audio (aaaa0000-1111-4000-8000-000000000000)" in out
    assert "File: /somewhere/audio.yml" in out
    assert "1 running, 1 failed, of 2" in out
    assert "Last exit: plot (line 3): status 3" in out
    assert "Jan 31 12:00:00.500 [plot] error no display" in out


def test_status_and_node_list_look_into_the_cgroup(talk, fake, home):
    leaf = home / "camera.1"
    leaf.mkdir()
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/sleep", ["sleep", "60"])
    try:
        (leaf / "cgroup.procs").write_text(str(pid))
        comm = pathlib.Path(f"/proc/{pid}/comm")
        assert eventually(lambda: comm.read_text() == "sleep\n", 10), "it executes it"
        fake.dataflows = [dataflow("audio", node("camera", pid=pid), cgroup=str(home))]
        out = talk("status", "audio").stdout
        assert f"└─camera.1\n" in out and f"└─{pid} sleep" in out
        assert "Tasks: 1 processes" in out and re.search(r"Memory: [\d.]+ [KM]iB", out)
        assert re.search(rf"camera +RUNNING +{pid} +[\d.]+% +[\d.]+ [KM]iB +0  audio", talk("node", "list").stdout)
        usage = json.loads(talk("status", "--json").stdout)["dataflows"][0]["usage"]
        assert usage["n"] == 1 and usage["groups"][1]["processes"][0]["pid"] == pid
        assert json.loads(talk("list", "--json").stdout)["dataflows"][0]["memory_bytes"] > 0
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        leaf.rmdir()


def test_a_cgroup_that_is_none_is_not_looked_into(talk, fake, tmp_path):
    (tmp_path / "cgroup.procs").write_text("1\n")
    fake.dataflows = [dataflow("audio", node("camera"), cgroup=str(tmp_path))]
    p = talk("status", "audio")
    assert p.returncode == 0 and "Tasks" not in p.stdout and "cannot be looked at" in p.stdout


def test_list_has_one_line_a_dataflow(talk, two):
    two.dataflows.append(dataflow("old", state="ended", result="failed", uuid="cccc0000-1111-4000-8000-000000000000"))
    lines = talk("list").stdout.splitlines()
    assert lines[0].split() == ["UUID", "NAME", "STATUS", "NODES", "CPU", "MEMORY", "UPTIME"]
    assert lines[1].split()[:4] == ["aaaa0000-1111-4000-8000-000000000000", "audio", "running", "1/2"]
    assert lines[3].split()[1:3] == ["old", "failed"]
    assert talk("ps").stdout.splitlines()[1].split()[1] == "audio"
    assert talk("list", "-q").stdout.split() == [d["uuid"] for d in two.dataflows]
    assert talk("list", "-q", "--status", "failed").stdout.split() == [two.dataflows[2]["uuid"]]
    assert talk("list", "-q", "--status", "running", "--name", "vid").stdout.split() == [two.dataflows[1]["uuid"]]
    assert two.called("List")["all"] is True


def test_json_of_queries_is_one_document(talk, two):
    assert [d["name"] for d in json.loads(talk("list", "--json").stdout)["dataflows"]] == ["audio", "video"]
    assert json.loads(talk("status", "--json").stdout)["dataflows"][0]["nodes"][1]["exit"]["status"] == 3
    assert [n["dataflow"] for n in json.loads(talk("node", "list", "--json").stdout)["nodes"]] == ["audio"] * 2 + ["video"] * 3
    assert json.loads(talk("node", "info", "plot", "--json").stdout)["dataflow"] == "audio"
    assert json.loads(talk("pid", "--json").stdout) == {"pid": os.getpid()}
    assert json.loads(talk("pid", "audio", "--json").stdout) == {"pids": {"camera": 8581, "plot": 0}}


def test_pid_is_that_of_the_supervisor_or_the_guard(talk, two):
    two.answers["GetHealth"] = lambda c, p: c.reply(health=two.health(pid=12, guard_pid=34))
    assert talk("pid").stdout == "12\n"
    assert talk("pid", "--guard").stdout == "34\n"
    assert talk("pid", "audio").stdout == "camera: 8581\nplot: 0\n"


def test_an_id_that_two_dataflows_have_is_not_guessed(talk, fake):
    fake.dataflows = [dataflow("a", node("x")), dataflow("b", node("x"))]
    p = talk("node", "info", "x")
    assert p.returncode == 2 and "a:x" in p.stderr and "b:x" in p.stderr
    assert talk("node", "info", "x", "-d", "b").returncode == 0


def test_one_that_runs_is_meant_rather_than_those_of_the_past_and_of_these_the_last(talk, fake):
    ended = [dataflow("d", node("n", "stopped", pid=k), state="ended", uuid=f"{k}aaa0000-1111-4000-8000-000000000000") for k in (1, 2)]
    fake.dataflows = [*ended, dataflow("d", node("n", pid=3))]
    assert json.loads(talk("node", "info", "n", "--json").stdout)["pid"] == 3
    fake.dataflows = ended
    assert json.loads(talk("node", "info", "n", "--json").stdout)["pid"] == 2
    fake.dataflows = [dataflow("d", node("n", pid=k), uuid=f"{k}aaa0000-1111-4000-8000-000000000000") for k in (1, 2)]
    assert "say 1aaa0000-1111-4000-8000-000000000000:n or 2aaa0000" in talk("node", "info", "n").stderr


def test_names_with_control_characters_do_not_reach_the_screen(talk, fake):
    fake.dataflows = [dataflow("a\x1b[2Jb", node("n\nx", "failed", error="\x1b]0;title\x07"))]
    for args in (["status"], ["list"], ["node", "list"], ["status", fake.dataflows[0]["uuid"]]):
        assert "\x1b" not in talk(*args).stdout


def test_node_stop_restart_and_signal_ask_for_it(talk, two):
    two.answers["StopNode"] = lambda c, p: c.reply(node=node("camera", "stopped"))
    two.answers["RestartNode"] = lambda c, p: c.reply(node=node("camera"))
    two.answers["SignalNode"] = lambda c, p: c.reply(sent=2 if p.get("all") else 1)
    p = talk("node", "stop", "camera", "--grace", "2s")
    assert p.returncode == 0 and p.stdout == "audio:camera: stopped\n"
    asked = two.called("StopNode")
    assert (asked["dataflow"], asked["node"], asked["grace_ms"]) == (two.dataflows[0]["uuid"], "camera", 2000)
    assert talk("node", "restart", "audio:camera").stdout == "audio:camera: restarted\n"
    for args in (["camera", "HUP"], ["SIGHUP", "camera"], ["camera", "1"]):
        assert talk("node", "signal", *args).stdout == "audio:camera: signalled (SIGHUP to 1 process)\n"
    assert two.called("SignalNode", 3)["signal"] == 1
    assert "2 processes" in talk("node", "signal", "--all", "camera", "USR1").stdout
    assert talk("node", "signal", "camera", "LOUD").returncode == 2


def test_a_node_that_leaves_somebody_behind_is_no_success(talk, two):
    two.answers["StopNode"] = lambda c, p: c.reply(node=node("camera", "failed", left="1 process in D"))
    p = talk("node", "stop", "camera")
    assert p.returncode == 3 and "left: 1 process in D" in p.stdout


@pytest.mark.parametrize(
    "error,status",
    [("NoSuchDataflow", 4), ("NoSuchNode", 4), ("Ambiguous", 2), ("NotRunning", 3), ("TimedOut", 3), ("NotReachable", 1), ("Refused", 1),
     ("QuotaExceeded", 1), ("Busy", 1), ("ShuttingDown", 5), ("org.varlink.service.InvalidParameter", 1), ("org.varlink.service.MethodNotFound", 1)],
)  # fmt: skip
def test_each_error_has_its_exit_status(talk, two, error, status):
    two.answers["Wait"] = lambda c, p: c.error(error, "because of this", state="failed")
    p = talk("wait", "audio", "running")
    assert p.returncode == status and p.stdout == "" and p.stderr.startswith("tidegate wait: ")


def test_wait_asks_for_as_long_as_was_said(talk, two):
    two.answers["Wait"] = lambda c, p: c.reply(state=p["state"])
    p = talk("wait", "audio:camera", "running", "--timeout", "7s")
    assert p.returncode == 0 and p.stdout == "audio:camera is running\n"
    assert two.called("Wait") == {"dataflow": "audio", "node": "camera", "state": "running", "timeout_ms": 7000}


def test_clean_and_reset_say_how_many(talk, two):
    two.answers["Clean"] = lambda c, p: c.reply(cleaned=2)
    two.answers["Reset"] = lambda c, p: c.reply(reset=1)
    assert talk("clean").stdout == "2 dataflows were forgotten\n"
    assert talk("reset", "audio", "plot").stdout == "1 node was reset\n"
    assert talk("reset", "audio:plot", "--json").stdout == '{\n  "reset": 1\n}\n'
    assert two.called("Reset", 2) == {"dataflow": "audio", "node": "plot"}


def test_events_are_shown_until_the_stream_ends(talk, two):
    def stream(c, p):
        c.event(type="node", at_ms=now_ms(), name="audio", node="plot", to="failed", error="it broke", **{"from": "running"})
        c.event(type="dropped", count=7)
        c.hang_up()

    two.answers["Events"] = stream
    p = talk("events", "audio")
    lines = p.stdout.splitlines()
    assert lines[0].endswith("audio:plot running -> failed it broke") and lines[1].split()[1:] == ["dropped", "7"]
    assert p.returncode == 5 and "hung up" in p.stderr
    assert [json.loads(line)["type"] for line in talk("events", "--json").stdout.splitlines()] == ["node", "dropped"]


def test_the_runtime_directory_is_found_where_it_was_said(talk, fake, tmp_path):
    assert talk("pid", "--runtime-dir", tmp_path / "elsewhere").returncode == 5
    assert talk("pid", "--runtime-dir", tmp_path / "run", env={"TIDEGATE_RUNTIME_DIR": str(tmp_path / "elsewhere")}).returncode == 0


def test_a_runtime_directory_may_have_a_long_path(talk, tmp_path):
    from supervisor import FakeSupervisor

    server = FakeSupervisor(tmp_path / ("d" * 120))
    try:
        assert talk("pid", "--runtime-dir", server.directory).returncode == 0
    finally:
        server.close()
