# SPDX-License-Identifier: Apache-2.0
"""Dataflows of hostile trees under a daemon: planted, waited for until they stand, stopped, and held against the verdict.

A tree is found by the name of its processes (hTOKEN.SEED, from /proc/PID/comm), which is safe to read of a process that is stuck, and
inherited by all that it forks."""

import contextlib
import ctypes
import errno
import multiprocessing
import os
import pathlib
import random
import select
import socket
import struct
import subprocess
import time
import traceback
import uuid
import warnings
from typing import NamedTuple

from client import Client
from plain import MARK, directories_in, eventually, plan, program, unified_root

PR_SET_DUMPABLE = 4
GRACE = 0.1
LADDER = 1.5 * GRACE  # SIGKILL comes then
BUDGET = 1.7  # and this long after that the verdict: a stop returns within ladder + 2 s


class Tree(NamedTuple):
    """What a tree says of itself once it stands."""

    seed: int
    processes: int
    traits: dict


class Tracee(NamedTuple):
    """A process that somebody outside of its tree keeps from dying. how: its tracer, "exit" (SIGKILL does not end it then) or "plain"; or a file
    system, "stuck", the mount-th of the grove's. known_as: the daemon's number for it, in whose PID namespace it may have another."""

    seed: int
    pid: int
    how: str
    known_as: int
    mount: int = 0


def state_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None


