# SPDX-License-Identifier: Apache-2.0
"""A node with more than 64 links has no doorbells, for it would need too many descriptors: it is woken by its sockets, and misses nothing."""

import ctypes
import fcntl
import os
import re
import struct

import pytest

N_ROUNDS = 2000
TFD_IOC_SET_TICKS = 0x40085400


def has_doorbells():
    """Whether this kernel has what they are made of: base/doorbell.h"""
    fd = ctypes.CDLL(None).timerfd_create(1, os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TFD_IOC_SET_TICKS, struct.pack("Q", 1))
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize("n_links", [64, 65])
def test_all_arrives_however_many_links_a_node_has(n_links, build, dataflow, run_tidegate):
    def lossless(source):
        return {"source": source, "queue_policy": "backpressure", "queue_size": 1}

    rounds, n_inputs = f"{build}/tests/system/rounds", n_links - 1
    run = run_tidegate("run", dataflow({"nodes": [
        {"id": "ask", "path": rounds, "args": f"ask {N_ROUNDS}", "wait": "block", "inputs": {"in": lossless("answer/out")}, "outputs": ["out"]},
        {"id": "answer", "path": rounds, "args": f"answer {N_ROUNDS} {n_inputs}", "wait": "block", "outputs": ["out"],
         "inputs": {f"in{i}": lossless("ask/out") for i in range(n_inputs)}},
    ]}), timeout=30)  # fmt: skip
    assert f"[answer] {N_ROUNDS * n_inputs} came" in run.output()
    said = {id: (int(slept), int(timers)) for id, slept, timers in re.findall(r"^\[(\w+)\] slept (\d+) timers (\d+)$", run.output(), re.MULTILINE)}
    assert said.keys() == {"ask", "answer"}, run.output()
    assert sum(slept for slept, _ in said.values()) > N_ROUNDS / 10, said
    timers = 3 if n_links <= 64 and has_doorbells() else 1
    assert {n for _, n in said.values()} == {timers}, f"its own, and the doorbells of the pair: {said}"
