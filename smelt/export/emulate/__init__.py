"""An exported network run where it will live: C and samples in; outputs, bytes and instructions of an emulator out."""

from smelt.export.emulate.emulate import Emulated, emulate

__all__ = ["Emulated", "emulate"]
