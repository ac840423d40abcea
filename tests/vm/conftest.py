# SPDX-License-Identifier: Apache-2.0
"""Tests under stock Debian kernels, in guests of scripts/vm: what a host may lack or must not suffer.

To add one: write a function `test_...` without parameters in a file guest/test_*.py. That is all. It runs as root in a guest, once under each
kernel; `from guest import ...` has what it needs (guest/guest.py: tidegate(), doctor(), Cgroup, eventually() and more). It fails by an
exception, skips by `raise Skip("why")`, ends within 60 s or what `@deadline(seconds)` says, and leaves no process and no cgroup: that is looked
at after each. A file with `MODE = "systemd"` runs in guests where systemd is PID 1,
with --long under both kernels, else under 6.1: what is tried there is systemd; so it is with one that has `KERNELS = ["6.1"]`. A guest has one processor, or
two for tests with the decorator @two_cpus. There is a disk for whoever wants it: /dev/vda, 64 MiB.

Here one process boots a guest for each kernel and mode, two at a time, and hands it the names of all selected tests (-k works); the results of
the guest's run.py become results of pytest's. See what happens in one: scripts/vm -d 64 -- python3 tests/vm/guest/run.py test_host::test_...
"""

import ast
import contextlib
import json
import os
import pathlib
import queue
import subprocess
import threading
import time
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TIDEGATE_BUILD", ROOT / "build"))
GUEST = pathlib.Path(__file__).parent / "guest"
VM = ROOT / "scripts/vm"
KERNELS = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}
WITH_SYSTEMD = "6.1"  # it belongs to Debian 12, as this systemd does
LONG = bool(os.environ.get("TIDEGATE_LONG"))
PREPARE = 400  # seconds, when it has to be fetched
BOOT = 120  # for a boot on a very busy host
TEST = 20  # and for an average test
AT_ONCE = 2  # of one processor each: two of two are slower together than one after the other, for a processor waits for one that does not run
BOOTS = 3  # of one guest that ends before its tests
CRASHED = "vm: the guest's kernel crashed: "  # scripts/vm
collect_ignore = ["guest"]  # pytest itself may not import what ends on a host


class GuestTest(NamedTuple):
    module: str
    name: str
    mode: str
    kernels: tuple = tuple(KERNELS)  # without --long
    cpus: int = 1

    @property
    def id(self):
        return f"{self.module}::{self.name}"


