"""Files made to do harm: every prefix, flipped bits, seeded mutations, bombs, and code hidden in data."""

import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import gz, idx_bytes, mutations, npy_bytes, npz_bytes, png_header, zeros_deflated, zip_bytes

from smelt.data import DataError, archive, idx

ROOT = Path(__file__).resolve().parents[2]
ARRAY = np.arange(200, dtype=np.int16).reshape(10, 5, 4)
OTHER = np.arange(10, dtype=np.uint8)

FORMATS: dict[str, tuple[bytes, Callable[[Path], object], int]] = {
    "idx": (idx_bytes(ARRAY), idx.read, 16),
    "idx.gz": (gz(idx_bytes(ARRAY)), idx.read, 10),
    "npz": (npz_bytes(x=ARRAY, y=OTHER), archive.read, 160),
    "npz, deflated": (npz_bytes(True, x=ARRAY, y=OTHER), archive.read, 160),
}
every_format = pytest.mark.parametrize("kind", FORMATS)


def same(kind: str, got: object) -> bool:
    if isinstance(got, dict):
        return all(np.array_equal(got[k], v) for k, v in {"x": ARRAY, "y": OTHER}.items() if k in got)
    return np.array_equal(got, ARRAY) and got.dtype == ARRAY.dtype


def attempt(kind: str, path: Path, data: bytes) -> object:
    """Return what loads, or None when it is refused as documented."""
    path.write_bytes(data)
    try:
        return FORMATS[kind][1](path)
    except DataError as error:
        assert str(path) in str(error) and "expected" in str(error) and len(str(error).splitlines()) == 1
        return None


@every_format
def test_every_prefix_is_refused(tmp_path, kind):
    data = FORMATS[kind][0]
    assert same(kind, attempt(kind, tmp_path / "f", data))
    for n in range(len(data)):
        assert attempt(kind, tmp_path / "f", data[:n]) is None, n


@every_format
def test_every_flipped_bit_of_a_header_is_refused_or_harmless(tmp_path, kind):
    data, _, header = FORMATS[kind]
    places = list(range(header))
    if kind.startswith("npz"):
        places += range(data.index(b"PK\1\2"), len(data))
    for place in places:
        for bit in range(8):
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << bit
            got = attempt(kind, tmp_path / "f", bytes(spoilt))
            if kind == "idx" and got is not None:  # no checksum: type and shape may be read otherwise
                assert got.nbytes == ARRAY.nbytes
            else:
                assert got is None or same(kind, got), (place, bit)


@every_format
def test_two_thousand_mutations(tmp_path, kind):
    refused = 0
    for spoilt in mutations(FORMATS[kind][0], 2000, seed=2024):
        got = attempt(kind, tmp_path / "f", spoilt)
        refused += got is None
        # A checksum guards what is compressed or zipped: it is refused, or it is right.
        assert got is None or kind == "idx" or same(kind, got)
    assert refused > 500


def bombs(folder: Path) -> dict[str, str]:
    """Write the bombs; return name → how to read it."""
    zeros, size = zeros_deflated(64)
    tail = struct.pack("<II", 0, size & 0xFFFFFFFF)
    honest = struct.pack(">4BI", 0, 0, 8, 1, size)
    big = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }"
    made = {
        "idx of 2^62 bytes": struct.pack(">4B2I", 0, 0, 8, 2, 1 << 31, 1 << 31),
        "idx of 255 dimensions": b"\0\0\x0e\xff" + b"\xff" * 1020,
        "idx of 4 GiB in a short gz": gz(struct.pack(">4BI", 0, 0, 8, 1, 2**32 - 1) + bytes(100)),
        "idx of 1 GiB at 1000:1": gz(honest) + gz(b"")[:10] + zeros + tail,
        "idx of 10 bytes and 1 GiB more": gz(idx_bytes(OTHER)) + gz(b"")[:10] + zeros + tail,
        "idx in gz in gz": gz(gz(idx_bytes(OTHER))),
        "npz of 2^62 bytes": zip_bytes(("x.npy", npy_bytes(big % "1152921504606846976, 2", bytes(64)))),
        "npz of no bytes but 2^62": zip_bytes(("x.npy", npy_bytes(big % "0, 4611686018427387904"))),
        "npz of 3000 dimensions": zip_bytes(("x.npy", npy_bytes(big % ("1," * 3000)))),
        "npz of 1 GiB at 1000:1": zip_bytes(("x.npy", zeros), method=8, size=size),
        "npz that says 100 bytes": zip_bytes(("x.npy", zeros), method=8, size=100),
        "npz of a header of 4 GiB": zip_bytes(("x.npy", npy_bytes("", version=2, length=2**32 - 1))),
        "npz of brackets": zip_bytes(("x.npy", npy_bytes("(" * 9999))),
        "npz of digits": zip_bytes(("x.npy", npy_bytes(big % ("9" * 9000)))),
        "npz of blanks": zip_bytes(("x.npy", npy_bytes("{" + " " * 9900))),
        "npz of 100000 arrays": zip_bytes(*((f"{n:06}.npy", b"") for n in range(100_000))),
        "npz in npz": zip_bytes(("x.npy", zip_bytes(("x.npy", npy_bytes(big % "1,", bytes(8)))))),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    how = {name: name[:3] for name in made}
    for name, picture in {
        "png of 3.6 gigapixels": (60000, 60000),
        "png of 67 megapixels": (8193, 8192),
    }.items():
        (folder / name / "class").mkdir(parents=True)
        (folder / name / "class" / "1.png").write_bytes(png_header(*picture))
        how[name] = "png"
    return how


def run_python(code: str, *arguments: str) -> dict[str, object]:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept on Linux alone")
def test_bombs_are_refused_quickly_and_in_little_memory(tmp_path):
    pytest.importorskip("PIL")
    how = bombs(tmp_path)
    results = run_python(
        """
        import json, pathlib, resource, sys
        from PIL import Image
        from smelt.data import DataError, archive, idx, image_folder
        Image.init()
        readers = {"idx": idx.read, "npz": archive.read, "png": image_folder}
        folder, how = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results = {}
        for name, kind in how.items():
            before = peak()
            try:
                readers[kind](folder / name)
                outcome = "loaded"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            results[name] = outcome, (peak() - before) >> 10
        print(json.dumps(results))
        """,
        str(tmp_path),
        json.dumps(how),
    )
    assert set(results) == set(how)
    for name, (outcome, grown) in results.items():
        assert outcome.startswith("DataError: "), (name, outcome)
        assert "expected" in outcome
        assert grown < 64, (name, grown)


def test_reading_runs_nothing(tmp_path):
    for name, (data, _, _) in FORMATS.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "code").write_bytes(zip_bytes(("x.npy", npy_bytes("{'descr': __import__('os').abort()}"))))
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    seen = run_python(
        """
        import json, pathlib, sys
        from smelt.data import DataError, archive, idx
        seen = []
        watched = ("import", "exec", "compile", "pickle.", "subprocess.", "os.system", "socket.", "ctypes.")
        sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(watched) else None)
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                (idx if path.name.startswith("idx") else archive).read(path)
            except DataError:
                pass
        print(json.dumps(seen))
        """,
        str(tmp_path),
    )
    assert seen == []


def test_no_reader_names_pickle_or_eval():
    for path in (ROOT / "smelt" / "data").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "allow_pickle", "eval(", "exec(", "np.load("):
            assert word not in text, (path.name, word)
