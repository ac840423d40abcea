# SPDX-License-Identifier: Apache-2.0
"""Where nodes run: beside their producer, where they were told to, and where the scheduler likes. What decides: tests/supervisor/test_placement.c."""

import os

import pytest
from conftest import eventually
from daemon import plan
from survive import node

ALL = os.sched_getaffinity(0)
LAST = max(ALL)

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="needs two processors")

OWN = """
import os, sys, threading, time, tidegate

if sys.argv[1] == "mixed":
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # this thread alone
if sys.argv[1] == "own":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before it runs for the supervisor: from then on it may be placed any moment
node = tidegate.Node()
if sys.argv[1] == "threads":
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
for event in node:
    pass
time.sleep(1000) # its inputs have closed
"""


def affinities(pid):
    """Of every thread."""
    return [os.sched_getaffinity(int(t)) for t in os.listdir(f"/proc/{pid}/task")]


@pytest.fixture
def placed(survivor, build, node_environment, tmp_path):
    """A producer and consumers with these keys; returns the daemon."""
    script = tmp_path / "own.py"
    script.write_text(OWN)
    beat = build / "tests/system/beat"

    def start(*consumers, **producer):
        daemon = survivor()
        nodes = [node("source", [beat, 1000], outputs=["out"], **producer)]
        for i, (kind, keys) in enumerate(consumers):
            argv = [build / "tests/system/hear"] if kind == "hear" else [node_environment["TIDEGATE_PYTHON"], script, kind]
            ports = [{"id": "in", "line": 1, "source": {"node": "source", "output": "out"}, "queue_size": 10, "queue_policy": "drop_oldest", "input_timeout_ns": 0}]
            nodes.append({**node(f"sink-{i}", argv, **keys), "inputs": ports})
        environment = [f"{k}={v}" for k, v in daemon.env.items() if k in ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH") or k.startswith("TIDEGATE_TEST")]
        daemon.talk("Start", plan=plan(*nodes), environment=environment, grace_ms=500)
        assert eventually(lambda: len(daemon.pids()) == len(nodes), 10), daemon.output()
        return daemon

    return start


def where(daemon, id):
    """The CPUs that every thread of a node may use, if they agree."""
    masks = affinities(daemon.pids()["flow", id])
    return masks[0] if all(m == masks[0] for m in masks) else None


def placement(daemon, id):
    return daemon.nodes()["flow", id]["placement"]


def test_colocate_puts_every_thread_on_one_cpu_and_the_end_of_the_producer_frees_them(placed):
    daemon = placed(("threads", {"placement": "colocate", "finish_grace_ns": 10**11}))
    assert eventually(lambda: placement(daemon, "sink-0").get("cpu") is not None, 10), daemon.output()
    cpu = placement(daemon, "sink-0")["cpu"]
    assert placement(daemon, "sink-0")["beside"] == "source" and placement(daemon, "source")["cpu"] == cpu
    assert eventually(lambda: where(daemon, "sink-0") == where(daemon, "source") == {cpu}, 5), affinities(daemon.pids()["flow", "sink-0"])
    daemon.talk("StopNode", dataflow="flow", node="source", grace_ms=200)
    assert eventually(lambda: where(daemon, "sink-0") == ALL, 10), placement(daemon, "sink-0")
    assert "cpu" not in placement(daemon, "sink-0")


def test_an_affinity_wins_and_who_chose_for_itself_or_wants_none_is_left_alone(placed):
    told = {"placement": "colocate"}
    daemon = placed(("hear", told), ("own", told), ("hear", {"placement": "none"}), ("hear", {"cpu_affinity": sorted(ALL), **told}), cpu_affinity=[LAST])
    assert eventually(lambda: where(daemon, "sink-0") == {LAST}, 10), "beside a producer that has one CPU"
    assert where(daemon, "source") == {LAST}
    assert where(daemon, "sink-1") == where(daemon, "sink-0") and where(daemon, "sink-2") == where(daemon, "sink-3") == ALL
    assert [placement(daemon, f"sink-{i}").get("cpu") for i in range(4)][2:] == [None, None]


def test_who_has_chosen_its_cpus_is_not_moved_and_status_says_so(placed):
    daemon = placed(("own", {"placement": "colocate"}), cpu_affinity=[min(ALL)])
    assert eventually(lambda: "itself" in placement(daemon, "sink-0").get("why", ""), 10), placement(daemon, "sink-0")
    assert where(daemon, "sink-0") == {LAST}


def test_where_one_thread_has_chosen_the_others_are_not_left_on_one_cpu(placed):
    daemon = placed(("mixed", {"placement": "colocate"}), cpu_affinity=[min(ALL)])
    assert eventually(lambda: "itself" in placement(daemon, "sink-0").get("why", ""), 10), placement(daemon, "sink-0")
    pid = daemon.pids()["flow", "sink-0"]
    assert eventually(lambda: affinities(pid).count(ALL) == 1, 5), affinities(pid)
    assert os.sched_getaffinity(pid) == {LAST}


def test_a_new_supervisor_places_anew_what_the_last_one_had_placed(placed):
    daemon = placed(("hear", {"placement": "colocate"}))
    assert eventually(lambda: where(daemon, "sink-0") == where(daemon, "source") != ALL, 10)
    daemon.send("supervisor")
    daemon.until_adopted(1)
    assert eventually(lambda: placement(daemon, "sink-0").get("cpu") is not None, 10)
    assert eventually(lambda: where(daemon, "sink-0") == where(daemon, "source") == {placement(daemon, "sink-0")["cpu"]}, 5)


def test_more_consumers_than_processors_take_the_processor_from_nobody(placed):
    def classes(n):
        daemon = placed(*[("hear", {})] * n)
        return {id: os.sched_getscheduler(pid) for (_, id), pid in daemon.pids().items()}

    few, many = classes(len(ALL)), classes(len(ALL) + 1)
    assert set(few.values()) == {os.SCHED_OTHER} and many.pop("source") == os.SCHED_OTHER
    assert set(many.values()) == {os.SCHED_BATCH}, many
