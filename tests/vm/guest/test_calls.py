# SPDX-License-Identifier: Apache-2.0
"""System calls are counted by stock kernels, with the very program that newer ones load."""

import subprocess

from guest import BUILD, Skip

KERNELS = ["6.1"]  # with --long under both: the older one has less to offer a probe

TEST = "each_call_and_each_error_is_counted_wherever_the_node_makes_it"


def test_each_system_call_is_counted():
    if not (BUILD / "bin/tidegate-witness").exists():
        raise Skip("built without kernel probes")
    done = subprocess.run([BUILD / "tests/bpf/test_bpf_call", "--tap", "--jobs", "1", "--filter", f"bpf_call/{TEST}"], stdout=subprocess.PIPE, text=True, timeout=50)
    print(done.stdout)
    (line,) = [line for line in done.stdout.splitlines() if TEST in line]
    assert done.returncode == 0 and line.startswith("ok ") and "SKIP" not in line


def test_messages_are_counted_by_sites_in_the_node_library():
    """Here a site is a trap and a single step, and not a call."""
    if not (BUILD / "bin/tidegate-queues").exists():
        raise Skip("built without kernel probes")
    test = "each_message_or_sample_is_counted_where_it_is_sent_and_where_it_is_taken"
    done = subprocess.run([BUILD / "tests/bpf/test_bpf_queue", "--tap", "--jobs", "1", "--filter", f"bpf_queue/{test}"], stdout=subprocess.PIPE, text=True, timeout=50)
    print(done.stdout)
    (line,) = [line for line in done.stdout.splitlines() if test in line]
    assert done.returncode == 0 and line.startswith("ok ") and "SKIP" not in line
