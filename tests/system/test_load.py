# SPDX-License-Identifier: Apache-2.0
"""
The daemon under load: many nodes that burn CPU, clients that ask without a pause, and beside them a dataflow on a file system that
hangs and one on a disk that is full. Each figure has its goal and, where the machine has a part in it, an anchor: the same done without
Tidegate, on the same machine, at the same time. The table is printed at the end (pytest -s). `scripts/test --long` takes all of 1 000 nodes.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import time

import pytest
from conftest import eventually
from daemon import plan, program
from hungmount import HungMount
from lives import LONG, children_of, status_field

pytestmark = [pytest.mark.alone, pytest.mark.measures]

N_FLOWS, N_NODES = (50, 1000) if LONG else (15, 300)
LOAD_SECONDS = 10 if LONG else 4
N_CLIENTS = 8
GOAL_MEMORY = (8 << 20) + (16 << 10) * N_NODES


class Figures:
    """Rows of the table; each is held against its goal when the test ends, so that all are seen."""

    def __init__(self):
        self.rows = []
        self.missed = []

    def add(self, what, got, unit, goal=None, anchor=None, allowed=None):
        """@allowed: what is accepted for want of a machine of our own; else the goal."""
        self.rows.append((what, goal, got, anchor, unit))
        if goal is not None and got > max(goal, allowed or 0):
            self.missed.append(f"{what}: {got:.3f} {unit}, goal {goal:g}, anchor {anchor}")

    def table(self):
        def cell(x):
            return "" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x)

        lines = ["| what | goal | got | anchor | unit |", "|---|---|---|---|---|"]
        return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in self.rows])


@pytest.fixture(scope="module")
def table():
    figures = Figures()
    yield figures
    print(f"\n{N_NODES} nodes in {N_FLOWS} dataflows, {N_CLIENTS} clients, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n{figures.table()}")


@pytest.fixture
def figures(table):
    begin = len(table.missed)
    yield table
    assert table.missed[begin:] == []


@pytest.fixture(scope="module")
def load(build):
    """Path of the program that measures."""
    path = build / "tests/system/load"
    assert path.exists()
    return path


def run(load, *args, calls=()):
    text = "".join(json.dumps(call) + "\n" for call in calls)
    return subprocess.run([load, *map(str, args)], input=text, text=True, timeout=120, check=True, capture_output=True).stdout


def begin(load, *args, calls=()):
    process = subprocess.Popen([load, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for call in calls:
        process.stdin.write(json.dumps(call) + "\n")
    process.stdin.close()
    return process


def finish(process, seconds=60):
    try:
        out = process.stdout.read() if process.wait(seconds) == 0 else None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        process.stdout.close()
    assert out is not None, f"status {process.returncode}"
    return out


def message(method, more=False, **parameters):
    return {"method": f"dev.tidegate.Supervisor.{method}", "parameters": parameters, **({"more": True} if more else {})}


def node(id, *argv, **keys):
    return program(id, "", **{"argv": [str(a) for a in argv], **keys})


def always():
    return {"policy": "always", "max_restarts": 0, "delay_ns": 0, "max_delay_ns": 0, "window_ns": 0}


def linked(build, i):
    """Two nodes and a link."""
    at = build / "tests/system"
    source = {"node": f"beat-{i}", "output": "out"}
    link = {"id": "in", "line": 1, "source": source, "queue_size": 10, "queue_policy": "drop_oldest", "input_timeout_ns": 0}
    return (
        node(f"beat-{i}", at / "beat", 10000, kind="node", outputs=["out"]),
        node(f"hear-{i}", at / "hear", kind="node", inputs=[link], stuck_timeout_ns=30 * 10**9),
    )


# ---- the neighbours


@pytest.fixture
def neighbours(build, tmp_path):
    """A mount namespace with a file system that hangs and one that is full; None where that cannot be made."""
    hungfs = build / "tests/supervisor/hungfs"
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK) or not hungfs.exists():
        yield None
        return
    mount = HungMount(hungfs, tmp_path / "hung")
    mount.full = tmp_path / "full"
    mount.full.mkdir()
    inside = f"mount -t tmpfs -o size=64k none {mount.full} && mkdir {mount.full}/out && ! cat /dev/zero > {mount.full}/filler 2>&1"
    subprocess.run([*mount.prefix(), "sh", "-c", inside], check=True, timeout=10)
    yield mount
    if mount.server.poll() is None:
        mount.end()


def start_neighbours(daemon, neighbours, load):
    """They stand beside the load all the while: one that never gets beyond execve, one whose log has no room."""
    hung = plan(node("stuck", neighbours.path / "program", startup_timeout_ns=300 * 10**9), name="hung")
    full = plan(node("chatter", load, "chatter", 20), name="full")
    daemon.call("Start", plan=hung, grace_ms=200, budget_ms=500)
    daemon.call("Start", plan=full, log_dir=str(neighbours.full / "out"))
    neighbours.until_asked()
    daemon.call("Wait", dataflow="full", state="running")


# ---- figures of processes


def memory(pid):
    """Resident bytes, and those of them that nobody shares."""
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    return fields["Rss"], fields["Private_Clean"] + fields["Private_Dirty"]


def wake_ups(pids):
    """Who wakes up had gone to sleep before. Being preempted by others is not counted."""
    return sum(int(status_field(p, "voluntary_ctxt_switches")) for p in pids)


def parts(daemon):
    """Guard, supervisor, keepers and loggers; no nodes."""
    guard = daemon.process.pid
    found = [guard, *children_of(guard)]
    loggers = [c for p in found[1:] for c in children_of(p) if b"tidegate" in pathlib.Path(f"/proc/{c}/comm").read_bytes()]
    return found + loggers


# ---- tests


def test_many_nodes_and_clients(start_daemon, build, load, neighbours, figures, tmp_path):
    gate = tmp_path / "gate"
    gate.write_bytes(bytes(4096))
    daemon = start_daemon(prefix=neighbours.prefix() if neighbours else ())
    before = memory(daemon.supervisor())
    if neighbours:
        start_neighbours(daemon, neighbours, load)
    environment = [f"{k}={v}" for k, v in os.environ.items()]
    began = time.monotonic()
    with daemon.client(timeout=120) as client:
        for i in range(N_FLOWS):
            nodes = [pair for k in range(4) for pair in linked(build, k)] if i < 4 else []
            nodes += [node(f"burn-{k}", load, "burn", gate) for k in range(N_NODES // N_FLOWS - len(nodes))]
            client.call("Start", plan=plan(*nodes, name=f"flow-{i}"), environment=environment, grace_ms=500, budget_ms=5000)
        for i in range(N_FLOWS):
            client.call("Wait", dataflow=f"flow-{i}", state="running", timeout_ms=60000)
    figures.add(f"{N_NODES} nodes ready, all asked for at once", (time.monotonic() - began) * 1e3, "ms")
    rss, own = memory(daemon.supervisor())
    figures.add("supervisor's memory", rss / 1024, "KiB", goal=GOAL_MEMORY // 1024)
    figures.add("... a node", (rss - before[0]) / 1024 / N_NODES, "KiB")

    mixed = [message("GetHealth"), message("List"), *(message("Status", names=[f"flow-{i}"]) for i in range(8))]
    calls = [*mixed, *mixed, *mixed[:-1], message("Status")]
    request_figures(daemon, load, figures, mixed, calls, "nodes sleep", LOAD_SECONDS / 2)
    run(load, "gate", gate, 1)
    try:
        anchor = request_figures(daemon, load, figures, mixed, calls, "all burn CPU", LOAD_SECONDS)
        health = daemon.call("GetHealth")["health"]
        restart_figures(daemon, load, figures, tmp_path, " while all burn CPU", 5)
    finally:
        run(load, "gate", gate, 0)
    figures.add("loop lag since the daemon began, p99.9", health["lag_p999_us"] / 1e3, "ms", goal=20, anchor=anchor["p999"], allowed=anchor["p999"] * 10)
    figures.add("loop lag since the daemon began, longest", health["lag_max_us"] / 1e3, "ms", anchor=anchor["max"])

    if neighbours:
        assert daemon.status("hung")["state"] == "starting"
        assert daemon.status("full")["state"] == "running"
        neighbours.end()
    for i in range(N_FLOWS):
        assert daemon.status(f"flow-{i}")["n_running"] == N_NODES // N_FLOWS, i
    began = time.monotonic()
    daemon.call("Stop", all=True, force=True, timeout=60)
    figures.add("stop of all by force", (time.monotonic() - began) * 1e3, "ms")


def request_figures(daemon, load, figures, mixed, calls, when, seconds):
    """Eight ordinary clients flood, another asks now and then and is looked at; the kernel's own way there and back beside it."""
    flood = begin(load, "flood", daemon.socket, N_CLIENTS, seconds, calls=calls)
    probe = begin(load, "probe", daemon.socket, seconds - 0.5, 3000, calls=mixed)
    ping = begin(load, "pingpong", seconds - 0.5, 3000)
    asked, anchor = json.loads(finish(probe)), json.loads(finish(ping))
    answered = sum(int(n) for n in finish(flood).split())
    figures.add(f"{when}: calls answered to {N_CLIENTS} clients", answered / seconds, "/s")
    figures.add(f"{when}: control request, p50", asked["p50"], "ms", anchor=anchor["p50"])
    figures.add(f"{when}: control request, p99", asked["p99"], "ms", goal=50, anchor=anchor["p99"], allowed=anchor["p99"] * 20)
    figures.add(f"{when}: control request, longest", asked["max"], "ms", anchor=anchor["max"])
    assert asked["n"] > 100 and answered > 50
    return anchor


