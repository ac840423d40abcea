# SPDX-License-Identifier: Apache-2.0
"""The fixtures of tests/system, and trees of processes that do everything to survive (tree.c)."""

import importlib.util
import pathlib
import sys

_SYSTEM = pathlib.Path(__file__).resolve().parents[1] / "system"
sys.path.insert(0, str(_SYSTEM))
_own = sys.modules.get("conftest")
_spec = importlib.util.spec_from_file_location("conftest", _SYSTEM / "conftest.py")
_system = sys.modules["conftest"] = importlib.util.module_from_spec(_spec)  # its own modules import it by that name
try:
    _spec.loader.exec_module(_system)
finally:
    if _own:
        sys.modules["conftest"] = _own
globals().update({name: value for name, value in vars(_system).items() if not name.startswith("__")})


# Layouts: where a daemon runs, and who orders. Each is one function below; a test that takes `grove` runs in all that it names.

import os  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
import warnings  # noqa: E402

import pytest  # noqa: E402
from grove import Grove  # noqa: E402
from hungmount import HungMount  # noqa: E402
from lives import SLACK, children_of  # noqa: E402
from survive import Survivor  # noqa: E402

NOBODY = 65534
ENTER = ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"']
READ_ONLY = "awk '$5 ~ /^.sys.fs.cgroup/ {print $5}' /proc/self/mountinfo | while read m; do mount -o remount,bind,ro $m || exit 1; done || exit; "
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(scope="session")
def tree_program(build):
    """tree.c, where every user may execute it."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-hostile-"))
    directory.chmod(0o755)
    shutil.copy(build / "tests/hostile/hostile_tree", directory / "tree")
    (directory / "tree").chmod(0o755)
    yield directory / "tree"
    shutil.rmtree(directory)


@pytest.fixture
def open_directory():
    """A folder that every user may enter."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-hostile-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


class Unaided(Survivor):
    """One that is not told where it may make cgroups, and finds nowhere."""

    def places(self):
        return ["--runtime-dir", self.runtime]


class Container(Unaided):
    """The first process of a PID namespace: whoever began it is outside."""

    def guard_pid(self):
        return next(iter(children_of(self.process.pid)), None)


@pytest.fixture
def begin(build, node_environment, traces, home, open_directory):
    """Start the daemon of a layout. At the end nothing of it may be left."""
    daemons = []

    def start(*args, prefix=(), kind=Survivor):
        command = [*prefix, build / "bin/tidegated", *map(str, args)]
        daemons.append(kind(command, {**node_environment, MARK: traces.mark}, open_directory, home, traces.mark))
        daemons[-1].wait_until_ready()
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.end()
        if (home / "shell").exists():
            assert eventually(lambda: "populated 0" in (home / "shell/cgroup.events").read_text(), SLACK)
            (home / "shell").rmdir()
        left = eventually(lambda: not any(daemon.left(traces.mark).values()), SLACK) or daemon.left(traces.mark)
        assert left is True, f"the daemon left {left}\n{daemon.output()}"


def root_layout(begin, home):
    """The daemon, the caller and the nodes are root's."""
    return begin(), os.geteuid()


def user_layout(begin, home):
    """An ordinary user orders; the daemon is root's, and so are the cgroups."""
    return begin(), NOBODY


def delegated_layout(begin, home):
    """An ordinary user's own daemon, in a cgroup that was given to that user."""
    (home / "shell").mkdir()  # where the user's processes are, and what they come from
    for path in (home, home / "shell"):
        for name in (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / name, NOBODY, NOBODY)
    return begin(prefix=[*ENTER, home / "shell", *AS_NOBODY]), NOBODY


def delegated_pidns_layout(begin, home):
    """The same, and a PID namespace around each node."""
    return delegated_layout(lambda **kwargs: begin("--enforcer", "cgroup+pidns", **kwargs), home)


def pidns_layout(begin, home):
    """Root's, and a PID namespace instead of a cgroup."""
    return begin("--enforcer", "pidns", kind=Unaided), os.geteuid()


def subreaper_layout(begin, home):
    """Root's, with neither."""
    return begin("--enforcer", "subreaper", kind=Unaided), os.geteuid()


def undelegated_layout(begin, home):
    """An ordinary user's own daemon, and nothing was given to that user."""
    return begin(prefix=AS_NOBODY, kind=Unaided), NOBODY


def read_only_layout(begin, home):
    """Root's, where every cgroup hierarchy is mounted read-only, as in a container."""
    return begin(prefix=["unshare", "-m", "sh", "-c", READ_ONLY + 'exec "$@"', "sh"], kind=Unaided), os.geteuid()


def pid1_layout(begin, home):
    """The same, and the daemon is the first process there, with a /run of its own."""
    inside = READ_ONLY + 'mount -t tmpfs none /run && exec "$@"'
    return begin("--enforcer", "pid1", prefix=["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", inside, "sh"], kind=Container), os.geteuid()


LAYOUTS = {
    "root": root_layout,
    "user": user_layout,
    "delegated": delegated_layout,
    "delegated+pidns": delegated_pidns_layout,
    "pidns": pidns_layout,
    "subreaper": subreaper_layout,
    "undelegated": undelegated_layout,
    "read-only": read_only_layout,
    "pid1": pid1_layout,
}


@pytest.fixture
def hung_mounts(build, open_directory):
    """One, where there can be one."""
    program = build / "tests/supervisor/hungfs"
    if not program.exists() or not os.access("/dev/fuse", os.W_OK):
        warnings.warn("no tree has a process that waits for a file system: needs /dev/fuse and libfuse3", stacklevel=1)
        yield []
        return
    mount = HungMount(program, open_directory / "hung")
    yield [mount]
    mount.end()


@pytest.fixture
def grove(request, tree_program, traces):
    """Trees under the daemon of a layout (the parameter: its name)."""
    name = getattr(request, "param", "root")
    if os.geteuid() != 0:
        pytest.skip("needs root: to trace anybody, to be another user, to give cgroups away")
    mounts, begin = request.getfixturevalue("hung_mounts"), request.getfixturevalue("begin")
    inside = mounts[0].prefix() if mounts else []
    daemon, caller = LAYOUTS[name](lambda *args, prefix=(), **keys: begin(*args, prefix=[*inside, *prefix], **keys), request.getfixturevalue("home"))
    g = Grove(daemon, tree_program, caller, traces.mark, depth=int(isinstance(daemon, Container)), reapers=name not in ("root", "user", "delegated"), mounts=mounts)
    yield g
    g.close()
