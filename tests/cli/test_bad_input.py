"""Input that is wrong: one line that says what, where and what was expected; status 2; what was there stays intact."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data.data_files import gz, idx_bytes, npy_bytes, npz_bytes, zip_bytes

import smelt
from smelt import nn

from .small import RECIPE, Smelt, digest

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
IDX_HEADER = struct.pack(">4B3I", 0, 0, 8, 3, 120, 28, 28)


def _spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def _images(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return _spoil(IMAGES, lambda data: gz(change(gzip.decompress(data)), 1))


BAD_IDX: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated gzip": (
        _spoil(IMAGES, lambda d: d[:1000]),
        f"{IMAGES}': corrupt or truncated gzip .*expected a whole file",
    ),
    "gzip of another checksum": (_spoil(IMAGES, lambda d: d[:-8] + bytes(8)), f"{IMAGES}': corrupt or truncated gzip"),
    "gzip that declares 4 GiB": (
        _images(lambda d: struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 28, 28) + d[16:]),
        f"{IMAGES}': .* bytes declared in .* compressed bytes, expected at most 100",
    ),
    "a header that declares more": (
        _images(lambda d: d[:4] + struct.pack(">I", 999) + d[8:]),
        f"{IMAGES}': .*expected",
    ),
    "a header that declares less": (
        _images(lambda d: d[:4] + struct.pack(">I", 99) + d[8:]),
        "expected the file to end",
    ),
    "another magic number": (_images(lambda d: b"\x01\x02" + d[2:]), f"{IMAGES}': .*expected"),
    "255 dimensions": (_images(lambda d: b"\0\0\x08\xff" + b"\xff" * 1020), f"{IMAGES}': .*dimensions"),
    "images of 14 × 14": (
        _images(lambda d: struct.pack(">4B3I", 0, 0, 8, 3, 120, 14, 14) + d[16 : 16 + 120 * 196]),
        r"120×14×14 of uint8, expected n×28×28",
    ),
    "truncated labels": (_spoil(LABELS, lambda d: d[:-3]), f"{LABELS}': 125 bytes, expected 128"),
    "an empty file": (_spoil(LABELS, lambda d: b""), f"{LABELS}': .*expected"),
    "a label of 10": (
        _spoil(LABELS, lambda d: d[:20] + b"\x0a" + d[21:]),
        f"{LABELS}': label 10 at index 12, expected 0 to 9",
    ),
    "a label of 200 in the test": (_spoil(TEST_LABELS, lambda d: d[:-1] + b"\xc8"), "label 200 at index 49"),
    "fewer labels than images": (
        lambda folder: (folder / LABELS).write_bytes(idx_bytes(np.zeros(7, np.uint8))) and None,
        "7 labels, expected 120",
    ),
    "a file that is missing": (lambda folder: (folder / LABELS).unlink(), f"no file '{LABELS}'"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_idx(smelt_command: Smelt, recipe: Path, case: str) -> None:
    spoil, says = BAD_IDX[case]
    spoil(Path("idx"))
    assert re.search(says, smelt_command("run", recipe).error)
    assert not Path("runs").exists()


X, Y = np.linspace(0, 1, 240, dtype=np.float32).reshape(60, 4), np.arange(60) % 3
NPZ_RECIPE = """\
[model]
layers = [{ type = "Linear", in_features = 4, out_features = 3 }]
[data]
name = "npz"
file = "a.npz"
[train]
epochs = 2
batch_size = 8
"""
BIG = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"


def _with(value: float) -> np.ndarray:
    x = X.copy()
    x[7, 2] = value
    return x


def _zip(x: bytes) -> bytes:
    return zip_bytes(("x.npy", x), ("y.npy", npy_bytes(BIG % "1,", bytes(4))))


BAD_NPZ: dict[str, tuple[bytes, str]] = {
    "no zip archive": (b"PK\3\4 not really", "expected"),
    "truncated": (npz_bytes(x=X, y=Y)[:500], "expected"),
    "no such array": (npz_bytes(z=X, y=Y), "no array named 'x', expected one of: 'z', 'y'"),
    "a shape of 2^62": (_zip(npy_bytes(BIG % "1152921504606846976, 2", bytes(64))), "expected"),
    "a shape larger than its bytes": (_zip(npy_bytes(BIG % "99, 4", bytes(64))), "expected"),
    "a header of 4 GiB": (_zip(npy_bytes("", version=2, length=2**32 - 1)), "expected at most 10000"),
    "code in a header": (_zip(npy_bytes("{'descr': __import__('os').abort()}")), "header .* expected"),
    "a NaN": (npz_bytes(x=_with(np.nan), y=Y), r"sample 7 holds nan at \(2,\), expected finite float32 numbers"),
    "an infinity": (npz_bytes(x=_with(-np.inf), y=Y), r"sample 7 holds -inf at \(2,\)"),
    "a label the network has no output for": (
        npz_bytes(x=X, y=Y + 1),
        r"label 3 at index \d+, expected 0 to 2: the network has 3",
    ),
    "a negative label": (npz_bytes(x=X, y=Y - 1), r"label -1 at index \d+, expected 0 to 2"),
    "labels that are fractions": (npz_bytes(x=X, y=Y / 2), "labels of type float64 .*expected one integer per sample"),
    "fewer labels": (npz_bytes(x=X, y=Y[:9]), "60 samples and 9 labels"),
    "too few samples for a batch": (npz_bytes(x=X[:9], y=Y[:9]), "batch_size, line 8: received 8, expected at most 7"),
    "samples of another shape": (
        npz_bytes(x=X.reshape(30, 8), y=Y[:30]),
        r"\[model\], line 1: does not take samples of 8",
    ),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz(smelt_command: Smelt, case: str) -> None:
    data, says = BAD_NPZ[case]
    Path("r.toml").write_text(NPZ_RECIPE)
    Path("a.npz").write_bytes(data)
    assert re.search(says, smelt_command("run", "r.toml").error)
    assert not Path("runs").exists()


def test_a_folder_that_is_missing(smelt_command: Smelt, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'nowhere': no such folder, expected one with" in smelt_command("run", recipe, "--data", "nowhere").error
    recipe.write_text(RECIPE.replace('"idx"', '"nowhere"'))
    assert re.search("nowhere': no such folder", smelt_command("run", recipe).error)
    recipe.write_text(RECIPE.replace('folder = "idx"\n', ""))
    monkeypatch.setenv("SMELT_DATA", "elsewhere")
    assert "'elsewhere' (named by SMELT_DATA): no such folder" in smelt_command("run", recipe).error
    assert "'nowhere': no such file or folder" in smelt_command("train", "--model", "lenet5", "--data", "nowhere").error
    assert "none.toml: cannot be read" in smelt_command("run", "none.toml").error


BAD_RECIPE = {
    ("epochs = 2", "epoch = 2"): "small.toml: unknown key 'epoch' in [train], line 14; did you mean 'epochs'?",
    ("epochs = 2", 'epochs = "2"'): 'small.toml: [train] epochs, line 14: received "2" (text), expected an integer ≥ 1',
    ("batch_size = 20", "batch_size = 121"): "batch_size, line 15: received 121, expected at most 120, the samples",
    ("0.01", "-1"): "small.toml: [optimizer] lr, line 19: expected a finite number ≥ 0, received -1",
    ("784", "785"): "[model], line 1: does not take samples of 1×28×28: layer 1 (Linear): ",
    ("Flatten", "Flaten"): "small.toml: [model], line 1: ",
}


@pytest.mark.parametrize("change", BAD_RECIPE, ids=lambda c: c[1])
def test_recipe_beside_a_finished_run(smelt_command: Smelt, recipe: Path, change: tuple[str, str]) -> None:
    assert smelt_command("run", recipe).status == 0
    before = digest(Path("runs"))
    recipe.write_text(RECIPE.replace(*change))
    assert BAD_RECIPE[change] in smelt_command("run", recipe, "--force").error
    assert digest(Path("runs")) == before


def test_options_that_are_wrong(smelt_command: Smelt, recipe: Path) -> None:
    for arguments, says in (
        (("run",), "Missing argument 'RECIPE'"),
        (("run", recipe, "--epochs", "0"), "Invalid value for '--epochs'"),
        (("run", recipe, "--epoch", "1"), "No such option"),
        (("ruin", recipe), "No such command 'ruin'"),
        (
            ("train", "--model", "lenet", "--data", "idx"),
            "[model] name: received \"lenet\" (text); did you mean 'lenet5'?",
        ),
        (("train", "--model", "lenet5", "--data", "idx", "--set", "lr=1"), "expected table.key=value"),
        (("train", "--model", "lenet5", "--data", "idx", "--set", "train.epoch=1"), "did you mean 'epochs'?"),
        (("summary", "lenet"), "did you mean 'lenet5'?"),
        (("summary", "lenet5", "--input", "1,x"), "expected sizes of at least 1"),
        (("summary", "lenet5", "--input", "1,5,5"), "layer 3 (Conv2d): "),
        (("eval", "none.smelt"), "none.smelt': cannot be read: No such file"),
    ):
        assert says in smelt_command(*arguments).error, arguments


def spoilt_models(good: bytes) -> dict[str, bytes]:
    size = int.from_bytes(good[:8], "little")
    flipped = bytearray(good)
    flipped[-5] ^= 1
    return {
        "empty": b"",
        "truncated": good[:-20],
        "longer": good + b"\0",
        "a header of 2^63": b"\xff" * 7 + b"\x7f" + good[8:],
        "a header larger than the file": (size + len(good)).to_bytes(8, "little") + good[8:],
        "a flipped bit": bytes(flipped),
        "another layer": good.replace(b"Linear", b"Conv2d"),
        "another format": b"PK\3\4" + bytes(200),
        "plain safetensors": b"\x02" + bytes(7) + b"{}",
    }


@pytest.mark.parametrize("command", ["eval", "summary"])
def test_model_files(smelt_command: Smelt, recipe: Path, command: str) -> None:
    smelt.save(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "good.smelt", {"input_shape": [1, 28, 28]})
    arguments = ("--data", "idx") if command == "eval" else ()
    assert smelt_command(command, "good.smelt", *arguments).status == 0
    for name, data in spoilt_models(Path("good.smelt").read_bytes()).items():
        Path("bad.smelt").write_bytes(data)
        text = smelt_command(command, "bad.smelt", *arguments).error
        assert "bad.smelt'" in text, name
    Path("folder").mkdir()
    assert "expected" in smelt_command(command, "folder", *arguments).error


def test_a_loss_that_becomes_nan(smelt_command: Smelt, recipe: Path) -> None:
    smelt_command("run", recipe)
    before = digest(Path("runs"))
    recipe.write_text(RECIPE.replace('"adam"', '"sgd"').replace("0.01", "1e30"))
    text = smelt_command("run", recipe, "--force", "--json").error
    assert "step" in text and "1e+30" in text and re.search("nan|inf", text)
    after = digest(Path("runs"))
    assert {k: after[k] for k in before} == before


LIMITED = """
import resource, sys
from smelt.cli import folder
from smelt.cli.main import main
room, late = int(sys.argv[1]), sys.argv[2] == "at the end"
def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
if late:  # as if the disk had become full while the run went on
    results = folder.RunFolder.results
    folder.RunFolder.results = lambda self: [limit(), results(self)][1]
