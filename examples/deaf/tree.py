# SPDX-License-Identifier: Apache-2.0
"""Becomes a tree of N processes that ignore SIGTERM: a quarter in sessions of their own, a quarter double-forked."""

import os
import signal
import sys

n = int(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready, told = os.pipe()


def stay():
    os.write(told, b".")
    while True:
        signal.pause()


for i in range(n - 1):
    if os.fork() == 0:
        if i % 4 == 0:
            os.setsid()
        elif i % 4 == 1 and os.fork() != 0:
            os._exit(0)
        stay()

for _ in range(n - 1):
    os.read(ready, 1)
print(f"{n} processes that ignore SIGTERM")
while True:
    signal.pause()
