"""The table of layers of a user's own model, from whichever library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from linsey.app.config import Shape
from linsey.app.models import LayerRow, summarize
from linsey.app.network import BuiltIn, Network
from linsey.batch_stats.objects import entry_name


def layers_of(network: Network, shape: Shape, batch_size: int) -> list[LayerRow]:
    """List the layers of a model; nothing is computed.

    Args:
        network: the model.
        shape: the shape of one example.
        batch_size: examples in the batch.

    Returns:
        One row per module, the model first. If the model has no Linen modules (an
        object or a function), the rows are those of its variables, by path.
    """
    if isinstance(network, BuiltIn):
        return summarize(network.module, shape, batch_size)
    rows: dict[tuple[str, ...], LayerRow] = {}

    def look(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path, name = tuple(context.module.path), context.method_name
        if name == "__call__":  # in the order in which calls begin
            rows.setdefault(path, LayerRow(path, type(context.module).__name__, ""))
        output = call(*args, **kwargs)
        if name == "__call__" and hasattr(output, "dtype"):
            rows[path].output = f"{output.dtype} {output.shape}"
        return output

    def evaluate(key: jax.Array, x: jax.Array) -> tuple[object, object]:
        variables = network.init(key, x[:1])
        with network.intercept(look):
            return variables, network.evaluate(variables, x)

    batch = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    variables, logits = jax.eval_shape(evaluate, jax.random.key(0), batch)
    is_linen = () in rows and len(rows) > 1
    if not is_linen:  # only the variables have paths
        model = network.model_with(jax.tree.map(lambda leaf: leaf, variables))
        kind = getattr(model, "__name__", type(model).__name__)
        rows = {(): LayerRow((), kind, f"{logits.dtype} {logits.shape}")}
    _add_sizes(rows, variables)
    return list(rows.values())


def _add_sizes(rows: dict[tuple[str, ...], LayerRow], variables: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(variables):
        collection, *layer, _ = map(entry_name, path)
        row = rows.setdefault(tuple(layer), LayerRow(tuple(layer), "", "", Counter()))
        row.sizes[collection] += math.prod(leaf.shape)
