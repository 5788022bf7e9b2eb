"""Four models with healthy statistics, and faults put into one of their layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np

import linsey.linen
from linsey.batch_stats import recalibrate

SHAPE = (5, 5, 2)


def images(count, seed, scale=1.0, shift=0.0):
    """Noise on images that differ in brightness, as photographs do."""
    rng = np.random.default_rng(seed)
    brightness = rng.normal(0, 1.5, (count, 1, 1, SHAPE[-1]))
    noise = rng.normal(0, 0.5, (count, *SHAPE))
    return (scale * (brightness + noise) + shift).astype(np.float32)


def norms(nn, train, frozen) -> Callable[..., Any]:
    """Makes norms by their names; the frozen one does not move."""

    def norm(name):
        momentum = 1.0 if name == frozen else 0.9
        return nn.BatchNorm(not train, momentum=momentum, name=name)

    return norm


class Mlp(linsey.linen.Module):
    frozen: str = ""

    @linsey.linen.compact
    def __call__(self, x, train):
        norm = norms(linsey.linen, train, self.frozen)
        x = x.reshape(len(x), -1)
        for name in ("a", "b", "c"):
            x = linsey.linen.relu(norm(name)(linsey.linen.Dense(8)(x)))
        return linsey.linen.Dense(3)(x)


class Cnn(linsey.linen.Module):
    frozen: str = ""

    @linsey.linen.compact
    def __call__(self, x, train):
        norm = norms(linsey.linen, train, self.frozen)
        for name in ("a", "b"):
            x = linsey.linen.relu(norm(name)(linsey.linen.Conv(4, (3, 3))(x)))
        x = linsey.linen.Dropout(0.2, deterministic=not train)(x)
        return norm("c")(linsey.linen.Dense(6)(x.mean((1, 2))))


class ResNet(linsey.linen.Module):
    frozen: str = ""

    @linsey.linen.compact
    def __call__(self, x, train):
        norm = norms(linsey.linen, train, self.frozen)
        x = linsey.linen.relu(norm("a")(linsey.linen.Conv(4, (3, 3))(x)))
        for name in ("b", "c"):
            y = norm(name)(linsey.linen.Conv(4, (3, 3))(x))
            x = linsey.linen.relu(x + y)
        return linsey.linen.Dense(3)(x.mean((1, 2)))


class ThirdParty(flax.linen.Module):
    """In the manner of programs for Flax: a flag as field, blocks that are scanned."""

    training: bool = False
    frozen: str = ""

    @flax.linen.compact
    def __call__(self, images):
        norm = norms(flax.linen, self.training, self.frozen)
        x = flax.linen.relu(norm("a")(flax.linen.Dense(6)(images)))
        x = flax.linen.relu(norm("b")(flax.linen.Dense(6)(x)))

        def block(module, x):
            norm = norms(flax.linen, self.training, self.frozen)
            return jnp.tanh(norm("c")(flax.linen.Dense(6)(x)))

        return flax.linen.remat(block)(self, x).mean((1, 2))


MODELS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mlp": (Mlp, (False,)),
    "cnn": (Cnn, (False,)),
    "resnet": (ResNet, (False,)),
    "third_party": (ThirdParty, ()),
}
REFERENCE = [images(96, seed) for seed in range(4)]

# Cause, layer, and which arguments it needs.
FAULTS = [
    ("nonfinite", "b"),
    ("never_updated", "c"),
    ("frozen", "b"),
    ("small_batch", "a"),
    ("stale", "a"),
    ("stale", "c"),
    ("slow_momentum", "b"),
    ("slow_momentum", "c"),
    ("other_distribution", "a"),
    ("other_distribution", "b"),
]


class Case(NamedTuple):
    """Arguments of `compare_modes`."""

    model: Any
    variables: Any
    batch: np.ndarray
    reference: list[np.ndarray] | None
    previous: Any


@functools.cache
def healthy(model: str, seed: int) -> Any:
    """Variables whose statistics are those of the reference."""
    cls, flags = MODELS[model]
    variables = cls().init(jax.random.key(seed), REFERENCE[0], *flags)
    return recalibrate(cls(), variables, REFERENCE)


def make(model: str, cause: str, layer: str) -> Case:
    """A model with one fault."""
    cls, _ = MODELS[model]
    variables, previous = healthy(model, 0), healthy(model, 1)
    now, then = (v["batch_stats"][layer] for v in (variables, previous))
    batch = images(96, 9)
    stats = dict(now)
    if cause == "nonfinite":
        stats["mean"] = now["mean"].at[0].set(jnp.nan)
    elif cause == "never_updated":
        stats = {"mean": 0 * now["mean"], "var": 0 * now["var"] + 1}
    elif cause == "frozen":
        stats = {"mean": now["mean"] + jnp.sqrt(now["var"]), "var": 2 * now["var"]}
    elif cause == "small_batch":
        batch = batch[:2]
    elif cause == "stale":
        stats = then
    elif cause == "slow_momentum":
        stats = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, then, now)
    elif layer == "a":
        batch = images(96, 9, scale=1.5, shift=4.0)
    else:  # of an input that no layer but the first sees
        batch = images(96, 9, scale=0.3, shift=-2.0)
    faulty = {**variables, "batch_stats": {**variables["batch_stats"], layer: stats}}
    known = cause in ("stale", "slow_momentum", "other_distribution")
    return Case(
        cls(frozen=layer) if cause == "frozen" else cls(),
        faulty,
        batch,
        REFERENCE if known else None,
        previous if known else None,
    )
