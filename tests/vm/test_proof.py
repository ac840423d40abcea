# SPDX-License-Identifier: Apache-2.0
"""Guest tests run nowhere else, and scripts/vm says what is wrong."""

import os
import subprocess
import sys

import pytest
from conftest import GUEST, VM, collect


def call(*command, env=None):
    return subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}
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
