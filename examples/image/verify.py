# SPDX-License-Identifier: Apache-2.0
"""Hold what came against what was sent: the pixels by their SHA-256, the histogram against numpy's.

Inputs `image` (from the loader) and `histogram` (from brightness), joined by `number`. Exit status 1 at the first difference.
"""

import hashlib
import sys

import numpy
import tidegate


def luma_histogram(rgb):
    r, g, b = (rgb[..., i].astype(numpy.uint16) for i in range(3))
    return numpy.bincount(((77 * r + 150 * g + 29 * b) >> 8).ravel(), minlength=256)


def check(image, histogram):
    m = image.metadata
    if hashlib.sha256(image.data).hexdigest() != m["sha256"]:
        sys.exit(f"verify: {m['name']}: the pixels are not those that were sent")
    pixels = numpy.frombuffer(image.data, numpy.uint8).reshape(m["height"], m["width"], 3)
    expected = luma_histogram(pixels)
    if not numpy.array_equal(expected, numpy.frombuffer(histogram.data, numpy.uint32)):
        sys.exit(f"verify: {m['name']}: the histogram is wrong")
    mean = histogram.metadata["mean"]
    print(f"{m['name']:34} {m['width']:4} x {m['height']:4}  {image.data.nbytes / 1e6:5.1f} MB  mean brightness {mean:5.1f}")


def main():
    waiting, n_pictures, n_bytes = {}, 0, 0
    with tidegate.Node() as node:
        for event in node:
            if event.type != "INPUT":
                continue
            pair = waiting.setdefault(event.metadata["number"], {})
            pair[event.id] = event
            if len(pair) == 2:
                check(**waiting.pop(event.metadata["number"]))
                n_pictures += 1
                n_bytes += pair["image"].data.nbytes
            del event, pair  # or this loop would pin the picture in shared memory while it waits for the next
    if waiting:
        sys.exit(f"verify: {len(waiting)} pictures came only in part")
    print(f"{n_pictures} pictures, {n_bytes / 1e6:.1f} MB: every byte as it was sent, every histogram right")


if __name__ == "__main__":
    main()
