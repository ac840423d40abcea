# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: its signals, its configuration, its service manager, an upgrade in place; order and dynamic nodes."""

import ctypes
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time

import pytest
from client import Client
from conftest import eventually
from daemon import STUBBORN, plan, program, until_deaf
from lives import SLACK, arguments_of, children_of, status_field
from survive import node

SLEEP = "exec sleep 1000"
SPAWNED = 34  # enum KeeperMsgType


def start(daemon, *nodes, name="flow", **parameters):
    with Client(daemon.socket) as client:
        last = list(client.stream("Start", plan=plan(*nodes, name=name), **parameters))[-1]
    if any(STUBBORN in node["argv"] for node in nodes):
        until_deaf(daemon, name)
    return last


def nodes_of(daemon, name="flow"):
    return {node["id"]: node for node in daemon.status(name)["nodes"]}


def logged(daemon, text, seconds=10):
    assert eventually(lambda: text in daemon.output(), seconds), f"{text!r} was not logged:\n{daemon.output()}"


# Its sockets


def test_who_finds_a_socket_can_connect_to_it(start_daemon, tmp_path):
    """It has another name until it listens. The kernel tells what came by that name and how: made there, or renamed to it."""
    libc, made, moved = ctypes.CDLL(None, use_errno=True), 0x100, 0x80
    runtime = tmp_path / "daemon/runtime"
    runtime.mkdir(0o700, parents=True)
    watch = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(runtime), made | moved) >= 0, os.strerror(ctypes.get_errno())
        start_daemon(directory=runtime.parent)
        told, seen = os.read(watch, 1 << 16), []
        while told:
            _, mask, _, size = struct.unpack_from("iIII", told)
            seen.append((told[16 : 16 + size].rstrip(b"\0").decode(), mask))
            told = told[16 + size :]
    finally:
        os.close(watch)
    for name in ("control.sock", "node.sock"):
        assert [mask for n, mask in seen if n == name] == [moved], seen
        assert (f"{name}.new", made) in seen and not (runtime / f"{name}.new").exists()


# Signals


def test_sigterm_ends_everything_in_steps_that_are_logged(start_daemon):
    daemon = start_daemon("--grace-duration", "0.5s")
    start(daemon, program("stubborn", STUBBORN), grace_ms=500)
    begun = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - begun < 0.75 + 2 + 3
    for step in range(1, 6):
        assert f"step {step}/5" in daemon.output()


def test_a_second_sigterm_means_now(start_daemon):
    daemon = start_daemon("--grace-duration", "60s")
    start(daemon, program("stubborn", STUBBORN), grace_ms=60000)
    daemon.process.send_signal(signal.SIGTERM)
    logged(daemon, "step 3/5")
    begun = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(20)
    assert time.monotonic() - begun < 10


def test_nobody_else_can_list_where_it_makes_entries(daemon):
    """Who lists a directory into a page that never comes keeps its lock, and whoever changes it then waits for ever."""
    base = daemon.home / "tidegate"
    (instance,) = (p for p in base.iterdir() if p.is_dir())
    for directory in (daemon.runtime, base, instance):
        assert directory.stat().st_mode & 0o055 in (0, 0o011), directory
    assert (daemon.runtime / "lock").stat().st_mode & 0o077 == 0, "whoever may open it may hold it when this daemon has died"


@pytest.mark.parametrize("signo", [signal.SIGUSR1, signal.SIGHUP, signal.SIGPIPE, signal.SIGALRM, signal.SIGWINCH, signal.SIGQUIT])
def test_no_other_signal_ends_any_part_of_it(daemon, signo):
    start(daemon, program("a", SLEEP))
    before = (daemon.process.pid, daemon.supervisor(), nodes_of(daemon)["a"]["pid"])
    parts = [p for p in children_of(daemon.process.pid) if "--role=" in " ".join(arguments_of(p))]
    assert len(parts) == 2
    for pid in [daemon.process.pid, *parts]:
        os.kill(pid, signo)
    assert daemon.call("GetHealth")["health"]["epoch"] == 1
    assert (daemon.process.pid, daemon.supervisor(), nodes_of(daemon)["a"]["pid"]) == before


