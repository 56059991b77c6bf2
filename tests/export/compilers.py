"""C compilers for the tests: those that are installed; tests of others are skipped and say so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror"]


def need(compiler: str) -> str:
    """Return the compiler's path, or skip the test."""
    found, usual = shutil.which(compiler), shutil.which("cc")
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    if usual is not None and compiler != "cc" and Path(usual).resolve() == Path(found).resolve():
        pytest.skip(f"{compiler} is what cc is")
    return found


def run(*command: str | Path) -> str:
    """Run a command that must succeed and must not complain; return what it prints."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:2000] or done.stdout[:2000]
    assert done.stderr == ""
    return done.stdout
