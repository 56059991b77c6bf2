"""``smelt export`` and ``smelt validate``: files, figures and errors, as somebody at a terminal meets them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import helper

import smelt
from smelt import nn
from smelt.cli import export
from smelt.cli.forms import FORMS
from smelt.cli.forms.form import Built, Form, Written
from smelt.export.agreement import compare
from smelt.export.here import Measured
from smelt.export.targets import TARGETS
from smelt.export.tools import missing
from smelt.onnx.reader.model import OnnxModel

from .small import Smelt, write_idx

compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model file beside a folder of data."""
    write_idx(tmp_path / "idx", test=50)
    smelt.seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, "same"), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)
    )
    smelt.save(network, tmp_path / "net.smelt", extra={"input_shape": [1, 28, 28]})
    return tmp_path / "net.smelt"


def test_export_writes_one_file(smelt_command: Smelt, model: Path) -> None:
    done = smelt_command("export", model, "--to", "onnx")
    size = Path("net.onnx").stat().st_size
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{model} as onnx, for samples of 1×28×28\nnet.onnx: {size:,} bytes\n"
    assert [n.name for n in onnx.load("net.onnx").graph.node] == ["0", "1", "2", "3", "4"]
    told = json.loads(smelt_command("export", model, "--to", "onnx", "--out", "b.onnx", "--opset", 28, "--json").out)
    files = {"b.onnx": Path("b.onnx").stat().st_size}
    assert told == {"model": str(model), "to": "onnx", "files": files, "data": None}
    assert onnx.load("b.onnx").opset_import[0].version == 28


@compiled
def test_c_with_its_self_test_compiles_and_passes(smelt_command: Smelt, model: Path) -> None:
    done = smelt_command("export", model, "--to", "c", "--out", "made", "--self-test", 3, "--data", "idx")
    assert (done.status, done.err) == (0, "")
    first, *files, figures = done.out.splitlines()
    assert first.startswith(f"{model} as c, for samples of 1×28×28; recorded: 3 samples of ")
    assert [line.split(":")[0] for line in files] == ["made/net.c", "made/net.h", "made/net_test.c"]
    assert figures.startswith(f"constants {4 * (4 * 9 + 4 + 784 * 10 + 10):,}, arena ")
    subprocess.run(["cc", "made/net.c", "made/net_test.c", "-o", "made/net", "-lm"], check=True)
    ran = subprocess.run(["made/net"], capture_output=True, text=True, check=True)
    assert ran.stdout == "net: passed, 0 numbers wrong in 3 runs\n"


def test_c_is_written_here_under_the_models_name_or_another(smelt_command: Smelt) -> None:
    told = json.loads(smelt_command("export", "lenet_300_100", "--to", "c", "--arena", "static", "--json").out)
    assert list(told["files"]) == ["lenet_300_100.c", "lenet_300_100.h"]
    assert told["constants"] == 4 * 266_610 and told["arena"] == 1600
    assert smelt_command("export", "lenet_300_100", "--to", "c", "--name", "digits").status == 0
    assert "void digits_run(const float *x, float *y, digits_arena *arena);" in Path("digits.h").read_text()


@compiled
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_network_of_the_zoo_agrees(smelt_command: Smelt, form: str) -> None:
    told = json.loads(smelt_command("validate", "ds_cnn", "--as", form, "--samples", 4, "--json").out)
    assert told["agrees"] and told["samples"] == told["same_class"] == 4 and told["relative"] < 1e-5


def test_a_network_that_was_never_trained_tells_samples_apart() -> None:
    network, _, (x,), _, _ = export._subject("ds_cnn", None, 3, None, {})
    out = network.compile()(x).numpy()
    assert out.std(0).max() > 0.01 * np.abs(out).max()
    assert not network.training and {m.momentum for _, m in network.named_modules() if hasattr(m, "momentum")} == {0.1}


