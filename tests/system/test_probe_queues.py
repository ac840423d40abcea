# SPDX-License-Identifier: Apache-2.0
"""How deep queues are and how long messages wait in them, seen by probes of the node library while somebody asks: exact, within a budget, and nothing stays."""

import json
import os
import re
import shutil
import time

import pytest
from conftest import MARK, eventually
from daemon import plan, program
from lives import arguments_of, children_of
from survive import node, restarting
from test_escape import pid_of
from test_probe import not_tried

PYTHON = "/usr/bin/python3"

needs_bpf = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/sys/kernel/btf/vmlinux"), reason="this kernel has no type information (BTF)"),
]

# Sends or takes as many messages as it is told, and says so.
OBEDIENT = """
import sys, tidegate
directory, what = sys.argv[1:]
node = tidegate.Node()
while True:
    with open(directory + "/order") as f:
        n = int(f.read())  # closed before it is done: what came into an end that is about to be closed would be lost
    for i in range(n):
        if what == "send":
            node.send_output("out", b"x" * (i + 1))
        else:
            while node.next()["type"] != "INPUT":
                pass
    with open(directory + "/done", "w") as f:
        f.write("done")
"""


class Obedient:
    def __init__(self, directory, what):
        self.directory, self.what = directory, what
        directory.mkdir()
        os.mkfifo(directory / "order")
        os.mkfifo(directory / "done")
        (directory / "node.py").write_text(OBEDIENT)

    def argv(self):
        return [PYTHON, self.directory / "node.py", self.directory, self.what]

    def begin(self, n):
        (self.directory / "order").write_text(f"{n}\n")

    def end(self):
        assert (self.directory / "done").read_text() == "done"

    def do(self, n):
        self.begin(n)
        self.end()


def helpers(daemon):
    return [p for p in children_of(daemon.process.pid) if "tidegate-queues" in arguments_of(p)[:1]]


@pytest.fixture
def probed(build, start_daemon):
    if not (build / "bin/tidegate-queues").exists():
        pytest.skip("built without kernel probes")
    return start_daemon(env={"TIDEGATE_PROBES": "on"})


@pytest.fixture
def begin(node_environment, traces):
    def begin(daemon, *nodes, name="flow", **more):
        environment = [f"{k}={node_environment[k]}" for k in ("LD_LIBRARY_PATH", "PYTHONPATH")] + [f"{MARK}={traces.mark}"]
        with daemon.client() as client:
            return list(client.stream("Start", plan={**plan(*nodes, name=name), **more}, environment=environment, grace_ms=500, budget_ms=1000, wait="running"))[-1]

    return begin


def watch(daemon, name="flow", **parameters):
    """A client that sees its queues, once they are attached."""
    client = daemon.client()
    client.send("Probe", more=True, dataflow=name, queues=True, interval_ms=100, **parameters)
    return client


