# SPDX-License-Identifier: Apache-2.0
"""What a test of the Python module runs on: the scripted stand-in of libtidegate (fake_tidegate.c), loaded by LD_PRELOAD.

Run as a program, it runs one test function of a file: play.py FILE FUNCTION. There the function's decorator is the one below; conftest.py has the
other side's.
"""

import ctypes
import gc
import os
import sys

lib = ctypes.CDLL(None)


class _Sent(ctypes.Structure):
    _fields_ = [
        ("output", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("params", ctypes.c_char_p),
    ]


lib.fake_push.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
]  # fmt: skip
lib.fake_stop.argtypes = [ctypes.c_uint64]
lib.fake_fail.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
lib.fake_hold_sends.argtypes = [ctypes.c_bool]
lib.fake_n_sent.restype = ctypes.c_size_t
lib.fake_sent.argtypes = [ctypes.c_size_t]
lib.fake_sent.restype = ctypes.POINTER(_Sent)
lib.fake_asked.restype = ctypes.c_char_p
lib.tg_params_new.restype = ctypes.c_void_p

INPUT, INPUT_CLOSED, INPUT_RECOVERED, STOP, NODE_FAILED, NODE_RESTARTED, ERROR = range(1, 8)
TIMEOUT, END, NO_OUTPUT, CLOSED, STOPPING, NO_PARAM, DROPPED = range(1, 8)


def push(kind, id="in", data=b"", seq=0, params=()):
    """Queue an event. params: tuples of the setter's name, the key and the C values."""
    take = None
    if params:
        take = ctypes.c_void_p(lib.tg_params_new())
        for setter, key, *values in params:
            assert getattr(lib, "tg_params_set_" + setter)(take, key, *values) == 0
    lib.fake_push(kind, None if id is None else id.encode(), data, len(data), seq, take)


def fail(function, r, times=1):
    lib.fake_fail(function.encode(), r, times)


def sent():
    """What was sent: (output, bytes, {key: number of the parameter's type})."""
    all = []
    for i in range(lib.fake_n_sent()):
        s = lib.fake_sent(i).contents
        params = dict(p.rsplit(":", 1) for p in s.params.decode().split())
        all.append((s.output.decode(), ctypes.string_at(s.data, s.size), {k: int(v) for k, v in params.items()}))
    return all


def asked():
    """What tg_node_open_as() was called with last: "id dataflow", "-" for none."""
    return lib.fake_asked().decode()


def live(what):
    gc.collect()
    return lib.fake_live(what.encode())


def fds():
    return len(os.listdir("/proc/self/fd"))


def played(function):
    function.played = function
    return function


def raises(type, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except type as e:
        return e
    raise AssertionError(f"{type} was not raised")


if __name__ == "__main__":
    import runpy

    sys.modules["play"] = sys.modules["__main__"]
    runpy.run_path(sys.argv[1], run_name="played")[sys.argv[2]].played()
