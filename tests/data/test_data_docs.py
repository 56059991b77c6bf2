import doctest
import importlib
import pkgutil

import pytest

import smelt.data

MODULES = [smelt.data.__name__] + [f"smelt.data.{m.name}" for m in pkgutil.iter_modules(smelt.data.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    if name.endswith(("images", "sources")):
        pytest.importorskip("PIL")
        pytest.importorskip("sklearn")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_names_are_documented():
    assert sorted(smelt.data.__all__) == smelt.data.__all__
    assert all(getattr(smelt.data, name).__doc__ for name in smelt.data.__all__)
