"""Random keys of seeds, and names."""

from __future__ import annotations

import jax
import numpy as np

import linsey.treex as tx


def test_keys_of_seeds():
    np.testing.assert_array_equal(tx.Key(True), [0, 1])
    assert tx.Key(marker := object()) is marker
    keys = tx.iter_split(tx.Key(42), 3)
    assert isinstance(keys, tuple)
    np.testing.assert_array_equal(keys, jax.random.split(jax.random.PRNGKey(42), 3))
