# SPDX-License-Identifier: Apache-2.0
"""tidegate validate and graph, as somebody at a terminal or a script sees them."""

import json
import os
import pathlib
import pty
import subprocess
import time

import pytest

pytestmark = pytest.mark.sanitized

GOOD = "nodes:\n  - {id: a, path: sh, outputs: [o]}\n  - {id: b, path: sh, inputs: {i: a/o, t: dora/timer/secs/1}}\n"
WARN = GOOD + "communication: {}\n"
BAD = "nodes:\n  - id: a\n    path: sh\n    inputs:\n      x:\n        source: a/o\n        queue_sise: 3\n    outputs: [o]\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "dataflow.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_valid_file_is_summed_up_on_stdout(tidegate, file):
    path = file(GOOD)
    p = tidegate("validate", path)
    assert (p.returncode, p.stderr) == (0, "")
    assert p.stdout == f"{path}: valid: 2 nodes, 1 link, 1 timer input\n"


def test_the_example_of_the_page_on_order_is_valid(tidegate, file, root):
    page = (root / "docs/ordering.md").read_text()
    path = file(page.split("```yaml\n")[1].split("```")[0])
    p = tidegate("validate", path)
    assert (p.returncode, p.stderr) == (0, "")
    assert f"{path}: valid: 4 nodes, 1 link" in p.stdout
    drawn = tidegate("graph", path)
    assert (drawn.returncode, drawn.stdout.count(" -.->|")) == (0, 3) and '[/"viewer"/]' in drawn.stdout


def test_an_error_goes_to_stderr_with_its_place_and_a_suggestion(tidegate, file):
    path = file(BAD)
    p = tidegate("validate", path)
    assert (p.returncode, p.stdout) == (1, "")
    assert p.stderr == (
        f'{path}:7:9: error: unknown key "queue_sise" of an input\n'
        "            queue_sise: 3\n"
        "            ^~~~~~~~~~\n"
        '    did you mean "queue_size"?\n'
    )


def test_warnings_belong_to_the_result_unless_strict(tidegate, file):
    path = file(WARN)
    p = tidegate("validate", path)
    assert (p.returncode, p.stderr) == (0, "")
    assert ":4:1: warning: " in p.stdout and p.stdout.endswith("1 warning\n")
    p = tidegate("validate", "--strict", path)
    assert (p.returncode, p.stdout) == (1, "")
    assert ":4:1: warning: " in p.stderr


def test_json_holds_the_same_as_the_text(tidegate, file):
    path = file(BAD)
    p = tidegate("validate", "--json", path)
    assert (p.returncode, p.stderr) == (1, "")
    result = json.loads(p.stdout)
    assert result["ok"] is False and result["errors"] == 1 and result["warnings"] == 0 and result["file"] == str(path)
    (d,) = result["diagnostics"]
    assert (d["severity"], d["line"], d["column"], d["suggestion"]) == ("error", 7, 9, "queue_size")
    result = json.loads(tidegate("validate", "--json", "--name", "other", file(GOOD)).stdout)
    assert result["ok"] is True and result["name"] == "other" and result["diagnostics"] == []


@pytest.mark.parametrize("command", ["validate", "graph"])
@pytest.mark.parametrize("args", [[], ["a.yml", "b.yml"], ["--frobnicate", "a.yml"], ["--name"]])
def test_wrong_usage_is_2_and_speaks_on_stderr(tidegate, command, args):
    p = tidegate(command, *args)
    assert p.returncode == 2 and p.stdout == "" and p.stderr != ""


@pytest.mark.parametrize("command", ["validate", "graph"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: None,
        lambda p: p.mkdir(),
        lambda p: os.mkfifo(p),
        lambda p: p.symlink_to("/dev/zero"),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(bytes(range(256)) * 100),
        lambda p: p.write_bytes(b"nodes:\n\t- id: a\n"),
        lambda p: p.write_bytes(b"a: \xff\n"),
        lambda p: p.write_bytes(b"nodes: [{id: " + b"x" * 10000 + b", path: y}]\n"),
        lambda p: p.write_bytes(b"[" * 60000),
        lambda p: p.write_bytes(b"#" * (1 << 20) + b"\n"),
    ],
    ids=["missing", "directory", "fifo", "device", "empty", "binary", "tab", "not-utf8", "long-id", "brackets", "too-large"],
)
def test_what_is_no_descriptor_gets_one_short_message_in_bounded_time(tidegate, tmp_path, command, make):
    path = tmp_path / "dataflow.yml"
    make(path)
    start = time.monotonic()
    p = tidegate(command, path, timeout=30)
    assert time.monotonic() - start < 15
    assert (p.returncode, p.stdout) == (1, "")
    assert p.stderr.count("error: ") == 1 and len(p.stderr) < 2000
    assert str(path) in p.stderr


