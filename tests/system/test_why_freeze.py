# SPDX-License-Identifier: Apache-2.0
"""What stands still for a look runs again, whoever of us dies meanwhile."""

import os
import pathlib
import signal

import pytest
from conftest import eventually
from daemon import plan, program
from lives import Process, arguments_of, children_of, stat_of
from test_hung_path import hung  # noqa: F401

pytestmark = [
    pytest.mark.cgroup_only,
    pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and /dev/fuse"),
]


class Scene:
    """A node of which one process hangs, so that it never stands still as a whole and is waited for; another one beats."""

    def __init__(self, daemon, hung, directory):
        self.daemon, self.hung, self.beat = daemon, hung, directory / "beat"
        beats = f"cat {hung.path}/d1/file & i=0; while :; do i=$((i + 1)); echo $i >{self.beat}; sleep 0.02; done"
        daemon.call("Start", plan=plan(program("a", beats)), grace_ms=300, budget_ms=500)
        hung.until_asked()
        assert eventually(lambda: daemon.status("flow")["state"] == "running", 20), daemon.output()
        (self.keeper,) = daemon.parts("keeper")
        self.freezer = pathlib.Path(daemon.status("flow")["cgroup"]) / "a.1/cgroup.freeze"

    def keepers(self, pid):
        return [p for p in children_of(pid) if "--role=keeper" in arguments_of(p)]

    def find(self):
        """Who looks, once there is somebody who waits to let the node run again."""
        return next((child for child in self.keepers(self.keeper) for _ in self.keepers(child)), None)

    def try_to_stop_midway(self):
        with self.daemon.client() as client:
            client.send("Why", dataflow="flow", node="a", freeze=True, timeout_ms=1500)
            pid = eventually(self.find, 1)
            if not pid:
                return False
            try:
                looker = Process(pid)
            except ProcessLookupError:
                return False
            looker.send(signal.SIGSTOP)
            stopped = eventually(lambda: (s := stat_of(pid)) is None or s[0] in "TZ", 5) and stat_of(pid)
            midway = stopped and stopped[0] == "T" and self.freezer.read_text() == "1\n"
            if not midway:
                looker.send(signal.SIGCONT)
            looker.close()
            return midway

    def runs_again(self):
        thawed = eventually(lambda: self.freezer.read_text() == "0\n", 10)
        seen = self.beat.read_text()
        return thawed and eventually(lambda: self.beat.read_text() not in ("", seen), 10)


@pytest.fixture
def midway(survivor, hung, build, tmp_path):  # noqa: F811
    """The node stands still for a look, and whoever looks has been stopped in the middle of it."""
    scene = Scene(survivor(*hung.prefix()[1:], build / "bin/tidegated", program=hung.prefix()[0]), hung, tmp_path)
    assert eventually(scene.try_to_stop_midway, 20), scene.daemon.output()
    yield scene
    hung.end()


@pytest.mark.parametrize("whom", ["keeper", "supervisor and guard", "all of them"])
def test_it_runs_again_whoever_of_us_dies_while_it_stands_still(midway, whom):
    daemon = midway.daemon
    if whom != "keeper":
        daemon.kill_both()
    if whom != "supervisor and guard":
        daemon.send_to(midway.keeper, signal.SIGKILL)
    assert midway.runs_again(), f"{midway.freezer.read_text()}\n{daemon.output()}"
    if whom != "keeper":
        daemon.again()
    assert eventually(lambda: daemon.talk("Status")["dataflows"][0]["state"] == "running", 10), daemon.output()
