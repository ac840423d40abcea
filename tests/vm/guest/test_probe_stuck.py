# SPDX-License-Identifier: Apache-2.0
"""
A process that is stuck with the lock of its memory, and has the library of nodes mapped: while a probe is put into that, or taken out, the kernel would wait for it, and with it every fork
of the machine.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from guest import BUILD, SOURCE, Skip, eventually, processes, run, start, state_of, tidegate

sys.path.insert(0, str(SOURCE / "tests/system"))
from hungmount import HungMount  # noqa: E402

KERNELS = []  # with --long: an attach takes seconds of an emulated machine


def needed():
    if not (BUILD / "bin/tidegate-queues").exists() or not (BUILD / "tests/supervisor/hungfs").exists():
        raise Skip("built without kernel probes, or without FUSE")
    run("modprobe", "-q", "fuse")


class Stuck:
    """A process that has FILE mapped, and holds the lock of its memory for as long as a file system does not answer."""

    def __init__(self, directory, file):
        directory.mkdir()
        self.mount = HungMount(BUILD / "tests/supervisor/hungfs", directory / "hung")
        self.process = start(*self.mount.prefix(), BUILD / "tests/supervisor/memlocked", directory / "hung/mapped", file)
        self.mount.until_asked()
        for _ in range(2):  # helpers/memlocked.c
            self.mount.let_go()
            self.mount.until_asked()
        self.pid = self.process.pid

    def end(self):
        self.mount.end()
        self.process.wait(10)  # killed by SIGBUS


def in_thread(work):
    """For it may not come back. What is set when it has."""
    over = threading.Event()
    threading.Thread(target=lambda: (work(), over.set()), daemon=True).start()
    return over


class Forker:
    """Forks when it is told to; python's own fork would hold up all of its threads."""

    def __init__(self):
        self.shell = start("/bin/sh", "-c", "while read _; do (exit 0); echo forked; done", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self):
        self.shell.stdin.write("now\n")
        self.shell.stdin.flush()
        assert self.shell.stdout.readline() == "forked\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shell.stdin.close()
        self.shell.wait(10)
        self.shell.stdout.close()


def test_an_attach_by_anybody_would_stop_every_fork_but_not_who_starts_without_a_copy():
    """What all of this is for, without anything of ours: were it not so any more, the questions could go."""
    needed()
    if not os.path.exists("/sys/kernel/tracing/uprobe_events"):
        run("mount", "-t", "tracefs", "none", "/sys/kernel/tracing", check=True)
    events = pathlib.Path("/sys/kernel/tracing")
    file = pathlib.Path("/tmp/stuck-library")
    file.write_bytes((BUILD / "lib/libtidegate.so").read_bytes())
    stuck = Stuck(pathlib.Path("/tmp/stuck"), file)
    with Forker() as fork:
        try:
            (events / "uprobe_events").write_text(f"p:stuck/it {file}:0x1000\n")
            attached = in_thread(lambda: (events / "events/stuck/it/enable").write_text("1"))
            assert not attached.wait(1), "the kernel waits for the lock"
            forked = in_thread(fork)
            assert not forked.wait(1), "and a fork for that"
            without_copy = in_thread(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0))
            assert without_copy.wait(10), "but not who shares the memory until it executes"
        finally:
            stuck.end()
        assert attached.wait(10) and forked.wait(10), "it is over when the process is"
    (events / "events/stuck/it/enable").write_text("0")
    (events / "uprobe_events").write_text("")


def library_of(comm):
    """The file with the sites that a process of that name runs of."""
    pid = next(pid for pid, name in processes().items() if name == comm)
    lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next((line.split()[-1] for line in lines if "libtidegate.so" in line), os.readlink(f"/proc/{pid}/exe"))


class Stream:
    def __init__(self, runtime):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(50)
        self.socket.connect(str(runtime / "control.sock"))
        call = {"method": "dev.tidegate.Supervisor.Probe", "parameters": {"dataflow": "flow", "interval_ms": 200, "queues": True}, "more": True}
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def until(self, accept, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = b""
            while not text.endswith(b"\0"):
                text += self.socket.recv(1)
            probes = json.loads(text[:-1])["parameters"]["probes"]
            if accept(probes):
                return probes
        raise AssertionError(probes)


def helpers():
    return [pid for pid, name in processes().items() if name.startswith("tidegate-queue") or name.startswith("queues/") and name[7:].isdigit()]


def test_nothing_is_attached_while_one_is_stuck_and_what_is_attached_stays_until_none_is():
    needed()
    work = pathlib.Path("/tmp/queues")
    work.mkdir()
    (work / "flow.yml").write_text(f"""
nodes:
  - {{id: a, path: {BUILD}/tests/system/count, outputs: [out]}}
  - {{id: b, path: {BUILD}/tests/system/drain, args: /dev/null, inputs: {{in: a/out}}}}
""")
    with open(work / "log", "w") as log:
        daemon = start(BUILD / "bin/tidegated", "--runtime-dir", work / "run", env={"TIDEGATE_PROBES": "on"}, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert eventually(lambda: (work / "run/control.sock").exists(), 30), (work / "log").read_text()
        tidegate("start", work / "flow.yml", "--name", "flow", "--detach", "--runtime-dir", work / "run", check=True)
        stuck = Stuck(work / "first", library_of("drain"))
        try:
            stream = Stream(work / "run")
            reason = stream.until(lambda probes: probes.get("queue_reason", "it is being attached") != "it is being attached")["queue_reason"]
            assert reason == f"process {stuck.pid} (memlocked) does not let go of its memory: to attach would stop every fork of the host"
            stream.socket.close()
            with Forker() as fork:
                assert in_thread(fork).wait(10)
        finally:
            stuck.end()
        assert eventually(lambda: helpers() == [], 30), "nobody looks any more"

        stream = Stream(work / "run")
        stream.until(lambda probes: [link for link in probes["links"] if link["source"] == "probe"])
        (helper,) = helpers()
        stuck = Stuck(work / "second", library_of("drain"))
        try:
            stream.socket.close()
            assert eventually(lambda: processes().get(helper) == f"queues/{stuck.pid}", 30), "it says for whom it waits"
            with Forker() as fork:
                assert in_thread(fork).wait(10)
            os.kill(helper, signal.SIGTERM)
            tidegate("down", "--runtime-dir", work / "run", check=True)
            assert eventually(lambda: state_of(helper) == "S"), "it does not end before it may, and sleeps between its looks"
        finally:
            stuck.end()
        assert eventually(lambda: state_of(helper) is None, 60)
    finally:
        daemon.terminate()
        daemon.wait(30)
