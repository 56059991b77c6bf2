"""LLVM text to machine code in this process, and the cache of object files on disk.

In: a module's text. Out: addresses of its functions. Objects are kept under a per-user folder, named by the hash of
everything that decided them; a damaged or foreign entry is ignored and written again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from smelt._version import __version__
from smelt.compiler.isa import Isa, host

_DIGEST_BYTES = 32
MOST_BYTES = 256 << 20  # of the cache; the entries used longest ago go first
_GROUP = 16  # libraries of one linker
_numbers = itertools.count()


@functools.cache
def cache_folder() -> Path:
    """Return the folder of compiled objects: private to the user, created on first use."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "smelt" / "objects"


@functools.cache
def code_version() -> str:
    """Return a digest of the compiler's own sources: a change of the compiler is a change of every key."""
    digest = hashlib.sha256(__version__.encode())
    root = Path(__file__).resolve().parent.parent
    for folder in ("compiler", "ops", "graph"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(text: str, isa: Isa) -> str:
    """Return the cache key of something compiled from ``text`` for ``isa``."""
    import llvmlite.binding as llvm

    processor = (isa.triple, isa.cpu, isa.features, str(isa.vector_bytes), str(isa.registers))
    parts = (text, *processor, str(llvm.llvm_version_info), code_version())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_cache(key: str) -> bytes | None:
    """Return the stored bytes, or None when there are none, they are damaged, or not ours."""
    path = cache_folder() / f"{key}.bin"
    try:
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            return None
        data = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used just now
    body = data[_DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == data[:_DIGEST_BYTES] else None


def write_cache(key: str, body: bytes) -> None:
    """Store bytes under ``key``; a cache that cannot be written is not an error."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(hashlib.sha256(body).digest() + body)
            os.replace(temporary, folder / f"{key}.bin")
        except OSError:
            os.unlink(temporary)
        _trim(folder)
    except OSError:
        pass


def _trim(folder: Path) -> None:
    """Remove the entries used longest ago until the folder is within its limit."""
    entries = []
    with os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                entries.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    entries.sort()
    total = sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total <= MOST_BYTES:
            return
        os.unlink(path)
        total -= size


@functools.cache
def initialize() -> None:
    """Make LLVM's processors known to it, once."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target_machine(isa: Isa, jit: bool) -> Any:
    """Return LLVM's target machine for ``isa``."""
    import llvmlite.binding as llvm

    initialize()
    target = llvm.Target.from_triple(isa.triple)
    return target.create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", codemodel="small", jit=jit
    )


def compile_object(text: str, isa: Isa) -> bytes:
    """Return the object file of a module; no optimizer pass runs, code generation only."""
    import llvmlite.binding as llvm

    machine = target_machine(isa, jit=True)
    module = llvm.parse_assembly(text, llvm.create_context())  # the global one keeps every type it has seen
    module.verify()
    return machine.emit_object(module)


def compile_assembly(text: str, isa: Isa) -> str:
    """Return the assembly of a module, for tests that count instructions."""
    import llvmlite.binding as llvm

    machine = target_machine(isa, jit=False)
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    return machine.emit_assembly(module)


@functools.lru_cache(maxsize=1)
def _linker(group: int) -> Any:
    """Return what links a group of libraries, and goes with the last of them.

    A linker keeps 9 kB of every library it has unloaded; one for each library would be 0.9 ms and 160 kB.
    """
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(target_machine(host(), jit=True), use_jit_link=True)


class Library:
    """Machine code of one object linked into this process; keep it as long as an address is in use.

    Attributes
    ----------
    image : bytes
        The object file.
    address : dict of str to int
        Where the functions that were asked for are.
    """

    def __init__(self, image: bytes, symbols: tuple[str, ...]) -> None:
        import llvmlite.binding as llvm

        builder = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
        for symbol in symbols:
            builder.export_symbol(symbol)
        number = next(_numbers)
        self._tracker = builder.link(_linker(number // _GROUP), f"smelt{number}")
        self.image = image
        self.address = {symbol: self._tracker[symbol] for symbol in symbols}
