# SPDX-License-Identifier: Apache-2.0
"""Limits, where the kernel has all controllers: what they do, how it is told, and how they change."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

from guest import BUILD, CGROUPS, UID, Cgroup, deadline, doctor, eventually, pids_in, probe, processes, tidegate, two_cpus

GREEDY = BUILD / "tests/vm/greedy"


def write(name, *nodes, whole=""):
    """A descriptor of nodes that are `greedy`: (id, arguments, resources in YAML)."""
    directory = pathlib.Path("/tmp") / name
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    text = f"resources: {whole}\n" if whole else ""
    text += "nodes:\n" + "".join(f'  - {{id: {id}, path: "{GREEDY}", args: "{args}", resources: {resources}}}\n' for id, args, resources in nodes)
    (directory / "flow.yml").write_text(text)
    return directory / "flow.yml"


def ask(method, **parameters):
    """A call of the control interface: what starts no program is quick here."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect("/run/tidegate/control.sock")
        s.sendall(json.dumps({"method": f"dev.tidegate.Supervisor.{method}", "parameters": parameters}).encode() + b"\0")
        text = b""
        while not text.endswith(b"\0"):
            data = s.recv(1 << 16)
            assert data, "the daemon hung up"
            text += data
    return json.loads(text[:-1])["parameters"]


class Daemon:
    def __enter__(self):
        assert tidegate("up").returncode == 0
        return self

    def __exit__(self, *_):
        assert tidegate("down").returncode == 0

    def start(self, file, *args):
        result = tidegate("start", file, "--detach", "--no-logs", "--grace-duration", "1s", *args)
        assert result.returncode == 0, result.stdout
        self.cgroup = pathlib.Path(json.loads(tidegate("status", "flow", "--json", quiet=True).stdout)["dataflows"][0]["cgroup"])

    def flow(self):
        return json.loads(tidegate("status", "flow", "--json", quiet=True).stdout)["dataflows"][0]

    def node(self, id):
        return next(n for n in self.flow()["nodes"] if n["id"] == id)

    def file(self, id, name):
        return (self.cgroup / f"{id}.{self.node(id)['generation']}" / name).read_text().strip()


def test_doctor_says_that_all_can_be_enforced():
    controllers = probe(doctor(), "cgroup_controllers")
    assert controllers["result"] == "yes" and "memory, cpu, pids, io, cpuset can be enforced" in json.dumps(controllers), controllers


def test_who_takes_more_than_memory_max_is_oom_killed_whole_with_peak_and_limit():
    result = tidegate("run", write("flow", ("hog", "memory 100 two", "{memory_max: 32M, memory_swap_max: 0}")))
    assert result.returncode == 1
    assert "was oom-killed, peak 32M of 32M" in result.stdout and "0 left" in result.stdout
    assert "left processes behind" not in result.stdout and "SIGTERM" not in result.stdout, "its child went with it, nobody had to end that"


def test_the_dataflows_memory_max_counts_all_nodes_together():
    with Daemon() as daemon:
        daemon.start(write("flow", ("a", "memory 20", "{}"), ("b", "memory 80", "{}"), whole="{memory_max: 60M}"))
        assert (daemon.cgroup / "memory.max").read_text().strip() == str(60 << 20)
        assert eventually(lambda: daemon.flow()["n_failed"] >= 1)
        dead = next(n for n in daemon.flow()["nodes"] if n["state"] == "failed")
        assert "was oom-killed, peak" in dead["error"] and "all nodes together reached the dataflow's 60M" in dead["error"], dead["error"]
        assert daemon.flow()["felt"]["memory_peak"] == 60 << 20


