#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""vmlinux.py BZIMAGE VMLINUX: the kernel inside a compressed x86 image, which QEMU can start without a boot loader."""

import subprocess
import sys

DECOMPRESSORS = {
    b"\x02\x21\x4c\x18": ["lz4", "-dc", "-"],
    b"\xfd7zXZ\0": ["xz", "-dc", "--single-stream"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
    b"\x1f\x8b": ["gzip", "-dc"],
}


def payload(image: bytes) -> bytes:
    """Documentation/x86/boot.rst: setup_sects, payload_offset and payload_length. The length's last four bytes are the size unpacked."""
    begin = (((image[0x1F1] or 4) + 1) * 512) + int.from_bytes(image[0x248:0x24C], "little")
    return image[begin : begin + int.from_bytes(image[0x24C:0x250], "little") - 4]


def main() -> None:
    with open(sys.argv[1], "rb") as f:
        packed = payload(f.read())
    command = next((c for magic, c in DECOMPRESSORS.items() if packed.startswith(magic)), None)
    if command is None:
        sys.exit(f"vm: {sys.argv[1]}: unknown compression {packed[:8]!r}")
    # lz4 complains about the missing end mark after it has written everything
    kernel = subprocess.run(command, input=packed, capture_output=True, check=False).stdout
    if not kernel.startswith(b"\x7fELF"):
        sys.exit(f"vm: {sys.argv[1]}: {command[0]} could not unpack it")
    with open(sys.argv[2], "wb") as f:
        f.write(kernel)


main()
