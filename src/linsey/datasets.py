"""A small data set, and splits and permutations that are the same on every machine.

NumPy guarantees the streams of its bit generators permanently, but not those of
`Generator.permutation`. Permutations here are therefore derived from raw random
numbers.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

__all__ = ["digits", "permutation", "split"]

_DIGITS = Path(__file__).parent / "data" / "digits.csv.gz"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 1797 handwritten digits, which ship with linsey.

    Returns:
        Images, uint8 of shape (1797, 8, 8, 1) with values from 0 to 16, and their
        digits, int32 of shape (1797,).

    Example:
        >>> images, labels = digits()
        >>> images.shape, int(images.max()), labels[:5].tolist()
        ((1797, 8, 8, 1), 16, [0, 1, 2, 3, 4])

    References:
        E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI
        Machine Learning Repository, https://doi.org/10.24432/C50P49 (CC BY 4.0).
    """
    with gzip.open(_DIGITS) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    return table[:, :64].reshape(-1, 8, 8, 1), table[:, 64].astype(np.int32)


def split(
    x: np.ndarray, y: np.ndarray, test_fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hold out the same fraction of each class for testing.

    Args:
        x: examples of shape (examples, ...).
        y: class numbers of shape (examples,).
        test_fraction: fraction of each class that is held out, in [0, 1].
        seed: decides which examples are held out.

    Returns:
        `x_train`, `y_train`, `x_test` and `y_test`, each in the order of the input.

    Example:
        >>> x_train, y_train, x_test, y_test = split(*digits())
        >>> len(x_train), len(x_test)
        (1438, 359)
    """
    held_out = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        count = round(test_fraction * len(members))
        order = permutation(len(members), seed, int(label))
        held_out[members[order[:count]]] = True
    return x[~held_out], y[~held_out], x[held_out], y[held_out]


def permutation(count: int, *entropy: int) -> np.ndarray:
    """Return a random permutation that depends only on the given numbers.

    Args:
        count: number of items.
        *entropy: non-negative integers, such as a seed and an epoch.

    Returns:
        Indices of shape (count,).

    Example:
        >>> permutation(8, 0, 0).tolist()
        [0, 3, 7, 5, 1, 2, 6, 4]
    """
    bits = np.random.Philox(np.random.SeedSequence(entropy))
    return np.argsort(bits.random_raw(count), kind="stable")
