"""Modules that the tests of this folder are about."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import linsey.treex as tx

X = jnp.ones((5, 2))


class Dense(tx.Module):
    """A layer that learns its shape."""

    w: Any = tx.Parameter.node()
    calls: Any = tx.State.node()

    def __init__(self, units):
        self.units = units
        self.calls = jnp.array(0)

    def __call__(self, x):
        if self.initializing():
            self.w = jax.random.normal(tx.next_key(), (x.shape[-1], self.units))
        self.calls = self.calls + 1
        return x @ self.w


class Two(tx.Module):
    """Two layers, called in the reverse of their names' order."""

    def __init__(self):
        self.a, self.b = Dense(3), Dense(4)

    def __call__(self, x):
        return self.a(self.b(x))


class Compact(tx.Module):
    """Two layers built where they are used."""

    @tx.compact
    def __call__(self, x):
        x = tx.Linear(4)(x)
        return tx.Linear(3)(x)


def stream(key, number):
    keys = []
    for _ in range(number):
        out, key = jax.random.split(key)
        keys.append(out)
    return keys
