"""Evaluation without batch norms: they are folded into the layers around them.

In evaluation, a batch norm is an affine map per channel, `a x + b`. If it follows a
convolution or a dense layer, both together are the same layer with another kernel and
bias. The same holds if it precedes a layer without padding. The batch norms to fold are
found in the traced program of the evaluation, not by name: see `folding.chains`. Only
values that are used once are folded, so no other layer is affected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from linsey.batch_stats.calls import (
    Batch,
    Call,
    Inputs,
    Variables,
    arguments,
    find_call,
)
from linsey.batch_stats.folding.folds import Fold, find_folds
from linsey.batch_stats.folding.graph import Graph
from linsey.batch_stats.folding.reasons import where_read, why_not
from linsey.batch_stats.folding.replay import run
from linsey.batch_stats.folding.trace import trace
from linsey.batch_stats.folding.variables import FoldedTree, Norm, fold_variables
from linsey.batch_stats.objects import is_object, variables_of
from linsey.batch_stats.report import Cell, Finding, Report
from linsey.errors import MismatchError

LARGE = 100  # largest error, in units in the last place, that is not reported


def fold(
    model: object,
    variables: Variables | None,
    example: Batch,
    *,
    flag: str | None = None,
    inputs: Inputs | None = None,
) -> tuple[Callable[..., Any], dict[str, Any], Report]:
    """Fold batch norms into the layers before or after them, for evaluation.

    The kernel of the layer before a norm is multiplied by `scale / sqrt(var + epsilon)`
    and its bias is adapted; a layer without bias gets one. This is computed in float64
    and rounded once.

    Args:
        model: as in `linsey.batch_stats.recalibrate`: a module of linsey or Flax, its
            `apply`, an object of `linsey.treex`, or a function
            `(variables, x, train, mutable)`.
        variables: its variables by collection. If `None`, an object's own variables.
        example: an example input of one call: an array, a tuple of several arguments,
            or a dictionary of keyword arguments. The errors are measured on it.
        flag: name of the argument that is True in training. If `None`, it is detected
            by its name.
        inputs: function from `example` to the arguments.

    Returns:
        apply: a pure function `apply(variables, *inputs)` of the returned variables and
            inputs of any batch size, including symbolic sizes, which computes the
            output of the model in evaluation. For every new shape, the model is traced
            and folded again in the same way.
        variables: nested dictionaries like the given ones, without the statistics,
            scales and biases that were folded. Kernels and biases keep their paths and
            dtypes; a new bias is called `bias`, next to its kernel. They are therefore
            also the variables of the same model without these norms and with these
            biases. A kernel that several calls share, or that is computed from other
            arrays, is stored in the collection `folded`.
        report: a row for each batch norm, with the layer into which it was folded or
            the reason why it was not, and the relative error `max |folded - unfolded| /
            max |unfolded|` of that layer's output. The last row is for the result.

    Raises:
        OptionError: no way was found to call the model.

    Example:
        >>> import linsey.linen as nn
        >>> class Model(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         x = nn.Conv(4, (3, 3), use_bias=False)(x)
        ...         return nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> variables = Model().init(jax.random.key(0), x, train=False)
        >>> apply, folded, report = fold(Model(), variables, x)
        >>> jax.tree.map(jnp.shape, folded)
        {'params': {'Conv_0': {'bias': (4,), 'kernel': (3, 3, 3, 4)}}}
        >>> [row[:2] for row in report.rows]
        [('BatchNorm_0', 'Conv_0'), ('the result', None)]
        >>> apply(folded, jnp.ones((5, 8, 8, 3))).shape
        (5, 8, 8, 4)
    """
    call = find_call(model, variables, example, flag=flag, inputs=inputs)
    if variables is None:
        variables = variables_of(model) if is_object(model) else {}
    args, kwargs = arguments(call.inputs(example))
    direct = dataclasses.replace(call, inputs=lambda batch: batch)
    evaluation = _Evaluation(direct, jax.eval_shape(lambda v: v, variables))
    graph, folds, _ = evaluation.program(args, kwargs)
    tree = fold_variables(graph, folds, variables)
    given = jax.tree.leaves(variables)
    errors = _measure(graph, folds, given, tree, jax.tree.leaves((args, kwargs)))
    report = _report(graph, folds, tree, errors)
    return partial(_apply, evaluation, tree), tree.variables, report


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The program of a model in evaluation, for any shapes of its inputs."""

    call: Call
    variables: Any  # shapes only
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def program(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Graph, list[Fold], jax.tree_util.PyTreeDef]:
        """Return the program, its folds, and the structure of its result."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        shapes = [jax.ShapeDtypeStruct(np.shape(v), jnp.result_type(v)) for v in leaves]
        key = structure, tuple((v.shape, v.dtype) for v in shapes)
        if key not in self.programs:
            args, kwargs = jax.tree.unflatten(structure, shapes)

            def evaluate(variables: Any, *args: Any, **kwargs: Any) -> Any:
                return self.call.evaluate(variables, kwargs or args)

            graph, result = trace(evaluate, self.variables, *args, **kwargs)
            self.programs[key] = graph, find_folds(graph), result
        return self.programs[key]


def _apply(
    evaluation: _Evaluation,
    tree: FoldedTree,
    variables: Variables,
    *args: Any,
    **kwargs: Any,
) -> Any:
    graph, folds, result = evaluation.program(args, kwargs)
    if tree.signature != [fold.signature(graph) for fold in folds]:
        raise MismatchError(
            f"With inputs of the shapes {_shapes(args, kwargs)} the model has other "
            "layers to fold than with the example that it was folded with.",
            "Its variables fit only the layers of the example.",
            "Fold the model again with these inputs as `example`.",
        )
    leaves, folded = tree.read(variables)
    pairs = list(zip(folds, folded, strict=True))
    outputs, _ = run(graph, jax.tree.leaves((args, kwargs)), leaves, pairs)
    return jax.tree.unflatten(result, outputs)


def _shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    return ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves((args, kwargs)))


# --- errors and report ----------------------------------------------------------------


def _measure(
    graph: Graph,
    folds: Sequence[Fold],
    given: Sequence[Array],
    tree: FoldedTree,
    inputs: Sequence[Array],
) -> list[float]:
    """Return the relative error of the output of each fold, and of the result."""
    ends = [fold.after.end for fold in folds]

    @jax.jit
    def errors(
        given: Sequence[Array], folded: Variables, inputs: Sequence[Array]
    ) -> list[Array]:
        before = run(graph, inputs, dict(enumerate(given)), (), ends)
        leaves, arrays = tree.read(folded)
        pairs = list(zip(folds, arrays, strict=True))
        after = run(graph, inputs, leaves, pairs, ends)
        return [
            *(_error([a], [b]) for a, b in zip(after[1], before[1], strict=True)),
            _error(after[0], before[0]),
        ]

    return [float(error) for error in errors(given, tree.variables, inputs)]


def _error(found: Sequence[Array], right: Sequence[Array]) -> Array:
    gap = size = jnp.zeros((), jnp.float32)
    for a, b in zip(found, right, strict=True):
        if b.size and jnp.issubdtype(b.dtype, jnp.inexact):
            wide = jnp.promote_types(b.dtype, jnp.float32)
            a, b = a.astype(wide), b.astype(wide)
            gap = jnp.maximum(gap, jnp.abs(a - b).max())
            size = jnp.maximum(size, jnp.abs(b).max())
    return jnp.where(gap == 0, 0.0, gap / size)


def _report(
    graph: Graph, folds: Sequence[Fold], tree: FoldedTree, errors: Sequence[float]
) -> Report:
    rows: list[list[Cell]] = []
    findings: list[Finding] = []
    at = {step: i for i, step in enumerate(graph.steps)}

    def first(norm: Norm) -> int:
        return min((at[s] for s in where_read(graph, norm.leaves)), default=len(at))

    for norm in sorted(tree.norms, key=first):
        into = [i for i, f in enumerate(folds) if norm.leaves & f.leaves(graph)]
        reason = why_not(graph, folds, norm.leaves, tree.layer_of)
        if reason is None:
            names = dict.fromkeys(tree.layer_of(graph, folds[i].product) for i in into)
            error = max(errors[i] for i in into)
            rows.append([norm.layer, ", ".join(names), error, None])
            limit = LARGE * max(_unit(graph, folds[i]) for i in into)
            if not error <= limit:
                findings.append(_inexact(norm.layer, error))
        else:
            rows.append([norm.layer, None, None, reason])
            text = f"It is computed as before: {reason}."
            findings.append(Finding(norm.layer, "not_folded", "note", text))
    rows.append(["the result", None, errors[-1], None])
    columns = ["layer", "folded into", "relative error", "reason"]
    return Report("Folding", findings, columns, rows)


def _unit(graph: Graph, fold: Fold) -> float:
    """Return the machine epsilon of the least precise dtype of a fold."""
    values = fold.product.output, fold.after.end
    return max(float(jnp.finfo(graph.avals[v].dtype).eps) for v in values)


def _inexact(layer: str, error: float) -> Finding:
    return Finding(
        layer,
        "inexact",
        "warning",
        "Its output differs from that of the model unfolded by more than rounding "
        f"explains: {error:.1e} of the largest value.",
        {"relative error": error},
        "Look for channels with a variance near 0 by `audit`.",
    )
