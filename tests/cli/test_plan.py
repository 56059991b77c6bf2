"""``smelt summary --target``: what is printed and drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smelt.export.tools import missing

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
    wrong = smelt_command("summary", "lenet5", "--target", "toaster").error
    assert wrong.startswith("--target toaster: expected one of c, native, cortex-m3, cortex-m4, ")
    assert "expected --target too" in smelt_command("summary", "lenet5", "--plan", "a.png").err
    wrong = smelt_command("summary", "lenet5", "--target", "c", "--plan", "a.gif").error
    assert wrong == "--plan 'a.gif': expected a name that ends in .png, .svg or .pdf"


def test_a_processor_has_code_and_stack_too(smelt_command: Smelt) -> None:
    if missing("arm-none-eabi-gcc"):
        pytest.skip("the compiler is not installed")
    done = smelt_command("summary", "lenet5", "--target", "cortex-m4")
    told = json.loads(smelt_command("summary", "lenet5", "--target", "cortex-m4", "--json").out)
    assert done.out.splitlines()[-5:] == [
        f"flash: 246,824 bytes of constants and {told['code_bytes']:,} of code",
        f"stack: {told['stack_bytes']:,} bytes",
        "cortex-m4: Arm Cortex-M4, FPU of 32 bits",
        "code: of arm-none-eabi-gcc -O2, without what it takes from its own library",
        f"RAM: {told['ram_bytes']:,} bytes for arena, inputs, outputs and stack; no scratch beside these",
    ]
    assert told["ram_bytes"] == 23_520 + 4 * 784 + 40 + told["stack_bytes"] and 1000 < told["code_bytes"] < 10_000
    assert told["stack_bytes"] == max(step["stack_bytes"] for step in told["steps"])


def test_without_a_compiler_the_code_is_not_known(
    smelt_command: Smelt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = smelt_command("summary", "lenet5", "--target", "avr").out.splitlines()
    assert lines[-5:-2] == [
        "flash: 246,824 bytes of constants, and the code",
        "stack: 320 bytes of arrays, and what the compiler adds",
        "avr: AVR ATmega1284P, 8 bits, int of 16 bits",
    ]
    assert lines[-2] == "code: not known without avr-gcc of the package gcc-avr"
    assert "of which 246,824 for constants, which this processor reads from there" in lines[-1]


def test_what_does_not_fit_is_said(smelt_command: Smelt) -> None:
    if missing("avr-gcc"):
        pytest.skip("the compiler is not installed")
    assert smelt_command("summary", "lenet5", "--target", "avr").error.startswith("avr-gcc: does not fit: network.c:")
