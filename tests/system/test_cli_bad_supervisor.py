# SPDX-License-Identifier: Apache-2.0
"""Supervisors that are not there, silent, slow, lying or half-answering: every command ends in bounded time and says why."""

import json
import signal
import threading
import time

import pytest
from conftest import eventually
from supervisor import dataflow, node
from test_cli_start import read_until

pytestmark = pytest.mark.sanitized

QUERIES = [["list"], ["status"], ["node", "list"], ["pid"], ["clean"], ["reset", "x"], ["logs", "x"], ["stop", "x"], ["down"], ["wait", "x", "running"]]
SOME = [["list"], ["status", "x"], ["pid"], ["stop", "x"], ["logs", "x"]]


@pytest.mark.parametrize("args", [*QUERIES, ["events"], ["restart", "x"]], ids=" ".join)
def test_nobody_there(talk, args):
    p = talk(*args)
    assert p.returncode == 5 and p.stdout == ""
    assert "no supervisor is running there" in p.stderr and "tidegate up" in p.stderr
    assert p.seconds < 5


@pytest.mark.parametrize("args", SOME, ids=" ".join)
def test_a_socket_without_a_listener(talk, fake, args):
    fake.stop_listening()
    p = talk(*args)
    assert p.returncode == 5 and "no supervisor is running there" in p.stderr


def all_answer(fake, answer):
    for method in ("GetHealth", "List", "Status", "Clean", "Reset", "Wait", "Stop", "Shutdown"):
        fake.answers[method] = answer


@pytest.mark.parametrize("args", QUERIES, ids=" ".join)
def test_silence_is_waited_for_as_long_as_was_said(talk, fake, args):
    all_answer(fake, lambda c, p: c.silence())
    p = talk(*args, *([] if args[0] == "wait" else ["--timeout", "0.4s"]))
    assert p.returncode == 5, p.stderr
    assert "does not answer" in p.stderr
    assert (5 if args[0] == "wait" else 0.4) <= p.seconds < 12


@pytest.mark.parametrize("args", [["list"], ["clean"]], ids=" ".join)
def test_a_query_is_not_waited_for_longer_because_the_supervisor_lives(talk, fake, args):
    fake.answers["List"] = fake.answers["Clean"] = lambda c, p: c.silence()
    p = talk(*args, "--timeout", "0.4s")
    assert p.returncode == 5 and p.seconds < 5


@pytest.mark.parametrize("args", SOME, ids=" ".join)
def test_nobody_accepts_and_the_backlog_is_full(talk, tmp_path, args):
    import os
    import socket

    (tmp_path / "run").mkdir()
    here = os.open(tmp_path / "run", os.O_PATH)
    name = f"/proc/self/fd/{here}/control.sock"
    listener, clients = socket.socket(socket.AF_UNIX), []
    listener.bind(name)
    listener.listen(0)
    try:
        while True:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            clients[-1].connect(name)
    except BlockingIOError:
        pass
    p = talk(*args, "--timeout", "0.4s")
    for sock in (listener, *clients):
        sock.close()
    os.close(here)
    assert p.returncode == 5 and "does not answer" in p.stderr and p.seconds < 10


