"""README and docs: every block of code runs as the reader sees it, and prints what stands under it."""

from __future__ import annotations

import doctest
import json
import re
import runpy
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli.small import write_idx

import smelt
from smelt.cli.build import build_model
from smelt.cli.main import main
from smelt.cli.recipe import Recipe, check
from smelt.export.tools import missing
from smelt.measure import machine, roofline

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if "```python" in p.read_text("utf-8")
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: str) -> list[tuple[int, str]]:
    """Return (line, code) of every block of Python."""
    text = (ROOT / page).read_text("utf-8")
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("page", [p for p in PAGES if p != "README.md"])
def test_blocks_run_in_order_and_print_what_they_say(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "custom" in page and shutil.which("cc") is None:
        pytest.skip("the page compiles C with cc")
    if "microcontrollers" in page and missing("arm-none-eabi-gcc", "qemu-system-arm"):
        pytest.skip("the page runs an emulator")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=OPTIONS)
    for line, code in blocks(page):
        test = parser.get_doctest(code, names, page, page, line)
        assert test.examples, f"{page}:{line}: a block without >>> is not checked"
        runner.run(test, clear_globs=False)
        names.update(test.globs)
    assert runner.failures == 0


def test_recipes_on_the_page_about_recipes_are_recipes() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    found = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(found) == 2
    for block in found:
        recipe = Recipe("page", {"data": {"name": "digits"}, **tomllib.loads(block)})
        check(recipe)
        build_model(recipe)


def test_the_examples_of_the_readme_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_idx(tmp_path / "idx", train=640, test=100)  # the reader has MNIST; its files may be any folder's
    monkeypatch.setenv("SMELT_DATA", str(tmp_path / "idx"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = blocks("README.md")
    assert len(found) == 2
    for line, code in found:
        exec(compile("\n" * line + code, "README.md", "exec"), names)
    assert len(names["history"]) == 10 and names["history"][-1].validation_accuracy > 0.9
    again = smelt.load("mnist.smelt")
    assert again(names["x"]).shape == (64, 10)
    assert "README.md:" not in capsys.readouterr().err


def masked(text: str) -> list[str]:
    """Return lines with their figures masked: what two runs share. Lines that are then the same are one."""
    lines = [re.sub(r"\d[\d.,]*(e-\d+)?", "#", re.sub(r" +", " ", line)).strip() for line in text.strip().splitlines()]
    return list(dict.fromkeys(lines))


def test_the_readme_shows_what_the_demo_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"\$ make demo\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    expected = masked(shown[1])
    monkeypatch.chdir(tmp_path)
    Path("recipes").symlink_to(ROOT / "recipes")
    assert expected.pop(0) == masked(".venv/bin/smelt run recipes/digits.toml")[0]
    assert main(["run", "recipes/digits.toml"]) == 0
    printed = masked(capsys.readouterr().out)
    assert [line for line in expected if line != "..."] == printed
    test = json.loads(Path("runs/digits/history.json").read_text())["test"]
    assert test["accuracy"] >= 0.97


def test_the_page_about_instruments_shows_what_they_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Summaries to the letter; of what depends on the machine, the lines without figures and the first one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(roofline, "peak_flops", lambda threads, paired=False: 1e11)
    monkeypatch.setattr(roofline, "bandwidth", lambda threads, last: 1e10)
    monkeypatch.setattr(roofline, "cache_bandwidth", lambda threads, size: 1e11)
    monkeypatch.setattr(machine, "matmul_flops", lambda: 1e11)
    text = (ROOT / "docs" / "instruments.md").read_text("utf-8")
    found = re.findall(r"```\n\$ smelt ([^\n]*)\n(.*?)```", text, re.DOTALL)
    assert [command.split()[0] for command, _ in found] == ["summary", "profile", "explain", "doctor"]
    for command, shown in found:
        roofline.measured_ceilings.cache_clear()
        assert main(command.split()) == 0
        printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        lines = [" ".join(line.split()) for line in shown.strip().splitlines()]
        if command.startswith("summary"):
            assert printed == lines
        assert masked(printed[0]) == masked(lines[0])
        heads = {x for x in lines if not re.search(r"\d|^processor", x)} - {"...", "where threads wait"}
        assert heads <= set(printed)
    roofline.measured_ceilings.cache_clear()
    assert {p.name for p in tmp_path.iterdir()} == {"step.json", "stacks.txt", "roofline.png"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.py")), ids=lambda p: p.name)
def test_examples_run_and_learn(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    correct, count = re.findall(r"(\d+)/(\d+) right", capsys.readouterr().out)[-1]
    assert int(correct) / int(count) > 0.95
