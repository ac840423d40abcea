# SPDX-License-Identifier: Apache-2.0
"""Decode photographs into shared memory.

usage: loader.py FILE...

Output `image`: RGB, 8 bits each, row by row; metadata `number`, `name`, `width`, `height` and the `sha256` of the pixels.
"""

import hashlib
import pathlib
import sys

import numpy
import tidegate
from PIL import Image


def main():
    paths = [pathlib.Path(p) for p in sys.argv[1:]]
    if not paths:
        sys.exit("usage: loader.py FILE...")
    with tidegate.Node() as node:
        for number, path in enumerate(paths):
            with Image.open(path) as photo:
                pixels = numpy.asarray(photo.convert("RGB"))
            height, width, _ = pixels.shape
            sample = node.alloc_output("image", pixels.nbytes)  # waits until a reader is done with an older one
            numpy.copyto(numpy.frombuffer(sample, numpy.uint8).reshape(pixels.shape), pixels)
            sha256 = hashlib.sha256(sample).hexdigest()
            sample.send({"number": number, "name": path.stem, "width": width, "height": height, "sha256": sha256})
            if node.should_stop:
                break


if __name__ == "__main__":
    main()
