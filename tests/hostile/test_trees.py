# SPDX-License-Identifier: Apache-2.0
"""Random trees of processes that do everything to survive: a stop returns in time, and either nobody is left or the verdict names who is.

TIDEGATE_SEED=N plants other trees, TIDEGATE_LONG=1 plants 100 000 of them; `tests/hostile/repeat SEED [LAYOUT]` plants one alone, and
tests/hostile/campaign as many as there is time for."""

import json
import os
import pathlib
import time
from collections import Counter

import pytest
from conftest import LAYOUTS, eventually
from grove import PER_FLOW, forest, gone
from lives import LONG, SLACK, status_field

SEED = int(os.environ.get("TIDEGATE_SEED", "1"))
ONLY = [int(s) for s in os.environ.get("HOSTILE_SEEDS", "").split(",") if s]
RANGE = [int(n) for n in os.environ.get("HOSTILE_RANGE", "").split("+") if n]  # FIRST+N: of the campaign
PAUSE = pathlib.Path(os.environ.get("HOSTILE_PAUSE", "/nonexistent"))
REPORT = os.environ.get("HOSTILE_REPORT")  # a file that gets a line of JSON for each lot of trees
FLOWS = int(os.environ.get("HOSTILE_FLOWS", "6" if LONG else "2"))  # that stand at one time
TREES = {"root": 100_000 if LONG else 300, "user": 100_000 if LONG else 300}
FEWER = 1000 if LONG else 30
SHARDS = {layout: 5 if layout in TREES else 1 for layout in LAYOUTS}
# Trees with somebody who is stuck, and with tracees whose tracers do not let go: among the few there may be none. 4000551: a tracee is all that is left.
HELD = {**{layout: [103] for layout in LAYOUTS if layout not in TREES}, "delegated+pidns": [103, 4000551], "pidns": [103, 114], "subreaper": [103, 114, 115], "pid1": [103, 114]}
COMMON = {"stopped", "pipe", "leaderless", "vfork", "bomb", "memory", "tracer", "deaf", "session", "orphan", "closed"}  # met in every 60 trees
# An ordinary user's daemon has no real-time priority: it is not measured beside root's trees, some of which have.
ALONE = {layout: pytest.mark.alone if "delegated" in layout else () for layout in LAYOUTS}
EACH = [pytest.param(layout, shard, id=f"{layout}-{shard}", marks=ALONE[layout]) for layout in LAYOUTS for shard in range(SHARDS[layout])]


def seeds_of(layout, shard):
    """Of one daemon."""
    if ONLY or RANGE:
        return [] if shard else ONLY or range(RANGE[0], sum(RANGE))
    n = TREES.get(layout, FEWER) // SHARDS[layout]
    first = SEED * 1_000_000 % 10_000_000 + shard * n
    return [*HELD.get(layout, []), *range(first, first + n - len(HELD.get(layout, [])))]


@pytest.mark.parametrize("grove, shard", EACH, indirect=["grove"])
def test_random_trees(grove, shard, request):
    layout = request.node.callspec.params["grove"]
    seeds, met = seeds_of(layout, shard), Counter()
    for i in range(0, len(seeds), PER_FLOW * FLOWS):
        lot = seeds[i : i + PER_FLOW * FLOWS]
        while PAUSE.exists():
            time.sleep(1)
        found = forest(grove, lot, SLACK)
        for seed in lot:
            met.update(grove.trees[seed].traits, processes=grove.trees[seed].processes)
        if REPORT:
            with open(REPORT, "a") as f:
                f.write(json.dumps({"layout": layout, "first": lot[0], "trees": len(lot), "misses": found, "met": met}) + "\n")
            met.clear()
        again = f"tests/hostile/repeat {','.join(map(str, lot))} {layout}"
        assert not found, "\n".join([*found, f"again: {again}", grove.daemon.output()])
        grove.call("Clean")
    assert REPORT or len(seeds) < 60 or met.keys() >= COMMON, f"not met: {COMMON - met.keys()}"
    assert not HELD.get(layout) or ONLY or RANGE or not grove.mounts or met["stuck"], "somebody is stuck"


@pytest.mark.alone
def test_a_chain_of_two_thousand_ends_in_time(grove):
    """Each is the child of the one before it."""
    grove.plant("deep", [1], "deep")
    (tree,) = grove.until_stands([1])
    assert tree.processes == 2001 and len(grove.living()) == 2001
    assert grove.misses(*grove.stop(), SLACK) == [] and gone(grove)


def seconds_of(pid):
    """That it ran in user mode at a real-time priority."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) / os.sysconf("SC_CLK_TCK") if int(fields[38]) == os.SCHED_FIFO else 0


@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a processor that is left to all others")
def test_who_never_sleeps_at_a_realtime_priority_delays_no_stop(grove):
    """Three on one processor: one has it, and nobody else that is bound there or waits there."""
    seeds = [1, 2, 3]
    grove.plant("hogs", seeds, "hog")
    if any("hog" not in tree.traits for tree in grove.until_stands(seeds)):
        pytest.skip("no real-time priority here")
    hog = eventually(lambda: next((p for p in grove.living() if seconds_of(p) >= 0.1), None), 5)
    assert hog, grove.living()
    assert os.sched_getaffinity(hog) == {max(os.sched_getaffinity(0))}
    sleeps = status_field(hog, "voluntary_ctxt_switches")
    assert eventually(lambda: seconds_of(hog) >= 0.3, 5)
    assert status_field(hog, "voluntary_ctxt_switches") == sleeps
    results, seconds = grove.stop()
    assert grove.misses(results, seconds, SLACK) == [] and gone(grove)
