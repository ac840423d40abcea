# SPDX-License-Identifier: Apache-2.0
"""Join level and spectrum of each frame; write out/frames.jsonl and a plot, out/audio.png.

usage: sink.py [--out DIR]     (default: out/ beside this file)
"""

import argparse
import json
import math
import os
import pathlib
import sys

import numpy
import tidegate


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "out")
    return parser.parse_args()


class Frames:
    """What came of each frame so far, by its number."""

    def __init__(self):
        self.parts = {}  # frame number: the inputs that came
        self.done = []

    def add(self, event):
        number = event.metadata["frame"]
        part = self.parts.setdefault(number, {})
        if event.id in part:
            raise ValueError(f"frame {number} came twice from {event.id}")
        part[event.id] = event
        if len(part) == 2:
            self.done.append(self.join(number, **self.parts.pop(number)))

    @staticmethod
    def join(number, level, spectrum):
        rms, peak = (float(x) for x in numpy.frombuffer(level.data, numpy.float64))
        return {
            "frame": number,
            "rate": spectrum.metadata["rate"],
            "rms_dbfs": rms,
            "peak_dbfs": peak,
            "dominant_hz": spectrum.metadata["dominant_hz"],
            # a copy: the plot is made at the end, and a node can hold 8 messages of an input in shared memory
            "magnitudes": numpy.frombuffer(spectrum.data, numpy.float32).copy(),
        }


def write_jsonl(frames, path):
    temporary = path.with_name(f".{path.name}.{id(frames):x}")
    with open(temporary, "w") as file:
        for f in frames:
            row = {k: v for k, v in f.items() if k != "magnitudes"}
            row["rms_dbfs"], row["peak_dbfs"] = (v if math.isfinite(v) else None for v in (f["rms_dbfs"], f["peak_dbfs"]))
            file.write(json.dumps(row) + "\n")
    temporary.replace(path)


def plot(frames, path):
    """Level, dominant frequency and spectrogram over one axis of time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
        "axes.labelcolor": "#333333", "xtick.color": "#555555", "ytick.color": "#555555",
    })  # fmt: skip
    t = numpy.array([f["frame"] for f in frames]) * 0.01
    floor = -80
    rms, peak = (numpy.maximum([f[k] for f in frames], floor) for k in ("rms_dbfs", "peak_dbfs"))
    hz = numpy.array([f["dominant_hz"] for f in frames])
    bins = max(len(f["magnitudes"]) for f in frames)
    image = numpy.full((bins, len(frames)), 1e-6)
    for i, f in enumerate(frames):
        image[: len(f["magnitudes"]), i] = numpy.maximum(f["magnitudes"], 1e-6)

    figure, (top, middle, bottom) = pyplot.subplots(
        3, 1, figsize=(11, 7.5), sharex=True, height_ratios=(1, 1, 1.6), layout="constrained", dpi=110
    )
    top.fill_between(t, floor, rms, color="#2a6f97", alpha=0.85, linewidth=0, label="root mean square")
    top.plot(t, peak, color="#e07a5f", linewidth=1, label="peak")
    top.set(ylim=(floor, 0), ylabel="level (dBFS)")
    top.grid(axis="y", color="#dddddd", linewidth=0.6)
    top.set_axisbelow(True)
    top.legend(loc="lower right", ncols=2, frameon=False, bbox_to_anchor=(1, 1), borderaxespad=0.1)
    top.set_title("One frame every 10 ms", loc="left", fontsize=11, color="#222222")

    heard = (rms > -60) & (hz > 0)
    dots = middle.scatter(t[heard] + 0.005, hz[heard], c=rms[heard], s=12, cmap="viridis", vmin=-60, vmax=-10, linewidths=0)
    middle.set(yscale="log", ylabel="dominant\nfrequency (Hz)", ylim=(80, 20000))
    middle.grid(color="#dddddd", linewidth=0.6)
    middle.set_axisbelow(True)
    figure.colorbar(dots, ax=middle, label="level (dBFS)", pad=0.01, aspect=15)

    rate = frames[0]["rate"]
    mesh = bottom.pcolormesh(
        numpy.append(t, t[-1] + 0.01), numpy.linspace(0, rate / 2, bins + 1) / 1000, 20 * numpy.log10(image),
        cmap="magma", vmin=-100, vmax=-20, rasterized=True,
    )  # fmt: skip
    bottom.set(ylim=(0, min(8, rate / 2000)), xlim=(t[0], t[-1] + 0.01), xlabel="time (s)", ylabel="frequency (kHz)")
    figure.colorbar(mesh, ax=bottom, label="magnitude (dBFS)", pad=0.01, aspect=30)
    temporary = path.with_name(f".{path.stem}.{id(frames):x}.png")
    figure.savefig(temporary)
    temporary.replace(path)


def main():
    arguments = parse_arguments()
    frames = Frames()
    with tidegate.Node() as node:
        for event in node:
            if event.type == "INPUT":
                frames.add(event)
    if frames.parts:
        sys.exit(f"sink: {len(frames.parts)} frames came only in part: {sorted(frames.parts)[:10]}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_jsonl(frames.done, arguments.out / "frames.jsonl")
    if frames.done:
        plot(frames.done, arguments.out / "audio.png")
    print(f"wrote {len(frames.done)} frames to {os.path.relpath(arguments.out)}/frames.jsonl")


if __name__ == "__main__":
    main()
