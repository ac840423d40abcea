# SPDX-License-Identifier: Apache-2.0
"""Nodes in Python, of Tidegate and of Dora: peers/node.py under `tidegate run` and `dora run`."""

import contextlib
import os
import signal
import subprocess
import time

from transports import PATIENCE, Failed, Tidegate, Transport

PATTERN_S = 20  # of the ten sizes; a little less than half of it is waiting
DORA = "1.1.0"
PYARROW = "21.0.0"


class Python(Transport):
    runtime = None
    policy = ""  # of the link of the throughput
    keys = ""  # of the nodes with outputs

    def command(self, file):
        raise NotImplementedError

    def descriptor(self, pattern, span_ms, result):
        """A dataflow in the grammar that both read."""
        node = f"path: {self.tools.root}/tests/bench/peers/node.py"
        if pattern == "pattern":
            return f"""nodes:
  - id: source
    {node}
    args: {self.runtime} source
    outputs: [latency, throughput]
{self.keys}  - id: sink
    {node}
    args: {self.runtime} sink {result}
    inputs:
      latency: {{source: source/latency, queue_size: 1000}}
      throughput: {{source: source/throughput, queue_size: 1000{self.policy}}}
"""
        return f"""nodes:
  - id: ask
    {node}
    args: {self.runtime} ask {result} {span_ms}
    outputs: [out, unanswered]
{self.keys}    inputs:
      in: {{source: answer/out, queue_size: 10}}
  - id: answer
    {node}
    args: {self.runtime} answer
    outputs: [out]
{self.keys}    inputs:
      in: {{source: ask/out, queue_size: 10}}
      unanswered: {{source: ask/unanswered, queue_size: 1}}
"""

    def session(self, pattern, span_ms):
        """Lines of JSON. The nodes do not end by themselves: the dataflow is stopped when the result is there, or will not be."""
        result = self.folder / "result"
        (self.folder / "dataflow.yml").write_text(self.descriptor(pattern, span_ms, result))
        process = self.child(*self.command())
        deadline = time.monotonic() + PATTERN_S + PATIENCE

        def whole():
            return result.exists() and result.read_text().endswith("\n\n")

        while not whole() and process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        if not whole():
            raise Failed(f"no result{self.last_words()}")
        return result.read_text().strip()


class TidegatePython(Python):
    name = "tidegate, Python"
    note = "module tidegate; send_output() of a numpy array"
    runtime = "tidegate"
    policy = ", queue_policy: backpressure"
    # room for three of the largest messages is there from the start, and the source waits for the sink before it takes new memory
    keys = "    shared_memory_pool_size: 18 MB\n    expected_message_size: 4096000\n"

    @classmethod
    def missing(cls, tools):
        return None if (tools.build / "python/tidegate").exists() else f"{tools.build}/python/tidegate is missing: run scripts/build"

    version = Tidegate.version

    def environment(self):
        return {
            "NO_COLOR": "1", "TIDEGATE_RUNTIME_DIR": str(self.folder / "runtime"), "PYTHONPATH": str(self.tools.build / "python"),
            "TIDEGATE_PYTHON": "/usr/bin/python3", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def command(self):
        self.place.nodes.mkdir(exist_ok=True)
        return [self.tools.build / "bin/tidegate", "run", "dataflow.yml", "--cgroup-root", self.place.nodes, "--grace-duration", "1s"]


class TidegateInPlace(TidegatePython):
    name = "tidegate, in place"
    note = "module tidegate; alloc_output(), its first and last byte written, nothing copied"
    runtime = "tidegate-in-place"


class DoraPython(Python):
    name = "dora, Python"
    note = "dora run; send_output() of a pyarrow array"
    runtime = "dora"
    release = DORA

    @classmethod
    def missing(cls, tools):
        return tools.pypi("dora-rs-cli", DORA) or tools.pypi("dora-rs", DORA) or tools.pypi("pyarrow", PYARROW)

    def environment(self):
        roots = [self.tools.pypi_root(name) for name in ("dora-rs", "pyarrow", "dora-rs-cli")]
        # the nodes are begun with the `python3` of PATH
        (self.folder / "bin").mkdir(exist_ok=True)
        for name in ("python", "python3"):
            if not (self.folder / "bin" / name).exists():
                (self.folder / "bin" / name).symlink_to("/usr/bin/python3")
        return {
            "HOME": str(self.folder), "PYTHONPATH": ":".join(map(str, roots)), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1",
        }  # fmt: skip

    def command(self):
        return ["/usr/bin/python3", self.tools.pypi_root("dora-rs-cli") / "bin/dora", "run", "dataflow.yml"]


PYTHONS = [TidegatePython, TidegateInPlace, DoraPython]
