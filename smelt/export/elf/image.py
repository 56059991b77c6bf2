"""What is in an object file: a relocatable ELF file in; bytes of code and data, and the names it calls, out."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_WRITE, _ALLOCATE, _EXECUTE = 1, 2, 4  # flags of a section
_SYMBOLS = 2  # the type of the table of symbols
_UNDEFINED = 0  # the section of a symbol that is elsewhere


@dataclass(frozen=True)
class Image:
    """Bytes of machine code, of constants and of memory to be written; functions it needs from elsewhere."""

    code_bytes: int
    constant_bytes: int
    data_bytes: int
    calls: tuple[str, ...]


def read_image(data: bytes) -> Image:
    """Return what a little-endian ELF file made by LLVM holds."""
    wide = data[4] == 2
    if wide:
        (start,), (size, count) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HH", data, 58)
    else:
        (start,), (size, count) = struct.unpack_from("<I", data, 32), struct.unpack_from("<HH", data, 46)
    headers = [struct.unpack_from("<IIQQQQIIQQ" if wide else "<10I", data, start + i * size) for i in range(count)]
    code = constants = written = 0
    calls: list[str] = []
    for _, kind, flags, _, offset, length, link, _, _, each in headers:
        if kind == _SYMBOLS:
            names = headers[link][4]
            for at in range(offset + each, offset + length, each):
                if wide:
                    name, _, _, section = struct.unpack_from("<IBBH", data, at)
                else:
                    name, _, _, _, _, section = struct.unpack_from("<IIIBBH", data, at)
                text = data[names + name : data.index(b"\0", names + name)].decode()
                if section == _UNDEFINED and text:
                    calls.append(text)
        if flags & _ALLOCATE:
            code += length if flags & _EXECUTE else 0
            written += length if flags & _WRITE else 0
            constants += length if not flags & (_EXECUTE | _WRITE) else 0
    return Image(code, constants, written, tuple(sorted(calls)))
