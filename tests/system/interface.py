# SPDX-License-Identifier: Apache-2.0
"""A strict reader of protocol/dev.tidegate.Supervisor.varlink: replies are held against it, field by field."""

import pathlib
import re

PATH = pathlib.Path(__file__).resolve().parents[2] / "protocol/dev.tidegate.Supervisor.varlink"
TEXT = PATH.read_text()
NAME = "dev.tidegate.Supervisor"


def _fields(text):
    return dict((name, kind) for name, kind in re.findall(r"(\w+)\s*:\s*([?\[\]\w]+)", text))


def _read():
    text = re.sub(r"#.*", "", TEXT)
    types = {name: _fields(body) for name, body in re.findall(r"\btype\s+(\w+)\s*\(([^)]*)\)", text)}
    errors = {name: _fields(body) for name, body in re.findall(r"\berror\s+(\w+)\s*\(([^)]*)\)", text)}
    methods = {
        name: (_fields(takes), _fields(gives)) for name, takes, gives in re.findall(r"\bmethod\s+(\w+)\s*\(([^)]*)\)\s*->\s*\(([^)]*)\)", text)
    }
    return types, errors, methods


TYPES, ERRORS, METHODS = _read()
PLAIN = {"bool": bool, "int": int, "string": str, "object": dict, "float": (int, float)}


def _check(kind, value, where):
    if kind.startswith("?"):
        if value is None:
            return
        kind = kind[1:]
    assert value is not None, f"{where} is missing"
    if kind.startswith("[]"):
        assert isinstance(value, list), f"{where} is no list: {value!r}"
        for i, item in enumerate(value):
            _check(kind[2:], item, f"{where}[{i}]")
    elif kind.startswith("[string]"):
        assert isinstance(value, dict), f"{where} is no map: {value!r}"
        for key, item in value.items():
            _check(kind[8:], item, f"{where}.{key}")
    elif kind in TYPES:
        check_fields(TYPES[kind], value, where)
    else:
        assert isinstance(value, PLAIN[kind]) and not (kind == "int" and isinstance(value, bool)), f"{where} is no {kind}: {value!r}"


def check_fields(fields, value, where):
    assert isinstance(value, dict), f"{where} is no object: {value!r}"
    unknown = value.keys() - fields.keys()
    assert not unknown, f"{where} has {unknown}, which the interface does not know"
    for name, kind in fields.items():
        _check(kind, value.get(name), f"{where}.{name}")


def check_reply(method, parameters):
    check_fields(METHODS[method][1], parameters, method)


def check_error(name, parameters):
    check_fields(ERRORS[name], parameters, name)
