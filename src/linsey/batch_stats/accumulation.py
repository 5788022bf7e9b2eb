"""Gradients of a large batch from microbatches, right with batch normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jax import Array

from linsey.batch_stats.microbatches.division import DividedCall, LossFn, PyTree
from linsey.batch_stats.microbatches.sequential import map_sequentially
from linsey.batch_stats.microbatches.synchronize import MODES
from linsey.errors import ArgumentTypeError, OptionError

Mode = Literal["exact", "ghost"]


def accumulate(
    loss_fn: LossFn,
    k: int,
    mode: Mode = "exact",
    *,
    weight: Callable[[PyTree], Array] | None = None,
    keep_every: int = 2,
    axis_name: str = "microbatches",
) -> Callable[..., tuple[tuple[Array, PyTree], PyTree]]:
    """Make `jax.value_and_grad(loss_fn, has_aux=True)` that takes less memory.

    The batch is divided into `k` microbatches of neighbours, which are run one after
    the other. One call gives one gradient and one update of the running statistics, for
    one step of the optimizer.

    With `mode="exact"` loss, gradient and statistics are those of the undivided batch,
    up to rounding. Batch norms take their moments over all microbatches: the program
    is cut at these moments, and between them microbatches do not know of each other.
    What is kept for the backward pass are the values at some of the cuts; the others
    are computed again. With `mode="ghost"` each microbatch is normalized by its own
    moments (ghost batch normalization), which is another function but needs one pass
    only; the running statistics move once, towards the moments of the whole batch.

    Batch norms of linsey and of a loaded Flax see the microbatches by themselves. Other
    code may use `axis_name` in collectives: `jax.lax.pmean(x.mean(0), axis_name)`.

    Args:
        loss_fn: `loss_fn(params, *others, batch) -> (loss, aux)`. The loss is a scalar,
            the mean over the examples of the batch given to it.
        k: number of microbatches; it divides the number of examples.
        mode: `"exact"` or `"ghost"`.
        weight: function of a microbatch to what its loss counts, for example the number
            of examples that are not masked where the loss is the mean over those. If
            `None`, all count the same.
        keep_every: of how many batch norms, one after the other, one keeps its input
            for the backward pass. More take less memory and more time.
        axis_name: name of the axis of microbatches.

    Returns:
        A function `(params, *others, batch) -> ((loss, aux), grads)`, also under
        `jax.jit`. `params` are differentiated; `batch` is a tree of arrays whose first
        axis counts the examples; what stands between is the same for all microbatches,
        but for random keys, which are split: each microbatch draws noise of its own. A
        key is typed, or an array of shape (2,) and dtype uint32.

        `aux` is put together leaf by leaf. What is the same for all microbatches, such
        as updated statistics, is returned as it is. What has a value for each example,
        along its first axis, is concatenated. Of other floating-point numbers the mean
        is taken, weighted like the loss; whole numbers, such as hits, are added.

    Raises:
        OptionError: `k`, `mode` or `keep_every` has no such value.
        ArgumentTypeError: there is no batch.
        ShapeError: `k` does not divide the batch, or the loss is no scalar.
        UnsynchronizedLayerError: a layer that keeps a running mean and variance has no
            field `axis_name`.
        UnsynchronizedStatisticsError: updated `batch_stats` differ between
            microbatches.
        UnsupportedError: a batch norm is inside of a `while` or `cond`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> from linsey.batch_stats import accumulate
        >>> model = nn.Sequential([nn.Dense(3), nn.BatchNorm(False), nn.Dense(1)])
        >>> x = jax.random.normal(jax.random.key(0), (8, 2))
        >>> variables = model.init(jax.random.key(1), x)
        >>> def loss_fn(params, batch_stats, x):
        ...     variables = {"params": params, "batch_stats": batch_stats}
        ...     y, updates = model.apply(variables, x, mutable=["batch_stats"])
        ...     return jnp.square(y - 1).mean(), updates["batch_stats"]
        >>> whole = jax.value_and_grad(loss_fn, has_aux=True)
        >>> parts = accumulate(loss_fn, 4)
        >>> args = variables["params"], variables["batch_stats"], x
        >>> same = jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-5),
        ...                     whole(*args), parts(*args))
        >>> all(map(bool, jax.tree.leaves(same)))
        True

    Time and memory for several `k`, against those of the undivided batch, are measured
    by `python -m benchmarks.accumulate`.

    References:
        Wu, Johnson 2021, https://arxiv.org/abs/2105.07576 (what batch a norm sees);
        Chen et al. 2016, https://arxiv.org/abs/1604.06174 (checkpoints)
    """
    _check_options(k, mode, keep_every)

    def value_and_grad(
        params: PyTree, *args: PyTree
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        if not args:
            raise ArgumentTypeError(
                "The function that `accumulate` returned was called with parameters "
                "only.",
                "It divides a batch, its last argument.",
                "Call it as `step(params, batch_stats, batch)`.",
            )
        call = DividedCall(loss_fn, k, MODES[mode], weight, axis_name, (params, *args))
        values, is_stacked = map_sequentially(
            call.derive(),
            call.shared,
            call.stacked,
            axis=axis_name,
            derivatives=call.count,
            window=keep_every,
        )
        return call.put_together(values, is_stacked)

    return value_and_grad


def _check_options(k: int, mode: str, keep_every: int) -> None:
    if mode not in MODES:
        raise OptionError(
            f"`mode` is {mode!r}.",
            "Batch norms see the whole batch, or one microbatch.",
            f"Give one of {', '.join(map(repr, MODES))}.",
        )
    for name, value in {"k": k, "keep_every": keep_every}.items():
        if not isinstance(value, int) or value < 1:
            raise OptionError(
                f"`{name}` is {value!r}.",
                "It is a number of microbatches or of layers.",
                f"Give a whole number from 1, for example `{name}=2`.",
            )
