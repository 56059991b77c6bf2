"""``smelt summary --target``: what is printed and drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .small import Smelt


def test_summary_for_a_target(smelt_command: Smelt) -> None:
    done = smelt_command("summary", "lenet5", "--target", "c")
    lines = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert " ".join(lines[0].split()) == "call computes layers MACs flash bytes arena bytes stack bytes"
    assert lines[-3].startswith("arena: 23,520 bytes, proven the least")
    assert lines[-2] == "flash: 246,824 bytes of constants, and the code"
    told = json.loads(smelt_command("summary", "lenet5", "--target", "c", "--json").out)
    assert told["arena_bytes"] == 23_520 and len(told["steps"]) == len(lines) - 7


def test_the_arena_is_drawn(smelt_command: Smelt) -> None:
    pytest.importorskip("matplotlib")
    done = smelt_command("summary", "lenet5", "--target", "c", "--plan", "plan.svg")
    assert done.out.splitlines()[-1] == "wrote plan.svg"
    assert Path("plan.svg").read_text().count("<path") > 10


def test_targets_and_pictures_that_are_refused(smelt_command: Smelt) -> None:
    assert smelt_command("summary", "lenet5", "--target", "toaster").error == "--target toaster: expected one of c"
    assert "expected --target too" in smelt_command("summary", "lenet5", "--plan", "a.png").err
    wrong = smelt_command("summary", "lenet5", "--target", "c", "--plan", "a.gif").error
    assert wrong == "--plan 'a.gif': expected a name that ends in .png, .svg or .pdf"
