# SPDX-License-Identifier: Apache-2.0
"""docs/dataflow.schema.json says what the reader says: the same keys, the same verdict on what both can judge."""

import json
import pathlib
import subprocess

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/descriptor/fixtures"
SCHEMA = json.loads((ROOT / "docs/dataflow.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD = sorted(p.with_suffix(".yml") for p in FIXTURES.glob("*.plan"))
EXAMPLES = sorted(p for p in (ROOT / "examples").rglob("*.yml") if "out" not in p.relative_to(ROOT).parts)
MODULES = [FIXTURES / "modules" / m for m in ("transform.yml", "outer.yml", "pass.yml", "deep/pass.yml", "itself.yml")]

# Refused by the reader for reasons a schema cannot see: names that do not exist, duplicates, text before it is YAML.
BEYOND_SCHEMA = {
    "alias_bomb", "alias_deep", "alias_recursive", "alias_unknown", "args", "comment_only", "duplicate_keys", "empty", "env",
    "key_list", "merge_key", "module_clash", "module_wires", "nul_escape", "syntax_flow", "syntax_indent", "syntax_quote",
    "syntax_tab", "tag", "two_documents", "module_alone", "after_cycle", "after_links", "after_targets",
    "detach_all", "expected_wrong",
}  # fmt: skip
BAD = sorted(p for p in FIXTURES.glob("*.yml") if p not in GOOD and p.stem not in BEYOND_SCHEMA)


def tool(build, name):
    path = build / "tests/descriptor" / name
    if not path.exists():
        pytest.skip(f"{path} was not built (tests are off)")
    return path


def read_yaml(build, path):
    out = subprocess.run([tool(build, "dump_yaml"), path], stdout=subprocess.PIPE, timeout=60, check=True).stdout
    return json.loads(out)


def errors(document):
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}"[:300] for e in VALIDATOR.iter_errors(document)]


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_reader_and_the_schema_know_the_same_keys(build):
    lines = subprocess.run([tool(build, "dump_keys")], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout.split("\n")
    reader = {}
    for table, key, status in (line.split() for line in lines if line):
        if status != "later":
            reader.setdefault(table, {})[key] = status
    schema = {name: d["properties"] for name, d in SCHEMA["$defs"].items() if d.get("additionalProperties") is False}
    assert {t: set(keys) for t, keys in reader.items()} == {t: set(keys) for t, keys in schema.items()}
    ignored = {(t, k) for t, keys in reader.items() for k, status in keys.items() if status == "ignored"}
    assert ignored and all(schema[t][k].get("deprecated") for t, k in ignored)


@pytest.mark.parametrize("path", GOOD + EXAMPLES + MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_the_reader_takes_the_schema_takes(build, path):
    assert errors(read_yaml(build, path)) == []


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_what_the_reader_refuses_for_its_form_the_schema_refuses(build, path):
    assert errors(read_yaml(build, path)) != []


def test_the_lists_above_are_not_empty():
    assert len(GOOD) >= 6 and len(BAD) >= 8


NODE = {"id": "a", "path": "x"}


@pytest.mark.parametrize(
    "change,good",
    [
        ({}, True),
        ({"id": "dora"}, False),
        ({"id": ".a"}, False),
        ({"id": "x" * 129}, False),
        ({"path": "dynamic"}, True),
        ({"path": "dynamic", "capture": True, "startup_timeout": 1, "on_failure": "stop"}, True),
        ({"path": "dynamic", "capture": "yes"}, False),
        ({"path": "dynamic", "args": "x"}, False),
        ({"path": "dynamic", "env": {"A": "b"}}, False),
        ({"path": "dynamic", "restart_policy": "never"}, False),
        ({"path": "dynamic", "restart_delay": 1}, False),
        ({"path": "dynamic", "cpu_affinity": [0]}, False),
        ({"path": "dynamic", "after": ["z"]}, False),
        ({"capture": False}, False),
        ({"cgroup_writable": True}, True),
        ({"placement": "colocate"}, True),
        ({"placement": "together"}, False),
        ({"path": "dynamic", "placement": "none"}, False),
        ({"wait": "spin"}, True),
        ({"path": "dynamic", "wait": "block"}, True),
        ({"wait": "sleep"}, False),
        ({"wait": None}, False),
        ({"detach": True}, True),
        ({"detach": True, "restart_policy": "always", "env": {"A": "b"}, "cgroup_writable": True}, True),
        ({"detach": True, "outputs": ["x"]}, False),
        ({"detach": True, "inputs": {"x": "y/z"}}, False),
        ({"detach": True, "after": ["z"]}, False),
        ({"detach": True, "on_failure": "stop"}, False),
        ({"detach": False, "outputs": ["x"]}, True),
        ({"path": "dynamic", "detach": True}, False),
        ({"cgroup_writable": "yes"}, False),
        ({"path": "dynamic", "cgroup_writable": True}, False),
        ({"after": ["z"]}, True),
        ({"after": {"z": "completed"}, "on_failure": "restart-downstream", "stuck_timeout": 0.5}, True),
        ({"after": None, "stuck_timeout": "off"}, True),
        ({"after": "z"}, False),
        ({"after": ["z", "z"]}, False),
        ({"after": [1]}, False),
        ({"after": {"z": "finished"}}, False),
        ({"after": {"z": None}}, False),
        ({"after": {"z": ["ready"]}}, False),
        ({"on_failure": "restart"}, False),
        ({"stuck_timeout": -1}, False),
        ({"stuck_timeout": "1"}, False),
        ({"health_check_timeout": 0.5}, True),
        ({"health_check_timeout": 0}, False),
        ({"path": "dynamic", "health_check_timeout": 1}, False),
        ({"path": "shell"}, False),
        ({"path": "shell", "args": "ls"}, True),
        ({"module": "m.yml"}, False),
        ({"params": {"a": 1}}, False),
        ({"startup_timeout": 0}, False),
        ({"inputs": {"x": "dora/timer/millis/100"}}, True),
        ({"inputs": {"x": "dora/timer/millis/0"}}, False),
        ({"inputs": {"x": "dora/timer/hours/1"}}, False),
        ({"inputs": {"x": "dora/logs"}}, False),
        ({"inputs": {"x": "tidegate/timer/hz/0.5"}}, True),
        ({"inputs": {"x": "a"}}, False),
        ({"inputs": {"x": "a/b/c", "y": {"source": "a/b", "queue_size": 0}}}, True),
        ({"inputs": {"x": {"queue_size": 1}}}, False),
        ({"inputs": {"x//y": "a/b"}}, False),
        ({"outputs": ["a", "a"]}, False),
        ({"build": "make"}, False),
        ({"shared_memory_pool_size": "64MB"}, True),
        ({"shared_memory_pool_size": 100}, False),
        ({"expected_message_size": "4 MB"}, True),
        ({"expected_message_size": 0}, False),
        ({"expected_message_size": 536870913}, False),
    ],
)
def test_a_node_is_judged_alike_by_both(build, tidegate, tmp_path, change, good):
    document = {"nodes": [NODE | change, {"id": "z", "path": "x"}]}
    assert (errors(document) == []) == good
    # The reader gets the same, with the one name that links need. JSON is YAML.
    if not document["nodes"][0].get("detach"):
        document["nodes"][0].setdefault("outputs", ["b", "b/c"])
    file = tmp_path / "dataflow.yml"
    file.write_text(json.dumps(document))
    assert (tidegate("validate", "--allow-shell-nodes", file).returncode == 0) == good
