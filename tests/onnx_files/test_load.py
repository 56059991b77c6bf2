"""Loaded files: the network that was exported comes back, and is a module as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import smelt
from smelt import nn, optim
from smelt.onnx.reader.build import build
from smelt.onnx.reader.model import OnnxModel
from smelt.onnx.reader.parse import read_bytes
from smelt.onnx.writer.export import to_bytes
from smelt.tensor import Parameter, Tensor

from .nets import CASES, Two, samples, settled, zoo


def from_bytes(data: bytes) -> OnnxModel:
    return build(read_bytes(data))


def one(
    kind: str, *shapes: Any, opset: int = 26, weights: dict[str, np.ndarray] | None = None, **attributes: Any
) -> Any:
    """Return the model of one node with inputs ``x0``, ``x1``... and then the weights."""
    weights = weights or {}
    inputs = [helper.make_tensor_value_info(f"x{i}", 1, s) for i, s in enumerate(shapes)]
    names = [*(v.name for v in inputs), *weights]
    node = helper.make_node(kind, names, ["y"], "n", **attributes)
    output = helper.make_tensor_value_info("y", 1, [None])
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    graph = helper.make_graph([node], "g", inputs, [output], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return from_bytes(proto.SerializeToString())


def check_same(
    model: nn.Module, again: nn.Module, shape: tuple[int, ...], counts: tuple[int, ...] = (1, 5), traces: int = 1
) -> None:
    compiled = smelt.compile(again)
    for count in reversed(counts):
        x = samples(shape, count, seed=count)
        expected = model(x)
        for run in (again, compiled):
            for got, want in zip(_all(run(x)), _all(expected), strict=True):
                assert got.dtype == want.dtype
                np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=2e-6)
    assert compiled.traces == traces


def _all(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("name", CASES)
def test_every_layer_comes_back_with_its_weights(name: str) -> None:
    build_case, shape = CASES[name]
    model = settled(build_case(), shape)
    again = from_bytes(to_bytes(model, shape))
    assert isinstance(again, nn.Module) and not again.training
    state, loaded = model.state_dict(), again.state_dict()
    assert set(state) == set(loaded)
    assert all(np.array_equal(state[n], loaded[n]) for n in state)
    assert {n for n, _ in again.named_buffers()} == {n for n, _ in model.named_buffers()}
    check_same(model, again, shape, traces=2 if name == "shapes" else 1)  # a mean over the batch: its size is a number


@pytest.mark.parametrize("name", ["autoencoder", "ds_cnn", "lenet5", "resnet8", "mobilenet_v1"])
def test_networks_of_the_zoo_come_back_as_layers(name: str) -> None:
    model, shape = zoo(name)
    again = from_bytes(to_bytes(model, shape))
    loaded = {path: type(m) for path, m in again.named_modules()}
    for path, m in model.named_modules():
        if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.MaxPool2d)):
            assert loaded[path] is type(m), path
    check_same(model, again, shape, (1, 2))
    assert smelt.summary(again, shape).macs == smelt.summary(model, shape).macs


def test_a_second_export_says_the_same() -> None:
    build_case, shape = CASES["images"]
    again = from_bytes(to_bytes(settled(build_case(), shape), shape))
    second = onnx.load_from_string(to_bytes(again, shape))
    third = onnx.load_from_string(to_bytes(from_bytes(second.SerializeToString()), shape))
    assert [(n.name, n.op_type) for n in second.graph.node] == [(n.name, n.op_type) for n in third.graph.node]
    assert [w.name for w in second.graph.initializer] == [w.name for w in third.graph.initializer]


def test_training_goes_on_as_with_the_original() -> None:
    losses = []
    for reload in (False, True):
        smelt.seed(1)
        model: nn.Module = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)),
        )
        if reload:
            model = from_bytes(to_bytes(model, (1, 6, 6)))
        model.train()
        optimizer = optim.Adam(lr=1e-2).bind(model.parameters())

        @smelt.compile
        def step(x: Tensor, y: Tensor, model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        x, y = samples((1, 6, 6), 12), np.arange(12) % 3
        losses.append([step(x, y).item() for _ in range(8)])
        losses[-1] += [float(model.state_dict()["1.running_mean"].sum())]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][7] < losses[0][0]


def test_the_summary_knows_layers_and_their_weights() -> None:
    model, shape = zoo("lenet5")
    text = str(smelt.summary(from_bytes(to_bytes(model, shape)), shape))
    assert "Conv2d" in text and "61,706" in text and "416,520" in text


def test_a_loaded_network_inside_another_keeps_names_apart() -> None:
    inner = from_bytes(to_bytes(nn.Sequential(nn.Linear(3, 2)), (3,)))
    outer = nn.Sequential(inner, nn.Linear(2, 2))
    assert [n for n, _ in outer.named_parameters()] == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]


def test_several_inputs_and_outputs_keep_their_order() -> None:
    again = from_bytes(to_bytes(Two(), {"x": (3,), "y": (3,)}))
    assert (again.inputs, again.outputs) == (["x", "y"], ["output0", "output1", "output2"])
    x, y = samples((3,), 4), samples((3,), 4, 1)
    z, first, third = again(x, y)
    assert z.tolist() == third.tolist() == (x + y).tolist() and first.tolist() == x.tolist()
    with pytest.raises(smelt.ShapeError, match="expected 2 inputs \\('x', 'y'\\), received 1"):
        again(x)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    proto = onnx.load_from_string(to_bytes(model, (4,)))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").stat().st_size >= 60
    again = smelt.onnx.load(tmp_path / "m.onnx")
    assert np.array_equal(again.state_dict()["0.weight"], model[0].weight.numpy())


def test_weights_become_parameters_and_bounds_do_not() -> None:
    clip = one("Clip", ("n", 3), weights={"low": np.float32(-1), "high": np.float32(1)})
    assert not clip.state_dict() and clip(np.full((2, 3), 5, np.float32)).tolist() == [[1.0] * 3] * 2
    scaled = one("Mul", ("n", 3), weights={"w": np.ones(3, np.float32)})
    assert [n for n, p in scaled.named_parameters() if isinstance(p, Parameter)] == ["w"]
    halved = one("Mul", ("n", 3), weights={"w": np.float32(0.5)})
    assert not halved.state_dict() and halved(np.ones((1, 3), np.float32)).tolist() == [[0.5] * 3]


def test_old_versions_mean_what_they_meant() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    soft = one("Softmax", (2, 3, 4), opset=11)(x).numpy()
    np.testing.assert_allclose(soft.sum((1, 2)), [1, 1], rtol=1e-6)  # all axes from 1 on were one
    assert one("ReduceSum", (2, 3, 4), opset=11, axes=[1], keepdims=0)(x).shape == (2, 4)
    assert one("Squeeze", (1, 3), opset=11, axes=[0])(np.ones((1, 3), np.float32)).shape == (3,)
    assert one("Slice", (2, 3, 4), opset=9, starts=[1], ends=[3], axes=[2])(x).shape == (2, 3, 2)
    assert one("Clip", (2, 3, 4), opset=10, min=2.0, max=5.0)(x).numpy().max() == 5.0
    assert one("Pad", (2, 3, 4), opset=10, pads=[0, 0, 1, 0, 0, 1], value=7.0)(x).shape == (2, 3, 6)
    assert one("Dropout", (2, 3, 4), opset=11, ratio=0.5)(x).numpy().sum() == x.sum()
    with pytest.raises(smelt.FileError, match="node 'n' \\('BatchNormalization'\\): statistics of each position"):
        stats = {n: np.ones(3, np.float32) for n in "sbmv"}
        one("BatchNormalization", (2, 3, 4), opset=8, weights=stats, spatial=0)


def test_a_dropout_that_drops_tells_what_it_kept() -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "active"], ["y", "mask"], "n")
    weights = {"ratio": np.float32(0.25), "active": np.bool_(True)}
    x, y = helper.make_tensor_value_info("x", 1, ["n", 50]), helper.make_tensor_value_info("y", 1, [None, 50])
    mask = helper.make_tensor_value_info("mask", 9, [None, 50])
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    graph = helper.make_graph([node], "g", [x], [y, mask], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=8)
    given = samples((50,), 8)
    dropped, kept = (t.numpy() for t in from_bytes(proto.SerializeToString())(given))
    assert kept.dtype == bool and 0.6 < kept.mean() < 0.9
    np.testing.assert_allclose(dropped, np.where(kept, given.numpy() / 0.75, 0), rtol=1e-6)


def test_products_of_any_length_and_nothing() -> None:
    x = samples((7, 4), 3).numpy() + 2
    model = one("ReduceProd", ("n", 7, 4), opset=13, axes=[1, 2])
    np.testing.assert_allclose(model(x).numpy(), x.prod((1, 2), keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(one("ReduceProd", ("n", 0), opset=13, axes=[1])(np.zeros((2, 0), np.float32)), 1.0)


def test_a_shape_computed_from_the_batch_leaves_it_free() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
        helper.make_node("ConstantOfShape", ["to"], ["z"], value=helper.make_tensor("v", 1, [1], [2.0])),
        helper.make_node("Add", ["y", "z"], ["out"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([12])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 4])],
        [helper.make_tensor_value_info("out", 1, ["n", 12])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = from_bytes(proto.SerializeToString())
    compiled = smelt.compile(model)
    for count in (5, 2):
        x = samples((3, 4), count)
        np.testing.assert_array_equal(compiled(x).numpy(), x.numpy().reshape(count, 12) + 2)
        np.testing.assert_array_equal(model(x).numpy(), compiled(x).numpy())
    assert compiled.traces == 1
    assert onnx.load_from_string(to_bytes(model, (3, 4))).graph.node
