# SPDX-License-Identifier: Apache-2.0
"""Where the peers come from: packages of Debian and PyPI, and crates, unpacked and built below build-tools/, which git ignores. Nothing is
installed on the host."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess

FETCH_S = 300
CARGO_S = 3600  # to fetch and compile some hundred crates


class Tools:
    def __init__(self, root, build, fetch=True, top=None):
        """@fetch: may use the network for what is not there yet. @top: where things are kept, default build-tools/peers."""
        self.root, self.build, self.fetch = pathlib.Path(root), pathlib.Path(build), fetch
        self.top = pathlib.Path(top).absolute() if top else self.root / "build-tools/peers"
        self.debian_root = self.top / "debian"
        self.versions = self.top / "versions"

    def place(self):
        """`top`, for people."""
        return self.top.relative_to(self.root) if self.top.is_relative_to(self.root) else self.top

    def _run(self, *argv, cwd=None, timeout=FETCH_S, env=None):
        try:
            done = subprocess.run(
                list(map(str, argv)), cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as e:
            return str(e)
        lines = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
        return None if done.returncode == 0 else next((line for line in lines if re.search(r"\berror\b", line)), lines[-1])

    def debian_and_needed(self, packages):
        """As debian(), with all that they depend on and this host does not have. What that is, is asked of apt once."""
        note = self.versions / ("+".join(packages) + ".needed")
        if not note.exists():
            if not self.fetch:
                return f"{packages[0]} is not in {self.place()} and may not be fetched"
            command = ["apt-get", "--simulate", "--no-install-recommends", "install", *packages]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
            if done.returncode:
                return f"apt-get --simulate install {packages[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}"
            new = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Inst ") and not line.split()[2].startswith("[")]
            needed = sorted({*packages, *new})  # and not what would only be upgraded
            if why := self.debian(needed):
                return why
            note.write_text(" ".join(needed))
        return self.debian(note.read_text().split())

    def debian(self, packages):
        """Have these unpacked; None, or why that is not possible."""
        for package in packages:
            if (self.versions / package).exists():
                continue
            if not self.fetch:
                return f"{package} is not in {self.place()} and may not be fetched"
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
            return f"{package} is not in {self.place()} and may not be fetched"
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

    def debian_tool(self, name, *args):
        """Run a program of the unpacked packages: None, or why it failed."""
        return self._run(self.debian_root / "usr/bin" / name, *args, env={"LD_LIBRARY_PATH": str(self.debian_root / "usr/lib/x86_64-linux-gnu")})

    # Programs of tests/bench/peers

    def program(self, name):
        return self.top / "bin" / name

    def compile(self, name, sources, *flags):
        """cc, unless it was done from the same sources in the same way: None, or why not."""
        target = self.program(name)
        debian = self.debian_root / "usr"
        include = [debian / "include", debian / "include/x86_64-linux-gnu", *(debian / "include/iceoryx").glob("v*")]
        command = [
            "cc", "-std=gnu17", "-O2", "-g", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-o", target, *sources, "-I", self.root / "tests/bench/peers",
            *(f"-isystem{folder}" for folder in include), "-L", debian / "lib/x86_64-linux-gnu", f"-Wl,-rpath-link,{debian}/lib/x86_64-linux-gnu", *flags,
        ]  # fmt: skip
        files = [*sources, *(self.root / "tests/bench/peers").glob("*.h")]
        made_of = hashlib.sha256(repr(list(map(str, command))).encode() + b"".join(pathlib.Path(file).read_bytes() for file in files)).hexdigest()
        note = target.with_suffix(".made-of")
        if target.exists() and note.exists() and note.read_text() == made_of:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        if why := self._run(*command):
            return f"cc {name}: {why}"
        note.write_text(made_of)
        return None

    def crate(self, name):
        """The static library of tests/bench/peers/NAME, by cargo, which fetches what it needs: None, or why not."""
        source, copy = self.root / "tests/bench/peers" / name, self.top / "crates" / name
        library = self.library(name)
        texts = {path: (source / path).read_bytes() for path in ("Cargo.toml", "src/lib.rs")}
        if library.exists() and all((copy / path).exists() and (copy / path).read_bytes() == text for path, text in texts.items()):
            return None
        if not shutil.which("cargo"):
            return "cargo is not installed"
        if not self.fetch and not (copy / "Cargo.lock").exists():
            return f"{name} is not in {self.place()} and may not be fetched"
        for path, text in texts.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_bytes(text)
        command = ["cargo", "build", "--release", "--quiet", *([] if self.fetch else ["--offline"])]
        env = {"CARGO_HOME": str(self.top / "cargo"), "CARGO_TARGET_DIR": str(self.top / "target"), "CARGO_TERM_COLOR": "never"}
        if why := self._run(*command, cwd=copy, timeout=CARGO_S, env=env):
            library.unlink(missing_ok=True)
            return f"cargo build of {name}: {why}"
        return None

    def library(self, name):
        return self.top / "target/release" / f"libpeer_{name}.a"
