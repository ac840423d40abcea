# SPDX-License-Identifier: Apache-2.0
"""logs and tail: files read with the caller's own rights, Dora's filters, following."""

import datetime
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time

import pytest
from supervisor import dataflow, node

pytestmark = pytest.mark.sanitized
BEGIN = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=datetime.timezone.utc)


def record(id, second, message, level="stdout", **more):
    stamp = (BEGIN + datetime.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
    return json.dumps({"timestamp": stamp, "level": level, "node_id": id, "message": message, "target": None, "fields": None, **more}) + "\n"


@pytest.fixture
def logs(fake, tmp_path):
    """A dataflow of two nodes with log files; the directory."""
    d = tmp_path / "logs"
    d.mkdir()
    (d / "log_a.jsonl").write_text("".join(record("a", 2 * i, f"even {i}") for i in range(50)))
    (d / "log_b.jsonl").write_text(
        "".join(record("b", 2 * i + 1, f"odd {i}", ["debug", "info", "warn", "error"][i % 4], target="t.x", fields={"k": i}) for i in range(50))
    )
    fake.dataflows = [dataflow("d", node("a"), node("b"), node("c"), log_dir=str(d))]
    return d


def messages(p):
    assert p.returncode == 0, p.stderr
    return [json.loads(line)["message"] for line in p.stdout.splitlines()]


def test_files_are_merged_by_time(talk, logs):
    found = messages(talk("logs", "d", "--json"))
    assert found[:4] == ["even 0", "odd 0", "even 1", "odd 1"] and len(found) == 100


def test_the_usual_line(talk, logs):
    lines = talk("logs", "--tail", "2").stdout.splitlines()
    assert lines == ["Jan 31 12:01:38.000 [a] stdout even 49", 'Jan 31 12:01:39.000 [b] info odd 49 {"k":49}']


@pytest.mark.parametrize("n", [0, 1, 7, 49, 50, 51, 1000])
def test_tail_counts_lines(talk, logs, n):
    assert messages(talk("logs", "-n", "a", "--tail", n, "--json")) == [f"even {i}" for i in range(50)][max(0, 50 - n) :]
    assert talk("tail", "d:a", "-n", n).stdout.splitlines() == [f"even {i}" for i in range(50)][max(0, 50 - n) :]


def test_tail_goes_back_over_blocks(talk, logs):
    lines = [f"{i:05d} " + "x" * 3000 for i in range(200)]
    (logs / "log_c.jsonl").write_text("".join(record("c", i, line) for i, line in enumerate(lines)))
    assert talk("tail", "d:c", "-n", "60").stdout.splitlines() == lines[-60:]


def test_tail_shows_ten_lines_and_names_nodes_where_there_are_several(talk, logs):
    assert talk("tail", "d:a").stdout.splitlines() == [f"even {i}" for i in range(40, 50)]
    assert talk("tail", "d", "-n", "2").stdout.splitlines() == ["[a] even 49", "[b] odd 49"]


@pytest.mark.parametrize(
    "args,expected",
    [
        (["--level", "error"], [f"odd {i}" for i in range(50) if i % 4 == 3]),
        (["--level", "warn", "--tail", "2"], ["odd 46", "odd 47"]),
        (["--grep", "ODD 7"], ["odd 7"]),
        (["--grep", "T.X", "--tail", "1"], ["odd 49"]),
        (["--since", "2026-01-31T12:01:37Z"], ["odd 48", "even 49", "odd 49"]),
        (["--since", "2026-01-31 12:01:38"], ["even 49", "odd 49"]),
        (["--until", "2026-01-31T12:00:01Z"], ["even 0", "odd 0"]),
        (["--until", "2026-01-31T12:00:05Z", "--tail", "1", "-n", "a"], ["even 2"]),
        (["--since", "1s"], []),
    ],
)
def test_filters_come_before_tail(talk, logs, args, expected):
    assert messages(talk("logs", "d", "--json", *args)) == expected


def test_an_unknown_node_is_told(talk, logs):
    assert talk("logs", "d", "-n", "nobody").returncode == 4
    assert talk("tail", "d:nobody").returncode == 4


def test_lines_that_are_no_records_are_shown_as_they_are(talk, logs):
    (logs / "log_c.jsonl").write_bytes(b"plain\n{half\n\xff\xfe\n[1]\n\n" + record("z", 0, "said to be of z").encode() + b'{"message":"unfinished')
    p = talk("tail", "d:c")
    assert p.stdout.splitlines() == ["plain", "{half", "\ufffd\ufffd", "[1]", "said to be of z"]
    assert json.loads(talk("logs", "d", "-n", "c", "--json").stdout.splitlines()[-1])["node_id"] == "c"


def test_a_line_too_long_costs_itself_only(talk, logs):
    (logs / "log_c.jsonl").write_bytes(b"x" * (3 << 20) + b"\nafter\n")
    assert talk("tail", "d:c").stdout.splitlines() == ["after"]


def test_what_is_no_regular_file_is_not_opened(talk, logs, tmp_path):
    (tmp_path / "secret").write_text("secret\n")
    (logs / "log_c.jsonl").symlink_to(tmp_path / "secret")
    os.mkfifo(logs / "log_e.jsonl")
    p = talk("logs", "d", timeout=20)
    assert p.returncode == 0 and "secret" not in p.stdout and "log_" in p.stderr


def test_a_directory_needs_no_daemon(talk, logs, fake):
    fake.vanish()
    assert len(messages(talk("logs", "--log-dir", logs, "--json"))) == 100
    assert talk("logs", "--log-dir", logs / "none").returncode == 1


def test_without_log_files_it_is_said(talk, logs, fake):
    del fake.dataflows[0]["log_dir"]
    p = talk("logs", "d")
    assert p.returncode == 1 and "--no-logs" in p.stderr


class Follower:
    """`logs -f` with its output line by line."""

    def __init__(self, talking):
        self.process = talking.process

    def next(self):
        return self.process.stdout.readline().rstrip("\n")


def test_follow_shows_what_is_written_and_ends_with_the_dataflow(talk_on, logs, fake):
    ended = threading.Event()

    def wait(c, p):
        assert p["state"] == "ended"
        ended.wait(60)
        c.reply(state="ended")

    fake.answers["Wait"] = wait
    t = talk_on("tail", "d", "-f", "-n", "1")
    f = Follower(t)
    assert f.next() == "[b] odd 49"
    with open(logs / "log_a.jsonl", "a") as a:
        a.write(record("a", 200, "new"))
        a.flush()
        assert f.next() == "[a] new"
        a.write(record("a", 201, "in two")[:20])
        a.flush()
        time.sleep(0.05)
        a.write(record("a", 201, "in two")[20:])
        a.flush()
        assert f.next() == "[a] in two"
    (logs / "log_c.jsonl").write_text(record("c", 202, "a new node"))
    assert f.next() == "[c] a new node"
    fake.called("Wait")
    with open(logs / "log_a.jsonl", "a") as a:
        a.write(record("a", 203, "last"))
    ended.set()
    t.finish()
    assert t.returncode == 0 and t.stdout.splitlines() == ["[a] last"]


def test_follow_notices_a_file_that_begins_afresh(talk_on, logs, fake):
    fake.answers["Wait"] = lambda c, p: c.silence()
    f = Follower(talk_on("tail", "d:a", "-f", "-n", "1"))
    assert f.next() == "even 49"
    (logs / "log_a.jsonl").write_text(record("a", 300, "afresh"))
    assert f.next() == "afresh"


def test_follow_goes_on_while_the_supervisor_changes(talk_on, logs, fake):
    answers = []

    def wait(c, p):
        answers.append(p)
        if len(answers) == 1:
            c.hang_up()
        c.reply(state="ended")

    fake.answers["Wait"] = wait
    t = talk_on("tail", "d:a", "-f", "-n", "1")
    t.finish()
    assert t.returncode == 0 and len(answers) == 2


def test_follow_without_files_takes_the_stream(talk, logs, fake):
    del fake.dataflows[0]["log_dir"]

    def stream(c, p):
        assert p["nodes"] == ["a"]
        c.line(node="a", stream=2, time_ms=1769860800000, line="one")
        c.line(node="a", stream=1, time_ms=1769860800000, dropped=3)
        c.reply()

    fake.answers["Logs"] = stream
    p = talk("logs", "d", "-n", "a", "-f")
    assert p.returncode == 0, p.stderr
    assert p.stdout.splitlines() == ["Jan 31 12:00:00.000 [a] stderr one", "Jan 31 12:00:00.000 [a] stdout (3 lines not shown here: this reader is slow)"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_the_caller_s_rights_are_what_counts(build, fake, logs, tmp_path):
    logs.chmod(0o700)
    shared = pathlib.Path(tempfile.gettempdir())
    for d in (tmp_path / "run", tmp_path, *(d for d in tmp_path.parents if shared in d.parents)):
        d.chmod(0o755)
    (tmp_path / "run/control.sock").chmod(0o666)
    p = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", build / "bin/tidegate", "logs", "d"], capture_output=True,
                       text=True, timeout=30, env={"TIDEGATE_RUNTIME_DIR": str(tmp_path / "run"), "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert p.returncode == 1 and "Permission denied" in p.stderr
