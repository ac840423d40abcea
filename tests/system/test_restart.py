# SPDX-License-Identifier: Apache-2.0
"""Restart policies: who is started again, when, how often; that data flows again afterwards, and under backpressure all of it."""

import re
import select
import signal

import pytest
from conftest import eventually
from lives import Process, status_field


def starts(run, id):
    """(time of each start in ns, by the node's own first line)"""
    return [e["time_ns"] for e in run.events() if e["type"] == "log" and e["node"] == id and e["text"] == "up"]


@pytest.fixture
def one(script, dataflow, live):
    """Run one program that says "up" and goes on as the shell text says, with these restart keys."""

    def run(body, *args, **keys):
        program = script("program", f"echo up\n{body}")
        return live(dataflow({"nodes": [{"id": "one", "path": str(program), **keys}]}), *args)

    return run


# Which end is followed by another start


@pytest.mark.parametrize(
    "policy,status,again",
    [
        (None, 1, False),
        ("never", 1, False),
        ("never", 0, False),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("always", 0, True),
        ("always", 1, True),
    ],
)
def test_policy(policy, status, again, one, nothing_left):
    keys = {"restart_policy": policy, "max_restarts": 2} if policy else {}
    run = one(f"exit {status}", **keys).wait(20)
    assert len(starts(run, "one")) == (3 if again else 1)
    assert run.node("one")["restarts"] == (2 if again else 0)
    assert run.status == status, "the last end is what counts"
    nothing_left()


def test_a_signal_is_a_failure(one, nothing_left):
    run = one("kill -KILL $$", restart_policy="on-failure", max_restarts=1).wait(20)
    assert run.node("one")["restarts"] == 1 and run.node("one")["error"] == "was ended by SIGKILL"
    nothing_left()


def test_an_end_before_the_handshake_is_a_failure_like_any_other(script, dataflow, live, nothing_left):
    early = script("early", "echo up\nexit 0")
    run = live(dataflow({"nodes": [
        {"id": "one", "path": str(early), "outputs": ["out"], "restart_policy": "on-failure", "max_restarts": 2},
    ]})).wait(20)  # fmt: skip
    assert len(starts(run, "one")) == 3
    assert run.status == 1 and "before it was ready" in run.node("one")["error"]
    nothing_left()


def test_one_that_recovers_has_succeeded(one, nothing_left, tmp_path):
    run = one("[ -e recovered ] && exit 0\ntouch recovered\nexit 1", restart_policy="on-failure").wait(20)
    assert run.status == 0 and run.node("one")["restarts"] == 1 and run.node("one")["state"] == "stopped"
    assert "error" not in run.node("one"), "the error of an earlier life is not the end's"
    nothing_left()


# When


def test_the_delay_doubles_up_to_its_maximum(one, nothing_left):
    run = one("exit 1", restart_policy="always", max_restarts=5, restart_delay=0.1, max_restart_delay=0.4).wait(30)
    at = starts(run, "one")
    gaps = [(b - a) / 1e9 for a, b in zip(at, at[1:])]
    assert len(gaps) == 5
    for gap, least in zip(gaps, [0.1, 0.2, 0.4, 0.4, 0.4]):
        assert gap >= least - 0.01, gaps
    # Against a delay that goes on doubling (0.8 and 1.6), with room for a busy machine.
    assert gaps[3] + gaps[4] < 2.0, gaps
    nothing_left()


def test_a_window_that_has_passed_gives_a_fresh_budget(one, nothing_left):
    run = one("sleep 0.35; exit 1", restart_policy="always", max_restarts=1, restart_window=0.3)
    assert eventually(lambda: len(starts(run, "one")) >= 4, 20), "each life outlasts the window"
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.node("one")["restarts"] >= 3
    nothing_left()


def test_within_its_window_the_budget_is_spent(one, nothing_left):
    run = one("exit 1", restart_policy="always", max_restarts=3, restart_window=3600.0).wait(20)
    assert run.node("one")["restarts"] == 3 and run.status == 1
    nothing_left()


