# SPDX-License-Identifier: Apache-2.0
"""What Python adds to C of its own: a message and its echo, again and again, by nodes in C and by nodes in Python, of dataflows that differ in
nothing but the program.

All of them sleep while they wait, and the two of a dataflow share a CPU. Nodes that wait as they do by themselves look again where that pays, so those
in Python may be awake where those in C sleep, and on two CPUs most of what is measured is how a sleeping CPU is woken.
"""

import json
import os

from pythons import TidegatePython
from transports import Tidegate

SIZE = 64
QUEUE = 64


def dataflow(path, asks, answers):
    """@asks, @answers: the arguments of that program, as the one and as the other side."""
    text = "nodes:\n"
    for name, other, args in (("ask", "answer", asks), ("answer", "ask", answers)):
        text += (
            f"  - id: {name}\n    path: {path}\n    args: {' '.join(map(str, args))}\n    outputs: [out]\n"
            f"    wait: block\n    cpu_affinity: [{max(os.sched_getaffinity(0))}]\n"
            f"    inputs:\n      in: {{source: {other}/out, queue_size: {QUEUE}, queue_policy: backpressure}}\n"
        )
    return text


def renamed(lines):
    return "\n".join(json.dumps({**json.loads(line), "step": "own", "size": SIZE}) for line in lines.splitlines())


class OwnC(Tidegate):
    def descriptor(self, size, queue, steps, result):
        program, *asks = self.arguments(0, size, queue)
        return dataflow(program, [*asks, result, *steps], self.arguments(1, size, queue)[1:])

    def own(self, span_ms):
        return renamed(self.session(SIZE, QUEUE, [f"ping:{span_ms}"], span_ms * 1.2 / 1e3))


class OwnPython(TidegatePython):
    def descriptor(self, pattern, span_ms, result):
        asks = [self.runtime, "ask", result, span_ms, SIZE]
        return dataflow(self.tools.root / "tests/bench/peers/node.py", asks, [self.runtime, "answer"])

    def own(self, span_ms):
        return renamed(self.session("own", span_ms))


OWN = [OwnC, OwnPython]
