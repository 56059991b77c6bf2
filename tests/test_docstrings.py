"""Every example in the package's docstrings runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import smelt

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = [
    "smelt",
    *(m.name for m in pkgutil.walk_packages(smelt.__path__, "smelt.") if "__main__" not in m.name),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert failed == 0


def test_the_package_has_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {t.name for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples}
    assert {"smelt.tensor.Tensor", "smelt.autograd.no_grad", "smelt.ops.random.threefry2x32"} <= found
