"""`prove`: run two models on the same input, and say where they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linsey.batch_stats.calls import find_call
from linsey.checkpoint import flatten
from linsey.core import meta
from linsey.weights.diagnosis import Evidence, causes_of
from linsey.weights.layers import watching
from linsey.weights.matching import NameMapping, tokens
from linsey.weights.plan import Plan, plan_for
from linsey.weights.proof import Difference, Proof
from linsey.weights.recording import (
    MODES,
    Record,
    Turn,
    calls_of,
    record,
    record_linen,
    weights_of,
)

# In training, layers that normalize only few values amplify rounding errors.
TOLERANCES = {
    "float64": {"evaluation": 1e-9, "training": 1e-7, "statistics": 1e-7},
    "float32": {"evaluation": 1e-4, "training": 1e-3, "statistics": 1e-3},
    "half": {"evaluation": 3e-2, "training": 1e-1, "statistics": 1e-1},
}


def prove(
    ours: tuple[Any, Mapping[str, Any]],
    theirs: Any,
    example: Any,
    *,
    mapping: NameMapping | None = None,
    turn: Turn | None = None,
    tolerance: float | None = None,
) -> Proof:
    """Run two models on the same input, and compare them layer by layer.

    Both run in evaluation and in training mode, without dropout. The outputs of the
    layers, the result, the statistics after one training step, and options such as
    momentum and epsilon are compared. Layers are matched as `load` matches their
    weights. If something differs, probable causes are searched for in the options and
    the arrays.

    Args:
        ours: a Linen module and its variables.
        theirs: a `torch.nn.Module`, if torch is imported; another Linen module, of
            linsey or Flax, with its variables; or a result of `record`, for example
            read from a file.
        example: input of our module: an array, a tuple of several arguments or a
            dictionary of keyword arguments. In training, each channel needs several
            values.
        mapping: as for `load`.
        turn: as for `record`.
        tolerance: the largest difference that is ignored, divided by the largest value
            of theirs. If `None`, it is 1e-4 in evaluation and 1e-3 in training in
            float32, and 1e-9 and 1e-7 in float64. Differences of up to ten times the
            effect that changing the last digits of the input has on ours are ignored
            as well.

    Returns:
        The differences and their probable causes. `raise_if_different` raises an error
        if there are any.

    Raises:
        ArgumentTypeError: `theirs` is not such a model.
        OptionError: no way was found to call ours in both modes, or `mapping` contains
            a name that does not exist.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> class Model(nn.Module):
        ...     momentum: float
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.BatchNorm(not train, momentum=self.momentum)(x)
        >>> x = jnp.array([[1.0], [3.0]])
        >>> variables = Model(0.8).init(jax.random.key(0), x, train=False)
        >>> proof = prove((Model(0.8), variables), (Model(0.2), variables), x)
        >>> [cause.kind for cause in proof.causes]
        ['momentum inverted']
    """
    module, variables = ours
    call = find_call(module, variables, example, inputs=lambda example: example)
    mine = record_linen(call, variables, example)
    other: Mapping[str, np.ndarray] = theirs
    if not isinstance(theirs, Mapping):
        other = record(theirs, example, turn=turn)

    with watching(module) as seen:
        jax.eval_shape(call.evaluate, variables, example)
    shapes = {p: np.shape(a) for p, a in flatten(meta.unbox(variables)).items()}
    plan = plan_for(module, shapes, seen, weights_of(other), mapping)
    pairs = _pairs(plan, mine, other)
    differences = [
        difference for mode in MODES for difference in _layers(mine, other, mode, pairs)
    ]
    differences += _statistics(mine, other, plan)
    tolerances = dict(TOLERANCES[_precision(mine, other)])
    if tolerance is not None:
        tolerances = dict.fromkeys(tolerances, tolerance)
    found = Proof(tuple(differences), (), tolerances)
    if found.first is not None and found.first.mode != "evaluation":
        # This may be rounding: then a small change of the input has as much effect.
        nudged = record_linen(call, variables, _nudged(example))
        found = Proof(tuple(_with_rounding(differences, mine, nudged)), (), tolerances)
    causes = causes_of(Evidence(mine, other, plan, pairs, found))
    return Proof(found.differences, tuple(causes), tolerances)


def _pairs(plan: Plan, mine: Record, other: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Map our path of each layer to theirs, by arrays, or by name if theirs has none.

    If their model has arrays, modules without arrays are not compared: equal names do
    not imply that they return the same.
    """
    if weights_of(other):
        return {match.layer.path: match.group.path for match in plan.matches}
    theirs = {tokens(path): path for _, _, path in calls_of(other, "evaluation")}
    ours = [path for _, _, path in calls_of(mine, "evaluation")]
    return {path: theirs[tokens(path)] for path in ours if tokens(path) in theirs}


