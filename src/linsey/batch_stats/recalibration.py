"""Running statistics replaced by those of data, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from linsey.batch_stats.calls import Batch, Call, Inputs, Rngs, Variables, find_call
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
TOLERANCE = 1e-6  # change of a deviation below which a pass has changed nothing


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
    """Replace running statistics by those of data, for the weights as they are.

        n = sum n_b,    mean = sum n_b mean_b / n,
        var = sum n_b (var_b + |mean_b - mean|^2) / n

    over batches `b` whose inputs to a layer have count `n_b`, mean `mean_b` and
    variance `var_b`: the moments of all of them, whatever the sizes of batches. They
    are taken in the layer, by its mask, and merged in float64. Weights may be of any
    origin: averages of others, pruned, merged, imported. Nothing else in the variables
    changes.

    * Layers under `nn.scan` and `nn.vmap` are done row by row; a layer that is called
      several times gets what its calls saw together.
    * Domains (`num_domains`) that no batch is of keep their statistics.
    * With `group_size` the running variance is what groups are divided by in training:
      the average of their variances, without the spread of their means.
    * With `unbiased_variance` it is that of `n - 1` degrees of freedom.
    * Layers that normalize by running statistics in training, frozen ones, keep them.

    Layers are found by what they own, `mean` and `var` in `batch_stats`, so those of
    other libraries on Linen count too. Models that show no such layers, functions on
    other frameworks and objects, are called twice per batch, with running statistics of
    zero and of one: what comes out is `m s + (1 - m) batch`, which gives momentum `m`
    and the moments of the batch. There `n_b` is the number of examples, and the error
    is up to `1e-7 / (1 - m)` if `m` has more than five decimals.

    Args:
        model: a module, of linsey or Flax, an object of `linsey.treex`, an `apply`, or
            a function `(variables, x, train, mutable)`.
        variables: its variables by collection; of an object its own if `None`.
        batches: what can be looped over: arrays, tuples or dictionaries, as one call
            takes them; or one array, or a dictionary of arrays, along whose first axis
            batches lie. Under `jax.jit` the latter is one loop.
        weights: a factor for each batch, for example how often its kind occurs.
        method: `"pooled"`: each layer sees the batches as in training, in one pass.
            `"layerwise"`: as in evaluation, after the layers before it have got their
            statistics; these are a fixed point of evaluation. One pass for each layer
            of the longest chain, and one that finds that nothing changes any more.
        noise: whether layers of dropout drop, as in training. Evaluation, and so
            `"layerwise"`, never does.
        progress: `True` counts batches on the standard error; a function is called
            with the number of batches done and their total, `None` if not known.
        flag: name of the argument that is True in training, if it is not found.
        inputs: makes the arguments of a call from a batch, if that is not found.
        rngs: keys for the random streams of training; each batch derives its own.
        mutable: the collections that training changes. If `None`, all but `params`.

    Returns:
        Variables of the same types and structure; an object for an object.

    Raises:
        OptionError: there are no batches, no statistics, no such method, or more or
            fewer weights than batches; or batches that can be read once only, or a
            model without layers that can be looked at, with `"layerwise"`; or it is not
            found how the model is called.

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
    ones: both miss the spread of the means of batches.
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
    """Repeat passes in evaluation until the statistics stay.

    What the first layers see is final after the first pass, what those behind them see
    after the second, and so on; in each pass all layers get what they have seen.
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
        # Evaluation moves nothing: what moves in training is what is replaced.
        seen = {k: one._replace(moved=moving[k]) for k, one in seen.items()}
        before, variables = variables, updated(variables, seen)
        if _is_close(before, variables):
            break
    return variables


def _depth(variables: Variables) -> int:
    """Count the passes at most: one for each layer and row, and one to check."""
    rows = (int(np.prod(np.shape(o.mean)[:-1])) for o in find_statistics(variables))
    return sum(rows) + 1


def _is_close(before: Variables, after: Variables) -> bool:
    """Tell whether statistics moved by rounding only; unknown under tracing."""
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
