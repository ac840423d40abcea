# SPDX-License-Identifier: Apache-2.0
"""A supervisor that is none: it plays conversations on a control socket, well or badly, as a test tells it to.

Every method has an answer in `answers`: a function of (connection, parameters) that sends what it likes. What was called is in `calls`.
Each connection has a thread; nothing here waits without a deadline, and close() ends them all.
"""

import json
import os
import pathlib
import socket
import threading
import time

INTERFACE = "dev.tidegate.Supervisor."
LIMIT = 60.0  # seconds that any wait of a thread may take


class Gone(Exception):
    """The client has hung up."""


class Connection:
    def __init__(self, server, sock):
        self.server, self.sock, self.data = server, sock, b""
        sock.settimeout(LIMIT)

    def receive(self):
        while b"\0" not in self.data:
            try:
                more = self.sock.recv(65536)
            except OSError:
                more = b""
            if not more:
                raise Gone
            self.data += more
        frame, _, self.data = self.data.partition(b"\0")
        return json.loads(frame)

    def raw(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            raise Gone from None

    def message(self, value):
        self.raw(json.dumps(value).encode() + b"\0")

    def at_once(self, *messages):
        """So few bytes that the kernel keeps them together: whoever reads gets all of them or none."""
        data = b"".join(json.dumps(m, separators=(",", ":")).encode() + b"\0" for m in messages)
        assert len(data) <= 32768
        self.raw(data)

    def reply(self, **parameters):
        self.message({"parameters": parameters})

    def event(self, **event):
        self.message({"continues": True, "parameters": {"event": event}})

    def line(self, **line):
        self.message({"continues": True, "parameters": {"line": line}})

    def error(self, name, text="", **more):
        full = name if "." in name else INTERFACE + name
        self.message({"error": full, "parameters": {"text": text, **more}})

    def hang_up(self):
        self.sock.close()
        raise Gone

    def silence(self):
        """Say nothing until the client goes away or the server ends."""
        self.server.ended.wait(LIMIT) if not self.client_left() else None
        raise Gone

    def client_left(self):
        while not self.server.ended.is_set():
            self.sock.settimeout(0.1)
            try:
                if self.sock.recv(1, socket.MSG_PEEK) == b"":
                    return True
                time.sleep(0.05)
            except TimeoutError:
                continue
            except OSError:
                return True
        return False


class FakeSupervisor:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.calls = []
        self.dataflows = []
        self.answers = {
            "GetHealth": lambda c, p: c.reply(health=self.health()),
            "List": lambda c, p: c.reply(dataflows=[{**d, "nodes": []} for d in self.dataflows]),
            "Status": self.status,
        }
        self.ended = threading.Event()
        self.changed = threading.Condition()
        self.sockets = []
        self.listen()

    # ---- what it answers when nothing else was said

    def health(self, **changes):
        return {"pid": os.getpid(), "guard_pid": os.getpid(), "version": "0", "runtime_dir": str(self.directory), **changes}

    def find(self, name):
        return [d for d in self.dataflows if name in (d["name"], d["uuid"]) or (len(name) >= 4 and d["uuid"].startswith(name))]

    def status(self, connection, parameters):
        names = parameters.get("names")
        found = self.dataflows if names is None else [d for n in names for d in self.find(n)]
        if names and not found:
            connection.error("NoSuchDataflow", f"no dataflow {names[0]}")
        else:
            connection.reply(dataflows=found)

    # ---- sockets and threads

    def listen(self, backlog=64):
        self.path = self.directory / "control.sock"
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        here = os.open(self.directory, os.O_PATH)  # a socket's address is short, a test's directory is not
        self.listener.bind(f"/proc/self/fd/{here}/control.sock")
        os.close(here)
        self.listener.listen(backlog)
        self.accepting = threading.Thread(target=self.accept, args=(self.listener,), daemon=True)
        self.accepting.start()

    def accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.sockets.append(sock)
            threading.Thread(target=self.serve, args=(Connection(self, sock),), daemon=True).start()

    def serve(self, connection):
        try:
            while True:
                call = connection.receive()
                method, parameters = call["method"].removeprefix(INTERFACE), call.get("parameters", {})
                with self.changed:
                    self.calls.append((method, parameters))
                    self.changed.notify_all()
                answer = self.answers.get(method)
                if answer:
                    answer(connection, parameters)
                else:
                    connection.error("org.varlink.service.MethodNotFound", method=method)
        except (Gone, ValueError, OSError):
            pass
        finally:
            connection.sock.close()

    def called(self, method, n=1, seconds=20.0):
        """Wait until @method was called @n times; the parameters of that call."""
        with self.changed:
            done = lambda: [p for m, p in self.calls if m == method]  # noqa: E731
            assert self.changed.wait_for(lambda: len(done()) >= n, seconds), f"no call of {method}: {self.calls}"
            return done()[n - 1]

    def stop_listening(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def vanish(self):
        """As by SIGKILL with its guard: no connection, no listener; the socket's file stays."""
        self.stop_listening()
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.ended.set()
        try:
            self.vanish()
        except OSError:
            pass
        self.accepting.join(10)
        for sock in self.sockets:  # a thread may be waiting in what a test made it answer
            sock.close()


def now_ms():
    return time.monotonic_ns() // 1_000_000


def node(id, state="running", **changes):
    return {
        "id": id, "kind": "node", "state": state, "wanted": "running", "generation": 1, "pid": 4711 if state == "running" else 0,
        "restarts": 0, "since_at_ms": now_ms() - 155_000, "line": 3, "protection": {"backend": "cgroup", "cgroup_write": "no", "weaker": []}, "captured": False, "quarantined": False,
        "health": "ok", **changes,
    }  # fmt: skip


def dataflow(name, *nodes, uuid=None, state="running", **changes):
    return {
        "uuid": uuid or f"{abs(hash(name)) % 10**8:08d}-0000-4000-8000-000000000000", "name": name, "file": f"/somewhere/{name}.yml",
        "uid": os.getuid(), "state": state, "wanted": "running", "started_at_ms": now_ms() - 160_000, "since_at_ms": now_ms() - 155_000,
        "n_nodes": len(nodes), "n_running": sum(n["state"] == "running" for n in nodes),
        "n_failed": sum(n["state"] == "failed" for n in nodes), "nodes": list(nodes), **changes,
    }  # fmt: skip


def result(d, success=True, **changes):
    return {
        "type": "result", "uuid": d["uuid"], "name": d["name"], "success": success, "duration_ms": 5000, "stop_ms": 300, "killed": 0, "left": 0,
        "nodes": [{"id": n["id"], "state": "stopped", "line": n["line"]} for n in d["nodes"]],
        "ledger": [{"type": "ledger", "at_ms": 0, "rung": "stop", "result": "command"},
                   {"type": "ledger", "at_ms": 300, "rung": "ask", "node": d["nodes"][0]["id"] if d["nodes"] else "", "count": 0, "result": "empty"}],
        "notes": [], **changes,
    }  # fmt: skip
