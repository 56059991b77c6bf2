"""Naive C for comparison: a frozen graph in; one nest of loops per operation out, as simple generators write it.

Every operation stores its result, images lie channels first, and windows test at each tap whether they are inside. Only
what the networks of the zoo need is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smelt.graph.graph import Graph, Node


def naive_source(graph: Graph, weights: Sequence[np.ndarray]) -> str:
    """Return C with a function ``void run(const float *x, float *y)``; all operations are float32.

    Raises
    ------
    ValueError
        When an operation is not known.
    """
    names = {graph.inputs[0]: "x"}
    parts = []
    for i, (state, value) in enumerate(zip(graph.states, weights, strict=True)):
        names[state] = f"w{i}"
        numbers = ", ".join(f"{v}f" for v in map(str, np.ascontiguousarray(value).reshape(-1)))
        parts.append(f"static const float w{i}[] = {{{numbers}}};")
    body = []
    for node in graph.nodes():
        if node.kind == "constant" and node.value is not None:
            names[node] = f"{float(node.value)}f"
        elif node.op is not None:
            names[node] = f"t{len(names)}"
            parts.append(f"static float {names[node]}[{node.spec.size}];")
            body += _loops(node, names)
    (out,) = graph.outputs
    body.append(f"  for (int i = 0; i < {out.spec.size}; ++i) y[i] = {names[out]}[i];")
    return "\n".join([*parts, "void run(const float *x, float *y)", "{", *body, "}"]) + "\n"


def _loops(node: Node, names: dict[Node, str]) -> list[str]:
    match node.opname:
        case "conv2d":
            return _convolution(node, names)
        case "matmul":
            return _product(node, names)
        case "max_pool2d" | "sum_pool2d":
            return _pool(node, names)
        case "reshape":
            return [f"  for (int i = 0; i < {node.spec.size}; ++i) {names[node]}[i] = {names[node.inputs[0]]}[i];"]
        case "sum":
            return _sum(node, names)
        case "add" | "sub" | "mul" | "div" | "relu" | "minimum" | "maximum" | "permute":
            return _pointwise(node, names)
    raise ValueError(f"naive C knows no {node.opname}")


def _nest(sizes: Sequence[int], body: Sequence[str], letter: str = "i") -> list[str]:
    heads = [f"  for (int {letter}{k} = 0; {letter}{k} < {size}; ++{letter}{k})" for k, size in enumerate(sizes)]
    return [*heads, "  {", *body, "  }"]


def _at(shape: Sequence[int], indices: Sequence[str]) -> str:
    """Return the position in a dense array."""
    text = "0"
    for size, index in zip(shape, indices, strict=True):
        text = f"({text} * {size} + {index})"
    return text


def _convolution(node: Node, names: dict[Node, str]) -> list[str]:
    x, w = node.inputs
    a, (o, i, kh, kw), (h, width) = node.attrs, w.shape, x.shape[2:]
    (sy, sx), (dy, dx), (top, left) = a["stride"], a["dilation"], (a["padding"][0][0], a["padding"][1][0])
    per = o // a["groups"]
    source = _at(x.shape, ["i0", f"(i1 / {per} * {i} + c)", "yy", "xx"])
    return _nest(
        node.shape,
        [
            "    float sum = 0.0f;",
            f"    for (int c = 0; c < {i}; ++c) for (int p = 0; p < {kh}; ++p) for (int q = 0; q < {kw}; ++q) {{",
            f"      const int yy = i2 * {sy} + p * {dy} - {top}, xx = i3 * {sx} + q * {dx} - {left};",
            f"      if (yy < 0 || yy >= {h} || xx < 0 || xx >= {width}) continue;",
            f"      sum += {names[x]}[{source}] * {names[w]}[{_at(w.shape, ['i1', 'c', 'p', 'q'])}];",
            "    }",
            f"    {names[node]}[{_at(node.shape, ['i0', 'i1', 'i2', 'i3'])}] = sum;",
        ],
    )


def _product(node: Node, names: dict[Node, str]) -> list[str]:
    x, w = node.inputs
    k = x.shape[1]
    return _nest(
        node.shape,
        [
            "    float sum = 0.0f;",
            f"    for (int k = 0; k < {k}; ++k)",
            f"      sum += {names[x]}[i0 * {k} + k] * {names[w]}[k * {node.shape[1]} + i1];",
            f"    {names[node]}[i0 * {node.shape[1]} + i1] = sum;",
        ],
    )


def _pool(node: Node, names: dict[Node, str]) -> list[str]:
    (x,) = node.inputs
    (kh, kw), (sy, sx) = node.attrs["kernel"], node.attrs["stride"]
    item = f"{names[x]}[{_at(x.shape, ['i0', 'i1', f'(i2 * {sy} + p)', f'(i3 * {sx} + q)'])}]"
    first = "0.0f" if node.opname == "sum_pool2d" else "-1e38f"
    step = f"out += {item};" if node.opname == "sum_pool2d" else f"if (out < {item}) out = {item};"
    return _nest(
        node.shape,
        [
            f"    float out = {first};",
            f"    for (int p = 0; p < {kh}; ++p) for (int q = 0; q < {kw}; ++q) {step}",
            f"    {names[node]}[{_at(node.shape, ['i0', 'i1', 'i2', 'i3'])}] = out;",
        ],
    )


def _sum(node: Node, names: dict[Node, str]) -> list[str]:
    (x,) = node.inputs
    kept = [a for a in range(len(x.shape)) if a not in node.attrs["axes"]]
    target = _at([x.shape[a] for a in kept], [f"i{a}" for a in kept])
    source = _at(x.shape, [f"i{a}" for a in range(len(x.shape))])
    clear = f"  for (int i = 0; i < {node.spec.size}; ++i) {names[node]}[i] = 0.0f;"
    return [clear, *_nest(x.shape, [f"    {names[node]}[{target}] += {names[x]}[{source}];"])]


def _pointwise(node: Node, names: dict[Node, str]) -> list[str]:
    rank = len(node.shape)
    indices = [f"i{a}" for a in range(rank)]
    if node.opname == "permute":
        (x,) = node.inputs
        back = [f"i{node.attrs['axes'].index(a)}" for a in range(rank)]
        value = f"{names[x]}[{_at(x.shape, back)}]"
    else:
        values = []
        for x in node.inputs:
            if x.kind == "constant":
                values.append(names[x])
                continue
            mine = [i if d > 1 else "0" for i, d in zip(indices[rank - len(x.shape) :], x.shape, strict=True)]
            values.append(f"{names[x]}[{_at(x.shape, mine)}]")
        sign = {"add": "+", "sub": "-", "mul": "*", "div": "/"}.get(node.opname)
        if sign:
            value = f"{values[0]} {sign} {values[1]}"
        else:
            other = values[1] if len(values) > 1 else "0.0f"
            value = f"{values[0]} {'>' if node.opname == 'minimum' else '<'} {other} ? {other} : {values[0]}"
    return _nest(node.shape, [f"    {names[node]}[{_at(node.shape, indices)}] = {value};"])
