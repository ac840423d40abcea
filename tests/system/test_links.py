# SPDX-License-Identifier: Apache-2.0
"""What became of each link's messages: read from shared memory, at every quiet moment the numbers agree."""

import json

import pytest
from conftest import MARK, eventually
from daemon import plan
from survive import Seen, node, restarting, stream


@pytest.fixture
def start(node_environment, traces):
    def start(daemon, graph):
        environment = [f"LD_LIBRARY_PATH={node_environment['LD_LIBRARY_PATH']}", f"{MARK}={traces.mark}"]
        return daemon.call("Start", plan=graph, environment=environment, grace_ms=1000, budget_ms=1000)["uuid"]

    return start


def links(daemon, name):
    """{consumer: its first link}"""
    (dataflow,) = daemon.call("Status", names=[name], links=True)["dataflows"]
    return {n["id"]: n["links"][0] for n in dataflow["nodes"] if n["links"]}


def agrees(counters):
    return counters["published"] == counters["delivered"] + sum(counters["dropped"].values()) + counters["depth"]


def drop_oldest(node):
    for port in node["inputs"]:
        port.update(queue_policy="drop_oldest", queue_size=3)
    return node


def test_a_reader_that_is_late_shows_depth_and_age_and_what_was_dropped(start_daemon, start, build, tmp_path):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, plan(
        node("flood", [nodes / "flood", 500, 64], outputs=["out"]),
        drop_oldest(node("tally", [nodes / "tally", 20000], inputs=[("in", "flood", "out")])),
    ))  # fmt: skip
    assert eventually(lambda: links(daemon, "flow")["tally"].get("counters", {}).get("published") == 500, 20), daemon.output()
    link = links(daemon, "flow")["tally"]
    counters = link["counters"]
    assert (link["input"], link["source"], link["output"], link["queue_policy"], link["queue_size"]) == ("in", "flood", "out", "drop_oldest", 3)
    assert counters["adds_up"] and agrees(counters), counters
    assert counters["dropped"]["window"] >= 490 and counters["depth"] <= 3
    if counters["depth"] > 0:
        assert 0 < counters["age_us"] < 20_000_000
    assert eventually(lambda: daemon.status("flow")["state"] == "ended", 20)
    counters = links(daemon, "flow")["tally"]["counters"]  # the last, of a node that is gone
    assert counters["adds_up"] and agrees(counters) and (counters["published"], counters["depth"], counters["holds"]) == (500, 0, 0)
    assert counters["delivered"] + counters["dropped"]["window"] == 500 and counters["bytes"] == 64 * counters["delivered"]


def test_a_stream_is_read_while_it_flows_and_adds_up_when_it_was_stopped(start_daemon, start, build, tmp_path):
    daemon = start_daemon()
    start(daemon, stream(build, tmp_path / "seen"))
    assert Seen(tmp_path / "seen").until_more(seconds=20), daemon.output()
    seen = [links(daemon, "stream")["check"]["counters"] for _ in range(20)]
    assert all(a["delivered"] <= b["delivered"] for a, b in zip(seen, seen[1:])), "they only rise"
    assert all(c["dropped"] == {} and c["depth"] <= 11 for c in seen)
    daemon.call("Stop", dataflow="stream")
    for link in links(daemon, "stream").values():
        assert link["counters"]["adds_up"] and agrees(link["counters"]), link


def test_counters_begin_anew_with_each_life_of_a_producer(start_daemon, start, build, tmp_path):
    daemon, nodes = start_daemon(), build / "tests/system"
    start(daemon, plan(
        node("flood", [nodes / "flood", 100, 64], outputs=["out"], restart=restarting("always", delay=0.01, max_restarts=3)),
        node("tally", [nodes / "tally"], inputs=[("in", "flood", "out")]),
    ))  # fmt: skip
    assert eventually(lambda: daemon.status("flow")["nodes"][0]["restarts"] >= 2, 20), daemon.output()
    counters = links(daemon, "flow")["tally"]["counters"]
    assert counters["published"] <= 100 and counters["adds_up"], counters
    daemon.call("Stop", dataflow="flow")


def test_the_command_shows_a_line_for_each_link(start_daemon, start, build, tmp_path, tidegate):
    daemon = start_daemon()
    start(daemon, stream(build, tmp_path / "seen"))
    assert Seen(tmp_path / "seen").until_more(seconds=20), daemon.output()
    shown = tidegate("status", "--links", "stream", "--runtime-dir", daemon.runtime)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["stream: count/out -> relay/in", "stream: relay/out -> check/in"]
    assert all("active, backpressure 10: published " in line and ", delivered " in line and ", waiting " in line for line in lines)
    asked = json.loads(tidegate("status", "--links", "stream", "--json", "--runtime-dir", daemon.runtime).stdout)
    assert [n["links"][0]["state"] for n in asked["dataflows"][0]["nodes"] if n["links"]] == ["active", "active"]
    assert "links" not in tidegate("status", "stream", "--json", "--runtime-dir", daemon.runtime).stdout


LIAR = """
import ctypes, mmap, os, sys, tidegate

node = tidegate.Node()
for event in node:
    if event.type == "INPUT":
        break
(area,) = [line.split()[0] for line in open("/proc/self/maps") if "tidegate-cursor" in line]
ctypes.c_uint64.from_address(int(area.split("-")[0], 16) + 264).value += int(sys.argv[1])  # delivered
os.kill(os.getpid(), 9) if "killed" in sys.argv else os._exit(0)
"""


@pytest.mark.parametrize("lie", ["5", "-1", "-1 killed"])
def test_who_ends_with_counters_that_lie_is_named(lie, run_tidegate, build, dataflow, tmp_path, request):
    request.node.liars = ["liar"]
    (tmp_path / "liar.py").write_text(LIAR)
    run = run_tidegate("run", dataflow({"nodes": [
        {"id": "flood", "path": f"{build}/tests/system/flood", "args": "200 64", "outputs": ["out"]},
        {"id": "liar", "path": str(tmp_path / "liar.py"), "args": lie, "inputs": {"in": "flood/out"}},
    ]}), status=1 if "killed" in lie else 0)  # fmt: skip
    assert "liar" in run.output() and "the counters of its input in do not add up" in run.output()
