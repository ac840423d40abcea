# SPDX-License-Identifier: Apache-2.0
"""examples/audio: what comes out of four nodes is what one program computes from the same file."""

import json
import math
import shutil
import struct
import wave

import numpy
import pytest

SOUNDS = [f"/usr/share/sounds/alsa/{n}.wav" for n in ("Front_Left", "Front_Center", "Front_Right")]


@pytest.fixture
def audio(root, build, tmp_path):
    """A copy of the example whose nodes are those of the build under test: its results land in tmp_path/audio/out."""
    copy = tmp_path / "audio"
    shutil.copytree(root / "examples/audio", copy, ignore=shutil.ignore_patterns("out", "__pycache__"))
    descriptor = copy / "dataflow.yml"
    text = descriptor.read_text()
    assert text.count("../../build/") == 2
    descriptor.write_text(text.replace("../../build/", f"{build}/"))
    return descriptor


def offline(paths):
    """The numbers of every frame, computed here and at once."""
    parts = []
    for path in paths:
        with wave.open(str(path)) as w:
            assert (w.getnchannels(), w.getsampwidth()) == (1, 2)
            rate = w.getframerate()
            parts.append(numpy.frombuffer(w.readframes(w.getnframes()), "<i2"))
    samples = numpy.concatenate(parts).astype(numpy.int64)
    size = rate // 100
    for number, at in enumerate(range(0, len(samples), size)):
        x = samples[at : at + size]
        window = numpy.hanning(len(x))
        magnitudes = numpy.abs(numpy.fft.rfft(x * window))
        loudest = 1 + int(numpy.argmax(magnitudes[1:])) if len(magnitudes) > 1 else 0
        rms, peak = math.sqrt(int((x * x).sum()) / len(x)), int(numpy.abs(x).max())
        yield {
            "frame": number,
            "rate": rate,
            "rms_dbfs": 20 * math.log10(rms / 32768) if rms else None,
            "peak_dbfs": 20 * math.log10(peak / 32768) if peak else None,
            "dominant_hz": loudest * rate / len(x) if magnitudes[loudest] > 0 else 0.0,
        }


def check(jsonl, paths):
    got = [json.loads(line) for line in jsonl.read_text().splitlines()]
    expected = list(offline(paths))
    assert [f["frame"] for f in got] == list(range(len(expected))), "every frame once, in order"
    for g, e in zip(got, expected):
        assert g.keys() == e.keys()
        for key in e:
            same = g[key] == e[key] if not isinstance(e[key], float) else math.isclose(g[key], e[key], rel_tol=1e-12, abs_tol=1e-12)
            assert same, f"frame {e['frame']}: {key} is {g[key]}, not {e[key]}"
    return len(got)


def replace_args(descriptor, args):
    """Give the source other arguments than the three recordings."""
    lines = descriptor.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("    args: >-"))
    assert [line.strip() for line in lines[at + 1 : at + 4]] == SOUNDS
    lines[at : at + 4] = [f"    args: {json.dumps(args)}"]
    descriptor.write_text("\n".join(lines) + "\n")


@pytest.mark.sanitized
def test_fast_run_equals_the_offline_computation(audio, run_tidegate):
    replace_args(audio, "--fast " + " ".join(SOUNDS))
    run_tidegate("run", audio)
    n = check(audio.parent / "out/frames.jsonl", SOUNDS)
    assert n == 444  # 213 060 samples of 48 kHz
    png = (audio.parent / "out/audio.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width >= 800 and height >= 400


def test_real_time_run_takes_as_long_as_the_recordings(audio, run_tidegate):
    run = run_tidegate("run", audio)
    n = check(audio.parent / "out/frames.jsonl", SOUNDS)
    assert n * 0.01 <= run.seconds < n * 0.01 + 60, "the start, the plot and a busy machine take their time too"


def wav_file(path, samples=b"\1\0" * 1000, fmt=None, rate=48000, before=b"", size=None):
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16) if fmt is None else fmt
    body = b"WAVE" + before
    body += b"fmt " + struct.pack("<I", len(fmt)) + fmt if fmt else b""
    body += b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def test_unusual_but_right_files_are_read(audio, tmp_path, run_tidegate):
    extensible = struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 16000, 2, 16) + struct.pack("<HHIH14x", 22, 16, 4, 1)
    odd_chunk = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    noise = numpy.random.default_rng(1).integers(-32768, 32768, 1234).astype("<i2").tobytes()
    plain = wav_file(tmp_path / "plain.wav", noise, rate=8000, before=odd_chunk)
    replace_args(audio, f"--fast {plain} {wav_file(tmp_path / 'ext.wav', bytes(170), extensible)}")
    run_tidegate("run", audio)
    plain2 = wav_file(tmp_path / "ext-as-plain.wav", bytes(170), rate=8000)
    assert check(audio.parent / "out/frames.jsonl", [plain, plain2]) == 17 and 1234 + 85 == 16 * 80 + 39


BAD = {
    "no such file": lambda p: p / "absent.wav",
    "a directory": lambda p: p,
    "empty": lambda p: _write(p / "x.wav", b""),
    "no RIFF": lambda p: _write(p / "x.wav", b"ID3" + bytes(100)),
    "cut off": lambda p: wav_file(p / "x.wav", size=4000),
    "size of all ones": lambda p: wav_file(p / "x.wav", size=0xFFFFFFFF),
    "half a sample": lambda p: wav_file(p / "x.wav", b"abc"),
    "no format": lambda p: wav_file(p / "x.wav", fmt=b""),
    "short format": lambda p: wav_file(p / "x.wav", fmt=b"\1\0\1\0"),
    "stereo": lambda p: wav_file(p / "x.wav", fmt=struct.pack("<HHIIHH", 1, 2, 48000, 192000, 4, 16)),
    "8 bit": lambda p: wav_file(p / "x.wav", fmt=struct.pack("<HHIIHH", 1, 1, 48000, 48000, 1, 8)),
    "float": lambda p: wav_file(p / "x.wav", fmt=struct.pack("<HHIIHH", 3, 1, 48000, 192000, 4, 32)),
    "no samples chunk": lambda p: _write(p / "x.wav", wav_file(p / "y.wav").read_bytes()[:36]),
}


def _write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_the_run_fails(case, audio, tmp_path, run_tidegate):
    path = BAD[case](tmp_path)
    replace_args(audio, f"--fast {path}")
    run = run_tidegate("run", audio, status=1, timeout=30)
    lines = [line for line in run.output().splitlines() if f"source: {path}: " in line]
    assert lines, run.output()
