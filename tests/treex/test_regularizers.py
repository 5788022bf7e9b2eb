"""Regularizers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import linsey.treex as tx


def test_regularizers():
    tree = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    r = tx.regularizers
    assert r.L1L2(l1=2.0, l2=0.5)(parameters=tree) == 12.0 + 7.0
    np.testing.assert_allclose(r.L1()(parameters=tree), 0.06, rtol=1e-6)
    np.testing.assert_allclose(r.L2()(parameters=tree), 0.14, rtol=1e-6)
    assert r.L1L2()(parameters=tree) == 0.0
    assert [r.L1().name, r.L2().name, r.L1L2().name] == ["l1", "l2", "l1_l2"]
    model = tx.BatchNorm().init(0, jnp.ones((2, 2)))
    assert r.L1(1.0)(parameters=model.parameters()) == 2.0  # the scales
