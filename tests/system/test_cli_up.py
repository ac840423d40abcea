# SPDX-License-Identifier: Apache-2.0
"""up: the daemon in the background. Beside a copy of the command lies a tidegated that each test writes."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from conftest import MARK, eventually, marked_processes

pytestmark = pytest.mark.sanitized

FAKE = pathlib.Path(__file__).parent / "fake"
DAEMON = f"""#!{sys.executable}
import json, os, signal, sys, time
sys.path.insert(0, {str(FAKE)!r})
from supervisor import FakeSupervisor
directory = next(a for a in sys.argv if a.startswith("--runtime-dir=")).partition("=")[2]
print("daemon says hello", flush=True)
open(directory + "/arguments", "w").write(json.dumps([sys.argv[1:], os.getsid(0) == os.getpid(), os.readlink("/proc/self/fd/0"),
    [os.readlink(f"/proc/self/fd/{{n}}") for n in (1, 2)], sorted(int(n) for n in os.listdir("/proc/self/fd"))]))
@before@
server = FakeSupervisor(directory)
time.sleep(60)
"""


def daemon_that(before=""):
    """A tidegated that does @before, and then answers."""
    return DAEMON.replace("@before@", before)


@pytest.fixture
def place(build, tmp_path, traces):
    """A folder with the command and a tidegated of the test's; returns a function that writes it and runs `up`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy2(build / "bin/tidegate", folder / "tidegate")
    env = {**os.environ, MARK: traces.mark, "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run"), "PYTHONDONTWRITEBYTECODE": "1", "LD_PRELOAD": ""}

    def run(*args, daemon=daemon_that(), timeout=40):
        if daemon:
            (folder / "tidegated").write_text(daemon)
            (folder / "tidegated").chmod(0o755)
        return subprocess.run([folder / "tidegate", *map(str, args)], text=True, timeout=timeout, env=env, stdin=subprocess.DEVNULL, capture_output=True)

    yield run
    for pid in marked_processes(traces.mark):
        fd = os.pidfd_open(pid)
        if pid in marked_processes(traces.mark):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
    eventually(lambda: not marked_processes(traces.mark), 10)


def test_it_starts_the_daemon_once(place, tmp_path):
    p = place("up", "--cgroup-root", "/somewhere", "--watchdog", "7s")
    assert p.returncode == 0 and p.stderr == "", p.stderr
    pid = p.stdout.split("supervisor ")[1].split(",")[0]
    assert p.stdout.startswith("tidegated runs: supervisor ") and str(tmp_path / "run") in p.stdout
    arguments, leads, stdin, outs, fds = json.loads((tmp_path / "run/arguments").read_text())
    assert arguments == [f"--runtime-dir={tmp_path}/run", "--cgroup-root=/somewhere", "--watchdog=7s"]
    assert leads and stdin == "/dev/null" and outs == [f"{tmp_path}/run/tidegated.log"] * 2
    assert max(fds) <= 4  # nothing of ours was inherited (3, 4: its own file and listing)
    assert "daemon says hello" in (tmp_path / "run/tidegated.log").read_text()
    assert (tmp_path / "run/tidegated.log").stat().st_mode & 0o777 == 0o640
    again = place("up", daemon=None)
    assert again.returncode == 0 and again.stdout.startswith(f"tidegated is running already: supervisor {pid},")


def test_json_says_whether_it_was_started(place):
    assert json.loads(place("up", "--json").stdout)["started"] is True
    assert json.loads(place("up", "--json", daemon=None).stdout)["started"] is False


def test_a_daemon_that_is_slow_to_answer_is_waited_for(place):
    p = place("up", daemon=daemon_that("time.sleep(1)"))
    assert p.returncode == 0, p.stderr


def test_a_daemon_that_ends_is_told_with_the_end_of_its_log(place):
    p = place("up", daemon='#!/bin/sh\necho "no cgroup can be made" >&2\nexit 3\n')
    assert p.returncode == 1 and "exited with status 3" in p.stderr and "no cgroup can be made" in p.stderr


def test_a_daemon_that_never_answers_is_not_waited_for_for_ever(place):
    p = place("up", "--timeout", "1s", daemon="#!/bin/sh\necho starting\nexec sleep 60\n")
    assert p.returncode == 5 and "did not answer within 1 s" in p.stderr and "starting" in p.stderr


def test_one_that_is_there_but_silent_is_not_doubled(place, fake, tmp_path):
    fake.answers["GetHealth"] = lambda c, p: c.silence()
    p = place("up", "--timeout", "0.4s", daemon="#!/bin/sh\ntouch $0.was-started\n")
    assert p.returncode == 5 and "does not answer" in p.stderr
    assert not (tmp_path / "bin/tidegated.was-started").exists()


def test_one_that_dies_of_the_question_is_followed(place, fake):
    """It was killed, and its socket still took a connection."""

    def die(connection, _):
        fake.listener.shutdown(socket.SHUT_RDWR)
        connection.hang_up()

    fake.answers["GetHealth"] = die
    p = place("up")
    assert p.returncode == 0 and p.stdout.startswith("tidegated runs: supervisor "), p.stderr


def test_one_whose_guard_makes_another_is_there(place, fake):
    def die(connection, _):
        fake.answers["GetHealth"] = lambda c, p: c.reply(health=fake.health())
        connection.hang_up()

    fake.answers["GetHealth"] = die
    p = place("up")
    assert p.returncode == 0 and p.stdout.startswith("tidegated is running already: supervisor "), p.stderr


def test_two_at_once_agree(place, tmp_path):
    """The one whose daemon does not get the lock finds the other's."""
    lock = "import fcntl; f = open(directory + '/lock', 'w')\ntry: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: sys.exit(1)"
    import concurrent.futures

    place("version", daemon=daemon_that(lock))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: place("up", daemon=None), range(2)))
    assert [p.returncode for p in both] == [0, 0], [p.stderr for p in both]
    assert len({p.stdout.split("supervisor ")[1].split(",")[0] for p in both}) == 1


def test_without_tidegated_it_says_so(place):
    p = place("up", daemon=None)
    assert p.returncode == 1 and "cannot find tidegated beside this program" in p.stderr


def test_a_directory_that_cannot_be_made_is_told(place, tmp_path):
    p = place("up", "--runtime-dir", tmp_path / "no/such")
    assert p.returncode == 1 and "No such file or directory" in p.stderr
