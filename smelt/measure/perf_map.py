"""Names for Linux's ``perf``: compiled functions in; the file in which it looks up code that was made at run time, out.

``perf record`` writes addresses; ``perf report`` reads ``/tmp/perf-PID.map`` and says ``k2_matmul_add`` instead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from smelt.compiler.jit import Library
from smelt.errors import at_user_line

Symbol = tuple[int, int, str]  # address, bytes, name
_SYMTAB, _FUNCTION = 2, 2  # ELF's numbers for a table of symbols, and for a symbol that is a function
_SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, align, entry size
_ENTRY = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size


def symbols(library: Library) -> list[Symbol]:
    """Return where the functions of machine code lie in memory, the kernels that nothing exports included.

    Raises
    ------
    OSError
        When the object is not ELF: there is ``perf`` on Linux only.
    """
    found = {name: (offset, size) for offset, size, name in _functions(library.image)}
    exported = next(iter(library.address))
    base = library.address[exported] - found[exported][0]
    return sorted((base + offset, size, name) for name, (offset, size) in found.items())


def _functions(image: bytes) -> Iterator[Symbol]:
    """Yield (offset in the code, bytes, name) of the functions of a 64-bit little-endian ELF object."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise OSError(at_user_line("a perf map needs code in ELF's format, as on Linux"))
    (start,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    sections = [_SECTION.unpack_from(image, start + i * size) for i in range(count)]
    for section in sections:
        if section[1] != _SYMTAB:
            continue
        names = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], _ENTRY.size):
            name, info, _, _, value, length = _ENTRY.unpack_from(image, at)
            if info & 15 == _FUNCTION:
                end = image.index(b"\0", names + name)
                yield value, length, image[names + name : end].decode()


def write_map(found: Iterable[Symbol], path: str | os.PathLike[str] | None = None) -> Path:
    """Add symbols to a map, by default that of this process, and return its path."""
    out = Path(f"/tmp/perf-{os.getpid()}.map" if path is None else path)
    with out.open("a", encoding="utf-8") as file:
        file.writelines(f"{address:x} {size:x} {name}\n" for address, size, name in found)
    return out
