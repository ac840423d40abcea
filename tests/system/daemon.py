# SPDX-License-Identifier: Apache-2.0
"""A daemon of the test's own: started, talked to over its control socket, ended by SIGTERM, and nothing may be left of it."""

import os
import pathlib
import signal
import subprocess
import time

import pytest
from conftest import MARK, counters_agree, eventually, liars_of, marked_processes
from client import Client
from plain import plan, program  # noqa: F401 tests take them from here
from lives import arguments_of, cgroups_in, children_of, stat_of, status_field


class Daemon:
    def __init__(self, command, env, directory, home, preexec=None, enforcer="cgroup"):
        self.runtime = directory / "runtime"
        self.socket = self.runtime / "control.sock"
        self.log = directory / "tidegated.log"
        self.home, self.enforcer = home, enforcer
        self.clients = []
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, *self.places()],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=preexec,
            )  # fmt: skip

    def places(self):
        return ["--runtime-dir", self.runtime, "--cgroup-root", self.home, *(["--enforcer", self.enforcer] if self.enforcer != "cgroup" else [])]

    def client(self, **kwargs):
        client = Client(self.socket, **kwargs)
        self.clients.append(client)
        return client

    def call(self, method, **parameters):
        with Client(self.socket) as client:
            return client.call(method, **parameters)

    def output(self):
        return self.log.read_text(errors="replace")[-20000:]

    def wait_until_ready(self):
        def answers():
            if self.process.poll() is not None:
                pytest.fail(f"tidegated ended with status {self.process.returncode}:\n{self.output()}")
            try:
                return self.call("GetHealth")
            except (FileNotFoundError, ConnectionError, EOFError):  # or it was the listener of one that was killed, and is going
                return None

        assert eventually(answers, 10), self.output()

    def supervisor(self):
        """Its pid. The kernel's list of children may leave one out while others come and go."""
        return eventually(lambda: next((p for p in children_of(self.process.pid) if "--role=supervisor" in arguments_of(p)), None), 5)

    def status(self, name):
        return self.call("Status", names=[name])["dataflows"][0]

    def hang_up(self):
        for client in self.clients:
            client.close()

    def lies(self, liars=(), seconds=5):
        """Links of dataflows that still run whose counters agree at no quiet moment within that time. [] if nobody answers: they have ended, and the
        supervisor has looked at each (counters_agree)."""
        self.hang_up()
        deadline = time.monotonic() + seconds
        try:
            with Client(self.socket, timeout=seconds) as client:
                while any(d["state"] != "ended" for d in client.call("List")["dataflows"]):
                    found = [lie for d in client.call("Status", links=True)["dataflows"] for n in d["nodes"] for lie in lies_of(n)]
                    found = [(still, text) for still, text in found if not any(liar in text for liar in liars)]
                    if not found or time.monotonic() > deadline:
                        return [text for still, text in found if still]
                    time.sleep(0.01)
        except (OSError, EOFError):
            pass  # or its supervisor was killed a moment ago, and the next one will look at their ends
        return []

    def end(self, seconds=30):
        """SIGTERM to the process that was started, and its exit status."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            pytest.fail(f"the daemon did not end:\n{self.output()}")

    def left(self, mark):
        return {
            "processes": marked_processes(mark),
            "cgroups": cgroups_in(self.home),
            "files": sorted(os.listdir(self.runtime)) if self.runtime.exists() else [],
        }


def stands(node):
    """Its process is gone, or stopped wherever it was."""
    try:
        return node["frozen"] or not node["pid"] or status_field(node["pid"], "State")[0] in "TtZX"
    except OSError:
        return True


def lies_of(node):
    """(whether nothing moved meanwhile, link and counters) where they do not agree. A look during which nothing moved is a quiet moment, except of
    a consumer that stands in the middle of telling: it has counted already what its tail does not say yet (shm/counters.h), so that nothing is
    missing and something is there twice."""
    for link in node.get("links", []):
        c = link.get("counters")
        if link["state"] not in ("active", "closed") or not c:
            continue
        told = c["delivered"] + sum(c["dropped"].values()) + c["depth"]
        if c["still"] and c["adds_up"] and told == c["published"]:
            continue
        if not (stands(node) and told >= c["published"]):
            yield c["still"], f"{link['source']}/{link['output']} -> {node['id']}/{link['input']}: {c}"


@pytest.fixture
def start_daemon(build, node_environment, traces, home, enforcer, tmp_path, request):
    """Start `tidegated ARGS...`; returns a Daemon that answers. At the end nothing of it may be left."""
    daemons = []

    def start(*args, env=None, preexec=None, directory=None, prefix=()):
        """@prefix: a command that ends by executing its arguments."""
        directory = pathlib.Path(directory or tmp_path / f"daemon-{len(daemons)}")
        directory.mkdir(exist_ok=True)
        environment = {**node_environment, MARK: traces.mark, **(env or {})}
        daemons.append(Daemon([*prefix, build / "bin/tidegated", *map(str, args)], environment, directory, home, preexec, enforcer))
        daemons[-1].wait_until_ready()
        return daemons[-1]

    yield start
    lies = [lie for daemon in daemons for lie in daemon.lies(liars_of(request))]
    statuses = [daemon.end() for daemon in daemons]
    assert lies == []
    for daemon, status in zip(daemons, statuses):
        if daemon.log.exists():  # a test may have removed its folder, and does before this
            counters_agree(daemon.log.read_text(errors="replace"), liars_of(request))
        left = eventually(lambda: not any(daemon.left(traces.mark).values()), 3) or daemon.left(traces.mark)
        assert left is True, f"the daemon left {left}\n{daemon.output()}"
        assert status == 0, daemon.output()


@pytest.fixture
def daemon(start_daemon):
    return start_daemon()


# A program that does not hear SIGTERM: it runs before its shell has read that it shall not.
STUBBORN = "trap '' TERM INT HUP\nwhile :; do sleep 0.1; done"


def until_deaf(daemon, name="flow"):
    """Every STUBBORN node of the dataflow that runs ignores SIGTERM by now."""

    def deaf(pid):
        arguments = " ".join(arguments_of(pid))
        if not arguments and (s := stat_of(pid)) and s[0] != "Z":
            return False  # in the middle of execve(): its old memory is gone, which is when it is told of, and its arguments are not there yet
        return "trap '' TERM" not in arguments or bool(int(status_field(pid, "SigIgn"), 16) >> (signal.SIGTERM - 1) & 1)

    assert eventually(lambda: all(deaf(node["pid"]) for node in daemon.status(name)["nodes"] if node.get("pid")), 20)