def test_the_next_life_waits_until_nobody_of_the_last_one_is_left(script, dataflow, live, nothing_left):
    """F1, F4: a child that ignores SIGTERM would still hold the port when the second copy starts."""
    child = script("child", "trap '' TERM\nexec 9>port\nflock -n 9 || echo OVERLAP\ntouch held\nexec sleep 1000")
    leader = script("leader", f"echo up\nrm -f held\n{child} &\nwhile [ ! -e held ]; do sleep 0.01; done\nexit 1")
    run = live(
        dataflow({"nodes": [{"id": "one", "path": str(leader), "restart_policy": "on-failure", "max_restarts": 1}]}),
        "--grace-duration", "500ms",
    ).wait(30)  # fmt: skip
    assert len(starts(run, "one")) == 2
    assert "OVERLAP" not in run.stdout.read_text()
    nothing_left()


# No restart


def test_nobody_is_started_again_after_a_stop(one, nothing_left):
    run = one("trap 'exit 1' TERM\nwhile :; do sleep 0.02; done", restart_policy="always")
    run.until('"text":"up"')
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert len(starts(run, "one")) == 1 and run.node("one")["restarts"] == 0
    nothing_left()


def test_nobody_is_started_again_once_all_its_inputs_have_closed(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "flood", "path": f"{nodes}/flood", "args": "10 64", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "flood/out"}, "restart_policy": "always"},
    ]})).wait(20)  # fmt: skip
    assert run.status == 0 and run.node("hear")["restarts"] == 0
    nothing_left()


# Data


def heard(run, id="hear"):
    return [e["text"] for e in run.events() if e["type"] == "log" and e["node"] == id]


@pytest.mark.sanitized
@pytest.mark.parametrize("policy", ["drop_oldest", "backpressure"])
def test_a_source_that_died_feeds_again_and_downstream_is_told(policy, build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "200 50", "outputs": ["out"], "restart_policy": "on-failure"},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": {"source": "beat/out", "queue_policy": policy}}},
    ]}))  # fmt: skip
    run.until('"text":"INPUT in 1:')
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.status == 0
    lines = heard(run)
    assert lines.count("NODE_RESTARTED beat ") == 1
    assert not any(line.startswith("INPUT_CLOSED") for line in lines), "a source that comes again does not close its outputs"
    first, again = next(x for x in lines if x.startswith("INPUT in 0:")), next(x for x in lines if x.startswith("INPUT in 1:"))
    assert lines.index(first) < lines.index(again)
    assert run.node("beat")["restarts"] == 1 and run.node("hear")["restarts"] == 0
    nothing_left()


@pytest.mark.sanitized
@pytest.mark.parametrize("policy", ["drop_oldest", "backpressure"])
def test_a_reader_that_died_reads_again(policy, build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "200", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "args": "30", "restart_policy": "on-failure",
         "inputs": {"in": {"source": "beat/out", "queue_policy": policy}}},
    ]}))  # fmt: skip
    assert eventually(lambda: "OPEN 1" in heard(run) and heard(run)[-1].startswith("INPUT in 0:"), 30), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.status == 0
    lines = heard(run)
    first, second = lines[: lines.index("OPEN 1")], lines[lines.index("OPEN 1") + 1 :]
    number = [int(next(x for x in life if x.startswith("INPUT")).rpartition(":")[2]) for life in (first, second)]
    if policy == "backpressure":
        assert number[1] == number[0] + 30, "what the first life had not taken waits for the second"
    assert run.node("hear")["restarts"] == 1 and run.node("beat")["restarts"] == 0
    nothing_left()


def took(run, id="mortal"):
    """[(first, last), ...]: the runs of numbers without a gap that it has told of, as (incarnation of the source, number)"""
    lines = [x.split() for x in heard(run, id) if x.startswith("TOOK ")]
    return [tuple(tuple(map(int, x.split(":"))) for x in line[1:]) for line in lines]


