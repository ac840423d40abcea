# SPDX-License-Identifier: Apache-2.0
"""What `scripts/bench-peers` sends messages with: how each is made, configured and begun, as its manual says. The programs are in peers/."""

import contextlib
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import time

from mark import pids

PATIENCE = 20  # s, beside the time that the steps take
SHM = pathlib.Path("/dev/shm")


class Failed(Exception):
    """What a peer cannot do, or did not."""


class Transport:
    """One way to send messages, by two programs in C (work.c and the transport's own file)."""

    name = None
    note = ""
    variant = "none"
    file = None  # peers/FILE.c
    built = False  # by meson, with the project
    libraries = ()  # flags to link with
    packages = ()  # of Debian
    crate = None
    release = ""

    @classmethod
    def missing(cls, tools):
        """Have it made. Why it cannot be measured here, or None."""
        if cls.built:
            return None if cls.program(tools).exists() else f"{cls.program(tools)} is missing: run scripts/build"
        if cls.packages and (why := tools.debian_and_needed(cls.packages)):
            return why
        if cls.crate and (why := tools.crate(cls.crate)):
            return why
        return cls.compile(tools)

    @classmethod
    def compile(cls, tools):
        folder = tools.root / "tests/bench/peers"
        sources = [folder / "work.c", tools.library(cls.crate) if cls.crate else folder / f"{cls.file}.c"]
        return tools.compile(cls.file or cls.crate, sources, *cls.libraries)

    @classmethod
    def program(cls, tools):
        return tools.build / f"tests/bench/bench_peer_{cls.file}" if cls.built else tools.program(cls.file or cls.crate)

    @classmethod
    def version(cls, tools):
        return cls.release or (tools.debian_version(cls.packages[0]) if cls.packages else "")

    def __init__(self, place, tools, folder):
        """@folder: empty, in memory, for one session."""
        self.place, self.tools, self.folder = place, tools, folder
        self.children = []

    def environment(self):
        return {}

    def child(self, *argv, log="log"):
        with open(self.folder / log, "ab") as log:
            process = subprocess.Popen(
                list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **self.environment()},
            )  # fmt: skip
        self.children.append(process)
        return process

    def daemon(self, *argv):
        """What the two sides need beside them. Its output is its own."""
        return self.child(*argv, log="daemon.log")

    def until(self, condition, process):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed("does not come up" + self.last_words())
            select.select([], [], [], 0.005)

    def last_words(self):
        with contextlib.suppress(OSError):
            for name in ("log", "daemon.log"):
                text = re.sub(r"\x1b\[[0-9;]*m", "", (self.folder / name).read_text(errors="replace"))
                lines = [line for line in text.splitlines() if re.search(r"\w", line)]
                if lines:
                    return ": " + next((line for line in reversed(lines) if re.search("side [01]: |[Ee]rror|[Ff]atal", line)), lines[-1])[:200]
        return ""

    def wait(self, process, seconds):
        """For a child to end well."""
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"nothing after {seconds:.0f} s{self.last_words()}") from None
        if status:
            raise Failed(f"ended with status {status}{self.last_words()}")

    def prepare(self, size, queue):
        """Begin what else has to run."""

    def arguments(self, side, size, queue):
        return [self.program(self.tools), self.variant, side, self.folder, size, queue]

    def session(self, size, queue, steps, seconds):
        """Two processes do these steps: the lines that came of them, as text. @seconds: that they take."""
        result = self.folder / "result"
        self.prepare(size, queue)
        answers = self.child(*self.arguments(1, size, queue))
        asks = self.child(*self.arguments(0, size, queue), result, *steps)
        self.wait(asks, seconds + PATIENCE)
        self.wait(answers, PATIENCE)
        return result.read_text()

    def close(self):
        """End all that was begun. Nobody else lives in the room's PID namespace."""
        for child in self.children:
            child.kill()
            child.wait()
        for pid in set(pids()) - self.place.own():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


class Pipe(Transport):
    name = "pipe"
    note = "the anchor: messages stay in mapped memory, a token each through a blocking pipe"
    file = "pipe"
    built = True


class Socket(Transport):
    name = "socket"
    note = "a Unix stream socket: copied into the kernel and out of it"
    file = "socket"
    built = True


