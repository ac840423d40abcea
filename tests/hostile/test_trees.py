# SPDX-License-Identifier: Apache-2.0
"""Random trees of processes that do everything to survive: a stop returns in time, and either nobody is left or the verdict names who is.

TIDEGATE_SEED=N plants other trees, TIDEGATE_LONG=1 plants 100 000 of them; `tests/hostile/repeat SEED [LAYOUT]` plants one alone."""

import os
import random
import warnings

import pytest
from conftest import LAYOUTS
from grove import Stall, gone
from lives import LONG, SLACK

SEED = int(os.environ.get("TIDEGATE_SEED", "1"))
ONLY = [int(s) for s in os.environ.get("HOSTILE_SEEDS", "").split(",") if s]
PER_FLOW, FLOWS = 10, 2  # what stands at one time
TREES = {"root": 100_000 if LONG else 300, "user": 100_000 if LONG else 300}
FEWER = 1000 if LONG else 30
SHARDS = {layout: 5 if layout in TREES else 1 for layout in LAYOUTS}
# An ordinary user's daemon has no real-time priority: it is not measured beside root's trees, some of which have.
ALONE = {layout: pytest.mark.alone if "delegated" in layout else () for layout in LAYOUTS}
EACH = [pytest.param(layout, shard, id=f"{layout}-{shard}", marks=ALONE[layout]) for layout in LAYOUTS for shard in range(SHARDS[layout])]


def batches(layout, shard):
    """The seeds of one daemon, in lots that stand at the same time."""
    n = TREES.get(layout, FEWER) // SHARDS[layout]
    first = SEED * 1_000_000 % 10_000_000 + shard * n
    seeds = [s for s in ONLY if shard == 0] if ONLY else list(range(first, first + n))
    for i in range(0, len(seeds), PER_FLOW * FLOWS):
        yield seeds[i : i + PER_FLOW * FLOWS]


def forest(grove, seeds):
    """Grown, some traced from outside, some frozen; then all stopped at once. Returns what is not as promised, and how long the machine stood still."""
    flows = [seeds[i : i + PER_FLOW] for i in range(0, len(seeds), PER_FLOW)]
    for flow in flows:
        grove.plant(f"f{flow[0]}", flow)
    grove.until_stands(seeds)
    grove.trace([t for t in grove.tracees if t.seed in seeds])
    for seed in seeds:
        if random.Random(seed).random() < 0.1:
            grove.freeze(seed)
    with Stall() as stall:
        results, seconds = grove.stop()
    found = grove.misses(results, seconds, slack=SLACK)
    grove.let_go_all()
    return found + ([] if gone(grove) else [f"left behind: {grove.living()} {grove.cgroups()}"]), stall.worst


@pytest.mark.parametrize("grove, shard", EACH, indirect=["grove"])
def test_random_trees(grove, shard, request):
    layout = request.node.callspec.params["grove"]
    for seeds in batches(layout, shard):
        found, stall = forest(grove, seeds)
        for _ in range(3):
            if not found or stall < 0.3 or not gone(grove):
                break
            warnings.warn(f"once more, for nothing ran for {stall:.1f} s: {found[0]}", stacklevel=1)
            grove.call("Clean")
            grove.forget()
            found, stall = forest(grove, seeds)
        again = f"tests/hostile/repeat {','.join(map(str, seeds))} {layout}"
        assert not found, "\n".join([*found, f"again: {again}", grove.daemon.output()])
        grove.call("Clean")