@compiled
def test_a_file_tied_to_its_batch_size_is_run_with_that(smelt_command: Smelt) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"], "r"), helper.make_node("Reshape", ["r", "to"], ["y"], "y")]
    ends = [helper.make_tensor_value_info("x", 1, [2, 3, 4]), helper.make_tensor_value_info("y", 1, [2, 12])]
    to = onnx.numpy_helper.from_array(np.array([2, 12]), "to")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [to])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), "tied.onnx")
    assert smelt.onnx.load("tied.onnx").batch == 2
    for form in FORMS:
        done = smelt_command("validate", "tied.onnx", "--as", form, "--samples", 9)
        assert done.status == 0 and "on 8 samples of random numbers" in done.out, done.err
    assert smelt_command("export", "tied.onnx", "--to", "c", "--self-test", 4).status == 0
    assert "#define TIED_X_SIZE 24" in Path("tied.h").read_text()
    done = smelt_command("validate", "tied.onnx", "--as", "c", "--batch", 3)
    assert "--batch 3: the file works for no other batch size than 2" in done.error
    assert "1 samples: expected at least 2" in smelt_command("validate", "tied.onnx", "--as", "c", "--samples", 1).error


def write_onnx(name: str, nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list]], outputs: list[str]) -> None:
    """Write a file whose inputs have these types and shapes, and whose outputs have three or more numbers."""
    given = [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()]
    results = [helper.make_tensor_value_info(n, 1, ["n", 3]) for n in outputs]
    graph = helper.make_graph(nodes, "g", given, results)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), name)


def test_a_file_with_several_inputs_keeps_their_names(smelt_command: Smelt) -> None:
    add = helper.make_node("Add", ["left", "right"], ["sum"], "add")
    write_onnx("two.onnx", [add], {"left": (1, ["n", 3]), "right": (1, ["n", 3])}, ["sum"])
    done = smelt_command("export", "two.onnx", "--to", "onnx", "--out", "again.onnx")
    assert done.out.startswith("two.onnx as onnx, for samples of 3 and 3\n")
    again = onnx.load("again.onnx").graph
    assert [v.name for v in (*again.input, *again.output)] == ["left", "right", "sum"]
    assert smelt_command("export", "two.onnx", "--to", "c").status == 0
    assert "x1 (right): float[TWO_X1_SIZE]" in Path("two.h").read_text()
    assert "OnnxModel on inputs of 1×3 and 1×3\n" in smelt_command("summary", "two.onnx").out
    assert smelt_command("summary", "two.onnx", "--target", "c").out.startswith("call")
    for command in (("export", "two.onnx", "--to", "c"), ("validate", "two.onnx", "--as", "c")):
        assert "expected their shapes in it" in smelt_command(*command, "--input", "3").error
    write_onnx("free.onnx", [add], {"left": (1, ["n", "k"]), "right": (1, ["n", "k"])}, ["sum"])
    without = smelt_command("validate", "free.onnx", "--as", "c").error
    assert without == "'free.onnx': it has 2 inputs, expected their shapes in it"


SEVERAL = [("c", ()), ("object", ()), ("onnx", ())]
SEVERAL += [("c", ("cortex-m4",)), ("c", ("avr",)), ("object", ("riscv32",)), ("object", ("aarch64",))]


@compiled
@pytest.mark.parametrize(("form", "target"), SEVERAL)
@pytest.mark.parametrize("batch", [1, 2])
def test_several_inputs_of_several_types(smelt_command: Smelt, form: str, target: tuple[str, ...], batch: int) -> None:
    if form == "object" and sys.platform != "linux":
        pytest.skip("objects are ELF files")
    for name in target:
        if packages := missing(TARGETS[name].compiler, TARGETS[name].emulator):
            pytest.skip(f"{', '.join(packages)} not installed")
    nodes = [
        helper.make_node("Cast", ["steps"], ["f"], "cast", to=1),
        helper.make_node("Mul", ["x", "f"], ["scaled"], "mul"),
        helper.make_node("Where", ["which", "scaled", "x"], ["y"], "where"),
        helper.make_node("Sub", ["x", "f"], ["z"], "sub"),
    ]
    inputs = {"x": (1, ["n", 3]), "steps": (onnx.TensorProto.INT32, ["n", 1]), "which": (9, ["n", 3])}
    write_onnx("mixed.onnx", nodes, inputs, ["y", "z"])
    more = [word for name in target for word in ("--target", name)]
    done = smelt_command("validate", "mixed.onnx", "--as", form, "--samples", 9, "--batch", batch, "--json", *more)
    told = json.loads(done.out)
    assert told["agrees"] and told["data"] == f"{9 // batch * batch} samples of random numbers"
    assert told["same_class"] is None, "the outputs are as large as an input"


