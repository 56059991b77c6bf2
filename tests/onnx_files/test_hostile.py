"""Files made to do harm: each is refused in one line, soon and in little memory, and runs nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export.compilers import STRICT, need
from export.compilers import run as run_command
from onnx import TensorProto, helper, numpy_helper

import smelt
from smelt import nn
from smelt.errors import FileError
from smelt.onnx.writer.export import to_bytes

from .fuzz import run as fuzz

ROOT = Path(__file__).resolve().parents[2]
NAME = '*/ system("rm"); /*\x1b[2J\n'


def model(*nodes: Any, weights: Any = (), shape: Any = ("n", 4), opset: int = 20, outputs: Any = ("y",)) -> Any:
    """Return a model that reads ``x``."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info(o, 1, [None]) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), attributes.pop("name", "n"), **attributes)


def weight(name: str, dims: list[int], raw: bytes = b"", **fields: Any) -> TensorProto:
    return TensorProto(name=name, data_type=fields.pop("data_type", 1), dims=dims, raw_data=raw, **fields)


def external(location: str, **entries: str) -> Any:
    """Return a model whose weight lies in another file."""
    proto = model(node("Add", "x w"))
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    proto.graph.initializer.append(tensor)
    return proto


def shared() -> Any:
    """Return a model of many weights that all lie in the same few bytes."""
    proto = external("w.bin")
    for i in range(50_000):
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(proto.graph.initializer[0])
        tensor.name = f"w{i}"
    return proto


def with_weight(tensor: TensorProto) -> Any:
    proto = model(node("Add", "x w"))
    proto.graph.initializer.append(tensor)
    return proto


def growing() -> Any:
    nodes = [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(40)]
    return model(*nodes, node("Add", "x c40"), weights={"c0": np.ones(4, np.int64)})


def varied(**fields: Any) -> Any:
    proto = model(node("Relu", "x"))
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(proto.graph, name).extend(value)
    return proto


SMALL = model(node("Relu", "x")).SerializeToString()
IF = node("If", "c", then_branch=model(node("Relu", "x")).graph, else_branch=model(node("Relu", "x")).graph)
LOOPED = [node("Add", "x b", "a", name="first"), node("Relu", "a", "b", name="second"), node("Relu", "b")]
HUGE = 1 << 40