def until(client, accept, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        probes = client.reply()[0]["probes"]
        if accept(probes):
            return probes
    raise AssertionError(f"it did not come: {probes}")


def all_of_them(probes):
    """Attached, and no message is left out."""
    return probes["links"] and all(link["one_in"] == 1 for link in probes["links"])


def once(daemon, name="flow"):
    return daemon.call("Probe", dataflow=name)["probes"]


def link_of(probes, to="b"):
    assert probes["links"], probes
    return next(link for link in probes["links"] if link["to"] == to)


@pytest.fixture
def pair(tmp_path):
    """Two nodes that do what they are told: a sends to b, who loses nothing."""
    return Obedient(tmp_path / "a", "send"), Obedient(tmp_path / "b", "take")


def nodes_of(pair):
    a, b = pair
    return node("a", a.argv(), outputs=["out"]), node("b", b.argv(), inputs=[("in", "a", "out")])


def mask_of(daemon, id, name="flow"):
    """Which of its messages a node tells probes of, as its control page says: shm/probe.h."""
    pid = pid_of(daemon, id, name)
    begin = next(int(line.split("-")[0], 16) for line in open(f"/proc/{pid}/maps") if "tidegate-control" in line)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(begin + 152)
        return int.from_bytes(memory.read(8), "little")


ALL, NONE = 0, 2**64 - 1


class TestAttached:
    pytestmark = needs_bpf

    def test_each_message_is_counted_with_the_depth_that_it_met_and_the_time_that_it_waited(self, probed, begin, pair, build, tmp_path, tidegate):
        a, b = nodes_of(pair)
        again, script = tmp_path / "again", f'[ ! -e {tmp_path}/again ] || exec {build}/bin/tidegate-pipe --receive; exec "$@"'
        begin(probed, a, {**b, "argv": ["/bin/sh", "-c", script, "sh", *b["argv"]], "restart": restarting()})
        probes = until(client := watch(probed), all_of_them)
        assert probes["queue_cost"]["message_ns"] > 0 and probes["queue_cost"]["budget"] == pytest.approx(0.03)
        assert "queue_reason" not in probes
        for _ in range(10):
            pair[0].do(10)
            pair[1].do(10)
        link = link_of(until(client, lambda probes: link_of(probes)["taken"] >= 100))
        assert (link["from"], link["output"], link["to"], link["input"]) == ("a", "out", "b", "in")
        assert (link["sampled"], link["taken"]) == (100, 100)
        assert link["depth_log2"] == [10, 20, 40, 30]
        assert sum(link["age_log2_ns"]) == 100

        shown = tidegate("probe", "flow", "--for", "50ms", "--runtime-dir", probed.runtime)
        assert re.search(r"^a/out -> b/in\n.*\n  were waiting +0 +- +- +-\n  age when taken +0 +- ", shown.stdout, re.M), shown

        # And of its next life, which is another program, with the library inside.
        again.touch()
        os.kill(pid_of(probed, "b"), 9)
        pair[0].do(11)  # more than its queue holds: a is in the library until somebody takes them
        until(client, lambda probes: link_of(probes)["taken"] > 100 or pair[0].do(1))

    def test_it_is_attached_while_somebody_looks_and_for_whom_somebody_looks(self, probed, begin, pair, tmp_path):
        begin(probed, *nodes_of(pair))
        begin(probed, node("c", Obedient(tmp_path / "c", "send").argv(), outputs=["out"]), name="other")
        assert helpers(probed) == [] and mask_of(probed, "a") == mask_of(probed, "c", "other") == ALL
        until(client := watch(probed), all_of_them)
        assert len(helpers(probed)) == 1 and mask_of(probed, "a") == mask_of(probed, "b") == ALL
        assert mask_of(probed, "c", "other") == NONE
        client.close()
        assert eventually(lambda: helpers(probed) == [], 10), probed.output()
        assert once(probed)["links"] == []
        assert eventually(lambda: mask_of(probed, "c", "other") == ALL, 10), "whoever else attaches"

        until(client := watch(probed), all_of_them)
        os.kill(helpers(probed)[0], 9)
        assert until(client, lambda probes: "queue_reason" in probes)["queue_reason"] == "tidegate-queues is gone"
        pair[0].do(3)
        pair[1].do(3)

    def test_a_program_may_have_sites_in_many_files(self, probed, begin, pair, build, tmp_path):
        (tmp_path / "many.py").write_text("import ctypes, pathlib, sys, tidegate\nheld = [ctypes.CDLL(p) for p in pathlib.Path(sys.argv[1]).iterdir()]\ntidegate.Node().next()\n")
        (tmp_path / "many").mkdir()
        for i in range(20):  # of two sites each, of two descriptors each
            shutil.copy(build / "lib/libtidegate.so", tmp_path / f"many/{i}.so")
        begin(probed, nodes_of(pair)[0], node("b", [PYTHON, tmp_path / "many.py", tmp_path / "many"], inputs=[("in", "a", "out")]))
        probes = until(watch(probed), lambda probes: probes["links"])
        assert "queue_reason" not in probes

    def test_a_busy_link_is_sampled_so_that_it_stays_within_the_budget(self, probed, begin, build):
        begin(probed, node("a", [build / "tests/system/count"], outputs=["out"]), node("b", [build / "tests/system/drain", "/dev/null"], inputs=[("in", "a", "out")]))
        client = watch(probed, budget=0.001)
        until(client, lambda probes: probes["links"] and link_of(probes)["sampled"] > 0)
        shares = []
        while len(shares) < 15:
            probes = until(client, lambda probes: probes["links"])
            shares.append(probes["queue_cost"]["share"])
        assert sorted(shares)[len(shares) // 2] <= 0.001, shares
        assert link_of(probes)["one_in"] > 1 and probes["queue_cost"]["budget"] == pytest.approx(0.001)

    def test_a_dataflow_that_says_so_is_looked_into_while_it_lives_and_by_the_next_supervisor(self, probed, begin, pair):
        begin(probed, *nodes_of(pair), probes={"queues": True, "budget": 12.5})
        assert eventually(lambda: all_of_them(once(probed)), 20), probed.output()
        assert once(probed)["queue_cost"]["budget"] == 0.125 and once(probed)["attached"] is False, "calls are not asked for"
        pair[0].do(5)
        pair[1].do(5)
        assert eventually(lambda: (link_of(once(probed))["sampled"], link_of(once(probed))["taken"]) == (5, 5), 10)
        with watch(probed, budget=0.5) as client:
            assert until(client, all_of_them)["queue_cost"]["budget"] == 0.5, "a call's budget is its own"
        assert eventually(lambda: once(probed)["queue_cost"]["budget"] == 0.125, 10), "and ends with it"
        assert link_of(once(probed))["taken"] == 5 and len(helpers(probed)) == 1

        before = helpers(probed)
        os.kill(probed.supervisor(), 9)
        assert eventually(lambda: "adopted 2, lost 0" in probed.output(), 10), probed.output()
        assert eventually(lambda: helpers(probed) != before and all_of_them(once(probed)), 20), probed.output()
        pair[0].do(7)
        pair[1].do(7)
        assert eventually(lambda: link_of(once(probed))["taken"] == 7, 10)

    def test_who_looks_all_the_time_is_told_when_nothing_is_seen_any_more(self, probed, begin, pair):
        begin(probed, *nodes_of(pair), probes={"queues": True})
        assert eventually(lambda: all_of_them(once(probed)), 20), probed.output()
        with probed.client() as events:
            events.send("Events", more=True, dataflow="flow")
            assert all_of_them(once(probed))  # the call above was read
            os.kill(helpers(probed)[0], 9)
            event = events.reply()[0]["event"]
        assert (event["type"], event["text"]) == ("probe-detached", "tidegate-queues is gone")
        assert once(probed)["queue_reason"] == "tidegate-queues is gone"


def test_doctor_says_whether_it_can_be_had(build, tidegate):
    report = json.loads(tidegate("doctor", "--json", env={**os.environ, "TIDEGATE_PROBES": "on"}).stdout)
    said = next(p for p in report["probes"] if p["id"] == "bpf_queues")
    if (build / "bin/tidegate-queues").exists() and os.geteuid() == 0 and os.path.exists("/sys/kernel/btf/vmlinux"):
        assert said["result"] == "yes" and re.search("counted 100 of 100 messages; [1-9][0-9]* ns a message", said["evidence"]), said
    else:
        assert said["result"] == "no" or not_tried(said), said
    assert "no distributions" in said["without"]


def test_without_probes_or_links_the_reason_is_said(start_daemon, begin, pair):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "off"})
    begin(daemon, *nodes_of(pair))
    begin(daemon, program("a", "sleep 1000"), name="lonely")
    assert "turned off" in until(watch(daemon), lambda probes: "queue_reason" in probes)["queue_reason"]
    lonely = until(watch(daemon, "lonely"), lambda probes: "queue_reason" in probes)
    assert lonely["queue_reason"] == "it has no links" and lonely["links"] == []


