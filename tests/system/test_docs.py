# SPDX-License-Identifier: Apache-2.0
"""What the documents show is what the programs print."""

import os
import re
import subprocess


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