@two_cpus  # cpuset_cpus
def test_each_limit_is_written_felt_and_told_once():
    subprocess.run(["modprobe", "virtio_blk"], check=False)
    assert eventually(lambda: os.path.exists("/sys/class/block/vda/dev")), "the scratch disk"
    number = pathlib.Path("/sys/class/block/vda/dev").read_text().strip()
    file = write(
        "flow", ("slow", "memory 24", "{memory_high: 16M}"), ("bomb", "fork 50", "{pids_max: 10}"), ("busy", "cpu", "{cpu_max: 0.2, cpu_weight: 50}"),
        ("disk", "fork 1", "{io_weight: 50, cpuset_cpus: 1, io_max: [{device: /dev/vda, rbps: 1M, wiops: 100}]}"), whole='{io_max: "/dev/vda wbps=2M"}',
    )  # fmt: skip
    with Daemon() as daemon:
        daemon.start(file)
        assert eventually(lambda: all(n.get("felt") for n in daemon.flow()["nodes"] if n["id"] != "disk"), 20), daemon.flow()
        assert eventually(lambda: daemon.node("bomb")["felt"]["forks_refused"] == 41), daemon.node("bomb")
        assert len(pids_in(daemon.cgroup / "bomb.1")) == 10
        assert daemon.node("slow")["felt"]["memory_high_events"] and daemon.node("slow")["state"] == "running"
        assert (daemon.file("busy", "cpu.max"), daemon.file("busy", "cpu.weight")) == ("20000 100000", "50")
        assert daemon.node("busy")["felt"]["throttled_periods"]
        info = tidegate("status", "flow").stdout + tidegate("node", "info", "busy").stdout
        assert "throttled by cpu_max in " in info and "0.2 cores" in info
        assert daemon.file("disk", "io.max") == f"{number} rbps=1048576 wbps=max riops=max wiops=100"
        assert (daemon.cgroup / "io.max").read_text().strip() == f"{number} rbps=max wbps=2097152 riops=max wiops=max"
        assert daemon.file("disk", "io.weight") == "default 50" and daemon.file("disk", "cpuset.cpus.effective") == "1"
        assert tidegate("set-limit", "disk", "cpuset_cpus=0", "io_max=/dev/vda rbps=max").returncode == 0
        assert daemon.file("disk", "cpuset.cpus.effective") == "0" and "rbps=max" in daemon.file("disk", "io.max")
        told = tidegate("stop", "flow", "--force", "--json").stdout  # its notes are part of the result
        for text in ("is slowed down by its memory_high of 16M", "was refused a fork by pids_max (10)", "is throttled: it wants more than 0.2 cores"):
            assert told.count(text) == 1, (text, told)


@deadline(150)
def test_pressure_is_told_and_acted_on_and_a_storm_of_restarts_ends():
    file = write(
        "flow",
        ("tell", "memory 24", "{memory_high: 16M}, on_pressure: {memory_some: 20ms/500ms, memory_high: 1/10s}"),
        ("again", "memory 24", "{memory_high: 16M}, on_pressure: {memory_full: 20ms/500ms, action: restart}, restart_policy: always, max_restarts: 1, restart_delay: 0.1"),
        ("end", "cpu", "{cpu_max: 0.1}, on_pressure: {cpu_throttled: 300ms/1s, action: stop}"),
        ("bomb", "forks", "{pids_max: 5}, on_pressure: {forks_refused: 10/1s}"),
        ("calm", "memory 4", "{cpu_max: 1.5}, on_pressure: {cpu_throttled: 500ms/1s, memory_some: 100ms/500ms, action: stop}"),
    )  # fmt: skip
    with Daemon() as daemon:
        daemon.start(file, "--grace-duration", "20s")  # a guest on a busy host takes its time to end somebody
        nodes = lambda: {n["id"]: n for n in ask("Status", names=["flow"])["dataflows"][0]["nodes"]}
        assert eventually(lambda: nodes()["again"]["state"] == "failed" == nodes()["end"]["state"] and "pressed" in nodes()["bomb"], 100), nodes()
        assert eventually(lambda: nodes()["tell"].get("pressed", {}).get("count", 0) >= 2), nodes()
        again, end, tell, bomb, calm = (nodes()[id] for id in ("again", "end", "tell", "bomb", "calm"))
        assert again["restarts"] == 1 and re.search(r"was ended for its pressure: memory_full (at least )?[\d.]+ m?s in .*restart at 20 ms in 500 ms", again["error"]), again
        assert again["pressed"]["count"] == 2, "once in each life"
        assert re.search(r"was stopped for its pressure: cpu_throttled [\d.]+ m?s in [\d.]+ s; on_pressure \(line \d\): stop at 300 ms in 1 s", end["error"]), end
        assert tell["state"] == "running" and tell["generation"] == 1 and tell["pressed"]["count"] >= 2
        assert re.match(r"forks_refused \d+ times in [\d.]+ m?s; on_pressure", bomb["pressed"]["text"]), bomb
        assert calm["state"] == "running" and "pressed" not in calm
        usage = next(u for u in ask("Usage", dataflow="flow")["usage"] if u["node"] == "tell")
        assert usage["source"] == "cgroup" and (usage["processes"], usage["threads"]) == (1, 1) and 8 << 20 < usage["memory_bytes"] < 32 << 20, usage
        assert 0 <= usage["pressure"]["memory"]["some"] <= 100 and usage["cpu_ns"] > 0
        (result,) = ask("Stop", dataflow="flow", force=True)["results"]
        notes = [note["text"] for note in result["notes"] if note.get("node") == "tell" and "on_pressure" in note["text"]]
        assert sorted(note.partition(": ")[2] for note in notes) == ["event at 1 times in 10 s", "event at 20 ms in 500 ms"], "once in a life"


