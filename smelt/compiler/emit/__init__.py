"""Emitters: loops as LLVM text."""
