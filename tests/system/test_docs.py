# SPDX-License-Identifier: Apache-2.0
"""What the documents show is what the programs print."""

import os
import re
import subprocess

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


def pattern(line):
    """Times and counts of milliseconds differ from run to run; everything else is as shown."""
    return re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", re.escape(line))


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


def test_every_command_of_the_readme_works_and_prints_what_it_shows(root, build):
    text = (root / "README.md").read_text()
    env = dict(os.environ)
    seen = 0
    prelude = f'eval "$(scripts/env {build})"; '
    for command, shown in console_blocks(text):
        seen += 1
        if command.startswith("./scripts/build"):
            continue  # that is how we got here; tests/system must not rebuild what it tests
        result = subprocess.run(["bash", "-c", prelude + command], cwd=root, env=env, text=True, timeout=200,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert result.returncode == 0, f"{command}\n{result.stdout}"
        printed = result.stdout.replace(str(root) + "/", "").splitlines()
        for line in shown:
            assert any(re.fullmatch(pattern(line), p) for p in printed), f"{command}\nshould print: {line}\nprinted:\n{result.stdout}"
    assert seen >= 6, "the README's console blocks were not found"
