"""Orders that are functions of numbers, today and on any machine.

NumPy promises the streams of its bit generators for good, but not those of
`Generator.permutation`: so the order is that of the raw random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def permutation(count: int, *entropy: int) -> np.ndarray:
    """A random order of `count` things that depends on the given numbers alone.

    Args:
        count: how many things.
        *entropy: non-negative integers, such as a seed and an epoch.

    Returns:
        Indices, shape (count,).

    Example:
        >>> permutation(5, 0, 1).tolist() == permutation(5, 0, 1).tolist()
        True
    """
    bits = np.random.Philox(np.random.SeedSequence(entropy))
    return np.argsort(bits.random_raw(count), kind="stable")


def training_batches(
    count: int, batch_size: int, seed: int, first_step: int
) -> Iterator[np.ndarray]:
    """Indices of one batch after the other, without end, from any step on.

    An epoch has `count // batch_size` steps. The examples left over change with the
    order of each epoch, so none is left out for good.

    Args:
        count: number of examples.
        batch_size: examples per step, at most `count`.
        seed: with the epoch it decides the order.
        first_step: steps done already.

    Yields:
        Indices, shape (batch_size,).
    """
    steps_per_epoch = count // batch_size
    epoch, done = divmod(first_step, steps_per_epoch)
    while True:
        order = permutation(count, seed, epoch)
        for step in range(done, steps_per_epoch):
            yield order[step * batch_size : (step + 1) * batch_size]
        epoch, done = epoch + 1, 0
