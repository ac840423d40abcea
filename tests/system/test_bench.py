# SPDX-License-Identifier: Apache-2.0
"""tidegate bench: every benchmark runs, what can be counted is counted right, and nothing is left. Times are nobody's promise here."""

import collections
import html.parser
import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile

import pytest
from conftest import MARK, eventually, marked_processes, said, unified_root

NOBODY = 65534

PLACES = {"same CPU", "other CPU", "default"}
PACES = {"back to back", "1 kHz", "200 Hz"}


class Page(html.parser.HTMLParser):
    """The elements in their order, with their attributes and text, how often each is there, and which were not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.count, self.elements, self.open = collections.Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.count[tag] += 1
        self.elements.append({"tag": tag, "class": "", "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1]["text"] += data


@pytest.fixture
def bench(build, node_environment, traces):
    def run(*args, status=0):
        done = said(subprocess.run([build / "bin/tidegate", "bench", *args], env={**node_environment, MARK: traces.mark}, capture_output=True, text=True, timeout=90))
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def result(bench, *args):
    return json.loads(bench(*args, "--quick", "--json").stdout)


def goals(found, id):
    return [goal for goal in found["goals"] if goal["id"] == id]


def test_latency_has_a_row_for_each_way_and_counts_what_a_message_costs(bench):
    found = result(bench, "latency", "--size", "64,64K")
    rows = found["latency"]["rows"]
    assert {row["place"] for row in rows} == PLACES and {row["pace"] for row in rows} == PACES
    assert {row["size"] for row in rows} == {64, 65536}
    for place in PLACES:
        ways = {row["way"] for row in rows if row["place"] == place}
        more = {"same CPU": {"tidegate, block"}, "other CPU": {"tidegate, block", "tidegate, spin", "raw spin"}, "default": set()}[place]
        assert ways == {"raw futex", "raw pipe", "raw doorbell", "tidegate"} | more
    for row in rows:
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"], row
        assert row["way"] != "raw pipe" or row["to_pipe"] == 1, row
        assert row["way"][:8] != "tidegate" or (row["source_faults"], row["sink_faults"]) == (0, 0), row

    calls = {(row["consumer"], row["size"]): row for row in found["latency"]["calls"]}
    assert set(calls) == {(consumer, size) for consumer in ("awake", "asleep") for size in (64, 65536)}
    for (consumer, _), row in calls.items():
        assert row["counted"] and row["memory_calls"] == 0, row
        if consumer == "awake":
            assert row["source_calls"] + row["sink_calls"] <= row["looks"], row
            assert row["source_wakes"] == 0, row
        else:
            assert row["n"] * 0.5 <= row["sink_sleeps"] and row["sink_calls"] <= 2 * row["sink_sleeps"], row
            # One ring in 256 is done once more, and once to no effect. Some sleeps are ended by the look in 50 ms, and a wake that comes just before a sleep leaves none to be ended.
            assert 0 < row["source_wakes"] <= row["n"] + 2 * (row["n"] // 256 + 1) and row["sink_wakes"] == 0, row
            assert row["sink_sleeps"] - row["looks"] / 2 <= row["source_wakes"] <= row["sink_sleeps"] + row["n"] * 0.05, row
    assert [goal["reached"] for goal in goals(found, "T4")] == [True, True]
    assert [goal["reached"] for goal in goals(found, "M1")] == [True, True, True]
    assert {goal["id"] for goal in found["goals"]} == {"L1", "L2", "L3", "L4", "M1", "T4"}
    assert [goal["reached"] for goal in goals(found, "L3")] == [None] * 4, "4 MiB and 40 MiB were not measured"


def test_large_ones_are_compared_with_small_ones_and_cost_no_page_faults(bench):
    found = result(bench, "latency", "--size", "64,4M,40M", "--place", "other")
    rows = found["latency"]["rows"]
    ways = {"raw futex", "raw pipe", "raw doorbell", "raw spin", "tidegate", "tidegate, block", "tidegate, spin"}
    assert {(row["pace"], row["size"], row["way"]) for row in rows} == {(pace, size, way) for pace in PACES for size in (64, 4 << 20, 40 << 20) for way in ways}
    assert all((row["source_faults"], row["sink_faults"]) == (0, 0) for row in rows if row["way"].startswith("tidegate"))
    assert len(goals(found, "L3")) == 4 and all(goal["value"] > 0 for goal in goals(found, "L3"))

    rows = {(row["size"], row["way"]): row for row in result(bench, "throughput", "--size", "4M,40M", "--place", "other")["throughput"]["rows"]}
    assert set(rows) == {(size, way) for size in (4 << 20, 40 << 20) for way in ("raw descriptors", "tidegate")}
    assert all(row["n"] > 0 for row in rows.values()) and all(rows[size, "tidegate"]["faults"] < 0.01 for size in (4 << 20, 40 << 20)), rows


def test_throughput_compares_small_ones_with_a_ring_and_large_ones_with_descriptors(bench):
    found = result(bench, "throughput", "--size", "0,64K")
    rows = {(row["place"], row["size"], row["way"]): row for row in found["throughput"]["rows"]}
    assert set(rows) == {(place, size, way) for place in PLACES for size, raw in ((0, "raw ring"), (65536, "raw descriptors")) for way in (raw, "tidegate")}
    for (_, _, way), row in rows.items():
        assert row["per_second"] > 0 and row["n"] > 0
        assert way == "tidegate" or row["to_raw"] == 1


def test_fanout_counts_what_all_of_them_got(bench):
    found = result(bench, "fanout")
    rows = {(row["sinks"], row["way"]): row for row in found["fanout"]["rows"]}
    assert set(rows) == {(n, way) for n in (1, 4) for way in ("raw broadcast", "raw broadcast, SCHED_BATCH", "tidegate", "tidegate, batches")}
    assert all(row["per_second"] > 0 and row["n"] % row["sinks"] == 0 for row in rows.values())
    assert len(goals(found, "T3")) == 1


def test_a_killed_readers_messages_come_back_after_its_death_and_all_of_them(bench):
    found = result(bench, "reclaim")
    dead, first, back = found["reclaim"]["rows"]
    assert (dead["n"], first["n"], back["n"]) == (4, 4, 4)
    for row in (dead, first, back):
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["longest_us"] < 5e6, row
    assert first["p50_us"] <= back["p50_us"] and found["reclaim"]["to_death"] > 0
    assert len(goals(found, "K1")) == 1


@pytest.mark.skipif(os.geteuid() != 0 or not unified_root(), reason="needs a cgroup that we may write")
def test_spawn_and_stop_are_measured_beside_the_kernel_and_leave_no_cgroup(bench):
    before = {path.name for path in unified_root().glob("tidegate-doctor-*")}
    found = result(bench, "spawn")
    (row,) = found["spawn"]["rows"]
    assert row["n"] == 10 and row["raw_ms"] > 0 and row["ours_ms"] > 0 and row["ratio"] > 0
    found = result(bench, "stop")
    assert [(row["what"], row["n"]) for row in found["stop"]["rows"]] == [("a tree of 1 is killed", 3), ("a tree of 10 is killed", 3)]
    assert [goal["id"] for goal in found["goals"]] == ["stop", "stop"]
    after = {path.name for path in unified_root().glob("tidegate-doctor-*")}
    assert eventually(lambda: not after - before or not any((unified_root() / name).exists() for name in after - before), 10), "or it is a doctor's of another test"


@pytest.mark.skipif(os.geteuid() != 0 or not unified_root(), reason="needs root and a cgroup that we may write")
def test_what_probes_cost_is_measured_of_each_who_pays_and_of_nobody_afterwards(bench):
    before = {path.name for path in unified_root().glob("tidegate-doctor-*")}
    found = result(bench, "probe")
    if "skipped" in found["probe"]:
        pytest.skip(found["probe"]["skipped"])
    rows = {row["what"]: row for row in found["probe"]["rows"]}
    two = {"nothing attached: two threads, two CPUs", "attached: two of a watched node"} if len(os.sched_getaffinity(0)) > 1 else set()
    nobody, others, watched = "nothing is attached", {"attached: of somebody outside", "attached: of a node that is not watched"}, "attached: of a node that is watched"
    assert set(rows) == {nobody, watched, "detached again"} | others | two
    assert all(row["us"] > 0 and row["n"] == 1 for row in rows.values())
    assert (rows[nobody]["longer_us"], rows[nobody]["ratio"]) == (0, 1)
    assert all(rows[other]["us"] < rows[watched]["us"] for other in {nobody} | others)
    messages = {row["what"]: row for row in found["probe"]["messages"]}
    bare, told = "built without sites", "attached: it is told of, at both ends"
    assert set(messages) == {bare, told, "nothing is attached", "attached: it is not in the sample", "detached again"}
    assert all(row["us"] > 0 and row["n"] == 1 for row in messages.values())
    assert (messages[bare]["longer_us"], messages[bare]["ratio"]) == (0, 1) and all(row["us"] < messages[told]["us"] for what, row in messages.items() if what != told)
    assert [(goal["id"], goal["goal"]) for goal in found["goals"]] == [("probe", 0.35), ("probe", 0.17), ("probe", 0.01), ("probe", 1.3), ("probe", 1.05)]
    after = {path.name for path in unified_root().glob("tidegate-doctor-*")}
    assert eventually(lambda: not any((unified_root() / name).exists() for name in after - before), 10), "or it is a doctor's of another test"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_an_ordinary_user_measures_messages_and_counts_calls_and_is_told_what_needs_cgroups(build, node_environment, traces):
    def run(*args):
        return json.loads(said(subprocess.run([f"{place}/bin/tidegate", "bench", "--quick", "--json", *args], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
                                              env=environment, capture_output=True, check=True, timeout=60)).stdout)  # fmt: skip

    environment = {**node_environment, MARK: traces.mark}
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for folder in ("bin", "libexec"):
            shutil.copytree(build / folder, f"{place}/{folder}")
        if subprocess.run([f"{place}/bin/tidegate", "version"], user=NOBODY, stdout=subprocess.DEVNULL).returncode:
            pytest.skip("this build cannot run as another user")
        found = run("latency", "--size", "64", "--place", "other")
        assert all(row["counted"] for row in found["latency"]["calls"]) and [goal["reached"] for goal in goals(found, "T4")] == [True, True]
        assert "skipped" in run("spawn")["spawn"] and "skipped" in run("probe")["probe"]
        urgent = subprocess.run([f"{place}/bin/tidegate", "bench", "reclaim", "--quick", "--urgent"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
                                env=environment, stderr=subprocess.PIPE, text=True, timeout=60)  # fmt: skip
        assert urgent.returncode == 1 and "--urgent: cannot make nodes urgent: Permission denied" in urgent.stderr


def test_the_report_is_one_file_that_asks_nobody_for_anything(bench, tmp_path):
    report = tmp_path / "bench.html"
    bench("throughput", "--quick", "--size", "64,64K", "--place", "other,default", "--report", report)
    page = Page(report.read_text())
    assert page.open == [] and page.count["svg"] == 1 and page.count["rect"] == 10, "two placements, two sizes, two ways, and one more of the smaller size"
    assert not page.count.keys() & {"script", "link", "img", "iframe", "object"}
    assert "http" not in report.read_text() and "url(" not in report.read_text() and "@import" not in report.read_text()


def plots(page):
    """Of each drawing the heading above it, and its elements."""
    heading, drawn, found = "", [], []
    for element in page.elements:
        if element["tag"] == "h3":
            heading = element["text"]
        elif element["tag"] == "svg":
            drawn = []
            found.append((heading, drawn))
        drawn.append(element)
    return found


def test_the_report_draws_each_latency_where_the_scale_says_with_a_whisker_up_to_p99(bench, tmp_path):
    report = tmp_path / "bench.html"
    rows = json.loads(bench("latency", "--quick", "--json", "--size", "64,64K", "--place", "same,other", "--report", report).stdout)["latency"]["rows"]
    page = Page(report.read_text())
    assert page.open == [] and [heading for heading, _ in plots(page)] == ["back to back, microseconds", "1 kHz, microseconds", "200 Hz, microseconds"]
    for heading, drawn in plots(page):
        places = [e for e in drawn if e["class"] == "t"]
        sizes = [e for e in drawn if e.get("text-anchor") == "middle"]
        powers = [float(e["text"].replace(" k", "e3").replace(" M", "e6")) for e in drawn if e.get("text-anchor") == "end"]
        lines = [float(e["y1"]) for e in drawn if e["class"] == "g" and e["x1"] == places[0]["x"]]
        assert len(powers) == len(lines) > 1 and all(b == pytest.approx(10 * a) for a, b in zip(powers, powers[1:]))

        def height(us, powers=powers, lines=lines):
            return pytest.approx(lines[0] + math.log10(us / powers[0]) / math.log10(powers[-1] / powers[0]) * (lines[-1] - lines[0]), abs=0.06)  # as printed

        assert lines == [height(power) for power in powers]
        points, colours = {}, {}
        for whisker, point, title in zip(drawn, drawn[1:], drawn[2:]):
            if point["tag"] != "circle":
                continue
            x, way = float(point["cx"]), title["text"].partition(": p50")[0]
            place = [e["text"] for e in places if float(e["x"]) <= x][-1]
            size = min(sizes, key=lambda e: abs(float(e["x"]) - x))["text"]
            assert (place, size, way) not in points
            points[place, size, way] = (title["text"], float(point["cy"]), float(whisker["y2"]))
            assert (whisker["x1"], whisker["x2"], whisker["y1"]) == (point["cx"], point["cx"], point["cy"])
            assert whisker["class"].split() == ["w", colours.setdefault(way, point["class"].split()[1])]
        assert len(set(colours.values())) == len(colours) == 7, "a colour for each way"
        assert points == {
            (row["place"], {64: "64 B", 65536: "64 KiB"}[row["size"]], row["way"]): (
                f"{row['way']}: p50 {row['p50_us']:.2f} us, p99 {row['p99_us']:.2f} us", height(row["p50_us"]), height(row["p99_us"]))
            for row in rows if row["pace"] == heading.partition(",")[0]
        }  # fmt: skip
        joined = [xy for e in drawn if e["class"].startswith("s ") for xy in re.findall(r"[ML]([\d.]+) ([\d.]+)", e["d"])]
        assert joined == [(e["cx"], e["cy"]) for e in drawn if e["tag"] == "circle"], "the line of a way goes through its points"


def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(bench, tmp_path):
    assert "No such file or directory" in bench("--report", tmp_path / "none" / "bench.html", status=1).stderr


@pytest.mark.parametrize("signal", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_leaves_nobody(build, node_environment, traces, signal):
    p = subprocess.Popen([build / "bin/tidegate", "bench", "throughput", "--size", "64", "--place", "default", "--rounds", "99"], env={**node_environment, MARK: traces.mark},
                         stdout=subprocess.DEVNULL)  # fmt: skip
    nodes = eventually(lambda: [command for command in marked_processes(traces.mark).values() if "tidegate-bench-node" in command], 20)
    p.send_signal(signal)
    assert nodes and p.wait(10) == -signal
    assert eventually(lambda: not marked_processes(traces.mark), 10), marked_processes(traces.mark)


def test_as_text_there_is_a_table_and_each_goal_says_whether_it_was_reached(bench):
    text = bench("throughput", "--quick", "--size", "64,5000", "--place", "default").stdout
    assert [line.split()[:4] for line in text.splitlines() if line.startswith("  default")] == [
        ["default", "64", "B", "raw"], ["default", "64", "B", "tidegate"], ["default", "64", "B", "tidegate,"], ["default", "5000", "B", "raw"], ["default", "5000", "B", "tidegate"]]  # fmt: skip
    assert [line.split()[0] for line in text.splitlines() if "not measured" in line] == ["T1", "T4", "T2", "T2"], "they are about two CPUs"


@pytest.mark.parametrize("args, complaint", [
    (["pingpong"], "no benchmark `pingpong`"),
    (["latency", "throughput"], "one benchmark, or none for all of them"),
    (["--rounds", "0"], "--rounds: `0` is no number from 1 to 99"),
    (["--rounds", "many"], "--rounds: `many` is no number from 1 to 99"),
    (["--size", "64,65M"], "--size: at most 7 sizes up to 64M, as 64,4K,1M"),
    (["--size", "-1"], "--size: at most 7 sizes up to 64M, as 64,4K,1M"),
    (["--size", "1,2,3,4,5,6,7,8"], "--size: at most 7 sizes up to 64M, as 64,4K,1M"),
    (["--place", "here"], "--place: `here` is none of same, other, default"),
    (["--fast"], "unknown option or missing value: `--fast`"),
])  # fmt: skip
def test_bad_arguments_are_refused_by_name(bench, args, complaint):
    assert complaint in bench(*args, status=2).stderr
