# SPDX-License-Identifier: Apache-2.0
"""Nodes that make no progress, each for a reason of its own (wedges/wedge.c): `tidegate why` names the cause, and whom it points to. For root's
daemon and for an ordinary user's, who may look at no more than his own."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from client import ControlError
from conftest import eventually
from hungmount import HungMount
from lives import LONG, arguments_of, children_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else and to mount")
NOBODY = 65534
SECONDS = 20.0  # until what is said has to be right: a state has to have lasted for a moment
BACKPRESSURE = {"queue_policy": "backpressure", "queue_size": 2}
FOLDER = "FOLDER/"  # of the test's own


class Row(NamedTuple):
    """What is said of a node."""

    cause: str
    node: str | None = ""  # it points to that one; None: or any
    words: tuple = ()  # of the sentence


# Some wait for what `keeper` has, and each of them for something else.
ROWS = {
    "deadlock": Row("deadlock", "deadlock"),
    "deadlock-of-two": Row("deadlock", "deadlock-of-two"),
    "pipe-full": Row("pipe-full", "keeper"),
    "pipe-empty": Row("pipe-empty", "keeper"),
    "peer-silent": Row("peer-silent", "keeper"),
    "peer-silent-epoll": Row("peer-silent", "keeper"),
    "peer-busy": Row("peer-silent", "keeper", ("has not accepted it",)),
    "peer-stranger": Row("peer-silent", "", (f"pid {os.getpid()}",)),
    "peer-dead": Row("peer-dead"),
    "peer-dead-tcp": Row("peer-dead", "", ("127.0.0.1:",)),
    "file-lock": Row("file-lock", "keeper", (FOLDER + "lock",)),
    "file-lock-record": Row("file-lock", "keeper", (FOLDER + "record",)),
    "file-system": Row("file-system", "", (FOLDER + "hung/d1/file",)),
    "file-system-too": Row("file-system", "", (FOLDER + "hung/d1/file",)),
    "leave": Row("file-system", "", ("exit_group",)),
    "spawn": Row("file-system", "", ("execve of " + FOLDER + "hung/d2/program",)),
    "fifo-open": Row("fifo-open", "", (FOLDER + "lonely",)),
    "connect-full": Row("connect", "keeper", (FOLDER + "full",)),
    "connect-tcp": Row("connect", "keeper", ("127.0.0.1:",)),
    "connect-nowhere": Row("connect", "", ("10.1.1.2:7",)),
    "stopped": Row("stopped"),
    "traced": Row("traced", "tracer"),
    "sleeping": Row("sleeping"),
    "child": Row("child", "child"),
    "page-fault": Row("page-fault"),
    "busy": Row("busy"),
    "signals": Row("signals", "", ("USR1",)),
    "starved": Row("starved", "hog"),
    "frozen": Row("frozen"),
    "flood": Row("backpressure", "relay", ("relay waits for room", "tally")),
    "hear": Row("waiting-for-input", "beat", ("beat waits in libtidegate for a time",)),
    "elsewhere": Row("peer-silent", "keeper", ("has not accepted it",)),
    # And who is waited for, and does nothing wrong.
    "keeper": Row("sleeping", "", ("waits for a signal",)),
    "relay": Row("backpressure", "tally"),
    "tally": Row("sleeping"),
    "beat": Row("sleeping"),
}
# What only root may do: a network of its own, and an end of a connection without a word to its peer.
ROOTS = ["peer-dead-tcp", "connect-nowhere"]
# What else is so for a user's daemon. It is not shown whose the other end is, if that is another user's, nor the call of a process that has given its
# memory back; and he starves himself.
OF_A_USER = {
    "peer-stranger": Row("peer-silent", "", ("cannot be seen",)),
    "leave": Row("file-system", "", ("waits in a system call",)),
    "starved": Row("starved", None, ("waited for CPU",)),
}
# To whom a node in a PID namespace of its own has no number.
OF_ANOTHER_NAMESPACE = ["traced", "signals"]
# Who burns a processor does so for a moment, each time that it is told to: {node: by which FIFOs}.
BURN = {"busy": ["go-busy"], "signals": ["go-signals"], "starved": ["go-hog", "go-starved"]}
HELPERS = ["keeper", "tracer", "storm", "hog"]
IN_DATA = ["flood", "hear", "elsewhere", "relay", "tally", "beat"]


def descriptor(build, folder, names, user):
    """Those of @names as one dataflow, with those whom they wait for."""
    programs = build / "tests/system"
    words = {name: f"{name} {folder}" for name in [*names, *HELPERS] if name not in IN_DATA}
    words |= {"frozen": f"sleeping {folder}", "file-system": f"file-system {folder}/hung/d1", "spawn": f"spawn {folder}/hung/d2", "leave": f"leave {folder}/hung"}
    words["file-system-too"] = words["file-system"]  # one asks, and the other is uninterruptible until that one has its answer
    if user:
        words["starved"] = f"starved-idle {folder}"
        del words["hog"]
    nodes = [{"id": name, "path": f"{programs}/wedge", "args": args} for name, args in words.items()]
    nodes += [
        {"id": "flood", "path": f"{programs}/flood", "args": "1000000 64", "outputs": ["out"]},
        {"id": "relay", "path": f"{programs}/relay", "inputs": {"in": {"source": "flood/out", **BACKPRESSURE}}, "outputs": ["out"]},
        {"id": "tally", "path": f"{programs}/tally", "args": "900000", "inputs": {"in": {"source": "relay/out", **BACKPRESSURE}}},
        {"id": "beat", "path": f"{programs}/beat", "args": "3600000000", "outputs": ["out"]},
        {"id": "hear", "path": f"{programs}/hear", "inputs": {"in": "beat/out"}},
        {"id": "elsewhere", "path": f"{programs}/elsewhere", "args": f"{folder}/queue", "inputs": {"in": "beat/out"}},
    ]
    return {"nodes": nodes}


class Wedged:
    """A daemon that sees the mount, and in it a dataflow of nodes that get stuck."""

    def __init__(self, build, start_daemon, home, folder, mount, names, rows, user):
        self.folder, self.rows = folder, rows
        prefix = mount.prefix()
        if user:
            for path in (home, home / "cgroup.procs", home / "cgroup.threads", home / "cgroup.subtree_control"):
                os.chown(path, NOBODY, NOBODY)
            prefix += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        self.command = [*prefix, build / "bin/tidegate"]
        self.daemon = start_daemon(directory=folder, prefix=["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', home, *prefix] if user else prefix)
        (folder / "flow.yml").write_text(json.dumps(descriptor(build, folder, names, user)))
        p = self.tell("start", folder / "flow.yml", "--detach", "--no-logs", "--grace-duration", "100ms")
        assert p.returncode == 0, p.stdout + p.stderr
        if "frozen" in rows:
            assert self.tell("freeze", "flow:frozen").returncode == 0

    def tell(self, verb, *args):
        return subprocess.run([*self.command, verb, "--runtime-dir", self.daemon.runtime, *map(str, args)], capture_output=True, text=True, timeout=30)

    def ask(self, name):
        for fifo in BURN.get(name, []):
            with contextlib.suppress(OSError):  # it is not that far yet
                fd = os.open(self.folder / fifo, os.O_WRONLY | os.O_NONBLOCK)
                os.write(fd, b"!")
                os.close(fd)
        p = self.tell("why", f"flow:{name}", "--json")
        return json.loads(p.stdout) if p.returncode == 0 else {"text": p.stdout + p.stderr}

    def is_right(self, name, said):
        row = self.rows[name]
        words = [word.replace(FOLDER, f"{self.folder}/") for word in row.words]
        right = said.get("cause") == row.cause and row.node in (None, said.get("target", {}).get("node", ""))
        return right and all(word in said["text"] for word in words)

    def wrong(self):
        """{node: what was said of it last}, of those of whom the right thing was not said in time."""

        def ask_until_right(name):
            until = time.monotonic() + SECONDS
            while not self.is_right(name, said := self.ask(name)):
                if time.monotonic() > until:
                    return {key: said.get(key) for key in ("cause", "target", "text", "lost")}
            return None

        quiet = [name for name in self.rows if name not in BURN]
        with ThreadPoolExecutor(4) as pool:
            said = dict(zip(quiet, pool.map(ask_until_right, quiet)))
        said |= {name: ask_until_right(name) for name in self.rows if name in BURN}
        return {name: what for name, what in said.items() if what}


@pytest.fixture
def folder(traces):
    path = pathlib.Path(f"/tmp/tidegate-test-{traces.mark[:12]}")
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stranger(folder):
    """A server that is nobody's node, takes a connection and says nothing."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as taken:
        listening.bind(str(folder / "stranger"))
        os.chmod(folder / "stranger", 0o777)
        listening.listen()
        listening.settimeout(10)
        yield lambda: taken.enter_context(listening.accept()[0])


