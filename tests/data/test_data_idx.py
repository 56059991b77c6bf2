import os
import struct

import numpy as np
import pytest
from data_files import CODES, gz, idx_bytes

from smelt.data import DataError, idx

SMALL = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)


def wrong(path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        idx.read(path)
    assert str(path) in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 28, 28), (0, 28, 28), (1, 1, 1, 1, 1)])
def test_every_type_and_shape(tmp_path, dtype, shape, packed):
    array = (np.random.default_rng(0).normal(size=shape) * 100).astype(np.int8).astype(dtype)
    data = idx_bytes(array)
    (tmp_path / "f").write_bytes(gz(data) if packed else data)
    got = idx.read(tmp_path / "f")
    np.testing.assert_array_equal(got, array)
    assert got.dtype == dtype and got.dtype.isnative and got.flags.c_contiguous and got.flags.writeable


def test_gzip_in_several_members_and_with_zero_padding(tmp_path):
    data = idx_bytes(SMALL)
    (tmp_path / "f").write_bytes(gz(data[:9]) + gz(b"") + gz(data[9:]) + bytes(512))
    np.testing.assert_array_equal(idx.read(tmp_path / "f"), SMALL)


def test_lies_and_damage(tmp_path):
    data, path = idx_bytes(SMALL), tmp_path / "f"
    wrong(path, b"\x89PNG\r\n\x1a\n", "starts with 89 50 4e 47, expected IDX: 00 00, a type code")
    wrong(path, b"\0\0\x0a\2" + data[4:], "starts with 00 00 0a 02")
    wrong(path, b"\0\0\x08\0", "starts with 00 00 08 00")
    wrong(path, data + b"\0", "19 bytes, expected 18 for 2×3 of uint8")
    wrong(path, data[:-1], "17 bytes, expected 18 for 2×3 of uint8")
    wrong(path, gz(data + b"\0"), "data goes on after 2×3 of uint8")
    wrong(path, gz(data[:-1]), "ends after 5 bytes of data, expected 6 for 2×3")
    wrong(path, gz(data[:6]), "ends inside the IDX header, expected 8 bytes and found 2")
    wrong(path, gz(data)[:-3], "corrupt or truncated gzip")
    broken = bytearray(gz(data))
    broken[-6] ^= 1
    wrong(path, bytes(broken), "corrupt or truncated gzip .*CRC")
    wrong(path, gz(data) + b"more", "corrupt or truncated gzip")
    wrong(path, struct.pack(">4B2I", 0, 0, 8, 2, 1 << 31, 1 << 31), "2147483648×2147483648 declared")
    wrong(path, struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1), "declared, expected a size that fits")
    wrong(path, b"\0\0\x08\xff" + b"\xff" * 1020, "255 dimensions declared, expected at most 32")
    wrong(path, b"", "ends inside the IDX header, expected 4 bytes and found 0")


def test_what_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        idx.read(tmp_path / "absent")
    with pytest.raises(DataError, match="not a regular file"):
        idx.read(tmp_path)
    with pytest.raises(DataError, match="cannot be opened"):
        idx.read("a\0b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataError, match="not a regular file"):
            idx.read(tmp_path / "pipe")