@pytest.fixture
def mortal(build, dataflow, live):
    """beat, whose messages a node takes that ends again and again, under backpressure, and another that only looks on."""

    def run(takes, lives, how, *args, **keys):
        nodes = build / "tests/system"
        return live(dataflow({"nodes": [
            {"id": "beat", "path": f"{nodes}/beat", "args": "200", "outputs": ["out"], "restart_policy": "on-failure"},
            {"id": "mortal", "path": f"{nodes}/mortal", "args": f"{takes} {lives} {how}",
             "inputs": {"in": {"source": "beat/out", "queue_policy": "backpressure"}}, **keys},
            {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "beat/out"}},
        ]}), *args)  # fmt: skip

    return run


def let_it_look(pid, times=50):
    """Until the source has looked for room, or sent, so often: it sleeps before each."""
    before = int(status_field(pid, "voluntary_ctxt_switches"))
    assert eventually(lambda: int(status_field(pid, "voluntary_ctxt_switches")) > before + times, 20)


def goes_on(run):
    """The source sends: of its messages `hear` tells every 100th."""
    before = len(heard(run))
    return eventually(lambda: len([x for x in heard(run)[before:] if x.startswith("INPUT")]) >= 2, 20)


@pytest.mark.sanitized
@pytest.mark.parametrize("how", ["die", "leave"])
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_backpressure_loses_nothing_however_often_a_reader_ends(delay, how, mortal, nothing_left):
    run = mortal(50, 4, how, restart_policy="on-failure", restart_delay=delay)
    assert eventually(lambda: len(took(run)) == 5, 60), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    lives = took(run)
    assert lives[0][0] == (0, 0)
    for one, next in zip(lives, lives[1:]):
        assert one[1][0] == next[0][0] and one[1][1] + 1 == next[0][1], lives
    assert run.status == 0 and run.node("mortal")["restarts"] == 4 and run.node("beat")["restarts"] == 0
    nothing_left()


@pytest.mark.sanitized
def test_backpressure_loses_nothing_while_a_slow_supervisor_has_not_heard_of_the_death(mortal, nothing_left):
    run = mortal(30, 1, "hang", restart_policy="on-failure")
    beat = run.until_event(type="node", node="beat", to="running")["pid"]
    reader = Process(run.until_event(type="node", node="mortal", to="running")["pid"])
    assert eventually(lambda: len(took(run)) == 1, 30), run.output()
    supervisor = run.take("supervisor")
    supervisor.send(signal.SIGSTOP)
    reader.send(signal.SIGKILL)
    assert select.select([reader.fd], [], [], 20)[0]
    let_it_look(beat)
    supervisor.send(signal.SIGCONT)
    assert eventually(lambda: len(took(run)) == 2, 30), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert took(run)[:2] == [((0, 0), (0, 29)), ((0, 30), (0, 59))]
    reader.close()
    supervisor.close()
    nothing_left()


@pytest.mark.sanitized
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"restart_policy": "on-failure", "max_restarts": 2},
        {"restart_policy": "on-failure", "max_restarts": 2, "restart_delay": 0.3},
    ],
    ids=["never", "twice", "twice, later"],
)
def test_a_source_goes_on_once_its_reader_will_not_come_again(keys, mortal, nothing_left):
    run = mortal(20, 10, "die", **keys)
    run.until_event(type="node", node="mortal", to="failed")
    assert goes_on(run), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.node("beat")["state"] == "stopped" and not run.node("beat")["killed"]
    lives = took(run)
    assert len(lives) == 1 + keys.get("max_restarts", 0) and lives[-1][1] == (0, 20 * len(lives) - 1)
    nothing_left()


def test_a_source_goes_on_when_the_next_life_of_its_reader_cannot_begin(build, dataflow, live, script, nothing_left):
    """The heir is announced, and never gets as far as its handshake."""
    nodes = build / "tests/system"
    once = script("once", f"[ -e begun ] && exit 3\ntouch begun\nexec {nodes}/mortal 20 1 die")
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "200", "outputs": ["out"]},
        {"id": "mortal", "path": str(once), "restart_policy": "on-failure", "max_restarts": 1,
         "inputs": {"in": {"source": "beat/out", "queue_policy": "backpressure"}}},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "beat/out"}},
    ]}))  # fmt: skip
    run.until_event(type="node", node="mortal", to="failed")
    assert goes_on(run), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    nothing_left()


