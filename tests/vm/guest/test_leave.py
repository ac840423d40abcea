# SPDX-License-Identifier: Apache-2.0
"""Who leaves its node's cgroup is seen by stock kernels at that moment."""

import os
import pathlib
import signal
import subprocess

from guest import BUILD, Cgroup, Skip, descriptor, eventually, pids_in, start, tidegate


def test_whoever_leaves_is_ended_while_its_dataflow_runs():
    if not (BUILD / "bin/tidegate-witness").exists():
        raise Skip("built without kernel probes")
    work = pathlib.Path("/tmp/leave")
    with Cgroup("elsewhere") as elsewhere:
        # An orphan with a session of its own: no look through /proc can know it.
        orphan = f"setsid sh -c 'sh -c \"read _ < {work}/go; echo \\$\\$ > {elsewhere}/cgroup.procs; exec sleep 1000\" & exit 0'"
        file = descriptor(work, ("a", f"{orphan}\nexec sleep 1000", "cgroup_writable: true"))
        os.mkfifo(work / "go")
        with open(work / "log", "w") as log:
            daemon = start(BUILD / "bin/tidegated", "--runtime-dir", work / "run", env={"TIDEGATE_PROBES": "on"}, stdout=log, stderr=subprocess.STDOUT)
        try:
            said = (work / "log").read_text
            assert eventually(lambda: (work / "run/control.sock").exists(), 30), said()
            tidegate("start", file, "--detach", "--runtime-dir", work / "run", check=True)
            assert eventually(lambda: "is seen by the kernel" in said() or "not seen" in said(), 40), said()
            (work / "go").write_text("go\n")
            assert eventually(lambda: "and was killed there" in said()), said()
            assert eventually(lambda: not pids_in(elsewhere)), said()
            assert "ESCAPE: node a of" in said()
            assert '"running"' in tidegate("status", "--json", "--runtime-dir", work / "run").stdout
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0, said()
