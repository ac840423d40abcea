# SPDX-License-Identifier: Apache-2.0
"""The supervisors that `scripts/bench-stop` compares: how each is set up, begun, and told to start and to stop, as its manual says."""

import contextlib
import os
import pathlib
import re
import select
import signal
import subprocess

from mark import now, pids

PATIENCE = 20  # s: nothing is waited for longer
HANGS = "hangs"


class Failed(Exception):
    """What a peer cannot do, or did not: goes into its cells."""


class Program:
    """@argv without a shell; @count copies that are started and stopped together; @restart: begun again whenever it ends;
    @auto: wanted from the supervisor's begin on."""

    def __init__(self, name, argv, count=1, restart=False, auto=False):
        self.name, self.argv, self.count, self.restart, self.auto = name, [str(a) for a in argv], count, restart, auto

    def copies(self):
        """Names of the copies for peers that know no groups."""
        return [self.name] if self.count == 1 else [f"{self.name}{i:03}" for i in range(self.count)]


class Peer:
    """One configuration of one supervisor. Lives in a PID namespace of its own (room.py), but for systemd when that is the host's."""

    name = None
    note = ""
    without = {}  # scenario: why it is not measured
    is_init = False  # it has to be the first process of the PID namespace
    over_usr = False  # its programs are below tools.debian_root

    def __init__(self, place):
        self.place = place  # room.Place: where things are
        self.session = None

    @classmethod
    def missing(cls, tools):
        """Why it cannot be measured here, or None."""
        return None

    @classmethod
    def version(cls, tools):
        return ""

    def environment(self):
        return {**os.environ, **self.place.environment}

    def call(self, *argv, deadline=None, check=True, **kwargs):
        """Run a command of the peer's to its end: its exit status, or HANGS after PATIENCE seconds. None of its descendants is waited for."""
        with open(self.place.work / "commands.log", "ab") as log:
            log.write((" ".join(map(str, argv)) + "\n").encode())
            log.flush()
            process = subprocess.Popen(
                list(map(str, argv)), env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place.work, **kwargs
            )
            try:
                status = process.wait(PATIENCE if deadline is None else max(deadline - now(), 0.01))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = HANGS
        if check and status != 0:
            raise Failed(f"`{' '.join(pathlib.Path(word).name for word in argv[:4])}` " + ("hangs" if status == HANGS else f"ended with status {status}"))
        return status

    def background(self, *argv, **kwargs):
        log = open(self.place.work / "supervisor.log", "ab")
        with log:
            return subprocess.Popen(
                list(map(str, argv)), env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place.work,
                start_new_session=True, **kwargs,
            )  # fmt: skip

    def until(self, condition, seconds=PATIENCE):
        deadline = now() + seconds
        while not condition():
            if now() > deadline:
                raise Failed("does not come up")
            select.select([], [], [], 0.005)

    def configure(self, programs):
        """Write down what there is. Called once for each session, in a fresh self.session folder."""

    def begin(self):
        """The supervisor runs when this returns, and no program but those that are `auto` does."""

    def start(self, program):
        raise NotImplementedError

    def stop(self, program):
        """Until the peer says that it has stopped: exit status or HANGS."""
        raise NotImplementedError

    def revive(self, program):
        """After all of the peer's processes were killed: begin it again, as its user would."""
        self.begin()

    def end(self):
        """Of the session: kill what is left of the supervisor."""
        self.kill()

    def processes(self):
        """The supervisor's own, subjects excepted: all that there are in the namespace but those of the benchmark."""
        return [p for p in pids() if p not in self.place.own() and not self.place.is_subject(p)]

    def kill(self):
        """kill -9 of all that the supervisor consists of. Those that restart each other are stopped before."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        self.until(lambda: not self.processes())


def output_of(*argv, env=None):
    try:
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


class Raw(Peer):
    name = "raw"
    note = "clone3 into a cgroup and cgroup.kill in C: no grace, nobody to ask, nothing kept"
    without = {"copies": "keeps nothing"}

    def begin(self):
        self.place.nodes.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [str(self.place.raw), str(self.place.nodes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def order(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            return HANGS
        if self.process.stdout.readline() != b"done\n":
            raise Failed("bench_raw failed")
        return 0

    def start(self, program):
        self.order(f"start {program.name} {program.count} {' '.join(program.argv)}")

    def stop(self, program):
        return self.order(f"{'term' if program.name == 'coop' else 'kill'} {program.name}")

    def end(self):
        self.kill()
        self.process.wait(PATIENCE)


class Tidegate(Peer):
    name = "tidegate"
    note = "daemon: tidegate start FILE --detach, tidegate stop NAME"

    def command(self, *args):
        return [self.place.build / "bin/tidegate", *args]

    def environment(self):
        return {**super().environment(), "TIDEGATE_RUNTIME_DIR": str(self.session / "runtime"), "NO_COLOR": "1"}

    @classmethod
    def version(cls, tools):
        return output_of(tools.build / "bin/tidegate", "version").split("\n")[0].split()[-1]

    def file(self, program):
        return self.session / f"{program.name}.yml"

    def configure(self, programs):
        for program in programs:
            lines = ["nodes:"]
            for copy in program.copies():
                lines += [f"  - id: {copy}", f"    path: {program.argv[0]}", f"    args: {' '.join(program.argv[1:])}"]
                lines += ["    restart_policy: always"] if program.restart else []
            self.file(program).write_text("\n".join(lines) + "\n")
        self.programs = programs

    def begin(self):
        self.place.nodes.mkdir(exist_ok=True)
        self.call(*self.command("up", "--cgroup-root", self.place.nodes))
        for program in self.programs:
            if program.auto:
                self.start(program)

    def start(self, program):
        self.call(*self.command("start", self.file(program), "--detach", "--no-logs", "--grace-duration", f"{self.place.grace_ms}ms"))

    def stop(self, program):
        return self.call(*self.command("stop", program.name), check=False)

    def revive(self, program):
        self.call(*self.command("up", "--cgroup-root", self.place.nodes))

    def end(self):
        self.call(*self.command("down", "--force"), check=False)
        self.kill()


class TidegateRun(Tidegate):
    name = "tidegate run"
    note = "without a daemon: SIGTERM to the command, until it ends"

    def begin(self):
        self.place.nodes.mkdir(exist_ok=True)
        self.commands = {}
        for program in self.programs:
            if program.auto:
                self.start(program)

    def start(self, program):
        self.commands[program.name] = self.background(
            *self.command("run", self.file(program), "--cgroup-root", self.place.nodes, "--grace-duration", f"{self.place.grace_ms}ms")
        )

    def stop(self, program):
        process = self.commands.pop(program.name)
        process.terminate()
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return HANGS

    def revive(self, program):
        self.begin()

    def end(self):
        self.kill()


class Systemd(Peer):
    name = "systemd"
    note = "systemctl stop; KillMode=control-group, RestartSec=0"
    without = {"copies": "is the first process: nobody can kill it"}
    is_init = True

    @classmethod
    def missing(cls, tools):
        return None if pathlib.Path("/usr/lib/systemd/systemd").exists() else "not installed"

    @classmethod
    def version(cls, tools):
        found = re.search(r"systemd \d+ \((\S+)\)", output_of("systemctl", "--version"))
        return found.group(1) if found else ""

    def configure(self, programs):
        folder = pathlib.Path("/run/systemd/system")
        folder.mkdir(parents=True, exist_ok=True)
        self.programs, self.files = programs, []
        for program in programs:
            grace = f"TimeoutStopSec={self.place.grace_ms}ms"
            text = f"[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nType=exec\nExecStart={' '.join(program.argv)}\n{grace}\n"
            text += "Restart=always\nRestartSec=0\n" if program.restart else ""
            self.files.append(folder / f"bench-stop-{program.name}{'@' if program.count > 1 else ''}.service")
            self.files[-1].write_text(text)

    def units(self, program):
        return [f"bench-stop-{program.name}{f'@{i}' if program.count > 1 else ''}.service" for i in range(program.count)]

    def begin(self):
        self.until(lambda: self.call("systemctl", "daemon-reload", check=False) == 0)

    def start(self, program):
        self.call("systemctl", "start", *self.units(program))

    def stop(self, program):
        return self.call("systemctl", "stop", *self.units(program), check=False)

    def processes(self):
        return [1]

    def end(self):
        for program in self.programs:
            self.call("systemctl", "kill", "-s", "KILL", *self.units(program), check=False)
        for file in self.files:
            file.unlink()
        self.call("systemctl", "daemon-reload", check=False)


class FromDebian(Peer):
    """Not installed, for that would enable services: unpacked below the tools' folder, and laid over the room's /usr."""

    packages = ()
    over_usr = True

    @classmethod
    def missing(cls, tools):
        return tools.debian(cls.packages)

    @classmethod
    def version(cls, tools):
        return tools.debian_version(cls.packages[0])


class Supervisord(FromDebian):
    name = "supervisord"
    note = "supervisorctl stop; as it comes"
    packages = ("supervisor", "python3-pkg-resources")
    keys = ""

    def configure(self, programs):
        socket = self.session / "sock"
        text = (
            f"[unix_http_server]\nfile={socket}\n[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={self.session}/pid\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{socket}\n"
        )
        for program in programs:
            text += (
                f"[program:{program.name}]\ncommand={' '.join(program.argv)}\nautostart={'true' if program.auto else 'false'}\nstartsecs=0\n"
                f"stopwaitsecs={max(1, self.place.grace_ms // 1000)}\nautorestart={'true' if program.restart else 'false'}\n"
                f"stdout_logfile=NONE\nstderr_logfile=NONE\n{self.keys}"
            )
            text += f"numprocs={program.count}\nprocess_name=%(process_num)03d\n" if program.count > 1 else ""
        self.config = self.session / "supervisord.conf"
        self.config.write_text(text)

    def control(self, *args, **kwargs):
        return self.call("supervisorctl", "-c", self.config, *args, **kwargs)

    def begin(self):
        self.process = self.background("supervisord", "-c", self.config)
        self.until(lambda: self.control("pid", check=False) == 0)

    def start(self, program):
        self.control("start", f"{program.name}:*" if program.count > 1 else program.name)

    def stop(self, program):
        return self.control("stop", f"{program.name}:*" if program.count > 1 else program.name, check=False)


class SupervisordGroup(Supervisord):
    name = "supervisord, groups"
    note = "supervisorctl stop; stopasgroup=true, killasgroup=true"
    keys = "stopasgroup=true\nkillasgroup=true\n"


class Scanned(FromDebian):
    """s6 and runit: a folder of service folders."""

    def configure(self, programs):
        self.scan = self.session / "services"
        self.scan.mkdir()
        self.folders = []
        for program in programs:
            for copy in program.copies():
                folder = self.scan / copy
                folder.mkdir()
                (folder / "run").write_text(f"#!/bin/sh\nexec {' '.join(program.argv)}\n")
                (folder / "run").chmod(0o755)
                if not program.auto:
                    (folder / "down").touch()
                self.folder(folder)
                self.folders.append(folder)

    def folder(self, folder):
        pass

    def of(self, program):
        return [self.scan / copy for copy in program.copies()]


class S6(Scanned):
    name = "s6"
    note = "s6-svc -wD -d; timeout-kill of the grace"
    packages = ("s6", "libs6-2.11", "libskarnet2.13", "execline", "libexecline2.9")

    def folder(self, folder):
        (folder / "timeout-kill").write_text(f"{self.place.grace_ms}\n")

    def begin(self):
        self.process = self.background("s6-svscan", self.scan)
        for folder in self.folders:
            self.until(lambda folder=folder: self.call("s6-svok", folder, check=False) == 0)

    def start(self, program):
        self.call("/bin/sh", "-c", 'for d; do s6-svc -u "$d"; done', "sh", *self.of(program))

    def stop(self, program):
        if program.count > 1:
            return self.call("/bin/sh", "-c", 'for d; do s6-svc -d "$d"; done', "sh", *self.of(program), check=False)
        return self.call("s6-svc", "-wD", "-T", str(PATIENCE * 1000), "-d", self.scan / program.name, check=False)


class S6Pidns(S6):
    name = "s6, pidns"
    note = "as s6, with flag-newpidns"

    @classmethod
    def missing(cls, tools):
        if why := tools.debian(cls.packages):
            return why
        known = b"flag-newpidns" in (tools.debian_root / "usr/bin/s6-supervise").read_bytes()
        return None if known else f"s6 {cls.version(tools)} does not know flag-newpidns"

    def folder(self, folder):
        super().folder(folder)
        (folder / "flag-newpidns").touch()


class Runit(Scanned):
    name = "runit"
    note = "sv -w GRACE force-stop"
    packages = ("runit",)

    def begin(self):
        self.process = self.background("runsvdir", self.scan)
        self.until(lambda: all((folder / "supervise/ok").exists() for folder in self.folders))
        self.call("sv", "status", *self.folders, check=False)

    def start(self, program):
        self.call("sv", "-w", str(PATIENCE), "start", *self.of(program))

    def stop(self, program):
        grace = max(1, self.place.grace_ms // 1000)
        return self.call("sv", "-w", str(grace), "force-stop", *self.of(program), check=False)


class Dora(Peer):
    name = "dora"
    note = "dora stop --grace-duration; a program that does not speak its protocol, so SIGTERM comes after the grace, SIGKILL after half of it more"
    release = "1.1.0"  # of dora-rs-cli

    @classmethod
    def missing(cls, tools):
        return tools.pypi("dora-rs-cli", cls.release)

    @classmethod
    def version(cls, tools):
        return cls.release

    def environment(self):
        return {
            **super().environment(), "HOME": str(self.session), "PYTHONPATH": str(self.place.tools.pypi_root("dora-rs-cli")),
            "DORA_COORDINATOR_PORT": "6013",
        }  # fmt: skip

    def dora(self, *args, **kwargs):
        return self.call("/usr/bin/python3", self.place.tools.pypi_root("dora-rs-cli") / "bin/dora", *args, **kwargs)

    def configure(self, programs):
        for program in programs:
            lines = ["nodes:"]
            for copy in program.copies():
                lines += [f"  - id: {copy}", f"    path: {program.argv[0]}", f"    args: {' '.join(program.argv[1:])}"]
                lines += ["    restart_policy: always"] if program.restart else []
            (self.session / f"{program.name}.yml").write_text("\n".join(lines) + "\n")
        self.programs = programs

    def begin(self):
        self.dora("up")
        for program in self.programs:
            if program.auto:
                self.start(program)

    def start(self, program):
        self.dora("start", self.session / f"{program.name}.yml", "--name", program.name, "--detach")

    def stop(self, program):
        return self.dora("stop", program.name, "--grace-duration", f"{self.place.grace_ms}ms", check=False)

    def revive(self, program):
        self.dora("up")

    def end(self):
        self.dora("down", "--force", check=False)
        self.kill()


PEERS = [Raw, Tidegate, TidegateRun, Systemd, S6, S6Pidns, Runit, Supervisord, SupervisordGroup, Dora]