@compiled
def test_several_inputs_are_recorded_for_a_self_test(smelt_command: Smelt) -> None:
    nodes = [
        helper.make_node("Cast", ["steps"], ["f"], "cast", to=1),
        helper.make_node("Add", ["x", "f"], ["y"], "add"),
    ]
    write_onnx("two.onnx", nodes, {"x": (1, ["n", 3]), "steps": (onnx.TensorProto.INT8, ["n", 3])}, ["y"])
    done = smelt_command("export", "two.onnx", "--to", "c", "--out", "made", "--self-test", 3)
    assert done.out.startswith("two.onnx as c, for samples of 3 and 3; recorded: 3 samples of random numbers\n")
    assert "const float *x0, const int8_t *x1" in Path("made/two.h").read_text()
    subprocess.run(["cc", "made/two.c", "made/two_test.c", "-o", "made/two", "-lm"], check=True)
    ran = subprocess.run(["made/two"], capture_output=True, text=True, check=True)
    assert ran.stdout == "two: passed, 0 numbers wrong in 3 runs\n"
    for command in (("export", "two.onnx", "--to", "c", "--self-test", 3), ("validate", "two.onnx", "--as", "c")):
        error = smelt_command(*command, "--data", "digits").error
        assert error == "--data digits: 'two.onnx' has 2 inputs, expected one that samples are given to"


def test_samples_of_integers_are_small_and_of_truth_values_both(smelt_command: Smelt) -> None:
    model = OnnxModel([], ["a", "b", "c"], [], {}, input_dtypes=[np.dtype(d) for d in ("uint8", "bool", "float64")])
    a, b, c = export.random_samples(model, {"a": (4,), "b": (2, 3), "c": ()}, 50)
    assert (a.dtype, a.shape, set(a.reshape(-1).tolist())) == (np.uint8, (50, 4), set(range(10)))
    assert (b.dtype, b.shape, b.any(), b.all()) == (np.bool_, (50, 2, 3), True, False)
    assert (c.dtype, c.shape) == (np.float64, (50,)) and c.min() < -1


