# SPDX-License-Identifier: Apache-2.0
"""Root's daemon tells a user of his nodes what he could read himself, and no more: not of programs that have other rights than he."""

import json
import os
import shutil

import pytest
from conftest import eventually
from daemon import plan, program
from test_control_hostile import NOBODY, as_user, call, open_daemon  # noqa: F401
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
    assert other["text"] == "other sleeps for a time" and "1000" not in json.dumps(other["threads"]), other
    assert f"process {other['threads'][0]['pid']}, which has other rights" in other["lost"]
    assert "user_stack" not in other["threads"][0]
