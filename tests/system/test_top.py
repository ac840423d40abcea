# SPDX-License-Identifier: Apache-2.0
"""`tidegate top`: once, as text and JSON; on a terminal: keys, sizes, and a daemon that is silent, dies and comes back."""

import fcntl
import json
import os
import pathlib
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest
from conftest import eventually
from screen import Screen
from supervisor import FakeSupervisor, dataflow, node, now_ms

UUID = "aaaa0000-1111-4000-8000-000000000000"
FAST = ("--interval", "100ms")


def link(depth=9, published=100, **changes):
    return {
        "input": "in", "source": "source", "output": "frames", "state": "active", "queue_policy": "drop_oldest", "queue_size": 10,
        "counters": {"published": published, "delivered": published - depth - 3, "bytes": 5, "copied": 0, "dropped": {"window": 2, "pool": 1}, "depth": depth,
                     "age_us": 1500 if depth else 0, "holds": 0, "wakes": 0, "refused": 0, "still": True, "adds_up": True}, **changes,
    }  # fmt: skip


@pytest.fixture
def audio(fake):
    """A dataflow of two nodes and a link, which has 10 messages more at each look."""
    fake.dataflows = [dataflow("audio", node("source", restarts=3), node("dft", links=[link()]), node("sink", "failed"), uuid=UUID)]

    def status(connection, parameters):
        counters = fake.dataflows[0]["nodes"][1]["links"][0]["counters"]
        counters["published"] += 10
        counters["delivered"] += 10
        connection.reply(dataflows=fake.dataflows)

    fake.answers["Status"] = status
    return fake


@pytest.fixture
def page(build, fake, home, tmp_path):
    """The status page of a supervisor with the node audio:source."""
    command = [build / "tests/system/fake_page", tmp_path / "run", str(os.getpid()), home, "audio", UUID, "source"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()
        process.wait(10)


@pytest.fixture
def screen(build, tmp_path):
    if not any(d["name"] == "ncursesw" for d in json.loads((build / "meson-info/intro-dependencies.json").read_text())):
        pytest.skip("built without ncurses")
    opened = []

    def start(*args, rows=24, cols=80, **env):
        environment = {**os.environ, "TERM": "vt100", "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run"), "LC_ALL": "C.UTF-8", **env}
        environment.pop("NO_COLOR", None) if env.get("NO_COLOR") is None else None
        opened.append(Screen([str(build / "bin/tidegate"), "top", *FAST, *map(str, args)], environment, rows, cols))
        return opened[-1]

    yield start
    for s in opened:
        s.close()


# ---- once


def test_json_has_nodes_links_and_rates_of_two_looks(talk, audio):
    p = talk("top", "--once", "--json", *FAST)
    assert p.returncode == 0, p.stderr
    said = json.loads(p.stdout)
    assert said["supervisor"]["answers"] and said["host"]["n_cpus"] >= 1
    assert [(n["dataflow"], n["node"], n["state"], n["restarts"]) for n in said["nodes"]] == [
        ("audio", "source", "running", 3), ("audio", "dft", "running", 0), ("audio", "sink", "failed", 0)]  # fmt: skip
    assert said["nodes"][2]["cpu_percent"] is None and said["nodes"][2]["memory_bytes"] is None
    (one,) = said["links"]
    assert (one["from"], one["output"], one["to"], one["input"]) == ("source", "frames", "dft", "in")
    assert (one["depth"], one["queue_size"], one["fill"], one["age_us"], one["drops"], one["dropped"]) == (9, 10, 0.9, 1500, 3, {"window": 2, "pool": 1})
    assert one["published"] == 120 and 0 < one["rate"] <= 100.1, "10 messages in at least 100 ms"
    assert one["drop_rate"] == 0
    assert audio.calls[0] == ("Status", {"links": True, "timeout_ms": 2000})


def test_text_is_plain_where_nothing_else_can_be_shown(talk, audio):
    utf8 = talk("top", "--once", *FAST, env={"LC_ALL": "C.UTF-8"}).stdout
    plain = talk("top", "--once", *FAST, env={"LC_ALL": "C"}).stdout
    assert re.search(r"^audio:source/frames → dft/in +\d+\.\d +9/10 \[█{9} \] +3 +1.50ms$", utf8, re.M), utf8
    assert re.search(r"^audio:source/frames -> dft/in +\d+\.\d +9/10 \[#{9} \] +3 +1.50ms$", plain, re.M), plain
    assert plain.isascii() and "\x1b" not in utf8
    assert re.search(r"^audio:source +running +- +- +- +- +- +- +3 +0:02:3\d$", plain, re.M), plain