def restart_figures(daemon, load, figures, tmp_path, when, n, goal=None):
    """A node that crashes and may begin again at once: from its death to the first instruction of the next one."""
    path = tmp_path / "hello"
    anchor = json.loads(run(load, "spawns", path, n, load))
    driver = begin(load, "restarts", path, n)
    assert driver.stdout.readline() == "ready\n"
    daemon.call("Start", plan=plan(node("crash", load, "hello", path, restart=always()), name="crash"), grace_ms=500)
    got = json.loads(finish(driver))
    daemon.call("Stop", dataflow="crash", force=True)
    figures.add(f"restart of a crashed node{when}, p50", got["p50"], "ms", goal=goal, anchor=anchor["p50"], allowed=anchor["p50"] * 10)
    figures.add(f"restart of a crashed node{when}, longest", got["max"], "ms", anchor=anchor["max"])


def test_restart(daemon, load, figures, tmp_path):
    restart_figures(daemon, load, figures, tmp_path, "", 50, goal=10)


def ready_ms(daemon, load, name, *nodes):
    """The best of three, for the neighbours have a part in each."""
    times = []
    for i in range(3):
        out = run(load, "call", daemon.socket, calls=[message("Start", more=True, plan=plan(*nodes, name=f"{name}-{i}"), grace_ms=500)])
        elapsed, _, reply = out.partition(" ")
        assert json.loads(reply.rstrip("\0\n"))["parameters"]["state"] == "running", reply
        times.append(float(elapsed))
        daemon.call("Stop", dataflow=f"{name}-{i}", force=True)
    return min(times)


