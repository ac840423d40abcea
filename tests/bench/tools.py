# SPDX-License-Identifier: Apache-2.0
"""Where the peers come from: packages of Debian and PyPI, unpacked below build-tools/, which git ignores. Nothing is installed on the host."""

import os
import pathlib
import re
import shutil
import subprocess

FETCH_S = 300


class Tools:
    def __init__(self, root, build, fetch=True):
        """@fetch: may use the network for what is not there yet."""
        self.root, self.build, self.fetch = pathlib.Path(root), pathlib.Path(build), fetch
        self.top = self.root / "build-tools/peers"
        self.debian_root = self.top / "debian"
        self.versions = self.top / "versions"

    def _run(self, *argv, cwd=None):
        try:
            done = subprocess.run(list(map(str, argv)), cwd=cwd, capture_output=True, text=True, timeout=FETCH_S, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as e:
            return str(e)
        lines = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
        return None if done.returncode == 0 else lines[-1]

    def debian(self, packages):
        """Have these unpacked; None, or why that is not possible."""
        for package in packages:
            if (self.versions / package).exists():
                continue
            if not self.fetch:
                return f"{package} is not in {self.top.relative_to(self.root)} and may not be fetched"
            folder = self.top / f"fetch.{os.getpid()}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                why = self._run("apt-get", "download", package, cwd=folder)
                if why and not self._run("apt-get", "update"):
                    why = self._run("apt-get", "download", package, cwd=folder)
                found = list(folder.glob("*.deb"))
                if why or not found:
                    return f"apt-get download {package}: {why or 'no file'}"
                self.debian_root.mkdir(parents=True, exist_ok=True)
                if why := self._run("dpkg-deb", "-x", found[0], self.debian_root):
                    return f"dpkg-deb -x {package}: {why}"
                self.versions.mkdir(exist_ok=True)
                (self.versions / package).write_text(found[0].name.split("_")[1].replace("%3a", ":"))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def debian_version(self, package):
        try:
            return (self.versions / package).read_text()
        except OSError:
            return ""

    def pypi_root(self, package):
        return self.top / package

    def pypi(self, package, release):
        target = self.pypi_root(package)
        if (target / f"{re.sub('[-.]', '_', package)}-{release}.dist-info").exists():
            return None
        if not self.fetch:
            return f"{package} is not in {self.top.relative_to(self.root)} and may not be fetched"
        new = target.with_name(f"{package}.{os.getpid()}")
        why = self._run(
            "/usr/bin/python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
            "--root-user-action=ignore", "--target", new, f"{package}=={release}",
        )  # fmt: skip
        if why:
            shutil.rmtree(new, ignore_errors=True)
            return f"pip install {package}=={release}: {why}"
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
        return None