def test_only_those_that_were_named(talk, audio):
    audio.dataflows.append(dataflow("video", node("grab")))
    assert {n["dataflow"] for n in json.loads(talk("top", "video", "--once", "--json", *FAST).stdout)["nodes"]} == {"video"}
    assert {n["dataflow"] for n in json.loads(talk("top", "aaaa", "--once", "--json", *FAST).stdout)["nodes"]} == {"audio"}
    p = talk("top", "audio", "nobody", "--once", *FAST)
    assert p.returncode == 4 and "no dataflow nobody runs" in p.stderr


def test_nobody_there(talk, tmp_path):
    p = talk("top", "--once", *FAST)
    assert p.returncode == 5 and p.stdout == "" and "no daemon runs in this runtime directory" in p.stderr


@pytest.mark.parametrize("args,said", [
    (["--interval", "1ms"], "`1ms` is no time from 100ms to 1h"),
    (["--json"], "--json is for --once"),
])  # fmt: skip
def test_usage(talk, args, said):
    p = talk("top", *args)
    assert p.returncode == 2 and said in p.stderr


def test_what_is_no_terminal_is_told_what_to_do(talk, fake, screen):
    p = talk("top")
    assert p.returncode == 1 and "have to be a terminal; --once prints one picture" in p.stderr
    for term in ("dumb", "no-such-terminal"):
        s = screen(TERM=term)
        s.until(rf"a terminal of type `{term}` cannot show it")
        assert s.status() == 1


def test_a_page_is_enough(talk, fake, page):
    """The supervisor lives and says nothing: nodes are shown all the same, and nobody waits for longer than was said."""
    fake.answers["Status"] = lambda c, p: c.silence()
    p = talk("top", "--once", "--json", "--timeout", "200ms", *FAST)
    assert p.returncode == 5 and "the supervisor does not answer" in p.stderr
    said = json.loads(p.stdout)
    assert [(n["node"], n["state"]) for n in said["nodes"]] == [("source", "running")] and said["links"] == []
    assert not said["supervisor"]["answers"]


# ---- on a terminal


def test_it_starts_is_ordered_filtered_and_left(screen, audio):
    s = screen()
    s.until(r"^audio:source/frames . dft/in")
    names = lambda screen: re.findall(r"^audio:(\w+) ", screen.text(), re.M)  # noqa: E731
    assert names(s) == ["source", "dft", "sink"]
    s.type("S")
    s.until(lambda s: names(s) == ["sink", "source", "dft"])
    s.type("I")
    s.until(lambda s: names(s) == ["source", "dft", "sink"] or names(s) == ["dft", "source", "sink"])
    s.type("/dft")
    s.until(r"filter: dft_")
    s.until(lambda s: names(s) == ["dft"])
    s.type("\r")
    s.until(r"\[dft\]")
    s.type("\x1b")
    s.until(lambda s: len(names(s)) == 3)
    s.type("q")
    assert s.status() == 0
    assert not s.is_raw(), "the terminal is given back as it was"


def test_pages_open_and_close(screen, audio):
    audio.dataflows[0]["nodes"][0]["error"] = "no \x1b]0;title\x07 camera"
    s = screen()
    s.until(r"^audio:source ")
    s.type("\r")
    s.until(r"^details of audio:source$")
    s.until(r"^error +no \?\]0;title\? camera$")
    s.type("\x1b")
    s.until(r"^NODE ")
    s.type("\t\r")
    s.until(r"^details of the link to dft/in$")
    s.until(r"^  window +2$")
    s.type("\x1b")
    s.until(r"^NODE ")
    audio.dataflows.append(dataflow("over", node("done", "stopped"), state="ended", uuid="bbbb0000-1111-4000-8000-000000000000"))
    s.type("e")
    s.until(r"^over:done +stopped")
    s.type("e")
    s.until(lambda s: "over:done" not in s.text())
    s.type("?")
    s.until(r"^space +stand still")
    s.type("q")
    assert s.status() == 0
    assert b"\x1b]0;" not in s.raw


