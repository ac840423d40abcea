# SPDX-License-Identifier: Apache-2.0
"""What bash completes, asked as bash would."""

import os
import subprocess

import pytest
from supervisor import dataflow, node


@pytest.fixture
def complete(build, root, fake, tmp_path):
    """Candidates for a line with the cursor at its end."""
    fake.dataflows = [dataflow("audio", node("camera"), node("plot")), dataflow("video", node("grab", outputs=[{"output": o, "closed": False} for o in ("image", "state")]))]

    def ask(line):
        script = f"""
            source {root}/packaging/tidegate.bash
            COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
            COMP_LINE=$1 COMP_POINT=${{#1}} COMP_WORDS=($1) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            case $1 in *' ') COMP_WORDS+=('') COMP_CWORD=$((COMP_CWORD + 1)) ;; esac
            _tidegate; printf '%s\\n' "${{COMPREPLY[@]}}" """
        env = {**os.environ, "PATH": f"{build}/bin:{os.environ['PATH']}", "TIDEGATE_RUNTIME_DIR": str(tmp_path / "run")}
        p = subprocess.run(["bash", "-c", script, "bash", line], text=True, capture_output=True, timeout=30, env=env, cwd=tmp_path)
        assert p.returncode == 0 and p.stderr == "", p.stderr
        return set(p.stdout.split())

    return ask


@pytest.mark.parametrize(
    "line,expected",
    [
        ("tidegate sta", {"start", "status"}),
        ("tidegate help va", {"validate"}),
        ("tidegate stop --f", {"--force"}),
        ("tidegate stop ", {"audio", "video", "audio:camera", "audio:plot", "video:grab"}),
        ("tidegate tail audio:c", {"camera"}),
        ("tidegate node ", {"list", "info", "stop", "restart", "signal"}),
        ("tidegate node info vi", {"video:grab"}),
        ("tidegate wait audio en", {"ended"}),
        ("tidegate set", {"set-limit"}),
        ("tidegate freeze audio:c", {"camera"}),
        ("tidegate why --f", {"--freeze"}),
        ("tidegate set-limit audio memory_", {"memory_max=", "memory_high=", "memory_swap_max="}),
        ("tidegate topic ", {"list", "echo", "hz", "info", "pub"}),
        ("tidegate topic echo video:", {"grab/image", "grab/state"}),
        ("tidegate version ", set()),
    ],
)
def test_candidates(complete, line, expected):
    assert complete(line) == expected


def test_files_where_files_are_meant(complete, tmp_path):
    (tmp_path / "flow.yml").touch()
    assert complete("tidegate start fl") == {"flow.yml"}


def test_a_silent_supervisor_is_not_waited_for_long(complete, fake):
    fake.answers["Status"] = lambda c, p: c.silence()
    assert complete("tidegate stop ") == set()