def test_hundred_nodes(daemon, build, load, figures, tmp_path):
    gate = tmp_path / "gate"
    gate.write_bytes(bytes(4096))
    anchor = min(float(run(load, "spawn", 100, load, "burn", gate)) for _ in range(3))
    got = ready_ms(daemon, load, "programs", *(node(f"n-{i}", load, "burn", gate) for i in range(100)))
    figures.add("100 programs ready", got, "ms", goal=500, anchor=anchor, allowed=anchor * 5)
    got = ready_ms(daemon, load, "linked", *(n for i in range(50) for n in linked(build, i)))
    anchor = min(float(run(load, "spawn", 100, build / "tests/system/hear")) for _ in range(3))
    figures.add("100 nodes ready, 50 links", got, "ms", goal=500, anchor=anchor, allowed=anchor * 5)


def test_priorities(daemon, load, tmp_path):
    """Who decides and enforces goes before everybody and is killed for memory last; who works for one dataflow is as everybody."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    daemon.call("Start", plan=plan(node("n", load, "chatter", 1000), name="one"), log_dir=str(tmp_path))
    daemon.call("Wait", dataflow="one", state="running")
    pids = {"guard": daemon.process.pid, "supervisor": daemon.supervisor(), "node": daemon.status("one")["nodes"][0]["pid"]}
    for pid in parts(daemon):
        comm = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        if comm in ("tidegate-keeper", "tidegate-logger"):
            pids[comm.removeprefix("tidegate-")] = pid
    scores = {who: int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text()) for who, pid in pids.items()}
    policies = {who: os.sched_getscheduler(pid) for who, pid in pids.items()}
    ours = -1000 if may_lower_oom_score() else 0
    assert scores == {"guard": ours, "supervisor": ours, "keeper": ours, "logger": 0, "node": 0}
    ours = os.SCHED_RR if may_be_prompt() else os.SCHED_OTHER
    assert policies == {"guard": ours, "supervisor": ours, **dict.fromkeys(("keeper", "logger", "node"), os.SCHED_OTHER)}
    assert all(int(status_field(pids[who], "VmLck").split()[0]) > 1000 for who in ("guard", "supervisor")), "its program is in memory"


def may_lower_oom_score():
    return subprocess.run(["sh", "-c", "echo -1000 >/proc/self/oom_score_adj"], stderr=subprocess.DEVNULL).returncode == 0


def may_be_prompt():
    return subprocess.run(["chrt", "-r", "2", "true"], stderr=subprocess.DEVNULL).returncode == 0


def test_idle(start_daemon, load, figures, tmp_path):
    """Nobody wakes up while nothing happens, whether nodes sleep beside or not; a watchdog's question wakes both of its ends once."""
    seconds = 10 if LONG else 3
    gate = tmp_path / "gate"
    gate.write_bytes(bytes(4096))
    for watchdog, nodes in (("0", 0), ("0", 10), ("3s", 10)):
        daemon = start_daemon("--watchdog", watchdog)
        if nodes:
            daemon.call("Start", plan=plan(*(node(f"n-{i}", load, "burn", gate) for i in range(nodes)), name="sleeping"))
            daemon.call("Wait", dataflow="sleeping", state="running")
        assert eventually(lambda: still(daemon), 10)
        pids = parts(daemon)
        began, before = time.monotonic(), wake_ups(pids)
        time.sleep(seconds)
        woken = wake_ups(pids) - before
        # One question a second: the guard wakes for its timer and for the answer, the supervisor once.
        pings = 3 * (int(time.monotonic() - began) + 1) if watchdog != "0" else 0
        figures.add(f"wake-ups in {seconds} s, {nodes} nodes sleep, watchdog {watchdog}", woken, "", goal=pings)
        daemon.end()


def still(daemon):
    """What the start brought about is over."""
    before = wake_ups(parts(daemon))
    time.sleep(0.3)
    return wake_ups(parts(daemon)) == before
