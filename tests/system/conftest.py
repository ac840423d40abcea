# SPDX-License-Identifier: Apache-2.0
"""What system tests share: the build they look at, ways to run its programs that cannot hang, and a look for leftovers."""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import types
import uuid

import pytest
from plain import MARK, eventually, unified_root

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TIDEGATE_BUILD", ROOT / "build"))
PYTHON = os.environ.get("TIDEGATE_PYTHON", "/usr/bin/python3")
# Loading a kernel probe takes 40 ms of a processor, for each daemon and each `run`: only where a test is about it.
os.environ.setdefault("TIDEGATE_PROBES", "off")


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: not beside other tests, for it loads the machine or shares a folder with others")
    config.addinivalue_line("markers", "cgroup_only: about what only the enforcer cgroup does")
    config.addinivalue_line("markers", "each_enforcer: once with every way to end nodes, and not with cgroups alone")
    config.addinivalue_line("markers", "measures: alone, and not beside a build either")
    config.addinivalue_line("markers", "sanitized: also run on the build with address and undefined sanitizers")


# What nodes are ended with. TIDEGATE_TEST_ENFORCER=NAME runs all tests that know the difference with that one.
ENFORCER = os.environ.get("TIDEGATE_TEST_ENFORCER", "cgroup")
ENFORCERS = ["cgroup", "cgroup+pidns", "pidns", "subreaper"]


def pytest_collection_modifyitems(items):
    for item in items:
        if ENFORCER != "cgroup" and item.get_closest_marker("cgroup_only"):
            item.add_marker(pytest.mark.skip(reason="only the enforcer cgroup does it"))


def pytest_generate_tests(metafunc):
    if "enforcer" in metafunc.fixturenames and metafunc.definition.get_closest_marker("each_enforcer"):
        metafunc.parametrize("enforcer", ENFORCERS, indirect=True)


@pytest.fixture
def enforcer(request):
    return getattr(request, "param", ENFORCER)


@pytest.fixture(scope="session")
def root():
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def build():
    """The build tree: bin/, lib/, python/."""
    assert (BUILD / "bin/tidegate").exists(), f"{BUILD} holds no build; run scripts/build"
    for made in (BUILD / "cli/tidegate", BUILD / "supervisor/tidegated"):
        used = BUILD / "bin" / made.name
        if made.exists() and (not used.exists() or used.stat().st_mtime < made.stat().st_mtime):
            pytest.exit(f"{used} is older than {made}: run scripts/build, which ninja alone does not replace", returncode=3)
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
        return said(subprocess.run([build / "bin/tidegate", *map(str, args)], text=True, timeout=timeout, **kwargs))

    return run


# Environment of nodes


@pytest.fixture(scope="session")
def sanitizer(build):
    """The library that has to be loaded before anything else in a program that was not built with sanitizers; or None."""
    options = json.loads((build / "meson-info/intro-buildoptions.json").read_text())
    wanted = next(o["value"] for o in options if o["name"] == "b_sanitize")
    if "address" not in str(wanted):
        return None
    return subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()


@pytest.fixture(scope="session")
def python(sanitizer, tmp_path_factory):
    """The interpreter for nodes. Python itself keeps memory at its exit, so the sanitizer looks for no leaks there."""
    if not sanitizer:
        return PYTHON
    wrapper = tmp_path_factory.mktemp("python") / "python3"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'export LD_PRELOAD="{sanitizer}${{LD_PRELOAD:+:$LD_PRELOAD}}"\n'
        'export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"\n'
        f'exec {PYTHON} "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture(scope="session")
