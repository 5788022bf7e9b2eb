"""A table of the layers of a model: what goes out, what is learned, what is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
from jax import numpy as jnp

from linsey import linen as nn
from linsey.checkpoint import flatten


@dataclasses.dataclass
class LayerRow:
    """One module.

    Attributes:
        path: where it is in the model; empty for the model itself.
        kind: its class.
        output: shape and dtype of what it returns.
        sizes: number of values it owns, by collection.
    """

    path: tuple[str, ...]
    kind: str
    output: str
    sizes: dict[str, int]


def summarize(
    model: nn.Module, shape: tuple[int, ...], batch_size: int
) -> list[LayerRow]:
    """List the modules in the order in which they are called.

    Nothing is computed: shapes are inferred.

    Args:
        model: takes (batch, train).
        shape: of one example.
        batch_size: examples in the batch.

    Returns:
        One row per module, the model first.
    """
    rows: list[LayerRow] = []

    def record(
        call: Callable[..., jax.Array],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        context: nn.module.InterceptorContext,
    ) -> jax.Array:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        row = LayerRow(context.module.path, type(context.module).__name__, "", {})
        rows.append(row)
        output = call(*args, **kwargs)
        row.output = f"{output.dtype} {output.shape}"
        return output

    def initialize(key: jax.Array, x: jax.Array) -> Mapping[str, object]:
        with nn.intercept_methods(record):
            return model.init(key, x, False)

    batch = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    variables = jax.eval_shape(initialize, jax.random.key(0), batch)
    for name, array in flatten(variables).items():
        collection, *path, _ = name.split("/")
        row = next(row for row in rows if row.path == tuple(path))
        size = math.prod(array.shape)
        row.sizes[collection] = row.sizes.get(collection, 0) + size
    return rows


def total_size(rows: list[LayerRow], collection: str) -> int:
    """Count the values of a collection in the whole model."""
    return sum(row.sizes.get(collection, 0) for row in rows)


def summary_cells(rows: list[LayerRow]) -> list[list[str]]:
    """Return the rows as text: layer, kind, output, parameters, statistics."""
    cells = []
    for row in rows:
        name = "  " * len(row.path) + (row.path[-1] if row.path else "(model)")
        sizes = [row.sizes.get(key, 0) for key in ("params", "batch_stats")]
        shown = [f"{size:,}" if size else "" for size in sizes]
        cells.append([name, row.kind, row.output, *shown])
    totals = [f"{total_size(rows, key):,}" for key in ("params", "batch_stats")]
    return [*cells, ["total", "", "", *totals]]


HEADERS = ("layer", "kind", "output", "parameters", "statistics")


def summary_text(rows: list[LayerRow]) -> str:
    """Return the table with aligned columns."""
    table = [list(HEADERS), *summary_cells(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        left = [f"{c:<{w}}" for c, w in zip(cells[:3], widths, strict=False)]
        right = [f"{c:>{w}}" for c, w in zip(cells[3:], widths[3:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
    return "\n".join(lines)
