# SPDX-License-Identifier: Apache-2.0
"""`meson install` puts down everything that somebody else's node needs, and it works from there."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import said

NODE = """
#include <stdio.h>
#include <tidegate/tidegate.h>
int main(void) { tg_node *n = NULL; int r = tg_node_open(&n); printf("%d\\n", r); return 0; }
"""


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    root = tmp_path_factory.mktemp("installed")
    env = {**os.environ, "DESTDIR": str(root)}
    subprocess.run(["/usr/bin/meson", "install", "-C", build, "--no-rebuild"], env=env, check=True,
                   stdout=subprocess.DEVNULL, timeout=60)  # fmt: skip
    return root / "usr/local"


def one(installed, pattern):
    found = list(installed.rglob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


def test_every_part_is_there(installed):
    for name in ("tidegate", "tidegated", "tidegate-pipe"):
        assert os.access(installed / "bin" / name, os.X_OK), name
    assert os.access(installed / "libexec/tidegate/tidegate-bench-node", os.X_OK)
    for pattern in ("tidegate.h", "libtidegate.so", "tidegate.pc", "dataflow.schema.json", "_tidegate.abi3.so"):
        one(installed, pattern)
    assert one(installed, "__init__.py").parent.name == "tidegate"
    for path in installed.rglob("*"):
        assert "test" not in path.name and path.suffix not in (".a", ".o"), path


def test_the_unit_starts_what_is_installed(installed, tmp_path):
    unit = one(installed, "tidegated.service")
    assert unit.parent.name == "system"
    text = unit.read_text()
    assert "ExecStart=/usr/local/bin/tidegated\n" in text and "@" not in text
    for line in ("Type=notify", "NotifyAccess=main", "Delegate=yes", "KillMode=mixed"):
        assert f"\n{line}\n" in text
    if shutil.which("systemd-analyze"):
        copy = tmp_path / unit.name
        copy.write_text(text.replace("/usr/local/", f"{installed}/"))
        p = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
        assert (p.returncode, p.stderr) == (0, "")


def test_the_installed_command_runs(installed):
    p = subprocess.run([installed / "bin/tidegate", "version"], stdout=subprocess.PIPE, text=True, timeout=30)
    assert p.returncode == 0 and p.stdout.startswith("tidegate ")


def test_the_installed_benchmarks_find_the_node_that_they_run(installed):
    p = said(subprocess.run([installed / "bin/tidegate", "bench", "throughput", "--quick", "--size", "64", "--place", "default", "--json"],
                            capture_output=True, text=True, timeout=60))  # fmt: skip
    assert p.returncode == 0, p.stderr
    assert {row["way"] for row in json.loads(p.stdout)["throughput"]["rows"]} == {"raw ring", "tidegate", "tidegate, batches"}


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="no pkg-config")
def test_a_node_builds_and_links_with_what_is_installed(installed, tmp_path):
    (tmp_path / "node.c").write_text(NODE)
    library = one(installed, "libtidegate.so").parent
    env = {"PATH": "/usr/bin:/bin", "PKG_CONFIG_LIBDIR": str(library / "pkgconfig"),
           "PKG_CONFIG_SYSROOT_DIR": str(installed.parents[1])}  # fmt: skip
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "tidegate"], env=env, check=True, text=True,
                           stdout=subprocess.PIPE, timeout=30).stdout.split()  # fmt: skip
    subprocess.run(["gcc", "-Wall", "-Werror", "node.c", *flags, "-o", "node"], cwd=tmp_path, check=True, timeout=60,
                   env={"PATH": "/usr/bin:/bin"})  # fmt: skip
    p = subprocess.run([tmp_path / "node"], env={"LD_LIBRARY_PATH": str(library)}, stdout=subprocess.PIPE, text=True, timeout=30)
    assert p.returncode == 0 and int(p.stdout) != 0, "outside of a dataflow there is nobody to connect to"


def test_the_python_module_is_importable_from_there(installed):
    package = one(installed, "__init__.py").parents[1]
    library = one(installed, "libtidegate.so").parent
    p = subprocess.run(
        ["/usr/bin/python3", "-c", "import tidegate; print(tidegate.__file__, tidegate.Node)"],
        env={"PYTHONPATH": str(package), "LD_LIBRARY_PATH": str(library)}, stdout=subprocess.PIPE, text=True, timeout=30,
    )  # fmt: skip
    assert p.returncode == 0 and str(package) in p.stdout
