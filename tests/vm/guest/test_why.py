# SPDX-License-Identifier: Apache-2.0
"""Why a node makes no progress that is held by a limit: `tidegate why` tells one from the other. (A frozen file system: test_uninterruptible.)"""

import json

from guest import BUILD, descriptor, eventually, tidegate

KERNELS = ["6.1"]
GREEDY = BUILD / "tests/vm/greedy"


def is_said(node, cause, *words, seconds=30):
    """A state has to have lasted for a moment: ask until that is the answer."""
    said = {}

    def right():
        said.update(json.loads(tidegate("why", f"flow:{node}", "--json", quiet=True).stdout))
        return said["cause"] == cause and all(word in said["text"] for word in words)

    assert eventually(right, seconds), said


def test_who_is_held_by_a_limit_is_told_which():
    file = descriptor(
        "/tmp/flow",
        ("busy", f"exec {GREEDY} cpu"),
        ("large", f"exec {GREEDY} memory 64", "resources: {memory_high: 16M, memory_swap_max: 0}"),
        # Nobody may be killed for the memory that it wants: its page fault fails, and is tried again, for ever.
        ("larger", f"echo -1000 >/proc/self/oom_score_adj; exec {GREEDY} memory 64", "resources: {memory_max: 16M, memory_swap_max: 0}"),
    )
    assert tidegate("up").returncode == 0
    assert tidegate("start", file, "--name", "flow", "--detach", "--no-logs", "--grace-duration", "200ms").returncode == 0
    assert tidegate("set-limit", "busy", "cpu_max=0.01").returncode == 0
    is_said("busy", "throttled", "cpu.max")
    is_said("large", "memory-high", "memory.high")
    is_said("larger", "oom", "16 MiB")
    assert tidegate("stop", "flow", "--force").returncode == 1
    assert tidegate("down").returncode == 0
