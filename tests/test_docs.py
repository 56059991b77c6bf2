"""README and docs: every block of code runs as the reader sees it, and prints what stands under it."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import pytest

from smelt.cli.build import build_model
from smelt.cli.recipe import Recipe, check

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
    monkeypatch.chdir(tmp_path)
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
