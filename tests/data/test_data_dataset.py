import numpy as np
import pytest

from smelt.data import ArrayDataset, DataError, digits, from_arrays
from smelt.data.randomness import Stream, order


def images(n: int = 6) -> np.ndarray:
    return np.arange(n * 8, dtype=np.uint8).reshape(n, 2, 2, 2)


def test_samples_are_kept_as_given_and_labels_become_int64():
    x = images()
    ds = ArrayDataset(x, np.arange(6, dtype=np.uint8), "tiny", ["a", "b", "c", "d", "e", "f"])
    assert ds.x is x
    assert ds.y.dtype == np.int64
    assert (len(ds), ds.sample_shape, ds.classes[5]) == (6, (2, 2, 2), "f")
    assert repr(ds) == "ArrayDataset('tiny', 6 samples of (2, 2, 2) uint8, labels int64, 6 classes)"


def test_indexing_gives_one_float_sample_or_a_dataset():
    ds = ArrayDataset(images(), np.arange(6), scale=1 / 4)
    x, y = ds[-1]
    assert x.dtype == np.float32 and y == 5
    np.testing.assert_array_equal(x, ds.x[5].astype(np.float32) / 4)
    assert ds[2:4].y.tolist() == [2, 3] and np.shares_memory(ds[2:4].x, ds.x)
    assert ds[[5, 0]].y.tolist() == [5, 0]
    assert ds[ds.y > 3].y.tolist() == [4, 5]
    assert len(ds[[]]) == 0
    assert ds[[1]].scale == 0.25
    assert [int(y) for _, y in ds] == [0, 1, 2, 3, 4, 5]
    for wrong in (6, -7, [6], [[1]], [0.5]):
        with pytest.raises(IndexError):
            ds[wrong]


def test_take():
    ds = ArrayDataset(images(), name="tiny")
    assert len(ds.take(6)) == 6 and len(ds.take(0)) == 0
    for n in (7, -1):
        with pytest.raises(DataError, match=rf"^tiny: take\({n}\), expected 0 to 6"):
            ds.take(n)


def test_split_is_a_partition_that_depends_on_the_seed_alone():
    ds = ArrayDataset(np.arange(100.0)[:, None], np.arange(100))
    rest, part = ds.split(0.25, seed=3)
    assert (len(rest), len(part)) == (75, 25)
    assert sorted([*rest.y, *part.y]) == list(range(100))
    assert part.y.tolist() == sorted(part.y) and part.y.tolist() == part.x[:, 0].tolist()
    assert part.y.tolist() == ds.split(0.25, seed=3)[1].y.tolist() != ds.split(0.25, seed=4)[1].y.tolist()
    for fraction in (0, 1, -0.1, 1.5, 0.001, 0.999, float("nan")):
        with pytest.raises(DataError, match="leaves samples on both sides"):
            ds.split(fraction)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">i2", ">f4", "?"])
@pytest.mark.parametrize("channels", [False, True])
def test_batches_are_float32_for_every_type(dtype, channels):
    x = np.arange(1, 49).reshape(6, 2, 2, 2).astype(dtype)
    ds = ArrayDataset(x, scale=[0.5, 2] if channels else 0.5, offset=[-1, 3] if channels else -1)
    got, y = ds.batch([4, 1, 1])
    assert got.dtype == np.float32 and got.flags.c_contiguous and y is None
    scale, offset = (np.reshape([[0.5, 2], [-1, 3]], (2, 2, 1, 1))) if channels else (0.5, -1)
    np.testing.assert_array_equal(got, x[[4, 1, 1]].astype(np.float64) * scale + offset)


def test_large_numbers_lose_their_mean_before_they_lose_their_fraction():
    seconds = 1.7e9 + np.arange(8) / 8
    got, _ = ArrayDataset(seconds[:, None]).normalized(1.7e9, 1.0).batch(slice(None))
    np.testing.assert_allclose(got[:, 0], np.arange(8) / 8, atol=1e-6)


def test_normalized_composes_and_works_per_channel():
    ds = ArrayDataset(images(), scale=1 / 255)
    once = ds.normalized([0.1, 0.2], [0.5, 2.0])
    x = images() / 255
    expected = (x - np.reshape([0.1, 0.2], (2, 1, 1))) / np.reshape([0.5, 2.0], (2, 1, 1))
    np.testing.assert_allclose(once.batch(slice(None))[0], expected, rtol=1e-5, atol=1e-6)
    twice = once.normalized(1, 2)
    np.testing.assert_allclose(twice.batch(slice(None))[0], (expected - 1) / 2, rtol=1e-5, atol=1e-6)
    assert ds.scale == 1 / 255 and once.x is ds.x


