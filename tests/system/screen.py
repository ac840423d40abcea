# SPDX-License-Identifier: Apache-2.0
"""A terminal that a test looks at: a program on a pseudo terminal, and what a VT100 would show of what it writes."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[()][A-Z0-9]|\x1b[=>78MDE]|[\x0e\x0f\x00\x07]|\n|\r|\x08|\t|[^\x1b]")
UNFINISHED = re.compile(r"\x1b(\[[?0-9;]*|[()])?$")


class Screen:
    def __init__(self, command, env, rows=24, cols=80):
        self.raw, self.rest = b"", ""
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a read may end within a character
        self.clear(rows, cols)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            os.execvpe(command[0], command, env)

    def clear(self, rows, cols):
        self.rows, self.cols, self.row, self.col = rows, cols, 0, 0
        self.first, self.last = 0, rows - 1  # of the rows that scroll
        self.cells = [[" "] * cols for _ in range(rows)]

    def resize(self, rows, cols):
        self.clear(rows, cols)  # the program draws all of it anew
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    # ---- what a VT100 does

    def feed(self, data):
        self.raw += data
        text = self.rest + self.decoder.decode(data)
        cut = UNFINISHED.search(text)
        self.rest, text = (text[cut.start() :], text[: cut.start()]) if cut else ("", text)
        for token in TOKEN.finditer(text):
            if token.group(2):
                self.control(token.group(1), token.group(2))
            elif token.group() == "\x1bM":
                self.up()
            elif token.group()[0] not in "\x1b\x0e\x0f\x00\x07":
                self.put(token.group())

    def down(self):
        if self.row == self.last:
            self.cells[self.first : self.last + 1] = [*self.cells[self.first + 1 : self.last + 1], [" "] * self.cols]
        else:
            self.row = min(self.row + 1, self.rows - 1)

    def up(self):
        if self.row == self.first:
            self.cells[self.first : self.last + 1] = [[" "] * self.cols, *self.cells[self.first : self.last]]
        else:
            self.row = max(self.row - 1, 0)

    def put(self, c):
        if c == "\r":
            self.col = 0
        elif c == "\n":
            self.down()
        elif c == "\x08":
            self.col = max(self.col - 1, 0)
        elif c == "\t":
            self.col = min(self.col // 8 * 8 + 8, self.cols - 1)
        else:
            if self.col >= self.cols:
                self.col = 0
                self.down()
            self.cells[self.row][self.col] = c
            self.col += 1

    def control(self, parameters, final):
        numbers = [int(n) if n.isdigit() else 0 for n in parameters.split(";")]
        first = max(numbers[0], 1)
        if final == "H":
            self.row = min(first, self.rows) - 1
            self.col = min(max(numbers[1] if len(numbers) > 1 else 1, 1), self.cols) - 1
        elif final in "ABCD":
            rows, cols = {"A": (-1, 0), "B": (1, 0), "C": (0, 1), "D": (0, -1)}[final]
            self.row = min(max(self.row + rows * first, 0), self.rows - 1)
            self.col = min(max(self.col + cols * first, 0), self.cols - 1)
        elif final in "JK":
            line = self.cells[self.row]
            for i in {0: range(self.col, self.cols), 1: range(min(self.col + 1, self.cols)), 2: range(self.cols)}[numbers[0]]:
                line[i] = " "
            for i in range(self.row + 1, self.rows) if final == "J" else []:
                self.cells[i] = [" "] * self.cols
        elif final == "r":
            self.first, self.last = first - 1, (min(numbers[1], self.rows) if len(numbers) > 1 and numbers[1] else self.rows) - 1
            self.row = self.col = 0
        elif final not in "mhl":
            raise AssertionError(f"the screen got CSI {parameters} {final}, which no VT100 understands")

    # ---- what a test asks for

    def lines(self):
        return ["".join(line).rstrip() for line in self.cells]

    def text(self):
        return "\n".join(self.lines())

    def read(self, seconds):
        """What comes within that time; False at the end of the program."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            self.feed(data)
            return bool(data)
        return True

    def until(self, condition, seconds=20):
        """Wait until @condition, a pattern or a function of the screen, holds."""
        holds = condition if callable(condition) else lambda screen: re.search(condition, screen.text(), re.M)
        end = time.monotonic() + seconds
        while not (found := holds(self)):
            assert time.monotonic() < end, f"no {condition!r} in\n{self.text()}"
            if not self.read(0.1):
                assert holds(self), f"it ended, and no {condition!r} in\n{self.text()}"
        return found

    def type(self, text):
        os.write(self.fd, text.encode())

    def status(self, seconds=20):
        """Its exit status."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"no end after {seconds} s:\n{self.text()}")

    def is_raw(self):
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