def test_a_source_that_waits_for_its_reader_is_stopped_at_once(mortal, nothing_left):
    run = mortal(20, 1, "die", "--grace-duration", "10s", restart_policy="on-failure", restart_delay=600.0)
    beat = run.until_event(type="node", node="beat", to="running")["pid"]
    run.until_event(type="node", node="mortal", to="backoff")
    let_it_look(beat)
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.status == 0 and run.result()["stop_ms"] < 5000
    assert run.node("beat")["state"] == "stopped" and run.node("mortal")["state"] == "stopped"
    assert int(heard(run)[-1].removeprefix("END ")) <= 40, "what the reader had taken, a queue, and a few at the stop"
    nothing_left()


@pytest.mark.sanitized
def test_when_both_ends_die_the_reader_misses_nothing_of_the_new_source_and_is_told_of_the_rest(mortal, nothing_left):
    run = mortal(20, 1, "die", restart_policy="on-failure", restart_delay=2.0)
    beat = Process(run.until_event(type="node", node="beat", to="running")["pid"])
    run.until_event(type="node", node="mortal", to="backoff")
    let_it_look(beat.pid, 5)  # so there is something that is lost
    beat.send(signal.SIGKILL)
    beat.close()
    run.until_event(type="node", node="beat", to="running", generation=2)
    assert eventually(lambda: len(took(run)) == 2, 30), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert took(run)[0] == ((0, 0), (0, 19)) and took(run)[1] == ((1, 0), (1, 19))
    notes = [e["text"] for e in run.events() if e["type"] == "note" and e.get("node") == "mortal"]
    assert len(notes) == 1 and re.fullmatch(r"\d+ messages of beat/out are lost \(consumer_dead\): .*", notes[0]), notes
    nothing_left()


def test_who_waits_for_the_next_life_of_a_reader_is_not_to_blame_for_it(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "200", "outputs": ["out"]},
        {"id": "relay", "path": f"{nodes}/relay", "outputs": ["out"], "health_check_timeout": 2.0, "restart_policy": "on-failure",
         "inputs": {"in": {"source": "beat/out", "queue_policy": "backpressure"}}},
        {"id": "mortal", "path": f"{nodes}/mortal", "args": "20 1 die", "restart_policy": "on-failure", "restart_delay": 6.0,
         "inputs": {"in": {"source": "relay/out", "queue_policy": "backpressure"}}},
    ]}))  # fmt: skip
    assert eventually(lambda: len(took(run)) == 2, 30), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert took(run)[:2] == [((0, 0), (0, 19)), ((0, 20), (0, 39))]
    assert run.node("relay")["restarts"] == 0
    assert "under backpressure it waits for the next life of mortal" in run.output()
    nothing_left()


@pytest.mark.sanitized
def test_a_node_in_the_middle_gets_its_links_again(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "200", "outputs": ["out"]},
        {"id": "relay", "path": f"{nodes}/relay", "inputs": {"in": "beat/out"}, "outputs": ["out"], "restart_policy": "on-failure"},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "relay/out"}},
    ]}))  # fmt: skip
    for life in (1, 2):
        relay = run.until_event(type="node", node="relay", to="running", generation=life)
        before = len(heard(run))
        assert eventually(lambda: len([x for x in heard(run)[before:] if x.startswith("INPUT")]) >= 2, 20), run.output()
        process = Process(relay["pid"])
        process.send(signal.SIGKILL)
        process.close()
    run.until_event(type="node", node="relay", to="running", generation=3)
    assert eventually(lambda: heard(run).count("NODE_RESTARTED relay ") == 2, 20), heard(run)
    before = len(heard(run))
    assert eventually(lambda: len([x for x in heard(run)[before:] if x.startswith("INPUT")]) >= 2, 20), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.status == 0
    assert run.node("relay")["restarts"] == 2
    assert not any(line.startswith("INPUT_CLOSED") for line in heard(run))
    nothing_left()


