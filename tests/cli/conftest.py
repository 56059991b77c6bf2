"""A command line to call in this process, and a good recipe for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from smelt.cli.main import main

from .small import RECIPE, Result, Smelt, write_idx


@pytest.fixture
def smelt_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Smelt:
    """Return ``run(*arguments)``, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMELT_DATA", raising=False)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        said = capsys.readouterr()
        return Result(status, said.out, said.err)

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return a good recipe beside a good folder of data."""
    write_idx(tmp_path / "idx")
    path = tmp_path / "small.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path
