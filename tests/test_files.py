"""Model files: exact round trips, the same bytes each time, and one clear error for anything else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import smelt
from smelt import files, models, nn
from smelt.errors import FileError

ZOO: dict[str, Callable[[], nn.Module]] = {
    "mnist_cnn": models.mnist_cnn,
    "lenet5": models.lenet5,
    "ds_cnn": models.ds_cnn,
    "resnet8": models.resnet8,
    "autoencoder": models.autoencoder,
    "mobilenet_v1": lambda: models.mobilenet_v1(0.25),
    "linear": lambda: nn.Linear(3, 2),
    "nothing": lambda: nn.ReLU(),
    "norms": lambda: nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3), nn.Dropout(0.25), nn.Linear(3, 1, bias=False)),
}


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.BatchNorm1d(2))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.smelt"
    smelt.save(small(), path)
    return path


@pytest.mark.parametrize("name", ZOO)
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    model = ZOO[name]()
    smelt.save(model, tmp_path / "a")
    again = smelt.load(tmp_path / "a")
    assert repr(again) == repr(model) and not again.training
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key in before:
        assert before[key].tobytes() == after[key].tobytes(), key
    smelt.save(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bits_that_are_no_numbers_survive(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    model.weight.numpy()[0] = np.array([0x7FC00123, 0xFF800000, 0x80000000, 1], np.uint32).view(np.float32)
    smelt.save(model, tmp_path / "m")
    assert smelt.load(tmp_path / "m").weight.numpy().tobytes() == model.weight.numpy().tobytes()


def test_the_file_is_safetensors_and_keeps_extra(tmp_path: Path) -> None:
    model = small()
    smelt.save(model, tmp_path / "m", extra={"classes": ["a", "ü"], "accuracy": 0.5})
    arrays = safetensors.numpy.load_file(tmp_path / "m")
    assert {k: a.tobytes() for k, a in arrays.items()} == {k: a.tobytes() for k, a in model.state_dict().items()}
    assert files.describe(tmp_path / "m")["extra"] == {"classes": ["a", "ü"], "accuracy": 0.5}


def test_a_compiled_model_saves_what_it_is(tmp_path: Path) -> None:
    model = models.lenet5()
    x = np.zeros((2, 1, 28, 28), np.float32)
    smelt.compile(model)(x)
    smelt.save(model, tmp_path / "m")
    assert all(
        (a == b).all()
        for a, b in zip(model.state_dict().values(), smelt.load(tmp_path / "m").state_dict().values(), strict=True)
    )


def test_what_cannot_be_rebuilt_is_not_written(tmp_path: Path) -> None:
    class Mine(nn.Module):
        pass

    with pytest.raises(ValueError, match="Mine"):
        smelt.save(Mine(), tmp_path / "m")
    layer = nn.Linear(3, 2)
    layer.weight = smelt.Parameter(np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match=r"weight: expected float32\[2, 3\], received float32\[5, 3\]"):
        smelt.save(layer, tmp_path / "m")
    with pytest.raises(ValueError, match="JSON"):
        smelt.save(small(), tmp_path / "m", extra={"x": object()})
    assert not list(tmp_path.iterdir())


# --- reading -------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(FileError) as info:
        smelt.load(path)
    text = str(info.value)
    assert "\n" not in text and str(path) in text and len(text) < 1000
    return text


def test_every_prefix_is_refused(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "cut"
    for n in range(len(data)):
        path.write_bytes(data[:n])
        refused(path)
    path.write_bytes(data + b"\0")
    refused(path)


def test_every_flipped_bit_is_refused(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    path = tmp_path / "flipped"
    for i in range(len(data)):
        for bit in range(8):
            data[i] ^= 1 << bit
            path.write_bytes(data)
            refused(path)
            data[i] ^= 1 << bit


def test_random_damage_is_refused(saved: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = np.frombuffer(saved.read_bytes(), np.uint8)
    path = tmp_path / "damaged"
    for _ in range(300):
        data = good.copy()
        at = rng.integers(0, len(data), rng.integers(1, 9))
        data[at] = rng.integers(0, 256, len(at))
        if (data == good).all():
            continue
        path.write_bytes(data.tobytes())
        refused(path)


def test_missing_and_other_things(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none")
    assert "not a regular file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")
    (tmp_path / "other").write_bytes(safetensors.numpy.save({"a": np.zeros(3, np.float32)}))
    assert "not a Smelt model" in refused(tmp_path / "other")
    files.write(tmp_path / "kind", "checkpoint", {}, {})
    assert "it is a 'checkpoint' file, expected 'model'" in refused(tmp_path / "kind")


def forged(header: dict[str, Any] | str, payload: bytes = b"", config: Any = None, **info: Any) -> bytes:
    """Return a file with a right digest, whatever the rest of it says."""
    if config is None:
        config = {"type": "Linear", "args": {"in_features": 1, "out_features": 1, "bias": False}}
    meta = {"sha256": "0" * 64, "kind": "model", "version": 1, "meta": {"config": config, "extra": {}}, **info}
    text = json.dumps(meta, separators=(",", ":"))
    head = json.dumps({"__metadata__": {"smelt": text}}, separators=(",", ":"))[:-1]
    tail = header if isinstance(header, str) else json.dumps(header)[1:-1]
    full = (head + ("," + tail if tail else "") + "}").encode()
    data = struct.pack("<Q", len(full)) + full + payload
    digest = hashlib.sha256(data).hexdigest().encode()
    at = data.index(b"0" * 64)
    return data[:at] + digest + data[at + 64 :]


def tensor(begin: Any, end: Any, shape: Any = (1, 1), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DEEP = "[" * 100_000 + "]" * 100_000
HUGE = {"type": "Linear", "args": {"in_features": 2**31 - 1, "out_features": 2**31 - 1}}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "header 2**64-1": (b"\xff" * 8 + files._PREFIX, "the header claims"),
    "header as large as allowed": (struct.pack("<Q", 4 << 20) + files._PREFIX, "the header claims"),
    "header of 0": (struct.pack("<Q", 0) + files._PREFIX + b"0" * 99, "damaged"),
    "duplicate names": (
        forged('"weight":%s,"weight":%s' % ((json.dumps(tensor(0, 4)),) * 2), b"abcd"),
        "'weight' appears twice",
    ),
    "duplicate keys within": (
        forged('"weight":{"dtype":"F32","dtype":"F32","shape":[1,1],"data_offsets":[0,4]}', b"abcd"),
        "'dtype' appears twice",
    ),
    "overlap": (forged({"weight": tensor(0, 4), "b": tensor(0, 4)}, b"abcd"), "begins at byte 0, expected 4"),
    "hole": (forged({"weight": tensor(0, 4), "b": tensor(8, 12)}, b"x" * 12), "begins at byte 8, expected 4"),
    "out of range": (forged({"weight": tensor(0, 1 << 40, (1 << 38,))}, b"abcd"), "expected a place"),
    "overflowing shape": (forged({"weight": tensor(0, 4, (1 << 62, 1 << 62, 4))}, b"abcd"), "expected a place"),
    "negative": (forged({"weight": tensor(-4, 0)}, b""), "not what they should be"),
    "negative shape": (forged({"weight": tensor(0, 4, (-1, -1))}, b"abcd"), "not what they should be"),
    "true as a size": (forged({"weight": tensor(0, 4, (True, 1))}, b"abcd"), "not what they should be"),
    "float offsets": (forged({"weight": tensor(0.0, 4.0)}, b"abcd"), "not what they should be"),
    "unknown dtype": (forged({"weight": tensor(0, 4, dtype="F31")}, b"abcd"), "not what they should be"),
    "payload left over": (forged({"weight": tensor(0, 4)}, b"abcdefgh"), "tensors of 4 bytes in all"),
    "extra key": (forged({"weight": {**tensor(0, 4), "x": 1}}, b"abcd"), "expected dtype, shape and"),
    "a list as a tensor": (forged({"weight": [1]}, b"abcd"), "expected dtype, shape and"),
    "version": (forged({"weight": tensor(0, 4)}, b"abcd", version=2), "format version 2"),
    "version true": (forged({"weight": tensor(0, 4)}, b"abcd", version=True), "format version True"),
    "unknown layer": (forged({}, config={"type": "os.system", "args": {}}), "expected one of"),
    "config no dict": (forged({}, config=[1]), "no network can be made"),
    "terabytes asked for": (forged({}, config=HUGE), "no network can be made"),
    "many modules": (
        forged({}, config={"type": "Sequential", "args": {"layers": [{"type": "ReLU"}] * 20_000}}),
        "at most 10,000 modules",
    ),
    "wrong size": (forged({"weight": tensor(0, 8, (2, 1))}, b"abcdefgh"), "expected float32[1, 1], received"),
    "wrong dtype": (forged({"weight": tensor(0, 8, (1, 1), "F64")}, b"abcdefgh"), "expected float32[1, 1], received"),
    "missing tensor": (forged({}), "no network can be made"),
    "deep header": (forged('"a":' + DEEP), "damaged"),
    "no JSON": (forged('"a":nothing'), "damaged"),
    "many digits": (forged('"a":' + "9" * 100_000), "damaged"),
    "40,000 tiny tensors": (
        forged({f"t{i}": tensor(i, i + 1, (1,), "U8") for i in range(40_000)}, b"x" * 40_000),
        "no network can be made",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    data, expected = HOSTILE[name]
    path = tmp_path / "hostile"
    path.write_bytes(data)
    assert expected in refused(path)


LIMITED = """
import resource, sys, time
import smelt, smelt.files
from smelt.errors import FileError
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
seen = []
sys.addaudithook(lambda event, args: seen.append(event))
for path in sys.argv[1:]:
    try:
        smelt.load(path)
    except FileError as e:
        continue
    sys.exit(f"{path} was read")
