# SPDX-License-Identifier: Apache-2.0
"""A daemon on a stock kernel has system calls counted for whoever asks."""

import json
import os
import pathlib
import socket
import subprocess

from guest import BUILD, Skip, descriptor, eventually, start, tidegate

KERNELS = ["6.1"]


def ask(sock, more=False):
    call = {"method": "dev.tidegate.Supervisor.Probe", "parameters": {"dataflow": "probe", "interval_ms": 200}, "more": more}
    sock.sendall(json.dumps(call).encode() + b"\0")


def answer(sock):
    text = b""
    while not text.endswith(b"\0"):  # not a byte of the next one
        text += sock.recv(1)
    return json.loads(text[:-1])["parameters"]["probes"]


def tests_of(probes):
    """Of a shell for whether it may read a file."""
    calls = {call["call"]: call for node in probes["nodes"] for call in node["calls"]}
    return calls.get("faccessat2") or calls.get("faccessat") or calls.get("access") or {"count": 0, "errors": 0}


def test_a_daemon_has_them_counted_by_a_helper_of_nobody_s():
    if not (BUILD / "bin/tidegate-prober").exists():
        raise Skip("built without kernel probes")
    work = pathlib.Path("/tmp/probe")
    work.mkdir()
    for name in ("go", "done"):
        os.mkfifo(work / name)
    file = descriptor(work, ("a", f"read _ < {work}/go; i=0; while [ $i -lt 40 ]; do [ -r /nowhere ]; i=$((i + 1)); done; echo done > {work}/done; exec sleep 1000"))
    with open(work / "log", "w") as log:
        daemon = start(BUILD / "bin/tidegated", "--runtime-dir", work / "run", env={"TIDEGATE_PROBES": "on"}, stdout=log, stderr=subprocess.STDOUT)
    try:
        said = (work / "log").read_text
        assert eventually(lambda: (work / "run/control.sock").exists(), 30), said()
        tidegate("start", file, "--detach", "--runtime-dir", work / "run", check=True)
        with socket.socket(socket.AF_UNIX) as stream, socket.socket(socket.AF_UNIX) as single:
            for s in (stream, single):
                s.settimeout(50)
                s.connect(str(work / "run/control.sock"))
            ask(stream, more=True)
            before = next(probes for probes in iter(lambda: answer(stream), None) if probes.get("reason") != "it is being attached")
            assert before["attached"], f"{before}\n{said()}"
            (work / "go").write_text("go\n")
            assert (work / "done").read_text() == "done\n"
            ask(single)
            seen = answer(single)
        was, now = tests_of(before), tests_of(seen)
        assert (now["count"] - was["count"], now["errors"] - was["errors"]) == (40, 40), seen
        assert 0 < seen["cost"]["call_ns"], seen["cost"]
    finally:
        daemon.terminate()
        daemon.wait(20)
