"""Mutated ONNX files, read under a limit of memory and time: each gives a network or a FileError, and nothing else.

    python tests/onnx_files/fuzz.py 10000

reads that many, in processes of their own, each for at most 5 seconds of processor time and all within 512 MiB; the
test suite does it with fewer. What can be read is traced and, where it is small, run and written as C. Mutations are
of bytes, and of the fields of messages: numbers made extreme, names exchanged, messages repeated, dropped and moved.
"""

from __future__ import annotations

import faulthandler
import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[i]) for i in (1, 2)]

SECONDS = 5
BYTES = 512 << 20
SMALL = 1 << 20
"""Numbers made and multiplied up to which a network that was read is run."""
EXTREMES = (0, 1, -1, 2, 3, 127, 255, 1 << 16, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))


def corpus() -> list[bytes]:
    """Return files that can be read: of every layer, of shapes computed from shapes, of every operator, old and new."""
    import numpy as np
    from onnx import helper, numpy_helper

    from onnx_files.nets import CASES, settled
    from onnx_files.node_cases import node_cases
    from smelt.onnx.reader.build import build as build_model
    from smelt.onnx.reader.operators import OPERATORS
    from smelt.onnx.reader.parse import read_bytes
    from smelt.onnx.writer.export import to_bytes

    files = [to_bytes(settled(build(), shape), shape) for build, shape in CASES.values()]
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s"], ["n"], starts=[0], ends=[1]),
        helper.make_node("Concat", ["n", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
        helper.make_node("Pad", ["y"], ["p"], pads=[0, 1, 0, 2], mode="reflect"),
        helper.make_node("ConstantOfShape", ["to"], ["z"]),
        helper.make_node("Split", ["p"], ["a", "b"], axis=1, split=[12, 3]),
        helper.make_node("Add", ["a", "z"], ["out"]),
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[1]),
        helper.make_node("MaxPool", ["u"], ["m"], kernel_shape=[2, 3], pads=[1, 1, 0, 1]),
        helper.make_node("Softmax", ["m"], ["out2"], axis=2),
    ]
    x, rest = helper.make_tensor_value_info("x", 1, ["n", 3, 4]), numpy_helper.from_array(np.array([12]), "rest")
    outputs = [helper.make_tensor_value_info(n, 1, s) for n, s in (("out", ["n", 12]), ("out2", ["n", 1, 3, 3]))]
    graph = helper.make_graph(nodes, "old", [x], outputs, [rest])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)
    files.append(proto.SerializeToString())
    for data in files:
        build_model(read_bytes(data))
    single = [case.model for kind, cases in node_cases().items() if kind in OPERATORS for case in cases]
    return files * (len(single) // len(files)) + single  # half of each


# --- mutations -------------------------------------------------------------------------------------------------------


def mutated(files: list[bytes], rng: random.Random) -> bytes:
    """Return a spoilt copy of one of the files."""
    data = rng.choice(files)
    if rng.random() < 0.35:
        return _bytes(bytearray(data), rng)
    import onnx

    proto = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if proto.graph.node:
            rng.choice((_field, _number, _number, _wire))(proto, rng)
    try:
        out = proto.SerializeToString()
    except ValueError:  # a text that is no UTF-8
        return data
    return _bytes(bytearray(out), rng) if rng.random() < 0.1 else out


def _bytes(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data)) if data else 0
        span = slice(at, at + rng.choice((1, 2, 4, 16, 256)))
        match rng.randrange(6 if data else 1):
            case 0:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at] = rng.randrange(256)
            case 3:
                del data[span]
            case 4:
                data[at:at] = data[span]
            case 5:
                del data[at:]
    return bytes(data)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in value if hasattr(value, "add") else [value]:
                yield from _messages(item)


def _field(proto: Any, rng: random.Random) -> None:
    """Change one field of one message."""
    fields = [(m, d, v) for m in _messages(proto) for d, v in m.ListFields()]
    message, descriptor, value = rng.choice(fields)
    name = descriptor.name
    if hasattr(value, "add"):
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                value.add().CopyFrom(value[at])
            case 1:
                del value[at]
            case 2:
                other = rng.randrange(len(value))
                held = type(value[at])()
                held.CopyFrom(value[at])
                value[at].CopyFrom(value[other])
                value[other].CopyFrom(held)
            case 3:
                value[at].Clear()
    elif hasattr(value, "append"):
        at = rng.randrange(len(value))
        match rng.randrange(3):
            case 0:
                value[at] = _scalar(value[at], proto, rng)
            case 1:
                del value[at]
            case 2:
                value.append(_scalar(value[at], proto, rng))
    elif descriptor.message_type is not None:
        value.Clear()
    elif rng.random() < 0.15:
        message.ClearField(name)
    else:
        try:
            setattr(message, name, _scalar(value, proto, rng))
        except (ValueError, TypeError):  # an enumeration or a narrower integer
            setattr(message, name, rng.randrange(2))