def test_columns_of_a_table_are_channels():
    table = np.random.default_rng(0).normal(size=(50, 3)) * [1, 10, 100] + [5, 6, 7]
    got, _ = ArrayDataset(table).normalized(table.mean(0), table.std(0)).batch(slice(None))
    np.testing.assert_allclose(got.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(got.std(0), 1, atol=1e-6)


def test_float_targets_are_batched_as_float32_and_never_shared():
    ds = ArrayDataset(images().astype(np.float32), np.linspace(0, 1, 6))
    x, y = ds.batch(slice(0, 3))
    assert y.dtype == np.float32
    x[:] = y[:] = 9
    assert ds.x.max() < 48 and ds.y.max() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArrayDataset(images(), [0] * 5, "d"), "d: 6 samples and 5 labels, expected as many of each"),
        (
            lambda: ArrayDataset(images(), [0, 1, 2, 3, 2, 1], "d", 3),
            r"d: label 3 at index 3, expected 0 to 2 \(3 cla",
        ),
        (
            lambda: ArrayDataset(images(), [0, 1, -1, 3, 2, 1], "d", 3),
            r"d: label -1 at index 2, expected 0 to 2",
        ),
        (
            lambda: ArrayDataset(images(2), [[0, 1], [0, 7]], "d", 3),
            r"d: label 7 at index 1, 1, expected 0 to 2",
        ),
        (lambda: ArrayDataset(images(), np.zeros(6), "d", 3), "d: labels of type float64, expected integers"),
        (
            lambda: ArrayDataset(images(1), np.array([2**63], np.uint64), "d"),
            r"label 9223372036854775808, expected",
        ),
        (lambda: ArrayDataset(images(), classes=0), "dataset: no classes"),
        (lambda: ArrayDataset(["a", "b"], name="d"), "d: x: <U1 of shape"),
        (lambda: ArrayDataset(np.zeros(3, complex)), "dataset: x: complex128"),
        (lambda: ArrayDataset(np.array([None, 1])), "dataset: x: object"),
        (lambda: ArrayDataset(3.0), r"dataset: x: float64 of shape \(\)"),
        (lambda: ArrayDataset([[1], [1, 2]]), "dataset: x: not an array"),
        (lambda: ArrayDataset(images(), list("abcdef")), "dataset: y: <U1"),
        (
            lambda: ArrayDataset(images(), [0, 1, 2, 3, 4, np.inf]),
            "dataset: y: sample 5 holds inf, expected finite",
        ),
        (
            lambda: ArrayDataset(images(), scale=[1, 2, 3]),
            "dataset: scale: shape 3, expected one number or 2",
        ),
        (lambda: ArrayDataset(np.zeros(4), scale=[1, 2]), "dataset: scale: shape 2, expected one number$"),
        (lambda: ArrayDataset(images(), offset=np.nan), r"dataset: offset: nan, expected finite"),
        (lambda: ArrayDataset(images()).normalized(0, 0), "dataset: std 0.0, expected numbers above 0"),
        (lambda: ArrayDataset(images()).split(0.5, seed=-1), "seed: -1, expected an integer from 0 to 2"),
    ],
)
def test_wrong_data_is_refused_in_one_line(make, message):
    with pytest.raises(DataError, match=message) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_sample_that_is_not_finite_is_named(dtype, bad):
    x = np.zeros((700, 1, 28, 28), dtype)  # more than is checked at once
    x[601, 0, 3, 4] = x[650] = bad
    with pytest.raises(DataError, match=rf"^d: x: sample 601 holds {bad} at \(0, 3, 4\), expected finite"):
        ArrayDataset(x, name="d")


def test_numbers_beyond_float32_are_refused():
    with pytest.raises(DataError, match=r"sample 1 holds 1e\+300"):
        ArrayDataset([0.0, 1e300])


def test_size_zero():
    ds = ArrayDataset(np.zeros((0, 1, 4, 4)), np.zeros(0, int), classes=3)
    assert len(ds) == 0 and ds.batch(slice(None))[0].shape == (0, 1, 4, 4)
    assert ArrayDataset(np.zeros((3, 0))).batch([0, 2])[0].shape == (2, 0)


def test_messages_cannot_break_a_line_or_drive_a_terminal():
    assert str(DataError("a\nb\x1b[2Jé×")) == "a\\nb\\x1b[2Jé×"


def test_order_is_a_permutation_with_a_stream_per_use():
    for n in (0, 1, 2, 3, 64, 1000):
        assert sorted(order(n, 5, 1)) == list(range(n))
    assert len({tuple(order(50, s, e, k)) for s in (0, 1) for e in (0, 1) for k in Stream}) == 12
    # Known values: a run resumed under another version must see the same order.
    assert order(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    first = np.array([order(4, s)[0] for s in range(2000)])
    assert np.bincount(first).min() > 430


def test_from_arrays_is_the_constructor():
    ds = from_arrays([[1, 2]], [0], name="n", classes=["a"], scale=2, offset=1)
    assert ds.batch([0])[0].tolist() == [[3, 5]] and ds.name == "n"


def test_digits():
    pytest.importorskip("sklearn")
    train, test = digits(0.1, seed=1)
    assert (len(train), len(test)) == (1617, 180)
    assert train.x.dtype == np.uint8 and train.sample_shape == (1, 8, 8)
    assert train.batch(slice(None))[0].max() == 1
    assert (train.name, test.name) == ("digits train", "digits test") and len(test.classes) == 10


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install smelt\[sklearn\]"):
        digits()
