# SPDX-License-Identifier: Apache-2.0
"""One call of guard, supervisor or keeper fails, or is its process's last: a session of starts, restarts and stops ends as it should all the same.

Each point is ROLE:WHAT:HOW:N (fault/fault.c). One is repeated by

    TIDEGATE_FAULT_POINTS=supervisor:calls:before:217 pytest tests/system/test_fault.py -k session

Without that: 60 of them, chosen by TIDEGATE_SEED; with --long 500, evenly over all that a session makes. TIDEGATE_FAULT_POINTS may also be how many.
"""

import concurrent.futures
import itertools
import os
import pathlib
import random
import signal
import struct
import subprocess
import tempfile
import time

import pytest
from client import Client, ControlError
from conftest import MARK, eventually, marked_processes
from daemon import plan, program
from lives import LONG, Process, stat_of
from survive import Seen, Survivor, appends, lines, node, restarting

pytestmark = pytest.mark.alone  # it loads the machine

SEED = int(os.environ.get("TIDEGATE_SEED", "20251125"))
POINTS = os.environ.get("TIDEGATE_FAULT_POINTS", "500" if LONG else "60")
AT_A_TIME = 8
GRACE, BUDGET = 0.6, 1.0
STOP = 1.5 * GRACE + BUDGET + 0.1  # and what the machine adds
SLACK = 4.0
NUMBERS = itertools.count()
FILE = struct.Struct("=QQIii32s")


