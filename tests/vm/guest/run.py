# SPDX-License-Identifier: Apache-2.0
"""run.py MODULE::TEST...: in a guest, run tests one after the other and say of each how it went, as a line of JSON that begins with @@.

Each test is a process of its own with a deadline. After it nothing may be there that was not there before: no process, no cgroup.
No pytest: to import it takes longer here than to run most tests.
"""

import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback

from guest import CGROUPS, Skip, cgroups, eventually, make_user, processes, remove  # ends us outside a guest

DEADLINE = 60
OUTPUT = 8000  # characters of a test's output that are handed on
SYSTEMD = os.path.isdir("/run/systemd/system")


def tell(**words):
    sys.stdout.write("@@" + json.dumps(words) + "\n")
    sys.stdout.flush()


def ours():
    """Processes and cgroups that a test might leave. Beside systemd others come and go; then only what has our name."""
    pids, groups = processes(), cgroups()
    if SYSTEMD:
        pids = {p: c for p, c in pids.items() if c.startswith("tidegate")}
        groups = {g for g in groups if "tidegate" in g and "tidegate-vm" not in g}
    return pids, groups


def in_child(test, seconds, log, told):
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)
    faulthandler.dump_traceback_later(max(seconds - 2, 1), exit=False)
    status = 1
    try:
        test()
        status = 0
    except Skip as e:
        os.write(told, str(e).encode()[:500])
        status = 77
    except BaseException as e:
        line = traceback.extract_tb(e.__traceback__)[-1]
        os.write(told, f"{type(e).__name__}: {str(e)[:300] or line.line} ({os.path.basename(line.filename)}:{line.lineno})".encode())
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


def wait_for(pid, seconds):
    """Its exit status; None when the time was over."""
    pidfd = os.pidfd_open(pid)
    try:
        if select.select([pidfd], [], [], seconds)[0]:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def clear(before, seconds=3):
    """What a test left, after which it is ended. Its end may show a moment after the test's."""
    left = lambda: {"processes": {p: c for p, c in ours()[0].items() if p not in before[0]}, "cgroups": sorted(ours()[1] - before[1])}
    eventually(lambda: not any(left().values()), seconds)
    found = left()
    for pid in found["processes"]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for name in found["cgroups"]:
        try:
            remove(CGROUPS / name, 1)
        except (OSError, AssertionError) as e:
            print(f"{name}: {e}", file=sys.stderr)
    return {k: v for k, v in found.items() if v}


def run_one(name, test):
    seconds, log = getattr(test, "deadline", DEADLINE), f"/tmp/{name}.log"
    before, begin = ours(), time.monotonic()
    tell(begin=name)
    sys.stdout.flush()
    hear, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        in_child(test, seconds, log, told)
    os.close(told)
    status = wait_for(pid, seconds)
    os.set_blocking(hear, False)  # somebody whom it left may hold the other end
    try:
        reason = os.read(hear, 1000).decode(errors="replace")
    except BlockingIOError:
        reason = ""
    os.close(hear)
    took = time.monotonic() - begin
    with open(log, errors="replace") as f:
        output = f.read()
    left = clear(before)
    if status is None:
        reason = f"not done within {seconds} s"
    elif status != 0 and not reason:
        reason = f"status {status}"
    if left:
        reason = f"{reason}; left {left}" if reason else f"left {left}"
    outcome = "skipped" if status == 77 and not left else "passed" if status == 0 and not left else "failed"
    tell(end=name, outcome=outcome, reason=reason, seconds=round(took, 2), output=output[-OUTPUT:])


def main():
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    make_user()
    tell(kernel=os.uname().release, uptime=time.clock_gettime(time.CLOCK_BOOTTIME))
    for name in sys.argv[1:]:
        module, _, function = name.partition("::")
        try:
            test = getattr(importlib.import_module(module), function)
        except Exception as e:
            tell(begin=name)
            tell(end=name, outcome="failed", reason=f"{type(e).__name__}: {e}", seconds=0, output=traceback.format_exc())
            continue
        run_one(name, test)


main()