def test_without_probes_counters_are_looked_at_while_somebody_looks(start_daemon, begin, pair, tidegate):
    daemon = start_daemon(env={"TIDEGATE_PROBES": "off"})
    begin(daemon, *nodes_of(pair))
    client = watch(daemon)
    pair[0].do(5)
    probes = until(client, lambda probes: probes["links"] and link_of(probes)["depth"] == 5)
    first = link_of(probes)
    assert first["source"] == "counters" and (first["taken"], first["one_in"]) == (0, 0)
    assert "turned off" in probes["queue_reason"] and "queue_cost" not in probes
    later = link_of(until(client, lambda probes: link_of(probes)["sampled"] >= first["sampled"] + 3))
    looks = later["sampled"] - first["sampled"]
    assert later["depth_log2"][2] - first["depth_log2"][2] == looks, "four to seven waited at each of them"
    assert sum(later["age_log2_ns"]) - sum(first["age_log2_ns"]) == looks
    assert later["age_ns"] > first["age_ns"] > 0 and later["empty"] == first["empty"]

    shown = tidegate("probe", "flow", "--for", "300ms", "--runtime-dir", daemon.runtime).stdout
    assert "not message by message. What is lost:\nhow deep each message found its queue, and how old it was when it was taken.\n" in shown
    assert re.search(r"^a/out -> b/in: [1-9]\d* looks, nothing waited in 0\n.*\n  were waiting +[1-9]\d* +7 +7 +7\n  age of first +[1-9]", shown, re.M), shown
    assert "Messages are not seen: " in shown and "turned off" in shown

    pair[1].do(5)
    assert link_of(until(client, lambda probes: link_of(probes)["empty"] > later["empty"]))["depth"] == 0
    client.close()
    assert eventually(lambda: once(daemon)["links"] == [], 10), "nobody looks any more"
