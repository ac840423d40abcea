# SPDX-License-Identifier: Apache-2.0
"""A lock of the whole host that any user can keep: the one of epolls that stand in epolls. In a guest, for it holds up whoever uses such."""

import contextlib
import json
import select
import subprocess

from guest import BUILD, SLACK, descriptor, eventually, start, state_of, tidegate


@contextlib.contextmanager
def lock_held():
    holder = start(BUILD / "tests/vm/epoll_lock", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert select.select([holder.stdout], [], [], 30)[0] and holder.stdout.readline() == "held\n", holder.poll()
        yield
    finally:
        holder.stdin.close()
        assert holder.wait(SLACK) == 0


def nested_add_hangs():
    """Somebody who needs the lock, which shows that it is held: he does not come back."""
    code = "import select; a, b = select.epoll(), select.epoll(); print('begin', flush=True); a.register(b.fileno()); print('end', flush=True)"
    process = start("/usr/bin/python3", "-c", code, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "begin\n"
    return process


def test_who_keeps_it_holds_up_neither_the_daemon_nor_a_dataflow_nor_its_stop():
    flow = descriptor("/tmp/flow", ("a", "while echo line; do sleep 0.1; done"), ("b", "exec sleep 1000"))
    later = descriptor("/tmp/later", ("c", "echo later; exec sleep 1000"))
    assert tidegate("up").returncode == 0
    assert tidegate("start", flow, "--name", "flow", "--detach").returncode == 0
    with lock_held():
        victim = nested_add_hangs()
        assert eventually(lambda: state_of(victim.pid) == "D")
        # new clients, a new keeper, new nodes and their output, a restart, and all ends
        assert tidegate("start", later, "--name", "later", "--detach", timeout=20).returncode == 0
        assert tidegate("node", "restart", "flow:a", timeout=20).returncode == 0
        assert eventually(lambda: "later" in tidegate("logs", "later", quiet=True, timeout=20).stdout)
        report = json.loads(tidegate("status", "--json", quiet=True, timeout=20).stdout)
        assert {n["id"]: n["state"] for d in report["dataflows"] for n in d["nodes"]} == {"a": "running", "b": "running", "c": "running"}
        for name in ("flow", "later"):
            assert tidegate("stop", name, "--force", timeout=20).returncode in (0, 1)
        assert tidegate("down", timeout=20).returncode == 0
        # and from the beginning
        assert tidegate("up", timeout=20).returncode == 0
        assert tidegate("run", descriptor("/tmp/run", ("d", "echo done")), timeout=20).returncode == 0
        assert tidegate("down", timeout=20).returncode == 0
        assert state_of(victim.pid) == "D", "it was held all the time"
    assert victim.communicate(timeout=SLACK)[0] == "end\n"
