# SPDX-License-Identifier: Apache-2.0
"""What was sent is what arrives: byte for byte under backpressure, and every message that is missing is counted."""

import hashlib
import json
import os
import re

import pytest

BACKPRESSURE, DROP_OLDEST = "backpressure", "drop_oldest"


def report(run, node):
    """The JSON object that a test node printed last."""
    return json.loads(re.findall(rf"^\[{node}\] (\{{.*\}})$", run.output(), re.MULTILINE)[-1])


@pytest.fixture
def nodes(build):
    return build / "tests/system"


@pytest.fixture
def three_nodes(nodes, dataflow, run_tidegate, tmp_path):
    """Ship a random file pump -> relay -> drain under backpressure; returns what drain counted."""

    def ship(size, chunk, queue_size=10, pool=None, timeout=120):
        source, result = tmp_path / "source", tmp_path / "result"
        sha = hashlib.sha256()
        with open(source, "wb") as file:
            for at in range(0, size, 1 << 20):
                block = os.urandom(min(1 << 20, size - at))
                sha.update(block)
                file.write(block)

        def link(of):
            return {"in": {"source": of, "queue_policy": BACKPRESSURE, "queue_size": queue_size}}

        memory = {"shared_memory_pool_size": pool} if pool else {}
        descriptor = dataflow({"nodes": [
            {"id": "pump", "path": f"{nodes}/pump", "args": f"{source} {chunk}", "outputs": ["out"], **memory},
            {"id": "relay", "path": f"{nodes}/relay", "inputs": link("pump/out"), "outputs": ["out"], **memory},
            {"id": "drain", "path": f"{nodes}/drain", "args": str(result), "inputs": link("relay/out")},
        ]})  # fmt: skip
        run = run_tidegate("run", descriptor, timeout=timeout)
        with open(result, "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == sha.hexdigest()
        counts = report(run, "drain")
        n = -(-size // chunk)
        assert counts == {"messages": n, "gaps": 0, "delivered": n, "dropped": 0}
        source.unlink()
        result.unlink()
        return run

    return ship


@pytest.mark.parametrize("size,chunk,queue_size", [(200_000_000, 4096, 10), (200_000_000, 1 << 20, 10), (2_000_000, 1, 256)])
def test_a_file_passes_three_nodes_byte_for_byte(size, chunk, queue_size, three_nodes):
    three_nodes(size, chunk, queue_size)


@pytest.mark.sanitized
@pytest.mark.parametrize("chunk", [1, 191, 192, 193, 4095, 4097, 100_000])
@pytest.mark.parametrize("queue_size", [1, 2, 64])
def test_odd_sizes_and_short_queues_lose_nothing(chunk, queue_size, three_nodes):
    three_nodes(min(3_000_000, chunk * 500 + chunk // 2), chunk, queue_size)


def test_messages_that_fill_most_of_the_pool_still_pass(three_nodes):
    three_nodes(60_000_000, 2_000_000, queue_size=10, pool="8 MB")


@pytest.mark.parametrize(
    "count,size,pause_every,slow_us,queue_size,pool",
    [
        (300_000, 64, 0, 0, 10, None),  # inline
        (300_000, 64, 0, 0, 1, None),
        (20_000, 64, 20, 50, 10, None),
        (50_000, 4096, 0, 0, 10, None),  # pooled
        (3_000, 100_000, 30, 200, 10, None),
        (3_000, 1_000_000, 0, 500, 10, None),  # the window does not fit the pool: overtaken under pressure
        (3_000, 1_000_000, 0, 500, 200, None),
    ],
)
def test_every_gap_is_counted_under_drop_oldest(
    count, size, pause_every, slow_us, queue_size, pool, nodes, dataflow, run_tidegate
):
    memory = {"shared_memory_pool_size": pool} if pool else {}
    link = {"in": {"source": "flood/out", "queue_policy": DROP_OLDEST, "queue_size": queue_size}}
    descriptor = dataflow({"nodes": [
        {"id": "flood", "path": f"{nodes}/flood", "args": f"{count} {size} {pause_every}", "outputs": ["out"], **memory},
        {"id": "tally", "path": f"{nodes}/tally", "args": f"{slow_us}", "inputs": link},
    ]})  # fmt: skip
    run = run_tidegate("run", descriptor, timeout=120)
    sent, got = report(run, "flood"), report(run, "tally")
    assert sent == {"sent": count, "refused": 0}
    assert got["messages"] == got["delivered"] > 0 and got["last"] == count - 1
    assert got["dropped_source"] == got["dropped_invalid"] == 0
    dropped = got["dropped_queue"] + got["dropped_pool"]
    assert got["gaps"] == dropped == count - got["messages"], "each message was delivered or counted"


def test_drop_oldest_really_drops(nodes, dataflow, run_tidegate):
    link = {"in": {"source": "flood/out", "queue_policy": DROP_OLDEST, "queue_size": 3}}
    descriptor = dataflow({"nodes": [
        {"id": "flood", "path": f"{nodes}/flood", "args": "5000 64", "outputs": ["out"]},
        {"id": "tally", "path": f"{nodes}/tally", "args": "900", "inputs": link},
    ]})  # fmt: skip
    got = report(run_tidegate("run", descriptor), "tally")
    assert got["dropped_queue"] > 0 and got["last"] == 4999, "the newest stays, the oldest goes"


def test_one_slow_reader_with_backpressure_holds_up_the_others_and_nobody_loses(nodes, dataflow, run_tidegate, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4_000_000))

    def link(policy):
        return {"in": {"source": "pump/out", "queue_policy": policy, "queue_size": 4}}

    descriptor = dataflow({"nodes": [
        {"id": "pump", "path": f"{nodes}/pump", "args": f"{source} 4000", "outputs": ["out"]},
        {"id": "a", "path": f"{nodes}/drain", "args": str(tmp_path / "a"), "inputs": link(BACKPRESSURE)},
        {"id": "b", "path": f"{nodes}/drain", "args": str(tmp_path / "b"), "inputs": link(BACKPRESSURE)},
        {"id": "c", "path": f"{nodes}/drain", "args": str(tmp_path / "c"), "inputs": link(DROP_OLDEST)},
    ]})  # fmt: skip
    run = run_tidegate("run", descriptor)
    for name in "ab":
        assert (tmp_path / name).read_bytes() == source.read_bytes()
        assert report(run, name) == {"messages": 1000, "gaps": 0, "delivered": 1000, "dropped": 0}
    c = report(run, "c")
    assert c["messages"] + c["dropped"] == 1000 and c["gaps"] == c["dropped"]
