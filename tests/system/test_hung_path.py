# SPDX-License-Identifier: Apache-2.0
"""A program on a file system that stopped answering: who executes it is in uninterruptible sleep, and delays nobody else."""

import os
import signal

import pytest
from conftest import eventually, marked_processes
from hungmount import HungMount
from lives import SLACK, cgroups_in, stat_of

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and /dev/fuse"
)


@pytest.fixture
def hung(build, tmp_path):
    program = build / "tests/supervisor/hungfs"
    if not program.exists():
        pytest.skip("tests/supervisor/hungfs is not built (needs libfuse3 and Criterion)")
    mount = HungMount(program, tmp_path / "hung")
    yield mount
    if mount.server.poll() is None:
        mount.end()


@pytest.fixture
def beside(script):
    return {"id": "beside", "path": str(script("beside", "trap 'echo asked; exit 0' TERM\necho runs\nwhile :; do sleep 0.05; done"))}


def all_gone_with_the_server(hung, traces, live, dataflow, home):
    hung.end()
    assert eventually(lambda: not marked_processes(traces.mark), 10), "unkillable no more"
    live(dataflow({"nodes": [{"id": "next", "path": "true"}]}, "next.yml")).wait(20)
    assert cgroups_in(home) == []


@pytest.mark.parametrize("ports", [{}, {"outputs": ["out"]}], ids=["program", "node"])
def test_startup_timeout_ends_a_start_from_a_hung_path(ports, hung, beside, dataflow, live, traces, home):
    path = hung.path / "program"
    flow = dataflow({"nodes": [{"id": "stuck", "path": str(path), "startup_timeout": 1.0, **ports}, beside]})
    run = live(flow, "--grace-duration", "1s", prefix=hung.prefix())
    hung.until_asked()
    run.until("runs")  # the other one
    run.wait(1 + 1.5 + 2.5 + 3 + SLACK)
    assert run.status == 3, "somebody is left, and that is said"
    stuck, result = run.node("stuck"), run.result()
    assert stuck["state"] == "failed" and str(path) in stuck["error"], stuck
    assert result["left"] == 1
    (task,) = stuck["tasks"]
    assert (result["verdict"], task["verdict"], task["state"]) == ("unkillable-uninterruptible",) * 2 + ("D",), stuck
    # Supervisor and keeper give the start up at the same moment. Who of them comes first decides whether the child gets a SIGTERM, too.
    assert task["syscall"] in ("execve", "openat") and task["pending"] in (["KILL"], ["KILL", "TERM"]) and not task["frozen"], task
    assert "fuse" in " ".join([*task["stack"], task["wchan"]]) or "request_wait" in task["wchan"], task
    assert task["still_ms"] >= 0 and task["age_ms"] >= 1000
    assert run.node("beside")["verdict"] == "empty"
    assert run.node("beside")["state"] == "stopped" and not run.node("beside")["killed"]
    assert '"text":"asked"' in run.stdout.read_text(), "stopped as any other node is"
    all_gone_with_the_server(hung, traces, live, dataflow, home)


@pytest.mark.sanitized
def test_a_stop_is_not_held_up_by_a_start_from_a_hung_path(hung, beside, dataflow, live, traces, home):
    path = hung.path / "program"
    run = live(
        dataflow({"nodes": [beside, {"id": "stuck", "path": str(path)}]}), "--grace-duration", "400ms", prefix=hung.prefix()
    )
    hung.until_asked()
    run.until("runs")
    run.process.send_signal(signal.SIGINT)
    run.wait(0.6 + 2.5 + 3 + SLACK)
    assert run.status == 3
    assert run.result()["left"] == run.result()["audit"]["left_processes"] == 1
    assert run.result()["audit"]["left_cgroups"] >= 2, "its node's and its dataflow's"
    asked = next(e for e in run.events() if e["type"] == "node" and e["node"] == "beside" and e["to"] == "stopped")
    assert asked["event"] == "done"
    assert str(path) in run.node("stuck")["error"] + run.node("stuck").get("left", ""), run.node("stuck")
    all_gone_with_the_server(hung, traces, live, dataflow, home)


@pytest.mark.sanitized
def test_a_server_that_is_killed_in_time_lets_the_run_end_clean(hung, beside, dataflow, live, nothing_left):
    flow = dataflow({"nodes": [{"id": "stuck", "path": str(hung.path / "program")}, beside]})
    run = live(flow, "--grace-duration", "5s", prefix=hung.prefix())
    hung.until_asked()
    run.until("runs")
    hung.end()
    run.wait(10)
    assert run.status == 1
    assert str(hung.path) in run.node("stuck")["error"]
    assert run.result()["left"] == 0
    nothing_left()


def test_another_run_does_not_notice(hung, beside, dataflow, live, traces, home):
    flow = dataflow({"nodes": [{"id": "stuck", "path": str(hung.path / "program")}]})
    run = live(flow, "--grace-duration", "200ms", prefix=hung.prefix())
    hung.until_asked()
    other = live(dataflow({"nodes": [beside]}, "other.yml"), "--stop-after", "200ms").wait(10)
    assert other.status == 0 and other.seconds < 2 + SLACK
    assert stat_of(run.process.pid), "the first one still starts"
    run.process.send_signal(signal.SIGINT)
    run.wait(0.3 + 2.5 + 3 + SLACK)
    all_gone_with_the_server(hung, traces, live, dataflow, home)


@pytest.mark.sanitized
def test_a_log_directory_that_hangs_costs_lines_and_nothing_else(hung, script, dataflow, live, tmp_path, nothing_left):
    """The descriptor lies in an ordinary directory, `out` below it on the hung mount."""
    chatty = script("chatty", "for i in 1 2 3; do echo line $i; done")
    flow = dataflow({"nodes": [{"id": "chatty", "path": str(chatty)}]})
    (tmp_path / "out").symlink_to(hung.path / "logs")
    run = live(flow, prefix=hung.prefix())
    run.wait(2 + 3 + SLACK)
    assert [e["text"] for e in run.events() if e["type"] == "log"] == ["line 1", "line 2", "line 3"]
    assert run.node("chatty")["state"] == "stopped"
    assert any("log" in n["text"] for n in run.result()["notes"]), run.result()["notes"]
    hung.end()
    nothing_left(10)
