# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a dataflow: one clear message that names the node, an end in bounded time, nothing left over."""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile

import pytest
from conftest import MARK, eventually, said
from lives import Process, status_field

BOUND = 15.0


def failures(run):
    """What was told as a failure: lines of stderr, the summary of the end excepted."""
    lines = run.stderr.read_text(errors="replace").splitlines()
    return [line for line in lines if not re.fullmatch(r"tidegate: .* failed after .* left\)", line)]


@pytest.fixture
def beside(script):
    """A healthy program that has to be stopped with the bad one."""
    return {"id": "healthy", "path": str(script("healthy", "exec sleep 1000"))}


@pytest.fixture
def refused(dataflow, beside, live, nothing_left):
    """Run a bad node beside a healthy program to its end; returns the one line of failure."""

    def run(node, *args, bound=BOUND):
        r = live(dataflow({"nodes": [node, beside]}), *args, json=False).wait(bound)
        assert r.status == 1, r.output()
        nothing_left()
        (line,) = failures(r)
        assert line.startswith("tidegate: node bad (line ") and " failed: " in line
        return line.partition(" failed: ")[2]

    return run


# Users without privilege

NOBODY = 65534


@pytest.fixture
def delegated(home):
    """A cgroup of an ordinary user's, as service managers delegate them."""
    if os.geteuid() != 0:
        pytest.skip("needs root to delegate a cgroup")
    path = home / "delegated"
    path.mkdir()
    for p in (path, path / "cgroup.procs", path / "cgroup.threads", path / "cgroup.subtree_control"):
        os.chown(p, NOBODY, NOBODY)
    yield path
    path.rmdir()


