"""Gradients of a large batch from microbatches, correct with batch normalization."""

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
    """Make a `jax.value_and_grad(loss_fn, has_aux=True)` that takes less memory.

    The batch is divided into `k` microbatches of consecutive examples, which are
    processed one after the other. One call returns one gradient and one update of the
    running statistics, for one step of the optimizer.

    With `mode="exact"`, the loss, gradient and statistics are those of the undivided
    batch, up to rounding. Batch norms compute their moments over all microbatches: the
    program is split into segments at these moments, and within a segment the
    microbatches are independent. Only the values at some of the splits are kept for the
    backward pass; the others are recomputed. With `mode="ghost"`, each microbatch is
    normalized by its own moments (ghost batch normalization). This is a different
    function, but needs only one pass; the running statistics are updated once, with the
    moments of the whole batch.

    Batch norms of linsey, and of Flax if it is imported, are synchronized over the
    microbatches automatically. Other code may use `axis_name` in collectives:
    `jax.lax.pmean(x.mean(0), axis_name)`.

    Args:
        loss_fn: `loss_fn(params, *others, batch) -> (loss, aux)`. The loss is a scalar,
            the mean over the examples of the batch passed to it.
        k: number of microbatches; it must divide the number of examples.
        mode: `"exact"` or `"ghost"`.
        weight: function from a microbatch to the weight of its loss, for example the
            number of unmasked examples if the loss is the mean over those. If `None`,
            all weights are equal.
        keep_every: one of this many consecutive batch norms keeps its input for the
            backward pass. Larger values take less memory and more time.
        axis_name: name of the axis of microbatches.

    Returns:
        A function `(params, *others, batch) -> ((loss, aux), grads)`, which also works
        under `jax.jit`. `params` are differentiated. `batch` is a tree of arrays whose
        first axis runs over the examples. The arguments in between are the same for all
        microbatches, except random keys, which are split so that each microbatch draws
        its own noise. A key is either typed, or an array of shape (2,) and dtype
        uint32.

        `aux` is combined leaf by leaf. Values that are the same for all microbatches,
        such as updated statistics, are returned unchanged. Arrays with one entry per
        example along their first axis are concatenated. Other floating-point numbers
        are averaged with the weights of the loss; integers, such as the number of
        correct predictions, are added.

    Raises:
        OptionError: `k`, `mode` or `keep_every` has an invalid value.
        ArgumentTypeError: there is no batch.
        ShapeError: `k` does not divide the batch, or the loss is not a scalar.
        UnsynchronizedLayerError: a layer that keeps a running mean and variance has no
            field `axis_name`.
        UnsynchronizedStatisticsError: updated `batch_stats` differ between
            microbatches.
        UnsupportedError: a batch norm is inside a `while` or `cond`.

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

    `python -m benchmarks.accumulate` measures time and memory for several `k`, compared
    with the undivided batch.

    References:
        Wu, Johnson 2021, https://arxiv.org/abs/2105.07576 (which batch a norm sees);
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
