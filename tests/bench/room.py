# SPDX-License-Identifier: Apache-2.0
"""A room for a peer: cgroup, PID, mount and network namespace of its own, so that nothing of it can outlive the benchmark.

room.Room is the outside; `room.py SPEC` is the inside's first process. What it runs there is `run(Place)` of the module that the spec names.
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from mark import open_files, pids

MARK = "TIDEGATE_BENCH"
SETTLE_S = 20  # ends at once when nothing is left


def unified():
    """Mount point of the cgroup v2 hierarchy, or None."""
    for line in open("/proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return pathlib.Path(fields.split()[4])
    return None


def write_whole(path, value):
    """Whoever sees the file sees all of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.rename(path)


class Place:
    """What a peer and the scenarios know of where they are."""

    def __init__(self, spec):
        self.spec = spec
        self.work = pathlib.Path(spec["work"])
        self.build = pathlib.Path(spec["build"])
        self.cgroup = pathlib.Path(spec["cgroup"])
        self.nodes = self.cgroup / "nodes"
        self.grace_ms = spec.get("grace_ms")
        self.subject = self.build / "tests/bench/bench_subject"
        self.raw = self.build / "tests/bench/bench_raw"
        self.environment = {MARK: spec["mark"]}
        self.shared = spec["shared"]  # the host's own systemd: there are others in this PID namespace
        self.tools = None
        self.marks = []

    def own(self):
        """Processes of the benchmark's in the room: the first, unless that is the peer, and this one."""
        return {os.getpid(), 1}

    def is_subject(self, pid):
        files = open_files(pid)
        return not files or any(mark.path in files for mark in self.marks)  # none: a zombie, a kernel thread


class Room:
    def __init__(self, name, inside, build, tools, spec, init=False, over_usr=False, fresh=False):
        """@name: of the benchmark; @inside: module whose run() is called there; @spec: what else it has to know; @init: what it begins is to be the
        first process; @over_usr: tools.debian_root is laid over /usr; @fresh: /tmp and /dev/shm are empty there, but for what the room needs."""
        self.name = name
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.top = unified() / f"{name}.{self.mark}"
        self.shared = init and pathlib.Path("/proc/1/comm").read_text().strip() == "systemd"
        self.work = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}."))
        self.init = init
        self.spec = {
            **spec, "inside": inside, "work": str(self.work), "build": str(build), "root": str(tools.root), "cgroup": str(self.top),
            "mark": self.mark, "shared": self.shared, "init": init, "over_usr": str(tools.debian_root / "usr") if over_usr else None,
            "keep": [str(path) for path in (self.work, build, tools.root, tools.top)] if fresh else None,
        }  # fmt: skip

    def run(self, seconds, say=None):
        """What the inside has measured: what its run() returns, or {"failed": why}. Then all of it is ended. @say: called with each line that the
        inside adds to the file `progress`."""
        for cgroup in (self.top, self.top / "room"):
            cgroup.mkdir()
        write_whole(self.work / "spec.json", self.spec)
        inside = ["/usr/bin/python3", str(pathlib.Path(__file__)), str(self.work / "spec.json")]
        wall = [] if self.shared else ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--ipc"]
        if self.init and not self.shared:
            wall += ["--cgroup"]
        procs = self.top / "room/cgroup.procs"
        log = open(self.work / "inside.log", "wb")
        process = subprocess.Popen(
            [*wall, *inside], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, MARK: self.mark, "PYTHONDONTWRITEBYTECODE": "1"}, preexec_fn=lambda: procs.write_text(str(os.getpid())),
        )  # fmt: skip
        try:
            deadline = time.monotonic() + seconds
            result = self.work / "result.json"
            told = 0
            while not result.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
                if say and (self.work / "progress").exists():
                    lines = (self.work / "progress").read_text().splitlines()
                    for line in lines[told:]:
                        say(line)
                    told = len(lines)
            if result.exists():
                return json.loads(result.read_text())
            text = (self.work / "inside.log").read_text(errors="replace").strip().splitlines()
            why = f"nothing after {seconds} s" if process.poll() is None else f"ended with status {process.returncode}"
            return {"failed": f"{why}: {text[-1] if text else 'no output'}"}
        finally:
            process.kill()
            process.wait()
            log.close()

    def close(self, keep=False):
        """End what there is. Returns what could not be ended or removed: {} on a host that is as clean as before."""
        deadline = time.monotonic() + SETTLE_S
        left = self._left()
        while left and time.monotonic() < deadline:
            for cgroup in sorted((p for p, _, _ in os.walk(self.top)), key=len, reverse=True):
                with contextlib.suppress(OSError):
                    (pathlib.Path(cgroup) / "cgroup.kill").write_text("1")
                with contextlib.suppress(OSError):
                    os.rmdir(cgroup)
            time.sleep(0.01)
            left = self._left()
        if not keep:
            shutil.rmtree(self.work, ignore_errors=True)
            if self.work.exists():
                left["files"] = [str(self.work)]
        return left

    def _left(self):
        left = {
            "processes": [pid for pid in pids() if self._marked(pid)],
            "cgroups": [path for path, _, _ in os.walk(self.top)],
            "mounts": [m for m in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(self.work) in m],
        }
        return {what: which for what, which in left.items() if which}

    def _marked(self, pid):
        """By its environment, or because it has one of our FIFOs open."""
        if pid == os.getpid():
            return False
        with contextlib.suppress(OSError):
            if f"{MARK}={self.mark}".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return True
        return any(path.startswith(f"{self.work}/") for path in open_files(pid))


