#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A node in Python for Tidegate and for Dora: the same program, but for what they call a message.

    node.py RUNTIME source|sink|answer [RESULT]
    node.py RUNTIME ask RESULT MS [SIZE]

source and sink: the pattern of Dora's own benchmark. For each of ten sizes 100 messages 5 ms apart; 2 s later, for each size, 100 back to back, and
one byte that says so. ask and answer: a message and its echo. Writers use `send_output(output, array, metadata)`; "tidegate-in-place" writes into
shared memory what it sends, "tidegate" and "dora" have their array copied there. In the end ask sends to an input that answer does not answer: what
the call takes, beside what memcpy() of the same array takes just before. How often ask does each goes by MS; with a SIZE it asks with messages of
that size, and no more.
"""

import ctypes
import gc
import json
import mmap
import os
import statistics
import sys
import time

import numpy

SIZES = (0, 8, 64, 512, 2048, 4096, 16384, 40960, 409600, 4096000)
COUNT = 100
GAP_S = 0.005
PAUSE_S = 2
PINGS = {64: 25, 4096000: 0.75}  # a millisecond
WARM = 5  # of pings, one of so many comes before as many are measured
COPIES = 0.75
COPIED = 4096000

runtime, role, *rest = sys.argv[1:]
if runtime == "dora":
    import pyarrow
    from dora import Node
else:
    from tidegate import Node


def lent(array):
    """An array as the runtime takes it, without a copy."""
    return pyarrow.array(array) if runtime == "dora" else array


def sender(node, output, array):
    """A function that sends this array once, with these metadata."""
    if runtime != "tidegate-in-place":
        message = lent(array)
        return lambda metadata: node.send_output(output, message, metadata)

    def in_place(metadata):
        sample = node.alloc_output(output, array.nbytes)
        if array.nbytes:
            view = numpy.frombuffer(sample, numpy.uint8)
            view[0] = view[-1] = 1
            del view  # a sample that somebody looks at cannot be sent
        sample.send(metadata)

    return in_place


if runtime == "dora":

    def contents(event):
        """A read-only array on the message, wherever it is."""
        return event["value"].to_numpy()

else:

    def contents(event, frombuffer=numpy.frombuffer, dtype=numpy.uint8):
        """As above."""
        return frombuffer(event["value"], dtype)


def source(node):
    generator = numpy.random.default_rng(1)
    for size in SIZES:
        send = sender(node, "latency", generator.integers(0, 256, size, numpy.uint8))
        for _ in range(COUNT):
            send({"sent": time.monotonic_ns()})
            time.sleep(GAP_S)
    time.sleep(PAUSE_S)
    for size in SIZES:
        send = sender(node, "throughput", generator.integers(0, 256, size, numpy.uint8))
        for _ in range(COUNT):
            send(None)
        node.send_output("throughput", lent(numpy.ones(1, numpy.uint8)))
        time.sleep(0.05)  # a size at a time
    for event in node:  # leaves when it is told: nobody's end takes a message with it
        if event["type"] == "STOP":
            break


def percentile(sorted_ns, share):
    return sorted_ns[round((len(sorted_ns) - 1) * share)] / 1e3


def line(name, size, samples, expected):
    samples.sort()
    return {
        "step": name, "size": size, "n": len(samples), "missing": expected - len(samples), "p50_us": percentile(samples, 0.5),
        "p99_us": percentile(samples, 0.99), "max_us": percentile(samples, 1),
    }  # fmt: skip


def sink(node, result):
    """Until the last size is through, or the dataflow is stopped: then with what there is."""
    latencies = {size: [] for size in SIZES}
    arrivals = {size: [] for size in SIZES}
    for event in node:
        now = time.monotonic_ns()
        if event["type"] == "STOP":
            break
        if event["type"] != "INPUT":
            continue
        array = contents(event)
        size = array.nbytes
        if size > 1:
            array.item(0), array.item(-1)  # read, as whoever uses it would
        if event["id"] == "latency":
            latencies[size].append(now - event["metadata"]["sent"])
        elif size != 1:
            arrivals[size].append(now)
        elif arrivals[SIZES[-1]]:
            break
    lines = [line("apart", size, samples, COUNT) for size, samples in latencies.items() if samples]
    for size, times in arrivals.items():
        if len(times) > 1 and times[-1] > times[0]:
            rate = len(times) * 1e9 / (times[-1] - times[0])
            lines.append({"step": "burst", "size": size, "n": len(times), "missing": COUNT - len(times), "per_s": rate})
    finish(result, lines)


def finish(result, lines):
    with open(result, "w") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
        f.write("\n")  # all of it is there


def ask(node, result, ms, only=None):
    lines = []
    events = iter(node)
    for size in PINGS if only is None else [int(only)]:
        count = int(PINGS[size] * int(ms))
        send = sender(node, "out", numpy.ones(size, numpy.uint8))
        samples = []
        gc.disable()
        for i in range(count // WARM + count):
            if i == count // WARM:
                used = time.process_time_ns()
            before = time.monotonic_ns()
            send(None)
            event = next(events)
            array = contents(event)
            after = time.monotonic_ns()
            assert array.nbytes == size and array.item(0) == 1 == array.item(-1)
            if i >= count // WARM:
                samples.append((after - before) // 2)
            del event, array
        used = time.process_time_ns() - used
        gc.enable()
        lines.append({**line("ping", size, samples, count), "cpu_us": used / count / 1e3})
    if only is None:
        lines.append(copies(node, int(COPIES * int(ms))))
    finish(result, lines)


def copies(node, count):
    """send_output() beside memcpy() of the same array, in turns: into the output's own memory, where there is a way to it."""
    array = numpy.ones(COPIED, numpy.uint8)
    send = sender(node, "unanswered", array)
    fd = os.memfd_create("copies")
    os.ftruncate(fd, COPIED)
    memfd = numpy.frombuffer(mmap.mmap(fd, COPIED), numpy.uint8)

    def copy(to):
        begin = time.monotonic_ns()
        ctypes.memmove(to, array.ctypes.data, COPIED)
        return time.monotonic_ns() - begin

    def copy_in_place():
        sample = node.alloc_output("unanswered", COPIED)
        took = copy(numpy.frombuffer(sample, numpy.uint8).ctypes.data)
        sample.send()
        return took

    copied, sent = [], []
    gc.disable()
    for i in range(count // WARM + count):
        took = copy(memfd.ctypes.data) if runtime == "dora" else copy_in_place()
        begin = time.monotonic_ns()
        send(None)
        end = time.monotonic_ns()
        if i >= count // WARM:
            copied.append(took)
            sent.append(end - begin)
    gc.enable()
    ratio = statistics.median(b / a for a, b in zip(copied, sent))
    return {**line("call", COPIED, sent, count), "memcpy_us": statistics.median(copied) / 1e3, "to_memcpy": ratio}


def answer(node):
    senders = {size: sender(node, "out", numpy.ones(size, numpy.uint8)) for size in PINGS}
    for event in node:
        if event["type"] != "INPUT" or event["id"] != "in":
            continue
        array = contents(event)
        senders[array.nbytes](None)
        assert array.item(0) == 1 == array.item(-1)
        del array, event


{"source": source, "sink": sink, "ask": ask, "answer": answer}[role](Node(), *rest)
