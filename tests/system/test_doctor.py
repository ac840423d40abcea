# SPDX-License-Identifier: Apache-2.0
"""`tidegate doctor`: what it says is true, what it does is bounded, what it made is gone."""

import ctypes
import fcntl
import json
import os
import pathlib
import platform
import pty
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
import uuid

import pytest
from conftest import marked_processes

pytestmark = pytest.mark.sanitized

NOBODY = 65534
MARK = "TIDEGATE_DOCTOR_TEST"


def v2_root():
    """The root of the cgroup v2 hierarchy, or None."""
    for line in open("/proc/self/mountinfo"):
        before, after = line.split(" - ", 1)
        if after.split()[0] == "cgroup2" and before.split()[3] == "/":
            return pathlib.Path(before.split()[4])
    return None


needs_cgroup = pytest.mark.skipif(
    v2_root() is None or not os.access(v2_root(), os.W_OK), reason="no cgroup v2 directory that we may write"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="drops from root to another user")
needs_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names system calls of x86-64 by number")


def homes():
    return {p.name for p in v2_root().glob("tidegate-doctor-*")} if v2_root() else set()


def marked(mark):
    """Processes with that mark in their environment."""
    return list(marked_processes(mark, MARK))


def eventually(condition, seconds=10):
    """Wait for something no event announces: another process's end, seen from outside."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def is_in_state(pid, letter):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == letter


class Doctor:
    """One doctor of our own, told from others on this machine by a mark in its environment."""

    def __init__(self, build):
        self.build = build
        self.mark = uuid.uuid4().hex

    def env(self, **more):
        return {**os.environ, MARK: self.mark, **more}

    def run(self, *args, **kwargs):
        return subprocess.run(
            [self.build / "bin/tidegate", "doctor", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=self.env(),
            **kwargs,
        )

    def start(self, *args, **kwargs):
        return subprocess.Popen(
            [self.build / "bin/tidegate", "doctor", *args], stdin=subprocess.DEVNULL, env=self.env(), **kwargs
        )

    def home(self):
        """Its cgroup, as soon as it is there: the one that a process of ours holds open."""
        for pid in marked(self.mark):
            try:
                for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                    target = os.readlink(fd)
                    if "/tidegate-doctor-" in target and target.rpartition("/")[2] in homes():
                        return pathlib.Path(target)
            except OSError:
                pass
        return None


@pytest.fixture
def doctor(build):
    doctor = Doctor(build)
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    yield doctor
    assert eventually(lambda: not marked(doctor.mark)), f"processes left: {marked(doctor.mark)}"
    assert not {n for n in os.listdir("/dev/shm") if "tidegate-doctor" in n} - before


def probes(data):
    return {p["id"]: p for p in data["probes"]}


def test_json_has_every_field_and_exits_as_it_says(doctor):
    p = doctor.run("--json")
    data = json.loads(p.stdout)
    assert p.stderr == ""
    assert p.returncode == (0 if data["ok"] else 1)
    assert set(data) == {
        "tidegate", "kernel", "uid", "ok", "daemon", "backend", "cgroup_root", "backends", "promises", "probes",
    }  # fmt: skip
    assert len(probes(data)) == len(data["probes"]) >= 35, "ids are unique"
    for probe in data["probes"]:
        assert set(probe) == {
            "id", "group", "title", "result", "errno", "evidence", "needed_for", "without", "weight", "promises", "took_us",
        }  # fmt: skip
        assert probe["result"] in ("yes", "no", "timeout", "skipped")
        assert probe["weight"] in ("required", "better", "later")
        assert probe["evidence"] and probe["needed_for"] and probe["without"]
        assert probe["errno"] is None or probe["result"] in ("no", "timeout")
        assert probe["took_us"] < 15_000_000
    assert list(data["promises"]) == [f"P{i}" for i in range(1, 8)]
    assert [b["name"] for b in data["backends"]] == ["cgroup", "pidns", "pid1", "subreaper"]


def test_the_judgement_follows_from_the_probes(doctor):
    data = json.loads(doctor.run("--json").stdout)
    for name, promise in data["promises"].items():
        failed = [p for p in data["probes"] if name in p["promises"] and p["result"] != "yes"]
        assert promise["missing"] == [p["id"] for p in failed if p["weight"] == "required"]
        assert promise["done_without"] == [p["id"] for p in failed if p["weight"] != "required"]
        assert promise["kept"] == ("weaker" if promise["missing"] else "partly" if promise["limit"] else "kept")
    assert data["ok"] == (data["backend"] is not None and all(p["kept"] != "weaker" for p in data["promises"].values()))


def test_no_promise_is_said_to_be_kept_that_this_version_keeps_only_partly(doctor):
    """Nodes run as the user of their supervisor, who may signal it: nobody is trusted, but somebody has to be."""
    data, text = json.loads(doctor.run("--json").stdout), doctor.run().stdout
    promise = data["promises"]["P6"]
    assert data["backend"] != "pidns" and promise["kept"] != "kept" and "could signal it" in promise["limit"]
    for name, promise in data["promises"].items():
        assert any(line.split()[:2] == [promise["kept"], name] for line in text.splitlines()), name
    partly = [name for name, promise in data["promises"].items() if promise["kept"] == "partly"]
    assert (f"only partly: {', '.join(partly)}." in text.splitlines()[-1]) == bool(partly)


def test_the_table_says_the_same_as_the_json(doctor):
    text, data = doctor.run(), json.loads(doctor.run("--json").stdout)
    assert text.returncode == (0 if data["ok"] else 1)
    assert "\033" not in text.stdout, "no colour into a pipe"
    lines = text.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for probe in data["probes"]:
        mark = {"yes": "yes", "no": "no", "timeout": "late", "skipped": "-"}[probe["result"]]
        assert any(line.startswith(f"  {mark:4} {probe['title']}") for line in lines), probe["title"]
    assert ("can keep its promises" in lines[-1]) == data["ok"]


@needs_root
@needs_cgroup
def test_here_a_run_can_keep_its_promises(doctor):
    p = doctor.run("--json")
    data = json.loads(p.stdout)
    not_there = [p for p in data["probes"] if p["weight"] == "required" and p["result"] != "yes"]
    assert not_there == []
    assert p.returncode == 0 and data["backend"] == "cgroup"
    assert os.path.isdir(data["cgroup_root"])


@needs_cgroup
def test_it_leaves_no_cgroup(doctor):
    before = homes()
    doctor.run()
    new = homes() - before  # another's doctor may run beside it; that one's goes
    assert eventually(lambda: not new & homes(), 20)


@needs_root
def test_without_the_right_to_write_cgroups_it_names_the_weaker_promises(doctor):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        os.mkdir(f"{place}/bin")
        shutil.copy(doctor.build / "bin/tidegate", f"{place}/bin/tidegate")
        doctor.build = pathlib.Path(place)
        if subprocess.run([f"{place}/bin/tidegate", "version"], user=NOBODY, stdout=subprocess.DEVNULL).returncode:
            pytest.skip("this build cannot run as another user")
        p = doctor.run("--json", user=NOBODY, group=NOBODY, extra_groups=[])
        text = doctor.run(user=NOBODY, group=NOBODY, extra_groups=[])
    data = json.loads(p.stdout)
    assert p.returncode == text.returncode == 1
    assert data["backend"] in ("pidns", "subreaper") and data["cgroup_root"] is None and not data["ok"]
    assert probes(data)["cgroup_root"]["errno"] in ("EACCES", "ENOENT", "EROFS")
    assert {n for n, promise in data["promises"].items() if promise["kept"] == "weaker"} >= {"P1", "P2", "P6"}
    assert data["promises"]["P5"]["kept"] == "kept", "memory and sockets are there for everybody"
    assert "cannot keep its promises here; weaker: P1, P2" in text.stdout
    assert "a cgroup v2 directory to write" in text.stdout


# ---- a kernel that says no, says nothing, or kills: seccomp stands in for it


class SockFilter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class SockProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(SockFilter))]


TIMERFD_CREATE, CLONE3, SECCOMP = 283, 435, 317
RET_KILL_PROCESS, RET_ERRNO, RET_USER_NOTIF = 0x80000000, 0x00050000, 0x7FC00000
ENOSYS = 38


def seccomp(number, verdict, flags=0):
    """For preexec_fn: the system call of that number gets that verdict from here on. With a listener that nobody ever
    reads (flags 8), whoever makes the call waits for ever."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = (SockFilter * 4)(
        SockFilter(0x20, 0, 0, 0),  # load the number
        SockFilter(0x15, 0, 1, number),
        SockFilter(0x06, 0, 0, verdict),
        SockFilter(0x06, 0, 0, 0x7FFF0000),  # allow
    )
    program = SockProgram(4, code)

    def install():
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        fd = libc.syscall(SECCOMP, 1, flags, ctypes.byref(program))
        if fd < 0:
            raise OSError(ctypes.get_errno(), "seccomp")
        if flags:
            os.set_inheritable(fd, True)

    return install


