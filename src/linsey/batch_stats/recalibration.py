"""Exact replacement of running statistics by the statistics of data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from linsey.batch_stats.calls import Batch, Call, Inputs, Rngs, Variables, find_call
from linsey.batch_stats.foreign import (
    as_foreign,
    as_linen,
    call_as_linen,
    find_foreign,
)
from linsey.batch_stats.layer_moments import is_traced
from linsey.batch_stats.merging import Values, exact
from linsey.batch_stats.objects import (
    is_object,
    variables_of,
    with_variables,
    without_momentum,
)
from linsey.batch_stats.observe import Observer
from linsey.batch_stats.observed import Seen, updated
from linsey.batch_stats.outside import find_observer
from linsey.batch_stats.passes import Batches, Data, Progress, compiled
from linsey.batch_stats.statistics import Path, find_statistics
from linsey.errors import OptionError

METHODS = ("pooled", "layerwise")
TOLERANCE = 1e-6  # relative change below which statistics count as unchanged


def recalibrate(
    model: object,
    variables: Any,
    batches: Batches,
    *,
    weights: Iterable[ArrayLike] | None = None,
    method: str = "pooled",
    noise: bool = True,
    progress: Progress = None,
    flag: str | None = None,
    inputs: Inputs | None = None,
    rngs: Rngs | None = None,
    mutable: Sequence[str] | None = None,
) -> Any:
    """Replace running statistics by those of data, for the current weights.

        n = sum n_b,    mean = sum n_b mean_b / n,
        var = sum n_b (var_b + |mean_b - mean|^2) / n

    over batches `b` in which the inputs to a layer have count `n_b`, mean `mean_b` and
    variance `var_b`. These are the moments of all inputs, however they are divided into
    batches. They are computed in the layer, with its mask, and merged in float64. The
    weights may come from anywhere: averaged, pruned, merged or imported. Nothing else
    in the variables changes.

    * Layers under `nn.scan` and `nn.vmap` are treated row by row. A layer that is
      called several times gets the moments of all its calls together.
    * Domains (`num_domains`) without a batch keep their statistics.
    * With `group_size`, the running variance is the variance by which groups are
      divided in training: the average of the groups' variances, without the variance of
      their means.
    * With `unbiased_variance`, the variance is computed with `n - 1` degrees of
      freedom.
    * Frozen layers, which normalize by running statistics in training, keep them.

    Layers are recognised by `mean` and `var` in `batch_stats`, so layers of other
    libraries built on Linen count too. Models in which no such layer can be intercepted
    (objects, and functions of other frameworks) are called twice per batch, with
    running statistics of zero and of one. The result, `m s + (1 - m) batch`, gives the
    momentum `m` and the moments of the batch. For these models `n_b` is the number of
    examples, and the error is up to `1e-7 / (1 - m)` if `m` has more than five
    decimals.

    The batch norms of Equinox and Haiku under `linsey.interop` are treated in this way,
    and with them all others of the same model. Their counters, by which they debias
    their averages, become so large that evaluation uses the new statistics unchanged.

    Args:
        model: a module of linsey or Flax, an object of `linsey.treex`, an `apply`, or
            a function `(variables, x, train, mutable)`.
        variables: its variables by collection. If `None`, an object's own variables.
        batches: an iterable of batches, each of them an array, tuple or dictionary that
            one call takes; or one array, or a dictionary of arrays, whose first axis
            runs over batches. Under `jax.jit` the latter becomes one loop.
        weights: a factor for each batch, for example how often its kind occurs.
        method: `"pooled"`: each layer sees the batches as in training, in one pass.
            `"layerwise"`: each layer sees them as in evaluation, after the layers
            before it have received their statistics, so that the result is a fixed
            point of evaluation. This takes one pass for each layer of the longest
            chain, and a last one to check that nothing changes any more.
        noise: whether dropout is active, as in training. It never is in evaluation, and
            therefore never with `"layerwise"`.
        progress: if `True`, count batches on the standard error. A function is called
            with the number of batches done and their total (`None` if unknown).
        flag: name of the argument that is True in training, if it cannot be detected.
        inputs: function from a batch to the arguments of a call, if they cannot be
            detected.
        rngs: keys for the random streams of training; each batch derives its own.
        mutable: the collections that training changes. If `None`, all but `params`.

    Returns:
        Variables of the same types and structure, or an object if an object was passed.

    Raises:
        OptionError: there are no batches or no statistics; `method` is unknown; the
            number of weights differs from the number of batches; `"layerwise"` was
            asked for with batches that can be read only once, or with a model whose
            layers cannot be intercepted; or no way was found to call the model.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model = nn.BatchNorm()
        >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[3.0], [5.0], [8.0]])]
        >>> variables = model.init(jax.random.key(0), batches[0], True)
        >>> variables = recalibrate(model, variables, batches)
        >>> stats = variables["batch_stats"]
        >>> stats["mean"].tolist(), f"{stats['var'].item():.2f}"
        ([4.0], '5.60')

    References:
        Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115
        Izmailov et al. 2018, https://arxiv.org/abs/1803.05407
        Wu, Johnson 2021, https://arxiv.org/abs/2105.07576

    Differs from `torch.optim.swa_utils.update_bn`, which averages the (unbiased)
    variances of batches with equal weights, and from `fvcore`, which averages biased
    variances: both ignore the variance of the batch means.
    """
    if method not in METHODS:
        raise OptionError(
            f"`method` is {method!r}.",
            "It has no such value.",
            f"Give one of {', '.join(map(repr, METHODS))}.",
        )
    owner = None
    if is_object(model) and (variables is None or is_object(variables)):
        owner = model if variables is None else variables
        variables = variables_of(owner)
    if is_object(model):
        model = without_momentum(model)
    data = Data(batches, weights, progress)
    example = _example(data, method)
    call = find_call(
        model, variables, example, flag=flag, inputs=inputs, rngs=rngs, mutable=mutable
    )
    foreign = variables if find_foreign(variables) else None
    if foreign is not None:
        call, variables = call_as_linen(call, foreign), as_linen(foreign)
    if not find_statistics(variables):
        raise OptionError(
            "The variables hold no running statistics.",
            "Those are `mean` and `var` of a layer in the collection `batch_stats`.",
            "Pass all variables of the model, as `init` returned them.",
        )
    if method == "pooled":
        step = compiled(find_observer(call, variables, example, noise))
        done = updated(variables, data.pool(step, variables, call.rngs))
    else:
        done = _layer_by_layer(call, variables, data, example)
    if foreign is not None:
        done = as_foreign(done, foreign)
    return done if owner is None else with_variables(owner, done)


def _example(data: Data, method: str) -> Batch:
    """Return the first batch."""
    if method == "layerwise" and data.is_read_once:
        raise OptionError(
            "`batches` can be read once only.",
            'With `method="layerwise"` the data is gone through several times.',
            "Pass a list, or an object whose `__iter__` starts anew.",
        )
    try:
        return data.first()
    except StopIteration:
        raise OptionError(
            "There are no batches.",
            "Statistics of nothing are not defined.",
            "Pass at least one; an iterator may have been used up before.",
        ) from None


def _layer_by_layer(
    call: Call, variables: Variables, data: Data, example: Batch
) -> Variables:
    """Repeat passes in evaluation until the statistics no longer change.

    The statistics of the first layers are final after the first pass, those of the next
    layers after the second, and so on. Each pass updates all layers.
    """
    trains = Observer(call, noise=False)

    def find_moving(
        variables: Variables, batch: Batch, rngs: Rngs
    ) -> dict[Path, Values]:
        return {path: one.moved for path, one in trains(variables, batch, rngs).items()}

    moving = compiled(find_moving)(variables, example, call.rngs)
    if not moving:
        raise OptionError(
            "The layers of the model cannot be looked at.",
            'With `method="layerwise"` the inputs of layers are taken in evaluation.',
            'Use `method="pooled"`, or pass a module.',
        )
    step = compiled(Observer(call, train=False))
    for _ in range(_depth(variables)):
        seen = data.pool(step, variables, call.rngs)
        _check_evaluation(seen)
        # Evaluation updates no statistics: replace those that training would update.
        seen = {k: one._replace(moved=moving[k]) for k, one in seen.items()}
        before, variables = variables, updated(variables, seen)
        if _is_close(before, variables):
            break
    return variables


def _depth(variables: Variables) -> int:
    """Return the maximal number of passes: one per layer and row, and one to check."""
    rows = (int(np.prod(np.shape(o.mean)[:-1])) for o in find_statistics(variables))
    return sum(rows) + 1


def _is_close(before: Variables, after: Variables) -> bool:
    """Tell whether statistics changed only by rounding; False if they are traced."""
    for old, new in zip(find_statistics(before), find_statistics(after), strict=True):
        if is_traced(new.var):
            return False
        mean, var = exact(old.mean), exact(old.var)
        size = np.abs(var) + 1e-12
        moved = np.abs(exact(new.mean) - mean) / np.sqrt(size)
        moved = np.maximum(moved, np.abs(exact(new.var) - var) / size)
        if not np.all(moved <= TOLERANCE):
            return False
    return True


def _check_evaluation(seen: Seen) -> None:
    for path, one in seen.items():
        if not is_traced(one.moved) and np.any(one.moved > 0):
            raise OptionError(
                f"The layer `{'/'.join(path)}` trains wherever its statistics are "
                "mutable.",
                'With `method="layerwise"` they have to be, in evaluation.',
                'Use `method="pooled"`, or give the model a flag for its mode.',
            )