def test_who_stands_at_a_limit_is_told_of_once_a_second_and_the_last_value_always():
    with Daemon() as daemon:
        daemon.start(write("flow", ("bomb", "forks", "{pids_max: 5}")))
        bomb = lambda: daemon.node("bomb")
        refused = lambda: bomb().get("felt", {}).get("forks_refused", 0)
        (keeper,) = [pid for pid, comm in processes().items() if comm == "tidegate-keeper"]
        wakes = lambda: int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", pathlib.Path(f"/proc/{keeper}/status").read_text(), re.M).group(1))
        counted = lambda: int((daemon.cgroup / "bomb.1/pids.events").read_text().split()[1])
        assert eventually(refused)
        begin = time.monotonic()  # before the first of four values is read: it may be as old as a second
        values = {refused()}
        assert eventually(lambda: values.add(refused()) or len(values) == 4), values
        took = time.monotonic() - begin
        assert took > 1.5, f"three more reports after {took:.2f} s"
        begin, woken, before = time.monotonic(), wakes(), counted()
        assert eventually(lambda: counted() >= before + 80), "nobody asks for its status meanwhile, which has the keeper look"
        took, woken = time.monotonic() - begin, wakes() - woken
        assert woken <= 5 * (took + 1), f"{woken} turns of the keeper's loop in {took:.1f} s"
        os.kill(bomb()["pid"], signal.SIGSTOP)
        assert eventually(lambda: counted() == refused()), counted()


def test_limits_change_at_run_time_and_outlive_restart_and_supervisor():
    with Daemon() as daemon:
        daemon.start(write("flow", ("a", "memory 10", "{memory_max: 64M}")))
        assert tidegate("set-limit", "flow:a", "memory_max=128M", "pids_max=7").returncode == 0
        assert tidegate("set-limit", "flow", "memory_max=512M").returncode == 0
        assert (daemon.file("a", "memory.max"), daemon.file("a", "pids.max")) == (str(128 << 20), "7")
        supervisor = int(tidegate("pid").stdout)
        os.kill(supervisor, signal.SIGKILL)
        assert eventually(lambda: int(tidegate("pid").stdout or supervisor) != supervisor)
        assert tidegate("node", "restart", "flow:a").returncode == 0
        assert daemon.node("a")["generation"] == 2
        assert (daemon.file("a", "memory.max"), daemon.file("a", "pids.max")) == (str(128 << 20), "7")
        assert (daemon.cgroup / "memory.max").read_text().strip() == str(512 << 20)
        assert {limit["key"]: limit["set"] for limit in daemon.node("a")["limits"]} == {"memory_max": True, "pids_max": True}
        assert tidegate("set-limit", "flow:a", "memory_max=max").returncode == 0
        assert daemon.file("a", "memory.max") == "max"


def test_a_lower_memory_max_ends_whoever_has_more():
    with Daemon() as daemon:
        daemon.start(write("flow", ("a", "memory 40", "{memory_swap_max: 0}")))
        assert eventually(lambda: int(daemon.file("a", "memory.current")) > 40 << 20)
        assert tidegate("set-limit", "a", "memory_max=8M").returncode == 0
        assert eventually(lambda: daemon.node("a")["state"] == "failed")
        assert "was oom-killed, peak" in daemon.node("a")["error"] and "of 8M" in daemon.node("a")["error"]


