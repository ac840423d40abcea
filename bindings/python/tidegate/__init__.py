# SPDX-License-Identifier: Apache-2.0
"""Nodes of a Tidegate dataflow in Python.

    import tidegate

    with tidegate.Node() as node:
        for event in node:
            if event.type == "INPUT":
                node.send_output("result", event.data, event.metadata)

Messages are bytes. `event.data` is a read-only memoryview of shared memory: nothing is copied, numpy.frombuffer() works
on it, and the message stays in place as long as the event or any view of it lives. A node holds at most 8 messages of an input
like that; the library copies what comes beyond. `fill_output()` and `alloc_output()` give room in shared memory to write a message where its
readers read it, so that nobody copies it; `send_output()` takes bytes, or any object that lends a C-contiguous buffer, and copies them once;
`send_batch()` does so with several and wakes their readers once. Who gets many small messages takes those that are there at once:
`for events in node.batches():`.

Metadata is a dict of bool, int, float, str and lists of int, float or str. What arrives has a "timestamp" besides; the metadata of
an event may be sent on as it is.

Threads: every method may be called from any thread; the GIL is released while one waits, and Ctrl-C ends every wait. A forked child
may not use the node of its parent. Every exception of this module is a tidegate.Error, which is an OSError.
"""

import errno
import math
import os
from collections.abc import Mapping

from . import _tidegate
from ._tidegate import (
    Closed,
    Dropped,
    Error,
    Event,
    NoSuchOutput,
    NotConnected,
    Payload,
    Sample,
    Stopping,
    Timeout,
    TooLarge,
)

__all__ = [
    "Closed",
    "Dropped",
    "Error",
    "Event",
    "NoSuchOutput",
    "Node",
    "NotConnected",
    "Payload",
    "Sample",
    "Stopping",
    "Timeout",
    "TooLarge",
]

__version__ = _tidegate.version()

Mapping.register(Event)


class Node(_tidegate.Node):
    """The connection of this process to its dataflow. One per process.

    A process that was started by hand names the dynamic node it wants to be: Node("viewer"), or Node("viewer",
    dataflow="audio") when more than one dataflow has such a node. Started by Tidegate, it is what it was started as, whatever
    it names. Iterate over it (`for` or `async for`) to get the events until the stream ends.
    """

    def __init__(self, node_id=None, *, dataflow=None):
        self._waiting = {}  # event loop: the futures that wait in it
        self._async_fd = -1
        super().__init__(node_id, dataflow=dataflow)

    def batches(self, limit=64):
        """Iterate over lists of 1 to limit events, each what there is at that moment, until the stream ends."""
        while events := self.next_batch(limit):
            yield events

    # asyncio. The descriptor that event loops watch is a duplicate: close() may come from another thread, and a loop
    # must never be left with a number that means another file by then.

    async def recv_async(self, timeout=None):
        """Wait for the next event without blocking the event loop; None at the end of the stream. Raises Timeout."""
        import asyncio  # here: it takes longer to import than a small node to run

        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            event = self.try_recv()
            if event is not None or self.ended:
                return event
            if deadline is not None and loop.time() >= deadline:
                raise Timeout(errno.ETIMEDOUT, "waiting for an event: the time was up")
            await self._readable(loop, deadline)

    def __aiter__(self):
        return self

    async def __anext__(self):
        event = await self.recv_async()
        if event is None:
            raise StopAsyncIteration
        return event

    async def _readable(self, loop, deadline):
        if self._async_fd < 0:
            self._async_fd = os.dup(self.fileno())
        fd = self._async_fd
        waiting = self._waiting.setdefault(loop, set())
        if not waiting:
            loop.add_reader(fd, self._wake, loop)
        future = loop.create_future()
        waiting.add(future)
        timer = loop.call_at(deadline, _finish, future) if deadline is not None else None
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            waiting.discard(future)
            if not waiting:
                loop.remove_reader(fd)
                del self._waiting[loop]
            self._drop_async_fd()

    def _wake(self, loop):
        for future in self._waiting.get(loop, ()):
            _finish(future)

    def _drop_async_fd(self):
        if self.closed and not self._waiting and self._async_fd >= 0:
            os.close(self._async_fd)
            self._async_fd = -1

    def fill_output(self, output_id, fill, shape, dtype="uint8", metadata=None):
        """Send a numpy array that is never copied: fill(array) writes it in shared memory, where its readers read it.

        The array has what was there before, not zeros, and is gone once fill() has returned: BufferError, and nothing is sent, if
        something still refers to it. Nothing is sent when fill() raises, either.
        """
        import numpy  # here: nodes that have no arrays need not have numpy

        dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            raise TypeError(f"dtype {dtype} is of Python objects, which no other process can read")
        shape = tuple(shape) if numpy.iterable(shape) else (shape,)
        with self.alloc_output(output_id, math.prod(shape) * dtype.itemsize) as sample:
            fill(numpy.frombuffer(sample, dtype).reshape(shape))  # numpy.ndarray(shape, dtype, sample) would hold no view that counts
            sample.send(metadata)

    def close(self):
        """Leave the dataflow. Never waits. Events still held stay readable."""
        super().close()
        for loop in list(self._waiting):
            try:
                loop.call_soon_threadsafe(self._wake, loop)
            except RuntimeError:  # that loop is closed: nobody waits in it any more
                self._waiting.pop(loop, None)
        self._drop_async_fd()

    def __del__(self):
        if getattr(self, "_async_fd", -1) >= 0:
            os.close(self._async_fd)

    def log_error(self, message):
        self.log("error", message)

    def log_warn(self, message):
        self.log("warn", message)

    def log_warning(self, message):
        self.log("warn", message)

    def log_info(self, message):
        self.log("info", message)

    def log_debug(self, message):
        self.log("debug", message)

    def log_trace(self, message):
        self.log("trace", message)

    def __repr__(self):
        if self.closed:
            return "<tidegate.Node, closed>"
        return f"<tidegate.Node {self.node_id!r} of dataflow {self.dataflow_name!r}>"


def _finish(future):
    if not future.done():
        future.set_result(None)
