# SPDX-License-Identifier: Apache-2.0
"""scripts/bench-peers: what it says is what was measured, it leaves nothing, and who cannot be had is named. Only peers that need no network."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import types

import pytest
from conftest import ROOT, eventually, unified_root

BENCH = ROOT / "scripts/bench-peers"
HELLO, ECHO, STAMP, SINK, REPORT, QUIT = range(1, 7)
HEAD, RESULT = struct.Struct("=IIQQ"), struct.Struct("=IIIIIIQ")

sys.path.insert(0, str(ROOT / "tests/bench"))
import own  # noqa: E402
import ratios  # noqa: E402

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(build, tmp_path, *args):
    environment = {**os.environ, "TIDEGATE_BUILD": str(build), "TMPDIR": str(tmp_path)}
    done = subprocess.run([BENCH, "--quick", "--no-fetch", "--cache", tmp_path / "cache", *args], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@needs_root
def test_everybody_does_every_step_and_nothing_is_left(build, tmp_path):
    python = "tidegate, Python"
    done = run(build, tmp_path, "--json", "--size", "64", "--size", "1048576", "--only", "socket", "--only", "tidegate", "--only", python)
    report = json.loads(done.stdout)
    assert report["failed"] == [] and report["left"] == {}
    seen = {(s["peer"], s["size"], s["step"]): s for s in report["samples"]}
    expected = {(p, n, s) for p in ("pipe", "socket", "tidegate") for n in (64, 1 << 20) for s in ("ping", "paced", "flood")}
    expected |= {(python, 64, "ping"), (python, 4096000, "ping"), (python, 4096000, "call")}
    assert set(seen) == expected | {("tidegate", 64, "own"), (python, 64, "own")}, "own: what Python takes beside what C takes"
    for sample in seen.values():
        assert sample["n"] > 0 and sample["missing"] == 0, sample
        if sample["step"] == "paced":
            assert 40 <= sample["n"] <= 49, "one a millisecond in 50, the first after one; a start may be late"
        if sample["step"] in ("ping", "own"):
            assert sample["cpu_us"] > 0
        if sample["step"] != "flood":
            assert 0 < sample["p50_us"] <= sample["p99_us"] <= sample["max_us"], sample
        else:
            assert sample["per_s"] > 0
    assert sum("with the same wait (goal 3)" in text for _, text, _ in ratios.judged(report)) == 2
    assert list(tmp_path.glob("bench-peers.*")) == []
    assert [c.name for c in unified_root().glob("bench-peers.*") if not os.path.exists(f"/proc/{c.name.split('.')[1].split('-')[0]}")] == []


def settings(text):
    """Of a dataflow, all but which program it is."""
    return [line for line in text.splitlines() if line.split(":")[0].strip() not in ("path", "args")]


def test_the_dataflows_that_python_is_compared_in_sleep_on_one_cpu_and_differ_in_the_program_alone(build, tmp_path):
    made = types.SimpleNamespace(root=ROOT, build=build)
    in_c = own.OwnC(None, made, tmp_path).descriptor(64, 64, ["ping:1"], tmp_path / "result")
    in_python = own.OwnPython(None, made, tmp_path).descriptor("own", 1, tmp_path / "result")
    assert settings(in_c) == settings(in_python) and in_c != in_python
    assert in_c.count("wait: block") == 2 and len(set(re.findall(r"cpu_affinity: \[\d+\]", in_c))) == 1


@needs_root
def test_who_cannot_be_had_is_named_and_the_others_are_measured(build, tmp_path):
    done = run(build, tmp_path, "--size", "64", "--only", "zeromq", "--only", "dora, Python")
    assert "- zeromq: missing: libzmq3-dev is not in " in done.stdout
    assert "- dora, Python: missing: dora-rs-cli is not in " in done.stdout
    assert any(line.startswith("| back to back, /s") and "| pipe" in line for line in done.stdout.splitlines()), done.stdout
    assert done.stdout.splitlines()[-1] == "left on this host: 0 processes, 0 cgroups, 0 mounts, 0 files"


def message(kind, seq, step=1, rest=b"", size=64):
    head = HEAD.pack(kind, step, seq, 0) + rest
    return head.ljust(size - 8, b"\0") + struct.pack("=Q", ~seq & (1 << 64) - 1)


def peer(build, tmp_path, side, *args):
    return subprocess.Popen([build / "tests/bench/bench_peer_socket", "none", str(side), tmp_path, "64", "4", *args], stderr=subprocess.PIPE, text=True)


def test_what_the_receiver_did_not_get_is_counted_as_missing(build, tmp_path):
    process = peer(build, tmp_path, 1)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            eventually(lambda: (tmp_path / "socket").exists() and s.connect_ex(str(tmp_path / "socket")) == 0, 10)
            s.sendall(message(SINK, 0) + message(SINK, 1) + message(SINK, 4) + message(REPORT, 0))
            answer = s.recv(64, socket.MSG_WAITALL)
            *_, n, missing, span_ns = RESULT.unpack_from(answer, HEAD.size)
            assert (n, missing) == (3, 2) and span_ns > 0
            s.sendall(message(REPORT, 0))
            assert s.recv(64, socket.MSG_WAITALL) == answer, "the same again for the same step"
            s.sendall(message(SINK, 0, step=2) + message(REPORT, 0, step=2))
            *_, n, missing, _ = RESULT.unpack_from(s.recv(64, socket.MSG_WAITALL), HEAD.size)
            assert (n, missing) == (1, 0), "from the report before"
            s.sendall(message(QUIT, 0))
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "echo, complaint",
    [(message(ECHO, 0)[:-1] + b"x", "a message is damaged"), (message(ECHO, 7), "not the echo of what was sent"), (b"", "the other side has left")],
    ids=["damaged", "another", "none"],
)
def test_a_wrong_echo_ends_the_measurement(build, tmp_path, echo, complaint):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen(1)
        process = peer(build, tmp_path, 0, tmp_path / "result", "ping:10")
        try:
            listening.settimeout(10)
            s, _ = listening.accept()
            with s:
                assert HEAD.unpack_from(s.recv(64, socket.MSG_WAITALL))[:3] == (HELLO, 0, 0)
                s.sendall(message(HELLO, 0, step=0))
                assert HEAD.unpack_from(s.recv(64, socket.MSG_WAITALL))[:3] == (ECHO, 1, 0)
                s.sendall(echo)
            _, text = process.communicate(timeout=10)
            assert process.returncode == 1 and complaint in text
        finally:
            process.kill()
            process.wait()


# Figures and tables, of samples that are made up


def sample(peer, number, value, size=64, step="flood", key="per_s", **more):
    return {"peer": peer, "size": size, "round": number, "step": step, key: value, "n": 1, "missing": 0, **more}


def test_a_ratio_is_the_median_of_those_of_each_round_to_the_anchor_of_the_same_round():
    samples = [sample("pipe", r, v) for r, v in enumerate((10, 100, 1000))] + [sample("x", r, v) for r, v in enumerate((20, 300, 500))]
    figure = ratios.figure(samples, "x", 64, "flood", "per_s")
    assert figure == {"median": 300, "least": 20, "most": 500, "rounds": 3, "ratio": 2}
    assert ratios.figure(samples, "y", 64, "flood", "per_s") is None


def test_a_round_without_its_anchor_has_no_ratio():
    assert ratios.figure([sample("x", 0, 5)], "x", 64, "flood", "per_s")["ratio"] is None
    samples = [sample("pipe", 0, 2), sample("x", 0, 5), sample("x", 1, 50)]
    assert ratios.figure(samples, "x", 64, "flood", "per_s")["ratio"] == 2.5


@pytest.mark.parametrize("value, text", [(0.123, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123"), (12345, "12.3 k"), (1234567, "1.23 M")])
def test_numbers_have_three_digits(value, text):
    assert ratios.number(value) == text


def test_the_table_has_a_row_for_each_figure_of_each_peer_and_a_column_for_each_size():
    samples = [sample("pipe", r, 100) for r in (0, 1)] + [sample("zeromq", 0, 150), sample("zeromq", 1, 250)] + [sample("zeromq", 0, 7, size=4096)]
    table = ratios.transports_table({"samples": samples, "sizes": [64, 4096], "transports": ["pipe", "zeromq"]})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert cells[0] == ["", "", "64 B", "4 KiB"]
    assert cells[2:] == [["back to back, /s", "pipe", "100 (100-100) 1x", "-"], ["back to back, /s", "zeromq", "200 (150-250) 2x", "7.00"]]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_goals_are_judged_by_the_median_of_the_ratios_of_rounds():
    ours, theirs = "tidegate, Python", "dora, Python"
    samples = []
    for number, (mine, other) in enumerate(((10, 100), (50, 60), (10, 30))):  # ratios 10, 1.2, 3
        for step, key in (("apart", "p50_us"), ("apart", "p99_us")):
            samples += [sample(ours, number, mine, 0, step, key), sample(theirs, number, other, 0, step, key)]
        samples += [sample(ours, number, mine, 0, "burst"), sample(theirs, number, other, 0, "burst")]
    found = ratios.judged({"samples": samples})
    assert [(goal, reached) for goal, _, reached in found] == [("D1", True), ("D1", True), ("D1", False)]
    assert "p50: 3.0 times better at the least (0 B)" in found[0][1]
    assert "messages/s: 0.3 times" in found[2][1]


def pings(peer, number, us, cpu_us):
    return sample(peer, number, us, step="own", key="p50_us", cpu_us=cpu_us)


def test_what_python_adds_is_told_from_rounds_that_have_both():
    samples = [pings("tidegate", 0, 5, 4), pings("tidegate, Python", 0, 7.5, 6), pings("tidegate, Python", 1, 99, 99), pings("tidegate", 2, 1, 1)]
    assert [text.partition(" more")[0] for _, text, _ in ratios.judged({"samples": samples})] == ["64 B in Python: 2.50 us", "64 B in Python: 2.00 us"]


@pytest.mark.parametrize("more, reached", [((0.5, 3, 9), True), ((0.5, 3.1, 3.2), False), ((-40, 3.1, 9), False)])
def test_what_python_adds_is_judged_by_the_median_of_its_rounds(more, reached):
    samples = [pings("tidegate", r, 5, 5) for r in range(3)] + [pings("tidegate, Python", r, 5 + us, 5 + us) for r, us in enumerate(more)]
    assert [(goal, got) for goal, _, got in ratios.judged({"samples": samples})] == [("P1", reached)] * 2


def test_what_python_adds_is_not_told_of_nodes_that_wait_as_they_do_by_themselves():
    samples = [sample(peer, 0, us, step="ping", key="p50_us", cpu_us=us) for peer, us in (("tidegate", 21.9), ("tidegate, Python", 0.75))]
    assert ratios.judged({"samples": samples}) == [] and ratios.own_table({"samples": samples}) == ""


def test_the_table_of_what_python_adds_has_both_and_the_difference_of_each_round():
    samples = [pings("tidegate", r, us, 1) for r, us in enumerate((5, 9, 2))] + [pings("tidegate, Python", r, us, 3) for r, us in enumerate((4, 10, 5))]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in ratios.own_table({"samples": samples}).splitlines()[2:]]
    assert rows == [
        ["tidegate", "5.00 (2.00-9.00)", "1.00 (1.00-1.00)"], ["tidegate, Python", "5.00 (4.00-10.0)", "3.00 (3.00-3.00)"],
        ["Python more than C, of the same round", "1.00 (-1.00 to 3.00)", "2.00 (2.00 to 2.00)"]]  # fmt: skip


def test_the_call_that_copies_is_judged_by_what_memcpy_takes():
    samples = [sample("tidegate, Python", r, v, 4096000, "call", "to_memcpy") for r, v in enumerate((0.9, 1.2, 5))]
    ((goal, text, reached),) = ratios.judged({"samples": samples})
    assert (goal, reached) == ("P1", False) and text.startswith("4 MB in Python: send_output() takes 1.20 times a memcpy()")
    (head, _, row) = ratios.python_ping_table({"samples": samples, "transports": ["pipe"], "pythons": ["tidegate, Python"]}).splitlines()
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["tidegate, Python", *"------", "1.20 (0.90-5.00)"]