def test_sigusr1_writes_the_whole_state_to_the_log(daemon):
    start(daemon, program("a", SLEEP), name="first")
    start(daemon, program("b", SLEEP), name="second")
    daemon.process.send_signal(signal.SIGUSR1)
    logged(daemon, "end of state")
    for text in ("dataflow first", "dataflow second", "node a: running", "node b: running", "lag p50"):
        assert text in daemon.output()


# Configuration


def test_sighup_reads_the_configuration_again(start_daemon, tmp_path):
    file = tmp_path / "tidegated.conf"
    file.write_text("grace_duration = 30s # long\nwatchdog=20s\n")
    daemon = start_daemon("--config", file)
    start(daemon, program("stubborn", STUBBORN))
    file.write_text("grace_duration = 0.2s\nkill_budget = 1s\n")
    daemon.process.send_signal(signal.SIGHUP)
    logged(daemon, "was read: grace 0.2 s, kill budget 1.0 s, watchdog 5.0 s")
    start(daemon, program("stubborn", STUBBORN), name="later")
    begun = time.monotonic()
    daemon.client().call("Stop", dataflow="later", timeout=20)
    assert time.monotonic() - begun < 0.3 + 1 + 2, "the new grace counts for dataflows that start later"
    daemon.client().call("Stop", dataflow="flow", force=True, timeout=20)


def test_a_wrong_configuration_names_its_line_and_changes_nothing(start_daemon, tmp_path):
    file = tmp_path / "tidegated.conf"
    file.write_text("watchdog = 7s\n")
    daemon = start_daemon("--config", file)
    file.write_text("watchdog = 8s\n\nwatchdoc = 1s\n")
    daemon.process.send_signal(signal.SIGHUP)
    logged(daemon, f"{file}:3: `watchdoc` is no setting")
    logged(daemon, "nothing is changed")
    file.write_text("watchdog = 9s\n")
    daemon.process.send_signal(signal.SIGHUP)
    logged(daemon, "watchdog 9.0 s")


def backend(daemon, name):
    start(daemon, program("n", SLEEP), name=name)
    return nodes_of(daemon, name)["n"]["protection"]["backend"]


@pytest.mark.cgroup_only
def test_the_configuration_says_what_nodes_are_ended_with(start_daemon, tmp_path):
    file = tmp_path / "tidegated.conf"
    file.write_text("enforcer = cgroup+pidns\n")
    daemon = start_daemon("--config", file)
    assert backend(daemon, "flow") == "cgroup+pidns"
    file.write_text("enforcer = pidns\n")
    daemon.process.send_signal(signal.SIGHUP)
    logged(daemon, "enforcer pidns needs a restart: this daemon goes on with cgroup+pidns")
    assert backend(daemon, "later") == "cgroup+pidns"
    file.write_text("watchdog = 5s\nenforcer = magic\n")
    daemon.process.send_signal(signal.SIGHUP)
    logged(daemon, f"{file}:2: `enforcer` wants one of auto, cgroup")


@pytest.mark.cgroup_only
def test_the_command_line_s_enforcer_comes_before_the_configuration_s(start_daemon, tmp_path):
    file = tmp_path / "tidegated.conf"
    file.write_text("enforcer = cgroup+pidns\n")
    daemon = start_daemon("--config", file, "--enforcer", "cgroup")
    assert backend(daemon, "flow") == "cgroup"
    daemon.process.send_signal(signal.SIGHUP)
    logged(daemon, "was read:")
    assert "needs a restart" not in daemon.output()