def _layers(
    mine: Record,
    other: Mapping[str, np.ndarray],
    mode: str,
    pairs: Mapping[str, str],
) -> Iterator[Difference]:
    """Compare the calls of each layer, in their order, and the result."""
    theirs: dict[str, list[str]] = {}
    for key, _, path in calls_of(other, mode):
        theirs.setdefault(path, []).append(key)
    for key, _, path in calls_of(mine, mode):
        name = pairs.get(path)
        if name is not None and theirs.get(name):
            value = difference(mine[key], other[theirs[name].pop(0)])
            yield Difference(mode, path, name, value)
    key = f"{mode}/output"
    if key in other:
        yield Difference(mode, "output", "output", difference(mine[key], other[key]))


def _statistics(
    mine: Record, other: Mapping[str, np.ndarray], plan: Plan
) -> Iterator[Difference]:
    after = weights_of(mine, "training")
    theirs = {**weights_of(other), **weights_of(other, "training")}
    if "training/output" not in other:
        return
    for link in plan.links:
        arrays = link.turn.to_ours([theirs[name] for name in link.theirs])
        for path, array in zip(link.ours, arrays, strict=True):
            if path in after and not path.endswith("/updates"):
                value = difference(after[path], array)
                yield Difference("statistics", path, ", ".join(link.theirs), value)


def _nudged(example: Any) -> Any:
    """Return the inputs with slightly changed last digits."""
    drawn = np.random.default_rng(0)

    def nudge(x: Any) -> Any:
        x = np.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        size = 4 * float(jnp.finfo(x.dtype).eps)
        return (x * (1 + size * drawn.choice([-1, 1], x.shape))).astype(x.dtype)

    return jax.tree.map(nudge, example)


def _with_rounding(
    differences: Iterable[Difference], mine: Record, nudged: Record
) -> Iterator[Difference]:
    """Add to each difference the effect of a nudged input on ours."""
    same = {path: path for mode in MODES for _, _, path in calls_of(mine, mode)}
    moves: dict[tuple[str, str], float] = {}
    for mode in MODES:
        for move in _layers(nudged, mine, mode, same):
            key = mode, move.ours
            moves[key] = max(move.value, moves.get(key, 0.0))
    before = weights_of(mine, "training")
    for path, array in weights_of(nudged, "training").items():
        moves["statistics", path] = difference(array, before[path])
    for each in differences:
        rounding = moves.get((each.mode, each.ours), 0.0)
        yield dataclasses.replace(each, rounding=rounding)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, divided by the largest value of theirs.

    Their channels may be the second axis, and axes may be flattened. The result is
    infinite if the numbers of values differ.
    """
    forms = [theirs, np.moveaxis(theirs, 1, -1)] if theirs.ndim > 2 else [theirs]
    if theirs.size != ours.size:
        return float("inf")
    return min(_relative(ours, form.reshape(ours.shape)) for form in forms)


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    if not ours.size:
        return 0.0
    wide = np.result_type(ours, theirs, np.float32)
    a, b = ours.astype(wide), theirs.astype(wide)
    scale = max(float(np.abs(b).max()), float(np.finfo(np.float32).tiny))
    value = float(np.abs(a - b).max()) / scale
    return float("inf") if np.isnan(value) else value


def _precision(mine: Record, other: Mapping[str, np.ndarray]) -> str:
    """Return the precision of the results, the lower one if they differ."""
    keys = [f"{mode}/output" for mode in MODES]
    sizes = [r[key].dtype.itemsize for r in (mine, other) for key in keys if key in r]
    return {8: "float64", 4: "float32"}.get(min(sizes), "half")
