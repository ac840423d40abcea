# SPDX-License-Identifier: Apache-2.0
"""scripts/summary.py decides whether a run was red: each way of failing must be seen."""

import json
import re
import subprocess
import sys

import pytest

PASS = "TAP version 13\n1..2\n# Criterion v2.4.1\nok - s::a  (0.00s)\nok - s::b  (0.01s)\n"
FAIL = (
    "TAP version 13\n1..2\nok - s::a  (0.00s)\nnot ok - s::b  (0.00s)\n  ---\n  assertions: 1\n  failures:\n"
    "  - ../fail.c:5: |+\n      Assertion failed: The expression 0 is false.\n  ...\n"
)
CRASH = "TAP version 13\n1..2\nok - s::a  (0.00s)\nnot ok - s::b unexpected signal after ../crash.c:5\n"
COMMENT = "1..2\n# seed 3\nok 1 - a\n# killed at the head: not at its end\n# 3 rounds\nnot ok 2 - b\n"
SKIP = "TAP version 13\n1..2\nok - s::b  # SKIP no cgroup v2 here\nok - s::a  (0.00s)\n"
NONE = "TAP version 13\n1..0\n# Criterion v2.4.1\n"
CUT = "TAP version 13\n1..3\nok - s::a  (0.00s)\n"
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.system.test_x" name="test_good" />
<testcase classname="tests.system.test_x" name="test_skipped"><skipped message="needs root" /></testcase>
%s</testsuite></testsuites>"""


def program(output, result="OK", code=0, name="prog"):
    return json.dumps({"name": name, "stdout": output, "result": result, "returncode": code, "duration": 3.0}) + "\n"


@pytest.fixture
def run(root, tmp_path):
    """Write the files of one stage, count them, return (status, passed, failed, skipped, output)."""

    def count(files, *args, status="0"):
        stage = tmp_path / "01-stage"
        (stage / "reports").mkdir(parents=True)
        if status is not None:
            (stage / "status").write_text(status + "\n")
        for name, text in files.items():
            (stage / name).write_text(text)
        p = subprocess.run(
            [sys.executable, root / "scripts/summary.py", *args, tmp_path], text=True, stdout=subprocess.PIPE, timeout=30
        )
        last = p.stdout.splitlines()[-1]
        match = re.fullmatch(r"(\d+) passed, (\d+) failed(?:, ([1-9]\d*) skipped)?", last)
        assert match, last
        return p.returncode, *(int(n or 0) for n in match.groups()), p.stdout

    return count


def test_passing_programs_and_files_add_up(run):
    files = {"testlog.json": program(PASS) + program("", name="plain"), "pytest.xml": JUNIT % ""}
    assert run(files)[:4] == (0, 4, 0, 1)


@pytest.mark.parametrize(
    "line,passed,failed,told",
    [
        (program(FAIL, "ERROR", 1), 1, 1, "The expression 0 is false"),
        (program(COMMENT, "ERROR", 1), 1, 1, "FAILED  prog: b: killed at the head: not at its end; 3 rounds\n"),
        (program(CRASH, "ERROR", 1), 1, 1, "unexpected signal after"),
        (program(CUT, "ERROR", 1), 1, 1, "1 of 3 tests reported"),
        (program(CUT, "TIMEOUT", 1), 1, 1, "timeout after 3 s"),
        (program("", "TIMEOUT", 1), 0, 1, "timeout"),
        (program(PASS, "ERROR", -11), 2, 1, "ended badly"),
        (program("", "ERROR", -11), 0, 1, "status -11"),
        (program(NONE, "SKIP"), 0, 1, "no tests"),
        (program("", "FAIL", 1), 0, 1, "FAIL"),
        ("not json\n", 0, 1, "unreadable"),
    ],
)
def test_each_way_a_program_can_fail_is_red(run, line, passed, failed, told):
    code, n_passed, n_failed, _, output = run({"testlog.json": line})
    assert (code, n_passed, n_failed) == (1, passed, failed)
    assert told in output


def test_a_failure_beside_a_thousand_passes_is_red(run):
    assert run({"testlog.json": program(PASS) * 500 + program(FAIL, "ERROR", 1)})[:3] == (1, 1001, 1)


@pytest.mark.parametrize("element", ['<failure message="assert 1 == 2" />', '<error message="fixture" />'])
def test_a_junit_failure_and_a_junit_error_are_red(run, element):
    code, passed, failed, skipped, output = run(
        {"pytest.xml": JUNIT % f'<testcase classname="t" name="test_bad">{element}</testcase>'}
    )
    assert (code, passed, failed, skipped) == (1, 1, 1, 1)
    assert "test_bad" in output


def test_a_sanitizer_report_is_red_though_every_test_passed(run):
    report = "==1==ERROR: AddressSanitizer: heap-use-after-free\n"
    code, passed, failed, _, output = run({"testlog.json": program(PASS), "reports/asan.17": report})
    assert (code, passed, failed) == (1, 2, 1)
    assert "heap-use-after-free" in output and "asan.17" in output


def test_an_empty_sanitizer_report_is_red(run):
    assert run({"testlog.json": program(PASS), "reports/asan.17": ""})[:3] == (1, 2, 1)


def test_an_empty_sanitizer_report_beside_noise_is_a_note(run, root, tmp_path):
    noise = "==9==Running thread 7 was not suspended. False leaks are possible.\n"
    assert run({"testlog.json": program(PASS), "reports/asan.9": noise, "reports/asan.17": ""})[:4] == (0, 2, 0, 0)
    one = subprocess.run([sys.executable, root / "scripts/summary.py", "--one", tmp_path / "01-stage"], text=True, stdout=subprocess.PIPE)
    assert "   note    sanitizer report 01-stage/reports/asan.17: empty: its process was killed" in one.stdout
    assert "asan.9" not in one.stdout


def test_a_note_alone_is_no_test_run(run):
    noise = "==9==Running thread 7 was not suspended. False leaks are possible.\n"
    assert run({"reports/asan.9": noise, "reports/asan.17": ""})[:3] == (1, 0, 1)


def test_what_the_leak_checker_says_about_threads_is_no_report_of_its_own(run):
    noise = "==9==Running thread 7 was not suspended. False leaks are possible.\n==9==Unable to get registers from thread 8.\n"
    leak = "==9==ERROR: LeakSanitizer: detected memory leaks\n"
    files = {"testlog.json": program(PASS), "reports/asan.8": noise * 2, "reports/asan.9": noise + leak}
    code, passed, failed, _, output = run(files)
    assert (code, passed, failed) == (1, 2, 1)
    assert "asan.9: ==9==ERROR: LeakSanitizer" in output and "asan.8" not in output


def test_a_skipped_test_keeps_its_reason(run, root, tmp_path):
    assert run({"testlog.json": program(SKIP)})[:4] == (0, 1, 0, 1)
    one = subprocess.run(
        [sys.executable, root / "scripts/summary.py", "--one", tmp_path / "01-stage"], text=True, stdout=subprocess.PIPE
    )
    assert "no cgroup v2 here" in one.stdout


def test_a_note_of_a_test_is_shown_however_it_went(run, root, tmp_path):
    noted = '<properties><property name="note" value="a kernel crashed" /></properties>'
    assert run({"pytest.xml": JUNIT % f'<testcase classname="t" name="test_noted">{noted}</testcase>'})[:4] == (0, 2, 0, 1)
    one = subprocess.run([sys.executable, root / "scripts/summary.py", "--one", tmp_path / "01-stage"], text=True, stdout=subprocess.PIPE)
    assert "   note    t: test_noted: a kernel crashed\n" in one.stdout


def test_only_skips_is_no_test_run(run):
    assert run({"skip": "nothing to do here"})[:4] == (1, 0, 0, 1)


def test_no_test_at_all_is_red(run):
    assert run({})[:4] == (1, 0, 1, 0)


def test_a_filter_that_matches_nothing_anywhere_is_red(run):
    assert run({}, "--filtered")[:4] == (1, 0, 0, 0)


@pytest.mark.parametrize("status", ["1", "124", None])
def test_a_stage_that_failed_or_never_ended_is_red(run, status):
    code, passed, failed, _, output = run({"testlog.json": program(PASS)}, status=status)
    assert (code, passed, failed) == (1, 2, 1)
    assert "stage 01-stage" in output


def test_a_fuzz_result_is_counted(run):
    assert run({"results.tsv": "passed\tfuzz a\t9 inputs\nfailed\tfuzz b\tcrash\n"})[:3] == (1, 1, 1)

def test_a_torn_result_line_is_red(run):
    assert run({"results.tsv": "passed\tfuzz a\t9\npas"})[:3] == (1, 1, 1)