@pytest.fixture
def wedged(build, folder, stranger, home, start_daemon):
    """Start those of @names; @asked, or these: what is said of them."""
    if not (build / "tests/supervisor/hungfs").exists() or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs tests/supervisor/hungfs (libfuse3 and Criterion) and /dev/fuse")
    mount = HungMount(build / "tests/supervisor/hungfs", folder / "hung")

    def start(names, user=False, asked=None):
        started = Wedged(build, start_daemon, home, folder, mount, names, asked or names, user)
        stranger()
        return started

    yield start
    mount.end()


@pytest.mark.cgroup_only
def test_why_names_the_cause_of_each_and_does_not_hang_with_one(wedged):
    here = wedged([*ROWS, "unreadable"], asked=ROWS)
    assert here.wrong() == {}
    keeper = next(pid for pid in children_of(here.daemon.process.pid) if "--role=keeper" in arguments_of(pid))
    before = set(children_of(keeper))

    def look():
        with contextlib.suppress(ControlError):  # a machine that is too busy for it
            said = here.daemon.call("Why", dataflow="flow", node="unreadable", timeout_ms=600)["why"]
            return None if said["deep"] else said

    said = eventually(look, SECONDS)
    assert said and (said["cause"], said["n_threads"]) == ("sleeping", 2) and "86400" not in said["text"], said
    assert eventually(lambda: here.is_right("deadlock", here.ask("deadlock")), SECONDS)

    def ended():
        here.ask("deadlock")  # who was still dying 50 ms after he was killed is waited for by who looks next: one of those before, too
        return set(children_of(keeper)) <= before

    assert eventually(ended, 5), "who looked is ended and waited for"


@pytest.mark.cgroup_only
def test_why_of_a_user_s_daemon_names_it_too_and_does_not_guess_what_it_may_not_see(wedged):
    rows = {name: OF_A_USER.get(name, row) for name, row in ROWS.items() if name not in ROOTS}
    assert wedged(rows, user=True).wrong() == {}


@pytest.mark.skipif(not LONG, reason="only with --long")
@pytest.mark.parametrize("enforcer", ["cgroup+pidns", "pidns", "subreaper"], indirect=True)
def test_why_names_the_cause_where_a_node_has_pids_of_its_own_or_no_cgroup(enforcer, wedged):
    unlike = (OF_ANOTHER_NAMESPACE if "pidns" in enforcer else []) + ([] if "cgroup" in enforcer else ["frozen"])
    assert wedged({name: row for name, row in ROWS.items() if name not in unlike}).wrong() == {}
