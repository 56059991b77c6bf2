"""LLVM text to an object file of another processor: a module's text and a target in; bytes, or assembly, out."""

from __future__ import annotations

from typing import Any

from smelt.compiler.jit import initialize
from smelt.errors import ExportError, at_user_line
from smelt.export.targets import Target


def _machine(target: Target) -> Any:
    import llvmlite.binding as llvm

    initialize()
    isa = target.isa
    try:
        found = llvm.Target.from_triple(isa.triple)
    except RuntimeError as e:
        raise ExportError(
            at_user_line(f"object: {target.name}: the LLVM {llvm_version()} of llvmlite was built without it: {e}")
        ) from None
    return found.create_target_machine(
        cpu=isa.cpu,
        features=isa.features,
        opt=3,
        reloc="pic" if isa.pointer_bytes == 8 else "static",  # into shared libraries and programs that move
        codemodel="small",
        abiname=target.abi,
    )


def llvm_version() -> str:
    """Return the version of LLVM, for messages."""
    import llvmlite.binding as llvm

    return ".".join(map(str, llvm.llvm_version_info))


def compile_object(text: str, target: Target) -> bytes:
    """Return the object file of a module.

    Raises
    ------
    ExportError
        When this LLVM does not know the processor.
    """
    return _machine(target).emit_object(_parsed(text))


def compile_assembly(text: str, target: Target) -> str:
    """Return the assembly of a module."""
    return _machine(target).emit_assembly(_parsed(text))


def _parsed(text: str) -> Any:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    return module
