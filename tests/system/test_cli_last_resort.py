# SPDX-License-Identifier: Apache-2.0
"""status, list, stop and down when nobody answers: from the status page, and through real cgroups."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from conftest import eventually
from lives import stat_of
from supervisor import dataflow, node

pytestmark = pytest.mark.sanitized
UUID = "aaaa0000-1111-4000-8000-000000000000"
OTHER = "bbbb0000-1111-4000-8000-000000000000"


@pytest.fixture
def page(build, fake, home, tmp_path):
    """Write the page of a supervisor with the given dataflows; returns its process. The socket is there and says nothing."""
    for method in ("GetHealth", "List", "Status"):
        fake.answers[method] = lambda c, p: c.silence()
    started = []

    def write(*dataflow_and_nodes, guard=1):
        p = subprocess.Popen([build / "tests/system/fake_page", tmp_path / "run", str(guard), home, *dataflow_and_nodes], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
        started.append(p)
        assert p.stdout.readline() == "ready\n"
        return p

    yield write
    for p in started:
        p.kill()
        p.communicate()


@pytest.fixture
def victims(home):
    """Processes of the dataflow UUID, in node cgroups of their own: `victims(node, script)`, which has done @first by then."""
    top, started = home / UUID, []
    top.mkdir()

    def start(node, script, first=":"):
        leaf = top / f"{node}.1"
        leaf.mkdir(exist_ok=True)
        p = subprocess.Popen(["/bin/sh", "-c", f"{first}; echo $$ > {leaf}/cgroup.procs; {script}"], start_new_session=True)
        started.append(p)
        assert eventually(lambda: str(p.pid) in (leaf / "cgroup.procs").read_text().split(), 20)
        return p

    yield start
    (top / "cgroup.kill").write_text("1")
    for p in started:
        p.wait(20)
    eventually(lambda: "populated 0" in (top / "cgroup.events").read_text(), 10)
    for leaf in top.glob("*.1"):
        leaf.rmdir()
    top.rmdir()


def test_status_and_list_are_from_the_page_and_say_so(talk, page):
    page("camera", UUID, "grab", "show")
    p = talk("status", "--timeout", "0.3s")
    assert p.returncode == 5 and "this is from its status page" in p.stderr
    assert re.fullmatch(r"camera:grab {22}RUNNING   pid 4711, uptime 0:02:3\d", p.stdout.splitlines()[0]) and len(p.stdout.splitlines()) == 2
    assert talk("status", "--timeout", "0.3s", "camera:show").stdout.startswith("camera:show ")
    p = talk("status", "--timeout", "0.3s", "nobody")
    assert p.returncode == 5 and p.stdout == "" and "knows no such dataflow" in p.stderr
    p = talk("list", "--timeout", "0.3s")
    assert p.returncode == 5 and p.stdout.splitlines()[1].split()[:4] == [UUID, "camera", "running", "2/2"]


def test_json_says_where_it_is_from(talk, page, home):
    supervisor = page("camera", UUID, "grab")
    supervisor.send_signal(signal.SIGSTOP)
    assert eventually(lambda: stat_of(supervisor.pid)[0] == "T", 10)
    p = talk("status", "--timeout", "0.3s", "--json")
    said = json.loads(p.stdout)
    assert said["source"] == "status page" and said["verdict"] == "wedged" and said["reason"] == "stopped"
    assert said["dataflows"][0]["nodes"][0]["state"] == "running" and said["dataflows"][0]["cgroup"] == f"{home}/{UUID}"


def test_stop_ends_the_dataflow_from_here(talk, page, victims):
    tame, wild = victims("grab", "exec sleep 60"), victims("show", "while :; do sleep 0.1; done", first="trap '' TERM")
    supervisor = page("camera", UUID, "grab", "show")
    supervisor.send_signal(signal.SIGSTOP)
    p = talk("stop", "camera", "--timeout", "0.3s", "--grace-duration", "1s")
    assert p.returncode == 0, p.stderr
    assert "stopping from here what its status page names" in p.stderr
    assert re.search(r"camera: \+0\.\d{3} s  command  \d+ processes: empty", p.stdout)
    assert tame.wait(5) == -signal.SIGTERM and wild.wait(5) == -signal.SIGKILL and p.seconds < 8


@pytest.mark.parametrize("args", [["stop", UUID[:6]], ["stop"], ["stop", "--all"], ["stop", "--force", UUID]], ids=" ".join)
def test_it_is_found_however_it_is_named(talk, page, victims, args):
    tame = victims("grab", "exec sleep 60")
    page("camera", UUID, "grab").kill()
    p = talk(*args, "--timeout", "0.3s", "--grace-duration", "4s")
    assert p.returncode == 0, p.stderr
    assert tame.wait(5) == (-signal.SIGKILL if "--force" in args else -signal.SIGTERM)


def test_a_dead_daemon_is_stopped_from_its_page_too(talk, page, victims, fake):
    """Supervisor and guard are dead; the socket is a file without a listener."""
    tame = victims("grab", "exec sleep 60")
    page("camera", UUID, "grab").kill()
    fake.vanish()
    p = talk("stop", "camera")
    assert p.returncode == 0 and tame.wait(5) == -signal.SIGTERM


def test_who_is_not_named_is_left_alone(talk, page, victims):
    mine = victims("grab", "exec sleep 60")
    page("other", OTHER, "grab")
    assert talk("stop", "camera", "--timeout", "0.3s").returncode == 4
    p = talk("stop", "other", "--timeout", "0.3s")
    assert p.returncode == 0 and "0 processes: empty" in p.stdout  # its cgroup is not even there
    assert mine.poll() is None


def test_a_page_that_anybody_may_write_kills_nobody(talk, page, victims, tmp_path):
    mine = victims("grab", "exec sleep 60")
    page("camera", UUID, "grab")
    for name in (tmp_path / "run").glob("status*"):
        name.chmod(0o666)
    p = talk("stop", "camera", "--timeout", "0.3s")
    assert p.returncode == 5 and mine.poll() is None


def test_down_ends_all_and_the_guard(talk, page, victims, tmp_path):
    tame = victims("grab", "exec sleep 60")
    shutil.copy2("/bin/sleep", tmp_path / "tidegate-guard")
    guard = subprocess.Popen([tmp_path / "tidegate-guard", "60"])
    page("camera", UUID, "grab", guard=guard.pid)
    try:
        done = talk("down", "--timeout", "0.3s", timeout=60)
        assert tame.wait(5) == -signal.SIGTERM
        assert f"SIGTERM to the guard (pid {guard.pid})" in done.stdout
        assert done.returncode == 0, done.stderr
        assert guard.wait(5) == -signal.SIGTERM
    finally:
        guard.kill()
        guard.wait()


def test_down_signals_nobody_who_is_not_the_guard(talk, page):
    bystander = subprocess.Popen(["sleep", "60"])
    page("camera", UUID, "grab", guard=bystander.pid)
    try:
        p = talk("down", "--timeout", "0.3s")
        assert p.returncode == 0 and "SIGTERM to the guard" not in p.stdout and bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_page_of_one_that_answers_is_not_asked(talk, page, fake):
    page("camera", UUID, "grab")
    fake.dataflows = [dataflow("audio", node("x", pid=os.getpid()))]
    fake.answers["Status"] = fake.status
    p = talk("status")
    assert p.returncode == 0 and "audio:x" in p.stdout and "camera" not in p.stdout
