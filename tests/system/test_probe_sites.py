# SPDX-License-Identifier: Apache-2.0
"""The probe sites of what nodes run, as binutils reads them: tidegate:enqueue and tidegate:dequeue of shm/probe.h."""

import platform
import re
import shutil
import subprocess

import pytest

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers and instructions of x86-64"),
    pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf"),
]

ARGUMENTS = {"enqueue": "8@%rdi 8@%rsi 8@%rdx", "dequeue": "8@%rdi 8@%rsi 8@%rdx 8@%rcx"}
NOP5 = bytes.fromhex("0f1f440000")


def readelf(*args):
    return subprocess.run(["readelf", "-W", *map(str, args)], check=True, capture_output=True, text=True, timeout=60).stdout


def notes_of(path):
    """[{Provider, Name, Location, Base, Semaphore, Arguments}] of a file."""
    text = readelf("-n", path).partition(".note.stapsdt")[2].partition("Displaying notes")[0]
    return [dict(re.findall(r"(\w+): ([^,\n]+)", note)) for note in text.split("NT_STAPSDT")[1:]]


def sections_of(path):
    """{name: (address, offset, size)}."""
    found = re.findall(r"\] (\.\S+)\s+\w+\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)", readelf("-S", path))
    return {name: tuple(int(n, 16) for n in numbers) for name, *numbers in found}


@pytest.mark.parametrize("file", ["lib/libtidegate.so", "bin/tidegate-pipe", "stripped"])
def test_notes_name_both_probes_with_their_arguments(build, tmp_path, file):
    path = build / file
    if file == "stripped":
        path = tmp_path / "libtidegate.so"
        subprocess.run(["strip", "--strip-unneeded", "-o", path, build / "lib/libtidegate.so"], check=True, timeout=60)
    notes, sections, data = notes_of(path), sections_of(path), path.read_bytes()
    assert {note["Name"] for note in notes} == {"enqueue", "dequeue"}
    text, offset, _ = sections[".text"]
    for note in notes:
        assert note["Provider"] == "tidegate"
        assert note["Arguments"] == ARGUMENTS[note["Name"]]
        assert int(note["Base"], 16) == sections[".stapsdt.base"][0], "somebody moved the sections: tools correct for that, our test does not"
        address, _, size = sections[".probes"]
        assert address <= int(note["Semaphore"], 16) <= address + size - 2
        site = int(note["Location"], 16)
        at = site - text + offset
        assert data[at : at + 5] == NOP5
        assert site % 4096 <= 4096 - 5, "kernels write no call across a page"


def test_each_probe_has_a_semaphore_of_its_own(build):
    semaphores = {(note["Name"], note["Semaphore"]) for note in notes_of(build / "lib/libtidegate.so")}
    assert len(semaphores) == 2 and len({address for _, address in semaphores}) == 2


def test_a_program_that_links_the_library_has_no_sites_of_its_own(build):
    """Attached to the library once, and not to each program that uses it."""
    assert notes_of(build / "tests/system/drain") == []
