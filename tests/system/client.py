# SPDX-License-Identifier: Apache-2.0
"""A client of the control socket, in a few lines: one JSON object and a NUL byte a message. Every wait has a deadline, and every
reply is held against the interface."""

import json
import socket
import time

import interface


class ControlError(Exception):
    def __init__(self, error, parameters):
        super().__init__(f"{error}: {parameters}")
        self.error = error.rpartition(".")[2]
        self.interface = error.rpartition(".")[0]
        self.parameters = parameters


class Client:
    def __init__(self, path, timeout=20.0):
        self.timeout = timeout
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.buffer = b""

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, method, more=False, oneway=False, **parameters):
        self.method = method
        message = {"method": method if "." in method else f"{interface.NAME}.{method}", "parameters": parameters}
        if more:
            message["more"] = True
        if oneway:
            message["oneway"] = True
        self.socket.sendall(json.dumps(message).encode() + b"\0")

    def receive(self, timeout=None):
        """The next message; EOFError when the daemon hung up."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while b"\0" not in self.buffer:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the daemon hung up")
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def reply(self, timeout=None):
        """Parameters of the next message, and whether more follow."""
        message = self.receive(timeout)
        assert message.keys() <= {"parameters", "error", "continues"}
        if "error" in message:
            error = ControlError(message["error"], message.get("parameters"))
            if error.interface == interface.NAME:
                interface.check_error(error.error, error.parameters)
            raise error
        if "." not in self.method:
            interface.check_reply(self.method, message["parameters"])
        return message["parameters"], message.get("continues", False)

    def call(self, method, timeout=None, **parameters):
        self.send(method, **parameters)
        result, more = self.reply(timeout)
        assert not more
        return result

    def stream(self, method, timeout=None, **parameters):
        """Every reply of a call with `more`, the last one included."""
        self.send(method, more=True, **parameters)
        yield from self.replies(timeout)

    def replies(self, timeout=None):
        more = True
        while more:
            result, more = self.reply(timeout)
            yield result
