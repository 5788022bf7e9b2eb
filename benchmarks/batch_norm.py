"""What one layer of batch normalization costs in training, and how accurate it is.

Forward and backward pass on float32, compiled, several calls in a turn. Run with
`python -m benchmarks.batch_norm`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.models import convolutional as models

SHAPES = ((32, 56, 56, 64), (128, 32, 32, 64), (4096, 512))
FLOOR = "two outputs"
TRAFFIC = "6 read, 2 written"
OFFSETS = ((0.0, 1.0), (100.0, 1.0), (3000.0, 0.01), (1000.0, 0.01))


def run(rounds: int) -> list[harness.Row]:
    """Time all shapes by all rivals, and programs that only move memory."""
    rows = []
    for shape in SHAPES:
        cases = harness.available(
            {rival: partial(_prepare, rival, shape) for rival in models.RIVALS},
            models.CALLS,
        )
        cases.append(harness.Case(FLOOR, _prepare_floor(shape), models.CALLS))
        cases.append(harness.Case(TRAFFIC, _prepare_traffic(shape), models.CALLS))
        goals = {"linsey": f"<= 1.15 of {TRAFFIC}"}
        task = f"forward and backward, {shape}"
        rows += harness.measure(task, cases, rounds, "flax", goals, models.CLOCK)
    return rows + accuracy()


def accuracy() -> list[harness.Row]:
    """Compare the deviation of the outputs with that of float64, relatively."""
    rows = []
    for loc, scale in OFFSETS:
        task = f"error of outputs, mean {loc:g}, deviation {scale:g}"
        for rival in models.RIVALS:
            try:
                error = abs(deviation(rival, loc, scale) - 1)
            except ImportError as reason:
                harness.missing(rival, reason)
                continue
            rows.append(harness.summarise(task, rival, [error], unit=""))
    return rows


def _prepare(rival: str, shape: tuple[int, ...]):
    return models.repeated(models.norm_gradient(rival, shape))


def _prepare_floor(shape: tuple[int, ...]):
    """No statistics: reads the input and the gradient, writes one array for each."""
    x = models.numbers(*shape)
    call = models.compiled(lambda x, cotangent: (2 * x, 3 * cotangent), x, x + 1)[1]
    return models.repeated(call)


def _prepare_traffic(shape: tuple[int, ...]):
    """Read and write arrays as often as batch normalization needs to, and no more.

    The input is read for its moments and for the output; input and gradient are read
    for two sums, and for the gradient of the input.
    """
    arrays = [models.numbers(*shape) + i for i in range(6)]
    call = models.compiled(lambda a, b, c, d, e, f: (a + b + c, d + e + f), *arrays)[1]
    return models.repeated(call)


def deviation(rival: str, loc: float, scale: float) -> float:
    """Divide the worst channel's deviation by that of float64; 1 is right."""
    x = models.numbers(4096, 1, 1, 2, loc=loc, scale=scale)
    exact = np.float64(x).var((0, 1, 2))
    right = np.sqrt(exact / (exact + models.EPSILON))
    if rival == "torch":
        torch = models.import_torch()
        layer = torch.nn.BatchNorm2d(2)
        y = layer(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
        y = np.moveaxis(y, 1, -1)
    else:
        function, params, state = models.norm_function(rival, x.shape)
        inputs = np.moveaxis(x, -1, 1) if rival == "equinox" else x
        y, _ = jax.jit(function)(params, state, jnp.asarray(inputs))
        y = np.moveaxis(np.asarray(y), 1, -1) if rival == "equinox" else np.asarray(y)
    ratios = np.float64(y).std((0, 1, 2)) / right
    return float(ratios[np.argmax(np.abs(ratios - 1))])


if __name__ == "__main__":
    harness.main(
        "batch_norm", "one layer of batch normalization in training", run, rounds=15
    )
