#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Count the results of a test run.

    summary.py [--filtered] RESULTS          all stages; the last line is `N passed, N failed[, N skipped]`
    summary.py --one [--filtered] STAGE      one stage, as it ends: failures, skips with their reasons, a count

A stage is a folder that holds any of
    testlog.json    of `meson test`, one JSON object a line (TAP programs are counted test by test)
    *.xml           JUnit, of pytest; a property "note" of a test is shown, however it went
    results.tsv     passed|failed|skipped <TAB> name <TAB> reason
    reports/*       of the sanitizers: each file is a failure, but for those that hold nothing but noise of the leak checker; beside
                    such one that is empty is a note: its process was killed before the noise was written
    skip            why the whole stage was left out
    status, log     exit status and output of the stage itself

meson's own JUnit file is not used: it counts a test program that ran into its timeout, or one without a single test,
as no failure. Exit status: 0 only if something passed and nothing failed.
"""

import argparse
import json
import pathlib
import re
import sys
import xml.etree.ElementTree as xml
from typing import NamedTuple

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
NOTED = "noted"  # is no test: shown, not counted
TAP_LINE = re.compile(r"^(not )?ok\b(?:\s+\d+)?(?:\s*-)?\s*(.*)$")
TAP_PLAN = re.compile(r"^1\.\.(\d+)\s*(?:#\s*(.*))?$")
TAP_TIME = re.compile(r"\s*\(\d+\.\d+s\)\s*$")
# Of the leak checker, about a thread that ended while it looked: what can follow from either is a leak that is none, which is told as an error.
NOISE = re.compile(r"==\d+==(Running thread \d+ was not suspended\. False leaks are possible\.|Unable to get registers from thread \d+\.)$")
COMMENTS = 4  # before a test that failed: what its program says of it, if nothing follows
SHOWN = 25  # of one kind; all of them are in the stage's log
MESON_GOOD = ("OK", "EXPECTEDFAIL")


class Result(NamedTuple):
    outcome: str
    name: str
    reason: str = ""
    note: str = ""


def tap(program: str, output: str, meson_result: str) -> list[Result]:
    """The tests of one TAP program. Whatever it leaves open (a crash, a test that never reported) is a failure."""
    results: list[Result] = []
    plan, plan_reason = None, ""
    detail: list[str] = []
    said: list[str] = []  # in comments, since the last result
    for line in output.splitlines():
        if match := TAP_PLAN.match(line):
            plan, plan_reason = int(match[1]), match[2] or ""
        elif match := TAP_LINE.match(line):
            text, _, directive = match[2].partition("# ")
            name = f"{program}: {TAP_TIME.sub('', text).strip()}"
            if match[1]:
                detail = []
                results.append(Result(FAILED, name, "; ".join(said[-COMMENTS:])))
            elif directive.upper().startswith("SKIP"):
                results.append(Result(SKIPPED, name, directive[4:].strip() or "no reason given"))
            else:
                results.append(Result(PASSED, name))
            said = []
        elif line.startswith("# ") and not line.startswith("# Criterion v"):
            said.append(line.removeprefix("# "))
        elif results and results[-1].outcome == FAILED and line.startswith(" "):
            text = line.strip()
            if text and text not in ("---", "...", "failures:") and not text.startswith("assertions:"):
                detail.append(text.removeprefix("- "))
                results[-1] = results[-1]._replace(reason="; ".join(detail))

    failed = any(r.outcome == FAILED for r in results)
    if plan == 0:
        if plan_reason.upper().startswith("SKIP"):
            return [Result(SKIPPED, program, plan_reason[4:].strip() or "no reason given")]
        return [Result(FAILED, program, "the program has no tests")]
    if plan is None:
        results.append(Result(FAILED, program, f"no TAP plan ({meson_result})"))
    elif len(results) != plan:
        results.append(Result(FAILED, program, f"{len(results)} of {plan} tests reported ({meson_result})"))
    elif meson_result not in MESON_GOOD + ("SKIP",) and not failed:
        results.append(Result(FAILED, program, f"the program itself ended badly ({meson_result})"))
    return results


def meson(path: pathlib.Path) -> list[Result]:
    results = []
    for line in path.read_text(errors="replace").splitlines():
        test = json.loads(line)
        name, result, output = test["name"], test["result"], test.get("stdout") or ""
        if result == "TIMEOUT":
            results += [r for r in tap(name, output, result) if r.outcome != FAILED]
            results.append(Result(FAILED, name, f"ran into its timeout after {test.get('duration', 0):.0f} s"))
        elif "TAP version" in output or TAP_PLAN.match(output.partition("\n")[0]):
            results += tap(name, output, result)
        elif result in MESON_GOOD:
            results.append(Result(PASSED, name))
        elif result == "SKIP":
            lines = output.strip().splitlines()
            results.append(Result(SKIPPED, name, lines[-1] if lines else "no reason given"))
        else:
            results.append(Result(FAILED, name, f"{result}, status {test.get('returncode')}"))
    return results


def junit(path: pathlib.Path) -> list[Result]:
    results = []
    for case in xml.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name')}"
        note = "; ".join(p.get("value", "") for p in case.iter("property") if p.get("name") == "note")
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            results.append(Result(FAILED, name, (bad.get("message") or "").partition("\n")[0][:300], note))
        elif skip is not None:
            results.append(Result(SKIPPED, name, skip.get("message") or "no reason given", note))
        else:
            results.append(Result(PASSED, name, note=note))
    return results


def tsv(path: pathlib.Path) -> list[Result]:
    results = []
    for line in path.read_text(errors="replace").splitlines():
        outcome, name, reason = (line.split("\t") + ["", ""])[:3]
        if outcome not in (PASSED, FAILED, SKIPPED):
            outcome, reason = FAILED, f"unreadable result: {line!r}"
        results.append(Result(outcome, name, reason))
    return results


def report_text(path: pathlib.Path) -> str | None:
    """What the sanitizer says, or None if that is noise: in a child forked from a process with threads the leak
    checker misses the parent's other threads, and says so."""
    lines = path.read_text(errors="replace").splitlines()
    rest = [line for line in lines if not NOISE.match(line)]
    return None if lines and not rest else "\n".join(rest)


def sanitizer_reports(folder: pathlib.Path) -> list[Result]:
    texts = {path: report_text(path) for path in sorted(folder.iterdir())}
    noisy = None in texts.values()
    results = []
    for path, text in texts.items():
        name = f"sanitizer report {folder.parent.name}/reports/{path.name}"
        if text == "" and noisy:
            results.append(Result(NOTED, name, note="empty: its process was killed before the leak checker's noise was written"))
        elif text is not None:
            results.append(Result(FAILED, name, report_headline(text)))
    return results


def report_headline(text: str) -> str:
    for line in text.splitlines():
        if "ERROR:" in line or "WARNING:" in line or "runtime error" in line:
            return line.strip()
    return (text.strip().splitlines() or ["empty: the process was killed while it reported"])[0]


def stage(folder: pathlib.Path, filtered: bool) -> list[Result]:
    """Every result of one stage, including what went wrong around the tests."""
    results: list[Result] = []
    for path in sorted(folder.iterdir()):
        try:
            if path.name == "testlog.json":
                results += meson(path)
            elif path.name == "results.tsv":
                results += tsv(path)
            elif path.suffix == ".xml":
                results += junit(path)
        except (ValueError, KeyError, xml.ParseError) as e:
            results.append(Result(FAILED, f"{folder.name}/{path.name}", f"unreadable: {e}"))

    reports = folder / "reports"
    if reports.is_dir():
        results += sanitizer_reports(reports)

    status = folder / "status"
    code = status.read_text().strip() if status.exists() else "missing"
    if code != "0":
        results.append(Result(FAILED, f"stage {folder.name}", f"status {code}; see {folder.name}/log"))
    if (folder / "skip").exists():
        results.append(Result(SKIPPED, f"stage {folder.name}", (folder / "skip").read_text().strip()))
    if all(r.outcome == NOTED for r in results) and not filtered:
        results.append(Result(FAILED, f"stage {folder.name}", "ran no test"))
    return results


def counted(results: list[Result]) -> str:
    n = {outcome: sum(r.outcome == outcome for r in results) for outcome in (PASSED, FAILED, SKIPPED)}
    line = f"{n[PASSED]} passed, {n[FAILED]} failed"
    return line + (f", {n[SKIPPED]} skipped" if n[SKIPPED] else "")


def show(results: list[Result], outcome: str, word: str) -> None:
    chosen = [r for r in results if r.outcome == outcome]
    for r in chosen[:SHOWN]:
        print(f"   {word} {r.name}{': ' + r.reason if r.reason else ''}")
    if len(chosen) > SHOWN:
        print(f"   {word} ... and {len(chosen) - SHOWN} more")


def main() -> int:
    parser = argparse.ArgumentParser(description="count the results of a test run")
    parser.add_argument("--one", action="store_true", help="the folder is one stage")
    parser.add_argument("--filtered", action="store_true", help="a stage without a test is all right")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()

    if args.one:
        results = stage(args.folder, args.filtered)
        for r in results:
            if r.note:
                print(f"   note    {r.name}: {r.note}")
        show(results, SKIPPED, "skipped")
        show(results, FAILED, "FAILED ")
        if any(r.outcome == FAILED for r in results) and (args.folder / "log").exists():
            print(f"   the end of {args.folder.name}/log:")
            lines = (args.folder / "log").read_text(errors="replace").splitlines()[-60:]
            print("".join(f"   | {line}\n" for line in lines), end="")
        print("   " + counted(results))
        return 0

    results = []
    for folder in sorted(p for p in args.folder.iterdir() if p.is_dir()):
        results += stage(folder, args.filtered)
    show(results, FAILED, "FAILED ")
    passed = any(r.outcome == PASSED for r in results)
    if not passed:
        print("   nothing passed: that is no test run")
    print(counted(results), flush=True)
    return 0 if passed and not any(r.outcome == FAILED for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
