#!/usr/bin/env python3
"""Writes the .png, .jpeg and .idx files beside this script: what image_test.cpp reads. The JPEGs need Pillow."""
import gzip
import pathlib
import struct
import zlib

from PIL import Image

here = pathlib.Path(__file__).parent
width, height = 6, 5


def sample(channel, y, x):
    return (channel * 80 + y * 40 + x * 13) % 256


# ---- PNG, of color type 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha
channels_of = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
palette = bytes(sample(c, 0, i) for i in range(16) for c in range(3))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pack_row(values, bits):
    if bits == 16:  # the lower byte would round the upper one up
        return b"".join(bytes([v, 0xFF]) for v in values)
    packed, used = 0, 0
    for v in values:
        packed, used = packed << bits | v, used + bits
    pad = -used % 8
    return (packed << pad).to_bytes((used + pad) // 8, "big")


def png(name, color_type, bits=8, interlaced=False, transparent=None):
    def value(c, y, x):
        return sample(c, y, x) if bits >= 8 and color_type != 3 else (y * width + x) % (1 << bits)

    rows = b""
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]
    for x0, y0, dx, dy in steps:
        for y in range(y0, height, dy):
            values = [value(c, y, x) for x in range(x0, width, dx) for c in range(channels_of[color_type])]
            rows += b"\0" + pack_row(values, bits) if values else b""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced))
    if color_type == 3:
        data += chunk(b"PLTE", palette[: 3 << bits])
    if transparent:
        data += chunk(b"tRNS", transparent)
    (here / f"{name}.png").write_bytes(data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


png("gray", 0)
png("rgb", 2)
png("gray_alpha", 4)
png("rgb_alpha", 6)
png("interlaced", 2, interlaced=True)
png("gray1", 0, bits=1)
png("gray4", 0, bits=4)
png("gray16", 0, bits=16)
png("rgb16", 2, bits=16)
png("palette", 3, bits=4)
png("palette_alpha", 3, bits=4, transparent=bytes([255, 0, 100]))
png("rgb_transparent", 2, transparent=struct.pack(">HHH", *(sample(c, 1, 2) for c in range(3))))

# ---- JPEG: R = 8 x, G = 8 y, B = 128
image = Image.new("RGB", (24, 20))
image.putdata([(8 * x, 8 * y, 128) for y in range(20) for x in range(24)])
image.save(here / "rgb.jpeg", quality=95, subsampling=0)
image.save(here / "progressive.jpeg", quality=95, subsampling=2, progressive=True)
image.convert("L").save(here / "gray.jpeg", quality=95)
ink = Image.new("CMYK", (24, 20))
ink.putdata([(255 - 8 * x, 255 - 8 * y, 127, 55) for y in range(20) for x in range(24)])
ink.save(here / "cmyk.jpeg", quality=95)

# ---- IDX: counts up from -2 (u8: from 0) over (2, 3)
formats = {"u8": (0x08, "B"), "i8": (0x09, "b"), "i16": (0x0B, "h"), "i32": (0x0C, "i"), "f32": (0x0D, "f"), "f64": (0x0E, "d")}
for name, (code, letter) in formats.items():
    first = 0 if name == "u8" else -2
    data = struct.pack(">HBBII", 0, code, 2, 2, 3) + struct.pack(f">6{letter}", *range(first, first + 6))
    (here / f"{name}.idx").write_bytes(data)
    if name == "u8":
        (here / "gzip.idx").write_bytes(gzip.compress(data, mtime=0))
