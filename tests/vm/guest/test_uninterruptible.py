# SPDX-License-Identifier: Apache-2.0
"""A process that nobody can end: it writes to a file system that is frozen."""

import json
import os
import signal
import subprocess
import threading
import time

from guest import BUILD, SLACK, descriptor, eventually, frozen_disk, processes, start, state_of, tidegate


class Events:
    """What `tidegate events` tells from now on. A thread reads."""

    def __enter__(self):
        self.command = start(BUILD / "bin/tidegate", "events", "--json", stdout=subprocess.PIPE)
        self.all = []
        self.thread = threading.Thread(target=lambda: self.all.extend(map(json.loads, self.command.stdout)))
        self.thread.start()
        return self

    def of(self, type):
        return [event for event in self.all if event["type"] == type]

    def __exit__(self, *_):
        self.command.terminate()
        self.command.wait(10)
        self.thread.join(10)


def writer(directory):
    """A node that writes for ever, one that does not."""
    return descriptor(directory, ("writer", "exec >>/mnt/frozen/file; while :; do echo x; done"), ("other", "exec sleep 1000"))


def blocked(flow):
    """The pid of its writer, once that is in D."""
    pid = int(tidegate("pid", f"{flow}:writer").stdout)
    assert eventually(lambda: state_of(pid) == "D"), state_of(pid)
    return pid


def writers_status():
    report = json.loads(tidegate("status", "--json", quiet=True).stdout)
    return next(n for d in report["dataflows"] for n in d["nodes"] if n["id"] == "writer")


def test_a_stop_ends_on_time_names_who_is_left_and_why_and_nothing_begins_beside_it():
    with frozen_disk() as (freeze, thaw):
        file = writer("/tmp/flow")
        again = ("start", file, "--name", "flow", "--detach", "--grace-duration", "500ms")
        assert tidegate("up").returncode == 0
        assert tidegate(*again).returncode == 0
        assert eventually(lambda: os.path.exists("/mnt/frozen/file") and os.path.getsize("/mnt/frozen/file") > 0)
        freeze()
        pid = blocked("flow")
        said = json.loads(tidegate("why", "flow:writer", "--json").stdout)
        assert said["cause"] == "file-system" and said["threads"][0]["fd_target"] == "/mnt/frozen/file", said
        with Events() as events:
            begin = time.monotonic()
            result = tidegate("stop", "flow")
            assert time.monotonic() - begin < 0.5 * 1.5 + 2 + SLACK
            assert result.returncode == 3, "somebody is left"
            node = writers_status()
            print(json.dumps(node))
            assert node["quarantined"] is True and str(pid) in json.dumps(node["left"]) and state_of(pid) == "D"
            assert (node["verdict"], node["n_tasks"]) == ("unkillable-uninterruptible", 1)
            (task,) = node["tasks"]
            assert (task["pid"], task["verdict"], task["state"]) == (pid, "unkillable-uninterruptible", "D")
            assert (task["syscall"], task["fd"], task["target"]) == ("write", 1, "/mnt/frozen/file")
            assert "KILL" in task["pending"] and task["frozen"] is False
            where = [task.get("wchan", ""), *task.get("stack", [])]
            assert any("percpu" in function or "sb_start" in function for function in where), "it waits for the thaw"
            refused = tidegate(*again)
            assert refused.returncode == 3 and f"pid {pid}" in refused.stdout and "--despite-leftover" in refused.stdout
            assert not events.of("cleared")
            thaw()
            assert eventually(lambda: state_of(pid) is None), "its SIGKILL was waiting"
            assert eventually(lambda: events.of("cleared")), "it is reported when it ends"
        (cleared,) = events.of("cleared")
        assert (cleared["node"], cleared["generation"]) == ("writer", 1) and "unkillable-uninterruptible" in cleared["text"]
        node = writers_status()
        assert (node["quarantined"], node["verdict"]) == (False, "killed")
        assert tidegate(*again).returncode == 0
        assert tidegate("stop", "flow", "--force").returncode in (0, 1)
        assert tidegate("down").returncode == 0


def test_a_run_in_the_foreground_ends_too_and_the_next_one_removes_the_rest():
    with frozen_disk() as (freeze, thaw):
        freeze()
        file = descriptor("/tmp/flow", ("writer", "echo x >> /mnt/frozen/file"))
        command = start(BUILD / "bin/tidegate", "run", file, "--grace-duration", "500ms", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert eventually(lambda: "D" in [state_of(pid) for pid, comm in processes().items() if comm == "writer.sh"])
        begin = time.monotonic()
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=60)
        assert time.monotonic() - begin < 0.5 * 1.5 + 2 + 3 + SLACK
        print(output)
        assert command.returncode == 3 and "1 left" in output, output
        # On a host that is so busy that the keeper, emulated, has not looked when the budget is over, it is said that it has not.
        assert "writer.sh" in output or "did not say who is left" in output, output
        thaw()
        assert tidegate("run", descriptor("/tmp/next", ("a", "true"))).returncode == 0
