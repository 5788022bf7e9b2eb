"""`load`: the arrays of a file as variables of a module."""

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
from linsey.weights.report import Report


def load(
    module: Any,
    arrays: Mapping[str, Any],
    *inputs: Any,
    mapping: NameMapping | None = None,
    strict: bool = True,
    **kwargs: Any,
) -> tuple[dict[str, Any], Report]:
    """Put arrays of another library into the variables of a module.

    Names are matched first, then the order of the layers with their kinds and shapes,
    and what could go two ways is not matched. Layouts are turned, as
    `linsey.weights.translation` lists. The running variance of PyTorch has `n - 1`
    degrees of freedom; it is taken as it is, for evaluation divides by it there too.
    `BatchNorm(unbiased_variance=True)` goes on with it in training.

    Floating-point arrays keep their dtype if it is the wider one, else they get that of
    the module; float64 needs `jax_enable_x64`.

    Args:
        module: a Linen module; of real Flax as well.
        arrays: a state dict of PyTorch by name, or a tree of Linen whose names are
            joined by `/`, as `linsey.weights.read` returns them.
        *inputs: what the module is called with; shapes and dtypes are enough.
        mapping: for names that differ, the part of the name that is theirs to the part
            of the path that is ours, such as `{"backbone": "ResNet_0"}`; a tuple of
            paths for an array that ours has several times, and `None` for what is to be
            left out.
        strict: whether to raise an error if anything has no counterpart. If not, what
            has no value gets its initial one, with `jax.random.key(0)`.
        **kwargs: keyword arguments of the call, such as `train=False`.

    Returns:
        The variables, and what was matched with what.

    Raises:
        MismatchError: with `strict`, arrays of either side have no counterpart, or
            another shape; the text lists them and what they most resemble.
        OptionError: `mapping` names what is not there.

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
    state = {name: np.asarray(array) for name, array in arrays.items()}
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
    variables = nest({path: flat[path] for path in specs})
    return variables, report_of(plan, tuple(rounded))


def report_of(plan: Plan, rounded: tuple[str, ...] = ()) -> Report:
    """Return the part of a plan that users read."""
    return Report(
        plan.matches, plan.leftovers, plan.tied, plan.counters, plan.dropped,
        plan.initial, rounded,
    )  # fmt: skip


def _converted(value: np.ndarray, dtype: np.dtype) -> Array:
    """Return an array of JAX, of the wider of two floating-point dtypes."""
    if _is_float(value):
        dtype = jnp.promote_types(value.dtype, dtype)
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(dtype))


def _is_float(value: np.ndarray) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _zeros(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return inputs of the same shapes that are there."""
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
