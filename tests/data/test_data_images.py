import io
import sys

import numpy as np
import pytest
from data_files import mutations, png_header

from smelt.data import DataError, image_folder

pytest.importorskip("PIL")
from PIL import Image


def draw(mode: str = "RGB", size: tuple[int, int] = (7, 5), seed: int = 0) -> Image.Image:
    shape = (size[1], size[0], len(mode)) if mode in ("RGB", "RGBA") else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None).convert(mode)


@pytest.fixture
def folder(tmp_path):
    for kind in ("b", "a", "c"):
        (tmp_path / kind).mkdir()
        for n in range(2):
            draw(seed=ord(kind) + n).save(tmp_path / kind / f"{n}.png")
    return tmp_path


def test_folders_are_classes_in_order_of_name(folder):
    (folder / "b" / "more").mkdir()
    draw(seed=9).save(folder / "b" / "more" / "3.BMP")
    for name in ("a/.hidden.png", "a/notes.txt", "a/Thumbs.db", "README.md"):
        (folder / name).write_text("no picture")
    (folder / ".git").mkdir()
    ds = image_folder(str(folder))
    assert ds.classes == ("a", "b", "c") and ds.y.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert ds.x.shape == (7, 3, 5, 7) and ds.x.dtype == np.uint8 and ds.name == folder.name
    np.testing.assert_array_equal(ds.x[1].transpose(1, 2, 0), np.asarray(draw(seed=ord("a") + 1)))
    np.testing.assert_array_equal(ds.x[4].transpose(1, 2, 0), np.asarray(draw(seed=9)))
    assert ds.batch([0])[0].max() <= 1


def test_sizes(folder):
    draw(size=(14, 10)).save(folder / "c" / "0.png")
    with pytest.raises(DataError, match=r"c/0.png': 10×14 pixels, expected 5×7 like the first: give size="):
        image_folder(folder)
    assert image_folder(folder, 8).x.shape == (6, 3, 8, 8)
    ds = image_folder(folder, (10, 14))
    np.testing.assert_array_equal(ds.x[4].transpose(1, 2, 0), np.asarray(draw(size=(14, 10))))
    for size in (0, -1, (3,), (3, 0), (1 << 14, 1 << 14), 2.5, "8"):
        with pytest.raises(DataError, match="image_folder: size"):
            image_folder(folder, size)


def test_gray_stays_one_channel_and_a_mixture_becomes_three(tmp_path):
    (tmp_path / "a").mkdir()
    draw("L").save(tmp_path / "a" / "0.png")
    draw("L").convert("1").save(tmp_path / "a" / "1.png")
    draw("L").convert("LA").save(tmp_path / "a" / "2.png")
    ds = image_folder(tmp_path)
    assert ds.x.shape == (3, 1, 5, 7)
    np.testing.assert_array_equal(ds.x[0, 0], np.asarray(draw("L")))
    draw("RGBA").save(tmp_path / "a" / "3.png")
    draw().convert("P").save(tmp_path / "a" / "4.gif")
    draw().save(tmp_path / "a" / "5.jpg")
    ds = image_folder(tmp_path)
    assert ds.x.shape == (6, 3, 5, 7)
    np.testing.assert_array_equal(ds.x[0], np.repeat(np.asarray(draw("L"))[None], 3, 0))
    np.testing.assert_array_equal(ds.x[3].transpose(1, 2, 0), np.asarray(draw("RGBA"))[..., :3])


def test_what_is_missing(tmp_path, folder):
    with pytest.raises(DataError, match=r"absent': .*expected a folder"):
        image_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"0.png': .*expected a folder"):
        image_folder(folder / "a" / "0.png")
    with pytest.raises(DataError, match="no folders in it, expected one for each class"):
        image_folder(folder / "a")
    (folder / "d").mkdir()
    with pytest.raises(DataError, match=r"d': no pictures in it, expected some \(.bmp"):
        image_folder(folder)


def test_pictures_that_cannot_be_used(folder):
    target = folder / "b" / "1.png"
    cases = {
        b"": "cannot be read",
        b"GIF89a": "cannot be read",
        b"%!PS-Adobe-3.0 EPSF-3.0": "cannot be read",
        png_header(60_000, 60_000): "expected a whole picture",
        png_header(9000, 9000): "9000×9000 pixels of kind L, expected 8 bits per channel and at most",
        png_header(7, 5): "cannot be read",
    }
    for data, message in cases.items():
        target.write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            image_folder(folder)
        assert str(target) in str(caught.value)
    Image.fromarray(np.zeros((5, 7), np.uint16)).save(target)
    with pytest.raises(DataError, match="of kind I;16, expected 8 bits"):
        image_folder(folder)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "ppm", "tiff", "webp"])
def test_spoilt_pictures_are_refused_or_load_in_shape(tmp_path, kind):
    (tmp_path / "a").mkdir()
    buffer = io.BytesIO()
    draw().save(buffer, kind)
    data, path = buffer.getvalue(), tmp_path / "a" / f"0.{kind}"
    refused = 0
    for spoilt in [*(data[:n] for n in range(0, len(data), 7)), *mutations(data, 300, seed=1)]:
        path.write_bytes(spoilt)
        try:
            ds = image_folder(tmp_path, 6)
        except DataError as error:
            refused += 1
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
        else:
            assert ds.x.shape in ((1, 3, 6, 6), (1, 1, 6, 6)) and ds.x.dtype == np.uint8
    assert refused > 20


def test_without_pillow_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install smelt\[images\]"):
        image_folder(folder)
