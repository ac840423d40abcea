# SPDX-License-Identifier: Apache-2.0
"""A stuck dataflow and a wedged supervisor, told apart by `status` and `doctor`: since when, and what to do."""

import json
import re
import select
import signal
import subprocess

import pytest
from conftest import eventually
from lives import Process, stat_of

pytestmark = pytest.mark.sanitized

STREAM = """\
nodes:
  - id: count
    path: {nodes}/count
    outputs: [out]
  - id: check
    path: {nodes}/check
    args: {seen} 1000
    stuck_timeout: 0.5
    inputs:
      in: {{source: count/out, queue_size: 4, queue_policy: backpressure}}
"""
TO_DO = "to do: `tidegate logs stream check` for what it said last, then `tidegate node restart stream check`"


@pytest.fixture
def daemon(start_daemon):
    return start_daemon("--watchdog", "0")  # nobody replaces a supervisor that we stop


def check_of(daemon):
    return next(n for n in daemon.status("stream")["nodes"] if n["id"] == "check")


def stopped(pid):
    """The process, once it is stopped: the signal alone is no more than said."""
    process = Process(pid)
    process.send(signal.SIGSTOP)
    assert eventually(lambda: stat_of(pid)[0] == "T", 10)
    return process


def has_ended(process, seconds=0):
    return bool(select.select([process.fd], [], [], seconds)[0])


@pytest.fixture
def tell(build, daemon):
    def tell(verb, *args, seconds=30):
        command = [build / "bin/tidegate", verb, "--runtime-dir", daemon.runtime, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)

    return tell


@pytest.fixture
def stuck(build, daemon, tell, tmp_path):
    """A dataflow whose consumer is stopped by a signal, and is known to be stuck; the consumer's process."""
    file = tmp_path / "stream.yml"
    file.write_text(STREAM.format(nodes=build / "tests/system", seen=tmp_path / "seen"))
    p = tell("start", "--detach", file)
    assert p.returncode == 0, p.stderr
    check = Process(check_of(daemon)["pid"])
    check.send(signal.SIGSTOP)
    assert eventually(lambda: check_of(daemon)["health"] == "stuck", 10)
    yield check
    check.send(signal.SIGCONT)
    check.close()


def test_a_stuck_dataflow_is_told_with_since_when_and_what_to_do(stuck, tell):
    p = tell("status")
    assert re.search(r"^stream STUCK for \d+\.\d s: node check has taken nothing for \d+\.\d s, \d messages in its queue$", p.stdout, re.M), p.stdout
    assert TO_DO in p.stdout
    p = tell("doctor")
    assert re.search(r"^supervisor  ok, pid \d+, running, up \d+\.\d s$", p.stdout, re.M), p.stdout
    assert re.search(r"^            STUCK for \d+\.\d s: node check", p.stdout, re.M) and TO_DO in p.stdout
    said = json.loads(tell("doctor", "--json").stdout)["daemon"]
    assert (said["verdict"], said["guard"], [d["name"] for d in said["stuck"]]) == ("stuck", "ok", ["stream"])


def test_a_dataflow_that_goes_on_is_not_stuck_any_more(stuck, tell, daemon):
    stuck.send(signal.SIGCONT)
    assert eventually(lambda: check_of(daemon)["health"] != "stuck", 10)
    # It may rest for half a second again, where others have the processor.
    assert eventually(lambda: "STUCK" not in tell("status").stdout + tell("doctor").stdout, 20)


def test_a_wedged_supervisor_takes_priority(stuck, tell, daemon):
    supervisor = stopped(daemon.supervisor())
    p = tell("doctor")
    assert p.returncode == 1
    assert re.search(rf"^supervisor  WEDGED for (at most )?\d+\.\d s: the supervisor \(pid {supervisor.pid}\) is stopped by a signal$", p.stdout, re.M), p.stdout
    assert f"to do: kill -CONT {supervisor.pid}" in p.stdout
    assert p.stdout.index("WEDGED") < p.stdout.index("STUCK")
    said = json.loads(tell("doctor", "--json").stdout)["daemon"]
    assert (said["verdict"], said["reason"], said["pid"]) == ("wedged", "stopped", supervisor.pid)
    p = tell("status", "--timeout", "0.3s")
    assert p.returncode == 5 and re.search(r"WEDGED for (at most )?\d+\.\d s: the supervisor does not answer", p.stderr), p.stderr
    supervisor.send(signal.SIGCONT)
    supervisor.close()
    assert tell("status").returncode == 0


def test_without_a_daemon_the_doctor_says_so(build, tmp_path):
    p = subprocess.run([build / "bin/tidegate", "doctor", "--runtime-dir", tmp_path], capture_output=True, text=True, timeout=60)
    assert f"none runs in {tmp_path}: `tidegate up` starts one" in " ".join(p.stdout.split())


def test_without_the_daemon_nobody_outside_the_given_cgroup_root_is_touched(stuck, tell, daemon, home):
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    supervisor = stopped(daemon.supervisor())
    p = tell("stop", "stream", "--force", "--timeout", "0.3s", "--cgroup-root", elsewhere)
    assert p.returncode == 5 and f"is not below {elsewhere}; nothing was done" in p.stderr
    p = tell("down", "--force", "--timeout", "0.3s", "--cgroup-root", elsewhere)
    assert p.returncode == 5 and "nothing was done" in p.stderr, p.stderr
    assert not has_ended(stuck) and daemon.process.poll() is None
    p = tell("stop", "stream", "--force", "--timeout", "0.3s", "--cgroup-root", home)
    assert p.returncode == 0, p.stderr
    assert has_ended(stuck, 5)
    supervisor.send(signal.SIGCONT)
    supervisor.close()
    elsewhere.rmdir()


def test_down_leaves_a_daemon_alone_that_is_not_below_the_given_cgroup_root(tell, daemon, home):
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    supervisor = stopped(daemon.supervisor())
    p = tell("down", "--force", "--timeout", "0.3s", "--cgroup-root", elsewhere)
    supervisor.send(signal.SIGCONT)
    supervisor.close()
    elsewhere.rmdir()
    assert p.returncode == 5 and "its guard was left alone" in p.stderr, p.stderr
    assert daemon.process.poll() is None and tell("status").returncode == 0