@needs_x86_64
def test_a_missing_system_call_is_found_by_trying_it(doctor):
    p = doctor.run("--json", preexec_fn=seccomp(CLONE3, RET_ERRNO | ENOSYS))
    data = json.loads(p.stdout)
    assert p.returncode == 1
    assert probes(data)["clone3_pidfd"]["result"] == "no"
    assert probes(data)["clone3_pidfd"]["errno"] == "ENOSYS"
    assert data["promises"]["P1"]["kept"] == "weaker" and "clone3_pidfd" in data["promises"]["P1"]["missing"]
    assert probes(data)["memfd_seals"]["result"] == "yes"


@needs_x86_64
def test_a_system_call_that_kills_its_caller_is_an_answer(doctor):
    p = doctor.run("--json", preexec_fn=seccomp(TIMERFD_CREATE, RET_KILL_PROCESS))
    probe = probes(json.loads(p.stdout))["event_loop"]
    assert p.returncode == 1
    assert probe["result"] == "no" and "killed by SIGSYS" in probe["evidence"]


@needs_x86_64
def test_a_system_call_that_never_returns_is_cut_off_at_its_deadline(doctor):
    begin = time.monotonic()
    p = doctor.run("--json", preexec_fn=seccomp(TIMERFD_CREATE, RET_USER_NOTIF, flags=8), close_fds=False)
    data = json.loads(p.stdout)
    assert time.monotonic() - begin < 15
    assert p.returncode == 1
    probe = probes(data)["event_loop"]
    assert probe["result"] == "timeout" and "timed out" in probe["evidence"]
    assert 1_900_000 < probe["took_us"] < 5_000_000
    assert [p["id"] for p in data["probes"] if p["result"] == "timeout"] == ["event_loop"]


