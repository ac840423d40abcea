# SPDX-License-Identifier: Apache-2.0
"""What guest tests share. Importing it outside a guest of scripts/vm ends the program with status 77."""

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

CGROUP2_MAGIC = 0x63677270
CGROUPS = pathlib.Path("/sys/fs/cgroup")
BUILD = pathlib.Path(os.environ.get("TIDEGATE_BUILD", "/nonexistent"))
SOURCE = pathlib.Path(__file__).resolve().parents[3]
SLACK = 10  # seconds that an emulated machine on a busy host may be late

libc = ctypes.CDLL(None, use_errno=True)


def filesystem(path):
    """The magic number of the file system at PATH."""
    answer = ctypes.create_string_buffer(256)
    return struct.unpack_from("=q", answer)[0] if libc.statfs(os.fsencode(path), answer) == 0 else None


def proof(cmdline="/proc/cmdline", cgroups=CGROUPS):
    """Are we in a guest? What speaks against it, or None. These tests freeze file systems, kill by the hundred and use up memory."""
    try:
        words = pathlib.Path(cmdline).read_text().split()
    except OSError as e:
        return str(e)
    if not any(word.startswith("vm.mode=") for word in words):
        return "no vm.mode= on the kernel's command line"
    if filesystem(cgroups) != CGROUP2_MAGIC:
        return f"{cgroups} is not cgroup v2"
    return None


def must_be_guest():
    why = proof()
    if why:
        print(f"only in a guest of scripts/vm: {why}", file=sys.stderr)
        sys.exit(77)


must_be_guest()


class Skip(Exception):
    """This kernel cannot show it, and why."""


def two_cpus(test):
    """In a guest with two processors: conftest.py reads the decorator."""
    return test


def deadline(seconds):
    """A test that may take longer than the usual 60 s."""

    def mark(test):
        test.deadline = seconds
        return test

    return mark


def eventually(look, seconds=SLACK):
    """The first true value of look(), or the last false one."""
    until = time.monotonic() + seconds
    while True:
        value = look()
        if value or time.monotonic() >= until:
            return value
        time.sleep(0.02)


# An ordinary user, whom the guest has and the host need not have

USER, UID, HOME = "gate", 4242, "/home/gate"


def make_user():
    for path, line in (("/etc/passwd", f"{USER}:x:{UID}:{UID}::{HOME}:/bin/sh"), ("/etc/group", f"{USER}:x:{UID}:"), ("/etc/shadow", f"{USER}:*:19000::::::")):
        if f"{USER}:" not in pathlib.Path(path).read_text():
            with open(path, "a") as f:
                f.write(line + "\n")
    os.makedirs(HOME, exist_ok=True)
    os.chown(HOME, UID, UID)


# Programs

ENVIRONMENT = {
    "PATH": f"{BUILD}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": f"{BUILD}/lib",
    "PYTHONPATH": f"{BUILD}/python", "TIDEGATE_BUILD": str(BUILD), "TIDEGATE_PYTHON": "/usr/bin/python3", "HOME": "/root", "NO_COLOR": "1",
    "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
    "TIDEGATE_PROBES": "off",  # a load is 40 ms of a processor, and more in an emulated one: only where a test is about it
}  # fmt: skip


def run(*command, user=None, cgroup=None, timeout=60, env=None, check=False, quiet=False, **kwargs):
    """Run a command to its end. @user: as the ordinary user. @cgroup: in that directory of cgroup v2. Output is text, both streams in one."""
    environment = {**ENVIRONMENT, **({"HOME": HOME, "USER": USER} if user else {}), **(env or {})}
    result = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        env=environment, preexec_fn=_enter(user, cgroup), **kwargs,
    )  # fmt: skip
    print(f"$ {' '.join(map(str, command))}\n{'' if quiet else result.stdout}[{result.returncode}]")
    assert not check or result.returncode == 0, f"{command}: status {result.returncode}: {result.stdout[-500:]}"
    return result


def start(*command, user=None, cgroup=None, env=None, **kwargs):
    """Start a command and return its Popen."""
    environment = {**ENVIRONMENT, **({"HOME": HOME, "USER": USER} if user else {}), **(env or {})}
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([str(word) for word in command], env=environment, preexec_fn=_enter(user, cgroup), text=True, **kwargs)


def _enter(user, cgroup):
    def enter():
        if cgroup:
            (pathlib.Path(cgroup) / "cgroup.procs").write_text("0")
        if user:
            os.setgroups([])
            os.setgid(UID)
            os.setuid(UID)

    return enter if user or cgroup else None


