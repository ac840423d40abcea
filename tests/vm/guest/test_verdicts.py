# SPDX-License-Identifier: Apache-2.0
"""Last words that a host must not suffer: a thread of the kernel among a node's processes, and one of root's that a user cannot end."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import time

from guest import BUILD, CGROUPS, SLACK, UID, USER, Cgroup, Skip, cgroups, descriptor, eventually, pids_in, state_of, tidegate
from test_uninterruptible import Events

MOVABLE = ("khugepaged", "kcompactd0", "ksmd", "khungtaskd", "oom_reaper", "kauditd", "kswapd0")


def comm_of(pid):
    return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


def node_of(tool=tidegate, id="victim"):
    report = json.loads(tool("status", "flow", "--json", quiet=True).stdout)
    return next(n for n in report["dataflows"][0]["nodes"] if n["id"] == id)


def cgroup_of_node(tool=tidegate):
    return pathlib.Path(json.loads(tool("status", "flow", "--json", quiet=True).stdout)["dataflows"][0]["cgroup"]) / "victim.1"


def move_kernel_thread(cgroup):
    """Move one that the kernel lets move into @cgroup; its pid."""
    threads = {}
    for pid in pids_in(CGROUPS):
        with contextlib.suppress(OSError):  # who is gone by now is none of them
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == b"":
                threads[comm_of(pid)] = pid
    for name in MOVABLE:
        if name in threads:
            try:
                (cgroup / "cgroup.procs").write_text(str(threads[name]))
                return threads[name]
            except OSError as e:
                print(f"{name}: {e}")
    raise Skip(f"this kernel moves none of its threads ({', '.join(sorted(threads))})")


def stopped_in_time(tool=tidegate):
    begin = time.monotonic()
    result = tool("stop", "flow", "--force")
    assert time.monotonic() - begin < 2 + SLACK
    assert result.returncode == 3, "somebody is left"
    return result.stdout


def test_a_thread_of_the_kernel_in_a_nodes_cgroup_is_named_watched_and_its_leaving_clears():
    file = descriptor("/tmp/flow", ("victim", "exec sleep 1000"), ("other", "exec sleep 1000"))
    again = ("start", file, "--name", "flow", "--detach")
    assert tidegate("up").returncode == 0
    assert tidegate(*again).returncode == 0
    pid = move_kernel_thread(cgroup_of_node())
    try:
        with Events() as events:
            said = stopped_in_time()
            assert "node victim: kernel-thread, 1 task left" in said and f"pid {pid} ({comm_of(pid)}): kernel-thread" in said, said
            assert "a thread of the kernel: no signal ends it" in " ".join(said.split()), said
            node, other = node_of(), node_of(id="other")
            assert (node["verdict"], node["quarantined"], node["n_tasks"], other["quarantined"]) == ("kernel-thread", True, 1, False)
            (task,) = node["tasks"]
            assert (task["pid"], task["tid"], task["comm"], task["verdict"]) == (pid, pid, comm_of(pid), "kernel-thread")
            assert task["state"] in "SIDR" and task.get("wchan") and task["stack"] and task["age_ms"] > 0 and not task["frozen"], task
            refused = tidegate(*again)
            assert refused.returncode == 3 and f"pid {pid}" in refused.stdout, "nothing begins beside it"
            assert state_of(pid) in tuple("SIDR"), "it has not taken any harm"
            (CGROUPS / "cgroup.procs").write_text(str(pid))
            assert eventually(lambda: events.of("cleared")), "its leaving is reported"
        (cleared,) = events.of("cleared")
        assert (cleared["node"], cleared["generation"]) == ("victim", 1) and "kernel-thread" in cleared["text"]
        assert eventually(lambda: not node_of()["quarantined"])
        assert tidegate("down").returncode == 0
    finally:
        (CGROUPS / "cgroup.procs").write_text(str(pid))


def test_a_set_user_id_program_that_left_and_may_not_be_signalled_is_the_last_word_escaped():
    """An ordinary user's daemon, and a program of root's that its node executes: outside of its cgroup nothing of the user's ends it."""
    runtime, leaver = "/tmp/escaped-runtime", "/usr/local/bin/leaver"  # /tmp is mounted nosuid
    os.makedirs(runtime, exist_ok=True)
    os.chown(runtime, UID, UID)
    shutil.copy(BUILD / "tests/vm/greedy", leaver)
    os.chmod(leaver, 0o4755)
    with Cgroup("delegated", user=USER) as home, Cgroup("elsewhere") as elsewhere:
        def user(*args, **kwargs):
            return tidegate(*args, "--runtime-dir", f"{runtime}/tidegate", user=True, cgroup=home, **kwargs)

        file = descriptor("/tmp/flow", ("victim", f"{leaver} leave {elsewhere}/cgroup.procs &\nexec sleep 1000"))
        again = ("start", file, "--name", "flow", "--detach")
        assert user("up").returncode == 0
        assert user(*again).returncode == 0
        (pid,) = eventually(lambda: pids_in(elsewhere))
        assert (os.stat(f"/proc/{pid}").st_uid, node_of(user)["protection"]["cgroup_write"]) == (0, "possible")
        said = stopped_in_time(user)
        assert "node victim: escaped, 1 task left" in said and f"pid {pid} (leaver): escaped" in said, said
        node = node_of(user)
        assert (node["verdict"], node["quarantined"], node["n_tasks"]) == ("escaped", True, 1)
        (task,) = node["tasks"]
        assert (task["pid"], task["comm"], task["verdict"], task["state"], task["cgroup"]) == (pid, "leaver", "escaped", "S", "/elsewhere"), task
        assert task["age_ms"] > task["still_ms"] > 500, task
        refused = user(*again)
        assert refused.returncode == 3 and f"pid {pid}" in refused.stdout
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not node_of(user)["quarantined"]), node_of(user)
        assert user("down").returncode == 0
        assert cgroups(home) == set()