# Inside


def bring_loopback_up():
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def mount(what, where, kind, options=None, flags=0):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(str(what).encode(), str(where).encode(), kind.encode(), flags, options and options.encode()) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), where)


def bind(what, where):
    MS_BIND, MS_REC = 0x1000, 0x4000
    mount(what, where, "", flags=MS_BIND | MS_REC)


def empty(folder, keep):
    """A tmpfs over @folder, in which only the paths of @keep that lie there are still to be seen."""
    stash = pathlib.Path("/dev/shm/.stash")
    keep = {path for path in map(pathlib.Path, keep) if path.is_relative_to(folder) and path.exists()}
    keep = [path for path in keep if not keep.intersection(path.parents)]
    for i, path in enumerate(keep):
        (stash / str(i)).mkdir(parents=True)
        bind(path, stash / str(i))
    mount("tmpfs", folder, "tmpfs", "mode=1777")
    for i, path in enumerate(keep):
        path.mkdir(parents=True)
        bind(stash / str(i), path)


def become_systemd():
    """Its own /run, and a hierarchy whose root is our cgroup; nothing of the host's units."""
    mount("tmpfs", "/run", "tmpfs")
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    units = pathlib.Path("/run/systemd/system")
    units.mkdir(parents=True)
    for name in ("default", "basic", "sysinit", "shutdown", "rescue"):
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    environment = {
        "container": "bench", "SYSTEMD_UNIT_PATH": str(units), "SYSTEMD_GENERATOR_PATH": "/run/none", "PATH": os.environ["PATH"],
        "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_LEVEL": "warning",
    }  # fmt: skip
    os.execve("/usr/lib/systemd/systemd", ["/usr/lib/systemd/systemd", "--system", "--unit=default.target"], environment)


def main():
    spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
    if not spec["shared"]:
        bring_loopback_up()
        if spec["over_usr"]:
            mount("overlay", "/usr", "overlay", f"lowerdir={spec['over_usr']}:/usr")
        if spec["keep"]:
            mount("tmpfs", "/dev/shm", "tmpfs", "mode=1777")
            empty("/tmp", spec["keep"])
        child = os.fork()
        if child and spec["init"]:
            become_systemd()
        if child:
            while True:  # the first process of the namespace takes all orphans
                pid, status = os.wait()
                if pid == child:
                    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    inside = importlib.import_module(spec["inside"])
    write_whole(pathlib.Path(spec["work"]) / "result.json", inside.run(Place(spec)))


if __name__ == "__main__":
    main()
