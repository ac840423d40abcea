# SPDX-License-Identifier: Apache-2.0
"""System calls are counted by stock kernels, with the very program that newer ones load."""

import subprocess

from guest import BUILD, Skip

TEST = "each_call_and_each_error_is_counted_wherever_the_node_makes_it"


def test_each_system_call_is_counted():
    if not (BUILD / "bin/tidegate-witness").exists():
        raise Skip("built without kernel probes")
    done = subprocess.run([BUILD / "tests/bpf/test_bpf_call", "--tap", "--jobs", "1", "--filter", f"bpf_call/{TEST}"], stdout=subprocess.PIPE, text=True, timeout=50)
    print(done.stdout)
    (line,) = [line for line in done.stdout.splitlines() if TEST in line]
    assert done.returncode == 0 and line.startswith("ok ") and "SKIP" not in line
