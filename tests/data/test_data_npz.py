import zipfile

import numpy as np
import pytest
from data_files import npy_bytes, npz_bytes, zip_bytes

from smelt.data import DataError, archive, npz

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
Y = np.arange(4)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 3), }\n"


def wrong(path, data: bytes, message: str, **names) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        npz(path, **names)
    assert str(path) in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_what_numpy_writes(tmp_path, packed):
    arrays = {
        f"{kind}{n}": np.arange(-6, 6).reshape(3, 4).astype(f"{kind}{n}")
        for kind, sizes in (("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)), ("f", (2, 4, 8)))
        for n in sizes
    }
    arrays |= {
        "bool": np.array([True, False]),
        "big": np.arange(6, dtype=">i4"),
        "fortran": np.asfortranarray(X),
        "scalar": np.float64(3),
        "empty": np.zeros((0, 5)),
        "sub/folder é": X,
    }
    (tmp_path / "f.npz").write_bytes(npz_bytes(packed, **arrays))
    got = archive.read(tmp_path / "f.npz")
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype.newbyteorder("=") and got[name].dtype.isnative


def test_dataset(tmp_path):
    path = tmp_path / "set.npz"
    path.write_bytes(npz_bytes(x=X, y=Y.astype(np.uint8), images=np.asfortranarray(X)))
    ds = npz(path)
    assert repr(ds) == "ArrayDataset('set', 4 samples of (2, 3) float32, labels int64)"
    assert npz(path, y=None).y is None
    np.testing.assert_array_equal(npz(path, x="images").batch([2])[0], X[2:3])


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        '{"shape":(4,2,3),"fortran_order":False,"descr":"<f4"}',
        "{ 'fortran_order' : False , 'descr' : '<f4', 'shape' : ( 4, 2,3 , ) , }   \n",
    ],
)
def test_headers_that_others_write(tmp_path, header, version):
    (tmp_path / "f").write_bytes(zip_bytes(("x.npy", npy_bytes(header, X.tobytes(), version))))
    np.testing.assert_array_equal(npz(tmp_path / "f", y=None).x, X)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        HEADER.replace("<f4", "|O"),
        HEADER.replace("'<f4'", "[('a', '<f4')]"),
        HEADER.replace("<f4", "<f16"),
        HEADER.replace("<f4", "<U3"),
        HEADER.replace("<f4", "<M8[s]"),
        HEADER.replace("<f4", "<f4,<f4"),
        HEADER.replace("(4, 2, 3)", "(-4, 2, 3)"),
        HEADER.replace("(4, 2, 3)", "(4,, 2, 3)"),
        HEADER.replace("(4, 2, 3)", "(4 2, 3)"),
        HEADER.replace("(4, 2, 3)", "(4, 2, ٣)"),
        HEADER.replace("(4, 2, 3)", "(4, 2, 3) + ()"),
        HEADER.replace("(4, 2, 3)", "24"),
        HEADER.replace("(4, 2, 3)", "'4'"),
        HEADER.replace("False", "0"),
        HEADER.replace("}", "'shape': (4, 2, 3)}"),
        HEADER.replace("}", "'more': 1}"),
        HEADER + "{}",
        "(" * 4000 + HEADER,
        HEADER.replace("'<f4'", "__import__('os').abort()"),
    ],
)
def test_headers_that_are_refused(tmp_path, header):
    data = npy_bytes(header.encode("latin1", "replace").decode("latin1"), X.tobytes())
    wrong(tmp_path / "f", zip_bytes(("x.npy", data)), "array 'x': header", y=None)


def test_python_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        npz(tmp_path / "f.npz", y=None)


def test_lies_and_damage(tmp_path):
    path, good = tmp_path / "f.npz", npy_bytes(HEADER, X.tobytes())
    whole = npz_bytes(x=X, labels=Y)
    wrong(path, whole, "no array named 'y', expected one of: 'x', 'labels'$")
    wrong(path, zip_bytes(), "no array named 'x', expected one of: nothing")
    wrong(path, b"PK\3\4 no", "corrupt or truncated")
    wrong(path, whole[:-1], "corrupt or truncated")
    wrong(
        path,
        zip_bytes(("x.npy", good[:-4])),
        "4×2×3 of float32 declared, 96 bytes, expected the 92 bytes",
        y=None,
    )
    wrong(path, zip_bytes(("x.npy", good + b"\0")), "expected the 97 bytes present", y=None)
    wrong(path, zip_bytes(("x.npy", good), ("x.npy", good)), "two arrays named 'x'")
    wrong(path, zip_bytes(("x.npy", good), ("x", good)), "two arrays named 'x'")
    wrong(path, zip_bytes(("x.npy", good), flags=1), "encrypted", y=None)
    wrong(path, zip_bytes(("x.npy", good), method=zipfile.ZIP_LZMA), "compressed in another way", y=None)
    wrong(path, zip_bytes(("x.npy", good), size=len(good) + 4), "stored in", y=None)
    huge = zip_bytes(("x.npy", good), size=1 << 31, packed_size=1 << 31)
    wrong(path, huge, "2147483648 bytes declared, expected at most the file's", y=None)
    wrong(path, zip_bytes(("x.npy", b"\x93NUMP")), "starts with .*expected an NPY array", y=None)
    wrong(path, zip_bytes(("x.npy", whole)), "starts with '50 4b.*expected an NPY array", y=None)
    wrong(path, zip_bytes(("x.npy", npy_bytes(HEADER, version=9))), "of version 1, 2 or 3", y=None)
    wrong(path, zip_bytes(("x.npy", npy_bytes(HEADER, length=5000))), "ends inside the NPY header", y=None)
    long = npy_bytes(HEADER, version=2, length=2**32 - 1)
    wrong(path, zip_bytes(("x.npy", long)), "a header of 4294967295 bytes declared, expected at most", y=None)
    flipped = bytearray(whole)
    flipped[whole.index(X.tobytes()) + 5] ^= 4
    wrong(path, bytes(flipped), "corrupt or truncated .*CRC", y="labels")


def test_labels_are_checked_like_any_others(tmp_path):
    wrong_pixels = X.copy()
    wrong_pixels[2, 1, 0] = np.nan
    (tmp_path / "f.npz").write_bytes(npz_bytes(x=wrong_pixels, y=Y, few=Y[:3]))
    with pytest.raises(DataError, match=r"^f: x: sample 2 holds nan at \(1, 0\)"):
        npz(tmp_path / "f.npz")
