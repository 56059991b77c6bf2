import functools
import hashlib
import http.server
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from data_files import REAL, gz, idx_bytes

from smelt.data import DataError, cache, classic, fashion_mnist, mnist

STEMS = {"train-images": "idx3", "train-labels": "idx1", "t10k-images": "idx3", "t10k-labels": "idx1"}


def arrays(n: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    made: dict[str, np.ndarray] = {}
    for stem in STEMS:
        shape = (n, 28, 28) if "images" in stem else (n,)
        made[stem] = rng.integers(0, 256 if "images" in stem else 10, shape, dtype=np.uint8)
    return made


def write(folder: Path, made: dict[str, np.ndarray], join: str = "-", packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in made.items():
        name = f"{stem}{join}{STEMS[stem]}-ubyte" + (".gz" if packed else "")
        (folder / name).write_bytes(gz(idx_bytes(array)) if packed else idx_bytes(array))
    return folder


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SMELT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("join", ["-", "."])
@pytest.mark.parametrize("inner", ["", "mnist"])
def test_a_named_folder(tmp_path, join, packed, inner):
    made = arrays()
    write(tmp_path / "d" / inner, made, join, packed)
    train, test = mnist(tmp_path / "d")
    np.testing.assert_array_equal(train.x[:, 0], made["train-images"])
    np.testing.assert_array_equal(test.y, made["t10k-labels"])
    assert train.x.dtype == np.uint8 and train.y.dtype == np.int64
    assert (train.name, test.name, train.scale, train.classes[3]) == (
        "mnist train",
        "mnist test",
        1 / 255,
        "3",
    )


def test_the_environment_names_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "sets" / "fashion-mnist", arrays(5))
    write(tmp_path / "sets" / "mnist", arrays(6))
    monkeypatch.setenv("SMELT_DATA", str(tmp_path / "sets"))
    assert len(mnist()[0]) == 6 and len(fashion_mnist()[0]) == 5
    assert len(mnist(tmp_path / "sets" / "fashion-mnist")[0]) == 5
    monkeypatch.setenv("SMELT_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"absent' \(named by SMELT_DATA\): no such folder, expected one with"):
        mnist()


def test_missing_files_are_named(tmp_path):
    folder = write(tmp_path / "d", arrays())
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"/d': no file 't10k-labels-idx1-ubyte' or 't10k-labels-idx1-ubyte.gz'"):
        mnist(folder)
    with pytest.raises(DataError, match=r"absent': no such folder"):
        mnist(tmp_path / "absent")
    with pytest.raises(DataError, match=r"cache/smelt/mnist': no whole file 'train-images-idx3-ubyte.gz'"):
        mnist(download=False)


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        ("train-labels", lambda y: y[:-1], "11 labels, expected 12, one for each image"),
        (
            "train-labels",
            lambda y: np.where(np.arange(12) == 7, 10, y).astype("u1"),
            "label 10 at index 7, expected 0 to",
        ),
        ("t10k-labels", lambda y: y.astype("i2"), "12 of int16, expected n of uint8"),
        ("t10k-labels", lambda y: y[:, None], "12×1 of uint8, expected n of uint8"),
        ("train-images", lambda x: x[:, 1:], "12×27×28 of uint8, expected n×28×28 of uint8"),
        ("train-images", lambda x: x.astype("f4"), "12×28×28 of float32, expected"),
        ("train-images", lambda x: x[:0], "0×28×28 of uint8, expected"),
        ("t10k-images", lambda x: x[0], "28×28 of uint8, expected n×28×28"),
    ],
)
def test_what_is_not_mnist_is_refused(tmp_path, stem, change, message):
    made = arrays()
    made[stem] = change(made[stem])
    with pytest.raises(DataError, match=f"{message.split(',')[0]}") as caught:
        mnist(write(tmp_path / "d", made))
    assert message in str(caught.value) and str(tmp_path / "d") in str(caught.value)


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="the data sets are not on this computer")
def test_the_real_sets():
    train, test = mnist(REAL / "mnist")
    assert (train.x.shape, test.x.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    pixels = train.x.reshape(-1)
    assert abs(pixels.mean() / 255 - 0.1307) < 1e-4 and abs(pixels.std() / 255 - 0.3081) < 1e-4
    assert np.bincount(test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    clothes, _ = fashion_mnist(REAL)
    assert np.bincount(clothes.y).tolist() == [6000] * 10 and clothes.classes[9] == "Ankle boot"
    with pytest.raises(DataError, match="holds fashion-mnist, expected mnist"):
        mnist(REAL / "fashion-mnist")
    with pytest.raises(DataError, match="holds mnist, expected fashion-mnist"):
        fashion_mnist(REAL / "mnist")
    for collection in (classic.MNIST, classic.FASHION_MNIST):
        for name, published in collection.files.items():
            data = (REAL / collection.name / name).read_bytes()
            assert published == cache.Published(len(data), hashlib.sha256(data).hexdigest())


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.asked.append(self.path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server with a small set in the place of MNIST; gives (its folder, the paths asked for)."""
    folder = write(tmp_path / "www", arrays())
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        files = {}
        for name in classic.MNIST.files:
            data = (folder / name).read_bytes()
            files[name] = cache.Published(len(data), hashlib.sha256(data).hexdigest())
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(classic, "MNIST", cache.Collection("mnist", url, files))
        yield folder, server.asked
        server.shutdown()
        thread.join()


def kept(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache/smelt/mnist").glob("*"))


def test_download_once(tmp_path, published):
    _, asked = published
    train, _ = mnist()
    np.testing.assert_array_equal(train.x[:, 0], arrays()["train-images"])
    assert len(asked) == 4 and kept(tmp_path) == sorted(classic.MNIST.files)
    mnist(download=False)
    mnist()
    assert len(asked) == 4
    (tmp_path / "cache/smelt/mnist/train-labels-idx1-ubyte.gz").write_bytes(b"cut off")
    mnist()
    assert len(asked) == 5


NAME = "train-images-idx3-ubyte.gz"


def test_what_arrives_wrong_is_not_kept(tmp_path, published):
    folder, _ = published
    good = (folder / NAME).read_bytes()
    for data, message in (
        (good[:-1], "bytes, sha256"),
        (good + b"\0", "over"),
        (good[:-1] + b"\xff", "bytes, sha256"),
        (b"<html>sign in</html>", "gave 20 bytes"),
    ):
        (folder / NAME).write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            mnist()
        assert NAME in str(caught.value) and kept(tmp_path) == []
    (folder / NAME).unlink()
    with pytest.raises(DataError, match=r"404.*put the file there yourself"):
        mnist()
    assert kept(tmp_path) == []


def test_a_full_disk_leaves_what_was_there(tmp_path, published, monkeypatch):
    mnist()
    target = tmp_path / "cache/smelt/mnist" / NAME
    target.write_bytes(b"old")
    before = kept(tmp_path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(DataError, match="No space left on device"):
                mnist()
        assert target.read_bytes() == b"old" and kept(tmp_path) == before


def test_what_killed_downloads_left_is_removed_in_time(tmp_path, published):
    folder = tmp_path / "cache/smelt/mnist"
    folder.mkdir(parents=True)
    old, new = folder / f".{NAME}.1.part", folder / f".{NAME}.2.part"
    old.write_bytes(b"1")
    new.write_bytes(b"2")
    os.utime(old, (0, time.time() - 90_000))
    mnist()
    assert not old.exists() and new.exists()


def test_no_server_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        classic, "MNIST", cache.Collection("mnist", "http://127.0.0.1:9/", {NAME: cache.Published(1, "0")})
    )
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/train.*failed .*expected the file: put the file there"):
        mnist()
    (tmp_path / "cache").rename(tmp_path / "moved")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        mnist()


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_folder() == Path("/x/smelt")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setattr(sys, "platform", "linux")
        assert cache.cache_folder() == Path("/home/someone/.cache/smelt")
        monkeypatch.setattr(sys, "platform", "darwin")
        assert cache.cache_folder() == Path("/home/someone/Library/Caches/smelt")
