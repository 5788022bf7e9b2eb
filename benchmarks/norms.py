"""What one layer of layer, RMS or group normalization costs in training.

Forward and backward pass on float32, compiled, at a large, a middle and a small size.
A turn is several calls in a row. One program reads three such arrays and writes two:
as much as has to be moved. Run with `python -m benchmarks.norms`.
"""

from __future__ import annotations

import importlib
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.models import convolutional as models

GROUPS = 8
SHAPES = {
    "LayerNorm": ((8, 512, 768), (64, 64, 256), (256, 512)),
    "RMSNorm": ((8, 512, 768), (64, 64, 256), (256, 512)),
    "GroupNorm": ((8, 56, 56, 64), (32, 16, 16, 128), (8, 8, 8, 256)),
}
RIVALS = ("linsey", "flax", "torch")
FLOOR = "3 read, 2 written"


def run(rounds: int) -> list[harness.Row]:
    """Time all layers at all sizes by all rivals."""
    rows = []
    for name, shapes in SHAPES.items():
        for shape in shapes:
            cases = harness.available(
                {rival: partial(_prepare, rival, name, shape) for rival in RIVALS},
                models.CALLS,
            )
            cases.append(harness.Case(FLOOR, _floor(shape), models.CALLS))
            task, goals = f"{name} {shape}", {"linsey": "<= 0.7"}
            rows += harness.measure(task, cases, rounds, "flax", goals, models.CLOCK)
    return rows


def _prepare(rival: str, name: str, shape: tuple[int, ...]):
    call = (_torch if rival == "torch" else partial(_linen, rival))(name, shape)
    return models.repeated(call)


def _floor(shape: tuple[int, ...]):
    """Read the input for the output, and input and gradient for that of the input."""
    x = models.numbers(*shape)
    call = models.compiled(lambda x, cotangent: (2 * x, x * cotangent), x, x + 1)[1]
    return models.repeated(call)


def _linen(rival: str, name: str, shape: tuple[int, ...]) -> models.Call:
    nn = importlib.import_module(f"{rival}.linen")
    layer = nn.GroupNorm(GROUPS) if name == "GroupNorm" else getattr(nn, name)()
    x, cotangent = models.numbers(*shape), models.numbers(*shape[::-1]).T.copy()
    variables = layer.init(jax.random.key(0), jnp.ones(shape))

    def both(variables, x, cotangent):
        y, pull = jax.vjp(layer.apply, variables, x)
        return y, pull(cotangent)

    return models.compiled(both, variables, x, cotangent)[1]


def _torch(name: str, shape: tuple[int, ...]) -> models.Call:
    torch = models.import_torch()
    x, cotangent = models.numbers(*shape), models.numbers(*shape[::-1]).T.copy()
    inputs, given = map(torch.from_numpy, (x, cotangent))
    if name == "GroupNorm":
        inputs, given = (v.permute(0, 3, 1, 2) for v in (inputs, given))
        layer = torch.nn.GroupNorm(GROUPS, shape[-1])
    else:
        layer = getattr(torch.nn, name)(shape[-1])
    inputs.requires_grad_()

    def call():
        inputs.grad = None
        layer(inputs).backward(given)

    return call


if __name__ == "__main__":
    title = "one layer of layer, RMS or group normalization in training"
    harness.main("norms", title, run, rounds=15)
