"""The package onnx's own tests of operators, run by Smelt: eager, and for the required operators compiled.

``node_tests.txt`` has how many pass; a count may rise, never drop. ``pytest --update-golden`` writes it anew.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from smelt.errors import FileError
from smelt.onnx.reader.arguments import Unsupported
from smelt.onnx.reader.operators import OPERATORS

from .node_cases import REQUIRED, node_cases

TABLE = Path(__file__).parent / "node_tests.txt"


def results() -> dict[str, Counter[str]]:
    """Return how many cases of every operator passed, failed, are unsupported; and which passed compiled."""
    out: dict[str, Counter[str]] = {}
    for kind, cases in sorted(node_cases().items()):
        if kind not in OPERATORS:
            continue
        count = out[kind] = Counter()
        for case in cases:
            try:
                case.run(compiled=False)
                count["passed"] += 1
                if kind in REQUIRED:
                    case.run(compiled=True)
                    count["compiled"] += 1
            except (FileError, Unsupported):
                count["unsupported"] += 1
            except Exception as e:
                count["failed"] += 1
                print(f"{case.name}: {type(e).__name__}: {e}")
    return out


def test_no_count_drops(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    found = results()
    lines = [f"{'operator':<24}passed  compiled  failed  unsupported"]
    for kind, n in found.items():
        compiled = str(n["compiled"]) if kind in REQUIRED else "-"
        lines.append(f"{kind:<24}{n['passed']:>6}{compiled:>10}{n['failed']:>8}{n['unsupported']:>13}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    if request.config.getoption("--update-golden"):
        TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        kind, passed, compiled, *_ = line.split()
        n = found[kind]
        assert n["passed"] >= int(passed), f"{kind}: {n['passed']} cases pass, {passed} did"
        assert compiled == "-" or n["compiled"] >= int(compiled), f"{kind}: {n['compiled']} compiled, {compiled} did"


def test_every_case_of_the_required_operators_is_among_them() -> None:
    rows = {line.split()[0]: line.split()[1:] for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]}
    for kind in REQUIRED:
        count = str(len(node_cases()[kind]))
        assert rows[kind] == [count, count, "0", "0"], kind
    assert sum(len(node_cases()[kind]) for kind in REQUIRED) >= 215
