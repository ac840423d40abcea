# SPDX-License-Identifier: Apache-2.0
"""scripts/bench-stop: what it measures it measures, what it says is left is left, and it leaves nothing itself. Tidegate only: other
supervisors need the network."""

import json
import os
import signal
import subprocess

import pytest
from conftest import ROOT, eventually, marked_processes, said, unified_root

BENCH = ROOT / "scripts/bench-stop"
MARK = "TIDEGATE_BENCH"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def environment(build, tmp_path):
    return {**os.environ, "TIDEGATE_BUILD": str(build), "TMPDIR": str(tmp_path)}


def run(build, tmp_path, *args, status=0):
    done = said(subprocess.run([BENCH, "--no-fetch", *args], env=environment(build, tmp_path), capture_output=True, text=True, timeout=90))
    assert done.returncode == status, done.stdout + done.stderr
    return done


def left(tmp_path):
    """Folders, and cgroups of benchmarks whose process is gone: another may run beside this test."""
    cgroups = [c.name for c in unified_root().glob("bench-stop.*") if not os.path.exists(f"/proc/{c.name.partition('.')[2].partition('-')[0]}")]
    return [p.name for p in tmp_path.glob("bench-stop.*")], cgroups


def test_tidegate_and_the_kernel_alone_leave_nobody_of_what_does_everything_to_stay(build, tmp_path):
    scenarios = ["coop", "tree", "headless", "bomb"]  # in the order of the table
    options = [word for name in scenarios for word in ("--scenario", name)]
    done = run(build, tmp_path, "--only", "raw", "--only", "tidegate", "--runs", "1", "--grace", "500", "--json", *options)
    report = json.loads(done.stdout)
    assert [peer["name"] for peer in report["peers"]] == ["raw", "tidegate"]
    for peer in report["peers"]:
        assert list(peer["scenarios"]) == scenarios, peer
        for name, samples in peer["scenarios"].items():
            assert [sample["left"] for sample in samples] == [0], (peer["name"], name, samples)
    raw, tidegate = ({name: cell[0]["ms"] for name, cell in peer["scenarios"].items()} for peer in report["peers"])
    assert tidegate["tree"] >= 750, "half of the grace again passes before SIGKILL"
    assert raw["tree"] < tidegate["tree"], "that has no grace"
    assert report["left"] == {} and left(tmp_path) == ([], [])


def test_the_table_has_a_column_for_each_peer_and_says_who_is_missing_and_why(build, tmp_path):
    done = run(build, tmp_path, "--only", "raw", "--only", "s6, pidns", "--runs", "1", "--scenario", "coop", "--scenario", "copies")
    lines = done.stdout.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[0] for row in rows] == ["", "-" * len(lines[4].split("|")[1]), "cooperative stop, ms", rows[3][0]]
    assert rows[0][1:] == ["raw"] and rows[2][1].endswith(", 0 left") and rows[3][1] == "-"
    assert any(line.startswith("- s6, pidns: missing: ") for line in lines), done.stdout
    assert lines[-1] == "left on this host: 0 processes, 0 cgroups, 0 mounts, 0 files"


def test_survivors_are_counted_and_ended_with_the_benchmark(build, tmp_path):
    """Ended in the middle of a stop that would take a minute: the room goes with it."""
    command = [BENCH, "--no-fetch", "--only", "tidegate", "--runs", "1", "--scenario", "tree", "--grace", "60000"]
    process = subprocess.Popen(command, env=environment(build, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def subjects():
            for folder in tmp_path.glob("bench-stop.*"):
                mark = json.loads((folder / "spec.json").read_text())["mark"] if (folder / "spec.json").exists() else None
                if mark and len(found := [p for p, command in marked_processes(mark, MARK).items() if "bench_subject tree" in command]) >= 200:
                    return mark, found
            return None

        mark, found = eventually(subjects, 30)
        assert len(found) == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert marked_processes(mark, MARK) == {} and left(tmp_path) == ([], [])
    finally:
        process.kill()
        process.wait()
