"""Execution of a program in which folded kernels and biases replace the chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array, lax

from linsey.batch_stats.folding.chains import Chain
from linsey.batch_stats.folding.folds import Fold
from linsey.batch_stats.folding.graph import (
    Graph,
    Operand,
    Step,
    Value,
    bind,
    needed_steps,
    value_of,
)
from linsey.ops.conv import channels_last
from linsey.ops.cpu.conv import convolve
from linsey.ops.cpu.dispatch import has_static_shape, rewrites_convolutions
from linsey.promotion import promote_types


@dataclass(frozen=True)
class Folded:
    """The arrays of a fold. If `kernel` is `None`, it has replaced a leaf."""

    kernel: Array | None
    bias: Array


def run(
    graph: Graph,
    inputs: Sequence[Array],
    leaves: Mapping[int, Array],
    folds: Sequence[tuple[Fold, Folded]] = (),
    watched: Sequence[Value] = (),
) -> tuple[list[Array], list[Array]]:
    """Run a program.

    Args:
        graph: the program, traced with the shapes of these inputs.
        inputs: the leaves of the inputs.
        leaves: the available leaves of the variables, by position.
        folds: the folds with their arrays.
        watched: numbers of the values to return as well.

    Returns:
        The leaves of the result, and the watched values.
    """
    values: dict[Value, Array] = {**graph.captured}
    values.update(zip(graph.inputs, inputs, strict=True))
    values.update({graph.leaves[i]: leaf for i, leaf in leaves.items()})
    own = [folded.kernel is not None for _, folded in folds]
    steps, starts = rewrite(graph, [fold for fold, _ in folds], own)
    for step in steps:
        if step in starts:
            fold, folded = folds[starts[step]]
            values[fold.after.end] = _run_fold(graph, fold, folded, values)
        else:
            results = _compute(step, [value_of(values, v) for v in step.operands])
            values.update(zip(step.results, results, strict=True))
    outputs = [jnp.asarray(value_of(values, v)) for v in graph.outputs]
    return outputs, [values[v] for v in watched]


def rewrite(
    graph: Graph, folds: Sequence[Fold], own: Sequence[bool]
) -> tuple[list[Step], dict[Step, int]]:
    """Remove the folded steps from a program.

    Args:
        graph: the program.
        folds: the folds.
        own: for each fold, whether its kernel is stored separately, so that the kernel
            in the program is not needed.

    Returns:
        The remaining steps, and those among them that stand for a fold, with its index.
    """
    skipped = {link.step for fold in folds for c in fold.chains() for link in c.links}
    stand_in, starts = {}, {}
    for i, (fold, has_kernel) in enumerate(zip(folds, own, strict=True)):
        product = fold.product
        x = product.x if fold.before is None else fold.before.source
        operands = (x,) if has_kernel else (x, product.kernel)
        step = replace(product.step, operands=operands, results=(fold.after.end,))
        stand_in[product.step], starts[step] = step, i
    steps = [stand_in.get(step, step) for step in graph.steps if step not in skipped]
    return needed_steps(steps, graph.outputs), starts


def _run_fold(
    graph: Graph, fold: Fold, folded: Folded, values: Mapping[Value, Array]
) -> Array:
    product = fold.product
    x = values[product.x if fold.before is None else fold.before.source]
    if fold.before is not None:
        x = lax.convert_element_type(
            _arrange(fold.before, x), graph.avals[product.x].dtype
        )
    kernel = values[product.kernel] if folded.kernel is None else folded.kernel
    operands = [kernel if v == product.kernel else x for v in product.step.operands]
    y = _arrange(fold.after, _compute(product.step, operands)[0])
    end = graph.avals[fold.after.end]
    wide = promote_types(y.dtype, folded.bias.dtype)
    bias = _along(folded.bias, fold.after.axes, y)
    y = lax.add(*(lax.convert_element_type(v, wide) for v in (y, bias)))
    return lax.convert_element_type(y, end.dtype)


def _arrange(chain: Chain, x: Array) -> Array:
    """Apply the steps of a chain that only rearrange entries."""
    for link in chain.links:
        if link.operation == "move":
            (x,) = bind(link.step, [x])
    return x


def _along(bias: Array, axes: Sequence[int], y: Array) -> Array:
    """Reshape a bias so that it broadcasts against `y` along the channel axes."""
    order = sorted(range(len(axes)), key=axes.__getitem__)
    sizes = {axes[i]: bias.shape[i] for i in order}
    shape = [sizes.get(i, 1) for i in range(y.ndim)]
    return lax.reshape(lax.transpose(bias, order), shape)


def _compute(step: Step, operands: Sequence[Operand]) -> list[Array]:
    """Compute a step. On a CPU, convolutions take the form that is fast there."""
    if step.name == "conv_general_dilated":
        x, kernel = map(jnp.asarray, operands)
        params = step.eqn.params
        plain = (
            params["dimension_numbers"] == channels_last(x.ndim - 2)
            and params["batch_group_count"] == 1
            and params["preferred_element_type"] in (None, x.dtype)
            and params.get("out_sharding") is None
        )
        if plain and rewrites_convolutions() and has_static_shape(x):
            names = "lhs_dilation", "rhs_dilation", "dimension_numbers"
            others = "feature_group_count", "precision"
            options = {name: params[name] for name in (*names, *others)}
            moves = params["window_strides"], params["padding"]
            return [convolve(x, kernel, *moves, **options)]
    return bind(step, operands)