def collect(folder=GUEST):
    """Every guest test, by reading its source: it can be imported in a guest only."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        body = ast.parse(path.read_text(), str(path)).body
        modes = [ast.literal_eval(s.value) for s in body if isinstance(s, ast.Assign) and getattr(s.targets[0], "id", "") == "MODE"]
        assert all(m in ("run", "systemd") for m in modes), f"{path}: MODE is run or systemd"
        kernels = [ast.literal_eval(s.value) for s in body if isinstance(s, ast.Assign) and getattr(s.targets[0], "id", "") == "KERNELS"]
        kernels = (WITH_SYSTEMD,) if modes == ["systemd"] else tuple(kernels[0]) if kernels else tuple(KERNELS)
        for s in body:
            if isinstance(s, ast.FunctionDef) and s.name.startswith("test_"):
                cpus = 2 if any(getattr(d, "id", "") == "two_cpus" for d in s.decorator_list) else 1
                found.append(GuestTest(path.stem, s.name, modes[0] if modes else "run", kernels, cpus))
    return found


def pytest_generate_tests(metafunc):
    if "guest_test" not in metafunc.fixturenames:
        return
    cases = [(kernel, test) for test in collect() for kernel in KERNELS if kernel in test.kernels or LONG]
    ids = [f"{test.module.removeprefix('test_')}-{test.name.removeprefix('test_')}-{kernel}" for kernel, test in cases]
    metafunc.parametrize("kernel, guest_test", cases, ids=ids)


class Guest:
    """A kernel and a mode. Its thread reads results as they come.

    Where it ends too early, the tests that are left have another boot, without the one it ended in. That one is tried again, too, if a kernel
    crashed: once, and the crash is told with its result.
    """

    def __init__(self, kernel, mode, cpus, tests):
        self.kernel, self.mode, self.cpus, self.tests = kernel, mode, cpus, tests
        self.results, self.lost, self.crashes, self.changed = {}, {}, {}, threading.Condition()
        self.skip = self.ended = self.running = None
        self.stopped = False
        self.console = []
        self.process = None

    def run(self):
        """To be called in a thread of its own."""
        try:
            if self.prepare():
                for _ in range(BOOTS):
                    left = [t for t in self.tests if t.id not in self.results and t.id not in self.lost]
                    if not left or self.stopped:
                        break
                    self.boot(left)
                    self.blame()
        except Exception as e:  # every test shall hear of it
            self.console.append(f"{type(e).__name__}: {e}")
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def prepare(self):
        made = subprocess.run([VM, "-k", KERNELS[self.kernel], "-p"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PREPARE)
        if made.returncode == 77:
            self.skip = made.stderr.strip().splitlines()[-1]
        elif made.returncode != 0:
            self.console.append(made.stderr)
        return made.returncode == 0

    def boot(self, tests):
        seconds = BOOT + TEST * len(tests)
        command = [VM, "-k", KERNELS[self.kernel], "-t", seconds, "-c", self.cpus, "-d", 64, *(["-s"] if self.mode == "systemd" else [])]
        if not BUILD.is_relative_to(ROOT) and BUILD.parts[1] in ("tmp", "run"):
            command += ["-r", BUILD]
        command += ["--", "/usr/bin/env", f"TIDEGATE_BUILD={BUILD}", "/usr/bin/python3", GUEST / "run.py", *(t.id for t in tests)]
        self.console, started = [], time.monotonic()
        self.process = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        if self.stopped:
            self.process.terminate()  # stop() may have come before it was there
        with self.process:
            for line in self.process.stdout:
                self.take(line)
        self.console.append(f"scripts/vm: status {self.process.returncode} after {time.monotonic() - started:.0f} s")

    def blame(self):
        """Which test it ended in, if in one."""
        with self.changed:
            culprit, self.running = self.running, None
            if culprit:
                crash = next((line.removeprefix(CRASHED).strip() for line in self.console if line.startswith(CRASHED)), None)
                if crash and culprit not in self.crashes:
                    self.crashes[culprit] = crash
                else:
                    self.lost[culprit] = "".join(self.console)
            self.changed.notify_all()

    def take(self, line):
        words = None
        if line.startswith("@@"):
            with contextlib.suppress(ValueError):
                words = json.loads(line[2:])
        with self.changed:
            if not words:
                self.console.append(line)
            elif "end" in words:
                self.results[words["end"]] = words
                self.running = None
            else:
                self.running = words.get("begin")
            self.changed.notify_all()

    def result(self, test):
        """Wait for it; None when the guest ended in it or before."""
        with self.changed:
            self.changed.wait_for(lambda: test.id in self.results or test.id in self.lost or self.ended, 1200)
            return self.results.get(test.id)

    def stop(self):
        self.stopped = True  # it has no other boot
        if self.process and self.process.poll() is None:
            self.process.terminate()


class Guests:
    def __init__(self, wanted):
        """@wanted: {(kernel, mode, cpus): tests}. Those with many tests begin; the guests of two processors come beside systemd's."""
        self.guests = {key: Guest(*key, tests) for key, tests in wanted.items()}
        waiting = queue.SimpleQueue()
        for key in sorted(self.guests, key=lambda k: (k[2], k[1])):
            waiting.put(self.guests[key])

        def work():
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.get_nowait().run()

        self.threads = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        for guest in self.guests.values():
            guest.stop()
        for thread in self.threads:
            thread.join(20)


@pytest.fixture(scope="session")
def guests(request):
    assert (BUILD / "bin/tidegate").exists(), f"{BUILD} holds no build; run scripts/build"
    wanted = {}
    for item in request.session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "guest_test" in parameters:
            test = parameters["guest_test"]
            wanted.setdefault((parameters["kernel"], test.mode, test.cpus), []).append(test)
    all_of_them = Guests(wanted)
    yield all_of_them
    all_of_them.stop()
