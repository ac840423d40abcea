# SPDX-License-Identifier: Apache-2.0
"""A node is held, or killed, before and after each system call of its lives: while it joins, while links are attached, at work, and while it leaves.

One end of a link does so, again and again (nodes/stepped.c); the other one, and one more, are honest, and nothing is missing for them that was not in the hands of
one that was killed. What lies between two system calls is tests/shm/step_ring.c's.
"""

import os
import struct

import pytest
from conftest import eventually
from daemon import plan
from lives import LONG
from survive import Seen, node, restarting

AGAIN = {"restart": restarting("always", delay=0.0)}
POINTS = 400 if LONG else 90  # of the steps of one life, evenly
SENT = 30
WORDS = struct.Struct("=8Q")


class Stepped:
    """What the one that is held and killed has noted of its lives."""

    def __init__(self, build, directory):
        self.file, self.program = directory / "steps", build / "tests/system/stepped"
        self.file.write_bytes(bytes(WORDS.size))

    def argv(self, *program):
        return [self.program, self.file, *program]

    def read(self):
        return dict(zip(("steps", "step", "kills", "stride", "held", "killed", "ended", "short"), WORDS.unpack(self.file.read_bytes())))

    def strike(self):
        """From the first step to the last: how many a life has differs, so until five in a row had fewer."""
        steps = eventually(lambda: self.read()["steps"], 20)
        assert steps > 100, self.read()
        stride = max(1, steps // POINTS) | 1  # odd: before some and after others
        with open(self.file, "r+b") as file:
            os.pwrite(file.fileno(), struct.pack("=Q", stride), 8 * 3)
            os.pwrite(file.fileno(), struct.pack("=Q", 1), 8)
        assert eventually(lambda: self.read()["short"] >= 5, 60 + POINTS), self.read()
        done = self.read()
        assert done["killed"] >= steps // stride // 2 and abs(done["held"] - done["killed"]) <= 1, done
        ended = self.read()["ended"]
        assert eventually(lambda: self.read()["ended"] > ended, 20), self.read()


def dropped(daemon, id):
    (dataflow,) = daemon.talk("Status", names=["flow"], links=True)["dataflows"]
    (link,) = next(n["links"] for n in dataflow["nodes"] if n["id"] == id)
    return sum(link.get("counters", {"dropped": {}})["dropped"].values())


@pytest.fixture
def stepped(build, tmp_path):
    return Stepped(build, tmp_path)


@pytest.fixture
def begin(survivor, build, tmp_path):
    """count -> check, and a third one that looks on."""

    def begin(count, check, stepped):
        daemon, nodes, flow = survivor(), build / "tests/system", Seen(tmp_path / "flow")
        look = node("look", [nodes / "check", flow.file, 10], inputs=[("in", "count", "out")])
        daemon.talk("Start", plan=plan(
            node("count", count, outputs=["out"], **(AGAIN if stepped == "count" else {})),
            node("check", check, inputs=[("in", "count", "out")], **(AGAIN if stepped == "check" else {})),
            look,
            name="flow",
        ), environment=[f"{k}={daemon.env[k]}" for k in ("LD_LIBRARY_PATH", "PATH") if k in daemon.env], grace_ms=2000, budget_ms=1000)  # fmt: skip
        return daemon, flow

    return begin


def test_a_reader_held_or_killed_at_each_step_costs_nobody_a_message(stepped, begin, build, tmp_path):
    nodes, seen = build / "tests/system", Seen(tmp_path / "seen")
    daemon, flow = begin([nodes / "count"], stepped.argv(nodes / "check", seen.file, 0, SENT), "check")
    stepped.strike()
    messages, wrong, expects, in_hands = seen.all()
    assert 0 <= expects - messages <= in_hands + 1 and wrong <= in_hands, (seen.all(), daemon.output())
    assert flow.until_more(100, seconds=20), daemon.output()
    messages, wrong, expects, _ = flow.all()
    assert wrong == 0 and expects - messages in (0, 1), flow.all()
    node = daemon.nodes()["flow", "count"]
    assert (node["generation"], node.get("violations", {"count": 0})["count"]) == (1, 0), node


def test_a_source_held_or_killed_at_each_step_is_read_to_its_end(stepped, begin, build, tmp_path):
    nodes, seen = build / "tests/system", Seen(tmp_path / "seen")
    daemon, flow = begin(stepped.argv(nodes / "count", SENT), [nodes / "check", seen.file, 200], "count")
    stepped.strike()
    for id, reader in (("check", seen), ("look", flow)):
        ended = stepped.read()["ended"]  # of each of these all have come, or were counted: a reader that is two lives late gives one of them up
        assert eventually(lambda: reader.messages() + dropped(daemon, id) >= SENT * ended, 20), (stepped.read(), reader.all(), daemon.output())  # noqa: B023
        messages, wrong, _, _ = reader.all()
        assert dropped(daemon, id) < messages / 4, (stepped.read(), reader.all())
        lives = stepped.read()
        assert wrong <= lives["ended"] + lives["killed"] + 1, (lives, reader.all())  # each begins with 0, and breaks no other order
    for id in ("check", "look"):
        node = daemon.nodes()["flow", id]
        assert (node["generation"], node.get("violations", {"count": 0})["count"]) == (1, 0), node