else:
    limit()
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE as Linux keeps it")
@pytest.mark.parametrize("when", ["at once", "at the end"])
@pytest.mark.parametrize("room", [100, 2000, 50_000])
def test_no_room_to_save(smelt_command: Smelt, recipe: Path, room: int, when: str) -> None:
    assert smelt_command("run", recipe).status == 0
    before = digest(Path("runs"))
    command = [sys.executable, "-c", LIMITED, str(room), when, "run", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    place = r"[\w./-]+" if when == "at once" else "model.smelt"
    assert re.match(rf"smelt: error: 'runs/small/{place}': .*File too large", done.stderr), done.stderr
    after = digest(Path("runs"))
    assert {k: after[k] for k in before} == before
    assert not [name for name in after if name.endswith(".tmp") or ".results" in name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_into_a_full_disk() -> None:
    done = subprocess.run(
        f"{sys.executable} -m smelt summary lenet5 >/dev/full", shell=True, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "No space left on device" in done.stderr


def test_a_folder_that_cannot_be_made(smelt_command: Smelt, recipe: Path) -> None:
    Path("file").write_text("")
    assert "file" in smelt_command("run", recipe, "--out", "file/below").error
    assert json.loads(smelt_command("run", recipe, "--json").out)["test"]["count"] == 50
