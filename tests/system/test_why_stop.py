# SPDX-License-Identifier: Apache-2.0
"""Who has to be killed because its grace was over is told with what it did instead of ending; a stop neither waits nor works for that."""

from conftest import eventually
from daemon import plan, program, until_deaf

DEAF = "trap '' TERM; {}exec sleep 1000"
GRACE = 700
WHOEVER = ("keeper", "guard")  # a keeper that is late by 100 ms finds it done


def start(daemon, graces=None, **scripts):
    for name, script in scripts.items():
        daemon.call("Start", plan=plan(program("a", script), program("still", "exec sleep 1000"), name=name), grace_ms=(graces or {}).get(name, GRACE))
    for name in scripts:
        assert eventually(lambda: daemon.status(name)["state"] == "running", 20), daemon.output()
        until_deaf(daemon, name)


def stop(daemon, *names):
    """All at once; what is said of each then, and its events."""
    clients = {name: (daemon.client(), daemon.client()) for name in names}
    for name, (events, orders) in clients.items():
        events.send("Events", more=True, dataflow=name)
        orders.send("StopNode", dataflow=name, node="a")
    said = {}
    for name, (events, orders) in clients.items():
        orders.reply()
        seen = []
        while not seen or (seen[-1]["type"], seen[-1].get("to")) not in (("node", "stopped"), ("node", "failed")):
            seen.append(events.receive(20)["parameters"]["event"])
        said[name] = daemon.status(name)["nodes"][0], [event for event in seen if event["type"] == "why"]
    return said


def test_who_is_killed_at_the_end_of_its_grace_is_told_with_what_it_did_instead(daemon, tmp_path):
    slow = f"trap 'sleep 1.5; exit 0' TERM; : >{tmp_path / 'slow'}; while :; do sleep 0.05; done"
    start(daemon, graces={"slow": 2000}, flow=DEAF.format(""), slow=slow)  # looked at after 1 s, killed after 3
    assert eventually((tmp_path / "slow").exists, 20)
    said = stop(daemon, "flow", "slow")
    node, events = said["slow"]
    assert events == [] and "why" not in node and not node.get("killed_by"), "it was looked at, and has ended"

    def told():
        """A machine that is too busy to look in time says nothing."""
        if not said["flow"][1]:
            daemon.call("RestartNode", dataflow="flow", node="a")
            assert eventually(lambda: daemon.status("flow")["nodes"][0]["state"] == "running", 20), daemon.output()
            until_deaf(daemon)
            said.update(stop(daemon, "flow"))
        return said["flow"][1]

    (event,) = eventually(told, 20)
    node = said["flow"][0]
    assert node["killed_by"] in WHOEVER and node["why"] == event["why"]
    assert event["why"]["cause"] == "sleeping" and event["why"]["text"].startswith("a sleeps for 1000 s")
    assert event["text"].startswith("is killed, and had not ended in its grace: a sleeps for 1000 s")


def test_nobody_is_looked_at_where_many_are_to_end_or_the_kill_is_near(daemon):
    start(daemon, many=DEAF.format("for i in $(seq 40); do sleep 1000 & done; "), soon=DEAF.format(""), graces={"soon": 300})
    for name, (node, events) in stop(daemon, "many", "soon").items():
        assert node["killed_by"] in WHOEVER and events == [] and "why" not in node, name