CASES: dict[str, tuple[Any, str]] = {
    "empty": (b"", "it holds no graph"),
    "text": (b"not a network at all, but text", "damaged or not an ONNX file"),
    "truncated": (SMALL[:-9], "damaged or not an ONNX file: a field of"),
    "a million empty nodes": (b"\x3a\x80\x89\x7a" + b"\x0a\x00" * 1_000_000, "more than 500,000 fields"),
    "messages in messages": (b"\x3a\xff\xff\x03" * 30 + b"\0" * 70_000, "damaged or not an ONNX file"),
    "text that is no text": (SMALL.replace(b"Relu", b"Re\xff\xfe"), "can't decode byte"),
    "no operators": (model(node("Relu", "x"), opset=1), "operators of version 1, expected 7 to 28"),
    "operators to come": (model(node("Relu", "x"), opset=99), "operators of version 99, expected 7 to 28"),
    "an unknown operator": (model(node("Attend", "x")), "node 'n' ('Attend'): an operator that Smelt does not have"),
    "somebody's operator": (model(node("Relu", "x", domain="com.acme")), "an operator of 'com.acme'"),
    "a graph in a graph": (model(IF, weights={"c": True}), "node 'n' ('If'): attribute"),
    "a cycle": (model(*LOOPED), "node 'first' ('Add') reads 'b', which only a later node makes: a cycle"),
    "a value from nowhere": (model(node("Relu", "z")), "node 'n' ('Relu') reads 'z', which nothing makes"),
    "two of a name": (model(node("Relu", "x"), node("Tanh", "x")), "makes 'y', a name that is taken"),
    "two weights of a name": (
        varied(initializer=[weight("w", [1], b"\0" * 4)] * 2),
        "weight 'w': expected a name that no other weight has",
    ),
    "two inputs of a name": (
        varied(input=[helper.make_tensor_value_info("x", 1, [4])]),
        "input 'x': expected a name that no other has",
    ),
    "no output": (model(node("Relu", "x"), outputs=()), "the graph has no output"),
    "a huge weight": (with_weight(weight("w", [1 << 31, 1 << 20], b"\0" * 8)), "weight 'w': 8 bytes of data, expected"),
    "a weight beyond numbers": (with_weight(weight("w", [1 << 62, 1 << 62])), "weight 'w': dimensions"),
    "a weight of many axes": (with_weight(weight("w", [1] * 40, b"\0" * 4)), "40 dimensions declared"),
    "a negative weight": (with_weight(weight("w", [-4], b"")), "weight 'w': shape (-4,)"),
    "a weight of text": (with_weight(weight("w", [1], b"a", data_type=8)), "elements of type string"),
    "a weight in segments": (
        with_weight(weight("w", [4], b"\0" * 16, segment=TensorProto.Segment(begin=0, end=4))),
        "split into segments",
    ),
    "a huge input": (model(node("Relu", "x"), shape=(HUGE, 1 << 20)), "expected at most 2,147,483,648 elements"),
    "a huge value": (model(node("Expand", "x s"), weights={"s": [HUGE, 1, 4]}), "expected at most 2,147,483,648 el"),
    "a huge constant": (
        model(node("ConstantOfShape", "s", "c"), node("Add", "x c"), weights={"s": [HUGE, HUGE]}),
        "node 'n' ('ConstantOfShape'): a constant of shape",
    ),
    "a long range": (
        model(node("Range", "a b a", "c"), node("Add", "x c"), weights={"a": 1, "b": HUGE}),
        "node 'n' ('Range'): a constant of shape",
    ),
    "constants that grow": (growing(), "node 'n' ('Concat'): a constant of shape"),
    "a product of constants": (
        model(
            node("MatMul", "a b", "c"), node("Add", "x c"), weights={"a": np.float32(1), "b": np.ones(3, np.float32)}
        ),
        "('MatMul')",
    ),
    "a broadcast of constants": (
        model(
            node("Cast", "a", "f", to=1), node("Cast", "b", "g", to=1), node("Pow", "f g", "c"), node("Add", "x c"),
            weights={"a": np.ones((60_000, 1), np.int64), "b": np.ones(60_000, np.int64)},
        ),
        "('Pow'): a value of shape (60000, 60000)",
    ),
    "endless padding": (
        model(node("Pad", "x p", mode="reflect"), weights={"p": [0, 1 << 20, 0, 1 << 20]}),
        "node 'n' ('Pad'): reflect padding",
    ),
    "a huge window": (
        model(node("MaxPool", "x", kernel_shape=[1 << 19] * 2, dilations=[2, 2]), shape=(1, 1, 1 << 14, 1 << 14)),
        "node 'n' ('MaxPool')",
    ),
    "many operations": (
        model(*(node("MaxPool", f"v{i}" if i else "x", f"v{i + 1}", kernel_shape=[200] * 2, dilations=[2, 2],
                     pads=[199] * 4) for i in range(1000)), outputs=("v1000",), shape=(1, 1, 400, 400)),
        "it makes more than 10,000 operations",
    ),
    "shapes that do not fit": (model(node("Reshape", "x s"), weights={"s": [3, 5]}), "node 'n' ('Reshape')"),
    "a step of nothing": (
        model(node("Slice", "x a b c d"), weights={"a": [0], "b": [4], "c": [1], "d": [0]}),
        "node 'n' ('Slice'): a step of 0",
    ),
    "a name that does things": (
        model(node("Reshape", "x s", name=NAME), weights={"s": [3, 5]}),
        r"""node '*/ system("rm"); /*\x1b[2J\n' ('Reshape')""",
    ),
    "weights above": (external("../w.bin"), "data in '../w.bin', expected a file in the model's folder"),
    "weights elsewhere": (external("/etc/passwd"), "data in '/etc/passwd', expected a file in the model's folder"),
    "weights behind a link": (external("link.bin"), "data in 'link.bin', expected a file in the model's folder"),
    "weights in a folder": (external("."), "data in '.', expected a file in the model's folder"),
    "weights in a pipe": (external("pipe.bin"), "not a regular file"),
    "weights nowhere": (external("none.bin"), "no such file"),
    "weights past the end": (external("w.bin", offset="8", length="16"), "expected 16 bytes within it"),
    "weights before the start": (external("w.bin", offset="-8"), "expected 16 bytes within it"),
    "weights in the same bytes": (shared(), "weight 'w0': data in 'w.bin' that others have too"),
    "a length of text": (external("w.bin", length="many"), "is no number"),
    "another length": (external("w.bin", length=str(1 << 50)), "expected 16 bytes within it"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of weights, a link out of it and a pipe; beside it, another file of weights."""
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    inside = tmp_path / "models"
    inside.mkdir()
    (inside / "w.bin").write_bytes(b"\0" * 16)
    os.symlink(tmp_path / "w.bin", inside / "link.bin")
    os.mkfifo(inside / "pipe.bin")
    return inside


def write(folder: Path, content: Any) -> Path:
    path = folder / "hostile.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


@pytest.mark.parametrize("name", CASES)
def test_each_is_refused_in_one_line(name: str, folder: Path) -> None:
    content, expected = CASES[name]
    path = write(folder, content)
    with pytest.raises(FileError) as caught:
        smelt.onnx.load(path)
    text = str(caught.value)
    assert expected in text and str(path) in text, text
    assert text.isprintable() and len(text) < 600


LIMITED = """
import json, pathlib, resource, sys, time
import smelt
smelt.onnx.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
events, times = [], {}
sys.addaudithook(lambda event, args: events.append(event))
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        smelt.onnx.load(path)
        sys.exit(f"{path} was read")
    except smelt.FileError:
        times[path] = time.process_time() - start
bad = {"exec", "compile", "os.system", "subprocess.Popen", "socket.connect", "pickle.find_class", "ctypes.dlopen"}
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's, were that larger
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
print(json.dumps([max(times.values()), sorted(bad & set(events)), peak]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept on Linux alone")
def test_all_take_little_time_and_less_than_512_mib_and_run_nothing(folder: Path) -> None:
    good = folder / "good.onnx"
    good.write_bytes(to_bytes(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 5, 5)))
    paths = []
    for i, (content, _) in enumerate(CASES.values()):
        paths.append(folder / f"{i}.onnx")
        paths[-1].write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    sparse = folder / "sparse.onnx"
    with open(sparse, "wb") as f:
        f.truncate(1 << 40)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(good), *map(str, paths), str(sparse)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    seconds, events, kib = json.loads(done.stdout)
    assert seconds < 1 and events == [] and kib < 512 << 10


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, expected in ((tmp_path, "not a regular"), (tmp_path / "none", "no such"), (tmp_path / "pipe", "not a")):
        with pytest.raises(FileError, match=expected):
            smelt.onnx.load(path)


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    data = to_bytes(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (2,))
    for n in range(len(data)):
        with pytest.raises(FileError):
            smelt.onnx.load(write(tmp_path, data[:n]))


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    found = fuzz(300, 1, tmp_path)
    assert found["refused"] > 100 and found["read, run and written as C"] > 20 and sum(found.values()) == 300


def test_names_from_a_file_never_become_c(tmp_path: Path) -> None:
    text = to_bytes(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)), (1, 5, 5))
    proto = onnx.load_from_string(text)
    graph = proto.graph
    graph.name = graph.doc_string = proto.producer_name = NAME
    renamed: dict[str, str] = {}

    def evil(name: str) -> str:
        return renamed.setdefault(name, f'{NAME}{len(renamed)}??/\n#include "/etc/passwd"')

    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = evil(value.name)
    for n in graph.node:
        n.name = evil(n.name)
        for names in (n.input, n.output):
            names[:] = [evil(name) for name in names]
    network = smelt.onnx.load(write(tmp_path, proto))
    x = np.random.default_rng(0).normal(size=(2, 1, 5, 5)).astype(np.float32)
    made = smelt.export.c(network, tmp_path, {graph.input[0].name: (1, 5, 5)}, name="net", samples=x)
    for content in made.files.values():
        assert "system(" not in content and 'passwd"' not in content and "??/" not in content and content.isascii()
        for comment in re.findall(r"/\*(.*?)\*/", content, re.DOTALL):
            assert "/*" not in comment
    program = tmp_path / "program"
    run_command(need("cc"), *STRICT, tmp_path / "net.c", tmp_path / "net_test.c", "-o", program, "-lm")
    assert run_command(program) == "net: passed, 0 numbers wrong in 2 runs\n"
    (tmp_path / "again.onnx").write_bytes(to_bytes(network, (1, 5, 5)))
    assert smelt.onnx.load(tmp_path / "again.onnx")(x).shape == (2, 3)
