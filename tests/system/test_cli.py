# SPDX-License-Identifier: Apache-2.0
"""The frame of the CLI: commands, help, usage errors, exit codes."""

import json
import os
import subprocess

import pytest

pytestmark = pytest.mark.sanitized

COMMANDS = [
    "run", "up", "down", "start", "stop", "restart", "list", "ps", "status", "node", "pid", "tail", "logs", "top", "probe", "events", "wait", "clean", "reset",
    "set-limit", "why", "freeze", "thaw", "topic", "shell", "validate", "graph", "doctor", "audit", "bench", "version", "help",
]  # fmt: skip


def test_help_lists_every_command_with_one_line(tidegate):
    p = tidegate("help")
    assert p.returncode == 0 and p.stderr == ""
    names = [line.split()[0] for line in p.stdout.splitlines() if line.startswith("  ")]
    assert names == COMMANDS
    assert max(map(len, p.stdout.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_in_both_spellings(tidegate, command):
    by_help, by_option = tidegate("help", command), tidegate(command, "--help")
    assert by_help.returncode == by_option.returncode == 0
    assert by_help.stdout == by_option.stdout
    assert by_help.stdout.startswith(f"usage: tidegate {command} ")
    assert by_help.stderr == by_option.stderr == ""
    assert max(map(len, by_help.stdout.splitlines())) <= 100


def test_help_after_a_double_dash_is_an_argument(tidegate):
    p = tidegate("version", "--", "--help")
    assert p.returncode == 2
    assert "unexpected argument `--help`" in p.stderr


@pytest.mark.parametrize("typo,meant", [("rnu", "run"), ("doctro", "doctor"), ("val", "validate"), ("versoin", "version")])
def test_a_mistyped_command_is_refused_with_a_suggestion(tidegate, typo, meant):
    for args in ([typo], ["help", typo]):
        p = tidegate(*args)
        assert p.returncode == 2
        assert p.stdout == ""
        assert f"did you mean `{meant}`?" in p.stderr


@pytest.mark.parametrize("args", [["frobnicate"], ["x" * 5000], [""], ["help", "frobnicate"]])
def test_an_unknown_command_is_refused_without_guessing(tidegate, args):
    p = tidegate(*args)
    assert p.returncode == 2
    assert p.stdout == "" and "did you mean" not in p.stderr


@pytest.mark.parametrize(
    "args",
    [[], ["version", "--frobnicate"], ["version", "extra"], ["help", "run", "version"], ["help", "--all"]],
)
def test_a_usage_error_exits_2_and_speaks_on_stderr_only(tidegate, args):
    p = tidegate(*args)
    assert p.returncode == 2
    assert p.stdout == ""
    assert p.stderr.startswith("tidegate")


def test_version_names_compiler_libraries_and_kernel(tidegate):
    text, data = tidegate("version").stdout, json.loads(tidegate("version", "--json").stdout)
    assert data["version"] in text and data["compiler"] in text
    assert data["compiler"].split()[0] in ("gcc", "clang")
    assert set(data["libraries"]) == {"glibc", "jansson", "libfyaml", "libbpf"}
    assert data["kernel"]["release"] == os.uname().release


def test_a_full_output_is_an_error_and_not_a_silent_success(tidegate):
    with open("/dev/full", "w") as full:
        p = tidegate("version", stdout=full)
    assert p.returncode == 1
    assert "No space left on device" in p.stderr


def test_closed_standard_files_are_survived(build):
    p = subprocess.run(["/bin/sh", "-c", f"exec {build}/bin/tidegate version <&- >&- 2>&-"], timeout=30)
    assert p.returncode == 0
