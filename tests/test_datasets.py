import hashlib
from pathlib import Path

import numpy as np
import pytest

from linsey import datasets

FOLDER = Path(datasets.__file__).parent / "data"


def test_digits_are_the_published_file():
    file = FOLDER / "digits.csv.gz"
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith("09f66e6debdee2cd")
    images, labels = datasets.digits()
    assert (images.shape, images.dtype) == ((1797, 8, 8, 1), np.uint8)
    assert (images.min(), images.max(), labels.dtype) == (0, 16, np.int32)
    counts = np.bincount(labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_split_holds_out_a_fraction_of_each_class_and_loses_nothing():
    images, labels = datasets.digits()
    x_train, y_train, x_test, y_test = datasets.split(images, labels)
    assert (x_train.shape, x_test.shape) == ((1438, 8, 8, 1), (359, 8, 8, 1))
    shares = np.bincount(y_test) / np.bincount(labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.003)
    assert len(y_train) == 1438
    rows = np.concatenate([x_train, x_test]).reshape(1797, 64)
    everything = images.reshape(1797, 64)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(everything, axis=0))


def test_all_or_nothing_can_be_held_out():
    x, y = np.arange(6), np.array([0, 1, 0, 1, 0, 1])
    assert [len(part) for part in datasets.split(x, y, 1.0)] == [0, 0, 6, 6]
    assert [len(part) for part in datasets.split(x, y, 0.0)] == [6, 6, 0, 0]
    one, other = (datasets.split(x, y, 0.34, seed)[2] for seed in (0, 1))
    assert one.tolist() != other.tolist()


def test_credit_is_shipped_with_the_digits():
    notice = (FOLDER / "NOTICE").read_text()
    for word in ("Alpaydin", "Kaynak", "UCI", "CC BY 4.0"):
        assert word in notice


@pytest.mark.parametrize("count", [1, 2, 100])
def test_permutation_is_one_and_depends_on_every_number(count):
    order = datasets.permutation(count, 3, 4)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, datasets.permutation(count, 3, 4))
    if count == 100:
        assert not np.array_equal(order, datasets.permutation(count, 3, 5))
        assert not np.array_equal(order, datasets.permutation(count, 4, 3))


def test_permutation_never_changes():
    """A run of today continues on the NumPy of tomorrow."""
    assert datasets.permutation(8, 0, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
