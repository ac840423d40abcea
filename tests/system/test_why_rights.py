# SPDX-License-Identifier: Apache-2.0
"""Whoever asks why a node makes no progress is told what he could read himself, and no more; and the node goes on whatever becomes of those who look."""

import contextlib
import json
import os
import pathlib
import shutil
import signal

import pytest
from client import ControlError
from conftest import eventually
from daemon import plan, program
from lives import arguments_of, children_of
from test_control_hostile import NOBODY, as_user, call, open_daemon  # noqa: F401
from test_hung_path import hung  # noqa: F401
from test_why import stacks  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
SLEEPER = "import ctypes, time; {} time.sleep(1000)"
NOT_DUMPABLE = "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0);"


@pytest.fixture
def start_as_nobody(open_daemon):  # noqa: F811
    """Starts nodes of that user; its why() is what he is told of one of them, once all of it is seen."""
    daemon = open_daemon()

    def start(**argv):
        nodes = [program(id, "", argv=[str(a) for a in args]) for id, args in argv.items()]
        as_user(NOBODY, lambda: call(daemon.socket, "Start", plan=plan(*nodes), environment=["PATH=/usr/bin:/bin"]))
        assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()

    def why(node, words):
        said = {}

        def ask():
            said.clear()
            said.update(as_user(NOBODY, lambda: call(daemon.socket, "Why", dataflow="flow", node=node))["why"])
            return said["deep"] and words in said["text"]

        assert eventually(ask, 20), json.dumps(said, indent=1)
        return said

    start.why, start.directory = why, daemon.runtime.parent
    return start


def test_memory_and_stacks_are_those_that_the_caller_could_read(start_as_nobody, stacks):  # noqa: F811
    if os.statvfs(start_as_nobody.directory).f_flag & os.ST_NOSUID:
        pytest.skip("no program has other rights here: nosuid")
    setuid = start_as_nobody.directory / "sleep"
    shutil.copy("/bin/sleep", setuid)
    setuid.chmod(0o4755)
    python = "/usr/bin/python3"
    start_as_nobody(
        own=[python, "-c", SLEEPER.format("")],
        hidden=[python, "-c", SLEEPER.format(NOT_DUMPABLE)],
        other=[setuid, "1000"],
    )
    own = start_as_nobody.why("own", "sleeps")
    assert "lost" not in own
    if stacks:
        assert any("nanosleep" in frame for frame in own["threads"][0]["user_stack"]), own

    hidden = start_as_nobody.why("hidden", "sleeps")
    assert "user_stack" not in hidden["threads"][0], "its owner may not read its memory"

    other = start_as_nobody.why("other", "sleeps")
    assert other["text"] == "other sleeps for a time" and "1000 s" not in json.dumps(other["threads"]), other
    assert f"process {other['threads'][0]['pid']}, which has other rights" in other["lost"]
    assert "user_stack" not in other["threads"][0]


@pytest.fixture
def wedged(start_daemon, hung):  # noqa: F811
    """A node that hangs in a file system that does not answer, and so does not stand still for long when it is to: meanwhile those are found who look."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    daemon = start_daemon(prefix=hung.prefix(), preexec=lambda: pathlib.Path("/proc/self/oom_score_adj").write_text("300"))
    daemon.call("Start", plan=plan(program("a", "", argv=["/bin/cat", str(hung.path / "d1/file")])))
    hung.until_asked()
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    keepers = lambda pid: [p for p in children_of(pid) if "--role=keeper" in arguments_of(p)]  # noqa: E731
    (keeper,) = keepers(daemon.process.pid)

    @contextlib.contextmanager
    def look(**keys):
        """Gives who looks, and who waits to thaw it; None when they were gone before they were found."""
        with daemon.client() as client:
            client.send("Why", dataflow="flow", node="a", freeze=True, **keys)
            yield eventually(lambda: next(((child, thawer) for child in keepers(keeper) for thawer in keepers(child)), None), 1)
            with contextlib.suppress(ControlError):  # of what was seen before there may be a report, or none
                client.reply()

    look.keeper = keeper
    look.freezer = pathlib.Path(daemon.status("flow")["cgroup"]) / "a.1/cgroup.freeze"
    return look


def test_a_node_runs_again_when_those_are_killed_who_made_it_stand_still(wedged):
    def look_and_kill():
        with wedged() as found:
            for pid in found[::-1] if found else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return found and wedged.freezer.read_text()

    assert eventually(look_and_kill, 20) == "0\n"


def test_a_node_runs_again_soon_when_the_look_at_it_hangs(wedged):
    def look_and_hang():
        with wedged(timeout_ms=10000) as found:
            if not found:
                return None
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGSTOP)
            runs = eventually(lambda: wedged.freezer.read_text() == "0\n", 5)
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGCONT)
        return str(runs)

    assert eventually(look_and_hang, 20) == "True"


def test_who_looks_is_not_spared_when_memory_is_short(wedged):
    def scores():
        with wedged() as found, contextlib.suppress(FileNotFoundError):
            return found and [int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (wedged.keeper, *found)]

    keeper, child, thawer = eventually(scores, 20)
    assert keeper != 0 and (child, thawer) == (0, 0)


def test_who_asks_while_many_look_is_told_what_one_look_shows(daemon):
    daemon.call("Start", plan=plan(program("a", "", argv=["/bin/sleep", "1000"])))
    assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
    assert eventually(lambda: daemon.call("Why", dataflow="flow", node="a")["why"]["cause"] == "sleeping", 20), "it begins with other things"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client()) for _ in range(8)]
        for client in clients:
            client.send("Why", dataflow="flow", node="a")
        said = [client.reply()[0]["why"] for client in clients]
    for why in said:
        assert why["cause"] == "sleeping" and why["threads"][0]["syscall"] == "clock_nanosleep", why
        assert why["deep"] or "more than one look" in why["lost"], why
