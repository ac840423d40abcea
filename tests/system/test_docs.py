# SPDX-License-Identifier: Apache-2.0
"""What the documents show is what the programs print."""

import os
import re
import subprocess

import pytest
from conftest import MARK, counters_agree

import pytest

pytestmark = pytest.mark.alone  # the examples write below the source tree


def console_blocks(text):
    """(command, lines shown after it) of every ```console block."""
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        command, shown = None, []
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            else:
                shown.append(line)
        if command:
            yield command, shown


# What differs from run to run, and must be the same wherever the document has the same: pids by the word before them, and uuids.
NAMED = re.compile(r"(?<=\bpid )\d+|(?<=\bsupervisor )\d+|(?<=\bguard )\d+|^\d+$|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def pattern(line, bound):
    """Times differ from run to run; so do names of processes, but each stays what it is. Everything else is as shown."""
    parts, at, groups = [], 0, {}
    for match in NAMED.finditer(line):
        shown = match.group()
        parts.append(loose(line[at : match.start()]))
        if shown in bound:
            parts.append(re.escape(bound[shown]))
        elif shown in groups:
            parts.append(f"(?P={groups[shown]})")
        else:
            groups[shown] = f"g{len(groups)}"
            parts.append(f"(?P<{groups[shown]}>{'[0-9a-f-]{36}' if '-' in shown else '[1-9][0-9]*'})")
        at = match.end()
    parts.append(loose(line[at:]))
    return "".join(parts), groups


def loose(text):
    """Times, and how many processes a kill still met: for a busy machine the guard helps."""
    text = re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", re.escape(text))
    text = re.sub(r"(uptime\\ )\d+:\d\d:\d\d", r"\1\\d+:\\d\\d:\\d\\d", text)
    text = re.sub(r"(audit(?:\\ )+killed\\ )\d+(,\\ left\\ .*,\\ )\d+(\\ ms)$", r"\1\\d+\2\\d+\3", text)
    return re.sub(r"(kill(?:\\ )+\w+(?:\\ )+)\d+(\\ processes(?:\\ )+empty)", r"\1\\d+\2", text)


def is_printed(line, printed, bound):
    """Whether one of the lines is the one shown. What was not bound is from then on; two names are two things."""
    expression, groups = pattern(line, bound)
    for candidate in printed:
        match = re.fullmatch(expression, candidate)
        if not match:
            continue
        new = {shown: match.group(group) for shown, group in groups.items()}
        if set(new.values()) & set(bound.values()):
            continue
        bound.update(new)
        return True
    return False


@pytest.mark.parametrize("line,printed,right", [
    ("runs: supervisor 5, guard 7", "runs: supervisor 50, guard 70", True),
    ("runs: supervisor 5, guard 7", "runs: supervisor 50, guard 50x", False),
    ("pid 9, uptime 0:00:01", "pid 90, uptime 1:10:11", True),
    ("pid 1, uptime 0:00:01", "pid 90, uptime 1:10:11", False),  # 1 is known to be 11
    ("pid 2, uptime 0:00:01", "pid 11, uptime 1:10:11", False),  # 11 is 1
    ("1", "11", True),
    ("took 1.53 s, 0 left", "took 20.1 s, 0 left", True),
    ("took 1.53 s, 0 left", "took 1.53 s, 1 left", False),
    ("  +1.5 s  audit    killed 200, left 0, 27 ms", "  +1.5 s  audit    killed 91, left 0, 1204 ms", True),
    ("  +1.5 s  audit    killed 200, left 0, 27 ms", "  +1.5 s  audit    killed 200, left 1 process, 27 ms", False),
    ("  +1.5 s  kill   tree    200 processes    empty", "  +1.7 s  kill   tree    91 processes    empty", True),
    ("  +1.5 s  kill   tree    200 processes    sent", "  +1.7 s  kill   tree    91 processes    sent", False),
])  # fmt: skip
def test_lines_are_compared_strictly(line, printed, right):
    assert is_printed(line, [printed], {"1": "11"}) == right


def test_every_public_function_has_its_contract_above_it(root):
    text = (root / "include/tidegate/tidegate.h").read_text()
    head = text[: text.index("#ifndef")]
    assert all(f" * {word}:" in head for word in ("Return values", "Threads", "Blocking", "Ownership", "fork", "Units"))
    functions = set(re.findall(r"^TG_API [^;(]*?(tg_\w+)\(", text, re.M))
    # A group of declarations without a gap shares the comment right above it.
    groups = re.findall(r"(/\*(?:(?!\*/).)*\*/)\n((?:TG_API [^;]*;[^\n]*\n)+)", text, re.S)
    told = set()
    for comment, declarations in groups:
        told.update(re.findall(r"(tg_\w+)\(", declarations))
        if re.search(r"^TG_API int ", declarations, re.M):
            assert "Return:" in comment, f"no outcomes for\n{declarations}"
        for name in re.findall(r"^/\*\* ?\n \* (tg_\w+)\(\)", comment):
            assert name in declarations, f"{name}() is described above\n{declarations}"
    assert len(functions) > 40 and functions <= told, functions - told


def test_the_diagram_of_a_nodes_life_is_the_table(root, build):
    printed = subprocess.run([build / "tests/supervisor/node_diagram"], capture_output=True, text=True, check=True).stdout
    shown = re.search(r"```mermaid\n(.*?)```", (root / "docs/architecture.md").read_text(), re.S).group(1)
    assert shown == printed


def test_every_command_of_the_readme_works_and_prints_what_it_shows(root, build, traces, tmp_path):
    text = (root / "README.md").read_text()
    runtime = tmp_path / "run"
    env = {**os.environ, "TIDEGATE_RUNTIME_DIR": str(runtime), MARK: traces.mark, "NO_COLOR": "1"}
    seen, bound = 0, {}
    prelude = f'eval "$(scripts/env {build})"; '

    def run(command):
        return subprocess.run(["bash", "-c", prelude + command], cwd=root, env=env, text=True, timeout=200,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    try:
        for command, shown in console_blocks(text):
            seen += 1
            if command.startswith("./scripts/build"):
                continue  # that is how we got here; tests/system must not rebuild what it tests
            result = run(command)
            assert result.returncode == 0, f"{command}\n{result.stdout}"
            printed = result.stdout.replace(str(root) + "/", "").replace(str(runtime), "/run/tidegate").splitlines()
            for line in shown:
                assert is_printed(line, printed, bound), f"{command}\nshould print: {line}\nprinted:\n{result.stdout}"
    finally:
        if (runtime / "lock").exists():
            run("tidegate down --force")
    assert seen >= 14, "the README's console blocks were not found"
    counters_agree((runtime / "tidegated.log").read_text())
    assert [f.name for f in runtime.iterdir()] == ["tidegated.log"], "the session ends with `down`"


def test_the_readme_names_every_command(root, build):
    text = (root / "README.md").read_text()
    table = text[text.index("## Commands") : text.index("## Nodes")]
    printed = subprocess.run([build / "bin/tidegate", "help"], capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^  ([a-z]+) ", printed, re.M)
    assert len(commands) > 20
    assert [c for c in commands if not re.search(rf"`{c}[` ]", table)] == []