bad = {"exec", "compile", "os.system", "subprocess.Popen", "socket.connect", "pickle.find_class", "ctypes.dlopen"}
print(sorted(bad & set(seen)), [e for e in seen if e == "import"])
"""


def test_hostile_files_in_little_memory_run_nothing(tmp_path: Path) -> None:
    paths = []
    for i, (data, _) in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{i}")
        paths[-1].write_bytes(data)
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as f:
        f.write(forged({"weight": tensor(0, 4)}, b"abcd"))
        f.truncate(1 << 40)
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths), str(sparse)], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[] []"), run.stderr


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in which 64 KB can be written at most, or skip."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    if mounted:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_file(full_disk: Path) -> None:
    path = full_disk / "model.smelt"
    smelt.save(small(), path)
    old = path.read_bytes()
    with pytest.raises(
        FileError, match=r"model\.smelt.*cannot be written: .*the file that was there is unchanged"
    ) as e:
        smelt.save(nn.Linear(300, 300), path)
    assert "\n" not in str(e.value)
    cause = e.value.__cause__
    assert isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EFBIG)
    assert path.read_bytes() == old and os.listdir(full_disk) == ["model.smelt"]
    smelt.save(small(), path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_at_any_call_leaves_the_old_file(
    failing: str, error: BaseException, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error

    old = saved.read_bytes()
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(FileError if isinstance(error, OSError) else KeyboardInterrupt):
        smelt.save(nn.Linear(3, 3), saved)
    assert saved.read_bytes() == old and os.listdir(saved.parent) == [saved.name]


def test_order_of_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        calls.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "fsync file")
        real_fsync(fd)

    def replace(a: Any, b: Any) -> None:
        calls.append("replace")
        assert os.path.dirname(a) == os.path.dirname(b)
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    smelt.save(small(), tmp_path / "m")
    assert calls == ["fsync file", "replace", "fsync folder"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file or directory"):
        smelt.save(small(), tmp_path / "none" / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="it is a folder"):
        smelt.save(small(), tmp_path / "folder")
    (tmp_path / "folder" / "m").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "m")
    smelt.save(small(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and smelt.load(tmp_path / "folder" / "m")
