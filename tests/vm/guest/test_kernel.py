# SPDX-License-Identifier: Apache-2.0
"""What the kernel does and does not do: the facts that supervision is built on."""

import ctypes
import os
import pathlib
import select
import signal
import struct
import subprocess
import threading
import time

from guest import BUILD, CGROUPS, Cgroup, eventually, libc, pids_in, start, state_of

SYS_CLONE3, SYS_PIDFD_OPEN, SYS_PIDFD_SEND_SIGNAL, SYS_EXIT = 435, 434, 424, 60
CLONE_PIDFD, CLONE_INTO_CGROUP = 0x1000, 0x200000000


def clone_into(cgroup):
    """A child born in that cgroup, which waits to be killed: (pid, pidfd), or an OSError. Nobody signals a pid that is not one."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    pidfd = ctypes.c_int(-1)
    #              flags                              pidfd                     child_tid, parent_tid, exit_signal, stack, size, tls, set_tid, size, cgroup
    args = struct.pack("=11Q", CLONE_PIDFD | CLONE_INTO_CGROUP, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, directory)
    pid = libc.syscall(SYS_CLONE3, args, len(args))
    if pid == 0:
        while True:
            libc.pause()
    error = ctypes.get_errno()
    os.close(directory)
    if pid < 0:
        raise OSError(error, os.strerror(error))
    assert pid > 1
    return pid, pidfd.value


def sleeper(cgroup):
    child = subprocess.Popen(["/bin/sleep", "1000"])
    (cgroup / "cgroup.procs").write_text(str(child.pid))
    return child


def kill(cgroup):
    (cgroup / "cgroup.kill").write_text("1")


def populated(cgroup):
    return "populated 1" in (cgroup / "cgroup.events").read_text()


def test_a_child_is_born_in_its_cgroup_and_dies_with_it():
    with Cgroup("born") as cgroup:
        pid, pidfd = clone_into(cgroup)
        assert pids_in(cgroup) == [pid]
        kill(cgroup)
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        assert info.si_code == os.CLD_KILLED and info.si_status == signal.SIGKILL
        assert eventually(lambda: not populated(cgroup))


def test_a_cgroup_below_one_that_was_killed_can_be_born_into():
    with Cgroup("killed") as cgroup:
        kill(cgroup)
        (cgroup / "below").mkdir()
        pid, pidfd = clone_into(cgroup / "below")
        time.sleep(0.2)  # nothing tells that something does not happen
        assert state_of(pid) not in (None, "Z")
        kill(cgroup)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def test_a_cgroup_that_was_killed_may_be_born_into_on_these_kernels():
    """It is not so on 6.14 to 7.2: whoever is born there dies. No code of ours may rely on either."""
    with Cgroup("again") as cgroup:
        sleeper_ = sleeper(cgroup)
        kill(cgroup)
        sleeper_.wait(10)
        pid, pidfd = clone_into(cgroup)
        time.sleep(0.2)
        assert state_of(pid) not in (None, "Z")
        kill(cgroup)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def test_frozen_and_stopped_processes_die_at_once():
    with Cgroup("frozen") as cgroup:
        frozen, stopped = sleeper(cgroup), sleeper(cgroup)
        stopped.send_signal(signal.SIGSTOP)
        (cgroup / "cgroup.freeze").write_text("1")
        assert eventually(lambda: "frozen 1" in (cgroup / "cgroup.events").read_text())
        kill(cgroup)
        assert frozen.wait(10) == stopped.wait(10) == -signal.SIGKILL


def test_a_threaded_cgroup_cannot_be_killed_but_the_one_above_can():
    with Cgroup("domain") as cgroup:
        child = sleeper(cgroup)
        threads = cgroup / "threads"
        threads.mkdir()
        (cgroup / "cgroup.subtree_control").write_text("")
        (threads / "cgroup.type").write_text("threaded")
        (threads / "cgroup.threads").write_text(str(child.pid))
        try:
            kill(threads)
        except OSError as e:
            assert e.errno == 95, e  # EOPNOTSUPP
        else:
            raise AssertionError("cgroup.kill of a threaded cgroup was taken")
        assert child.poll() is None
        kill(cgroup)
        assert child.wait(10) == -signal.SIGKILL


def test_who_lost_the_leading_thread_may_be_spared_by_cgroup_kill_and_never_by_a_pidfd():
    """6.1 spares it. Debian's 6.12 does not any more; other kernels of that age do."""
    with Cgroup("headless") as cgroup:
        pid = os.fork()
        if pid == 0:
            (cgroup / "cgroup.procs").write_text("0")
            threading.Thread(target=lambda: time.sleep(1000)).start()
            libc.syscall(SYS_EXIT, 0)
        pidfd = os.pidfd_open(pid)
        assert eventually(lambda: state_of(pid) == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 2)
        kill(cgroup)
        spared = not eventually(lambda: len(os.listdir(f"/proc/{pid}/task")) < 2, 0.3)
        print("cgroup.kill spared it" if spared else "cgroup.kill reached it")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == signal.SIGKILL
        os.close(pidfd)


def test_nobody_but_the_root_may_have_processes_and_controllers_below():
    with Cgroup("inner") as cgroup:
        child = sleeper(cgroup)
        try:
            (cgroup / "cgroup.subtree_control").write_text("+memory")
        except OSError as e:
            assert e.errno == 16, e  # EBUSY
        else:
            raise AssertionError("a controller was enabled above a process")
        leaf = cgroup / "leaf"
        leaf.mkdir()
        (leaf / "cgroup.procs").write_text(str(child.pid))
        (cgroup / "cgroup.subtree_control").write_text("+memory")
        child.kill()
        child.wait(10)


def test_every_controller_is_there():
    assert {"cpu", "memory", "pids", "io", "cpuset"} <= set((CGROUPS / "cgroup.subtree_control").read_text().split())
    assert pathlib.Path("/proc/pressure/memory").exists()


def pressed(cgroup, file, trigger, *greedy):
    """Does the kernel tell, by a trigger, that what runs there had to wait for so long?"""
    fd = os.open(cgroup / file, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fd, trigger + b"\0")
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        with start(BUILD / "tests/vm/greedy", *greedy, cgroup=cgroup, stdout=subprocess.DEVNULL) as child:  # moved later it may have all that it wants
            told = poll.poll(20_000)
            child.kill()
    finally:
        os.close(fd)
    return bool(told) and bool(told[0][1] & select.POLLPRI)


def test_pressure_is_told_by_a_trigger():
    with Cgroup("pressed") as cgroup:
        (cgroup / "cpu.max").write_text("10000 100000")
        assert pressed(cgroup, "cpu.pressure", b"some 100000 1000000", "cpu")
    with Cgroup("squeezed") as cgroup:
        (cgroup / "memory.high").write_text("8M")
        assert pressed(cgroup, "memory.pressure", b"some 100000 1000000", "memory", "64")
