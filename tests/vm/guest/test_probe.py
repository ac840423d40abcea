# SPDX-License-Identifier: Apache-2.0
"""A daemon on a stock kernel has system calls counted for whoever asks."""

import json
import os
import pathlib
import signal
import subprocess

from guest import BUILD, Skip, descriptor, eventually, start, tidegate

KERNELS = ["6.1"]


def test_a_daemon_has_them_counted_by_a_helper_of_nobody_s():
    if not (BUILD / "bin/tidegate-prober").exists():
        raise Skip("built without kernel probes")
    work = pathlib.Path("/tmp/probe")
    work.mkdir()
    for name in ("go", "done"):
        os.mkfifo(work / name)
    # Each test of a shell for whether it may read a file is one faccessat, or one access: 40 of them between the two.
    file = descriptor(work, ("a", f"read _ < {work}/go; i=0; while [ $i -lt 40 ]; do [ -r /nowhere ]; i=$((i + 1)); done; echo done > {work}/done; exec sleep 1000"))
    with open(work / "log", "w") as log:
        daemon = start(BUILD / "bin/tidegated", "--runtime-dir", work / "run", env={"TIDEGATE_PROBES": "on"}, stdout=log, stderr=subprocess.STDOUT)
    try:
        said = (work / "log").read_text
        assert eventually(lambda: (work / "run/control.sock").exists(), 30), said()
        tidegate("start", file, "--detach", "--runtime-dir", work / "run", check=True)
        probe = start(BUILD / "bin/tidegate", "probe", "--for", "1h", "--json", "--runtime-dir", work / "run", stdout=subprocess.PIPE)
        assert eventually(lambda: "are counted by the kernel" in said() or "cannot be counted" in said(), 40), said()
        (work / "go").write_text("go\n")
        assert (work / "done").read_text() == "done\n"
        probe.send_signal(signal.SIGINT)
        seen = json.loads(probe.communicate(timeout=20)[0])
        calls = {call["call"]: call for call in seen["nodes"][0]["calls"]}
        call = calls.get("faccessat2") or calls.get("faccessat") or calls.get("access")
        assert call and (call["count"], call["errors"]) == (40, 40), calls
        assert 0 < seen["cost"]["call_ns"], seen["cost"]
    finally:
        daemon.terminate()
        daemon.wait(20)
