# SPDX-License-Identifier: Apache-2.0
"""Twenty-seven ways in which supervisors failed their users, each as a test: who outlived a stop, what never returned, what was killed that
was a stranger. The first line of each says what happened, and to whom."""

import contextlib
import json
import os
import pathlib
import random
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest
from client import Client, ControlError
from conftest import MARK, Run, eventually, marked_processes
from daemon import plan, program
from grove import BUDGET, GRACE, LADDER, gone, lives, state_of
from hungmount import HungMount
from lives import LONG, SLACK, Process, cgroups_in, children_of

SLEEP = "exec sleep 1000"
DEAF = "trap '' TERM INT HUP"
FOREVER = "while :; do sleep 0.05; done"
TIMES = 50 if LONG else 10
HEARD = 1  # the grace where it matters that a signal is heard: after GRACE a machine that stalled has sent SIGKILL beside it


class Place:
    """A daemon, and dataflows of shell scripts that say by files how far they are."""

    def __init__(self, daemon, directory, mark):
        self.daemon, self.directory, self.mark = daemon, directory, mark

    def start(self, *nodes, name="flow", grace=GRACE, budget=BUDGET, environment=(), **parameters):
        environment = [f"{MARK}={self.mark}", f"HERE={self.directory}", f"PATH={os.environ['PATH']}", *environment]
        return self.daemon.talk("Start", plan=plan(*nodes, name=name), environment=environment, grace_ms=int(grace * 1000), budget_ms=int(budget * 1000), **parameters)

    def stop(self, name="flow", **parameters):
        """Its result, and the seconds until it was there."""
        begin = time.monotonic()
        (result,) = self.daemon.talk("Stop", seconds=30, dataflow=name, **parameters)["results"]
        return result, time.monotonic() - begin

    def said(self, file, seconds=20):
        """What a script has written to a file: a whole line."""
        path = self.directory / file
        text = eventually(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text(), seconds)
        assert text, f"{file} was not written\n{self.daemon.output()}"
        return text.strip()

    def pid(self, file):
        return int(self.said(file))

    def node(self, id, name="flow"):
        return next(n for n in self.daemon.talk("Status", names=[name])["dataflows"][0]["nodes"] if n["id"] == id)

    def running(self, id, name="flow"):
        """Its pid."""
        assert eventually(lambda: self.node(id, name)["state"] == "running", 20), f"{self.node(id, name)}\n{self.daemon.output()}"
        return self.node(id, name)["pid"]


@pytest.fixture
def place(begin, traces, open_directory):
    return Place(begin("--watchdog", "1s"), open_directory, traces.mark)


def within_the_ladder(result, seconds, left=0, ladder=LADDER):
    assert result["left"] == left, result
    assert result["stop_ms"] / 1000 <= ladder + 2, result
    assert seconds <= ladder + 2 + SLACK


