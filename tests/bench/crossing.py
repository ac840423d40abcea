# SPDX-License-Identifier: Apache-2.0
"""The inside of the room of `scripts/bench-peers`: rounds, in each of which everybody does the same work, one after the other."""

import json
import os
import time
import traceback

from own import OWN
from pythons import PYTHONS
from tools import Tools
from transports import TRANSPORTS, Failed, Session

SIZES = (64, 4096, 1 << 20, 4 << 20)
GAP_US = 1000
TRIES = 2  # of a peer that failed, with one size


def queue_of(size):
    """Messages under way in one direction, as a link of a robot has them: many small ones, few large ones."""
    return 64 if size < 1 << 20 else 4


def steps(span_ms):
    return [f"ping:{span_ms}", f"paced:{span_ms}:{GAP_US}", f"flood:{span_ms}"]


def seconds(span_ms):
    """That the steps take, with their warm-ups."""
    return len(steps(span_ms)) * span_ms * 1.2 / 1e3


class Run:
    def __init__(self, place):
        self.place, self.spec = place, place.spec
        self.tools = Tools(self.spec["root"], self.spec["build"], fetch=False, top=self.spec["tools"])
        self.progress = open(place.work / "progress", "a")
        self.samples = []
        self.failed = {}  # (peer, size): why, each time
        self.began = time.monotonic()

    def attempt(self, cls, size, number, body):
        """Samples of one session; what went wrong instead."""
        whys = self.failed.setdefault((cls.name, size), [])
        if len(whys) == TRIES:
            return
        why = None
        try:
            with Session(cls, self.place, self.tools) as session:
                for line in body(session).splitlines():
                    self.samples.append({"peer": cls.name, "size": size, "round": number, **json.loads(line)})
        except Failed as e:
            why = str(e)
        except (OSError, ValueError) as e:
            traceback.print_exc()
            why = f"{type(e).__name__}: {e}"
        if why:
            whys.append(why)
            self.say(f"{cls.name}, {size}: {why}")

    def say(self, text):
        self.progress.write(f"{time.monotonic() - self.began:4.0f} s: {text}\n")
        self.progress.flush()

    def all(self):
        wanted, span_ms = self.spec["peers"], self.spec["span_ms"]
        for number in range(self.spec["rounds"]):
            for size in self.spec["sizes"]:
                for cls in TRANSPORTS:
                    if cls.name in wanted:
                        self.attempt(cls, size, number, lambda t, size=size: t.session(size, queue_of(size), steps(span_ms), seconds(span_ms)))
            if all(cls.name in wanted for cls in OWN):
                for cls in OWN[:: -1 if number % 2 else 1]:
                    self.attempt(cls, "own", number, lambda t: t.own(span_ms))
            for pattern in ("ping", "pattern"):
                for cls in PYTHONS:
                    if cls.name in wanted and pattern in self.spec["patterns"]:
                        self.attempt(cls, pattern, number, lambda t, pattern=pattern: t.session(pattern, span_ms))
            self.say(f"round {number + 1} of {self.spec['rounds']} is done")
        failed = [{"peer": peer, "size": size, "why": why} for (peer, size), whys in self.failed.items() for why in whys]
        return {"samples": self.samples, "failed": failed}


def run(place):
    os.nice(-20)  # and with it all that is begun: the same for everybody
    return Run(place).all()
