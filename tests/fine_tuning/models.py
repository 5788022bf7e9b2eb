"""Small models that layers are found in by every way there is."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import linsey.linen as nn

KEY = jax.random.key(0)
EVAL = {"rngs": KEY, "train": False}
# A layer whose initial values are drawn by no program.
Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.ones)


class Network(nn.Module):
    """A backbone with batch norm and dropout, and a head, in one compact method."""

    features: int = 4

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(self.encode(x, train))
        return nn.Dense(2, name="head")(x)

    @nn.compact
    def encode(self, x, train: bool):
        return Block(self.features, name="backbone")(x, train)


class Block(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train: bool):
        x = Dense(self.features)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


class Stack(nn.Module):
    """Layers in a list that `setup` assigns."""

    sizes: Sequence[int] = (3, 3, 3)

    def setup(self):
        self.blocks = [nn.Dense(size) for size in self.sizes]
        self.embed = nn.Embed(5, 3)
        self.head = nn.Dense(2)

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = nn.tanh(block(x))
        return self.head(x)

    def score(self, x):
        return self.embed.attend(self.embed(x))


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.tanh(nn.Dense(3, name="inner")(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        steps = nn.scan(
            Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return steps(name="steps")(x, None)[0]


class Lifted(nn.Module):
    """Two equal blocks below a transform of the class."""

    transform: str

    @nn.compact
    def __call__(self, x):
        cls = getattr(nn, self.transform)(Step)
        x, _ = cls(name="first")(x)
        x, _ = cls(name="second")(x)
        return nn.Dense(2, name="head")(x)


class Scale(nn.Module):
    """Multiplies with a number, so that it tells where it is called."""

    start: float = 2.0

    @nn.compact
    def __call__(self, x, *args):
        y = x * self.param("scale", lambda key: np.float32(self.start))
        return (y, None) if args else y


def made(model, *inputs, seed=0, **kwargs):
    """Variables that no program has to be compiled for."""
    init = functools.partial(model.init, **kwargs)
    shapes = jax.eval_shape(init, {"params": KEY, "dropout": KEY}, *inputs)
    draw = np.random.default_rng(seed).uniform
    return jax.tree.map(
        lambda s: jnp.asarray(draw(0.1, 0.6, s.shape).astype(s.dtype)), shapes
    )


def x_of(*shape):
    return jnp.asarray(np.random.default_rng(7).normal(size=shape).astype(np.float32))