# ---- interrupted, killed, twice at once


@needs_cgroup
@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_doctor_that_is_ended_leaves_nothing(doctor, signo):
    process = doctor.start(stdout=subprocess.DEVNULL)
    assert eventually(lambda: doctor.home() or process.poll() is not None)
    process.send_signal(signal.SIGSTOP)  # it would be over in less time than it may take us to look again
    assert eventually(lambda: process.poll() is not None or is_in_state(process.pid, "T"))
    home = doctor.home()
    process.send_signal(signo)
    process.send_signal(signal.SIGCONT)
    status = process.wait(timeout=30)
    if home is None:
        pytest.skip("it was over before it could be ended")
    assert status == -signo
    assert eventually(lambda: not home.exists()), "its cgroup is left"
    assert eventually(lambda: not marked(doctor.mark)), "a process of its is left"


@needs_cgroup
def test_two_doctors_at_once_do_not_disturb_each_other(build):
    doctors = [Doctor(build) for _ in range(3)]
    running = [d.start("--json", stdout=subprocess.PIPE, text=True) for d in doctors]
    for process in running:
        out, _ = process.communicate(timeout=60)
        failed = [p for p in json.loads(out)["probes"] if p["weight"] == "required" and p["result"] != "yes"]
        assert failed == [] or os.geteuid() != 0


