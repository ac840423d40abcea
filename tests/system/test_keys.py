# SPDX-License-Identifier: Apache-2.0
"""What a key of the descriptor promises, seen in a run. Restart policies: test_restart.py; queues: test_data.py."""

import json
import os
import re
import time

import pytest
from lives import SLACK

pytestmark = pytest.mark.sanitized


def lines_of(run, node):
    """What a node printed."""
    return [e["text"] for e in run.events() if e["type"] == "log" and e["node"] == node]


def test_env_of_the_root_is_overlaid_by_the_options_and_then_by_the_node(script, dataflow, live, nothing_left):
    show = str(script("show", "echo $TG_A $TG_B $TG_C $TG_D"))
    flow = dataflow({"env": {"TG_A": "root", "TG_B": "root", "TG_C": "root"}, "nodes": [
        {"id": "show", "path": show, "env": {"TG_A": "node", "TG_D": "in ${TG_OUTSIDE}"}},
    ]})  # fmt: skip
    run = live(flow, "--env", "TG_A=option", "--env", "TG_B=option", env={"TG_OUTSIDE": "the shell"}).wait(15)
    assert lines_of(run, "show") == ["node option root in the shell"]
    nothing_left()


def test_args_are_split_as_a_shell_would_and_not_expanded(script, dataflow, live, nothing_left):
    show = str(script("show", "for a; do echo \"<$a>\"; done"))
    run = live(dataflow({"nodes": [{"id": "show", "path": show, "args": "a 'b  c' \"d\\\"e\" f\\ g '' $HOME *"}]})).wait(15)
    assert lines_of(run, "show") == ["<a>", "<b  c>", '<d"e>', "<f g>", "<>", "<$HOME>", "<*>"]
    nothing_left()


def test_cpu_affinity_holds_and_cpus_that_are_not_there_are_told(script, dataflow, live, nothing_left):
    show = str(script("show", "grep Cpus_allowed_list: /proc/self/status"))
    last = max(os.sched_getaffinity(0))
    run = live(dataflow({"nodes": [{"id": "show", "path": show, "cpu_affinity": [last, 1023]}]})).wait(15)
    assert run.status == 0
    assert [line.split()[1] for line in lines_of(run, "show")] == [str(last)]
    assert re.search(r"dataflow.yml:\d+:\d+: warning: this machine has no CPU 1023", run.stderr.read_text())
    nothing_left()


def test_a_node_that_stays_after_its_inputs_closed_is_ended_by_finish_grace_secs(build, script, dataflow, live, nothing_left):
    stays = script("stays", "tidegate-pipe --receive\necho closed\nexec sleep 1000")
    flow = dataflow({"nodes": [
        {"id": "flood", "path": f"{build}/tests/system/flood", "args": "1 8", "outputs": ["out"]},
        {"id": "stays", "path": str(stays), "finish_grace_secs": 0.7, "inputs": {"in": "flood/out"}},
    ]})  # fmt: skip
    run = live(flow, env={"PATH": f"{build}/bin:{os.environ['PATH']}"})
    run.until("closed")
    begin = time.monotonic()
    run.wait(20)
    assert run.status == 1
    assert "finish_grace_secs (0.7 s)" in run.node("stays")["error"]
    assert time.monotonic() - begin < 0.7 + 2 + SLACK
    nothing_left()


def test_input_timeout_closes_a_silent_input_and_the_next_message_opens_it(build, dataflow, live, nothing_left):
    nodes = build / "tests/system"
    flow = dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "700000", "outputs": ["out"]},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {
            "in": {"source": "beat/out", "input_timeout": 0.2}, "tick": "dora/timer/secs/100",
        }},
    ]})  # fmt: skip
    run = live(flow)
    run.until("INPUT_RECOVERED in")
    run.process.send_signal(2)
    run.wait(15)
    heard = [line.split()[:2] for line in lines_of(run, "hear")]
    assert heard.index(["INPUT_CLOSED", "in"]) < heard.index(["INPUT_RECOVERED", "in"])
    nothing_left()


@pytest.mark.parametrize(
    "source,seconds", [("dora/timer/millis/100", 0.1), ("tidegate/timer/hz/20", 0.05), ("dora/timer/micros/50000", 0.05)]
)
def test_timers_tick_at_their_rate(source, seconds, build, dataflow, live, nothing_left):
    flow = dataflow({"nodes": [{"id": "hear", "path": f"{build}/tests/system/hear", "inputs": {"in": source}}]})
    run = live(flow, "--stop-after", "1500ms").wait(15)
    assert run.status == 0
    (ticks,) = [int(line.split()[1]) for line in lines_of(run, "hear") if line.startswith("END ")]
    # A tick that was missed comes with the next; a busy machine may start late, be late, and stop late.
    assert 0.3 * 1.5 / seconds <= ticks <= (run.seconds + 0.1) / seconds
    nothing_left()


def test_nodes_of_a_module_run_under_its_name(build, dataflow, live, tmp_path, nothing_left):
    nodes = build / "tests/system"
    (tmp_path / "pass.yml").write_text(json.dumps({
        "module": {"name": "pass", "inputs": ["in"], "outputs": ["out"]},
        "nodes": [{"id": "inner", "path": f"{nodes}/relay", "inputs": {"in": "_mod/in"}, "outputs": ["out"]}],
    }))  # fmt: skip
    flow = dataflow({"nodes": [
        {"id": "beat", "path": f"{nodes}/beat", "args": "20", "outputs": ["out"]},
        {"id": "middle", "module": "pass.yml", "inputs": {"in": "beat/out"}},
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "middle/out"}},
    ]})  # fmt: skip
    run = live(flow)
    run.until('"node":"hear".*"text":"INPUT in 0:')
    run.process.send_signal(2)
    run.wait(15)
    assert run.status == 0 and run.node("middle.inner")["state"] == "stopped"
    nothing_left()


def test_every_line_lies_in_the_log_file_of_its_node(script, dataflow, live, tmp_path, nothing_left):
    talk = script("talk", "echo plain\n"
                          "echo '{\"level\":\"warn\",\"message\":\"m\",\"target\":\"t\",\"fields\":{\"a\":1}}'\n"
                          "echo error >&2\nprintf unfinished")  # fmt: skip
    run = live(dataflow({"nodes": [{"id": "talk", "path": str(talk)}]})).wait(15)
    log = tmp_path / "out" / run.result()["uuid"] / "log_talk.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(list(line) == ["timestamp", "level", "node_id", "message", "target", "fields"] for line in lines)
    assert {line["node_id"] for line in lines} == {"talk"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["timestamp"]) for line in lines)
    by_stream = [(line["level"], line["message"], line["target"], line["fields"]) for line in lines]
    assert [t for t in by_stream if t[0] != "stderr"] == [
        ("stdout", "plain", None, None), ("warn", "m", "t", {"a": 1}), ("stdout", "unfinished", None, None),
    ]  # fmt: skip
    assert [t for t in by_stream if t[0] == "stderr"] == [("stderr", "error", None, None)]
    nothing_left()


def test_a_run_says_that_nobody_can_connect_as_its_dynamic_nodes(dataflow, run_tidegate):
    descriptor = dataflow({"nodes": [{"id": "a", "path": "/bin/true"}, {"id": "hand", "path": "dynamic", "inputs": {}, "outputs": ["x"]}]})
    assert "hand: nobody can connect as this node" in run_tidegate("run", descriptor).output()