@deadline(100)
def test_the_memory_of_a_pool_is_its_producers_and_not_its_readers():
    nodes, directory = BUILD / "tests/system", pathlib.Path("/tmp/pool")
    directory.mkdir(exist_ok=True)
    file = directory / "flow.yml"
    file.write_text(
        f"nodes:\n  - {{id: source, path: {nodes}/flood, args: 100000 900000, outputs: [out], shared_memory_pool_size: 33554432}}\n"
        f"  - {{id: reader, path: {nodes}/tally, inputs: {{in: {{source: source/out, queue_policy: backpressure, queue_size: 40}}}}}}\n"
    )
    with Daemon() as daemon:
        daemon.start(file, "--grace-duration", "100ms")  # `flood` does not listen
        links = lambda: next(n for n in ask("Status", names=["flow"], links=True)["dataflows"][0]["nodes"] if n["id"] == "reader")["links"]
        read = lambda: links()[0].get("counters", {}).get("delivered", 0)
        has = lambda id: int((daemon.cgroup / f"{id}.1/memory.current").read_text())
        shared = lambda id: int(re.search(r"^shmem (\d+)", (daemon.cgroup / f"{id}.1/memory.stat").read_text(), re.M).group(1))
        assert eventually(lambda: shared("source") > 30 << 20, 30), shared("source")
        begun = read()
        assert eventually(lambda: read() > begun + 80, 30), (begun, read())  # it has room for 30
        assert has("source") > 30 << 20
        assert shared("reader") < 64 << 10 and has("reader") < 8 << 20, (shared("reader"), has("reader"))


def test_what_the_kernel_refuses_is_refused_with_the_reason():
    result = tidegate("run", write("flow", ("a", "fork 1", "{cpuset_cpus: 70}")))
    assert result.returncode == 1 and "node a (line 2) failed: cpuset_cpus (line 2) cannot be enforced here: the kernel refused cpuset.cpus" in result.stdout
    result = tidegate("run", write("flow", ("a", "fork 1", "{}"), whole='{io_max: "/dev/nothing rbps=1M"}'))
    assert result.returncode == 1 and "the dataflow (line 1): io_max cannot be enforced here: there is no whole block device /dev/nothing" in result.stdout
    result = tidegate("run", write("flow", ("a", "nothing", "{cpuset_cpus: 70}")), "--allow-unenforced-limits")
    assert result.returncode == 0 and "cpuset_cpus is not enforced: the kernel refused" in result.stdout
    with Daemon() as daemon:
        daemon.start(write("flow", ("a", "fork 1", "{}")))
        result = tidegate("set-limit", "a", "cpuset_cpus=70")
        assert result.returncode == 1 and "cpuset_cpus of node a is not set: the kernel refused" in result.stdout
        assert "limits" not in daemon.node("a")


def test_processes_in_the_cgroup_that_is_ours_keep_controllers_away():
    with Cgroup("outer") as outer:
        (CGROUPS / "cgroup.subtree_control").write_text("+memory")
        (outer / "cgroup.subtree_control").write_text("+memory")
        ours = outer / "ours"
        ours.mkdir()
        child = subprocess.Popen(["/bin/sleep", "1000"])
        (ours / "cgroup.procs").write_text(str(child.pid))
        file = write("flow", ("a", "nothing", "{memory_max: 64M}"))
        result = tidegate("run", file, "--cgroup-root", ours)
        assert result.returncode == 1 and "controller memory cannot be enabled: processes live in the cgroup that is ours itself" in result.stdout
        result = tidegate("run", file, "--cgroup-root", ours, "--allow-unenforced-limits")
        assert result.returncode == 0 and "memory_max is not enforced" in result.stdout and "0 left" in result.stdout
        child.kill()
        child.wait()


def test_an_ordinary_user_has_limits_in_a_cgroup_that_is_delegated():
    with Cgroup("delegated", user=True) as cgroup:
        (CGROUPS / "cgroup.subtree_control").write_text("+memory +pids")
        for name in ("self", "nodes"):
            (cgroup / name).mkdir()
            for file in (".", "cgroup.procs", "cgroup.subtree_control"):
                os.chown(cgroup / name / file, UID, UID)
        (cgroup / "cgroup.subtree_control").write_text("+memory +pids")
        file = write("users", ("hog", "memory 100", "{memory_max: 32M}"))
        result = tidegate("run", file, "--cgroup-root", cgroup / "nodes", "--name", "users", user=True, cgroup=cgroup / "self")
        assert result.returncode == 1 and "was oom-killed, peak 32M of 32M" in result.stdout
