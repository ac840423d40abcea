# SPDX-License-Identifier: Apache-2.0
"""Clients that order at random and all at once: each order is answered in its time, and what is left is what the last accepted one asked for."""

import os
import random
import signal
import threading
import time

import pytest
from client import Client, ControlError
from conftest import eventually
from daemon import plan, program
from lives import LONG

pytestmark = pytest.mark.alone  # it loads the machine

SEED = int(os.environ.get("TIDEGATE_SEED", "20251125"))
N_CLIENTS, N_DATAFLOWS = 8, 20
N_ORDERS = 10_000 if LONG else 1000
GRACE = 0.3
TIMEOUT = 10.0  # what each order gives the daemon; and the test one second more


class Orders:
    """What was accepted, of whom, in the order in which the answers came: the last one of each name counts."""

    def __init__(self, daemon):
        self.daemon, self.lock, self.failures = daemon, threading.Lock(), []
        self.names = [f"flow{i}" for i in range(N_DATAFLOWS)]
        self.turns = {name: threading.Lock() for name in self.names}  # of one name one order is under way, so that there is a last one
        self.wanted = dict.fromkeys(self.names, "stopped")
        self.n = 0

    def failed(self, text):
        with self.lock:
            self.failures.append(text)

    def plan_of(self, name):
        return plan(program("a", "exec sleep 1000"), program("b", "exec sleep 1000"), name=name)

    def order(self, client, rng, name, what):
        """One order, accepted or refused; then what is wanted of that name."""
        begin = time.monotonic()
        timeout_ms = int(TIMEOUT * 1000)
        try:
            if what == "start":
                client.call("Start", plan=self.plan_of(name), grace_ms=int(GRACE * 1000), budget_ms=1000, timeout_ms=timeout_ms)
            elif what == "replace":
                client.call("Start", plan=self.plan_of(name), replace=True, grace_ms=int(GRACE * 1000), budget_ms=1000, timeout_ms=timeout_ms)
            elif what == "stop":
                client.call("Stop", dataflow=name, timeout_ms=timeout_ms)
            elif what == "force":
                client.call("Stop", dataflow=name, force=True, timeout_ms=timeout_ms)
            elif what == "restart":
                client.call("Restart", dataflow=name, timeout_ms=timeout_ms)
            elif what == "signal":
                client.call("SignalNode", dataflow=name, node=rng.choice("ab"), signal=int(signal.SIGURG), timeout_ms=timeout_ms)
            else:
                client.call("Status", names=[name], timeout_ms=timeout_ms)
        except ControlError as e:
            if e.error not in ("Busy", "NoSuchDataflow", "NotRunning"):
                self.failed(f"{what} {name}: {e}")
            return
        except (TimeoutError, EOFError, OSError) as e:
            self.failed(f"{what} {name}: no answer after {time.monotonic() - begin:.1f} s: {e!r}")
            return
        if what in ("start", "replace", "restart"):
            self.wanted[name] = "running"
        elif what in ("stop", "force"):
            self.wanted[name] = "stopped"

    def vanish(self, rng, name):
        """An order whose client is gone before the answer comes: accepted or not, it is followed by one that is waited for."""
        with Client(self.daemon.socket, timeout=TIMEOUT + 1) as client:
            client.send(rng.choice(["Stop", "Restart"]), more=rng.random() < 0.5, dataflow=name)
            if rng.random() < 0.3:  # half a message
                client.socket.sendall(b'{"method": "dev.tidegate.Super')
        for _ in range(2):  # connections are taken in order, and what waits in them within a turn: it was heard before what follows
            self.daemon.call("GetHealth")

    def run(self, number):
        rng = random.Random(f"{SEED} {number}")
        client = Client(self.daemon.socket, timeout=TIMEOUT + 1)
        for _ in range(N_ORDERS // N_CLIENTS):
            name = rng.choice(self.names)
            what = rng.choice(["start", "start", "replace", "stop", "force", "restart", "signal", "status", "vanish", "disconnect"])
            with self.turns[name]:
                if what == "vanish":
                    self.vanish(rng, name)
                    self.wanted[name] = None  # unless what follows says it
                    self.order(client, rng, name, "replace" if rng.random() < 0.5 else "stop")
                elif what == "disconnect":
                    client.close()
                    client = Client(self.daemon.socket, timeout=TIMEOUT + 1)
                else:
                    self.order(client, rng, name, what)
            self.n += 1
        client.close()


def test_orders_at_random_from_all_sides_leave_what_the_last_one_asked_for(daemon):
    orders = Orders(daemon)
    threads = [threading.Thread(target=orders.run, args=(i,)) for i in range(N_CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not orders.failures, f"seed {SEED}, {len(orders.failures)} failures:\n" + "\n".join(orders.failures[:20]) + daemon.output()

    def settled():
        """Nothing begins or stops any more."""
        flows = daemon.call("List", all=True)["dataflows"]
        return flows if all(f["state"] in ("running", "ended") for f in flows) else None

    flows = eventually(settled, 15)
    assert flows, [(f["name"], f["state"]) for f in daemon.call("List", all=True)["dataflows"]]
    running = {f["name"] for f in flows if f["state"] == "running"}
    assert len(running) == len([f for f in flows if f["state"] == "running"]), "of one name two live"
    wrong = {n: w for n, w in orders.wanted.items() if w is not None and (w == "running") != (n in running)}
    assert not wrong, f"seed {SEED}: wanted {wrong}, running {sorted(running)}"
    results = daemon.call("Stop", all=True, grace_ms=10000, timeout=20)["results"]  # forty at once, who need a processor to end
    assert {r["name"] for r in results} == running and all(r["success"] for r in results)
