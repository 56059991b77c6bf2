"""Small valid files of each format, made by hand, and seeded ways to spoil them."""

import gzip
import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

REAL = Path(__file__).resolve().parents[2] / "../shared/data"
"""The data sets' own files, where this computer has them."""

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.str[1:]], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def gz(data: bytes, level: int = 9) -> bytes:
    return gzip.compress(data, level, mtime=0)


def npz_bytes(packed: bool = False, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy_bytes(header: str, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    text = header.encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def zip_bytes(
    *members: tuple[str, bytes],
    method: int = 0,
    size: int | None = None,
    packed_size: int | None = None,
    flags: int = 0,
) -> bytes:
    """Make a zip archive whose members are `data` as it is, declared to be `size` bytes once expanded."""
    body, directory = bytearray(), bytearray()
    for name, data in members:
        raw = name.encode()
        fields = (
            20,
            flags,
            method,
            0,
            0,
            zlib.crc32(data),
            len(data) if packed_size is None else packed_size,
            len(data) if size is None else size,
            len(raw),
            0,
        )
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, *fields, 0, 0, 0, 0, len(body)) + raw
        body += struct.pack("<4s5H3I2H", b"PK\3\4", *fields) + raw + data
    count = min(len(members), 0xFFFF)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def png_header(width: int, height: int) -> bytes:
    """Make a PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def zeros_deflated(repeats: int) -> tuple[bytes, int]:
    """Return a raw deflate stream of `repeats` times 16 MiB of zeros, at 1000:1, and its expanded size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * repeats + packer.flush(), repeats << 24


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` spoilt copies: bits flipped, bytes changed, cut out, repeated, inserted, overwritten."""
    rng = random.Random(seed)
    extremes = [
        b"\0" * 4,
        b"\xff" * 4,
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        b"\0\0\0\x01",
        b"\xff" * 8,
        b"PK\5\6",
    ]
    for _ in range(count):
        spoilt = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(len(spoilt)) if len(spoilt) else 0
            span = slice(at, at + rng.choice((1, 2, 4, 16, 64)))
            match rng.randrange(6 if spoilt else 1):
                case 0:
                    spoilt[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
                case 1:
                    spoilt[at] ^= 1 << rng.randrange(8)
                case 2:
                    spoilt[at] = rng.randrange(256)
                case 3:
                    del spoilt[span]
                case 4:
                    spoilt[at:at] = spoilt[span]
                case 5:
                    new = rng.choice(extremes)
                    spoilt[at : at + len(new)] = new
        yield bytes(spoilt)