def lives(pid):
    """It is not gone: a zombie is, unless another thread of it lives."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return any(state_of(f"{pid}/task/{t}") not in ("Z", "X", None) for t in threads)
    except OSError:
        return False


def is_blocked(pid):
    """It is in the open() that does not return, and not still in the write() that told of it."""
    try:
        return pathlib.Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("2", "257", "437", "56")  # open, openat and openat2 of x86-64; openat of arm64
    except OSError:
        return False


def called(path, method, parameters, seconds=40):
    """The reply. A supervisor may be replaced meanwhile, for its guard was late on a machine that is full: its successor is asked. None: the
    call had been sent, and is none that may be sent again."""
    end = time.monotonic() + seconds
    while True:
        sent = False
        try:
            with Client(path, timeout=max(1, end - time.monotonic())) as client:
                client.send(method, **parameters)
                sent = True
                return client.reply()[0]
        except (OSError, EOFError):
            if time.monotonic() > end:
                raise
            if sent and method in ("Start", "Stop"):
                return None
        time.sleep(0.02)


class Stall:
    """How long at most somebody of this priority, who wants to run every 10 ms, was not let on one of the processors: who has one for itself at a
    real-time priority leaves it to all others for 50 ms of a second, and on a machine that is full they stay there. Nothing that takes time is proved
    then. A process for each processor, for threads of ours would hold each other up."""

    def __enter__(self):
        self.watchers = [self._start(cpu) for cpu in sorted(os.sched_getaffinity(0))]
        return self

    @classmethod
    def _start(cls, cpu):
        fork = multiprocessing.get_context("fork")
        pipe, theirs = fork.Pipe()
        process = fork.Process(target=cls._look, args=(cpu, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, pipe

    @staticmethod
    def _look(cpu, pipe):
        os.sched_setaffinity(0, {cpu})
        worst, before, over = 0.0, time.monotonic(), False
        while not over:
            over = pipe.poll(0.01)
            now = time.monotonic()
            worst, before = max(worst, now - before - 0.01), now
        pipe.send(worst)

    def __exit__(self, *_):
        for _, pipe in self.watchers:
            pipe.send(None)
        self.worst = max(pipe.recv() for _, pipe in self.watchers)
        for process, pipe in self.watchers:
            process.join(10)
            pipe.close()


class Deputy:
    """A process of another user, in the mount and PID namespaces of @beside, that calls the daemon for us: who calls is looked at while it lives."""

    def __init__(self, uid, socket_path, beside):
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=self._enter, args=(beside, uid, socket_path, theirs), daemon=True)
        self.process.start()
        theirs.close()

    @classmethod
    def _enter(cls, beside, *args):
        namespaces = [os.open(f"/proc/{beside}/ns/{name}", os.O_RDONLY) for name in ("pid", "mnt")]
        for namespace in namespaces:
            assert ctypes.CDLL(None).setns(namespace, 0) == 0
            os.close(namespace)
        if child := os.fork():  # which is in the PID namespace
            os.waitpid(child, 0)
            return
        cls._work(*args)

    @staticmethod
    def _work(uid, path, pipe):
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after an exec: the daemon of that user may look at it
        while order := pipe.recv():
            try:
                pipe.send((True, called(path, *order)))
            except BaseException:
                pipe.send((False, traceback.format_exc()))

    def call(self, method, parameters):
        self.pipe.send((method, parameters))
        assert self.pipe.poll(70), f"{method}: no answer"
        done, result = self.pipe.recv()
        assert done, result
        return result

    def close(self):
        self.pipe.send(None)
        self.process.join(10)
        self.pipe.close()
        self.process.close()


class Grove:
    """The trees of one daemon. caller: the uid that orders, and whose the nodes are. depth: of the daemon's PID namespace below ours. late: the
    seconds that a machine may add even to what the daemon measures, for it is emulated. reapers: there is one in each life (docs/enforcement.md).
    mounts: in which every look for a file hangs, as HungMount is."""

    def __init__(self, daemon, program, caller=0, mark="", grace=GRACE, budget=BUDGET, depth=0, late=0, reapers=False, mounts=()):
        self.daemon, self.program, self.caller = daemon, pathlib.Path(program), caller
        self.grace, self.budget, self.depth, self.late, self.reapers = grace, budget, depth, late, reapers
        self.bound = 1.5 * grace + budget + 0.3 + late
        self.token = uuid.uuid4().hex[:6]
        self.address = f"tidegate-hostile-{uuid.uuid4().hex}"
        self.ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ears.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.ears.bind("\0" + self.address)
        self.trees, self.tracees, self.tracers, self.deputy = {}, [], [], None
        self.environment = {
            MARK: mark,
            "HOSTILE_SOCKET": self.address,
            "HOSTILE_TOKEN": self.token,
            "HOSTILE_CGROUPS": str(unified_root()),
        }
        if "HOSTILE_HOG" in os.environ:
            self.environment["HOSTILE_HOG"] = "1"
        self.mounts = mounts
        if mounts:
            self.environment["HOSTILE_STUCK"] = ":".join(str(m.anybody) for m in mounts)

    def close(self):
        self.let_go_all()
        self.ears.close()
        if self.deputy:
            self.deputy.close()
        self.remove_cgroups()

    def own_cgroups(self):
        return sorted((p for p in directories_in(unified_root()) if p.name.startswith(f"own-{self.token}-")), reverse=True)

    def remove_cgroups(self):
        """Those that trees have made where no dataflow has a cgroup: nobody else does."""
        def removed():
            for path in self.own_cgroups():
                with contextlib.suppress(OSError):  # for a moment after its last process it is busy
                    path.rmdir()
            return not self.own_cgroups()

        assert eventually(removed, 5), self.own_cgroups()

    def call(self, method, **parameters):
        if self.caller == os.geteuid() and not self.depth:
            return called(self.daemon.socket, method, parameters)
        if not self.deputy:
            self.deputy = Deputy(self.caller, self.daemon.socket, self.daemon.guard_pid())
        return self.deputy.call(method, parameters)

    # Before

    def plant(self, name, seeds, *traits, **keys):
        """A dataflow whose nodes are these trees."""
        # Else root's could make no cgroups of their own, which some kinds do.
        nodes = [program(f"t{seed}", "", argv=[str(self.program), str(seed), *traits], **{"cgroup_writable": True, **keys}) for seed in seeds]
        environment = [f"{k}={v}" for k, v in self.environment.items()]
        self.call("Start", plan=plan(*nodes, name=name), environment=environment, grace_ms=int(self.grace * 1000), budget_ms=int(self.budget * 1000))

    def hear(self, seconds):
        """One report; its sender's pid is ours to see, also from another PID namespace. False after that time."""
        if not select.select([self.ears], [], [], max(0, seconds))[0]:
            return False
        data, ancillary, _, _ = self.ears.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
        pid = struct.unpack("3i", ancillary[0][2])[0]
        what, seed, *rest = data.decode().split()
        if what == "stands":
            traits = dict(word.split(":") for word in rest[1:])
            self.trees[int(seed)] = Tree(int(seed), int(rest[0]), {k: int(v) for k, v in traits.items()})
        else:
            self.tracees.append(Tracee(int(seed), pid, rest[0], numbers_of(pid)[self.depth], *map(int, rest[1:])))
        return True

    def until_stands(self, seeds, seconds=60):
        end = time.monotonic() + seconds
        missing = set(seeds)
        while missing := missing - self.trees.keys():
            assert self.hear(end - time.monotonic()), f"not grown after {seconds} s: {sorted(missing)}\n{self.daemon.output()}"
        return [self.trees[seed] for seed in seeds]

    def trace(self, tracees=None):
        """Tracers outside of every dataflow, one for each kind."""
        for how in ("exit", "plain"):
            pids = [str(t.pid) for t in (self.tracees if tracees is None else tracees) if t.how == how]
            if pids:
                tracer = subprocess.Popen([self.program, "--trace", how, *pids], stdout=subprocess.PIPE, text=True)
                self.tracers.append(tracer)
                assert tracer.stdout.readline() == "ready\n"

    def until_stuck(self, seeds, seconds=20):
        """Those of these trees who look for a file where nobody answers do so."""
        stuck = [t for t in self.tracees if t.how == "stuck" and t.seed in seeds]
        for i, mount in enumerate(self.mounts):
            mount.until_asked(sum(t.mount == i for t in stuck))
        assert eventually(lambda: all(is_blocked(t.pid) for t in stuck), seconds), [(t, state_of(t.pid)) for t in stuck]

    def let_go_all(self):
        """The tracers die, and file systems answer: who could not be killed ends now."""
        for i, mount in enumerate(self.mounts):
            if any((t.how, t.mount) == ("stuck", i) for t in self.tracees):
                mount.let_go()
        for tracer in self.tracers:
            tracer.kill()
            tracer.wait(10)
            tracer.stdout.close()
        self.tracers = []

    def cgroup_of(self, seed):
        """Of the living incarnation."""
        return next((p for p in directories_in(self.daemon.home) if p.match(f"t{seed}.[0-9]*")), None)

    def freeze(self, seed):
        """Where there is a cgroup, and as long as there is: a tree at a limit may end."""
        if cgroup := self.cgroup_of(seed):
            try:
                (cgroup / "cgroup.freeze").write_text("1")
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ENODEV):
                    raise

    def forget(self):
        """What was planted: it has gone, and may be planted again."""
        self.let_go_all()
        self.trees, self.tracees = {}, []

    # After

    def living(self):
        """{pid: seed} of every process of these trees, wherever it went."""
        found = {}
        for proc in os.listdir("/proc"):
            if not proc.isdigit():
                continue
            with contextlib.suppress(OSError):
                name = pathlib.Path(f"/proc/{proc}/comm").read_text().strip()
                if name.startswith(f"h{self.token}.") and lives(proc):
                    found[int(proc)] = int(name.partition(".")[2])
        return found

    def cgroups(self):
        """Those of trees: relative paths."""
        return [str(p.relative_to(self.daemon.home)) for p in directories_in(self.daemon.home) if p.match("t[0-9]*.[0-9]*")]

    def quarantined(self):
        """The seeds of trees that the daemon still waits for."""
        flows = self.call("Status")["dataflows"]
        return [int(n["id"][1:]) for d in flows for n in d["nodes"] if n["quarantined"]]

    def stop(self, **parameters):
        """Results by name, and the seconds that it took."""
        begin = time.monotonic()
        reply = self.call("Stop", timeout_ms=30_000, **(parameters or {"all": True}))
        results = reply["results"] if reply else self.results()
        return {r["name"]: r for r in results}, time.monotonic() - begin

    def results(self):
        """Of stops whose supervisor did not live to tell: as far as its successor's status says them."""
        flows = eventually(lambda: (f := self.call("Status")["dataflows"]) and all(d["state"] == "ended" for d in f) and f, 30)
        assert flows, f"the stop does not end\n{self.daemon.output()}"
        return [{"name": d["name"], "nodes": d["nodes"], "left": sum(n["n_tasks"] for n in d["nodes"] if "left" in n), "stop_ms": 0} for d in flows]

    def misses(self, results, seconds, slack):
        """What is not as it was promised: one text each, none when all is well."""
        found = []
        # Without a cgroup that life is over which has nobody left to be waited for, and for a tracee its tracer has to wait first.
        held = ("exit", "plain", "stuck") if self.reapers else ("exit", "stuck")
        unkillable = {t.pid: t for t in self.tracees if t.how in held and any(t.seed in seeds_of(r) for r in results.values())}
        if seconds > self.bound + slack:
            found.append(f"the stop returned after {seconds:.2f} s")
        living = self.living()
        for pid in sorted(living.keys() - unkillable.keys()):
            found.append(f"tree {living[pid]}: process {pid} lives, state {state_of(pid)}")
        for name, r in results.items():
            mine = [t for t in unkillable.values() if t.seed in seeds_of(r)]
            if r["stop_ms"] / 1000 > self.bound:
                found.append(f"{name}: its stop took {r['stop_ms']} ms")
            living_left = sum(t.how != "plain" for t in mine)  # a dead one counts only where nobody else is left
            if not living_left <= r["left"] <= len(mine):
                found.append(f"{name}: {r['left']} left, and {mine} cannot be killed: {[n.get('left') for n in r['nodes'] if n.get('left')]}")
            for node in r["nodes"]:
                found += self.wrong_verdict(node, [t for t in mine if t.seed == int(node["id"][1:])])
        return found

    def wrong_verdict(self, node, held):
        """Of a tree whose processes @held cannot end: it has to name each of them, why, and nobody else."""
        if self.depth:  # whom somebody outside of its namespace traces the daemon cannot tell: of a dead one alone is told
            held = [t for t in held if t.how != "plain"] or held
        expected = {t.known_as: "unkillable-uninterruptible" if t.how == "stuck" else "unkillable-traced" for t in held}
        may_be_named = {t.known_as for t in self.tracees if t.seed == int(node["id"][1:])}
        named = {task["pid"]: task["verdict"] for task in node.get("tasks") or []}
        text = node.get("left") or ""
        right = bool(text) == bool(expected) and all(str(pid) in text for pid in expected)
        if "tasks" in node or not expected:  # else a supervisor that came later has the text alone
            right = right and expected.items() <= named.items() and named.keys() <= may_be_named and bool(expected) == (node.get("verdict") not in ("empty", "killed", None))
        return [] if right else [f"tree {node['id'][1:]}: the verdict is {node.get('verdict')} {text!r} {named}, and {expected} cannot be killed"]


