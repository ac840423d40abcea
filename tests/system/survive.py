# SPDX-License-Identifier: Apache-2.0
"""A daemon whose parts are killed and stopped while it works: who they are, what it says of itself afterwards, and that at the end nothing is left."""

import contextlib
import os
import pathlib
import re
import signal
import struct
import time

import pytest
from client import Client
from conftest import MARK, counters_agree, eventually, liars_of, marked_processes
from daemon import Daemon, plan, program
from lives import SLACK, Process, arguments_of, cgroups_in, stat_of, status_field

ADOPTED = re.compile(r"adopted (\d+), lost (\d+), duplicated (\d+) in (\d+) ms")


def is_killed(pid):
    """SIGKILL is on its way, or it is gone: it does nothing any more, however long it stands there."""
    try:
        return bool(int(status_field(pid, "ShdPnd"), 16) >> (signal.SIGKILL - 1) & 1)
    except OSError:
        return True


class Survivor(Daemon):
    """A Daemon whose first process need not be its guard any more."""

    def __init__(self, command, env, directory, home, mark, enforcer="cgroup"):
        self.mark, self.command, self.env = mark, command, env
        super().__init__(command, env, directory, home, enforcer=enforcer)

    def again(self):
        """Another `tidegated` on the same directory, after the first one has died."""
        self.process.wait(10)
        before = self.log.read_text() if self.log.exists() else ""
        super().__init__(self.command, self.env, self.runtime.parent, self.home, enforcer=self.enforcer)
        self.before = before

    # Who is who

    def guard_pid(self):
        """The one that holds the lock, as it says itself."""
        try:
            pid = int((self.runtime / "lock").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if self.is_ours(pid) and not is_killed(pid) else None

    def is_ours(self, pid):
        return pid in marked_processes(self.mark)

    def parts(self, role):
        """Pids of the processes in that role. A guard that was a supervisor has no parent of ours: they are found by their mark. So is a keeper's child
        that has not executed its node yet, and it is not meant."""
        if role == "guard":
            return [p for p in [self.guard_pid()] if p]
        found = {p for p in marked_processes(self.mark) if f"--role={role}" in arguments_of(p) and not is_killed(p)}
        return sorted(p for p in found if (s := stat_of(p)) and s[1] not in found)

    def take(self, role, index=0):
        def found():
            with contextlib.suppress(IndexError, ProcessLookupError):  # one that was killed before may be found and be gone: another comes
                return Process(self.parts(role)[index])

        process = eventually(found, 10)
        assert process, f"there is no {role}\n{self.output()}"
        return process

    def send(self, *roles, signo=signal.SIGKILL):
        """A signal to the first of each of these, all at once."""
        processes = [self.take(role) for role in roles]
        for process in processes:
            process.send(signo)
        for process in processes:
            process.close()
        return [process.pid for process in processes]

    def kill_both(self):
        """Guard and supervisor, neither of which sees the other one die: it would make another."""
        guard = self.send("guard", signo=signal.SIGSTOP)[0]
        self.send("supervisor")
        self.send_to(guard, signal.SIGKILL)

    def send_to(self, pid, signo):
        """To one that may just have ended."""
        try:
            process = Process(pid)
        except ProcessLookupError:
            return
        process.send(signo)
        process.close()

    # What it says

    def health(self):
        return self.call("GetHealth")["health"]

    def talk(self, method, seconds=10, **parameters):
        """A call that is repeated while nobody answers: its connection may have been a dead supervisor's."""
        end = time.monotonic() + seconds
        while True:
            try:
                with Client(self.socket, timeout=max(0.2, end - time.monotonic())) as client:
                    return client.call(method, **parameters)
            except (OSError, EOFError) as e:
                if time.monotonic() > end:
                    raise AssertionError(f"no answer to {method} within {seconds} s: {e!r}\n{self.output()}") from None
                time.sleep(0.01)

    def nodes(self):
        """(dataflow, node): what Status says of each."""
        return {(d["name"], n["id"]): n for d in self.talk("Status")["dataflows"] for n in d["nodes"]}

    def pids(self):
        return {key: n["pid"] for key, n in self.nodes().items() if n["state"] == "running"}

    def adoptions(self):
        """(adopted, lost, duplicated, ms) of each change of supervisors, from the log."""
        return [tuple(map(int, m)) for m in ADOPTED.findall(self.log.read_text(errors="replace"))]

    def until_adopted(self, n, seconds=10):
        """The n-th adoption since the beginning; n from 1."""
        found = eventually(lambda: self.adoptions()[n - 1 :], seconds)
        assert found, f"no {n}. adoption within {seconds} s\n{self.output()}"
        return found[0]

    # The end

    def end(self, seconds=30):
        for client in self.clients:
            client.close()
        # Who is to become the guard after one that was killed is not the guard for a moment, and no supervisor.
        pid = eventually(lambda: self.guard_pid() or not any("tidegated" in c.split(" ")[0] for c in marked_processes(self.mark).values()), 10)
        if isinstance(pid, bool):
            return self.process.wait(10)
        guard = Process(pid)
        guard.send(signal.SIGTERM)
        ended = eventually(lambda: (s := stat_of(pid)) is None or s[0] == "Z", seconds)
        guard.close()
        if not ended:
            for p in marked_processes(self.mark):
                self.send_to(p, signal.SIGKILL)
            pytest.fail(f"the daemon did not end:\n{self.output()}")
        return self.process.wait(10)


@pytest.fixture
def survivor(build, node_environment, traces, home, enforcer, tmp_path, request):
    """Start `tidegated ARGS...`; returns a Survivor that answers. At the end nothing of it may be left."""
    daemons = []

    def start(*args, env=None, program=build / "bin/tidegated"):
        directory = tmp_path / f"daemon-{len(daemons)}"
        directory.mkdir()
        command = [program, *map(str, args)]
        daemons.append(Survivor(command, {**node_environment, MARK: traces.mark, **(env or {})}, directory, home, traces.mark, enforcer))
        daemons[-1].wait_until_ready()
        return daemons[-1]

    yield start
    lies = [lie for daemon in daemons for lie in daemon.lies(liars_of(request))]
    for daemon in daemons:
        daemon.end()
        counters_agree(daemon.log.read_text(errors="replace"), liars_of(request))
    assert lies == []
    for daemon in daemons:
        left = eventually(lambda: not any(daemon.left(traces.mark).values()), SLACK) or daemon.left(traces.mark)
        assert left is True, f"the daemon left {left}\n{daemon.output()}"


# Dataflows


@pytest.fixture
def withhold(build, tmp_path):
    """A file, and the environment of a daemon whose messages of the type that is written into it do not leave it."""
    file = tmp_path / "withhold"
    return file, {"LD_PRELOAD": str(build / "tests/system/libwithhold.so"), "TIDEGATE_WITHHOLD": str(file)}


def node(id, argv, inputs=(), outputs=(), **keys):
    """A node with links. inputs: (id, source node, output), all under backpressure."""
    ports = [{"id": i, "line": 1, "source": {"node": n, "output": o}, "queue_size": 10, "queue_policy": "backpressure",
              "input_timeout_ns": 0} for i, n, o in inputs]  # fmt: skip
    return {**program(id, ""), "kind": "node", "argv": list(map(str, argv)), "inputs": ports, "outputs": list(outputs), **keys}


def restarting(policy="on-failure", delay=0.05, max_delay=0.0, max_restarts=0, window=0.0):
    s = 10**9
    return {"policy": policy, "max_restarts": max_restarts, "delay_ns": int(delay * s), "max_delay_ns": int(max_delay * s), "window_ns": int(window * s)}


def stream(build, file, name="stream"):
    """count -> relay -> check: a numbered stream that fills its queues."""
    nodes = build / "tests/system"
    return plan(
        node("count", [nodes / "count"], outputs=["out"]),
        node("relay", [nodes / "relay"], inputs=[("in", "count", "out")], outputs=["out"]),
        node("check", [nodes / "check", file, 100], inputs=[("in", "relay", "out")]),
        name=name,
    )


class Seen:
    """What `check` has counted so far: messages, and those that were not the one expected."""

    def __init__(self, file):
        self.file = pathlib.Path(file)

    def all(self):
        """(messages, wrong, the one expected next, how many of its lives were killed when one may have been in their hands that they had not noted)"""
        try:
            messages, wrong, expects, _, n_killed = struct.unpack("=QQQQQ", self.file.read_bytes())
            return messages, wrong, expects, n_killed
        except (OSError, struct.error):
            return 0, 0, 0, 0

    def both(self):
        return self.all()[:2]

    def messages(self):
        return self.both()[0]

    def wrong(self):
        return self.both()[1]

    def until_more(self, n=50, seconds=5):
        """Data flows: n messages more than there are now."""
        before = self.messages()
        return eventually(lambda: self.messages() >= before + n, seconds, step=0.002)


def appends(file, then="exit 0"):
    """A script that writes one line into a file, and then does what is said: run twice, it would write two."""
    return f"echo run >> {file}; {then}"


def lines(file):
    return len(file.read_text().splitlines()) if file.exists() else 0


def left_in(home):
    return cgroups_in(home)


def n_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
