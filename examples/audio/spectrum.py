# SPDX-License-Identifier: Apache-2.0
"""Magnitude spectrum and dominant frequency of each frame.

Input `frames`: int16 samples. Output `spectrum`: float32 magnitudes from 0 Hz to half the rate, 1.0 being a sine at full
scale, with the frame's metadata and `dominant_hz`, its strongest frequency.
"""

import functools

import numpy
import tidegate


@functools.lru_cache(maxsize=4)
def window(n):
    return numpy.hanning(n)


def spectrum(samples, rate):
    """Magnitudes and the dominant frequency; 0.0 Hz for silence."""
    w = window(len(samples))
    magnitudes = numpy.abs(numpy.fft.rfft(samples * w)) * (2 / (32768 * max(w.sum(), 1e-9)))
    loudest = int(magnitudes[1:].argmax()) + 1 if len(magnitudes) > 1 else 0  # the mean is no frequency
    dominant_hz = loudest * rate / len(samples) if magnitudes[loudest] > 0 else 0.0
    return magnitudes.astype(numpy.float32), dominant_hz


def main():
    with tidegate.Node() as node:
        for event in node:
            if event.type == "INPUT":
                samples = numpy.frombuffer(event.data, numpy.int16)
                magnitudes, dominant_hz = spectrum(samples, event.metadata["rate"])
                node.send_output("spectrum", magnitudes, {**event.metadata, "dominant_hz": dominant_hz})


if __name__ == "__main__":
    main()
