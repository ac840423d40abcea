# SPDX-License-Identifier: Apache-2.0
"""Random trees of tests/hostile where the kernel has all controllers: fork bombs under pids_max, memory hogs at memory_max."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

from guest import BUILD, CGROUPS, SLACK, deadline, eventually, start

TESTS = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(TESTS / "hostile"), str(TESTS / "system")]

# 30 trees with hogs, two bombs, and tracers in and outside. Not 111: its hog may end it before somebody traces it.
SEEDS = [*range(83, 107), 108, 110, 112, 113, 115, 116]
LIMITS = {"pids_max": {"value": "20", "line": 1}, "memory_max": {"value": str(12 << 20), "line": 1}}
GRACE, BUDGET = 0.3, 3.0  # an emulated machine takes its time


class Daemon:
    """tidegated on the root of the hierarchy, as the grove wants one."""

    home = CGROUPS / "tidegate"

    def __init__(self, directory):
        self.socket, self.log = directory / "run/control.sock", directory / "log"
        with open(self.log, "w") as log:
            self.process = start(BUILD / "bin/tidegated", "--runtime-dir", directory / "run", stdout=log, stderr=subprocess.STDOUT)
        assert eventually(self.socket.exists, 20), self.output()

    def output(self):
        return self.log.read_text(errors="replace")[-4000:]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def limits_are_felt(grove):
    """Who wants more memory is ended by the kernel, and of who wants more processes forks are refused; both are told."""
    from grove import is_frozen

    wanted = {(seed, kind) for seed in SEEDS for kind in ("memory", "bomb") if kind in grove.trees[seed].traits and not is_frozen(seed)}
    assert sum(kind == "memory" for _, kind in wanted) >= 5 and sum(kind == "bomb" for _, kind in wanted) >= 2, wanted

    def missing():
        nodes = {int(n["id"][1:]): n for d in grove.call("Status")["dataflows"] for n in d["nodes"]}
        felt = {(seed, "bomb") for seed, n in nodes.items() if n.get("felt", {}).get("forks_refused")}
        felt |= {(seed, "memory") for seed, n in nodes.items() if n.get("felt", {}).get("oom_kills") and n["state"] == "failed"}
        return [(seed, kind, nodes[seed]["state"], nodes[seed].get("felt")) for seed, kind in wanted - felt]

    assert eventually(lambda: not missing(), 40), missing()


@deadline(120)
def test_random_trees_at_their_limits():
    from grove import Grove, forest

    directory = pathlib.Path("/tmp/trees")
    directory.mkdir()
    shutil.copy(BUILD / "tests/hostile/hostile_tree", directory / "tree")
    daemon = Daemon(directory)
    grove = Grove(daemon, directory / "tree", os.getuid(), grace=GRACE, budget=BUDGET, late=SLACK)
    grove.environment["HOSTILE_MEMORY"] = "13"
    try:
        found = forest(grove, SEEDS, SLACK, check=lambda: limits_are_felt(grove), resources=LIMITS)
        assert not found, "\n".join([*found, daemon.output()])
        assert {t.how for t in grove.tracees} == {"exit", "plain"}
    finally:
        grove.close()
        status = daemon.end()
    assert status == 0, daemon.output()