class Tidegate(Transport):
    name = "tidegate"
    note = "`tidegate run`: two nodes in C, tg_send() at 64 B, else tg_alloc() and tg_send_sample(), links with backpressure; placement and wait by default"
    file = "tidegate"
    built = True

    @classmethod
    def version(cls, tools):
        done = subprocess.run([tools.build / "bin/tidegate", "version"], capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout.split("\n")[0].split()[-1]

    def environment(self):
        return {"NO_COLOR": "1", "TIDEGATE_RUNTIME_DIR": str(self.folder / "runtime")}

    def descriptor(self, size, queue, steps, result):
        text = "nodes:\n"
        for side, (name, other) in enumerate((("ask", "answer"), ("answer", "ask"))):
            argv = self.arguments(side, size, queue) + ([result, *steps] if side == 0 else [])
            text += (
                f"  - id: {name}\n    path: {argv[0]}\n    args: {' '.join(map(str, argv[1:]))}\n    outputs: [out]\n"
                f"    shared_memory_pool_size: {max(8 << 20, (queue + 10) * (size + 4096))}\n    expected_message_size: {size}\n"
                f"    inputs:\n      in: {{source: {other}/out, queue_size: {queue}, queue_policy: backpressure}}\n"
            )
        return text

    def session(self, size, queue, steps, seconds):
        result = self.folder / "result"
        (self.folder / "dataflow.yml").write_text(self.descriptor(size, queue, steps, result))
        self.place.nodes.mkdir(exist_ok=True)
        command = [self.tools.build / "bin/tidegate", "run", "dataflow.yml", "--cgroup-root", self.place.nodes, "--grace-duration", "1s"]
        self.wait(self.child(*command), seconds + PATIENCE)
        return result.read_text()


class Iceoryx(Transport):
    """RouDi and its pools of chunks: for all that is under way in both directions, and what each side has in its hands."""

    file = "iceoryx"
    packages = ("iceoryx", "libiceoryx-binding-c-dev", "libiceoryx-binding-c2", "libiceoryx-posh-dev", "libiceoryx-hoofs-dev")
    libraries = ("-liceoryx_binding_c",)

    def prepare(self, size, queue):
        pools = [(512, 1000), (size + 64, 2 * queue + 40)]
        text = "[general]\nversion = 1\n\n[[segment]]\n"
        text += "".join(f"\n[[segment.mempool]]\nsize = {size}\ncount = {count}\n" for size, count in sorted(pools))
        (self.folder / "roudi.toml").write_text(text)
        roudi = self.daemon("iox-roudi", "-c", self.folder / "roudi.toml")
        self.until(lambda: "ready" in (self.folder / "daemon.log").read_text(errors="replace"), roudi)


class IceoryxWaitset(Iceoryx):
    name = "iceoryx"
    note = "C binding, WaitSet (sleeps); publisher waits for its subscriber; with RouDi"
    variant = "waitset"


class IceoryxPoll(Iceoryx):
    name = "iceoryx, poll"
    note = "as iceoryx, asked again and again"
    variant = "poll"


class Iceoryx2(Transport):
    crate = "iceoryx2"
    release = "0.10.0"
    libraries = ("-lpthread", "-ldl", "-lm", "-lrt")


class Iceoryx2Event(Iceoryx2):
    name = "iceoryx2"
    note = "its crate behind the same C; sleeps on an event service"
    variant = "event"


class Iceoryx2Poll(Iceoryx2):
    name = "iceoryx2, poll"
    note = "as iceoryx2, asked again and again"
    variant = "poll"


class Cyclone(Transport):
    file = "cyclone"
    packages = ("cyclonedds-dev", "libddsc0debian", "cyclonedds-tools")
    libraries = ("-lddsc",)

    @classmethod
    def compile(cls, tools):
        """The types' code is made from cyclone_types.idl first, by its own compiler."""
        made = tools.top / "cyclone"
        made.mkdir(parents=True, exist_ok=True)
        if why := tools.debian_tool("idlc", "-o", made, tools.root / "tests/bench/peers/cyclone_types.idl"):
            return why
        folder = tools.root / "tests/bench/peers"
        return tools.compile(cls.file, [folder / "work.c", folder / "cyclone.c", made / "cyclone_types.c"], "-iquote", made, *cls.libraries)

    shared = False

    def environment(self):
        domain = '<General><Interfaces><NetworkInterface name="lo" multicast="true"/></Interfaces><MaxMessageSize>65500B</MaxMessageSize></General>'
        if self.shared:
            domain += "<SharedMemory><Enable>true</Enable><LogLevel>error</LogLevel></SharedMemory>"
        return {"CYCLONEDDS_URI": f'<CycloneDDS><Domain id="any">{domain}</Domain></CycloneDDS>'}


class CycloneUdp(Cyclone):
    name = "cyclonedds"
    note = "UDP over loopback, reliable, all kept; a wait set"
    variant = "udp"


class CycloneShm(Cyclone):
    name = "cyclonedds, shm"
    note = "through iceoryx, loaned samples, reliable, the last kept; a wait set; with RouDi"
    variant = "shm"
    shared = True
    packages = (*Cyclone.packages, *Iceoryx.packages)
    prepare = Iceoryx.prepare


class Zmq(Transport):
    name = "zeromq"
    note = "PAIR over ipc://"
    file = "zmq"
    packages = ("libzmq3-dev", "libzmq5")
    libraries = ("-lzmq",)

    @classmethod
    def version(cls, tools):
        return tools.debian_version("libzmq5")


class Zenoh(Transport):
    name = "zenoh"
    note = "its crate behind the same C; peer to peer over a Unix socket, messages of a page and more in its shared memory"
    crate = "zenoh"
    release = "1.10.2"
    libraries = ("-lpthread", "-ldl", "-lm", "-lrt")


TRANSPORTS = [Pipe, Socket, Tidegate, IceoryxWaitset, IceoryxPoll, Iceoryx2Event, Iceoryx2Poll, CycloneShm, CycloneUdp, Zmq, Zenoh]


class Session:
    """A folder in memory for a transport, and nothing left of it afterwards."""

    def __init__(self, cls, place, tools):
        self.folder = SHM / f"bench-{os.getpid()}"
        self.folder.mkdir()
        self.transport = cls(place, tools, self.folder)

    def __enter__(self):
        return self.transport

    def __exit__(self, *_):
        self.transport.close()
        for path in [*SHM.iterdir(), *pathlib.Path("/tmp").glob("roudi*"), *pathlib.Path("/tmp").glob("side[01]*"), pathlib.Path("/tmp/iceoryx2")]:
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