def made_and_held(path):
    """A directory, and what holds its lock: doctors of other tests would remove it, and may do so until then."""
    while True:
        path.mkdir(exist_ok=True)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.stat(path), os.fstat(fd)):
            return fd
        os.close(fd)


@needs_root
@needs_cgroup
def test_what_a_killed_doctor_left_the_next_one_removes(doctor):
    left = v2_root() / "tidegate-doctor-00000000"
    fd = made_and_held(left)  # until it is as it is to be
    (left / "below").mkdir()
    sleeper = subprocess.Popen(["sleep", "300"])
    (left / "below" / "cgroup.procs").write_text(str(sleeper.pid))
    os.close(fd)
    try:
        doctor.run()
        assert eventually(lambda: not left.exists(), 10)
        assert sleeper.wait(timeout=10) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()
        for folder in (left / "below", left):
            if folder.exists():
                folder.rmdir()


@needs_root
@needs_cgroup
def test_a_cgroup_that_somebody_holds_is_left_alone(doctor):
    left = v2_root() / "tidegate-doctor-00000001"
    fd = made_and_held(left)
    try:
        doctor.run()
        assert left.exists()
    finally:
        os.close(fd)
        left.rmdir()


def test_children_that_it_did_not_start_live_on(doctor):
    """`exec tidegate doctor` in a shell with a background job: the job is then the doctor's child."""
    script = f"sleep 300 >/dev/null 2>&1 & echo $!; exec {doctor.build}/bin/tidegate doctor"
    p = subprocess.run(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, timeout=60)
    job = int(p.stdout.splitlines()[0])
    try:
        # It may be about to execute it still.
        assert eventually(lambda: pathlib.Path(f"/proc/{job}/comm").read_text().strip() == "sleep" and is_in_state(job, "S"))
    finally:
        os.kill(job, signal.SIGKILL)


def test_a_reader_that_goes_away_ends_it(doctor):
    script = f"{doctor.build}/bin/tidegate doctor | head -n 1"
    p = subprocess.run(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, env=doctor.env())
    assert p.stdout.startswith("tidegate ")


def test_usage_errors(tidegate):
    for args in (["--frobnicate"], ["extra"], ["--json=yes"], ["-j"]):
        p = tidegate("doctor", *args)
        assert p.returncode == 2 and p.stdout == "" and "usage: tidegate doctor" in p.stderr


# ---- on a terminal


def on_terminal(doctor, columns, **env):
    """Run it on a terminal of that width; what it wrote, without the carriage returns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [doctor.build / "bin/tidegate", "doctor"], stdin=slave, stdout=slave, stderr=slave,
        env={**doctor.env(TERM="xterm"), **env},
    )  # fmt: skip
    os.close(slave)
    out = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # EIO: everyone on the other side is gone
            break
        if not chunk:
            break
        out += chunk
    os.close(master)
    process.wait(timeout=30)
    return out.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns,widest", [(80, 80), (120, 100)])
def test_it_fits_the_terminal(doctor, columns, widest):
    lines = on_terminal(doctor, columns, NO_COLOR="1").splitlines()
    assert len(lines) > 40
    assert max(map(len, lines)) <= widest
    assert not any("\033" in line for line in lines)


def test_it_is_coloured_on_a_terminal_only(doctor):
    assert "\033[32m" in on_terminal(doctor, 100)
    assert "\033" not in on_terminal(doctor, 100, TERM="dumb")
