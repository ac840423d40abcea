# SPDX-License-Identifier: Apache-2.0
"""Random trees of tests/hostile where the kernel has all controllers: fork bombs under pids_max, memory hogs at memory_max, and processes that wait
for a file system that is frozen, or whose server does not answer."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from guest import BUILD, CGROUPS, SLACK, deadline, eventually, frozen_disk, run, start, two_cpus

TESTS = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(TESTS / "hostile"), str(TESTS / "system")]

# 30 trees with hogs, two bombs, tracers in and outside, and four processes that cannot die. Not 104, 105 and 111: their hogs may end them before all is ready.
SEEDS = [*range(83, 104), 106, 107, 108, 109, 110, 112, 113, 115, 119]
LIMITS = {"pids_max": {"value": "20", "line": 1}, "memory_max": {"value": str(12 << 20), "line": 1}}
GRACE, BUDGET = 0.3, 3.0  # an emulated machine takes its time


class FrozenMount:
    """As HungMount, of a file system that is frozen."""

    def __init__(self, freeze, thaw):
        self.freeze, self.thaw = freeze, thaw
        self.anybody = pathlib.Path("/mnt/frozen/%")
        freeze()

    def until_asked(self, times):
        """Nobody can tell."""

    def let_go(self):
        self.thaw()
        self.freeze()  # they were let in first
        self.thaw()
        for path in self.anybody.parent.iterdir():
            if path.is_file():
                path.unlink()  # to open what is there nobody waits, and a tree that is grown once more opens the same
        self.freeze()


class Daemon:
    """tidegated on the root of the hierarchy, as the grove wants one."""

    home = CGROUPS / "tidegate"

    def __init__(self, directory, prefix):
        self.socket, self.log = directory / "run/control.sock", directory / "log"
        with open(self.log, "w") as log:
            self.process = start(*prefix, BUILD / "bin/tidegated", "--runtime-dir", directory / "run", stdout=log, stderr=subprocess.STDOUT)
        assert eventually(self.socket.exists, 20), self.output()

    def output(self):
        return self.log.read_text(errors="replace")[-4000:]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def wanting(grove, seeds):
    """(seed, what it wants more of than it may have) of these trees."""
    from grove import is_frozen

    return {(seed, kind) for seed in seeds for kind in ("memory", "bomb") if kind in grove.trees[seed].traits and not is_frozen(seed)}


def limits_are_felt(grove, seeds):
    """Who wants more memory is ended by the kernel, and of who wants more processes forks are refused; both are told."""
    wanted = wanting(grove, seeds)

    def missing():
        nodes = {int(n["id"][1:]): n for d in grove.call("Status")["dataflows"] for n in d["nodes"]}
        felt = {(seed, "bomb") for seed, n in nodes.items() if n.get("felt", {}).get("forks_refused")}
        felt |= {(seed, "memory") for seed, n in nodes.items() if n.get("felt", {}).get("oom_kills") and n["state"] == "failed"}
        return [(seed, kind, nodes[seed]["state"], nodes[seed].get("felt"), nodes[seed].get("error")) for seed, kind in wanted - felt]

    assert eventually(lambda: not missing(), 40), missing()


@two_cpus
@deadline(120)
def test_random_trees_at_their_limits():
    from grove import PER_FLOW, Grove, forest
    from hungmount import HungMount

    directory = pathlib.Path("/tmp/trees")
    directory.mkdir()
    shutil.copy(BUILD / "tests/hostile/hostile_tree", directory / "tree")
    with contextlib.ExitStack() as stack:
        mounts, prefix = [FrozenMount(*stack.enter_context(frozen_disk()))], []
        if (BUILD / "tests/supervisor/hungfs").exists():
            run("modprobe", "fuse", check=True)
            mounts.append(HungMount(BUILD / "tests/supervisor/hungfs", directory / "hung"))
            stack.callback(mounts[-1].end)
            prefix = mounts[-1].prefix()
        daemon = Daemon(directory, prefix)
        grove = Grove(daemon, directory / "tree", os.getuid(), grace=GRACE, budget=BUDGET, late=SLACK, mounts=mounts)
        grove.environment["HOSTILE_MEMORY"] = "13"
        try:
            for i in range(0, len(SEEDS), PER_FLOW):  # of more an emulated machine needs seconds to end whom it has killed
                seeds = SEEDS[i : i + PER_FLOW]
                found = forest(grove, seeds, SLACK, check=lambda seeds=seeds: limits_are_felt(grove, seeds), resources=LIMITS)
                assert not found, "\n".join([*found, daemon.output()])
                grove.call("Clean")
            kinds = [kind for _, kind in wanting(grove, SEEDS)]
            assert kinds.count("memory") >= 5 and kinds.count("bomb") >= 2, kinds
            assert {(t.how, t.mount) for t in grove.tracees} == {("exit", 0), ("plain", 0), *(("stuck", i) for i in range(len(mounts)))}
        finally:
            grove.close()
            status = daemon.end()
        assert status == 0, daemon.output()