def _number(proto: Any, rng: random.Random) -> None:
    """Change a number of an attribute, of a constant shape, or of a declared one."""
    attributes = [a for n in proto.graph.node for a in n.attribute]
    tensors = [a.t for a in attributes if a.t.data_type == 7] + [t for t in proto.graph.initializer if t.data_type == 7]
    match rng.randrange(3):
        case 0 if tensors:
            tensor = rng.choice(tensors)
            values = bytearray(tensor.raw_data)
            at = 8 * rng.randrange(max(len(values) // 8, 1))
            values[at : at + 8] = rng.choice(EXTREMES).to_bytes(8, "little", signed=True)
            tensor.raw_data = bytes(values)
        case 1:
            sizes = [d for v in (*proto.graph.input, *proto.graph.output) for d in v.type.tensor_type.shape.dim]
            if sizes:
                rng.choice(sizes).dim_value = rng.choice(EXTREMES)
        case _ if attributes:
            a = rng.choice(attributes)
            if a.ints:
                a.ints[rng.randrange(len(a.ints))] = rng.choice((*EXTREMES, 5, 7))
            elif a.type == a.INT:
                a.i = rng.choice((*EXTREMES, 5, 7))
            elif a.type == a.FLOAT:
                a.f = rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))


def _wire(proto: Any, rng: random.Random) -> None:
    """Let a node read another value, do another thing, or read more or less."""
    node = rng.choice(proto.graph.node)
    others = [*(o for n in proto.graph.node for o in n.output), *(w.name for w in proto.graph.initializer), ""]
    match rng.randrange(4):
        case 0 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(others)
        case 1:
            other = rng.choice(proto.graph.node)
            node.op_type = other.op_type
            if rng.random() < 0.5:
                del node.attribute[:]
                node.attribute.extend(other.attribute)
        case 2:
            node.input.append(rng.choice(others))
        case _ if len(node.input) > 1:
            del node.input[-1]


def _scalar(value: Any, proto: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*EXTREMES, value + 1, value - 1, value * 2, -value)) if abs(value) < 1 << 62 else 0
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, -1e-30, float("inf"), float("nan"), value * 2))
    if isinstance(value, str):
        names = [o for n in proto.graph.node for o in (*n.output, *n.input, n.op_type)]
        return rng.choice((*names, "", '*/ system("x"); /*', "\x1b[31m\n", "Loop", "ai.onnx.ml", value + "x"))
    out = bytearray(value)
    return _bytes(out, rng) if len(out) < 1 << 20 else b""


# --- running ---------------------------------------------------------------------------------------------------------


def attempt(data: bytes, path: Path) -> str:
    """Read one file; return how it ended. Any other exception than those that are promised is raised."""
    import smelt
    from smelt.onnx.reader.parse import read_bytes
    from smelt.ops import Spec

    path.write_bytes(data)
    try:
        model = smelt.onnx.load(path)
    except smelt.FileError as e:
        text = str(e)
        assert str(path) in text and len(text) < 1000 and text.isprintable(), text
        return "refused"
    source = read_bytes(data)
    if not source.shapes or any(shape is None or None in shape[1:] for shape in source.shapes):
        return "read"
    specs = [
        Spec(tuple(int(d or 1) for d in shape or ()), d) for shape, d in zip(source.shapes, source.dtypes, strict=True)
    ]
    try:
        if _work(model, specs) >= SMALL:
            return "read"
        model(*(smelt.zeros(s.shape, s.dtype) for s in specs))
    except (smelt.ShapeError, smelt.TraceError):
        return "read, but it takes no such input"
    if len({s.dtype for s in specs}) > 1 or len({s.shape[:1] for s in specs}) > 1 or not specs[0].shape:
        return "read and run"
    try:
        named = {f"x{i}": s.shape[1:] for i, s in enumerate(specs)}
        made = smelt.export.c(model, None, named, batch=specs[0].shape[0], dtype=str(specs[0].dtype))
    except (smelt.ExportError, smelt.ShapeError, smelt.TraceError) as e:
        assert str(e).isprintable(), str(e)
        return "read and run"
    assert not any("system(" in text or "\x1b" in text for text in made.files.values())
    return "read, run and written as C"


def _work(model: Any, specs: list[Any]) -> int:
    """Return how many numbers a network makes, and how many it multiplies."""
    from smelt.autograd import no_grad
    from smelt.nn.calls import CallTracer, leaves
    from smelt.tensor import Tensor

    tracer = CallTracer("work")
    with no_grad(), tracer.watching(model):
        result = model(*(Tensor(tracer.input(f"x{i}", spec)) for i, spec in enumerate(specs)))
        graph = tracer.finish([tracer.lift(t) for t in leaves(result)])
    return graph.macs + sum(math.prod(n.shape) for n in {*graph.inputs, *graph.nodes()})


def child(count: int, seed: int, folder: Path) -> None:
    """Read files; print how each ended. A file that takes too long ends the process."""
    import resource

    import smelt  # noqa: F401

    files = corpus()
    faulthandler.register(signal.SIGPROF, chain=True)  # shows where the process was; then the signal ends it
    resource.setrlimit(resource.RLIMIT_AS, (BYTES + (256 << 20), BYTES + (256 << 20)))  # and what Python itself maps
    for i in range(count):
        data = mutated(files, random.Random(f"{seed} {i}"))
        print(f"{i} ", end="", flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        print(attempt(data, folder / "mutated.onnx"), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's, were that larger
    peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak <= BYTES, f"{peak >> 20} MiB at most in memory"


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """Read ``count`` files in a process; return how many ended how. Raises when it crashed, hung or failed."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", str(count), str(seed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else "nothing"
    assert done.returncode == 0, f"seed {seed}: status {done.returncode} after {last!r}\n{done.stderr}"
    return Counter(line.split(" ", 1)[1] for line in lines)


def main(count: int, seed: int = 0, each: int = 500) -> Counter[str]:
    """Read ``count`` files, some hundreds in each process."""
    import tempfile

    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for i in range(0, count, each):
            total += run(min(each, count - i), seed + i, Path(name))
            print(f"{i + each} files: {dict(total)}", flush=True)
    return total


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
