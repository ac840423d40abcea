# SPDX-License-Identifier: Apache-2.0
"""Somebody who hangs in the middle of execve(): he closes a file of a file system that does not answer. On Linux 6.18 whoever reads much of what /proc
has of him waits for that (base/procstat.h). Nobody does, be he one's own or a stranger."""

import os
import re
import subprocess
import time

import pytest
from conftest import eventually
from daemon import STUBBORN, plan, program
from lives import SLACK
from test_audit_host import audit  # noqa: F401
from test_hung_path import hung  # noqa: F401

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and /dev/fuse"),
    pytest.mark.usefixtures("hung"),
]

GRACE = 0.2


@pytest.fixture
def held(build, hung, daemon):  # noqa: F811
    """What executes a program, and does not get to its end before the test does; the daemon lives longer."""
    yield [str(build / "tests/supervisor/hangexec"), f"/proc/{hung.server.pid}/root{hung.path}/open"]
    if hung.server.poll() is None:
        hung.end()


def stop(daemon):
    begin = time.monotonic()
    (result,) = daemon.call("Stop", timeout=60, dataflow="flow")["results"]
    assert time.monotonic() - begin < 1.5 * GRACE + 2 + 2 + SLACK
    return result


def test_he_is_looked_at_and_told_of_and_his_stop_ends_in_time(held, hung, daemon, tidegate, audit):  # noqa: F811
    node = program("held", "")
    node["argv"] = held
    beside = program("beside", "exec sleep 1000")
    daemon.call("Start", plan=plan(node, beside), grace_ms=int(GRACE * 1000))
    hung.until_asked()
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 10), daemon.output()

    def asked(*args, status=0):
        begin = time.monotonic()
        p = tidegate(*args, "--runtime-dir", daemon.runtime)
        assert p.returncode == status and time.monotonic() - begin < 2 + SLACK, (args, p)
        return p.stdout

    assert "held" in asked("status", "flow")
    usage = {one["node"]: one for one in daemon.call("Usage", dataflow="flow")["usage"]}
    assert usage["held"]["processes"] == usage["beside"]["processes"] == 1
    row = next(line for line in asked("list").splitlines() if "flow" in line)
    assert re.search(r"\d[\d.]* [KM]iB", row), f"{row}: what they use"
    why = daemon.call("Why", dataflow="flow", node="held", timeout_ms=10_000)["why"]
    assert why["cause"] == "file-system" and "execve" in why["text"], why
    said = audit(runtime=daemon.runtime)
    assert said["complete"] and not said["strays"], said

    result = stop(daemon)
    verdicts = {n["id"]: n["verdict"] for n in result["nodes"]}
    assert verdicts == {"held": "unkillable-uninterruptible", "beside": "empty"}, result
    (task,) = next(n for n in result["nodes"] if n["id"] == "held")["tasks"]
    assert (task["comm"], task["state"], task["syscall"]) == ("hangexec", "D", "execve") and "KILL" in task["pending"], task
    assert task["still_ms"] > 500 and "age_ms" not in task, "when he began is not known, and not made up"
    assert "hangexec" in asked("status", "flow", status=3)
    hung.end()
    assert eventually(lambda: not any(n["quarantined"] for n in daemon.status("flow")["nodes"]), 10), daemon.output()


@pytest.mark.parametrize("enforcer", ["subreaper"], indirect=True)
def test_a_stranger_holds_up_no_stop_where_processes_are_looked_for(held, hung, daemon, enforcer):  # noqa: F811
    """Without cgroups everybody on the host is looked at."""
    with subprocess.Popen(held) as stranger:
        try:
            hung.until_asked()
            daemon.call("Start", plan=plan(program("deaf", STUBBORN)), grace_ms=int(GRACE * 1000))
            assert eventually(lambda: daemon.status("flow")["state"] == "running", 10)
            assert [one["processes"] >= 1 for one in daemon.call("Usage", dataflow="flow")["usage"]] == [True]
            result = stop(daemon)
            assert result["nodes"][0]["verdict"] in ("empty", "killed") and result["left"] == 0, result
        finally:
            stranger.kill()
            hung.end()
            stranger.wait(10)
