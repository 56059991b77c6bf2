import numpy as np
import pytest

from smelt.data import DataError
from smelt.data.augment import Compose, RandomCrop, RandomHorizontalFlip, RandomShift


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch(n: int = 200, dtype: str = "u1") -> np.ndarray:
    return rng(1).integers(1, 200, (n, 3, 5, 7)).astype(dtype)


def shifted(image: np.ndarray, dy: int, dx: int, mode: str, p: int) -> bytes:
    padded = np.pad(image, [(0, 0), (p, p), (p, p)], mode=mode)
    return padded[:, p + dy : p + dy + 5, p + dx : p + dx + 7].tobytes()


@pytest.mark.parametrize("dtype", ["u1", "f4", "i2"])
@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_is_a_window_of_the_padded_image(mode, dtype):
    x = batch(dtype=dtype)
    out = RandomCrop(2, mode=mode)(x, rng())
    assert out.shape == x.shape and out.dtype == x.dtype
    steps = range(-2, 3)
    seen = set()
    for before, after in zip(x, out, strict=True):
        places = [(dy, dx) for dy in steps for dx in steps if shifted(before, dy, dx, mode, 2) == after.tobytes()]
        assert places
        seen.update(places)
    assert len(seen) == 25


def test_shift_by_axis_fill_and_one_dimension():
    x = batch()
    out = RandomShift((0, 3), fill=9)(x, rng())
    assert any((a[:, :, :3] == 9).all() for a in out) and not any((a[:, 0] == 9).all() for a in out)
    sound = rng().normal(size=(50, 1, 40)).astype(np.float32)
    moved = RandomShift(5)(sound, rng())
    assert moved.shape == sound.shape
    assert all(np.isin(a, [*b.ravel(), 0]).all() for a, b in zip(moved, sound, strict=True))
    volume = rng().normal(size=(4, 1, 3, 4, 5))
    assert RandomShift(1)(volume, rng()).shape == RandomShift((1,))(volume, rng()).shape == volume.shape


def test_flip_mirrors_about_the_given_share():
    x = batch(1000)
    out = RandomHorizontalFlip(0.25)(x, rng())
    same = (out == x).all((1, 2, 3))
    np.testing.assert_array_equal(out[~same], x[~same][..., ::-1])
    assert 200 < (~same).sum() < 300
    np.testing.assert_array_equal(RandomHorizontalFlip(0)(x, rng()), x)
    np.testing.assert_array_equal(RandomHorizontalFlip(1)(x, rng()), x[..., ::-1])


def test_nothing_is_written_to_and_the_generator_decides():
    x = batch()
    before = x.copy()
    both = Compose(RandomCrop(1), RandomHorizontalFlip(), RandomShift(1))
    first, again, other = both(x, rng(3)), both(x, rng(3)), both(x, rng(4))
    np.testing.assert_array_equal(x, before)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert Compose()(x, rng()) is x
    assert repr(both) == "Compose(RandomCrop(1), RandomHorizontalFlip(p=0.5), RandomShift(1))"


@pytest.mark.parametrize("step", [RandomCrop(0), RandomShift(0), RandomShift((0, 0))])
def test_zero_changes_nothing(step):
    np.testing.assert_array_equal(step(batch(), rng()), batch())


@pytest.mark.parametrize("n", [0, 1])
def test_sizes_zero_and_one(n):
    assert Compose(RandomCrop(2), RandomHorizontalFlip(), RandomShift(9))(batch(n), rng()).shape == (
        n,
        3,
        5,
        7,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(-1), "RandomCrop: padding -1, expected a whole number"),
        (lambda: RandomCrop(1.5), "RandomCrop: padding 1.5"),
        (lambda: RandomCrop(1, mode="edge"), "mode 'edge', expected"),
        (lambda: RandomShift((1, -1)), "RandomShift: pixels -1"),
        (lambda: RandomShift(True), "RandomShift: pixels True"),
        (lambda: RandomHorizontalFlip(2), "p 2, expected a probability"),
        (lambda: RandomHorizontalFlip(float("nan")), "p nan"),
        (lambda: RandomCrop(5, mode="reflect")(batch(), rng()), "5 pixels reflected of images 5×7"),
        (lambda: RandomCrop(1)(np.zeros((4, 3, 8)), rng()), r"a batch of shape \(4, 3, 8\), expected"),
        (lambda: RandomShift(1)(np.zeros((4, 3)), rng()), "RandomShift: a batch"),
        (lambda: RandomShift((1, 1))(np.zeros((4, 3, 8)), rng()), "and 2 axes or more"),
        (lambda: RandomHorizontalFlip()(np.zeros((4, 3)), rng()), "RandomHorizontalFlip: a batch"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(DataError, match=message):
        make()
