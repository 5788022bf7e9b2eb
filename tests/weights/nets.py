"""Small networks of linsey, with variables that are not those of new ones."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linsey.linen as nn
from linsey.checkpoint import flatten, nest


class Net(nn.Module):
    momentum: float = 0.8
    epsilon: float = 1e-5
    unbiased_variance: bool = True

    @nn.nowrap
    def norm(self, train: bool, name: str) -> nn.BatchNorm:
        return nn.BatchNorm(
            not train, momentum=self.momentum, epsilon=self.epsilon, name=name,
            unbiased_variance=self.unbiased_variance,
        )  # fmt: skip


class Mlp(Net):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(self.norm(train, "bn1")(nn.Dense(8, name="fc1")(x)))
        x = nn.relu(nn.Dense(8, name="fc2")(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, name="fc3")(x)


class Cnn(Net):
    @nn.compact
    def __call__(self, x, train=False):
        conv = functools.partial(nn.Conv, 6, use_bias=False)
        x = nn.relu(self.norm(train, "bn1")(conv((3, 3), name="conv1")(x)))
        x = conv((3, 3), feature_group_count=6, name="depthwise")(x)
        x = nn.relu(self.norm(train, "bn2")(conv((1, 1), name="pointwise")(x)))
        return nn.Dense(3, name="fc")(x.mean((1, 2)))


class Block(Net):
    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(4, (3, 3), use_bias=False, name="conv1")(x)
        y = nn.relu(self.norm(train, "bn1")(y))
        y = nn.Conv(4, (3, 3), use_bias=False, name="conv2")(y)
        return nn.relu(x + self.norm(train, "bn2")(y))


class ResNet(Net):
    @nn.compact
    def __call__(self, x, train=False):
        options = self.momentum, self.epsilon, self.unbiased_variance
        x = nn.Conv(4, (3, 3), name="stem")(x)
        for index in range(2):
            x = Block(*options, name=f"layer_{index}")(x, train)
        return nn.Dense(3, name="fc")(x.mean((1, 2)))


class Attentive(Net):
    @nn.compact
    def __call__(self, x, train=False):
        x = self.norm(train, "bn1")(nn.Dense(8, name="fc1")(x))
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.LayerNorm(1e-5, name="ln")(x)
        return nn.Dense(8, name="fc2")(x).mean(1)


EXAMPLES = {Mlp: (16, 5), Cnn: (4, 5, 5, 3), ResNet: (3, 4, 4, 3), Attentive: (6, 3, 5)}


def example(net: type) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=EXAMPLES[net])
    return x.astype(np.float32)


def random_variables(module: Any, *inputs: Any, seed: int = 0, **kwargs: Any) -> Any:
    """Variables of other values than new ones, with variances that are positive."""
    drawn = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        lambda *inputs: module.init(jax.random.key(0), *inputs, **kwargs), *inputs
    )
    flat = {}
    for path, spec in flatten(shapes).items():
        value = 0.4 * drawn.normal(size=spec.shape)
        if path.endswith("var"):
            value = np.exp(value)
        elif path.endswith("scale"):
            value = 1 + 0.3 * value
        elif path.endswith("kernel"):  # values neither grow nor vanish with the depth
            value = 4 * value / np.sqrt(np.prod(spec.shape[:-1]))
        flat[path] = jnp.asarray(value, spec.dtype)
    return nest(flat)
