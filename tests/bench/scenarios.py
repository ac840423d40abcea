# SPDX-License-Identifier: Apache-2.0
"""What is asked of every supervisor. Each cell is a list of samples: {"ms": ..., "left": ...}, or {"failed": why}."""

import contextlib
import os
import pathlib
import signal
import traceback

from mark import READY, STARTED, Mark, now
from peers import HANGS, PATIENCE, PEERS, Failed, Program
from tools import Tools

TREE, BOMB, MANY = 200, 300, 100
LINGER_S = 1  # who is still in its exit when the peer says "stopped" is not counted
LIVED_S = 1.2  # before a program is killed: peers that wait a second before they begin it again do so for shorter lives
REVIVE_S = 3  # for the peer to do what it does after its own death

TITLES = {
    "coop": "cooperative stop, ms",
    "deaf": "stop, ignores SIGTERM, ms",
    "tree": f"stop of a tree of {TREE}, ms",
    "headless": "stop, exited leader, ms",
    "stopped": "stop, SIGSTOPped, ms",
    "bomb": f"stop of a fork bomb ({BOMB} live), ms",
    "restart": "restart after kill -9, ms",
    "many": f"{MANY} programs started, ms",
    "rss": f"memory with {MANY} programs, RSS, MB",
    "pss": f"memory with {MANY} programs, PSS, MB",
    "copies": "copies after kill -9 of the supervisor; left after stop",
}
STOPS = ("coop", "deaf", "tree", "headless", "stopped", "bomb")


class Session:
    """One life of the supervisor, with these programs."""

    def __init__(self, place, cls, name, programs):
        self.place, self.programs = place, {program.name: program for program in programs}
        self.peer = cls(place)
        self.peer.session = place.work / name
        self.peer.session.mkdir()
        self.marks = {}
        for program in programs:
            self.marks[program.name] = Mark(program.argv[2])
        place.marks = list(self.marks.values())
        self.peer.configure(programs)

    def __enter__(self):
        self.peer.begin()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Failed):
            self.peer.end()
        for mark in self.marks.values():
            mark.kill(now() + PATIENCE)
            mark.close()

    def up(self, name, what=READY):
        """Start a program and wait until it is as it shall be, whatever the command says: a sample."""
        mark, complaint = self.marks[name], None
        mark.forget()
        asked = now()
        try:
            self.peer.start(self.programs[name])
        except Failed as e:
            complaint = str(e)
        at = mark.wait(what, self.programs[name].count, max(asked + PATIENCE, now() + LINGER_S))
        if at is None:
            raise Failed(complaint or "does not start")
        return {"ms": (at - asked) * 1e3, **({"complaint": complaint} if complaint else {})}

    def down(self, name):
        """Stop it: a sample. Whoever is left is killed then."""
        mark = self.marks[name]
        asked = now()
        status = self.peer.stop(self.programs[name])
        returned = now()
        gone = mark.wait_gone(returned + LINGER_S)
        end = now() if gone else returned
        left = len(mark.holders()) if not gone else 0
        sample = {"ms": (end - asked) * 1e3, "returned_ms": (returned - asked) * 1e3, "left": left, "status": status}
        if not mark.kill(now() + PATIENCE):
            raise Failed("subjects that nobody can kill")
        if status == HANGS:
            sample["hangs"] = True
        return sample


def state_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return None


def stop(session, name):
    session.up(name)
    if name == "stopped":
        (pid,) = session.marks[name].holders()
        os.kill(pid, signal.SIGSTOP)
        session.peer.until(lambda: state_of(pid) == "T")
    return session.down(name)


def restart(session):
    mark = session.marks["restart"]
    session.up("restart")
    mark.wait(READY, 1, now() + LIVED_S)  # nothing comes: it lives
    (pid,) = mark.holders()
    killed = now()
    os.kill(pid, signal.SIGKILL)
    again = mark.wait(STARTED, 1, killed + PATIENCE)
    session.down("restart")
    if again is None:
        raise Failed("does not restart")
    return {"ms": (again - killed) * 1e3}


def memory(pids):
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in sums:
                    sums[key] += int(value.split()[0])
    return sums


def many(session):
    """Three cells from one start."""
    sample = session.up("many", STARTED)
    sums = memory(session.peer.processes())
    session.down("many")
    return {"many": sample, "rss": {"mb": sums["Rss"] / 1024}, "pss": {"mb": sums["Pss"] / 1024}}


def copies(session):
    """A program that is to run always: all of its supervisor is killed, and begun again as after a crash."""
    mark, peer, program = session.marks["keep"], session.peer, session.programs["keep"]
    if mark.wait(READY, 1, now() + PATIENCE) is None:
        raise Failed("does not start")
    peer.kill()
    killed = now()
    peer.revive(program)
    while mark.wait(STARTED, 1, killed + REVIVE_S) is not None:  # a second copy, if there is one
        pass
    found = len(mark.holders())
    sample = session.down("keep")
    return {"copies": found, "left": sample["left"]}


def sampled(cells, names, times, function, *args):
    """So many samples of these cells; none more once one has failed. @function returns one, or one for each name."""
    for _ in range(times):
        try:
            sample = function(*args)
        except Failed as e:
            for name in names:
                cells.setdefault(name, []).append({"failed": str(e)})
            return
        for name in names:
            cells.setdefault(name, []).append(sample if len(names) == 1 else sample[name])


def run(place):
    """All scenarios of one peer, inside its room."""
    spec = place.spec
    cls = next(peer for peer in PEERS if peer.name == spec["peer"])
    place.tools = Tools(spec["root"], spec["build"], fetch=False)
    wanted, runs, cells = spec["scenarios"], spec["runs"], {}

    def program(name, mode, *args, **kwargs):
        return Program(name, [place.subject, mode, place.work / f"{name}.fifo", *args], **kwargs)

    first = [
        program("coop", "coop"), program("deaf", "deaf"), program("tree", "tree", TREE), program("headless", "headless"),
        program("stopped", "coop"), program("bomb", "bomb", BOMB), program("restart", "coop", restart=True),
    ]  # fmt: skip
    first = [p for p in first if p.name in wanted]
    if first:
        attempt(cells, [p.name for p in first], place, cls, "first", first, lambda session: [
            sampled(cells, [p.name], runs, *((restart, session) if p.name == "restart" else (stop, session, p.name))) for p in first
        ])  # fmt: skip
    if {"many", "rss", "pss"} & set(wanted):
        attempt(cells, ["many", "rss", "pss"], place, cls, "second", [program("many", "coop", count=MANY)],
                lambda session: sampled(cells, ["many", "rss", "pss"], runs, many, session))  # fmt: skip
    if "copies" in wanted and "copies" not in cls.without:
        for i in range(runs):
            attempt(cells, ["copies"], place, cls, f"third-{i}", [program("keep", "coop", restart=True, auto=True)],
                    lambda session: sampled(cells, ["copies"], 1, copies, session))  # fmt: skip
    return {"scenarios": {name: cell for name, cell in cells.items() if name in wanted}}


def attempt(cells, names, place, cls, folder, programs, body):
    """@body with a session; what goes wrong before its cells have something stands in them."""
    try:
        with Session(place, cls, folder, programs) as session:
            body(session)
    except Failed as e:
        for name in names:
            cells.setdefault(name, [{"failed": str(e)}])
    except OSError as e:
        traceback.print_exc()
        for name in names:
            cells.setdefault(name, [{"failed": f"{type(e).__name__}: {e}"}])
