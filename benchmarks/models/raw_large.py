"""ResNet-50, a transformer and a perceptron in raw JAX, as one writes them by hand.

A model is a function of `get`, which returns parameters by name, and of its input. Each
takes the arguments of the modules of Linen in `large`: `init(key, x)` and
`apply(variables, x, mutable)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.models.large import Sizes

Get = Callable[..., jax.Array]
INITIALIZERS = jax.nn.initializers


class Model:
    """A function of named arrays as a model with parameters and statistics."""

    def __init__(self, function: Callable[[Get, Get, Any], Any]) -> None:
        self.function = function

    def init(self, key: jax.Array, x: Any) -> dict[str, Any]:
        """Draw the parameters, and create the statistics."""
        params, stats = {}, {}

        def draw(name, init_fn, *shape):
            folded = jax.random.fold_in(key, len(params))
            params[name] = init_fn(folded, shape, jnp.float32)
            return params[name]

        def average(name, value):
            stats[name] = jnp.zeros_like(value)
            return value

        self.function(draw, average, x)
        return {"params": params, "batch_stats": stats}

    def apply(self, variables: dict[str, Any], x: Any, mutable: Any) -> tuple[Any, Any]:
        """Run the model, and update its statistics."""
        stats = {}

        def read(name, *_):
            return variables["params"][name]

        def average(name, value):
            stats[name] = 0.99 * variables["batch_stats"][name] + 0.01 * value
            return value

        return self.function(read, average, x), {"batch_stats": stats}


def dense(get: Get, name: str, x: Any, features: int) -> Any:
    """Apply a dense layer."""
    shape = x.shape[-1], features
    kernel = get(f"{name}/kernel", INITIALIZERS.lecun_normal(), *shape)
    return x @ kernel + get(f"{name}/bias", INITIALIZERS.zeros, features)


def resnet(sizes: Sizes) -> Model:
    """Bottleneck blocks with the stride in the 3x3 convolution."""

    def convolve(get, name, x, features, size, stride=1):
        shape = size, size, x.shape[-1], features
        kernel = get(name, INITIALIZERS.lecun_normal(), *shape)
        layout = "NHWC", "HWIO", "NHWC"
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=layout
        )

    def normalize(get, average, name, x):
        mean = average(f"{name}/mean", x.mean((0, 1, 2)))
        var = average(f"{name}/var", x.var((0, 1, 2)))
        scale = get(f"{name}/scale", INITIALIZERS.ones, x.shape[-1])
        shift = get(f"{name}/bias", INITIALIZERS.zeros, x.shape[-1])
        return (x - mean) * (scale * lax.rsqrt(var + 1e-5)) + shift

    def run(get, average, x):
        def layer(name, x, features, size, stride=1):
            x = convolve(get, f"{name}/conv", x, features, size, stride)
            return normalize(get, average, f"{name}/norm", x)

        x = jax.nn.relu(layer("stem", x, 64, 7, 2))
        window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "SAME")
        for stage, count in enumerate(sizes.stages):
            for block in range(count):
                name, features = f"{stage}/{block}", 64 * 2**stage
                stride = 2 if stage and not block else 1
                y = jax.nn.relu(layer(f"{name}/a", x, features, 1))
                y = jax.nn.relu(layer(f"{name}/b", y, features, 3, stride))
                y = layer(f"{name}/c", y, 4 * features, 1)
                if x.shape != y.shape:
                    x = layer(f"{name}/d", x, 4 * features, 1, stride)
                x = jax.nn.relu(x + y)
        return dense(get, "head", x.mean((1, 2)), sizes.classes)

    return Model(run)


def transformer(sizes: Sizes) -> Model:
    """Causal attention and a perceptron, each after a layer norm."""

    def normalize(get, name, x):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scale = get(f"{name}/scale", INITIALIZERS.ones, x.shape[-1])
        shift = get(f"{name}/bias", INITIALIZERS.zeros, x.shape[-1])
        return (x - mean) * lax.rsqrt(var + 1e-6) * scale + shift

    def attend(get, name, x):
        def heads(part):
            y = dense(get, f"{name}/{part}", x, x.shape[-1])
            return y.reshape(*y.shape[:-1], sizes.heads, -1)

        query, key, value = map(heads, ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        scores = scores / math.sqrt(query.shape[-1])
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        return dense(get, f"{name}/out", y, x.shape[-1])

    def run(get, average, words):
        table = get("embed", INITIALIZERS.normal(0.02), sizes.words, sizes.width)
        x = table[words]
        for i in range(sizes.depth):
            x = x + attend(get, f"{i}/attention", normalize(get, f"{i}/before", x))
            y = normalize(get, f"{i}/after", x)
            y = jax.nn.gelu(dense(get, f"{i}/up", y, 4 * sizes.width))
            x = x + dense(get, f"{i}/down", y, sizes.width)
        return dense(get, "head", x, sizes.words)

    return Model(run)


def mlp(sizes: Sizes) -> Model:
    """Dense layers with relu on the flat input."""

    def run(get, average, x):
        x = x.reshape(len(x), -1)
        for i in range(sizes.depth):
            x = jax.nn.relu(dense(get, str(i), x, sizes.width))
        return dense(get, "head", x, sizes.classes)

    return Model(run)