@pytest.fixture
def as_nobody(build, traces, delegated):
    """Run the command as an ordinary user, in the cgroup @within; returns the completed process."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        for name in ("tidegate", "tidegated"):
            shutil.copy(build / "bin" / name, place)
        flow = pathlib.Path(place, "flow.yml")
        flow.write_text(json.dumps({"nodes": [{"id": "lonely", "path": "/usr/bin/id", "args": "-u"}]}))

        def run(within, *args):
            return said(subprocess.run(
                ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"',
                 within, f"{place}/tidegate", "run", flow, *args],
                env={**os.environ, MARK: traces.mark, "NO_COLOR": "1"}, text=True, timeout=60,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            ))  # fmt: skip

        if subprocess.run([f"{place}/tidegate", "version"], user=NOBODY, stdout=subprocess.DEVNULL).returncode:
            pytest.skip("this build cannot run as another user")
        yield run


def test_an_ordinary_user_runs_within_a_delegated_cgroup(as_nobody, delegated, tidegate):
    p = as_nobody(delegated)
    assert p.returncode == 0 and p.stderr == "" and "[lonely] 65534\n" in p.stdout
    assert [d for d in delegated.iterdir() if d.is_dir()] == []
    assert "an ordinary user within a cgroup that is delegated" in " ".join(tidegate("help", "run").stdout.split())


def test_an_ordinary_user_elsewhere_is_told_where_to_run(as_nobody, delegated, home):
    p = as_nobody(home, "--cgroup-root", delegated)
    assert p.returncode == 1
    assert "node lonely (line " in p.stderr and "within the cgroup that is delegated" in p.stderr
    assert [d for d in delegated.iterdir() if d.is_dir()] == []


# Programs that cannot be executed


def bad(path, **keys):
    return {"id": "bad", "path": str(path), **keys}


@pytest.mark.sanitized
@pytest.mark.parametrize("ports", [{}, {"outputs": ["out"]}], ids=["program", "node"])
@pytest.mark.parametrize("kind", ["missing", "not in PATH", "directory", "no execute bit", "bad interpreter", "damaged", "parent is a file"])
def test_a_program_that_cannot_be_executed(kind, ports, refused, script, tmp_path):
    path = tmp_path / "program"
    expected = [str(path)]
    if kind == "missing":
        expected.append("No such file or directory")
    elif kind == "not in PATH":
        path = "no-such-program-anywhere"
        expected = [path, "PATH"]
    elif kind == "directory":
        path.mkdir()
        expected.append("directory")
    elif kind == "no execute bit":
        path.write_text("#!/bin/sh\n")
        expected.append("no execute bit")
    elif kind == "bad interpreter":
        script("program", "", interpreter="/no/such/interpreter")
        expected += ["interpreter", "/no/such/interpreter"]
    elif kind == "damaged":
        path.write_bytes(b"\x7fELF" + bytes(60))
        path.chmod(0o755)
        expected.append("Exec format error")
    elif kind == "parent is a file":
        path.write_text("")
        path = path / "below"
        expected.append("Not a directory")
    line = refused(bad(path, **ports))
    assert all(word in line for word in expected), line


# Nodes that never get ready


@pytest.mark.sanitized
@pytest.mark.parametrize(
    "body,expected",
    [
        ("kill -SEGV $$", "was ended by SIGSEGV before it was ready"),
        ("exit 0", "exited with status 0 before it was ready"),
        ("exit 3", "exited with status 3 before it was ready"),
    ],
)
def test_an_end_before_the_handshake(body, expected, refused, script):
    line = refused(bad(script("program", f"ulimit -c 0\n{body}"), outputs=["out"]))
    assert expected in line and "never connected" in line


@pytest.mark.sanitized
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_node_that_never_connects(stubborn, refused, script):
    program = script("program", ("trap '' TERM\n" if stubborn else "") + "exec sleep 1000")
    line = refused(bad(program, outputs=["out"], startup_timeout=1.0), "--grace-duration", "1s")
    assert "startup_timeout (1 s)" in line and "never connected" in line


@pytest.mark.sanitized
def test_a_node_that_closes_its_socket_and_stays(refused, script):
    program = script("program", 'eval "exec $TIDEGATE_NODE_FD>&-"\nexec sleep 1000')
    line = refused(bad(program, outputs=["out"], startup_timeout=1.0), "--grace-duration", "1s")
    assert "startup_timeout" in line


@pytest.mark.sanitized
def test_a_node_that_speaks_nonsense_is_ended_at_once(refused, script):
    program = script("program", 'eval "echo nonsense >&$TIDEGATE_NODE_FD"\nexec sleep 1000', interpreter="/bin/bash")
    line = refused(bad(program, outputs=["out"]))
    assert "broke the protocol" in line


@pytest.mark.sanitized
def test_others_that_wait_for_it_are_told_and_end(build, dataflow, script, live, nothing_left):
    nodes = build / "tests/system"
    flow = dataflow({"nodes": [
        bad(script("program", "exit 5"), outputs=["out"]),
        {"id": "hear", "path": f"{nodes}/hear", "inputs": {"in": "bad/out"}},
        {"id": "far", "path": f"{nodes}/beat", "args": "1000", "outputs": ["out"]},
    ]})  # fmt: skip
    run = live(flow).wait(BOUND)
    assert run.status == 1
    assert run.result()["error"].startswith("bad (line ")
    assert run.result()["killed"] == 0, "they heard of it, and ended by themselves"
    nothing_left()


# Descriptors


@pytest.mark.parametrize("kind", ["long id", "binary", "NUL", "huge", "deep", "directory", "missing", "empty"])
def test_a_file_that_is_no_descriptor(kind, live, tmp_path, nothing_left):
    path = tmp_path / "flow.yml"
    if kind == "long id":
        path.write_text(f"nodes:\n  - id: {'a' * 10000}\n    path: x\n")
    elif kind == "binary":
        path.write_bytes(random.Random(7).randbytes(100_000))
    elif kind == "NUL":
        path.write_bytes(b"nodes:\n  - id: a\0b\n    path: x\n")
    elif kind == "huge":
        path.write_bytes(b"# " + b"x" * (2 << 20) + b"\nnodes: []\n")
    elif kind == "deep":
        path.write_text("nodes: " + "[" * 20000)
    elif kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    run = live(path, json=False).wait(BOUND)
    assert run.status == 1
    error = run.stderr.read_text()
    assert "flow.yml" in error and "error:" in error and len(error) < 4000, error[:4000]
    assert run.stdout.read_text() == ""
    nothing_left()


def test_a_graph_of_hundreds_of_nodes(build, dataflow, live, tidegate, nothing_left):
    nodes, n = build / "tests/system", 300
    chain = [{"id": "n0", "path": f"{nodes}/beat", "args": "10000", "outputs": ["out"]}]
    chain += [
        {"id": f"n{i}", "path": f"{nodes}/relay", "inputs": {"in": f"n{i - 1}/out"}, "outputs": ["out"]} for i in range(1, n)
    ]
    chain.append({"id": "last", "path": f"{nodes}/hear", "inputs": {"in": f"n{n - 1}/out"}})
    flow = dataflow({"nodes": chain})
    assert tidegate("validate", flow, timeout=BOUND).returncode == 0
    assert tidegate("graph", flow, timeout=BOUND).stdout.count("-->") == n
    run = live(flow)
    run.until('"node":"last".*"text":"INPUT in 0:', seconds=60)
    run.process.send_signal(2)
    run.wait(30)
    assert run.status == 0 and len(run.result()["nodes"]) == n + 1 and run.result()["killed"] == 0
    nothing_left()


@pytest.mark.sanitized
def test_a_plan_larger_than_a_frame_is_refused_in_words(dataflow, live, nothing_left):
    nodes = [{"id": f"n{i}", "path": "/bin/true", "args": "x" * 900} for i in range(1000)]
    run = live(dataflow({"nodes": nodes}), json=False).wait(BOUND)
    assert run.status == 1
    assert "larger than 1048576 bytes" in run.stderr.read_text()
    nothing_left()


# Output


def test_a_line_of_hundreds_of_megabytes_needs_no_memory(dataflow, live, script, nothing_left, tmp_path):
    n, gate = 300 << 20, tmp_path / "gate"
    endless = script("endless", f"until [ -e {gate} ]; do sleep 0.02; done; exec dd if=/dev/zero bs=1M count={n >> 20} status=none")
    run = live(dataflow({"nodes": [{"id": "endless", "path": str(endless)}]}))
    keeper = run.take("keeper")
    gate.touch()  # or it may be over before somebody looks
    peak = 0

    def look():
        nonlocal peak
        try:
            peak = max(peak, int(status_field(keeper.pid, "VmHWM").split()[0]))
        except (OSError, AttributeError):
            pass  # it has left
        return run.process.poll() is not None

    assert eventually(look, 30, step=0.01)
    keeper.close()
    run.wait(BOUND)
    assert run.status == 0
    assert 0 < peak < 40_000, f"{peak} KiB"
    (line,) = [e for e in run.events() if e["type"] == "log"]
    assert len(line["text"].encode()) + line["truncated_bytes"] >= n
    assert any("endless" in note["text"] and "more than" in note["text"] for note in run.result()["notes"])
    nothing_left()


def in_small_tmpfs(directory, options):
    """A prefix: a private mount namespace with a file system of its own on @directory, with what lay there copied to it."""
    return [
        "unshare", "-m", "sh", "-ec",
        f'cp -r "$0" "$0.kept"; mount -t tmpfs -o {options} tmpfs "$0"; cp "$0.kept"/* "$0"; cd "$0"; exec "$@"', str(directory),
    ]  # fmt: skip


@pytest.mark.sanitized
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("options,reason", [("size=64k", "No space left on device"), ("size=64k,nr_inodes=4", "No space left on device")])
def test_a_full_disk_costs_lines_and_says_so(options, reason, tmp_path, live, nothing_left):
    place = tmp_path / "small"
    place.mkdir()
    flow = place / "flow.yml"
    flow.write_text(json.dumps({"nodes": [
        {"id": "chatty", "path": "/usr/bin/seq", "args": "20000"},
        {"id": "quiet", "path": "/bin/true"},
    ]}))  # fmt: skip
    run = live(flow, prefix=in_small_tmpfs(place, options)).wait(BOUND)
    assert run.status == 0, run.output()
    notes = [n["text"] for n in run.result()["notes"]]
    assert len([n for n in notes if "log_chatty.jsonl" in n and reason in n]) == 1, notes
    assert any(re.search(r"^\d+ lines are missing in the log files", n) for n in notes)
    assert len(notes) == 2, "what the disk cost is told once, and nothing vague beside it"
    lines = [e["text"] for e in run.events() if e["type"] == "log" and e["node"] == "chatty"]
    dropped = sum(e["count"] for e in run.events() if e["type"] == "dropped")
    assert len(lines) + dropped == 20000, "the terminal gets them all the same, or is told how many not"
    nothing_left()


# Descriptors of the other kind


def limited(n):
    return ["sh", "-c", f'ulimit -n {n}; exec "$@"', "sh"]


@pytest.fixture
def two_nodes(build, dataflow):
    nodes = build / "tests/system"
    return dataflow({"nodes": [
        {"id": "flood", "path": f"{nodes}/flood", "args": "100 64", "outputs": ["out"]},
        {"id": "tally", "path": f"{nodes}/tally", "args": "0", "inputs": {"in": "flood/out"}},
    ]})  # fmt: skip


def test_64_file_descriptors_are_enough_for_two_nodes(two_nodes, live, nothing_left):
    assert live(two_nodes, prefix=limited(64)).wait(BOUND).status == 0
    nothing_left()


# What is being made before there is any node to blame.
OF_NO_NODE = (
    r"cannot make the sockets to a private instance|cannot start tidegated|cannot open the instance's cgroup files|"
    r"cannot set up the guard|cannot start the supervisor|cannot make a cgroup below |the keeper of this dataflow could not be started"
)


@pytest.mark.parametrize("n", [5, 8, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38])
def test_out_of_file_descriptors_is_told_wherever_it_strikes(n, two_nodes, live, nothing_left):
    run = live(two_nodes, json=False, prefix=limited(n)).wait(BOUND)
    nothing_left()
    told = failures(run)
    if run.status != 0:
        assert run.status == 1 and told, run.output()
        assert len(told) == len({line.split(" failed: ")[0] for line in told}), "one message each"
        for line in told:
            assert re.match(rf"tidegate: (node (flood|tally) \(line \d+\) failed: |{OF_NO_NODE})", line), line
            assert "Too many open files" in line, line
            assert f"(RLIMIT_NOFILE is {n}, " in line, line


def test_descriptors_of_the_command_are_not_handed_to_nodes(dataflow, live, nothing_left):
    flow = dataflow({"nodes": [{"id": "lister", "path": "/bin/ls", "args": "/proc/self/fd"}]})
    run = live(flow, prefix=["sh", "-c", 'exec 5</dev/null 9</dev/null; exec "$@"', "sh"]).wait(BOUND)
    assert [e["text"] for e in run.events() if e["type"] == "log"] == ["0", "1", "2", "3"], "3 is the directory that ls reads"
    nothing_left()