def seeds_of(result):
    return {int(node["id"][1:]) for node in result["nodes"]}


def numbers_of(pid):
    """Its numbers, from our PID namespace inwards."""
    line = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:"))
    return [int(n) for n in line.split()[1:]]


def gone(grove, seconds=5):
    """Nobody lives any more, no cgroup of a tree is there, and nobody is waited for."""
    return eventually(lambda: not grove.living() and not grove.cgroups() and not grove.quarantined(), seconds)


# Forests: many random trees at one time

PER_FLOW = 10


def grow(grove, seeds, **keys):
    """Until all stand, some traced from outside, some frozen."""
    for i in range(0, len(seeds), PER_FLOW):
        grove.plant(f"f{seeds[i]}", seeds[i : i + PER_FLOW], **keys)
    grove.until_stands(seeds)
    grove.trace([t for t in grove.tracees if t.seed in seeds])
    grove.until_stuck(seeds)
    for seed in seeds:
        if is_frozen(seed):
            grove.freeze(seed)


def is_frozen(seed):
    return random.Random(seed).random() < 0.1


def fell(grove, slack):
    """All are stopped at once. Returns what is not as promised, and how long the machine stood still. Who was traced from outside is let go then,
    after which nothing may be left of anybody."""
    with Stall() as stall:
        results, seconds = grove.stop()
    found = grove.misses(results, seconds, slack)
    grove.let_go_all()
    return found + ([] if gone(grove) else [f"left behind: {grove.living()} {grove.cgroups()}, waited for: {grove.quarantined()}"]), stall.worst


def forest(grove, seeds, slack, check=lambda: None, **keys):
    """Grown, checked and felled; what is not as promised. Where a machine let nobody run, or is emulated, it proves nothing about time: then once more,
    unless somebody survived."""
    for again in range(4):
        grow(grove, seeds, **keys)
        check()
        found, stall = fell(grove, slack)
        if not found or (stall < 0.3 and not grove.late) or again == 3 or not gone(grove):
            return found
        warnings.warn(f"once more, for nobody else was let run on a processor for {stall:.1f} s: {found[0]}", stacklevel=2)
        grove.call("Clean")
        grove.forget()
