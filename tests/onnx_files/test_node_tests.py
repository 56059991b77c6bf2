"""The package onnx's own tests of operators, run by Smelt: eager; the required operators also compiled, and as C.

``node_tests.txt`` has how many pass; a count may rise, never drop. ``pytest --update-golden`` writes it anew.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from export.many import load

from smelt.compiler.emit.c import CUnit
from smelt.errors import FileError
from smelt.export.c99.network import Network, of_graph
from smelt.graph.graph import Graph
from smelt.onnx.reader.arguments import Unsupported
from smelt.onnx.reader.operators import OPERATORS

from .node_cases import RANDOM, REQUIRED, NodeCase, node_cases

TABLE = Path(__file__).parent / "node_tests.txt"
COLUMNS = ("passed", "compiled", "as C", "failed", "unsupported")
COMPILER = next((found for name in ("tcc", "cc", "gcc", "clang") if (found := shutil.which(name))), None)


def results(folder: Path) -> dict[str, Counter[str]]:
    """Return how many cases of every operator passed, failed, are unsupported; and which passed compiled, and as C."""
    out: dict[str, Counter[str]] = {}
    for kind, cases in sorted(node_cases().items()):
        if kind not in OPERATORS:
            continue
        count = out[kind] = Counter()
        for case in cases:
            try:
                if case.name in RANDOM:
                    raise Unsupported("other random numbers")
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
    for case in as_c(folder):
        out[case.operator]["as C"] += 1
    return out


def as_c(folder: Path) -> list[NodeCase]:
    """Return the cases of the required operators that pass as compiled C, all in one file."""
    if COMPILER is None:
        return []
    made: list[tuple[NodeCase, list[Network]]] = []
    for kind in REQUIRED:
        for case in node_cases()[kind]:
            graphs = case.graphs()
            if all(map(expressible, graphs)):
                made.append((case, [of_graph(g, [], [""] * len(g.inputs), False, CUnit()) for g in graphs]))
    calls = iter(load([net for _, nets in made for net in nets], COMPILER, folder))
    passed = []
    for case, _ in made:
        try:
            for inputs, expected in case.sets:
                case.check(next(calls)(*case.split(inputs)[0]), expected)
            passed.append(case)
        except AssertionError as e:
            print(f"{case.name} as C: {e}")
    return passed


def expressible(graph: Graph) -> bool:
    """Return whether C can say it: no array of C is empty."""
    return all(node.spec.size for node in (*graph.inputs, *graph.outputs))


def test_no_count_drops(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = results(tmp_path)
    lines = [f"{'operator':<24}" + "".join(f"{column:>13}" for column in COLUMNS)]
    for kind, n in found.items():
        shown = [str(n[c]) if kind in REQUIRED or c not in ("compiled", "as C") else "-" for c in COLUMNS]
        lines.append(f"{kind:<24}" + "".join(f"{text:>13}" for text in shown))
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    if request.config.getoption("--update-golden"):
        TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        kind, *counts = line.split()
        for column, text in zip(COLUMNS[:3], counts, strict=False):
            if text != "-" and (column != "as C" or COMPILER is not None):
                assert found[kind][column] >= int(text), f"{kind}: {column} {found[kind][column]}, before {text}"


def test_every_case_of_the_required_operators_is_among_them() -> None:
    rows = {line.split()[0]: line.split()[1:] for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]}
    for kind in REQUIRED:
        cases = node_cases()[kind]
        in_c = sum(all(map(expressible, case.graphs())) for case in cases)
        assert rows[kind] == [str(len(cases)), str(len(cases)), str(in_c), "0", "0"], kind
    assert sum(len(node_cases()[kind]) for kind in REQUIRED) >= 289