def test_a_program_that_cannot_run_is_a_warning(tidegate, file, tmp_path):
    (tmp_path / "text").write_text("x")
    p = tidegate(
        "validate",
        file("nodes: [{id: a, path: ./gone}, {id: b, path: ./text}, {id: c, path: /}, {id: d, path: tg-no-such}, {id: e, path: x.py}]"),
    )
    assert p.returncode == 0
    for what in ("gone\" does not exist", "is not executable", "is a directory", "nor in $PATH", "x.py\" does not exist"):
        assert what in p.stdout, what


# In a mount namespace of its own: a FUSE file system that answers INIT, takes every other request and never answers. Then the
# command given, whose output is passed on. Closing the connection at the end lets go of whoever hangs in it.
HUNG = r"""
import ctypes, os, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
target = sys.argv[1]
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
    sys.exit(77)
try:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
except OSError:
    sys.exit(77)
if libc.mount(b"hung", target.encode(), b"fuse", 0, b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd):
    sys.exit(77)
ready = threading.Event()
def serve():
    while True:
        try:
            request = os.read(fd, 1 << 17)
        except OSError:
            return
        if struct.unpack_from("<II", request)[1] == 26:  # INIT
            out = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
            os.write(fd, struct.pack("<IiQ", 16 + len(out), 0, struct.unpack_from("<Q", request, 8)[0]) + out)
            ready.set()
threading.Thread(target=serve, daemon=True).start()
ready.wait(10)
start = time.monotonic()
p = subprocess.run(sys.argv[2:], timeout=30)
print("seconds", time.monotonic() - start, flush=True)
os._exit(p.returncode)
"""


@pytest.mark.parametrize("command,limit", [("graph", 3), ("validate", 8)])
def test_programs_on_a_file_system_that_does_not_answer_hold_nobody_up(build, tmp_path, command, limit):
    hung = tmp_path / "hung"
    hung.mkdir()
    file = tmp_path / "dataflow.yml"
    (tmp_path / "link").symlink_to(hung / "x")
    file.write_text(f"nodes: [{{id: a, path: {hung}/p}}, {{id: b, path: hung/s.py}}, {{id: c, path: link}}, {{id: d, path: /gone}}]\n")
    p = subprocess.run(
        ["python3", "-c", HUNG, hung, build / "bin/tidegate", command, file], stdout=subprocess.PIPE, text=True, timeout=60
    )
    if p.returncode == 77:
        pytest.skip("no FUSE mount possible here")
    assert p.returncode == 0
    assert float(p.stdout.split("seconds ")[1]) < limit
    if command == "validate":
        assert p.stdout.count("does not answer") == 3 and "/gone\" does not exist" in p.stdout


def test_colours_are_for_terminals_that_want_them(build, file):
    def on_a_terminal(**env):
        leader, follower = pty.openpty()
        subprocess.run(
            [build / "bin/tidegate", "validate", file(BAD)],
            stdin=follower, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm", **env}, timeout=60,
        )  # fmt: skip
        os.close(follower)
        out = b""
        try:
            while chunk := os.read(leader, 65536):
                out += chunk
        except OSError:
            pass  # the end, for a terminal
        os.close(leader)
        return out

    plain = {"NO_COLOR": ""}
    assert b"\033[" in on_a_terminal(**plain)
    assert b"\033[" not in on_a_terminal(NO_COLOR="1")
    assert b"\033[" not in on_a_terminal(TERM="dumb", **plain)


def test_graph_draws_mermaid_dot_and_json(tidegate, file):
    path = file(WARN)
    mermaid, dot, plan = (tidegate("graph", *a, path) for a in ([], ["--dot"], ["--json"]))
    assert all(p.returncode == 0 and p.stderr == "" for p in (mermaid, dot, plan))
    assert mermaid.stdout == tidegate("graph", "--mermaid", path).stdout
    assert mermaid.stdout.startswith("flowchart LR\n") and 'n0 -->|"o as i"| n1' in mermaid.stdout
    assert dot.stdout.startswith("digraph ") and 't0 -> n1 [label="t"]' in dot.stdout
    assert [n["id"] for n in json.loads(plan.stdout)["nodes"]] == ["a", "b"]
    assert tidegate("graph", "--dot", "--json", path).returncode == 2


def test_graph_of_an_invalid_file_draws_nothing(tidegate, file):
    p = tidegate("graph", file(BAD))
    assert (p.returncode, p.stdout) == (1, "") and "queue_sise" in p.stderr


def test_a_full_disk_is_a_failure_not_a_success(build, file):
    with open("/dev/full", "w") as full:
        for args in (["validate"], ["validate", "--json"], ["graph"], ["graph", "--json"]):
            p = subprocess.run([build / "bin/tidegate", *args, file(GOOD)], stdout=full, stderr=subprocess.PIPE, timeout=60)
            assert p.returncode == 1, args


def test_the_fixtures_are_what_the_command_sees_too(tidegate, root):
    """The unit test holds every fixture; this is that the command reads the same way."""
    for path in sorted(pathlib.Path(root, "tests/descriptor/fixtures").glob("*.yml")):
        expected = 0 if path.with_suffix(".plan").exists() else 1
        env = {**os.environ, "TG_TEST_SET": "x"}
        assert tidegate("validate", path, env=env).returncode == expected, path
