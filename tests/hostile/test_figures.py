# SPDX-License-Identifier: Apache-2.0
"""What enforcement costs beside what the kernel alone takes, measured in turn (scripts/bench-enforce). The bounds here are wide, for a machine
that is busy; docs/benchmarks.md has the figures."""

import json
import platform
import subprocess

import pytest

pytestmark = [
    pytest.mark.alone,  # it measures
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the reference has a few lines of assembly for x86_64"),
]


def measured(root, build, only, rounds):
    out = subprocess.check_output([root / "scripts/bench-enforce", "--json", "--only", only, "--rounds", str(rounds)], text=True, timeout=200)
    return {row["what"]: row for row in json.loads(out)}


def test_the_kill_rung_takes_hardly_longer_than_the_kernel(root, build):
    rows = measured(root, build, "kill", 9)
    for what in ("kill 10", "kill 100", "kill 1000"):
        assert rows[what]["ratio"] < 2, rows[what]
    assert rows["kill 200"]["ours_ms"] < 100 * 3
    assert rows["kill 5000"]["ours_ms"] < 3000 * 2


def test_a_start_takes_hardly_longer_than_clone3(root, build):
    assert measured(root, build, "spawn", 21)["spawn"]["ratio"] < 2


def test_a_death_is_seen_at_once(root, build):
    rows = measured(root, build, "death", 2)
    assert rows["death: seen"]["p50_ms"] < rows["death: known"]["p50_ms"] < rows["death: told"]["p50_ms"] < 5, rows