class Shared:
    """What the shim has counted, and where it struck."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(FILE.size))

    def read(self):
        return FILE.unpack(self.path.read_bytes())

    def counts(self):
        return dict(zip(("calls", "memory"), self.read()[:2]))

    def fired(self):
        _, _, fired, pid, error, name = self.read()
        return f"{name.rstrip(bytes(1)).decode()} of process {pid} ({os.strerror(error)})" if fired else None


class Session:
    """
    Three dataflows are started, one is restarted, one stopped, a node restarted, all stopped, the daemon ended. Two processes that were started by
    hand take places in them: one is captured, and is to end with its dataflow; the other is not, and nobody may end it.
    """

    def __init__(self, build, env, home, directory, point):
        directory.mkdir()
        home.mkdir()
        self.build, self.home, self.directory, self.point = build, home, directory, point
        self.mark = f"{env[MARK]}-{directory.name}"
        self.shared = Shared(directory / "shared")
        preload = [build / "tests/system/libfault.so"]
        self.env = {
            **env,
            MARK: self.mark,
            "LD_PRELOAD": ":".join(map(str, preload)),
            "TIDEGATE_FAULT": f"{self.shared.path}:{point}",
        }
        self.once, self.crashes = directory / "once", directory / "crashes"
        self.seen = Seen(directory / "seen")
        self.hands = {}
        self.troubles = []
        self.log = ""

    def trouble(self, text):
        self.troubles.append(text)

    def check(self, condition, text):
        if not condition:
            self.trouble(text)
        return condition

    # The daemon: once it has come up it has to live. Its first processes may die of what is done to them.

    def begin(self):
        command = [self.build / "bin/tidegated", "--grace-duration", f"{GRACE}s", "--watchdog", "2s"]
        self.daemon = Survivor(command, self.env, self.directory, self.home, self.mark)
        if not self.answers(8):
            status = self.daemon.process.poll()
            said = self.daemon.output().strip()
            self.check(status is not None, "it neither came up nor ended")
            self.check(status is None or status < 0 or said, "it ended without a word")
            if status is not None and status > 0:
                left = {k: v for k, v in self.daemon.left(self.mark).items() if v and v != ["tidegated.log"]}
                self.check(not left, f"it could not begin, and left {left}")
            self.again()

    def answers(self, seconds):
        def ask():
            try:
                return self.daemon.health()
            except (OSError, EOFError, ControlError, AssertionError):  # without memory an answer may lack something
                return None

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.daemon.process.poll() is None or (self.daemon.guard_pid() and time.monotonic() < deadline):
            if ask():
                return True
            time.sleep(0.01)
        return bool(ask())

    def again(self):
        """As a service manager would."""
        self.log += self.daemon.output()
        self.daemon.process.kill() if self.daemon.process.poll() is None else None
        self.daemon.process.wait(10)
        self.daemon.env = {k: v for k, v in self.env.items() if k not in ("LD_PRELOAD", "TIDEGATE_FAULT")}
        self.daemon.again()
        self.check(self.answers(10), "a second daemon did not come up")

    def call(self, method, seconds=10, **parameters):
        """The answer, the error, or None. Asked again when nobody answered; what then says Busy had been accepted."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with Client(self.daemon.socket, timeout=max(0.3, deadline - time.monotonic())) as client:
                    return client.call(method, **parameters)
            except ControlError as e:
                return e
            except TimeoutError:
                self.trouble(f"{method} was not answered within {seconds} s")
                return None
            except (OSError, EOFError) as e:
                if time.monotonic() > deadline:
                    self.trouble(f"nobody answered {method} within {seconds} s: {e!r}")
                    return None
                if self.daemon.guard_pid() is None and not eventually(self.daemon.guard_pid, 3):
                    self.again()
                time.sleep(0.01)

    def start(self, plan):
        for _ in range(3):  # one of them may be the one that fails
            answer = self.call("Start", plan=plan, environment=self.environment(), grace_ms=int(GRACE * 1000), budget_ms=int(BUDGET * 1000))
            if not isinstance(answer, ControlError) or answer.error == "Busy":
                return
        self.trouble(f"Start of {plan['name']}: {answer}")

    def environment(self):
        return [f"{k}={self.env[k]}" for k in ("PATH", "LD_LIBRARY_PATH", MARK) if k in self.env]

    def hold(self, id):
        """A process that takes this place, and tries again while it is refused: the daemon may just be dying."""
        env = {**{k: self.env[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in self.env}, MARK: self.mark, "TIDEGATE_RUNTIME_DIR": str(self.daemon.runtime)}
        with open(self.directory / f"{id}.log", "w") as log:
            self.hands[id] = subprocess.Popen([self.build / "tests/system/hold", id, "30"], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def takes_part(self, id):
        """It does; or its dataflow ends, for its start may be what has failed."""
        flows = [d for d in self.dataflows() if d["name"] == "stream"]
        return any(d["state"] not in ("beginning", "starting", "running") for d in flows) or any(
            n["id"] == id and n["state"] == "running" for d in flows for n in d["nodes"]
        )

    def dataflows(self):
        answer = self.call("Status")
        return answer["dataflows"] if isinstance(answer, dict) else []

    def stop(self, **whom):
        """Ends by its deadline, whatever it says."""
        begin = time.monotonic()
        answer = self.call("Stop", seconds=STOP + SLACK, **whom)
        if isinstance(answer, ControlError) and answer.error == "QuotaExceeded":  # refused with a word: nobody was stopped
            begin = time.monotonic()
            answer = self.call("Stop", seconds=STOP + SLACK, **whom)
        seconds = time.monotonic() - begin
        self.check(seconds <= STOP + SLACK, f"Stop of {whom} took {seconds:.1f} s: {answer}")
        return answer

    def run(self):
        self.begin()
        nodes = self.build / "tests/system"
        self.start(plan(program("steady", "exec sleep 1000"), program("once", appends(self.once)), name="programs"))
        self.start(plan(
            node("count", [nodes / "count"], outputs=["out"]),
            node("check", [nodes / "check", self.seen.file, 1000], inputs=[("in", "count", "out")]),
            dynamic("held", True),
            dynamic("loose", False),
            name="stream",
        ))  # fmt: skip
        self.start(plan(program("crash", appends(self.crashes, "exit 3"), restart=restarting(delay=0.05, max_delay=0.1)), name="loop"))
        eventually(lambda: self.seen.messages() > 0 and lines(self.crashes) > 1, 2)
        for id in "held", "loose":
            self.hold(id)
        for id in "held", "loose":
            self.check(eventually(lambda: self.takes_part(id), 10), f"nobody has become {id}")  # noqa: B023
        there = any(d["name"] == "stream" and d["state"] == "running" for d in self.dataflows())
        self.call("Restart", dataflow="programs")
        self.call("RestartNode", dataflow="stream", node="check", seconds=STOP + SLACK)
        answer = self.stop(dataflow="stream")
        living = [d for d in self.dataflows() if d["state"] != "ended" and d["name"] == "stream"]
        self.check(not living, f"stopped, and still there: {[(d['name'], d['state']) for d in living]}: Stop said {answer}")
        self.check(not there or eventually(lambda: self.hands["held"].poll() is not None, 1), "a captured process outlives the stop of its dataflow")
        self.check(self.hands["loose"].poll() is None, "a process that was not captured has ended")
        self.let_go()
        self.stop(all=True)
        self.look()
        self.end()

    def let_go(self):
        for process in self.hands.values():
            process.kill()
            process.wait(10)

    # Afterwards

    def look(self):
        def ask(method, **parameters):
            """Twice: the fault may be that there is no memory for the whole of one answer."""
            answers = [self.call(method, **parameters) for _ in range(2)]
            return max((a["dataflows"] for a in answers if isinstance(a, dict)), key=lambda a: (len(a), sum(len(d["nodes"]) for d in a)), default=[])

        flows = ask("List", all=True)
        uuids = [d["uuid"] for d in flows]
        all_nodes = []
        for d in flows:
            all_nodes += [(d["name"], n) for x in ask("Status", names=[d["uuid"]]) for n in x["nodes"]]
        self.check(all(d["state"] == "ended" for d in flows), f"not all have ended: {[(d['name'], d['state']) for d in flows]}")
        self.check(all(d.get("result") != "left" for d in flows), "somebody is said to be left")
        self.check(len(uuids) >= 3, f"{len(uuids)} dataflows are known")
        for file, name in [(self.once, "once"), (self.crashes, "crash")]:
            began = sum(n["generation"] for _, n in all_nodes if n["id"] == name)
            self.check(lines(file) <= began, f"{name} ran {lines(file)} times in {began} lives")
        lives = sum(n["generation"] for _, n in all_nodes if n["id"] in ("check", "count"))
        self.check(self.seen.wrong() <= lives, f"{self.seen.wrong()} numbers were not the next one")  # a life may end in the middle of one
        nodes = {p: c for p, c in marked_processes(self.mark).items() if "tidegated" not in c}
        self.check(not nodes, f"nodes run on: {nodes}")
        for adopted, lost, duplicated, ms in self.daemon.adoptions():
            self.check(duplicated == 0, f"{duplicated} duplicated")
            self.check(lost <= 1, f"{lost} lost")

    def end(self):
        pid = self.daemon.guard_pid()
        if self.check(pid, "there is no guard at the end"):
            try:
                guard = Process(pid)
                guard.send(signal.SIGTERM)
                guard.close()
            except ProcessLookupError:
                pass
            ended = eventually(lambda: (s := stat_of(pid)) is None or s[0] == "Z", STOP + SLACK + 3)
            while (heir := eventually(self.daemon.guard_pid, 0.5)) and heir != pid:  # the one that was told died of it
                pid = heir
                self.daemon.send_to(pid, signal.SIGTERM)
                ended = eventually(lambda: (s := stat_of(pid)) is None or s[0] == "Z", STOP + SLACK + 3)
            self.check(ended, "it did not end")
        try:
            status = self.daemon.process.wait(1)
            self.check(status >= 0 or "guard" in self.point or not self.shared.fired(), f"status {status}")
        except subprocess.TimeoutExpired:
            pass
        eventually(lambda: not any(self.daemon.left(self.mark).values()), 3)
        if self.daemon.left(self.mark)["files"] and not self.daemon.parts("guard") and self.shared.fired() and "guard:calls:" in self.point:
            self.again()  # the guard was killed when it removed its last files: the next daemon's end takes them along
            self.daemon.end()
        self.check("do not add up" not in self.log + self.daemon.log.read_text(errors="replace"), "counters do not add up")
        left = {k: v for k, v in self.daemon.left(self.mark).items() if v}
        self.check(not left, f"it left {left}")

    def sweep(self):
        self.let_go()
        for pid in marked_processes(self.mark):
            self.daemon.send_to(pid, signal.SIGKILL)
        self.daemon.process.kill() if self.daemon.process.poll() is None else None
        self.daemon.process.wait(10)
        for p in sorted((p for p in self.home.rglob("*") if p.is_dir()), reverse=True):
            eventually(lambda: not remove(p), 2)
        eventually(lambda: not remove(self.home), 2)


def dynamic(id, capture):
    return {**program(id, ""), "kind": "dynamic", "argv": [], "capture": capture}


def remove(path):
    try:
        path.rmdir()
    except FileNotFoundError:
        return None
    except OSError as e:
        return e


def play(build, env, home, directory, point):
    """(point, where it struck or None, what went wrong, log)."""
    name = f"{point.replace(':', '-')}-{next(NUMBERS)}"
    session = Session(build, env, home / name, directory / name, point)
    try:
        session.run()
    except Exception as e:  # noqa: BLE001 - it goes into the report of its point
        session.trouble(f"{type(e).__name__}: {e}")
    finally:
        session.sweep()
    return session


@pytest.fixture
def sessions(build, node_environment, traces, home, sanitizer):
    if sanitizer:
        pytest.skip("the sanitizer has an allocator of its own")
    assert (build / "tests/system/libfault.so").exists()
    env = {**node_environment, MARK: traces.mark}

    with tempfile.TemporaryDirectory(prefix="tg-") as short:  # a socket's path is at most 107 bytes

        def run(points):
            with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
                yield from pool.map(lambda point: play(build, env, home, pathlib.Path(short), point), points)

        yield run


def chosen(counts, n):
    """n points in proportion: two thirds of them calls of the system, of these each third fails, dies before, dies after."""
    rng = random.Random(SEED)
    kinds = [("calls", "fail"), ("calls", "before"), ("calls", "after"), ("memory", "fail")]
    weights = {"supervisor": 5, "guard": 3, "keeper": 4}
    total = sum(weights.values()) * len(kinds)
    points = []
    for role, weight in weights.items():
        for what, how in kinds:
            share = max(1, round(n * weight / total))
            last = max(1, counts[role][what])
            points += {f"{role}:{what}:{how}:{min(last, 1 + int((i + rng.random()) * last / share))}" for i in range(share)}
    return sorted(points)


def test_a_session_without_a_fault(sessions):
    (session,) = sessions(["supervisor:calls:count:0"])
    assert session.troubles == [], "\n".join(session.troubles) + session.daemon.output()
    assert session.shared.counts()["calls"] > 100


def test_sessions_in_which_one_call_fails_or_is_the_last(sessions, tmp_path):
    if ":" in POINTS:
        points = POINTS.split(",")
    else:
        counts = {s.point.split(":")[0]: s.shared.counts() for s in sessions([f"{role}:calls:count:0" for role in ("guard", "supervisor", "keeper")])}
        points = chosen(counts, int(POINTS))
    failed, n_struck, rest = [], 0, points
    while rest:
        missed = []
        for session in sessions(rest):
            where = session.shared.fired()
            n_struck += where is not None
            if session.troubles:
                log = pathlib.Path(os.environ.get("TIDEGATE_FAULT_LOGS", tmp_path)) / f"{session.point.replace(':', '-')}.log"
                log.write_text(session.log + session.daemon.log.read_text(errors="replace"))
                failed.append(f"TIDEGATE_FAULT_POINTS={session.point}: {where}: " + "; ".join(session.troubles) + f"\n    log: {log}")
            elif not where and ":" not in POINTS:  # no session is like another: this one made fewer calls
                before, _, n = session.point.rpartition(":")
                missed.append(f"{before}:{int(n) * 2 // 3}")
        rest = sorted({point for point in missed if not point.endswith(":0")})
    assert not failed, f"{len(failed)} of {len(points)} points (seed {SEED}): " + "\n".join(failed)  # whoever sums up has the first line
    assert n_struck >= len(points) * 0.9, f"only {n_struck} of {len(points)} points were reached"
