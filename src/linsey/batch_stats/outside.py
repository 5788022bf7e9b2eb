"""The moments of batches, inferred from outside if layers cannot be intercepted.

The running statistics after a call are linear in those before it,

    s' = m s + (1 - m) batch,

so one call that starts from zero and one that starts from one determine the momentum
and the moments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from linsey.batch_stats.calls import Batch, Call, Rngs, Variables, arguments
from linsey.batch_stats.observe import Observer
from linsey.batch_stats.observed import Observed, Seen
from linsey.batch_stats.statistics import (
    Path,
    at,
    find_statistics,
    replace_moments,
    unbox,
)
from linsey.errors import OptionError

# A momentum is usually written with few decimals. The nearest number with so few
# decimals is exact, while the difference of two rounded numbers is not.
DECIMALS = 10**5
ROUNDING = 3e-7


def find_observer(
    call: Call,
    variables: Variables,
    example: Batch,
    noise: bool = True,
    within: bool = False,
) -> Callable[[Variables, Batch, Rngs], Seen]:
    """Return an observer of layers, or `observe_outside` if none can be intercepted.

    Raises:
        OptionError: `noise` is False, and the layers cannot be intercepted.
    """
    observer = Observer(call, noise=noise, within=within)
    try:
        jax.eval_shape(observer, variables, example, call.rngs)
    except Exception:  # of any kind: a function may reject the extra variables
        if call.module is not None:
            raise
    else:
        if observer.calls:
            return observer
    if not noise:
        raise OptionError(
            "`noise` is False, and the layers of the model cannot be looked at.",
            "Dropout is left out where layers of it are called.",
            "Leave `noise` out, or pass a model that does not draw.",
        )
    return functools.partial(observe_outside, call)


def observe_outside(call: Call, variables: Variables, batch: Batch, rngs: Rngs) -> Seen:
    """Return the moments of the inputs of layers, in training.

    Args:
        call: the model.
        variables: its variables.
        batch: input of one call. The first axis of its first array is the examples
            axis; the count is the number of examples.
        rngs: keys for random streams.
    """
    from_zero, from_one = (
        call.train(_started(variables, start), batch, rngs)[1]["batch_stats"]
        for start in (0, 1)
    )
    args, kwargs = arguments(call.inputs(batch))
    leaves = (np.shape(leaf) for leaf in jax.tree.leaves((args, kwargs)))
    examples = next(shape[0] for shape in leaves if shape)
    return {
        path: _observed(mean, var, examples, order)
        for order, (path, mean, var) in enumerate(
            _pairs(variables, from_zero, from_one)
        )
    }


def _started(variables: Variables, start: int) -> dict[str, Any]:
    """Set all running statistics to one value, and their counts to zero."""

    def filled(tree: Any, value: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), tree)

    stats = replace_moments(
        variables["batch_stats"], lambda _, leaf: filled(leaf, start)
    )
    started = {**variables, "batch_stats": stats}
    if "batch_counts" in variables:
        started["batch_counts"] = filled(variables["batch_counts"], 0)
    return started


def _pairs(
    variables: Variables, *updates: Variables
) -> Iterator[tuple[Path, list[Array], list[Array]]]:
    """Return the running mean and variance of each layer after each of two calls."""
    for one in find_statistics(variables):
        found = [at(update, one.path) for update in updates]
        mean, var = ([unbox(node[name]) for node in found] for name in ("mean", "var"))
        yield one.path, mean, var


def _observed(
    mean: list[Array], var: list[Array], examples: int, order: int
) -> Observed:
    momentum = jnp.real(mean[1] - mean[0])
    moved = momentum < 1 - 1e-6
    share = jnp.broadcast_to(_complement(momentum), momentum.shape)
    zeros = jnp.zeros_like(share)
    return Observed(
        mean=jnp.where(moved, mean[0] / share, 0),
        var=jnp.where(moved, var[0] / share, 0),
        count=jnp.where(moved, examples, zeros),
        within=zeros,
        examples=zeros + examples,
        grouped=zeros,
        unbiased=zeros,
        moved=moved.astype(zeros.dtype),
        epsilon=zeros + 1e-5,
        order=zeros + order + 1,
    )


def _complement(momentum: Array) -> Array:
    """Compute `1 - momentum` to full precision from a rounded momentum."""
    if momentum.ndim:
        momentum = jnp.median(momentum, axis=-1, keepdims=True)
    scaled = jnp.round(momentum * DECIMALS)
    is_decimal = jnp.abs(momentum - scaled / DECIMALS) < ROUNDING
    share = jnp.where(is_decimal, (DECIMALS - scaled) / DECIMALS, 1 - momentum)
    return jnp.where(share > 0, share, 1)
