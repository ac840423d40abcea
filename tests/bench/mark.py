# SPDX-License-Identifier: Apache-2.0
"""Who is a subject, and when none is left: whoever holds the writing end of a FIFO. See subject.c."""

import contextlib
import os
import select
import signal
import struct
import time

RECORD = struct.Struct("=iIQ")
STARTED, READY = 1, 2


def now():
    return time.monotonic()


def open_files(pid):
    """Targets of a process's descriptors; of a thread's when the leader has exited, for it has none then."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                names = os.listdir(f"/proc/{pid}/task/{task}/fd")
            except OSError:
                continue
            found = []
            for name in names:
                with contextlib.suppress(OSError):
                    found.append(os.readlink(f"/proc/{pid}/task/{task}/fd/{name}"))
            if found:
                return found
    return []


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


class Mark:
    def __init__(self, path):
        self.path = str(path)
        os.mkfifo(self.path)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.poll = select.poll()
        self.poll.register(self.fd, select.POLLIN)
        self.gone_at = None

    def holders(self):
        return [pid for pid in pids() if pid != os.getpid() and self.path in open_files(pid)]

    def forget(self):
        """What was said so far."""
        self._read()

    def _read(self):
        try:
            data = os.read(self.fd, 65536 - 65536 % RECORD.size)
        except BlockingIOError:
            return []
        return list(RECORD.iter_unpack(data))

    def wait(self, what, count, deadline):
        """Time, in s, of the @count-th record of that kind from now on; None when it does not come."""
        times = []
        while len(times) < count:
            left = deadline - now()
            if left <= 0:
                return None
            events = self.poll.poll(left * 1000)
            if events and not events[0][1] & select.POLLIN:
                time.sleep(0.001)  # nobody holds it at the moment, and that is said again and again
            times += [at_ns / 1e9 for _, kind, at_ns in self._read() if kind == what]
        return sorted(times)[count - 1]

    def wait_gone(self, deadline):
        """True once nobody holds the FIFO. The kernel says so when the last one closes it, which is in its exit."""
        while True:
            left = deadline - now()
            events = self.poll.poll(max(left, 0) * 1000)
            if events and events[0][1] & select.POLLIN:
                self._read()
            elif events and events[0][1] & select.POLLHUP:
                return True
            elif left <= 0:
                return False

    def kill(self, deadline):
        """End whoever holds it. False if they would not be gone by then. All are stopped before the first is killed: a bomb forks when
        one is gone, but not while it is stopped."""
        seen = set()
        while not self.wait_gone(now() + 0.002) and now() < deadline:
            holders = set(self.holders())
            sent = signal.SIGSTOP if holders - seen else signal.SIGKILL
            for pid in holders:
                with contextlib.suppress(OSError):
                    fd = os.pidfd_open(pid)
                    try:
                        if self.path in open_files(pid):  # still the one that was meant
                            signal.pidfd_send_signal(fd, sent)
                    finally:
                        os.close(fd)
            seen = holders
        return self.wait_gone(now())

    def close(self):
        os.close(self.fd)
        os.unlink(self.path)
