# SPDX-License-Identifier: Apache-2.0
"""What system tests share: the build they look at, and a way to run its programs that cannot hang."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TIDEGATE_BUILD", ROOT / "build"))


def pytest_configure(config):
    config.addinivalue_line("markers", "sanitized: also run on the build with address and undefined sanitizers")


@pytest.fixture(scope="session")
def root():
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def build():
    """The build tree: bin/, lib/, python/."""
    assert (BUILD / "bin/tidegate").exists(), f"{BUILD} holds no build; run scripts/build"
    return BUILD


@pytest.fixture(scope="session")
def tidegate(build):
    """Run the CLI and return the completed process. Every run has a deadline; a hang fails the test."""

    def run(*args, timeout=60, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" not in kwargs:
            kwargs["stdout"] = subprocess.PIPE
        if "stderr" not in kwargs:
            kwargs["stderr"] = subprocess.PIPE
        return subprocess.run([build / "bin/tidegate", *map(str, args)], text=True, timeout=timeout, **kwargs)

    return run
