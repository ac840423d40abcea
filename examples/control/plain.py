#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start a dataflow, follow it until it runs, and stop it: nothing but a socket and JSON. See docs/control.md.

    plain.py DESCRIPTOR        of the daemon in $TIDEGATE_RUNTIME_DIR, or the usual one
"""

import json
import os
import socket
import subprocess
import sys

INTERFACE = "dev.tidegate.Supervisor"


def runtime_dir():
    if "TIDEGATE_RUNTIME_DIR" in os.environ:
        return os.environ["TIDEGATE_RUNTIME_DIR"]
    return "/run/tidegate" if os.geteuid() == 0 else os.environ["XDG_RUNTIME_DIR"] + "/tidegate"


class Supervisor:
    """One connection. One call at a time; whoever follows events and gives orders too has two."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)  # the daemon's own deadlines are shorter
        self.socket.connect(runtime_dir() + "/control.sock")
        self.file = self.socket.makefile("rb")

    def send(self, method, more=False, **parameters):
        call = {"method": f"{INTERFACE}.{method}", "parameters": parameters, "more": more}
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def reply(self):
        """(parameters, whether more replies follow)"""
        text = b""
        while not text.endswith(b"\0"):
            byte = self.file.read(1)  # buffered
            if not byte:
                raise EOFError("the daemon hung up")
            text += byte
        message = json.loads(text[:-1])
        if "error" in message:
            raise RuntimeError(f"{message['error']}: {message['parameters']}")
        return message.get("parameters", {}), message.get("continues", False)

    def call(self, method, **parameters):
        self.send(method, **parameters)
        return self.reply()[0]

    def stream(self, method, **parameters):
        """Every reply, the last one included."""
        self.send(method, more=True, **parameters)
        more = True
        while more:
            parameters, more = self.reply()
            yield parameters


def main(descriptor):
    # A plan is a descriptor that was checked and made absolute; the daemon checks it again.
    plan = json.loads(subprocess.check_output(["tidegate", "graph", "--json", descriptor]))
    environment = [f"{name}={os.environ[name]}" for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ]
    supervisor = Supervisor()

    for reply in supervisor.stream("Start", plan=plan, environment=environment, grace_ms=1000):
        if "uuid" in reply:  # the last one
            uuid = reply["uuid"]
            print(f"{plan['name']} is {reply['state']}")
        elif reply["event"]["type"] == "node":
            event = reply["event"]
            print(f"{event['node']}: {event['from']} -> {event['to']}")

    for node in supervisor.call("Status", names=[uuid])["dataflows"][0]["nodes"]:
        print(f"{node['id']}: {node['state']}, {node['kind']}")

    (result,) = supervisor.call("Stop", dataflow=uuid)["results"]
    for entry in result["ledger"]:
        print(f"{entry['rung']}: {entry.get('result', '')}")
    print("succeeded" if result["success"] else f"failed: {result.get('error', '')}", f"{result['left']} left")


if __name__ == "__main__":
    main(sys.argv[1])
