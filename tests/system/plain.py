# SPDX-License-Identifier: Apache-2.0
"""What does without pytest, and so is shared with the tests in guests, where importing pytest takes longer than most tests."""

import os
import pathlib
import time

MARK = "TIDEGATE_TEST_RUN"  # in the environment of everything that a test starts: how its leftovers are found


def unified_root():
    """Mount point of the cgroup v2 hierarchy."""
    for line in open("/proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return pathlib.Path(fields.split()[4])
    return None


def eventually(condition, seconds, step=0.02):
    """Wait for what has no event to wait on; returns the last value of condition()."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(step)
    return value


def directories_in(path):
    """All below it. Others make and remove some meanwhile, over which rglob() of a pathlib.Path stumbles."""
    return [pathlib.Path(parent) / name for parent, names, _ in os.walk(path) for name in names]


# Plans, as the command makes them from descriptors


def program(id, script, **keys):
    """A node that is a shell script."""
    return {
        "id": id, "line": 1, "kind": "program", "argv": ["/bin/sh", "-c", script], "env": {}, "cpu_affinity": [], "inputs": [], "outputs": [],
        "pool_size": 1 << 26, "restart": {"policy": "never", "max_restarts": 0, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0},
        "startup_timeout_ns": 60 * 10**9, "finish_grace_ns": 0, "stuck_timeout_ns": 0, "on_failure": "ignore", "after": [], **keys,
    }  # fmt: skip


def plan(*nodes, name="flow", directory="/"):
    return {"version": 1, "name": name, "file": f"{directory}/{name}.yml", "dir": str(directory), "nodes": list(nodes)}
