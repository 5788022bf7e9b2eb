"""Averages of model weights and of the running statistics that belong to them.

The running statistics of a batch norm belong to the weights of the layers before it.
Averaged statistics are close to the statistics of the averaged weights, but not equal:
activations are not a linear function of the weights. Even in a first layer, where they
are linear, only the averaged mean is right. The averaged variance is too large,

    average of var_i = var of the average + average over i of Var[(w_i - w) x],

by the variance that the differences between the weights cause. Therefore, call
`recalibrate` after averaging weights: it recomputes the statistics. If there is no
data, use the averaged statistics, and average only checkpoints that are close together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from linsey.errors import MismatchError, OptionError
from linsey.extras import require

PyTree = Any
Checkpoint = PyTree | str | os.PathLike[str]


def average(
    checkpoints: Iterable[Checkpoint], weights: Sequence[float] | None = None
) -> PyTree:
    """Average variables: `sum_i w_i x_i / sum_i w_i` leaf by leaf.

    Follow it with `recalibrate(model, average(checkpoints), batches)`: the averaged
    running statistics are not exactly those of the averaged weights.

    Args:
        checkpoints: trees of variables with the same structure, or folders of linsey
            steps. They are read one at a time, so a generator needs memory for only
            two of them.
        weights: weight of each checkpoint, at least 0. If `None`, all weights are
            equal.

    Returns:
        A tree with the dtypes of the last checkpoint. Leaves that are not
        floating-point numbers, such as counts and random keys, are taken from the last
        checkpoint.

    Raises:
        OptionError: there is no checkpoint, a weight is negative, the number of weights
            differs from the number of checkpoints, or the sum of the weights is not
            positive.
        MismatchError: structure or shapes differ.
        InputError: a folder is not a step, or is damaged.

    Example:
        >>> from linsey.batch_stats import average
        >>> first = {"w": jnp.array([1.0]), "step": 1}
        >>> last = {"w": jnp.array([4.0]), "step": 2}
        >>> average([first, last])["w"].tolist()
        [2.5]
        >>> average([first, last], weights=[2, 1])
        {'step': 2, 'w': Array([2.], dtype=float32)}

    References:
        Izmailov et al. 2018, https://arxiv.org/abs/1803.05407
    """
    total: PyTree = None
    last: PyTree = None
    sum_of_weights, count = 0.0, 0
    given = None if weights is None else list(weights)
    for count, checkpoint in enumerate(checkpoints, 1):
        if given is not None and count > len(given):
            break
        weight = 1.0 if given is None else float(given[count - 1])
        _check_weight(weight)
        sum_of_weights += weight
        previous, last = last, _read(checkpoint)
        if previous is not None:
            _check_same(previous, last, count)
        # The mean so far moves towards the new values; a growing sum would lose digits.
        rate = weight / sum_of_weights if sum_of_weights else 0.0
        total = last if total is None else _move(total, last, rate)
    _check_count(count, given, sum_of_weights)
    return jax.tree.map(_like, total, last)


def _read(checkpoint: Checkpoint) -> PyTree:
    """Return a tree of variables as it is, or read it from the folder of a step."""
    if not isinstance(checkpoint, str | os.PathLike):
        return checkpoint
    from linsey.checkpoint import open_checkpoint

    return open_checkpoint(Path(checkpoint)).read()


def _is_averaged(leaf: object) -> bool:
    if isinstance(leaf, float | complex):
        return True
    # Random keys are arrays too, with a dtype that is not a number.
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _move(mean: PyTree, new: PyTree, rate: Array | float) -> PyTree:
    """Move a mean towards new values, in float32 or wider."""

    def move(old: Array, value: Array) -> Array:
        if not _is_averaged(value):
            return value
        wide = jnp.promote_types(jnp.result_type(value), jnp.float32)
        old, value = jnp.asarray(old, wide), jnp.asarray(value, wide)
        return old + jnp.asarray(rate, wide) * (value - old)

    return jax.tree.map(move, mean, new)


def _like(value: Array, last: Array) -> Array:
    return jnp.asarray(value, jnp.result_type(last)) if _is_averaged(last) else last


# --- checks ---------------------------------------------------------------------------


def _check_weight(weight: float) -> None:
    if not weight >= 0:
        raise OptionError(
            f"A weight is {weight}.",
            "An average with negative weights lies outside of what it averages.",
            "Give weights of at least 0.",
        )


def _check_count(count: int, weights: list[float] | None, total: float) -> None:
    if not count:
        raise OptionError(
            "There are no checkpoints to average.",
            "The average of nothing is not defined.",
            "Pass at least one: `average([variables])`.",
        )
    if weights is not None and count != len(weights):
        raise OptionError(
            f"There are {len(weights)} weights, and not as many checkpoints.",
            "Each weight belongs to one checkpoint.",
            "Give one weight for each, or leave `weights` out.",
        )
    if not total > 0:
        raise OptionError(
            "All weights are zero.",
            "Their sum divides the average.",
            "Give at least one weight above 0.",
        )


def _check_same(first: PyTree, second: PyTree, number: int) -> None:
    """Raise an error if two checkpoints differ in structure or shapes."""
    kinds = [
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
        for leaves, _ in map(jax.tree_util.tree_flatten_with_path, (first, second))
    ]
    for path in [*kinds[0], *kinds[1]]:
        shapes = [kind.get(path) for kind in kinds]
        if shapes[0] != shapes[1]:
            found = ["missing" if shape is None else str(shape) for shape in shapes]
            raise MismatchError(
                f"Checkpoint {number} differs from the one before at `{path}`: "
                f"{found[1]} after {found[0]}.",
                "Leaves are averaged one by one, so all checkpoints must be of one "
                "model.",
                "Average checkpoints of one run, or take the part that they share.",
            )


# --- moving averages ------------------------------------------------------------------


class EmaState(NamedTuple):
    """The state of a moving average, a tree of arrays.

    Attributes:
        count: number of updates.
        total: the weighted sum, before it is divided by the sum of the weights.
        missing: 1 minus the sum of the weights, which is the weight that an initial
            value would have.
    """

    count: Array
    total: PyTree
    missing: Array


class Ema(NamedTuple):
    """A moving average as three pure functions.

    Attributes:
        init: `init(variables) -> state`.
        update: `update(variables, state) -> state`, to be called after each step.
        variables: `variables(state) -> variables`, the average.
    """

    init: Callable[[PyTree], EmaState]
    update: Callable[[PyTree, EmaState], EmaState]
    variables: Callable[[EmaState], PyTree]


def ema(decay: float, *, debias: bool = True, warmup: bool = False) -> Ema:
    """Make an exponential moving average of variables, by `optax.incremental_update`.

        total = d total + (1 - d) variables

    Pass all variables, `{"params": ..., "batch_stats": ...}`, so that the statistics
    are averaged in the same way as the parameters that they belong to. They then match
    the averaged parameters approximately. For an exact match, call
    `recalibrate(model, average, batches)` before an evaluation.

    Args:
        decay: fraction of the old average that is kept, in [0, 1).
        debias: whether to start from zero and divide by the sum of the weights so far.
            Otherwise the average starts from the variables passed to `init`, which
            have the weight `decay^n` after `n` updates.
        warmup: whether to keep a smaller fraction in the beginning,
            `min(decay, (1 + n) / (10 + n))` after `n` updates.

    Returns:
        The functions `init`, `update` and `variables`. Leaves that are not
        floating-point numbers are those of the last update. Averages are kept in
        float32 or wider.

    Raises:
        OptionError: `decay` is not in [0, 1).
        MissingPackageError: optax is not installed.

    Example:
        >>> from linsey.batch_stats import ema
        >>> average = ema(0.5)
        >>> state = average.init({"w": jnp.zeros(1)})
        >>> for value in 1.0, 4.0:
        ...     state = average.update({"w": jnp.array([value])}, state)
        >>> average.variables(state)["w"].tolist()  # (0.25 * 1 + 0.5 * 4) / 0.75
        [3.0]

    References:
        Kingma, Ba 2015, https://arxiv.org/abs/1412.6980 (the division)
    """
    if not 0 <= decay < 1:
        raise OptionError(
            f"`decay` is {decay}.",
            "It is the fraction of the old average that an update keeps.",
            "Give a number from 0 to below 1, for example `decay=0.999`.",
        )
    optax = require("optax", "optim", "`ema`")

    def init(variables: PyTree) -> EmaState:
        start = _map_averaged(jnp.zeros_like if debias else jnp.asarray, variables)
        missing = jnp.asarray(1.0 if debias else 0.0)
        return EmaState(jnp.zeros((), jnp.int32), start, missing)

    def update(variables: PyTree, state: EmaState) -> EmaState:
        kept = jnp.asarray(decay)
        if warmup:
            kept = jnp.minimum(kept, (1 + state.count) / (10 + state.count))
        leaves, treedef = jax.tree.flatten(_map_averaged(jnp.asarray, variables))
        totals = jax.tree.leaves(state.total)
        moved = [
            optax.incremental_update(new, old, 1 - kept) if _is_averaged(new) else new
            for new, old in zip(leaves, totals, strict=True)
        ]
        total = jax.tree.unflatten(treedef, moved)
        return EmaState(state.count + 1, total, state.missing * kept)

    def average_of(state: EmaState) -> PyTree:
        # Before the first update the sum of the weights is zero; do not divide by it.
        weight = jnp.where(state.missing < 1, 1 - state.missing, 1)
        return _map_averaged(lambda x: x / weight.astype(x.dtype), state.total)

    return Ema(init, update, average_of)


def _map_averaged(function: Callable[[Array], Array], tree: PyTree) -> PyTree:
    """Map floating-point leaves, in float32 or wider, and keep others unchanged."""

    def of_leaf(leaf: Array) -> Array:
        if not _is_averaged(leaf):
            return leaf
        wide = jnp.promote_types(jnp.result_type(leaf), jnp.float32)
        return function(jnp.asarray(leaf, wide))

    return jax.tree.map(of_leaf, tree)
