# SPDX-License-Identifier: Apache-2.0
"""Each example runs as it is delivered, gives its result, and leaves nothing. (examples/audio: test_audio.py.)"""

import re
import shutil

import pytest


@pytest.fixture
def example(root, build, tmp_path):
    """A copy of an example whose C nodes are those of the build under test."""

    def copy(name):
        to = tmp_path / name
        shutil.copytree(root / "examples" / name, to, ignore=shutil.ignore_patterns("out", "__pycache__"))
        descriptor = to / "dataflow.yml"
        descriptor.write_text(descriptor.read_text().replace("../../build/", f"{build}/"))
        return descriptor

    return copy


def lines_of(run, node):
    """What a node printed."""
    return re.findall(rf"^\[{node}\] (.*)$", run.output(), re.MULTILINE)


@pytest.mark.sanitized
def test_hello_is_heard(example, run_tidegate):
    run = run_tidegate("run", example("hello"))
    assert lines_of(run, "listener") == ["heard: hello, world", "heard: hello, river", "heard: hello, sea"]


def test_hello_ends_by_itself_in_under_a_second(example, run_tidegate):
    descriptor = example("hello")
    assert min(run_tidegate("run", descriptor).seconds for _ in range(3)) < 1


def test_fifty_runs_of_hello_leave_nothing(example, run_tidegate, traces):
    descriptor = example("hello")
    run_tidegate("run", descriptor)  # what the first run of all makes once (a folder) is not the growth meant here
    traces.before = traces.count()
    for _ in range(50):
        run_tidegate("run", descriptor)
        traces.assert_none()


def test_photographs_are_read_where_they_lie(example, run_tidegate):
    run = run_tidegate("run", example("image"), timeout=120)
    (checked,) = lines_of(run, "brightness")
    n, n_bytes, growth = map(int, re.fullmatch(
        r"read (\d+) pictures, (\d+) bytes, all in shared memory; own memory grew by (-?\d+) KiB", checked
    ).groups())  # fmt: skip
    assert n == 6 and n_bytes > 100e6 and growth <= 1024
    *pictures, summary = lines_of(run, "verify")
    assert len(pictures) == 6
    assert summary == f"6 pictures, {n_bytes / 1e6:.1f} MB: every byte as it was sent, every histogram right"
