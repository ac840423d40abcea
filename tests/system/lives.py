# SPDX-License-Identifier: Apache-2.0
"""Runs that are looked at, signalled and killed while they live: who their processes are, and what they say as JSON."""

import contextlib
import json
import os
import pathlib
import re
import signal
import time

import pytest
from conftest import MARK, Run, end_runs, eventually, liars_of, marked_processes, unified_root
from plain import directories_in

SLACK = 3.0  # seconds that a busy machine may add to a bound; never to what tidegate measures itself
LONG = os.environ.get("TIDEGATE_LONG") == "1"


# Processes, found by their parents and signalled through pidfds: never by name, never by a number kept for later


def stat_of(pid):
    """(state, parent) of a process, or None when it is gone. From status, which waits for nobody (base/procstat.h)."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    return re.search(r"\nState:\t(.)", status)[1], int(re.search(r"\nPPid:\t(\d+)", status)[1])


def children_of(pid):
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and (s := stat_of(p)) and s[1] == pid]


def arguments_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def status_field(pid, name):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    return None


class Process:
    """One process of a run, held by its pidfd: a recycled pid cannot be meant."""

    def __init__(self, pid):
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def send(self, signo):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, signo)

    def close(self):
        os.close(self.fd)


class Live(Run):
    """One `tidegate run` and the processes behind it."""

    def guard(self):
        return next((p for p in children_of(self.process.pid) if "--private" in arguments_of(p)), None)

    def part(self, name):
        """The pid of "command", "guard", "supervisor" or "keeper"; None when there is none now."""
        if name == "command":
            return self.process.pid if self.process.poll() is None else None
        guard = self.guard()
        if name == "guard" or guard is None:
            return guard
        return next((p for p in children_of(guard) if f"--role={name}" in arguments_of(p)), None)

    def take(self, name, seconds=20.0):
        """The part as a Process, waiting for it to appear."""
        pid = eventually(lambda: self.part(name), seconds)
        assert pid, f"no {name} after {seconds} s\n{self.output()}"
        return Process(pid)

    def kill(self, name):
        """SIGKILL; False when there was nobody of that name."""
        pid = self.part(name)
        if pid is None:
            return False
        try:
            process = Process(pid)
        except ProcessLookupError:
            return False
        process.send(signal.SIGKILL)
        process.close()
        return True

    def output(self):
        text = super().output()
        return text if len(text) < 6000 else text[:2000] + "\n[...]\n" + text[-4000:]

    def until(self, pattern, seconds=30.0):
        """Wait until the output matches; returns the match."""
        found = eventually(lambda: re.search(pattern, super(Live, self).output(), re.MULTILINE), seconds)
        assert found, f"no `{pattern}` within {seconds} s:\n{self.output()}"
        return found

    def events(self):
        """What --json has told so far, whole lines only."""
        text = self.stdout.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def result(self):
        """The last line of --json."""
        lines = self.stdout.read_text().splitlines()
        assert lines, self.output()
        result = json.loads(lines[-1])
        assert result["type"] == "result", self.output()
        return result

    def node(self, id):
        """What the result says of a node."""
        return next(n for n in self.result()["nodes"] if n["id"] == id)

    def until_event(self, seconds=30.0, **fields):
        """Wait for an event with these fields; returns the first."""

        def find():
            return next((e for e in self.events() if fields.items() <= e.items()), None)

        event = eventually(find, seconds)
        assert event, f"no event {fields} within {seconds} s:\n{self.output()}"
        return event


@pytest.fixture
def home(traces, enforcer, tmp_path):
    """A cgroup of the test's own in which its instances are made, so that no other run sweeps or counts them. Or a directory, without cgroups."""
    if "cgroup" not in enforcer:
        path = tmp_path / "home"
        path.mkdir()
        yield path
        assert cgroups_in(path) == [], "directories were left behind"
        return
    top = unified_root()
    if not top or not os.access(top, os.W_OK):
        pytest.skip("needs a cgroup v2 hierarchy that may be written")
    path = top / f"tidegate-test-{traces.mark[:12]}"
    path.mkdir()
    traces.elsewhere = True
    yield path
    left = directories_in(path)
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    eventually(lambda: "populated 0" in (path / "cgroup.events").read_text(), 5)
    for p in sorted(left, reverse=True):
        with contextlib.suppress(OSError):
            p.rmdir()
    path.rmdir()
    assert left == [], "cgroups were left behind"


def cgroups_in(home):
    return [str(p.relative_to(home)) for p in directories_in(home)]


@pytest.fixture
def live(build, node_environment, traces, home, enforcer, tmp_path, request):
    """Start `tidegate run DESCRIPTOR ARGS...` in the test's own cgroup; returns a Live."""
    runs = []

    def start(descriptor, *args, cwd=None, env=None, json=True, prefix=()):
        """@prefix: a command that ends by executing its arguments."""
        directory = tmp_path / f"live-{len(runs)}"
        directory.mkdir()
        command = [*prefix, build / "bin/tidegate", "run", str(descriptor), "--cgroup-root", str(home), "--enforcer", enforcer, *map(str, args)]
        environment = {**node_environment, MARK: traces.mark, **(env or {})}
        run = Live(command + (["--json"] if json else []), environment, cwd or tmp_path, directory)
        runs.append(run)
        return run

    yield start
    end_runs(runs, traces.mark, liars_of(request))


@pytest.fixture
def nothing_left(traces, home):
    """Call it to assert that nobody and nothing of the runs is there; waits a little for what just ends."""

    def check(seconds=SLACK):
        begin = time.monotonic()
        eventually(lambda: not marked_processes(traces.mark) and not cgroups_in(home), seconds)
        assert marked_processes(traces.mark) == {}
        assert cgroups_in(home) == []
        return time.monotonic() - begin

    return check


@pytest.fixture
def script(tmp_path):
    """Write an executable shell script; returns its path."""

    def write(name, body, interpreter="/bin/sh"):
        path = tmp_path / name
        path.write_text(f"#!{interpreter}\n{body}\n")
        path.chmod(0o755)
        return path

    return write
