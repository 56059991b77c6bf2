"""Exported files: what is in them, and that ONNX's own reference says the same of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import smelt
from smelt import nn
from smelt.errors import ExportError, FileError, ShapeError
from smelt.nn import functional as F
from smelt.onnx.writer.export import OPSETS, to_bytes
from smelt.tensor import Tensor

from .nets import CASES, Two, samples, settled, zoo


def reference(data: bytes, **inputs: Any) -> list[np.ndarray]:
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return ReferenceEvaluator(onnx.load_from_string(data)).run(None, arrays)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_says_the_same_for_any_batch(name: str) -> None:
    build, shape = CASES[name]
    model = settled(build(), shape)
    data = to_bytes(model, shape)
    for count in (1, 7, 12):
        x = samples(shape, count, seed=count)
        expected = model(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for got, want in zip(reference(data, input=x), expected, strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)
            assert got.dtype == want.dtype


@pytest.mark.parametrize("name", CASES)
def test_three_opsets_pass_the_checker_and_give_the_same(name: str) -> None:
    build, shape = CASES[name]
    model = settled(build(), shape)
    x, files = samples(shape, 3), [to_bytes(model, shape, opset=opset) for opset in OPSETS]
    expected = reference(files[0], input=x)
    for opset, data in zip(OPSETS, files, strict=True):
        proto = onnx.load_from_string(data)
        onnx.checker.check_model(proto, full_check=True)
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", opset)]
        for got, want in zip(reference(data, input=x), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_opsets_are_the_newest_of_the_package_that_is_named() -> None:
    newest = next(row[2] for row in onnx.helper.VERSION_TABLE if row[0] == "1.23.0")
    assert (newest - 2, newest - 1, newest) == OPSETS


def test_layers_stay_whole_and_keep_their_names() -> None:
    model, shape = zoo("resnet8")
    graph = onnx.load_from_string(to_bytes(model, shape)).graph
    state = model.state_dict()
    assert {w.name: list(w.dims) for w in graph.initializer} == {n: list(a.shape) for n, a in state.items()}
    for w in graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(w), state[w.name])
    kinds = {node.name: node.op_type for node in graph.node}
    modules = {path: type(m).__name__ for path, m in model.named_modules()}
    for name, kind in (("0", "Conv"), ("1", "BatchNormalization"), ("3.0.2", "Relu"), ("10", "Gemm")):
        assert kinds[name] == kind and name in modules
    assert sorted(set(kinds.values())) == [
        *("Add", "BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Relu"),
    ]
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == ["batch", 10]


def test_same_model_same_bytes_and_the_model_is_left_as_it_was() -> None:
    build, shape = CASES["images"]
    model = build().train()
    before = model.state_dict()
    assert to_bytes(model, shape) == to_bytes(model, shape)
    assert all(np.array_equal(before[n], a) for n, a in model.state_dict().items())
    assert model.training and model[5].training and "forward" not in vars(model)


def test_files_are_float32_whatever_the_precision_around() -> None:
    build, shape = CASES["functions"]
    model = settled(build(), shape)
    with smelt.autocast("bf16"):
        data = to_bytes(model, shape)
    assert data == to_bytes(model, shape)


def test_several_inputs_and_outputs() -> None:
    data = to_bytes(Two(), {"x": (3,), "y": (3,)})
    x, y = samples((3,), 4), samples((3,), 4, 1)
    z, again, third = reference(data, x=x, y=y)
    np.testing.assert_array_equal(z, (x + y).numpy())
    np.testing.assert_array_equal(again, x.numpy())
    np.testing.assert_array_equal(third, z)


def test_a_layer_used_twice_shares_its_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    model = Twice().eval()
    data = to_bytes(model, (3,))
    graph = onnx.load_from_string(data).graph
    assert [w.name for w in graph.initializer] == ["layer.weight", "layer.bias"]
    assert [n.name for n in graph.node] == ["layer", "layer_2"]
    x = samples((3,), 2)
    np.testing.assert_allclose(reference(data, input=x)[0], model(x).numpy(), rtol=1e-5)


def test_what_cannot_be_said_names_the_layer_and_the_operation(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=True)

    with pytest.raises(ExportError, match=r"layer 1 \(Noisy\): random_uniform f32\[7, 3\] cannot be .* F\.dropout"):
        smelt.export.onnx(nn.Sequential(nn.Linear(3, 3), Noisy()), tmp_path / "x.onnx", (3,))
    assert not list(tmp_path.iterdir())


def test_functions_of_the_user_and_state_that_changes_cannot_be_said() -> None:
    @smelt.custom_op
    def doubled(x: np.ndarray) -> np.ndarray:
        return x * 2

    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return doubled(x)

    class Counting(nn.Module):
        def __init__(self) -> None:
            self.count = smelt.tensor([0.0])

        def forward(self, x: Tensor) -> Tensor:
            self.count.assign(self.count + 1.0)
            return x * self.count

    with pytest.raises(ExportError, match=r"layer 1 \(Doubling\): .*doubled.* cannot be .*doubled\(x\)"):
        to_bytes(nn.Sequential(nn.ReLU(), Doubling()), (3,))
    with pytest.raises(ExportError, match=r"the model changes .*count.* when it runs"):
        to_bytes(Counting(), (3,))


def test_a_tied_batch_says_why_and_can_be_fixed() -> None:
    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.shape[0])

    with pytest.raises(ExportError, match="batch size cannot be free: the batch size 7 is used as a number"):
        to_bytes(Tied(), (3,))
    data = to_bytes(Tied(), (3,), batch=2)
    np.testing.assert_array_equal(reference(data, input=np.ones((2, 3), np.float32))[0], np.full((2, 3), 2.0))


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ExportError, match=r"opset: expected one of \(26, 27, 28\), received 11"):
        smelt.export.onnx(model, tmp_path / "x.onnx", (3,), opset=11)
    with pytest.raises(ShapeError, match=r"Linear: linear: expected x \(\.\.\., in\)"):
        smelt.export.onnx(model, tmp_path / "x.onnx", (4,))
    with pytest.raises(ShapeError, match="expected sizes of at least 1"):
        smelt.export.onnx(model, tmp_path / "x.onnx", (0,))
    with pytest.raises(FileError, match="cannot be written"):
        smelt.export.onnx(model, tmp_path / "none" / "x.onnx", (3,))


def test_names_of_inputs_that_are_taken() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    graph = onnx.load_from_string(to_bytes(model, {"output": (3,)})).graph
    assert [v.name for v in (*graph.input, *graph.output)] == ["output", "output_2"]
    assert onnx.load_from_string(to_bytes(model, {"0": (3,)})).graph.node[0].input[0] == "0"
    for name in ("0.weight", ""):
        with pytest.raises(ExportError, match=f"input '{name}': expected a name that no weight has"):
            to_bytes(model, {name: (3,)})


def test_names_that_mean_something_elsewhere_stay_names() -> None:
    class Hostile(nn.Module):
        def __init__(self) -> None:
            vars(self)['*/ system("x"); /*'] = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return vars(self)['*/ system("x"); /*'](x)

    graph = onnx.load_from_string(to_bytes(Hostile(), (2,))).graph
    assert graph.node[0].name == '*/ system("x"); /*'
    assert graph.initializer[0].name == '*/ system("x"); /*.weight'
