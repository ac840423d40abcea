# SPDX-License-Identifier: Apache-2.0
"""A file system whose server does not answer (tests/supervisor/hungfs.c): whoever asks it is in uninterruptible sleep. Without pytest."""

import os
import select
import signal
import subprocess
import time


class HungMount:
    """A FUSE mount in a mount namespace of its own, whose server reads questions and does not answer before it is told to let go."""

    def __init__(self, program, directory):
        directory.mkdir()
        self.path, self.said = directory, []
        self.anybody = directory / "d%/file"  # % is a number of one who asks, and so waits for nobody else's answer
        self.server = subprocess.Popen(["unshare", "-m", program, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self.pidfd = os.pidfd_open(self.server.pid)
        self._until("ready")

    def _until(self, word, times=1, seconds=20):
        """It has said so often a word that was not waited for before."""
        end = time.monotonic() + seconds
        while self.said.count(word) < times:
            heard = select.select([self.server.stdout], [], [], max(0, end - time.monotonic()))[0] and os.read(self.server.stdout.fileno(), 1 << 16)
            assert heard, f"its server did not say {word} {times} times within {seconds} s: {self.said}"
            self.said += heard.decode().split("\n")[:-1]  # it writes whole lines
        for _ in range(times):
            self.said.remove(word)

    def prefix(self):
        """A command that executes its arguments where the mount is seen."""
        return ["nsenter", "-t", str(self.server.pid), "-m"]

    def until_asked(self, times=1):
        self._until("asked", times)

    def let_go(self):
        """Everybody who asks is told that it failed; the next one waits again."""
        os.write(self.server.stdin.fileno(), b"!")
        self._until("let go")

    def end(self):
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pidfd)
        self.server.wait(10)
        self.server.stdin.close()
        self.server.stdout.close()