GARBAGE = {
    "no JSON": b"hello\0",
    "no object": b"[1]\0",
    "no UTF-8": b'{"parameters":{"a":"\xff"}}\0',
    "parameters of a wrong type": b'{"parameters":[]}\0',
    "an error of a wrong type": b'{"error":7}\0',
    "a name twice": b'{"parameters":{},"parameters":{}}\0',
    "deep nesting": b"[" * 100000 + b"\0",
    "an empty frame": b"\0",
    "a stream nobody asked for": b'{"continues":true,"parameters":{}}\0',
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("args", [["list"], ["pid"], ["status"]], ids=" ".join)
def test_what_is_no_reply_is_not_believed(talk, fake, args, data):
    all_answer(fake, lambda c, p: c.raw(data))
    p = talk(*args)
    assert p.returncode == 5 and "cannot be understood" in p.stderr


TYPES = {
    "dataflows": {"dataflows": {"a": 1}},
    "nothing": {},
    "null": {"dataflows": None},
}


@pytest.mark.parametrize("parameters", TYPES.values(), ids=TYPES)
def test_fields_of_a_wrong_type_are_no_list(talk, fake, parameters):
    all_answer(fake, lambda c, p: c.reply(**parameters))
    for args in (["list"], ["status"]):
        assert talk(*args).returncode == 5


def test_objects_full_of_wrong_types_are_survived(talk, fake):
    odd = {"uuid": 1, "name": None, "state": [], "nodes": [1, None, {"id": {}, "pid": "x", "exit": 3}], "cgroup": 7, "log_dir": {}, "n_nodes": "many"}
    fake.dataflows = [odd, 3, None, {**dataflow("x", node("n")), "nodes": "none"}]
    all_answer(fake, lambda c, p: c.reply(dataflows=fake.dataflows, health=5))
    for args in (["list"], ["status"], ["status", "x"], ["node", "list"], ["node", "info", "x"], ["pid"], ["pid", "x"], ["logs", "x"], ["stop", "x", "--timeout", "1s"]):
        p = talk(*args)
        assert p.returncode in (0, 1, 2, 3, 4, 5), f"{args} {p.returncode} {p.stderr}"


def test_a_reply_larger_than_any_is_refused(talk, fake):
    def flood(c, p):
        for _ in range(20):
            c.raw(b" " * (1 << 20))
        c.silence()

    all_answer(fake, flood)
    p = talk("list", timeout=60)
    assert p.returncode == 5 and "cannot be understood" in p.stderr


def test_a_large_reply_is_read_whole(talk, fake):
    fake.dataflows = [dataflow(f"d{i}", *(node(f"n{k}", error="x" * 200) for k in range(100))) for i in range(100)]
    p = talk("status", "--json")
    assert p.returncode == 0 and len(json.loads(p.stdout)["dataflows"]) == 100


def test_half_an_answer_is_none(talk, fake):
    def half(c, p):
        c.raw(b'{"parameters":{"dataflows":[')
        c.silence()

    all_answer(fake, half)
    p = talk("list", "--timeout", "0.5s")
    assert p.returncode == 5 and "does not answer" in p.stderr and p.seconds < 5


def test_half_an_answer_and_a_hang_up(talk, fake):
    def half(c, p):
        c.raw(b'{"parameters":{"dataflows":[')
        c.hang_up()

    all_answer(fake, half)
    p = talk("list")
    assert p.returncode == 5 and "hung up" in p.stderr and p.seconds < 5


def test_an_answer_in_single_bytes_is_put_together(talk, fake):
    fake.dataflows = [dataflow("x", node("n"))]

    def slowly(c, p):
        for byte in json.dumps({"parameters": {"dataflows": fake.dataflows}}).encode() + b"\0":
            c.raw(bytes([byte]))

    fake.answers["Status"] = slowly
    p = talk("status")
    assert p.returncode == 0 and "x:n" in p.stdout


def test_a_slow_call_goes_on_while_the_supervisor_lives(talk_on, fake):
    """Longer than --timeout, but another connection says that it lives."""
    fake.dataflows = [dataflow("x", node("n"))]
    said = threading.Event()

    def slowly(c, p):
        fake.called("GetHealth", 2)
        said.wait(20)
        c.reply(node=node("n", "stopped"))

    fake.answers["StopNode"] = slowly
    t = talk_on("node", "stop", "x:n", "--timeout", "0.8s")
    read_until(t.process, "waiting for x:n to be stopped, at most")  # longer than a second: it says so
    said.set()
    t.finish()
    assert t.returncode == 0 and "x:n: stopped" in t.stdout
    assert len([m for m, _ in fake.calls if m == "GetHealth"]) >= 2


def test_a_slow_call_ends_when_the_supervisor_does_not_live(talk, fake):
    fake.dataflows = [dataflow("x", node("n"))]
    fake.answers["StopNode"] = fake.answers["GetHealth"] = lambda c, p: c.silence()
    p = talk("node", "stop", "x:n", "--timeout", "0.3s")
    assert p.returncode == 5 and "does not answer" in p.stderr and p.seconds < 8


def test_a_wait_that_is_not_answered_in_time_is_late(talk, fake):
    fake.answers["Wait"] = lambda c, p: c.silence()
    p = talk("wait", "x", "running", "--timeout", "0.2s")
    assert p.returncode == 3 and "waited in vain for x to be running" in p.stderr and p.seconds < 6


@pytest.mark.parametrize("args", [["list"], ["wait", "x", "running"], ["events"], ["pid"]], ids=" ".join)
def test_ctrl_c_leaves_at_once(talk_on, fake, args):
    for method in ("List", "Wait", "Events", "GetHealth"):
        fake.answers[method] = lambda c, p: c.silence()
    t = talk_on(*args)
    assert eventually(lambda: fake.calls, 20)
    begin = time.monotonic()
    t.interrupt()
    t.finish()
    assert t.returncode == -signal.SIGINT and time.monotonic() - begin < 2


def test_a_reader_that_goes_away_ends_a_stream(talk_on, fake):
    def stream(c, p):
        while True:
            c.event(type="note", name="x", text="y" * 1000)

    fake.answers["Events"] = stream
    t = talk_on("events")
    t.process.stdout.read(10)
    t.process.stdout.close()
    assert t.process.wait(20) != 0
