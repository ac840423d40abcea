# SPDX-License-Identifier: Apache-2.0
"""The daemon's control interface: what each method does, who may do what, and what a bad client can do to others: nothing."""

import pytest
from client import Client, ControlError
from daemon import plan, program

SLEEP = "exec sleep 1000"


# Life of a dataflow


def test_a_dataflow_is_started_listed_followed_and_stopped(daemon):
    listener = daemon.client()
    listener.send("Events", more=True)
    replies = list(daemon.client().stream("Start", plan=plan(program("a", SLEEP))))
    assert replies[0]["event"]["type"] == "accepted"
    uuid = replies[0]["event"]["uuid"]
    assert replies[-1] == {"uuid": uuid, "state": "running"}
    listed = daemon.call("List")["dataflows"]
    assert [(d["uuid"], d["name"], d["state"], d["wanted"], d["n_running"]) for d in listed] == [(uuid, "flow", "running", "running", 1)]
    assert listed[0]["nodes"] == []
    node = daemon.status("flow")["nodes"][0]
    assert (node["id"], node["state"], node["generation"]) == ("a", "running", 1)

    replies = list(daemon.client().stream("Stop", dataflow=uuid[:8]))
    assert [r["event"]["rung"] for r in replies if r.get("event", {}).get("type") == "ledger"][:2] == ["stop", "escrow"]
    (result,) = replies[-1]["results"]
    assert (result["uuid"], result["success"], result["left"]) == (uuid, True, 0)
    assert daemon.call("List")["dataflows"] == []
    assert [d["result"] for d in daemon.call("List", all=True)["dataflows"]] == ["succeeded"]
    assert daemon.call("Clean") == {"cleaned": 1}
    assert daemon.call("List", all=True)["dataflows"] == []

    states = []
    while states[-1:] != ["ended"]:
        event = listener.reply()[0]["event"]
        assert event["name"] == "flow" and event["dataflow"] == uuid
        if event["type"] == "dataflow":
            states.append(event["state"])
    assert states == ["starting", "running", "stopping", "ending", "ended"]
