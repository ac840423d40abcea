# SPDX-License-Identifier: Apache-2.0
"""The interactive shell on a terminal: prompt, completion, history, Ctrl-C; and fed from a pipe."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time

import pytest
from supervisor import dataflow, node, now_ms, result


@pytest.fixture
def two(fake):
    fake.dataflows = [dataflow("audio", node("camera", pid=8581)), dataflow("video", node("grab", pid=99))]
    fake.answers["Stop"] = lambda c, p: c.reply(results=[result(fake.dataflows[0])])
    return fake


class Terminal:
    """A program on a pseudo terminal of 100 columns."""

    def __init__(self, command, env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, env)
        subprocess.run(["stty", "-F", f"/proc/self/fd/{self.fd}", "cols", "100", "rows", "40"],
                       pass_fds=[self.fd], check=False)  # fmt: skip
        self.said, self.at = "", 0

    def until(self, pattern, seconds=20):
        """Wait until what came since the last match matches @pattern."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said[self.at :])):
            assert time.monotonic() < end, f"no {pattern!r} in {self.said[self.at:]!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.said[self.at :]), f"it ended: {self.said!r}"
        self.at += found.end()
        return found

    def type(self, text):
        """Once the program reads key by key: what is typed before that is line by line, and Ctrl-D then another thing."""
        end = time.monotonic() + 1
        while termios.tcgetattr(self.fd)[3] & termios.ICANON and time.monotonic() < end:
            time.sleep(0.01)
        os.write(self.fd, text.encode())

    def status(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.said += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        pytest.fail(f"no end after {seconds} s: {self.said}")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(build, tmp_path):
    opened = []

    def start(*args, env=None):
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path), **(env or {})}
        opened.append(Terminal([str(build / "bin/tidegate"), *map(str, args)], environment))
        return opened[-1]

    yield start
    for t in opened:
        t.close()


@pytest.fixture
def edits(build):
    """Skips where lines are not edited in this build."""
    deps = json.loads((build / "meson-info/intro-dependencies.json").read_text())
    if not any(d["name"] == "libedit" for d in deps):
        pytest.skip("built without libedit")


PROMPT = r"tidegate> "


def test_it_begins_with_status_and_takes_commands(terminal, two):
    t = terminal("shell")
    t.until(r"audio:camera +RUNNING +pid 8581")
    t.until(PROMPT)
    t.type("pid audio:camera\r")
    t.until(r"\n8581\r\n")
    t.until(PROMPT)
    t.type("\r")
    t.until(PROMPT)
    t.type("frobnicate 'it all'\r")
    t.until(r"\*\*\* Unknown syntax: frobnicate 'it all'")
    t.until(PROMPT)
    t.type("exit\r")
    assert t.status() == 0


@pytest.mark.parametrize("leave", ["quit\r", "\x04", "\x03"], ids=["quit", "EOF", "Ctrl-C"])
def test_it_is_left_with_status_0(terminal, two, leave):
    t = terminal("shell")
    t.until(PROMPT)
    t.type(leave)
    assert t.status() == 0


def test_tab_completes_verbs_names_and_options(terminal, two, edits):
    t = terminal("shell")
    t.until(PROMPT)
    for typed, shown in [
        ("vers\t\r", r"\ncompiler +"),
        ("pid audio:c\t\r", r"\n8581\r\n"),
        ("node inf\tgra\b\b\bcamera\r", r"kind: node"),
        ("stop --gra\tsoon audio\r", r"--grace-duration: `soon` is no time"),
        ("stop au\t\r", r"audio succeeded after"),
    ]:
        t.type(typed)
        t.until(shown)
        t.until(PROMPT)
    t.type("exit\r")
    assert t.status() == 0


def test_completion_does_not_wait_long_for_a_supervisor(terminal, two, edits):
    t = terminal("shell")
    t.until(PROMPT)
    two.answers["Status"] = lambda c, p: c.silence()
    t.type("stop au\t")
    two.called("Status", 2)  # the first was that of `status`
    begin = time.monotonic()
    t.type("dio\x15exit\r")
    assert t.status() == 0 and time.monotonic() - begin < 5