def node_environment(build, python):
    """Environment in which `tidegate run` finds the built library and module, as scripts/env prints it."""

    def prepend(name, value):
        old = os.environ.get(name)
        return f"{value}:{old}" if old else str(value)

    return {
        **os.environ,
        "PATH": prepend("PATH", build / "bin"),
        "PYTHONPATH": prepend("PYTHONPATH", build / "python"),
        "LD_LIBRARY_PATH": prepend("LD_LIBRARY_PATH", build / "lib"),
        "TIDEGATE_PYTHON": python,
        "TIDEGATE_BUILD": str(build),
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="session")
def fake_environment(build, node_environment, sanitizer):
    """How to run a test of the Python module on the scripted stand-in of libtidegate."""
    here = pathlib.Path(__file__).parent / "fake"
    env = {
        **node_environment,
        "PYTHONPATH": f"{here}:{node_environment['PYTHONPATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_PRELOAD": str(build / "tests/system/libfake_tidegate.so"),
    }
    if sanitizer:
        env["LD_PRELOAD"] = f"{sanitizer}:{env['LD_PRELOAD']}"
        env["ASAN_OPTIONS"] = f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=0".lstrip(":")
    return types.SimpleNamespace(python=PYTHON, play=here / "play.py", env=env)


def played(function):
    """A test of the Python module: its body runs in a fresh Python with the stand-in loaded."""

    @functools.wraps(function)
    def test(fake_environment):
        r = subprocess.run(
            [fake_environment.python, "-X", "dev", fake_environment.play, function.__code__.co_filename, function.__name__],
            env=fake_environment.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert r.returncode == 0, f"status {r.returncode}\n{r.stdout}\n{r.stderr}"

    del test.__wrapped__  # pytest would take the fixtures from there
    return pytest.mark.sanitized(test)


# Runs that leave nothing

PLACES = [pathlib.Path("/run/tidegate-places"), pathlib.Path(f"/tmp/tidegate-places-{os.geteuid()}")]  # base/place.h


def instance_folders():
    """Where a run without --cgroup-root makes its cgroups, below our own one if that is delegated, else below the root; or what stands in for them."""
    for places in PLACES:
        if places.exists():
            yield places / "tidegate"
    top = unified_root()
    if not top:
        return
    yield top / "tidegate"
    for line in open("/proc/self/cgroup"):
        if line.startswith("0::/") and len(line) > 5:
            yield top / line[4:].strip() / "tidegate"


def dead_cgroups():
    """Every cgroup .../tidegate/INSTANCE/... without an owner. A living instance holds its directory's lock: other runs beside
    this one do not count."""
    found = set()
    for base in instance_folders():
        try:
            instances = [d for d in base.iterdir() if d.is_dir()]
        except OSError:
            continue
        if not instances:
            found.add(str(base))
        for instance in instances:
            if _lock_is_free(instance):
                found.update(path for path, _, _ in os.walk(instance))
    return found


def _lock_is_free(directory):
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False  # gone meanwhile
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def hangs_in_execve(proc):
    """Somebody in the middle of execve(): a memory without a program. On Linux 6.18 whoever reads his environment waits for that (base/procstat.h)."""

    def executes():
        with contextlib.suppress(OSError):
            fields = (proc / "statm").read_text().split()
            return fields[0] != "0" and fields[3] == "0"

    return executes() and not eventually(lambda: not executes(), 0.05)


def marked_processes(mark, name=MARK):
    """pid: command of every process, zombies excepted, that was started with this mark in its environment."""
    found = {}
    needle = f"{name}={mark}".encode()
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if not hangs_in_execve(proc) and needle in (proc / "environ").read_bytes().split(b"\0") and (command := (proc / "cmdline").read_bytes()):
                found[int(proc.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass
    return found  # one that is gone meanwhile, or a zombie, has neither


OUR_SOCKETS = re.compile(r"(control|node|holder|[0-9]+)\.sock")  # supervisor/runtime.h


def pids():
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def bound_sockets():
    """{inode: name} of the unix sockets that have a name; ours are bound as /proc/self/fd/N/NAME."""
    found = {}
    with open("/proc/net/unix") as f:
        for line in f:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and OUR_SOCKETS.fullmatch(os.path.basename(name := fields[7].strip())):
                found[fields[6]] = name
    return found


def text_of(path):
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # it is gone


def is_of(pid, mark, directory, older):
    """Is it this test's? Not if it, or an ancestor, has another's mark, or an ancestor was there before. Else by its cgroup, or if its program,
    arguments or folder are of the test or of what it was built into."""
    proc = pathlib.Path(f"/proc/{pid}")
    if hangs_in_execve(proc):
        return False  # whoever has such a one, and it is left, says so itself
    cgroup, arguments = text_of(proc / "cgroup"), text_of(proc / "cmdline")
    if "tidegate-test-" in cgroup:
        return f"tidegate-test-{mark[:12]}" in cgroup
    at = proc
    for _ in range(64):
        marks = re.findall(rf"{MARK}=(\w+)", text_of(at / "environ"))
        if marks:
            return marks == [mark]
        parent = re.search(r"\) \w (\d+)", text_of(at / "stat"))
        if not parent:
            return False  # it is gone
        parent = int(parent[1])
        if parent == os.getpid():
            return True
        if parent in (0, 1):
            break
        if parent in older:
            return False
        at = pathlib.Path(f"/proc/{parent}")
    try:
        where = f"{os.readlink(proc / 'exe')}\n{os.readlink(proc / 'cwd')}\n{arguments}"
    except OSError:
        return False
    return f"{BUILD}/" in where or (directory is not None and str(directory) in where)


def held(pid, sockets):
    """What of ours a process holds: regions of shared memory, and sockets that clients connect to."""
    found = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            if link.startswith("/memfd:tidegate-"):
                found.add(link.removesuffix(" (deleted)"))
            elif link.startswith("socket:[") and link[8:-1] in sockets:
                found.add(f"socket {sockets[link[8:-1]].rpartition('/')[2]}")
    except OSError:
        pass  # gone, or another's
    return found


def own_files():
    return {
        # criterion keeps files there while tests beside this one run
        "files in /dev/shm": {f for f in os.listdir("/dev/shm") if not f.startswith(("bxfi_", "bxf_arena_"))},
        "our descriptors": {f"{fd}: {link}" for fd, link in _descriptors()},
    }


class Traces:
    """What a run may leave behind, counted before and after. Processes are found by a mark in their environment; of those without it,
    which came meanwhile, by what of ours they hold. Files in runtime directories are their fixtures' to count."""

    def __init__(self, directory=None):
        self.mark = uuid.uuid4().hex
        self.elsewhere = False  # set by the fixture `home`, which counts the cgroups of its runs itself
        self.directory = directory  # the test's own
        self.pids = pids()
        self.before = self.count()

    def count(self):
        return {"cgroups": dead_cgroups(), **own_files()}

    def held(self):
        """{pid: memfds and sockets of ours} of processes that came since, whoever they are."""
        sockets = bound_sockets()
        found = {pid: what for pid in pids() - self.pids if (what := held(pid, sockets))}
        return {f"{pid}: {name}" for pid, names in found.items() if is_of(pid, self.mark, self.directory, self.pids) for name in names}

    def left(self):
        """{kind: what is there now and was not}; empty when nothing is left."""
        now = {kind: names - self.before[kind] for kind, names in self.count().items()}
        if self.elsewhere:
            now["cgroups"] = set()
        elif now["cgroups"]:  # or made by a run beside this one, which is about to lock or to remove it
            time.sleep(0.2)
            now["cgroups"] &= dead_cgroups()
        now["processes"] = marked_processes(self.mark)
        now["memfds and sockets"] = self.held()
        return {kind: names for kind, names in now.items() if names}

    def assert_none(self, seconds=0.0):
        eventually(lambda: not self.left(), seconds)
        assert self.left() == {}

    def sweep(self):
        """End what a failed test left, so that it fails alone."""
        for pid in marked_processes(self.mark):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid in marked_processes(self.mark):  # still the one we meant, and the pidfd keeps it so
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(fd)


def _descriptors():
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield fd, os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass  # the one that listed them


@pytest.fixture
def traces(tmp_path):
    """Counts before; the test must leave no more than that. `traces.mark` goes with what the test starts."""
    t = Traces(tmp_path)
    yield t
    eventually(lambda: t.left().keys().isdisjoint(["our descriptors", "memfds and sockets"]), 2)  # about to be closed
    left = t.left()
    t.sweep()
    assert left == {}, f"the test left {left}"


@pytest.fixture(autouse=True)
def _nothing_of_the_tests_own(request):
    """Of tests that do not count the rest: files in /dev/shm, and descriptors of the test's own."""
    if "traces" in request.fixturenames:
        yield
        return
    before = own_files()
    yield
    left = lambda: {kind: names - before[kind] for kind, names in own_files().items() if names - before[kind]}  # noqa: E731
    eventually(lambda: not left(), 2)
    assert left() == {}, f"the test left {left()}"


class Run:
    """One `tidegate run` in the background. Its output goes to files: a grandchild that keeps them open holds up nobody."""

    def __init__(self, command, env, cwd, directory):
        self.stdout, self.stderr = directory / "stdout", directory / "stderr"
        with open(self.stdout, "w") as out, open(self.stderr, "w") as err:
            self.begin = time.monotonic()
            self.process = subprocess.Popen(
                command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    def wait(self, timeout):
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            pytest.fail(f"no end after {timeout} s:\n{self.output()}")
        self.seconds = time.monotonic() - self.begin
        return self

    @property
    def status(self):
        return self.process.returncode

    def output(self):
        return self.stdout.read_text(errors="replace") + self.stderr.read_text(errors="replace")


def counters_agree(output, liars=()):
    """A supervisor holds the counters of each link against each other when its consumer has ended, and says whose do not add up. @liars: nodes and
    inputs that are to lie."""
    lies = [line for line in output.splitlines() if "do not add up" in line and not any(liar in line for liar in liars)]
    assert lies == [], lies


def liars_of(request):
    """Named by a test whose nodes spoil their counters."""
    return getattr(request.node, "liars", ())


def end_runs(runs, mark, liars):
    killed = [run for run in runs if run.process.poll() is None]
    for run in killed:
        run.process.kill()
        run.process.wait(10)
    if killed:
        eventually(lambda: not marked_processes(mark), 2)  # who ends its nodes for it says what it finds
    for run in runs:
        counters_agree(Run.output(run), liars)  # all of it


def said(process):
    """The completed process of a command that may have run a dataflow, when it does not say that counters disagree."""
    for output in (process.stdout, process.stderr):
        if output:
            counters_agree(output if isinstance(output, str) else output.decode(errors="replace"))
    return process


@pytest.fixture
def start_tidegate(build, node_environment, traces, tmp_path, request):
    """Start `tidegate ARGS...`; returns a Run. Whatever the test starts must be gone at its end."""
    runs = []

    def start(*args, cwd=None, env=None):
        directory = tmp_path / f"run-{len(runs)}"
        directory.mkdir()
        environment = {**node_environment, MARK: traces.mark, **(env or {})}
        runs.append(Run([build / "bin/tidegate", *map(str, args)], environment, cwd or tmp_path, directory))
        return runs[-1]

    yield start
    end_runs(runs, traces.mark, liars_of(request))


@pytest.fixture
def run_tidegate(start_tidegate):
    """Run `tidegate ARGS...` to its end, within the timeout; returns the Run."""

    def run(*args, timeout=60, status=0, **kwargs):
        r = start_tidegate(*args, **kwargs).wait(timeout)
        if status is not None:
            assert r.status == status, f"status {r.status}\n{r.output()}"
        return r

    return run


@pytest.fixture
def dataflow(tmp_path):
    """Write a descriptor given as text, or as a dict; returns its path."""

    def write(text, name="dataflow.yml"):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text, indent=2))  # JSON is YAML
        return path

    return write


# Fixtures of runs that are looked at and killed while they live, and of commands that talk to a supervisor of the test's own. At the end:
# these modules use what is defined above.
from control import fake, talk, talk_on  # noqa: E402, F401
from lives import home, live, nothing_left, script  # noqa: E402, F401
from daemon import daemon, start_daemon  # noqa: E402, F401
from survive import survivor, withhold  # noqa: E402, F401
