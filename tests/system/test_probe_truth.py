# SPDX-License-Identifier: Apache-2.0
"""What is counted is what others count at the same time: perf trace and bpftrace, where they are installed and run."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from conftest import eventually
from daemon import program
from test_escape import start
from test_probe import PYTHON, calls_of, needs_bpf, once, watch

pytestmark = [
    *needs_bpf,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="knows the numbers of x86-64"),
    pytest.mark.skipif(not os.environ.get("TIDEGATE_LONG"), reason="takes 3 s where both tools are: with --long"),
]

COUNTS = {"getppid": (110, 3000), "dup": (32, 500), "read": (0, 30), "ppoll": (271, 25), "pwrite64": (18, 40), "fdatasync": (75, 40)}
FAILED = {"dup": 500}
SLOW = {"read": 5_000_000, "ppoll": 4_000_000}  # nanoseconds, at the least

# Ticks until it is told to go, so that whoever has attached something sees it; then does what is known, once.
NODE = f"""exec {PYTHON} -c '
import ctypes, os, struct, time
libc = ctypes.CDLL(None)
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, struct.pack("4q", 0, 5200000, 0, 5200000), None)
disk = os.open("$DIR/disk", os.O_CREAT | os.O_RDWR)
byte, data = ctypes.create_string_buffer(8), b"x" * 300000
open("$DIR/pid.new", "w").write(str(os.getpid()))
os.rename("$DIR/pid.new", "$DIR/pid")
while not os.path.exists("$DIR/go"):
    time.sleep(0.002)
for _ in range(3000): libc.syscall(110)
for _ in range(500): libc.dup(-1)
for _ in range(30): libc.read(timer, byte, 8)
for _ in range(25): libc.syscall(271, None, 0, struct.pack("2q", 0, 4000000), None, 0)
for _ in range(40):
    libc.pwrite(disk, data, len(data), ctypes.c_long(0))
    libc.fdatasync(disk)
open("$DIR/done", "w").close()
while True:
    time.sleep(1)
'"""


class Tool:
    """In a mount namespace of its own with a tracefs, for there may be none. Ends, and says what it saw, at a SIGINT."""

    def __init__(self, directory, command):
        self.said = directory / "said"
        inner = f'mount -t tracefs none /sys/kernel/tracing && exec "$@" >{self.said} 2>&1'
        self.process = subprocess.Popen(["unshare", "-m", "sh", "-c", inner, "sh", *command], stderr=subprocess.DEVNULL)

    def sees(self, sign):
        seen = lambda: self.process.poll() is not None or (self.said.exists() and re.search(sign, self.said.read_text(errors="replace")))
        assert eventually(seen, 60)
        if self.process.poll() is not None:
            pytest.skip(f"it does not run here: {self.said.read_text()[-300:] if self.said.exists() else 'no tracefs'}")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        return self.said.read_text(errors="replace")


def counted_beside(tmp_path, build, start_daemon, command, sign):
    """What we counted, and what that tool says, of the same calls."""
    if not (build / "bin/tidegate-prober").exists():
        pytest.skip("built without kernel probes")
    daemon = start_daemon(env={"TIDEGATE_PROBES": "on"})
    start(daemon, program("a", NODE.replace("$DIR", str(tmp_path))), wait="running", grace_ms=300)
    client = watch(daemon)
    assert eventually(lambda: (tmp_path / "pid").exists(), 20)
    tool = Tool(tmp_path, command((tmp_path / "pid").read_text()))
    try:
        tool.sees(sign)
        before = calls_of(once(daemon))
        (tmp_path / "go").touch()
        assert eventually(lambda: (tmp_path / "done").exists(), 60)
        after = calls_of(once(daemon))
    finally:
        said = tool.end()
        client.close()
    ours = {name: after[name] for name in COUNTS}
    assert not before.keys() & (COUNTS.keys() - {"read"}), "nobody else makes these calls"
    if "read" in before:
        ours["read"]["log2_ns"] = [a - b for a, b in zip(ours["read"]["log2_ns"], before["read"]["log2_ns"] + [0] * 64)]
        ours["read"]["count"] -= before["read"]["count"]
        ours["read"]["total_ns"] -= before["read"]["total_ns"]
    assert {name: call["count"] for name, call in ours.items()} == {name: n for name, (_, n) in COUNTS.items()}
    assert {name: call["errors"] for name, call in ours.items() if call["errors"]} == FAILED
    return ours, said


def bucket(ns):
    return int(ns).bit_length() - 1


def median_bucket(log2_ns):
    seen = 0
    for i, n in enumerate(log2_ns):
        seen += n
        if 2 * seen >= sum(log2_ns):
            return i


@pytest.mark.skipif(not shutil.which("perf"), reason="no perf")
def test_perf_trace_counts_the_same(tmp_path, build, start_daemon):
    # -S: each call, which tells that it has begun, and the summary.
    ours, said = counted_beside(tmp_path, build, start_daemon, lambda pid: ["perf", "trace", "-S", "-p", pid], "clock_nanosleep")
    summary = said[said.index("Summary of events") :]
    theirs = {m[1]: (int(m[2]), int(m[3]), float(m[4]) * 1e6) for m in re.finditer(r"^ +(\w+) +(\d+) +(\d+) +([\d.]+) ", summary, re.M)}
    assert {name: theirs[name][:2] for name in COUNTS} == {name: (n, FAILED.get(name, 0)) for name, (_, n) in COUNTS.items()}, summary
    for name in SLOW:
        assert ours[name]["total_ns"] / theirs[name][2] == pytest.approx(1, abs=0.1), (name, ours[name], summary)
    for name in ("pwrite64", *SLOW):
        assert abs(bucket(ours[name]["total_ns"] / COUNTS[name][1]) - bucket(theirs[name][2] / COUNTS[name][1])) <= 1, (name, ours[name], summary)


@pytest.mark.skipif(not shutil.which("bpftrace"), reason="no bpftrace")
def test_bpftrace_counts_the_same(tmp_path, build, start_daemon):
    script = """
        tracepoint:raw_syscalls:sys_enter /pid == PID/ { @begin[tid] = nsecs; @id[tid] = args->id; }
        tracepoint:raw_syscalls:sys_exit /@begin[tid]/ { @h[@id[tid]] = hist(nsecs - @begin[tid]); delete(@begin[tid]); if (!@seen) { @seen = 1; printf("seen\\n"); } }
        END { clear(@begin); clear(@id); clear(@seen); }"""
    ours, said = counted_beside(tmp_path, build, start_daemon, lambda pid: ["bpftrace", "-f", "json", "-e", script.replace("PID", pid)], "seen")
    maps = [json.loads(line) for line in said.splitlines() if '"type": "hist"' in line]
    (theirs,) = [m["data"]["@h"] for m in maps]
    for name, (number, n) in COUNTS.items():
        buckets = theirs[str(number)]
        assert sum(b["count"] for b in buckets) == n, (name, buckets)
        log2_ns = [0] * 64
        for b in buckets:
            log2_ns[bucket(max(b.get("min", 0), 1))] += b["count"]
        if name in SLOW or name == "pwrite64":
            assert abs(median_bucket(ours[name]["log2_ns"]) - median_bucket(log2_ns)) <= 1, (name, ours[name], buckets)
        if name in SLOW:
            assert median_bucket(ours[name]["log2_ns"]) >= bucket(SLOW[name]) - 1