def tidegate(*args, **kwargs):
    return run(BUILD / "bin/tidegate", *args, **kwargs)


def kill_daemon(call=tidegate):
    """Guard and supervisor, neither of which sees the other one die: it would make another. They are gone then, and with them the socket, which still takes
    connections of one that is only about to die."""
    guard, supervisor = int(call("pid", "--guard").stdout), int(call("pid").stdout)
    os.kill(guard, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    assert eventually(lambda: state_of(guard) is None and state_of(supervisor) is None), (state_of(guard), state_of(supervisor))


def doctor(**kwargs):
    return json.loads(tidegate("doctor", "--json", quiet=True, **kwargs).stdout)


def probe(report, id):
    return next(p for p in report["probes"] if p["id"] == id)


def descriptor(directory, *nodes):
    """Write a descriptor with nodes that are shell scripts: (id, script) or (id, script, more YAML lines)."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = "nodes:\n"
    for id, script, *lines in nodes:
        (directory / f"{id}.sh").write_text(f"#!/bin/sh\n{script}\n")
        (directory / f"{id}.sh").chmod(0o755)
        text += f"  - id: {id}\n    path: {id}.sh\n" + "".join(f"    {line}\n" for line in lines)
    file = directory / "dataflow.yml"
    file.write_text(text)
    directory.chmod(0o777)  # logs of an ordinary user's nodes are written here
    return file


# /proc and cgroups


def processes():
    """{pid: comm} of all that is no kernel thread."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = pathlib.Path(f"/proc/{name}/stat").read_text()
        except OSError:
            continue
        comm, rest = fields[fields.index("(") + 1 : fields.rindex(")")], fields[fields.rindex(")") + 2 :].split()
        if int(name) != 2 and rest[1] != "2" and rest[0] != "Z":
            found[int(name)] = comm
    return found


def state_of(pid):
    """R, S, D, ...; None when there is no such process."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2]


def cgroup_of(pid="self"):
    return CGROUPS / pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


def cgroups(top=CGROUPS):
    """All below it, as paths from CGROUPS. Others may come and go meanwhile."""
    return {os.path.relpath(os.path.join(at, name), CGROUPS) for at, names, _ in os.walk(top) for name in names}


def pids_in(cgroup):
    return [int(p) for p in (pathlib.Path(cgroup) / "cgroup.procs").read_text().split()]


class Cgroup:
    """A directory of cgroup v2 for a `with` block; at its end everybody in it is killed, and it is removed. @user: delegated to him."""

    def __init__(self, name, user=None, parent=CGROUPS):
        self.path, self.user = pathlib.Path(parent) / name, user

    def __enter__(self):
        self.path.mkdir()
        if self.user:
            for name in (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
                os.chown(self.path / name, UID, UID)
        return self.path

    def __exit__(self, *_):
        remove(self.path)


def remove(cgroup, seconds=5):
    """Kill whoever is in it and remove it with all below."""
    cgroup = pathlib.Path(cgroup)
    until = time.monotonic() + seconds
    while cgroup.exists():
        try:
            (cgroup / "cgroup.kill").write_text("1")
            for directory in sorted((p for p in cgroup.rglob("*") if p.is_dir()), reverse=True):
                directory.rmdir()
            cgroup.rmdir()
        except FileNotFoundError:
            pass
        except OSError as e:
            assert time.monotonic() < until, f"{cgroup}: {e}"
            time.sleep(0.02)


# Who cannot be killed

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


@contextlib.contextmanager
def frozen_disk():
    """/dev/vda at /mnt/frozen, as ext4; yields the function that freezes it. It is thawed and unmounted at the end."""
    run("modprobe", "-a", "virtio_blk", "ext4", check=True)
    assert eventually(lambda: os.path.exists("/dev/vda"))
    run("mkfs.ext4", "-q", "-F", "/dev/vda", check=True)
    os.makedirs("/mnt/frozen", exist_ok=True)
    run("mount", "/dev/vda", "/mnt/frozen", check=True)
    os.chmod("/mnt/frozen", 0o777)
    directory = os.open("/mnt/frozen", os.O_RDONLY | os.O_DIRECTORY)

    def thaw():
        with contextlib.suppress(OSError):  # EINVAL: it is not frozen
            fcntl.ioctl(directory, FITHAW, 0)

    try:
        yield lambda: fcntl.ioctl(directory, FIFREEZE, 0), thaw
    finally:
        thaw()
        os.close(directory)
        assert eventually(lambda: subprocess.run(["umount", "/mnt/frozen"]).returncode == 0)