def test_history_is_kept_for_its_owner_only(terminal, two, edits, tmp_path):
    t = terminal("shell")
    t.until(PROMPT)
    t.type("pid audio:camera\r")
    t.until(r"\n8581\r\n")
    t.type("exit\r")
    t.status()
    history = tmp_path / ".tidegate_history"
    assert history.stat().st_mode & 0o777 == 0o600
    t = terminal("shell")
    t.until(PROMPT)
    t.type("\x1b[A\x1b[A\r")  # two up: before `exit`
    t.until(r"\n8581\r\n")


def test_ctrl_c_ends_the_command_and_not_the_shell(terminal, two):
    two.answers["Events"] = lambda c, p: c.silence()
    t = terminal("shell")
    t.until(PROMPT)
    t.type("events\r")
    two.called("Events")
    t.type("\x03")
    t.until(PROMPT)
    t.type("pid video:grab\r")
    t.until(r"\n99\r\n")


def test_it_starts_without_a_daemon(terminal, tmp_path):
    t = terminal("shell")
    t.until("no supervisor is running there")
    t.until(PROMPT)


def test_fed_from_a_pipe_it_says_no_prompt(build, two, tmp_path):
    env = {**os.environ, "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run")}
    p = subprocess.run([build / "bin/tidegate", "shell"], input="pid 'audio:camera'\n\nfly\npid nobody:x\n", text=True, capture_output=True, timeout=30, env=env)
    assert p.stdout.splitlines()[-2:] == ["8581", "*** Unknown syntax: fly"]
    assert "tidegate>" not in p.stdout and p.returncode == 4  # of the last command
    p = subprocess.run([build / "bin/tidegate", "shell"], input="exit\npid audio:camera\n", text=True, capture_output=True, timeout=30, env=env)
    assert "8581" not in p.stdout.splitlines()


# ---- what a terminal shows of other commands


def test_a_status_line_is_repainted_and_goes_away(terminal, two):
    seen = threading.Event()

    def slow(c, p):
        two.dataflows[0].update(state="stopping", stop_until_at_ms=now_ms() + 17_000)
        c.event(type="dataflow", at_ms=now_ms(), name="audio", state="stopping")
        seen.wait(20)
        c.reply(results=[result(two.dataflows[0])])

    def left():
        n = int(t.until(r"\r\x1b\[Ktidegate: stopping, at most (\d+) s more: waiting for camera")[1])
        assert (two.dataflows[0]["stop_until_at_ms"] - now_ms()) / 1000 - 0.5 <= n <= 17, "of what was left when it was painted"
        return n

    two.answers["Stop"] = slow
    t = terminal("stop", "audio")
    assert left() > left()
    seen.set()
    t.until(r"\r\x1b\[Ktidegate: ledger of audio:")
    assert t.status() == 0


def test_a_query_that_waits_says_so(terminal, two):
    seen, begun = threading.Event(), time.monotonic()
    two.answers["List"] = lambda c, p: (seen.wait(20), c.reply(dataflows=two.dataflows))
    t = terminal("list")
    left = int(t.until(r"waiting for the supervisor, at most (\d+) s more")[1])
    assert 5 - (time.monotonic() - begun) - 0.5 <= left <= 4, "after a second"
    seen.set()
    t.until(r"\r\x1b\[KUUID")
    assert t.status() == 0


def test_colours_only_where_they_are_wanted(terminal, two):
    t = terminal("status", env={"NO_COLOR": ""})
    t.until("\x1b\\[32mRUNNING   \x1b\\[0mpid 8581")
    t = terminal("status", env={"NO_COLOR": "1"})
    t.until("RUNNING")
    assert t.status() == 0 and "\x1b" not in t.said


def test_start_is_attached_on_a_terminal(terminal, two, tmp_path):
    (tmp_path / "flow.yml").write_text("nodes:\n  - id: beat\n    path: /bin/sleep\n")
    two.answers["Start"] = lambda c, p: c.error("Busy", p.get("wait", "detached"))
    t = terminal("start", tmp_path / "flow.yml")
    t.until("Busy: ended")
    t = terminal("start", tmp_path / "flow.yml", "--detach")
    t.until("Busy: detached")