@contextlib.contextmanager
def tracer_of(program, *pids):
    """Nothing ends these while it lives: they stop at their exit."""
    with subprocess.Popen([program, "--trace", "exit", *map(str, pids)], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout.readline() == "ready\n"
            yield tracer
        finally:
            tracer.kill()


def test_f01_middle_of_three_dies_first(place):
    """supervisord: npm, sh, node. The shell in the middle ends on SIGTERM, and what it had started lives on."""
    lowest = f'sh -c \'{DEAF.replace(chr(39), chr(34))}; echo $$ >"$HERE/lowest"; {FOREVER}\''
    place.start(program("npm", f'(echo "$(exec sh -c "echo \\$PPID")" >"$HERE/middle"; {lowest} & wait) & wait'))
    lowest, middle = place.pid("lowest"), place.pid("middle")
    result, seconds = place.stop()
    within_the_ladder(result, seconds)
    assert result["killed"] >= 1, "it was deaf"
    assert not lives(lowest) and not lives(middle)


def test_f02_leader_leaves_early(place):
    """process-compose: the first process ended on SIGTERM, so the rest was taken for ended too, with status 0."""
    place.start(program("n", f'(trap "" TERM; echo $(exec sh -c "echo \\$PPID") >"$HERE/member"; {FOREVER}) & trap "exit 0" TERM; echo up >"$HERE/up"; wait'), grace=HEARD)
    member = place.pid("member")
    place.said("up")
    result, seconds = place.stop()
    within_the_ladder(result, seconds, ladder=1.5 * HEARD)
    assert not lives(member) and result["killed"] >= 1
    assert result["nodes"][0]["exit"] == {"code": "exited", "status": 0}
    assert not result["success"], "somebody had to be killed: that is no success"


def test_f03_stop_while_dependents_pend(place):
    """process-compose: a dependency that never starts blocks the shutdown, and nobody can see whom it waits for."""
    place.start(program("first", SLEEP), program("second", SLEEP, after=[{"node": "first", "until": "completed", "line": 2}]), grace=HEARD)
    place.running("first")
    assert place.node("second")["state"] == "pending"
    result, seconds = place.stop()
    within_the_ladder(result, seconds)
    assert seconds < 1 + SLACK and [n["state"] for n in result["nodes"]] == ["stopped", "stopped"], place.daemon.output()


def test_f04_the_port_is_free_after_the_stop(place):
    """pm2: an orphan keeps the port, and the next start crashes for ever with EADDRINUSE."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    listen = f"import os,signal,socket,time; s=socket.create_server(('127.0.0.1',{port})); os.fork() or (os.setsid(), signal.signal(15,1)); print(1,file=open(os.environ['HERE']+'/p'+os.environ['N'],'a')); time.sleep(1000)"
    for n in "12":
        place.start(program("server", "", argv=["/usr/bin/python3", "-c", listen], env={"N": n}), name=f"flow{n}")
        assert eventually(lambda n=n: place.said(f"p{n}").count("1") == 2, 10), "it has the port, and so has its orphan"
        result, seconds = place.stop(f"flow{n}")
        within_the_ladder(result, seconds)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_f05_who_shall_live_on_says_so(place):
    """pm2: users who want detached children to live, and have no way to say it."""
    place.start(program("brief", SLEEP), program("server", SLEEP, detach=True))
    pid = place.running("server", "flow.server")
    result, _ = place.stop()
    assert result["left"] == 0 and lives(pid)
    assert [d["name"] for d in place.daemon.talk("List")["dataflows"]] == ["flow.server"], "it is listed"
    result, seconds = place.stop("flow.server")
    within_the_ladder(result, seconds)
    assert not lives(pid)


@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")
def test_f06_a_task_in_d_state_does_not_hold_up_the_stop(build, begin, traces, open_directory):
    """docker: `stop -t 1` of a container with a task in uninterruptible sleep hangs for ever. (With fsfreeze: tests/vm.)"""
    if not (build / "tests/supervisor/hungfs").exists():
        pytest.skip("tests/supervisor/hungfs is not built (needs libfuse3)")
    hung = HungMount(build / "tests/supervisor/hungfs", open_directory / "hung")
    try:
        place = Place(begin(prefix=hung.prefix()), open_directory, traces.mark)
        place.start(program("reader", f'echo $$ >"$HERE/pid"; exec cat {hung.path}/file'))
        pid = place.pid("pid")
        hung.until_asked()
        result, seconds = place.stop()
        within_the_ladder(result, seconds, left=1)
        assert str(pid) in result["nodes"][0]["left"], "the verdict names it"
        assert state_of(pid) == "D", "not even SIGKILL reaches it"
    finally:
        hung.end()
    assert eventually(lambda: not lives(pid), 10), "and it ends with its file system"


def test_f07_whoever_holds_stdout_open_holds_up_nobody(place):
    """moby: the exit was told only at the end of stdout, which a grandchild held open and nobody read."""
    place.start(program("talker", SLEEP))
    pid = place.running("talker")
    held = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)  # as one that got away from the tree would hold it
    reader = Client(place.daemon.socket)
    reader.send("Logs", more=True, dataflow="flow")  # and this one never reads
    with contextlib.suppress(BlockingIOError):
        os.set_blocking(held, False)
        while os.write(held, b"x" * 4096):
            pass
    result, seconds = place.stop()
    assert result["left"] == 0 and result["stop_ms"] < 1000 and seconds < 1 + SLACK
    os.close(held)
    reader.close()


def test_f08_a_verdict_with_a_cause_at_the_deadline(place, tree_program):
    """containerd: a kill was repeated for ever, and nobody was told why."""
    place.start(program("traced", f'echo $$ >"$HERE/pid"; {SLEEP}'))
    pid = place.pid("pid")
    assert eventually(lambda: pathlib.Path(f"/proc/{pid}/comm").read_text() == "sleep\n", 20)
    with tracer_of(tree_program, pid):
        result, seconds = place.stop()
        within_the_ladder(result, seconds, left=1)
        text = result["nodes"][0]["left"]
        assert str(pid) in text and "sleep" in text and "ptrace" in text, text


def test_f09_a_directory_that_stays_busy_is_not_tried_for_ever(place, tree_program):
    """crun: rmdir, EBUSY, rmdir, EBUSY."""
    place.start(program("n", f'echo $$ >"$HERE/pid"; {SLEEP}'))
    pid = place.pid("pid")
    (cgroup,) = place.daemon.home.rglob("n.1")
    stopping = threading.Event()

    def busy():  # whenever it is gone it is there again
        while not stopping.is_set():
            with contextlib.suppress(OSError):
                (cgroup / "somebody").mkdir()

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        result, seconds = place.stop()
        assert seconds < LADDER + 2 + 2.5 + SLACK and result["left"] == 0
        assert not lives(pid)
    finally:
        stopping.set()
        thread.join()


def test_f10_who_is_left_without_its_leader_is_counted(place, tree_program):
    """runc: the first process was reaped, a task that would not die was left, and so was its cgroup, and nobody said so."""
    place.start(program("n", f'(trap "" TERM; echo $(exec sh -c "echo \\$PPID") >"$HERE/task"; {FOREVER}) & trap "exit 0" TERM; wait'))
    task = place.pid("task")
    with tracer_of(tree_program, task):
        result, seconds = place.stop()
        within_the_ladder(result, seconds, left=1)
        audit = next(e for e in result["ledger"] if e["rung"] == "audit")
        assert audit["left_processes"] == 1, audit
        assert any("n.1" in c for c in cgroups_in(place.daemon.home)), "it stays where it is"
    assert eventually(lambda: not lives(task), 5), "and it ends once it is let"


def test_f11_one_deadline_for_the_whole_stop(place, tree_program):
    """systemd: four phases of 90 s each, one after the other, and then a start beside what was left."""
    grace = 0.2
    place.start(*[program(f"n{i}", f'{DEAF}; echo $$ >"$HERE/pid{i}"; {FOREVER}', after=[{"node": f"n{i - 1}", "until": "started", "line": 1}] if i else []) for i in range(4)], grace=grace)
    pids = [place.pid(f"pid{i}") for i in range(4)]
    with tracer_of(tree_program, *pids):
        result, seconds = place.stop()
        assert result["left"] == 4
        assert result["stop_ms"] / 1000 <= 1.5 * grace + 2 and seconds < 1.5 * grace + 2 + SLACK, "four in order have the time of one"
        with pytest.raises(ControlError) as e:
            place.start(program("n0", SLEEP))
        assert "despite" in str(e.value), "and nothing begins beside them, unless that is asked for"


def test_f12_the_leaders_first_thread_has_exited(grove):
    """systemd: a zombie whose other threads live was taken for ended, and outlived the shutdown. cgroup.kill passes it by."""
    grove.plant("f", [12], "leaderless", "leaderless")
    grove.until_stands([12])
    assert grove.trees[12].traits["leaderless"] == 2
    zombies = [pid for pid in grove.living() if state_of(pid) == "Z"]
    assert eventually(lambda: len([pid for pid in grove.living() if state_of(pid) == "Z"]) == 2, 5), zombies
    assert grove.misses(*grove.stop(), SLACK) == [] and gone(grove)


def test_f13_what_the_leader_leaves_behind_has_a_grace_of_its_own(place):
    """systemd: the first process ended, and the rest got SIGKILL in the same instant."""
    child = 'trap "echo done >$HERE/farewell; exit 0" TERM; echo up >"$HERE/up"; while :; do sleep 0.02; done'
    place.start(program("n", f"({child}) & while [ ! -s $HERE/up ]; do sleep 0.01; done; exit 0"), grace=5)
    assert place.said("farewell", 10) == "done"
    assert eventually(lambda: place.daemon.talk("List", all=True)["dataflows"][0]["state"] == "ended", 10)


def test_f14_a_stop_outlives_its_supervisor_and_waits_for_no_reply(place):
    """dora: the stop waited for replies of nodes; who answered it was lost; a dynamic node never "finished"."""
    never = {**program("never", ""), "kind": "dynamic", "argv": [], "capture": False}
    grace = 1  # the supervisor is killed before it can have answered
    place.start(program("deaf", f'{DEAF}; echo $$ >"$HERE/pid"; {FOREVER}'), never, grace=grace)
    pid = place.pid("pid")
    place.running("deaf")
    supervisor = place.daemon.take("supervisor")
    with Client(place.daemon.socket) as client:
        begin = time.monotonic()
        client.send("Stop", dataflow="flow")
        assert eventually(lambda: "escrow: confirmed" in place.daemon.log.read_text(), 5)
        supervisor.send(signal.SIGKILL)
        supervisor.close()
        with pytest.raises((EOFError, ConnectionError)):
            client.receive(10)
    assert eventually(lambda: not lives(pid), 5)
    assert time.monotonic() - begin < 1.5 * grace + 2 + SLACK
    assert place.daemon.talk("Wait", dataflow="flow", state="ended")["state"] == "ended"


def test_f15_nobody_who_finishes_late_holds_up_the_others(build, node_environment, place, tmp_path):
    """dora: a natural end had no deadline, and one node that stayed vetoed the end of all."""
    nodes = build / "tests/system"
    link = [{"id": "in", "line": 1, "source": {"node": "flood", "output": "out"}, "queue_size": 10, "queue_policy": "drop_oldest", "input_timeout_ns": 0}]
    flood = {**program("flood", ""), "kind": "node", "argv": [str(nodes / "flood"), "1", "8"], "outputs": ["out"]}
    late = {**program("late", ""), "kind": "node", "argv": ["/bin/sh", "-c", "tidegate-pipe --receive >/dev/null; exec sleep 1000"], "inputs": link, "finish_grace_ns": 300_000_000}
    prompt = {**program("prompt", ""), "kind": "node", "argv": [str(nodes / "hear")], "inputs": link}
    begin = time.monotonic()
    place.start(flood, late, prompt, environment=[f"{k}={node_environment[k]}" for k in ("LD_LIBRARY_PATH", "PATH")], grace=0.2)
    assert place.daemon.talk("Wait", dataflow="flow", state="ended", seconds=20)["state"] == "ended"
    assert time.monotonic() - begin < 0.3 + 0.3 + 2 + SLACK
    assert place.node("prompt")["state"] == "stopped" and "finish_grace_secs" in place.node("late")["error"], place.daemon.output()


def test_f16_the_reply_comes_when_all_have_gone(grove):
    """dora: "destroyed" was said while children lived, and they kept the GPU and the shared memory."""
    grove.environment["HOSTILE_DEEP"] = "200"
    grove.plant("f", [16], "deep", "wait", "stopped", "vfork")
    grove.until_stands([16])
    assert len(grove.living()) >= 204
    grove.stop()
    assert grove.living() == {} and grove.cgroups() == [], "not a moment later: now"


def test_f17_no_group_is_signalled_by_its_number(root, place):
    """dora: kill(-pgid), when the number was a stranger's group already."""
    place.start(program("n", f'(trap "" TERM; echo $(exec sh -c "echo \\$PPID") >"$HERE/member"; {FOREVER}) & trap "exit 0" TERM; echo up >"$HERE/up"; wait'), grace=HEARD)
    leader, member = place.running("n"), place.pid("member")
    place.said("up")
    # One that is in the group of the first process, and is none of this dataflow's: in the same session, forked by it, and moved out by root.
    assert os.getpgid(member) == leader
    outside = place.daemon.home / "outside"
    outside.mkdir()
    (outside / "cgroup.procs").write_text(str(member))
    process = Process(member)
    try:
        result, _ = place.stop()
        assert result["nodes"][0]["exit"] == {"code": "exited", "status": 0}
        calls = re.compile(r"(?<![\w.>])(killpg|kill)\s*\(([^;]*)\)")
        found = [f"{p.name}: {m[0]}" for d in ("supervisor", "base") for p in (root / d).glob("*.c") for m in calls.finditer(re.sub(r"/\*.*?\*/|\"[^\"\n]*\"", "", p.read_text(), flags=re.S))]
        assert [c for c in found if "-1, SIGKILL" not in c] == [], "every signal goes through a pidfd; a container's init may end all of its own"
    finally:
        process.send(signal.SIGKILL)
        process.close()
        assert eventually(lambda: "populated 0" in (outside / "cgroup.events").read_text(), 5)
        outside.rmdir()


def test_f18_no_signal_ends_the_daemon_but_those_that_shall(place):
    """A handler that was not safe; and SIGUSR1, whose default is to end the process."""
    place.start(program("n", SLEEP))
    pid = place.running("n")
    for role in ("guard", "supervisor"):
        for signo in (signal.SIGUSR1, signal.SIGHUP, signal.SIGPIPE, signal.SIGALRM, signal.SIGVTALRM, signal.SIGCONT, signal.SIGWINCH, signal.SIGCHLD, signal.SIGURG):
            place.daemon.send(role, signo=signo)
    assert place.daemon.talk("GetHealth")["health"]["epoch"] == 1, "the same supervisor"
    assert place.running("n") == pid and place.daemon.process.poll() is None


def test_f19_a_new_life_begins_when_the_old_one_has_gone(place):
    """The new instance was registered, and ran, before the old one had ended."""
    script = f"""
if [ -s $HERE/old ] && kill -0 $(cat $HERE/old) 2>/dev/null; then echo yes >$HERE/overlap; fi
(trap '' TERM; echo $(exec sh -c 'echo $PPID') >$HERE/old.new; mv $HERE/old.new $HERE/old; echo up >>$HERE/lives; {FOREVER}) &
trap 'exit 0' TERM; while :; do sleep 0.02; done"""
    place.start(program("n", script))
    for n in range(1, 4):
        assert eventually(lambda n=n: place.said("lives").count("up") == n, 10)
        place.daemon.talk("RestartNode", dataflow="flow", node="n", seconds=10)
    assert eventually(lambda: place.said("lives").count("up") == 4, 10)
    place.stop()
    assert not (place.directory / "overlap").exists()
    assert place.node("n")["generation"] == 4


def test_f20_a_loop_that_does_not_turn_is_noticed_by_another_process(place):
    """Its HTTP port answered, and nothing was done any more."""
    place.start(program("n", SLEEP))
    pid = place.running("n")
    begin = time.monotonic()
    deaf = place.daemon.send("supervisor", signo=signal.SIGSTOP)[0]
    place.daemon.until_adopted(1)
    assert time.monotonic() - begin < 1 + 1 + SLACK
    health = place.daemon.talk("GetHealth")["health"]
    assert health["pid"] != deaf and health["lag_max_us"] >= health["lag_p50_us"] >= 0
    assert place.running("n") == pid


def test_f21_no_call_waits_for_ever(place):
    """supervisord: an RPC that never answers, of a client that has no timeout."""
    place.start(program("deaf", f'{DEAF}; echo $$ >"$HERE/pid"; {FOREVER}'), grace=1)
    place.pid("pid")
    place.daemon.send("keeper", signo=signal.SIGSTOP)
    for method, parameters in {
        "Wait": {"dataflow": "flow", "state": "ended"},
        "StopNode": {"dataflow": "flow", "node": "deaf"},
        "Stop": {"dataflow": "flow"},
    }.items():
        begin = time.monotonic()
        with pytest.raises(ControlError) as e, Client(place.daemon.socket) as client:
            client.call(method, timeout_ms=200, **parameters)
        assert e.value.error == "TimedOut" and 0.19 <= time.monotonic() - begin < 0.2 + SLACK
    place.daemon.send("keeper", signo=signal.SIGCONT)


def test_f22_killed_at_any_moment_it_loses_nobody(place):
    """Nomad, supervisord: kill -9 of the supervisor, and its children were lost, or started a second time."""
    place.start(*[program(f"n{i}", f'echo run >>"$HERE/runs{i}"; {SLEEP}') for i in range(3)])
    pids = {f"n{i}": place.running(f"n{i}") for i in range(3)}
    for i in range(3):
        place.said(f"runs{i}")
    rng = random.Random(22)
    for turn in range(TIMES):
        place.daemon.send("supervisor")
        time.sleep(rng.uniform(0, 0.05))  # also in the middle of an adoption
        if turn % 5 == 4:
            place.daemon.talk("GetHealth")  # it is there: the death of both is another story
            place.daemon.send("guard")
            heirs = (turn + 1) // 5
            assert eventually(lambda n=heirs: place.daemon.log.read_text().count("this process is the guard now") == n, 10), place.daemon.output()
    place.daemon.talk("GetHealth")
    assert eventually(lambda: {n["id"]: n["pid"] for n in place.daemon.talk("Status", names=["flow"])["dataflows"][0]["nodes"]} == pids, 10)
    assert all((lost, twice) == (0, 0) for _, lost, twice, _ in place.daemon.adoptions()), place.daemon.output()
    assert [place.said(f"runs{i}") for i in range(3)] == ["run"] * 3
    result, seconds = place.stop()
    within_the_ladder(result, seconds)


class Room:
    """A PID namespace of its own, in which the daemon is not the first process."""

    def __init__(self, build, env, directory, home):
        self.build, self.home, self.directory, self.env = build, home, directory, env
        self.init = subprocess.Popen(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo ready; while :; do sleep 1000 & wait; done"],
                                     env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
        assert self.init.stdout.readline() == "ready\n"
        (self.pid,) = children_of(self.init.pid)

    def inside(self, *command, **kwargs):
        return subprocess.run(["nsenter", "-t", str(self.pid), "-p", "-m", *map(str, command)], env=self.env, capture_output=True, text=True, timeout=30, **kwargs)

    def tidegate(self, verb, *args):
        return self.inside(self.build / "bin/tidegate", verb, "--runtime-dir", self.directory / "run", *args)

    def up(self):
        p = self.tidegate("up", "--cgroup-root", self.home)
        assert p.returncode == 0, p.stderr

    def end(self):
        init = Process(self.pid)
        init.send(signal.SIGKILL)
        init.close()
        self.init.wait(10)
        self.init.stdout.close()


def test_f23_a_recycled_pid_is_a_stranger(build, node_environment, traces, home, open_directory):
    """pitchfork: adoption killed a stranger that had the pid of a node by then; a death that nobody had seen was noted as "stopped"."""
    room = Room(build, {**node_environment, MARK: traces.mark}, open_directory, home)
    try:
        room.up()
        flow = open_directory / "flow.yml"
        flow.write_text(json.dumps({"nodes": [{"id": "n", "path": "sleep", "args": "1000", "restart_policy": "never"}]}))
        assert room.tidegate("start", "--detach", "--grace-duration", "200ms", flow).returncode == 0
        node = int(room.tidegate("pid", "flow:n").stdout)
        # Everybody who could see it end is gone when it does.
        parts = room.inside("sh", "-c", "for p in /proc/[0-9]*; do case $(readlink $p/exe) in */tidegated) echo ${p#/proc/};; esac; done").stdout.split()
        assert len(parts) >= 3
        room.inside("kill", "-STOP", *parts)
        room.inside("kill", "-KILL", *parts)
        room.inside("kill", "-KILL", node)
        assert eventually(lambda: room.inside("sh", "-c", f"[ ! -d /proc/{node} ]").returncode == 0, 10), "the init has reaped it"
        stranger = room.inside("sh", "-c", f"echo {node - 1} >/proc/sys/kernel/ns_last_pid; setsid sleep 2000 >/dev/null 2>&1 & echo $!").stdout.strip()
        assert int(stranger) == node, "the same number"
        room.up()

        def ended():
            (flow,) = json.loads(room.tidegate("status", "--json", "flow").stdout)["dataflows"]
            return flow["state"] == "ended" and flow["nodes"][0]

        told = eventually(ended, 10)
        assert told and "unknown" in told["error"], str(told) + room.inside("cat", room.directory / "run/tidegated.log").stdout[-1500:]
        assert room.tidegate("down").returncode == 0
        assert room.inside("cat", f"/proc/{stranger}/comm").stdout == "sleep\n", "and nobody has touched the stranger"
    finally:
        room.end()


def test_f24_a_stop_is_over_when_the_directory_is_gone(grove):
    """nix: killing was thought to be enough to remove a cgroup. What dies needs time: here for 64 MiB each."""
    grove.environment["HOSTILE_MEMORY"] = "64"
    for turn in range(5):
        seeds = [turn * 3 + i for i in range(3)]
        grove.plant(f"f{turn}", seeds, "memory", "memory")
        grove.until_stands(seeds)
        assert grove.misses(*grove.stop(dataflow=f"f{turn}"), SLACK) == []
        assert grove.cgroups() == []


def test_f25_a_node_is_born_in_its_cgroup(place):
    """Writing cgroup.procs before exec waits for a grace period of RCU. Born there, its first look finds itself there, and it was nowhere else."""
    begin = time.monotonic()
    place.start(*[program(f"n{i}", f'cat /proc/self/cgroup >"$HERE/seen{i}"; {SLEEP}') for i in range(20)])
    for i in range(20):
        place.said(f"seen{i}")
        (line,) = [line for line in (place.directory / f"seen{i}").read_text().splitlines() if line.startswith("0::")]
        # In a cgroup namespace of its own it sees its own cgroup as the root.
        assert line == "0::/" or line.endswith(f"/n{i}.1"), line
        pid = place.running(f"n{i}")
        assert pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip().splitlines()[-1].endswith(f"/n{i}.1")
    assert time.monotonic() - begin < 2 + SLACK


def test_f26_features_are_tried_and_no_version_is_believed(build, node_environment, home, traces, tmp_path, dataflow):
    """systemd: clone3 with a cgroup on a kernel that does not have it. Here: a kernel that says it is 2.6 and can do it all."""
    old = ["setarch", os.uname().machine, "--uname-2.6"]
    assert subprocess.check_output([*old, "uname", "-r"], text=True).startswith("2.6.")
    flow = dataflow({"nodes": [{"id": "n", "path": "sleep", "args": "1000"}]})
    command = [*old, build / "bin/tidegate", "run", flow, "--cgroup-root", home, "--stop-after", "100ms", "--grace-duration", "1s"]
    run = Run(command, {**node_environment, MARK: traces.mark}, tmp_path, tmp_path).wait(20)
    assert run.status == 0 and "0 left" in run.output(), run.output()


def test_f27_a_zombie_is_nobody(place):
    """openrc: kill(pid, 0) says that a zombie lives. Its parent is elsewhere and does not reap it."""
    place.start(program("n", SLEEP))
    place.running("n")
    with subprocess.Popen(["sleep", "1000"]) as mine:
        (cgroup,) = place.daemon.home.rglob("n.1")
        (cgroup / "cgroup.procs").write_text(str(mine.pid))
        result, seconds = place.stop()
        os.kill(mine.pid, 0)  # it is there, for whoever asks so
        assert eventually(lambda: state_of(mine.pid) == "Z", 5), "it has left its cgroup before it is one"
        within_the_ladder(result, seconds)
        assert seconds < 1 + SLACK and cgroups_in(place.daemon.home) == [c for c in cgroups_in(place.daemon.home) if "n.1" not in c]