def test_a_configuration_that_hangs_holds_nothing_up(start_daemon, tmp_path):
    file = tmp_path / "tidegated.conf"
    file.write_text("")
    daemon = start_daemon("--config", file)
    file.unlink()
    os.mkfifo(file)  # whoever opens it to read waits for a writer
    daemon.process.send_signal(signal.SIGHUP)
    start(daemon, program("a", SLEEP))
    assert nodes_of(daemon)["a"]["state"] == "running"
    assert daemon.supervisor() is not None
    logged(daemon, "no answer for 10 s; nothing is changed", 20)


def test_what_was_written_while_the_configuration_is_read_is_read_too(start_daemon, tmp_path):
    """A SIGHUP that comes meanwhile is not forgotten: the file that is being read is older than it."""
    file = tmp_path / "tidegated.conf"
    file.write_text("")
    daemon = start_daemon("--config", file)
    file.unlink()
    os.mkfifo(file)
    daemon.process.send_signal(signal.SIGHUP)
    older = os.open(file, os.O_WRONLY)  # once it is being read
    file.unlink()
    file.write_text("watchdog = 9s\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGUSR1)
    logged(daemon, "end of state")  # both have come: the lower number comes first
    os.write(older, b"watchdog = 7s\n")
    os.close(older)
    logged(daemon, "was read: grace 10.0 s, kill budget 2.0 s, watchdog 7.0 s")
    logged(daemon, "was read: grace 10.0 s, kill budget 2.0 s, watchdog 9.0 s")


def test_a_daemon_with_a_wrong_configuration_does_not_start(build, tmp_path):
    file = tmp_path / "tidegated.conf"
    file.write_text("grace_duration 5s\n")
    result = subprocess.run([build / "bin/tidegated", "--runtime-dir", tmp_path / "rt", "--config", file], capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert f"{file}:1: `grace_duration 5s` has no value" in result.stderr
    assert not (tmp_path / "rt").exists()


# A start


def test_a_node_that_shakes_hands_before_its_keeper_tells_of_it_is_not_running_yet(survivor, withhold, build):
    """Whoever hears of `running` can use the pid."""
    withhold, env = withhold
    withhold.write_text(str(SPAWNED))
    daemon = survivor(env=env)
    kept = [f"{k}={v}" for k, v in daemon.env.items() if k in ("LD_LIBRARY_PATH", "PATH") or k.startswith("TIDEGATE_TEST")]
    nodes = [node("beat", [build / "tests/system/beat", 1000], outputs=["out"]), node("hear", [build / "tests/system/hear"], inputs=[("in", "beat", "out")])]
    daemon.talk("Start", plan=plan(*nodes), environment=kept, grace_ms=500, budget_ms=1000)

    def all_shook_hands():
        daemon.send("guard", signo=signal.SIGUSR1)
        return all(re.search(f"node {id}: .* connected, mapped,", daemon.output()) for id in ("beat", "hear"))

    assert eventually(all_shook_hands, 20, step=0.05), daemon.output()
    assert [n["state"] for n in daemon.nodes().values()] == ["starting"] * 2
    withhold.unlink()
    daemon.talk("Wait", dataflow="flow", state="running")
    assert all(n["state"] == "running" and n["pid"] > 0 for n in daemon.nodes().values()), daemon.nodes()
    daemon.talk("Stop", dataflow="flow", force=True)


# Service manager


def test_the_service_manager_is_told(start_daemon, tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        # WATCHDOG_PID is not set: it is meant for whoever has the variables
        daemon = start_daemon(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"})
        said = manager.recv(4096).decode()
        while "READY=1" not in said:
            said = manager.recv(4096).decode()
        assert "STATUS=" in said
        for _ in range(3):
            while manager.recv(4096) != b"WATCHDOG=1":
                pass
        # A supervisor that does not turn: nothing is said any more.
        os.kill(daemon.supervisor(), signal.SIGSTOP)
        manager.settimeout(1)
        silent = False
        for _ in range(20):
            try:
                manager.recv(4096)
            except TimeoutError:
                silent = True
                break
        os.kill(daemon.supervisor(), signal.SIGCONT)
        assert silent
        manager.settimeout(10)
        daemon.process.send_signal(signal.SIGTERM)
        while b"STOPPING=1" not in manager.recv(4096):
            pass


# Upgrade


def test_an_upgrade_in_place_keeps_every_process(start_daemon, build):
    daemon = start_daemon()
    start(daemon, program("a", SLEEP), program("b", SLEEP))
    before = {id: node["pid"] for id, node in nodes_of(daemon).items()}
    supervisor = daemon.supervisor()
    subprocess.run([build / "bin/tidegated", "--reexec", "--runtime-dir", daemon.runtime], check=True, timeout=20)
    logged(daemon, "adopted 2, lost 0, duplicated 0")
    assert {id: node["pid"] for id, node in nodes_of(daemon).items()} == before
    assert eventually(lambda: daemon.supervisor() not in (None, supervisor), 10)  # which was killed, and whose death nobody waits for
    assert daemon.process.poll() is None, "the same process goes on as another program"
    daemon.client().call("Stop", dataflow="flow", grace_ms=1000, timeout=20)


def test_there_is_nothing_to_upgrade_where_no_daemon_runs(build, tmp_path):
    result = subprocess.run([build / "bin/tidegated", "--reexec", "--runtime-dir", tmp_path], capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert "no daemon runs in" in result.stderr


# A supervisor that does not answer


def test_a_supervisor_that_stands_still_is_replaced(start_daemon):
    daemon = start_daemon("--watchdog", "0.5s")
    start(daemon, program("a", SLEEP))
    pid, supervisor = nodes_of(daemon)["a"]["pid"], daemon.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    logged(daemon, "adopted 1, lost 0, duplicated 0")
    assert eventually(lambda: daemon.supervisor() not in (None, supervisor), 10)  # which was killed, and whose death nobody waits for
    assert nodes_of(daemon)["a"]["pid"] == pid


def test_a_debugger_may_stop_a_supervisor_that_nobody_watches(start_daemon):
    daemon = start_daemon("--watchdog", "0")
    supervisor = daemon.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        Client(daemon.socket).call("GetHealth", timeout=1.5)
    os.kill(supervisor, signal.SIGCONT)
    assert daemon.call("GetHealth")["health"]["epoch"] == 1


def test_a_machine_that_stands_still_is_no_node_s_fault(start_daemon, build):
    daemon = start_daemon("--watchdog", "0")
    programs = build / "tests/system"
    start(
        daemon, node("beat", [programs / "beat", 1000], outputs=["out"]),
        node("hear", [programs / "hear"], inputs=[("in", "beat", "out")], stuck_timeout_ns=2_000_000_000, health_check_timeout_ns=2_000_000_000),
    )  # fmt: skip
    hear, supervisor = nodes_of(daemon)["hear"]["pid"], daemon.supervisor()
    os.kill(hear, signal.SIGSTOP)
    halted = time.monotonic()
    assert eventually(lambda: time.monotonic() > halted + 0.6, 5), "two looks have seen messages that wait for it"
    os.kill(supervisor, signal.SIGSTOP)
    assert eventually(lambda: time.monotonic() > halted + 3, 5)
    os.kill(supervisor, signal.SIGCONT)
    assert nodes_of(daemon)["hear"]["state"] == "running", "the first look after it"
    os.kill(hear, signal.SIGCONT)
    assert eventually(lambda: nodes_of(daemon)["hear"]["health"] in ("ok", "idle"), 10)
    assert (nodes_of(daemon)["hear"]["pid"], nodes_of(daemon)["hear"]["state"]) == (hear, "running")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have it so")
def test_a_keeper_is_in_a_hurry_for_the_turn_in_which_it_tells_of_an_exit(daemon):
    """Its supervisor has seen the death, and lends it the priority; a keeper that stands still shows it."""
    if os.sched_getscheduler(daemon.supervisor()) != os.SCHED_RR:
        pytest.skip("no real-time priority is to be had here")
    start(daemon, program("a", SLEEP), program("b", SLEEP))
    nodes = nodes_of(daemon)
    (keeper,) = [p for p in children_of(daemon.process.pid) if "--role=keeper" in arguments_of(p)]
    assert os.sched_getscheduler(keeper) == os.SCHED_OTHER
    os.kill(keeper, signal.SIGSTOP)
    try:
        os.kill(nodes["a"]["pid"], signal.SIGKILL)
        assert eventually(lambda: os.sched_getscheduler(keeper) == os.SCHED_RR | os.SCHED_RESET_ON_FORK, 10)
        assert nodes_of(daemon)["a"]["state"] == "running", "how it ended only its keeper knows"
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert eventually(lambda: nodes_of(daemon)["a"]["state"] == "failed", 10)
    assert eventually(lambda: os.sched_getscheduler(keeper) == os.SCHED_OTHER, 10)
    with daemon.client() as client:
        client.send("Events", more=True)
        daemon.call("GetHealth")  # it came later, so the other call has been taken
        os.kill(nodes["b"]["pid"], signal.SIGKILL)
        exited = next(e["event"] for e in client.replies() if e["event"].get("event") == "exited")
    assert exited["node"] == "b" and 0 < exited["seen_at_us"] <= exited["known_at_us"] <= (exited["at_ms"] + 1) * 1000


# Order


def after(**until):
    return [{"node": node, "until": how, "line": 1} for node, how in sorted(until.items())]


def test_root_without_the_right_to_lock_memory_is_not_held_to_a_limit_of_it(start_daemon):
    """Each later mapping would count, and fail at the limit's end."""
    daemon = start_daemon(prefix=("prlimit", "--memlock=8388608", "setpriv", "--bounding-set", "-ipc_lock"))
    for pid in (daemon.process.pid, daemon.supervisor()):
        assert status_field(pid, "VmLck").split()[0] == "0"


def test_nodes_start_after_those_that_they_are_after(daemon, tmp_path):
    log = tmp_path / "log"
    start(daemon,
          program("last", f"echo last >> {log}; {SLEEP}", after=after(middle="started")),
          program("middle", f"echo middle >> {log}; {SLEEP}", after=after(once="completed")),
          program("once", f"sleep 0.3; echo once >> {log}"))  # fmt: skip
    assert eventually(lambda: nodes_of(daemon)["last"]["state"] == "running", 10)
    assert eventually(lambda: len(log.read_text().split()) == 3, 10)
    assert log.read_text().split()[0] == "once"
    # Started is not "has printed": the two are told apart by when the kernel began them.
    began = {id: int(open(f"/proc/{node['pid']}/stat").read().rpartition(")")[2].split()[19]) for id, node in nodes_of(daemon).items() if node.get("pid")}
    assert began["middle"] <= began["last"]


def test_a_stop_runs_in_reverse_and_its_deadline_is_the_same(daemon, tmp_path):
    log = tmp_path / "log"
    says = "trap 'echo {0} >> {1}; exit 0' TERM\n: > {1}.{0}\nwhile :; do sleep 0.05; done"

    def until_they_listen():
        assert eventually(lambda: all((tmp_path / f"log.{name}").exists() for name in ("base", "top")), 10)
        for name in ("base", "top"):
            (tmp_path / f"log.{name}").unlink()

    start(daemon,
          program("base", says.format("base", log)),
          program("top", says.format("top", log), after=after(base="ready")),
          program("stubborn", STUBBORN, after=after(top="ready")), grace_ms=1000)  # fmt: skip
    assert eventually(lambda: nodes_of(daemon)["stubborn"]["state"] == "running", 10)
    until_deaf(daemon)
    until_they_listen()
    begun = time.monotonic()
    (result,) = daemon.client().call("Stop", dataflow="flow", timeout=20)["results"]
    assert 1.0 < time.monotonic() - begun < 1.5 + 2 + SLACK
    assert 1000 <= result["stop_ms"] <= 3500, result
    # They have half a grace for it then, in which a full machine may not let them write: asked they were all the same.
    asked = {e["node"]: e["at_ms"] for e in reversed(result["ledger"]) if e.get("node") in ("base", "top") and e["rung"] in ("ask", "term")}
    assert asked.keys() == {"base", "top"} and min(asked.values()) >= 1000, "both heard of it once the grace was over"

    log.unlink(missing_ok=True)
    start(daemon, program("base", says.format("base", log)), program("top", says.format("top", log), after=after(base="ready")), name="tidy")
    assert eventually(lambda: nodes_of(daemon, "tidy")["top"]["state"] == "running", 10)
    until_they_listen()
    daemon.client().call("Stop", dataflow="tidy", timeout=20)
    assert log.read_text().split() == ["top", "base"]


def test_a_node_after_one_that_failed_never_starts_and_says_why(daemon):
    start(daemon, program("bad", "exit 3"), program("next", SLEEP, after=after(bad="completed")), program("other", SLEEP))
    assert eventually(lambda: nodes_of(daemon)["next"]["state"] == "failed", 10)
    assert "it is after bad (completed)" in nodes_of(daemon)["next"]["error"]
    assert nodes_of(daemon)["other"]["state"] == "running"


def test_on_failure_stop_ends_the_dataflow(daemon):
    start(daemon, program("a", SLEEP), program("bad", "sleep 0.2; exit 3", on_failure="stop"), grace_ms=1000)
    assert eventually(lambda: daemon.status("flow")["state"] == "ended", 10)
    assert daemon.status("flow")["result"] == "failed"


def test_on_failure_restart_downstream_begins_those_behind_anew(daemon, tmp_path):
    gate = tmp_path / "gate"
    start(daemon,
          program("bad", f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 3", on_failure="restart-downstream"),
          program("behind", SLEEP, after=after(bad="started")),
          program("beside", SLEEP), grace_ms=1000)  # fmt: skip
    assert eventually(lambda: nodes_of(daemon)["behind"]["state"] == "running", 10)
    before = nodes_of(daemon)
    gate.touch()
    assert eventually(lambda: nodes_of(daemon)["behind"]["generation"] == 2 and nodes_of(daemon)["behind"]["state"] == "running", 10)
    assert nodes_of(daemon)["beside"]["pid"] == before["beside"]["pid"]
    assert nodes_of(daemon)["bad"]["state"] == "failed"


# Dynamic nodes


def dynamic(id, **keys):
    return {**program(id, ""), "kind": "dynamic", "argv": [], "capture": False, **keys}


@pytest.fixture
def talker(build):
    """A node that sends the next number every 50 ms."""
    script = f"i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done | {build}/bin/tidegate-pipe --send out"
    return {**program("talker", script), "kind": "node", "outputs": ["out"]}


def line_of(process, seconds=10):
    """The next line that it prints."""
    assert select.select([process.stdout], [], [], seconds)[0], "nothing was printed in time"
    return process.stdout.readline()


def viewer(**keys):
    return dynamic("viewer", inputs=[{"id": "in", "line": 1, "source": {"node": "talker", "output": "out"}, "queue_size": 10,
                                      "queue_policy": "drop_oldest", "input_timeout_ns": 0}], **keys)  # fmt: skip


@pytest.fixture
def by_hand(build, node_environment, traces):
    """Start a program by hand, as a user in a shell would; ended at the end."""
    from conftest import MARK

    processes = []

    def begin(daemon, *args):
        env = {**node_environment, MARK: traces.mark, "TIDEGATE_NODE_SOCKET": str(daemon.runtime / "node.sock")}
        processes.append(subprocess.Popen([build / "bin/tidegate-pipe", *args], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                          stderr=subprocess.PIPE, text=True, bufsize=1))  # fmt: skip
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def test_a_program_started_by_hand_takes_part_and_is_told_to_stop(daemon, talker, by_hand):
    start(daemon, talker, viewer())
    assert daemon.status("flow")["state"] == "running", "nobody waits for it"
    process = by_hand(daemon, "--as", "viewer", "--receive", "in")
    first = int(line_of(process))
    assert int(line_of(process)) > first
    assert nodes_of(daemon)["viewer"]["state"] == "running"
    os.kill(daemon.supervisor(), signal.SIGKILL)
    logged(daemon, "adopted 2, lost 0, duplicated 0")
    assert int(line_of(process)) > first + 1
    daemon.client().call("Stop", dataflow="flow", grace_ms=3000, timeout=20)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_one_that_leaves_may_come_again_and_one_too_many_is_refused(daemon, talker, by_hand):
    start(daemon, talker, viewer())
    process = by_hand(daemon, "--as", "viewer", "--receive", "in")
    assert line_of(process)
    second = by_hand(daemon, "--as", "viewer", "--receive", "in")
    assert "viewer is connected already" in second.communicate(timeout=10)[1]
    assert second.returncode != 0
    process.kill()
    process.wait(10)
    assert eventually(lambda: nodes_of(daemon)["viewer"]["state"] == "starting", 10)
    again = by_hand(daemon, "--as", "viewer", "--receive", "in")
    assert line_of(again)
    stranger = by_hand(daemon, "--as", "nobody", "--receive", "in")
    assert 'no dataflow that runs here has a dynamic node "nobody"' in stranger.communicate(timeout=10)[1]


def test_one_that_never_comes_or_hangs_delays_nothing(daemon, talker, by_hand):
    start(daemon, talker, viewer(), grace_ms=1000)
    begun = time.monotonic()
    daemon.client().call("Stop", dataflow="flow", timeout=20)
    assert time.monotonic() - begun < 1.0, "nobody came, nobody is waited for"

    start(daemon, talker, viewer(), name="again", grace_ms=500)
    process = by_hand(daemon, "--as", "viewer", "--receive", "in")
    assert line_of(process)
    os.kill(process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    daemon.client().call("Stop", dataflow="again", timeout=20)
    assert 0.5 <= time.monotonic() - begun < 0.75 + 2, "it is asked, and let go of when the others get SIGTERM"
    assert process.poll() is None, "nobody kills what somebody else has started"
    os.kill(process.pid, signal.SIGCONT)


# Who leaves the cgroup of its node


@pytest.mark.cgroup_only
def test_a_process_of_root_s_that_moved_up_into_the_dataflow_s_cgroup_ends_with_it(daemon, tmp_path):
    mount = next(fields[1] for fields in map(str.split, open("/proc/self/mounts")) if fields[2] == "cgroup2")
    body = "trap '' TERM INT HUP\necho $$ > $UP/cgroup.procs\necho $$ > $TOLD\nwhile :; do sleep 0.1; done"
    move = f"UP={mount}$(dirname $(sed -n 's/^0:://p' /proc/self/cgroup)) TOLD={tmp_path}/pid setsid sh -c '{body.replace(chr(39), chr(34))}' & wait"
    start(daemon, {**program("mover", move), "cgroup_writable": True}, grace_ms=300)
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), 20)
    pid = int((tmp_path / "pid").read_text())
    assert status_field(pid, "State"), "it lives"
    reply = daemon.client().call("Stop", dataflow="flow", timeout=20)
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"), 10), "nobody is left"
    assert eventually(lambda: "had left the cgroups of their nodes" in daemon.output() + str(reply), 10), (reply, daemon.output())
    for _ in range(3):
        start(daemon, program("next", SLEEP), name="next")
        daemon.client().call("Stop", dataflow="next", timeout=20)