@compiled
def test_several_samples_at_once(smelt_command: Smelt, model: Path) -> None:
    for form in FORMS:
        done = smelt_command("validate", model, "--as", form, "--data", "idx", "--samples", 10, "--batch", 4)
        assert done.status == 0 and "on 8 samples of mnist test" in done.out, done.err
    smelt_command("export", model, "--to", "onnx", "--batch", 4)
    sizes = onnx.load("net.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in sizes] == [4, 1, 28, 28]


def test_help_names_every_form(smelt_command: Smelt) -> None:
    for verb in ("export", "validate"):
        line = next(line for line in smelt_command(verb, "--help").out.splitlines() if "FORM " in line)
        assert all(name in line for name in FORMS)


def test_a_network_of_the_zoo_and_an_onnx_file_are_models_too(smelt_command: Smelt) -> None:
    assert smelt_command("export", "lenet_300_100", "--option", "classes=3", "--to", "onnx").status == 0
    assert "235,500" in smelt_command("summary", "lenet_300_100.onnx").out
    again = smelt_command("export", "lenet_300_100.onnx", "--to", "onnx", "--out", "again.onnx")
    assert again.status == 0 and Path("again.onnx").exists()
    assert "expected --out" in smelt_command("export", "lenet_300_100.onnx", "--to", "onnx").error


def test_validate_compares_on_real_samples(smelt_command: Smelt, model: Path) -> None:
    done = smelt_command("validate", model, "--as", "onnx", "--data", "idx", "--samples", 40)
    assert (done.status, done.err) == (0, "")
    first, verdict, classes, figures = done.out.splitlines()
    assert first.startswith(f"{model} as onnx, run by ") and first.endswith(" on 40 samples of mnist test")
    assert verdict.startswith("agrees: largest difference ")
    assert classes.startswith("same class for 40 of 40 samples; ")
    assert figures.startswith("bytes ")
    told = json.loads(smelt_command("validate", model, "--as", "onnx", "--data", "idx", "--json").out)
    assert told["samples"] == told["same_class"] == 50 and told["agrees"] and told["right"] == told["right_here"]


def test_without_onnx_runtime_smelts_reader_runs_the_file(
    smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = smelt_command("validate", model, "--as", "onnx", "--samples", 5)
    assert "run by Smelt's own reader, for ONNX Runtime is not installed, on 5 samples of random numbers" in done.out
    assert "agrees" in done.out and done.status == 0


def test_c_is_run_by_an_emulated_board(smelt_command: Smelt, model: Path) -> None:
    if missing("arm-none-eabi-gcc", "qemu-system-arm"):
        pytest.skip("the emulator or its compiler is not installed")
    done = smelt_command("validate", model, "--as", "c", "--target", "cortex-m4", "--data", "idx")
    first, verdict, classes, figures = done.out.splitlines()
    assert first == f"{model} as c, run by qemu-system-arm (mps2-an386), on 20 samples of mnist test"
    assert verdict.startswith("agrees: ") and classes.startswith("same class for 20 of 20 samples; ")
    names = [figure.rsplit(" ", 1)[0] for figure in figures.split(", ")]
    assert names == ["flash", "constants", "ram", "arena", "stack", "instructions"]
    wrong = smelt_command("validate", model, "--as", "c", "--target", "toaster").error
    assert wrong.startswith("target 'toaster' is not emulated here: expected one of cortex-m3, ")


def test_a_form_that_differs_ends_with_status_1(
    smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(network: nn.Module, shape: tuple[int, ...], folder: Path) -> Built:
        return Built(lambda x: [network(smelt.tensor(x)).numpy() + 0.5], "a broken program", {"flash": 7})

    monkeypatch.setitem(FORMS, "broken", Form(lambda *a: Written([]), build))
    done = smelt_command("validate", model, "--as", "broken", "--samples", 8)
    assert done.status == 1 and "differs: largest difference 0.5" in done.out and "flash 7" in done.out


def test_errors_are_one_line(smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "'tflite': no such form, expected c, object, onnx": ("export", model, "--to", "tflite"),
        "received 3": ("export", model, "--to", "onnx", "--opset", 3),
        "--name: means nothing to export --to onnx, expected --opset, --batch": (
            *("export", model, "--to", "onnx", "--name", "x"),
        ),
        "--opset: means nothing to validate --as c, expected --batch, --target": (
            *("validate", model, "--as", "c", "--opset", 28),
        ),
        "does not take samples of 1×8×8: layer 4": ("validate", model, "--as", "onnx", "--data", "digits"),
        "expected --self-test": ("export", model, "--to", "c", "--data", "idx"),
        "--input 1,8,8: expected the shape of the samples, 1×28×28": (
            *("validate", model, "--as", "onnx", "--data", "idx", "--input", "1,8,8"),
        ),
        "expected lower-case letters": ("export", model, "--to", "c", "--name", '*/ system("x"); /*'),
        "expected --out, another place": ("export", model, "--to", "c", "--out", model),
    }
    for message, command in cases.items():
        done = smelt_command(*command)
        assert done.status == 2 and message in done.error, (done.error, message)
    Path("bad.onnx").write_bytes(b"no network")
    assert "damaged or not an ONNX file" in smelt_command("summary", "bad.onnx").error
    monkeypatch.setitem(sys.modules, "onnx", None)
    for command in (("export", model, "--to", "onnx"), ("summary", "bad.onnx")):
        assert "pip install 'smelt[onnx]'" in smelt_command(*command).error


def test_not_a_number_agrees_with_itself_alone() -> None:
    x = np.array([[np.nan, 1.0], [np.inf, -1.0]], np.float32)
    assert compare(nn.ReLU(), lambda x: [np.maximum(x, 0)], x).difference == 0
    assert compare(nn.ReLU(), lambda x: [np.nan_to_num(x)], x).difference == np.inf
    assert compare(nn.ReLU(), lambda x: [x[:1]], x).difference == np.inf


def test_an_object_is_written_and_run(smelt_command: Smelt, model: Path) -> None:
    done = smelt_command("export", model, "--to", "object", "--target", "cortex-m4", "--out", "made")
    assert (done.status, done.err) == (0, "")
    _, *files, figures = done.out.splitlines()
    assert [line.split(":")[0] for line in files] == ["made/net.o", "made/net.h"]
    assert re.fullmatch(r"constants 31,\d+, code [\d,]+, arena [\d,]+, stack \d+", figures)
    assert "Link net.o with code for the same processor: -mcpu=cortex-m4" in Path("made/net.h").read_text()
    without = smelt_command("export", model, "--to", "object")
    assert (without.status, without.error) == (
        2,
        "--to object: expected --target, one of cortex-m3, cortex-m4, cortex-m7, cortex-m55, riscv32, aarch64, "
        "x86-64, native",
    )


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="objects are ELF files")
@pytest.mark.parametrize("form", ["c", "object"])
def test_what_a_network_takes_on_this_machine(smelt_command: Smelt, model: Path, form: str) -> None:
    told = json.loads(smelt_command("validate", model, "--as", form, "--samples", 9, "--batch", 2, "--json").out)
    assert told["flash"] == told["constants"] + told["code"] and 500 < told["code"] < 20_000
    ends = 2 * 4 * (784 + 10)
    assert told["ram"] == told["arena"] + ends + told["stack"] and 8 <= told["stack"] < 4096
    if told["instructions"] is None:
        pytest.skip(f"instructions are counted {told['counted']}")
    assert told["instructions"] > 1000 and told["counted"].startswith("in one run of 2 samples by ")
    *_, figures = smelt_command("validate", model, "--as", form, "--samples", 2).out.splitlines()
    names = ["flash", "constants", "code", "ram", "arena", "stack", "instructions", "counted"]
    assert re.findall(r"(?:^|, )(\w+) (?:[\d,]+|in one run by .*)(?=, |$)", figures) == names


@compiled
def test_instructions_that_nobody_counts(smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Measured(None, 24, None, "by nobody: no counter")
    monkeypatch.setattr("smelt.cli.forms.machine.measure", lambda *a: found)
    figures = smelt_command("validate", model, "--as", "c", "--samples", 2).out.splitlines()[-1]
    assert figures.startswith("flash not known, constants 31,") and ", code not known, ram " in figures
    assert figures.endswith(", stack 24, instructions not known, counted by nobody: no counter")


@pytest.mark.skipif(sys.platform != "linux", reason="objects are ELF files")
def test_an_object_needs_no_compiler(smelt_command: Smelt, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    told = json.loads(smelt_command("validate", model, "--as", "object", "--samples", 2, "--json").out)
    assert told["agrees"] and told["stack"] > 0 and told["flash"] == told["constants"] + told["code"]
    assert (told["instructions"], told["counted"]) == (None, "by nobody: there is no C compiler")


@pytest.mark.skipif(sys.platform != "linux", reason="objects are ELF files")
def test_an_object_is_compared_with_the_model(smelt_command: Smelt, model: Path) -> None:
    told = json.loads(smelt_command("validate", model, "--as", "object", "--data", "idx", "--json").out)
    assert (told["runner"], told["samples"], told["same_class"], told["agrees"]) == ("this program", 50, 50, True)
    assert told["code"] > 0 and told["stack"] > 0
