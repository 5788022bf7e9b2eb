"""`load`: convert the arrays of a file to the variables of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from linsey.checkpoint import flatten, nest
from linsey.core import meta
from linsey.errors import MismatchError
from linsey.weights.layers import abstract_variables, initial_rngs
from linsey.weights.matching import NameMapping
from linsey.weights.plan import Plan, plan_for
from linsey.weights.reparametrized import joined
from linsey.weights.report import Report


def load(
    module: Any,
    arrays: Mapping[str, Any],
    *inputs: Any,
    mapping: NameMapping | None = None,
    strict: bool = True,
    **kwargs: Any,
) -> tuple[dict[str, Any], Report]:
    """Convert the arrays of another library to the variables of a module.

    Layers are matched by their names first, and then by their order, kinds and shapes.
    Ambiguous layers are not matched. Layouts are converted as listed in
    `linsey.weights.translation`. PyTorch's running variance has `n - 1` degrees of
    freedom; it is not changed, since PyTorch also divides by it in evaluation.
    `BatchNorm(unbiased_variance=True)` continues with it in training.

    PyTorch counts the updates of every batch norm in `num_batches_tracked`. The
    counters become the collection `batch_counts`, which a module that does not count
    ignores. If all counters are 0, they are left out.

    Weights under PyTorch's `weight_norm` are computed from their lengths and
    directions.

    The dtype of floating-point arrays is the wider one of the file's and the module's;
    float64 needs `jax_enable_x64`.

    Args:
        module: a Linen module of linsey or Flax.
        arrays: a PyTorch state dict by name, or a Linen tree whose names are joined by
            `/`, as `linsey.weights.read` returns them.
        *inputs: inputs of a call of the module; shapes and dtypes are enough.
        mapping: for names that differ, a dictionary from a part of their name to a part
            of our path, such as `{"backbone": "ResNet_0"}`; to a tuple of paths for an
            array that ours has several times; or to `None` for arrays to leave out.
        strict: whether to raise an error if any array has no counterpart. Otherwise,
            variables without a value are initialised with `jax.random.key(0)`.
        **kwargs: keyword arguments of the call, such as `train=False`.

    Returns:
        The variables, and a report of the matches.

    Raises:
        MismatchError: with `strict`, arrays of either side have no counterpart, or
            another shape. The message lists them and what they most resemble.
        OptionError: `mapping` contains a name that does not exist.

    Example:
        >>> import numpy as np, linsey.linen as nn
        >>> state = {"0.weight": np.ones((4, 3)), "2.weight": np.ones((2, 4))}
        >>> model = nn.Sequential(
        ...     [nn.Dense(4, use_bias=False), nn.relu, nn.Dense(2, use_bias=False)]
        ... )
        >>> variables, report = load(model, state, np.ones((1, 3), np.float32))
        >>> variables["params"]["layers_2"]["kernel"].shape
        (4, 2)
        >>> print(report)
        2 arrays loaded into 2 layers (2 by name)
        rounded from float64: `params/layers_0/kernel`, `params/layers_2/kernel`
    """
    state = joined({name: np.asarray(array) for name, array in arrays.items()})
    specs, seen = abstract_variables(module, inputs, kwargs)
    shapes = {path: spec.shape for path, spec in specs.items()}
    plan = plan_for(module, shapes, seen, state, mapping)
    if strict and plan.leftovers:
        raise _incomplete(plan)
    flat: dict[str, Array] = {}
    rounded = []
    for link in plan.links:
        values = link.turn.to_ours([state[name] for name in link.theirs])
        for path, value in zip(link.ours, values, strict=True):
            flat[path] = _converted(value, specs[path].dtype)
            if flat[path].dtype.itemsize < value.dtype.itemsize and _is_float(value):
                rounded.append(path)
    missing = [path for path in specs if path not in flat]
    if missing:
        made = module.init(initial_rngs(), *_zeros(inputs), **kwargs)
        initial = flatten(meta.unbox(made))
        flat |= {path: initial[path] for path in missing}
    counts = _counts({path: state[name] for path, name in plan.counts.items()})
    variables = nest({path: flat[path] for path in specs} | counts)
    return variables, report_of(plan, tuple(rounded), tuple(counts))


def report_of(
    plan: Plan, rounded: tuple[str, ...] = (), counts: tuple[str, ...] = ()
) -> Report:
    """Return the part of a plan that is shown to users."""
    kept = {plan.counts[path] for path in counts}
    counters = tuple(name for name in plan.counters if name not in kept)
    return Report(
        plan.matches, plan.leftovers, plan.tied, counters, plan.dropped,
        plan.initial, rounded, counts,
    )  # fmt: skip


def _counts(found: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Convert counters of updates, unless all are 0 or one is too large for JAX."""
    dtype = jax.dtypes.canonicalize_dtype(np.int64)
    largest = max((int(count) for count in found.values()), default=0)
    if not 0 < largest <= np.iinfo(dtype).max:
        return {}
    return {path: jnp.asarray(count, dtype) for path, count in found.items()}


def _converted(value: np.ndarray, dtype: np.dtype) -> Array:
    """Convert an array to JAX, in the wider of two floating-point dtypes."""
    if _is_float(value):
        dtype = jnp.promote_types(value.dtype, dtype)
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(dtype))


def _is_float(value: np.ndarray) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _zeros(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return zeros with the shapes and dtypes of the inputs."""
    return jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.result_type(x)), inputs)


def _incomplete(plan: Plan) -> MismatchError:
    lines = "\n".join(f"  {rest}" for rest in plan.leftovers)
    ours = {rest.name: rest for rest in plan.leftovers if rest.is_ours}
    theirs = [rest for rest in plan.leftovers if not rest.is_ours]
    likely = [
        rest
        for rest in theirs
        if rest.resembles in ours
        and sorted(ours[rest.resembles].shape) == sorted(rest.shape)
    ]
    fix = "Write `strict=False` for new values there, and read the report."
    if likely:
        pair = {likely[0].name: likely[0].resembles}
        fix = f"Say what is what, as `mapping={pair}`; or leave out, by `None`."
    return MismatchError(
        f"Arrays of the module without a value: {len(ours)}; of the file without a "
        f"place: {len(theirs)}.\n{lines}",
        "A module with some weights at their initial values gives other results than "
        "the one they come from.",
        fix,
    )