def test_a_log_is_followed(screen, audio, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    record = '{"timestamp":"2026-01-31T12:00:00.5Z","level":"info","node_id":"source","message":"%s","target":null,"fields":null}\n'
    (logs / "log_source.jsonl").write_text(record % "first light")
    audio.dataflows[0]["log_dir"] = str(logs)
    s = screen()
    s.until(r"^audio:source ")
    s.type("l")
    s.until(r"^log of audio:source$")
    s.until(r"first light")
    with open(logs / "log_source.jsonl", "a") as f:
        f.write(record % "and more")
    s.until(r"and more")
    s.type("q")
    assert s.status() == 0


def test_it_survives_any_size(screen, audio):
    s = screen()
    s.until(r"^LINK ")
    s.resize(5, 20)
    s.until(lambda s: s.rows == 5 and re.search(r"^audio:sour… running", s.text(), re.M))
    s.type("\t")
    s.until(lambda s: re.search(r"^LINK ", s.text(), re.M) and "9/10" in s.text())
    s.resize(1, 1)
    s.resize(50, 200)
    s.until(r"^audio:source/frames → dft/in +\d+\.\d +9/10 \[█+ *\]")
    s.until(r"^NODE ")
    s.type("q")
    assert s.status() == 0


def test_colours_only_where_they_are_wanted(screen, audio):
    coloured, plain = screen(TERM="xterm"), screen(TERM="xterm", NO_COLOR="1")
    red = re.compile(rb"\x1b\[[0-9;]*31m")
    green = re.compile(rb"\x1b\[[0-9;]*32m")
    for s, wanted in ((coloured, True), (plain, False)):
        s.control = lambda *_: None  # what an xterm can do more is not looked at
        s.until(lambda s: b"failed" in s.raw and b"9/10" in s.raw)
        s.type("q")
        assert s.status() == 0
        assert bool(red.search(s.raw)) == wanted and bool(green.search(s.raw)) == wanted


def test_a_locale_without_utf8_gets_ascii(screen, audio):
    s = screen(LC_ALL="C")
    s.until(r"^audio:source/frames -> dft/in +\d+\.\d +9/10 \[#{9} \]")
    assert s.raw.isascii()
    s.type("q")
    assert s.status() == 0


def test_a_silent_supervisor_holds_up_no_key(audio, page, screen):
    answer = audio.answers["Status"]
    s = screen("--timeout", "300ms")
    s.until(r"^audio:source ")
    audio.answers["Status"] = lambda c, p: c.silence()
    s.until(r"the supervisor does not answer, since \d")
    s.type("S")
    s.until(r"order: state")
    audio.answers["Status"] = answer
    s.until(lambda s: "does not answer" not in s.text())
    audio.answers["Status"] = lambda c, p: c.silence()
    s.type("q")
    assert s.status() == 0


def test_what_the_supervisor_refuses_is_told(screen, audio):
    s = screen()
    s.until(r"^audio:source ")
    audio.answers["Status"] = lambda c, p: c.error("QuotaExceeded", "you have too many of these")
    s.until(r"^supervisor 0: you have too many of these, since \d")
    s.type("q")
    assert s.status() == 0


def test_probes_are_attached_by_an_open_stream_and_detached_by_its_end(screen, audio):
    began, ended = threading.Event(), threading.Event()

    def probe(connection, parameters):
        if "interval_ms" not in parameters:
            return connection.reply(probes={"attached": began.is_set(), "at_ms": now_ms(), "nodes": [], "links": []})
        began.set()
        for n in range(1, 1000):
            if connection.server.ended.is_set() or select.select([connection.sock], [], [], 0.05)[0]:
                break  # it hung up
            call = {"call": "openat", "number": 257, "count": 10 * n, "errors": n, "total_ns": 40000 * n, "log2_ns": [0] * 12 + [10 * n]}
            connection.message({"continues": True, "parameters": {"probes": {
                "attached": True, "attached_at_ms": 1, "at_ms": now_ms(), "nodes": [{"node": "source", "generation": 1, "lost": 0, "calls": [call]}],
                "cost": {"load_ms": 1, "call_ns": 200, "other_call_ns": 20, "share": 0.0042, "budget": 0.03}, "links": []}}})  # fmt: skip
        ended.set()

    audio.answers["Probe"] = probe
    s = screen()
    s.until(r"^audio:source ")
    assert "WORST" not in s.text()
    s.type("p")
    s.until(r"^audio:source +running .* \d+\.\d +openat 8.19us")
    s.until(r"probes: 0\.42 % of one CPU")
    assert [p for m, p in audio.calls if m == "Probe" and "interval_ms" in p] == [{"dataflow": UUID, "calls": True, "queues": True, "interval_ms": 100}]
    s.type("\r")
    s.until(r"^  openat +\d+0 +\d+ +8.19us +8.19us")
    s.type("\x1bp")
    assert ended.wait(10)
    s.until(r"probes: detached")
    s.until(lambda s: "of one CPU" not in s.text())
    s.type("q")
    assert s.status() == 0


def test_probes_that_cannot_be_had_are_told_why(screen, audio):
    audio.answers["Probe"] = lambda c, p: c.error("Refused", "no BTF here")
    s = screen()
    s.until(r"^audio:source ")
    s.type("p")
    s.until(r"^probes: no BTF here$")
    s.type("S")
    s.until(r"order: state")
    s.type("q")
    assert s.status() == 0


def test_a_daemon_that_dies_and_comes_back(screen, audio, tmp_path):
    s = screen()
    s.until(r"^audio:source/frames")
    audio.vanish()
    s.until(r"^daemon is gone, since \d+\.\d s: ")
    assert "audio:source" in s.text(), "what was known last is still to be seen"
    (tmp_path / "run/control.sock").unlink()
    second = FakeSupervisor(tmp_path / "run")
    try:
        second.dataflows = [dataflow("video", node("grab"))]
        s.until(r"^video:grab +running")
        s.until(lambda s: "gone" not in s.text())
        s.type("q")
        assert s.status() == 0
    finally:
        second.close()


def test_a_terminal_that_hangs_up_ends_it(screen, audio):
    s = screen()
    s.until(r"^audio:source ")
    os.close(s.fd)
    s.fd = -1
    assert eventually(lambda: os.waitpid(s.pid, os.WNOHANG)[0], 10)
    s.pid = 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_terminal_is_given_back(screen, audio, number):
    s = screen()
    s.until(r"^audio:source ")
    os.kill(s.pid, number)
    assert s.status() == 0
    assert not s.is_raw()


def test_a_terminal_that_takes_nothing_keeps_nobody_from_ending_it(screen, audio):
    s = screen(rows=50, cols=200)
    assert select.select([s.fd], [], [], 20)[0]  # it has begun to draw; nothing is read, and the terminal has room for 64 KiB
    audio.called("Status", 2)
    blocked = lambda: "n_tty_write" in pathlib.Path(f"/proc/{s.pid}/stack").read_text()  # noqa: E731
    for i in range(400):
        size = struct.pack("HHHH", 50 - i % 2, 200, 0, 0)
        fcntl.ioctl(s.fd, termios.TIOCSWINSZ, size)  # all of it is drawn anew
        if os.geteuid() == 0 and blocked():
            break
        time.sleep(0.005)
    os.kill(s.pid, signal.SIGTERM)
    assert eventually(lambda: os.waitpid(s.pid, os.WNOHANG)[0], 20)
    s.pid = 0
    assert not s.is_raw()


# ---- with a daemon


def test_a_daemon_that_is_stopped_is_wedged_and_its_nodes_are_still_shown(start_daemon, screen, tmp_path):
    from daemon import plan, program

    daemon = start_daemon("--watchdog", "60s", directory=tmp_path / "d")  # it is not replaced meanwhile
    busy = program("busy", "while :; do :; done")
    daemon.client().call("Start", plan=plan(busy, program("idle", "exec sleep 1000"), name="flow"), more=False)
    s = screen("flow", "--timeout", "300ms", TIDEGATE_RUNTIME_DIR=str(daemon.runtime), cols=120)
    s.until(r"^flow:busy +running +(?:[1-9]\d*\.\d|0\.[1-9]) +[\d.]+[KM]")
    s.until(r"^flow:idle +running +0\.0 ")
    s.type("p")  # threads are looked at, for the probes of daemons of tests are turned off
    s.until(r"^probes: .*turned off")
    s.type("\r")
    s.until(r"^  \d+ threads found in \d+ looks: \d+ % of them in no call")
    s.type("\x1bp")
    s.until(r"^probes: detached")
    s.type("/idle\rw")
    s.until(r"^why flow:idle$")
    s.until(r"sleep")
    s.type("w")
    s.until(r"^NODE ")
    supervisor = daemon.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    try:
        s.until(r"^supervisor WEDGED: the supervisor \(pid \d+\) is stopped by a signal")
        s.type("t")
        s.until(r"^processes of flow$")
        s.until(r"^  ..\d+ sh  [RS] ")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    s.type("q")
    assert s.status() == 0
