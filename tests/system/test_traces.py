# SPDX-License-Identifier: Apache-2.0
"""The look for leftovers must see them, or every other test could pass in vain."""

import os
import subprocess
import sys
import tempfile

import pytest
from conftest import MARK, Traces, eventually, instance_folders

# What is left here for a moment every other test would find at its end; and a run beside this one sweeps it.
pytestmark = pytest.mark.alone


def test_a_process_is_seen_by_its_mark():
    t = Traces()
    p = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: t.mark}, start_new_session=True)
    try:
        assert eventually(lambda: list(t.left()) == ["processes"], 10), "its environment is there shortly after execve has closed files"
        assert list(t.left()["processes"]) == [p.pid]
        t.sweep()
        p.wait(10)
        assert t.left() == {}
    finally:
        p.kill()
        p.wait(10)


def test_a_descriptor_and_a_file_in_dev_shm_are_seen():
    t = Traces()
    with tempfile.TemporaryFile() as file, tempfile.NamedTemporaryFile(dir="/dev/shm") as shm:
        left = t.left()
        assert left["files in /dev/shm"] == {os.path.basename(shm.name)}
        assert any(name.startswith(f"{file.fileno()}: ") for name in left["our descriptors"])
    assert t.left() == {}


HOLDER = """
import os, socket, sys
keep = [os.memfd_create("tidegate-ring"), socket.socket(socket.AF_UNIX)]
directory = os.open(sys.argv[1], os.O_RDONLY)
keep[1].bind(f"/proc/self/fd/{directory}/control.sock")
print("ready", flush=True)
sys.stdin.read()
"""


def hold(directory, **environment):
    """A process that holds a region and a socket as ours are, without the mark of a test unless that is given."""
    env = {k: v for k, v in os.environ.items() if k != MARK}
    p = subprocess.Popen([sys.executable, "-c", HOLDER, directory], env={**env, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    (directory / "control.sock").unlink()
    return p


def test_memory_and_sockets_of_a_process_without_the_mark_are_seen(tmp_path):
    with hold(tmp_path):
        t = Traces(tmp_path)
        with hold(tmp_path, **{MARK: "another"}):
            assert t.left().keys() == {"our descriptors"}, "whoever was there before, or is another test's, is not ours"
            with hold(tmp_path) as p:
                left = t.left()
                assert left["memfds and sockets"] == {f"{p.pid}: /memfd:tidegate-ring", f"{p.pid}: socket control.sock"} and "processes" not in left
    assert t.left().keys() <= {"our descriptors"}


def test_a_cgroup_without_an_owner_is_seen():
    base = next(instance_folders(), None)
    if not base or not os.access(base.parent, os.W_OK):
        pytest.skip("no cgroup v2 that we may write")
    t = Traces()
    left = base / f"test-{os.getpid()}"
    os.makedirs(left / "node.1")
    try:
        assert {str(left), str(left / "node.1")} <= t.left()["cgroups"]
    finally:
        for path in (left / "node.1", left):
            if path.exists():  # a run beside this one may have swept it: that is what runs do
                path.rmdir()
        if base.exists() and not any(d.is_dir() for d in base.iterdir()):
            base.rmdir()


def test_tests_that_run_beside_these_make_no_files_in_dev_shm(root):
    """Every file that appears there while a test runs counts as left by it."""
    sources = [path for kind in ("*.c", "*.h") for path in (root / "tests").rglob(kind)]
    assert len(sources) > 50
    assert [str(path) for path in sources if '"/dev/shm' in path.read_text()] == []
