#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The events of a daemon while a dataflow is stopped, with the package varlink from PyPI. See docs/control.md.

    with_varlink.py SOCKET NAME
"""

import sys
import threading

import varlink

INTERFACE = "dev.tidegate.Supervisor"


def main(path, name):
    with varlink.Client(f"unix:{path}") as client, client.open(INTERFACE) as orders, client.open(INTERFACE) as looks:
        for dataflow in orders.List()["dataflows"]:
            print(f"{dataflow['name']}: {dataflow['state']}, {dataflow['n_running']} of {dataflow['n_nodes']} nodes run")
        # The generator makes its call at its first step: so the stop waits a moment.
        stop = threading.Timer(0.3, lambda: orders.Stop(name))
        stop.start()
        for reply in looks.Events(name, _more=True):  # ends with the dataflow; its last reply is without an event
            event = reply.get("event") or {}
            if event.get("type") == "dataflow":
                print(f"{name}: {event['state']}")
        stop.join()
        try:
            orders.Stop("nobody")
        except varlink.VarlinkError as e:
            print(e.error(), e.parameters()["text"])


if __name__ == "__main__":
    main(*sys.argv[1:])
