# SPDX-License-Identifier: Apache-2.0
"""What nodes can make the guard do is bounded: it runs at a real-time priority, and is the parent of all orphans."""

import os
import pathlib
import time

import pytest
from grove import gone
from lives import SLACK

pytestmark = pytest.mark.alone  # it measures


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_orphans_without_a_pause_do_not_take_the_processor(grove):
    """Three nodes make them as fast as they can. The guard takes them over, and rests three times as long as that took."""
    seeds = [1, 2, 3]
    grove.plant("storm", seeds, "storm")
    grove.until_stands(seeds)
    guard = grove.daemon.guard_pid()
    before, begin = cpu_seconds(guard), time.monotonic()
    time.sleep(1)
    share = (cpu_seconds(guard) - before) / (time.monotonic() - begin)
    results, seconds = grove.stop()
    assert not grove.misses(results, seconds, SLACK)
    assert gone(grove)
    assert share < 0.4, f"the guard had {share:.0%} of a processor"
