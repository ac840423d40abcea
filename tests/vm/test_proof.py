# SPDX-License-Identifier: Apache-2.0
"""Guest tests run nowhere else, and scripts/vm says what is wrong."""

import os
import subprocess
import sys
import time

import conftest
import pytest
from conftest import GUEST, VM, Guest, GuestTest, collect


def call(*command, env=None, seconds=60):
    return subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, env={**os.environ, **(env or {})}
    )


@pytest.mark.parametrize("name", sorted(p.name for p in GUEST.glob("*.py")))
def test_on_a_host_a_guest_file_ends_before_it_does_anything(name):
    result = call(sys.executable, GUEST / name, *(t.id for t in collect() if f"{t.module}.py" == name))
    assert result.returncode == 77, result.stderr
    assert result.stderr.startswith("only in a guest of scripts/vm: no vm.mode= on the kernel's command line")
    assert result.stdout == ""


def test_the_word_on_the_command_line_is_not_enough(tmp_path):
    (tmp_path / "cmdline").write_text("quiet vm.mode=run\n")
    script = f"""\
import sys
sys.path.insert(0, {str(GUEST)!r})
sys.exit = lambda status: None  # the look at the real host, which ends us
import guest
print(guest.proof({str(tmp_path / "cmdline")!r}, {str(tmp_path)!r}))
"""
    assert call(sys.executable, "-c", script).stdout == f"{tmp_path} is not cgroup v2\n"


def test_there_are_tests_and_each_has_its_own_name():
    ids = [t.id for t in collect()]
    assert len(ids) == len(set(ids)) > 10


@pytest.mark.parametrize("arguments, why", [
    ((), "no command"),
    (("-t", "soon", "--", "true"), "soon: a whole number is wanted"),
    (("-w", "/nonexistent", "--", "true"), "/nonexistent: no such folder"),
    (("-k", "../../etc", "--", "true"), "../../etc: not the name of a package"),
    (("-X", "--", "true"), "-X: no such option, or its argument is missing"),
])  # fmt: skip
def test_bad_arguments_are_refused_with_the_reason(arguments, why):
    result = call(VM, *arguments)
    assert result.returncode == 2 and why in result.stderr and result.stdout == ""


def test_help_names_every_option():
    text = call(VM, "--help").stdout
    for option in "ktmcwrdsoaqp":
        assert f"-{option} " in text, option


def test_without_a_kernel_it_ends_with_77_and_leaves_nothing(tmp_path):
    """As without network: apt-get cannot fetch it."""
    for tool in ("apt-get", "apt-cache"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 'E: Unable to fetch' >&2\nexit 100\n")
        (tmp_path / tool).chmod(0o755)
    cache = tmp_path / "cache"
    result = call(VM, "--", "true", env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TIDEGATE_VM_CACHE": str(cache)})
    if "could not be installed" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 77, result.stderr
    assert "vm: no kernel linux-image-amd64 here: no guest" in result.stderr
    assert sorted(p.name for p in cache.iterdir()) == ["lock"]


def test_a_kernel_that_crashes_is_quoted_from_where_it_says_why():
    result = call(VM, "-t", conftest.BOOT, "--", "/bin/sh", "-c", "echo c >/proc/sysrq-trigger", seconds=conftest.BOOT + conftest.PREPARE)
    if result.returncode == 77:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 125, result.stderr
    said = result.stderr[result.stderr.index(conftest.CRASHED) :].splitlines()
    assert said[0] == conftest.CRASHED + "Kernel panic - not syncing: sysrq triggered crash"
    assert any("Call Trace" in line for line in said)


def begin(name):
    return f"echo '@@{{\"begin\": \"test_x::{name}\"}}'\n"


def end(name):
    return f"echo '@@{{\"end\": \"test_x::{name}\", \"outcome\": \"passed\"}}'\n"


CRASH = f'echo "{conftest.CRASHED}BUG: unable to handle"\nexit 125\n'


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """One with tests a, b and c, whose boots do what the given scripts say."""
    vm = tmp_path / "vm"
    monkeypatch.setattr(conftest, "VM", vm)

    def boot(*scripts):
        for i, script in enumerate(scripts):
            (tmp_path / f"boot{i}").write_text(script)
        vm.write_text(f'#!/bin/sh\n[ "$3" != -p ] || exit 0\ncd {tmp_path}\necho "$@" >>booted\n. ./boot$(($(wc -l <booted) - 1))\n')
        vm.chmod(0o755)
        made = Guest("6.1", "run", 1, [GuestTest("test_x", name, "run") for name in "abc"])
        made.run()
        booted = [[w.removeprefix("test_x::") for w in line.split() if w.startswith("test_x::")] for line in (tmp_path / "booted").read_text().splitlines()]
        return made, booted

    return boot


def test_a_test_that_ends_its_guest_has_failed_and_the_others_go_on_in_another(guest):
    made, booted = guest(begin("a") + end("a") + begin("b") + "echo the last words\nexit 125\n", begin("c") + end("c"))
    assert booted == [["a", "b", "c"], ["c"]]
    assert sorted(made.results) == ["test_x::a", "test_x::c"] and "the last words" in made.lost["test_x::b"] and not made.crashes


def test_a_test_in_which_a_kernel_crashes_is_tried_once_more_and_the_crash_is_told(guest):
    made, booted = guest(begin("a") + end("a") + begin("b") + CRASH, begin("b") + end("b") + begin("c") + end("c"))
    assert booted == [["a", "b", "c"], ["b", "c"]]
    assert len(made.results) == 3 and not made.lost and made.crashes == {"test_x::b": "BUG: unable to handle"}


def test_a_test_in_which_kernels_crash_has_failed(guest):
    made, booted = guest(begin("a") + CRASH, begin("a") + CRASH, begin("b") + end("b") + begin("c") + end("c"))
    assert booted == [["a", "b", "c"], ["a", "b", "c"], ["b", "c"]]
    assert "BUG: unable to handle" in made.lost["test_x::a"] and len(made.results) == 2


def test_a_guest_that_is_stopped_boots_no_more(guest, monkeypatch):
    blame = Guest.blame
    monkeypatch.setattr(Guest, "blame", lambda self: (blame(self), self.stop()))
    _, booted = guest(begin("a") + CRASH, begin("a") + end("a"))
    assert len(booted) == 1


def test_a_guest_that_is_stopped_just_before_its_boot_is_ended(guest, monkeypatch, tmp_path):
    boot, begin = Guest.boot, time.monotonic()
    monkeypatch.setattr(Guest, "boot", lambda self, tests: (self.stop(), boot(self, tests)))
    (tmp_path / "booted").touch()  # it may not even get to that
    guest("exec sleep 20\n")
    assert time.monotonic() - begin < 15


def test_a_guest_that_never_gets_to_a_test_is_given_up(guest):
    made, booted = guest(*["echo no disk\nexit 125\n"] * conftest.BOOTS)
    assert len(booted) == conftest.BOOTS and not made.results and not made.lost
    assert made.ended and "no disk\n" in made.console
