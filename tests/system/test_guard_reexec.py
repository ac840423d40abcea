# SPDX-License-Identifier: Apache-2.0
"""`tidegated --reexec` into a program that could not go on: it is asked first, refused with a reason, and the daemon is as it was."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import eventually
from daemon import plan, program
from lives import SLACK, stat_of

PROBE_SPAN = 5.0


class Upgrade:
    """A daemon of a copy of the program, so that the copy can be replaced."""

    def __init__(self, survivor, build, directory):
        self.build = build
        self.copy = directory / "tidegated"
        shutil.copy(build / "bin/tidegated", self.copy)
        self.daemon = survivor(program=self.copy)
        self.daemon.talk("Start", plan=plan(program("n", "exec sleep 1000")), grace_ms=500)
        self.daemon.talk("Wait", dataflow="flow", state="running")
        self.before = self.state()

    def state(self):
        health = self.daemon.health()
        return health["guard_pid"], health["pid"], health["epoch"], self.daemon.pids()

    def install(self, text=None, mode=0o755):
        """A script in the program's place; None: the program itself."""
        self.copy.unlink()
        if text is None:
            shutil.copy(self.build / "bin/tidegated", self.copy)
        else:
            self.copy.write_text(text)
            self.copy.chmod(mode)

    def ask(self):
        return subprocess.run(
            [self.build / "bin/tidegated", "--reexec", "--runtime-dir", self.daemon.runtime], capture_output=True, text=True, timeout=30, env=self.daemon.env
        )

    def check_refused(self, why):
        result = self.ask()
        assert result.returncode == 1, self.daemon.output()
        assert f"tidegated: cannot execute {self.copy} anew: " in result.stderr and why in result.stderr and "nothing is changed" in result.stderr, result.stderr
        assert result.stderr.removeprefix("tidegated: ").strip() in self.daemon.log.read_text()
        assert self.state() == self.before, self.daemon.output()
        assert self.daemon.adoptions() == []


@pytest.fixture
def upgrade(survivor, build, tmp_path):
    return Upgrade(survivor, build, tmp_path)


@pytest.fixture
def version(build):
    return subprocess.check_output([build / "bin/tidegated", "--state-version"], text=True).strip()


@pytest.mark.parametrize("text,why", [
    ("#!/bin/sh\necho 9999.1\n", "it reads state 9999.1, and this daemon has state "),
    ("#!/bin/sh\nprintf 9999.1\n", "it does not say which state it reads (--state-version: exit status 0)"),
    ("#!/bin/sh\necho '{version}'; exit 3\n", "it does not say which state it reads (--state-version: exit status 3)"),
    ("#!/bin/sh\necho 'tidegated: unknown option' >&2; exit 2\n", "it does not say which state it reads (--state-version: exit status 2)"),
    ("#!/bin/sh\necho '{version}'; kill -SEGV $$\n", "asked which state it reads it was ended by SIGSEGV"),
    ("#!/bin/sh\nexec yes\n", "it"),
    ("no program\n", "Exec format error"),
], ids=["another version", "half a line", "fails", "too old", "crashes", "babbles", "no program"])  # fmt: skip
def test_a_program_that_reads_another_state_is_refused(text, why, upgrade, version):
    upgrade.install(text.replace("{version}", version))
    upgrade.check_refused(why)
    upgrade.install()
    assert upgrade.ask().returncode == 0
    upgrade.daemon.until_adopted(1)
    assert upgrade.state()[0] == upgrade.before[0] and upgrade.state()[3] == upgrade.before[3]


def test_a_program_that_hangs_is_given_up_and_holds_nothing_up(upgrade):
    upgrade.install("#!/bin/sh\nexec sleep 1000\n")
    begin = time.monotonic()
    asked = subprocess.Popen([upgrade.build / "bin/tidegated", "--reexec", "--runtime-dir", upgrade.daemon.runtime], stderr=subprocess.PIPE, text=True)
    guard = upgrade.daemon.guard_pid()

    def probe():
        with open(f"/proc/{guard}/task/{guard}/children") as children:
            return [p for p in map(int, children.read().split()) if open(f"/proc/{p}/cmdline").read().startswith("sleep")]

    assert eventually(probe, 5), upgrade.daemon.output()
    pid = probe()[0]
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER, "it does not take the CPU from anybody"
    upgrade.daemon.talk("Start", plan=plan(program("m", "exec sleep 1000"), name="meanwhile"), grace_ms=500)
    assert time.monotonic() - begin < PROBE_SPAN, "this machine is too slow for this test"
    upgrade.daemon.talk("Stop", dataflow="meanwhile", force=True)
    assert asked.wait(20) == 1
    stderr = asked.stderr.read()
    asked.stderr.close()
    assert "it has not said which state it reads for 5 s; nothing is changed" in stderr
    assert time.monotonic() - begin < PROBE_SPAN + SLACK
    assert eventually(lambda: stat_of(pid) is None, 5), "it was killed and reaped"
    assert upgrade.state()[:3] == upgrade.before[:3]
    assert upgrade.daemon.adoptions() == []


def test_a_signal_alone_is_held_to_the_same(upgrade):
    upgrade.install("#!/bin/sh\necho 9999.1\n")
    for _ in range(3):
        upgrade.daemon.send("guard", signo=signal.SIGUSR2)
    assert eventually(lambda: "it reads state 9999.1" in upgrade.daemon.log.read_text(), 10)
    assert upgrade.state() == upgrade.before
    upgrade.check_refused("it reads state 9999.1")
    upgrade.check_refused("it reads state 9999.1")


def test_one_that_may_not_be_executed_is_refused(upgrade):
    upgrade.install("#!/bin/sh\necho 9999.1\n", mode=0o644)
    upgrade.check_refused("Permission denied")