def test_a_node_that_failed_for_good_is_told_to_who_reads_it(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "200 20", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "beat/out"}},
    ]})).wait(20)  # fmt: skip
    lines = heard(run)
    assert "NODE_FAILED beat exited with status 9" in lines
    assert "INPUT_CLOSED in " in lines and "STOP ALL_INPUTS_CLOSED " in lines
    assert run.status == 1 and run.node("hear")["state"] == "stopped"
    nothing_left()


def test_a_reader_of_two_keeps_the_living_one(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "mortal", "path": f"{nodes}/beat", "args": "200 20", "outputs": ["out"]},
        {"id": "steady", "path": f"{nodes}/beat", "args": "200", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"a": "mortal/out", "b": "steady/out"}},
    ]}))  # fmt: skip
    run.until('"text":"INPUT_CLOSED a ')
    before = len(heard(run))
    assert eventually(lambda: any(x.startswith("INPUT b") for x in heard(run)[before:]), 20)
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert "STOP MANUAL " in heard(run)
    nothing_left()


def test_a_node_that_left_the_dataflow_and_lives_on_has_closed_its_outputs(build, dataflow, tmp_path, live, nothing_left):
    (tmp_path / "leaver.py").write_text(
        "import tidegate, time\nnode = tidegate.Node()\nnode.send_output('out', b'0:0')\nnode.close()\ntime.sleep(1000)\n"
    )
    run = live(dataflow({"nodes": [
        {"id": "leaver", "path": str(tmp_path / "leaver.py"), "outputs": ["out"], "restart_policy": "always"},
        {"id": "hear", "path": f"{build}/tests/system/hear", "inputs": {"in": "leaver/out"}},
    ]}))  # fmt: skip
    run.until_event(type="node", node="hear", to="stopped")
    assert eventually(lambda: "INPUT_CLOSED in " in heard(run), 20), "what it prints comes another way than that it has ended"
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.status == 0 and run.node("leaver")["restarts"] == 0
    nothing_left()


def test_a_reader_that_left_the_dataflow_and_lives_on_keeps_no_place(build, dataflow, tmp_path, live, nothing_left):
    """It might be ending, to be started again; after a while it is taken for one that stays, also by a source that begins anew."""
    (tmp_path / "leaver.py").write_text(
        "import tidegate, time\nnode = tidegate.Node()\nnode.next()\nnode.close()\ntime.sleep(1000)\n"
    )
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{build}/tests/system/beat", "args": "200", "outputs": ["out"], "restart_policy": "on-failure"},
        {"id": "leaver", "path": str(tmp_path / "leaver.py"), "restart_policy": "always",
         "inputs": {"in": {"source": "beat/out", "queue_policy": "backpressure"}}},
        {"id": "hear", "path": f"{build}/tests/system/hear", "inputs": {"in": "beat/out"}},
    ]}))  # fmt: skip
    run.until('"text":"INPUT in 0:')  # whichever: one more than a queue may be sent before it has looked
    assert goes_on(run), run.output()
    beat = Process(run.until_event(type="node", node="beat", to="running")["pid"])
    beat.send(signal.SIGKILL)
    beat.close()
    run.until_event(type="node", node="beat", to="running", generation=2)
    assert goes_on(run), run.output()
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert run.node("leaver")["restarts"] == 0
    nothing_left()


# health_check_timeout


def test_a_node_that_takes_none_of_its_messages_for_so_long_has_failed_and_begins_anew(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    run = live(dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "1000", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "beat/out"}, "health_check_timeout": 2.0, "restart_policy": "on-failure"},
    ]}), "--grace-duration", "500ms")  # fmt: skip
    hear = Process(run.until_event(type="node", to="running", node="hear")["pid"])
    hear.send(signal.SIGSTOP)
    hear.close()
    run.until_event(type="log", node="hear", text="OPEN 1")
    assert eventually(lambda: heard(run)[-1].startswith("INPUT in 0:"), 20), "it hears again"
    run.process.send_signal(signal.SIGINT)
    run.wait(20)
    assert "within health_check_timeout (2 s)" in run.output(), "why it was ended"
    assert run.node("beat")["restarts"] == 0, "the other node is not to blame"
    assert run.node("hear")["restarts"] == 1, "one that takes its messages is left alone"
    nothing_left()
