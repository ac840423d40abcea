# SPDX-License-Identifier: Apache-2.0
"""Commands that talk to a supervisor which plays conversations (fake/supervisor.py)."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "fake"))
from supervisor import FakeSupervisor  # noqa: E402


@pytest.fixture
def fake(tmp_path):
    """A supervisor in a runtime directory of its own."""
    server = FakeSupervisor(tmp_path / "run")
    yield server
    server.close()


@pytest.fixture
def talk(build, tmp_path):
    """Run a command against the runtime directory of `fake`; returns the completed process, with .seconds."""

    def run(*args, timeout=60, env=None, **kwargs):
        environment = {**os.environ, "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run"), "NO_COLOR": "1", "TZ": "UTC", **(env or {})}
        begin = time.monotonic()
        p = subprocess.run([build / "bin/tidegate", *map(str, args)], text=True, timeout=timeout, env=environment, stdin=subprocess.DEVNULL,
                           capture_output=True, **kwargs)  # fmt: skip
        p.seconds = time.monotonic() - begin
        return p

    return run


def holders(pipe):
    """Who has an end of it: a line a descriptor, with where its process is in the kernel."""
    name, found = os.readlink(f"/proc/self/fd/{pipe.fileno()}"), []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fds = os.listdir(proc / "fd")
        except OSError:
            continue
        for fd in fds:
            with contextlib.suppress(OSError):
                if os.readlink(proc / "fd" / fd) == name:
                    state = re.search(r"State:\t(.*)", (proc / "status").read_text())[1]
                    found.append(f"{proc}/fd/{fd}: {state}: {(proc / 'cmdline').read_bytes()}")
                    found.append((proc / "stack").read_text())
    return "\n".join(found)


class Talking:
    """A command that goes on while the test looks."""

    def __init__(self, process):
        self.process = process

    def interrupt(self, signo=signal.SIGINT):
        self.process.send_signal(signo)

    def finish(self, timeout=30):
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as e:
            held = [holders(p) for p in (self.process.stdout, self.process.stderr) if not p.closed]
            pytest.fail(f"no end after {timeout} s, status {self.process.poll()}; it said {e.stdout} {e.stderr}, and is held by\n" + "\n".join(held))
        self.stdout, self.stderr, self.returncode = out, err, self.process.returncode
        return self


@pytest.fixture
def talk_on(build, tmp_path):
    """Start a command against the runtime directory of `fake`; returns a Talking."""
    started = []

    def start(*args, env=None):
        environment = {**os.environ, "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run"), "NO_COLOR": "1", "TZ": "UTC", **(env or {})}
        p = subprocess.Popen([build / "bin/tidegate", *map(str, args)], text=True, env=environment, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        started.append(p)
        return Talking(p)

    yield start
    for p in started:
        if p.poll() is None:
            p.kill()
        p.communicate()
