"""The classifiers of the command, as anyone would write them, and their layers.

Each takes a batch and whether it is being trained, and gives logits. With batch
normalization their variables are `params` and `batch_stats`; a training call updates
the second, an evaluation call reads it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import cast

import jax
from jax import numpy as jnp

from linsey import linen as nn
from linsey.app.config import ModelOptions, Norm
from linsey.checkpoint import flatten
from linsey.errors import InputError

Layer = Callable[[jax.Array], jax.Array]
# Statistics average over about ten steps: the runs here are short.
BATCH_NORM_MOMENTUM = 0.9


def _normalization(norm: Norm, train: bool) -> Callable[[int], Layer]:
    """Make the chosen normalization for a number of features."""
    makers: dict[str, Callable[[int], Layer]] = {
        "batch": lambda features: nn.BatchNorm(
            use_running_average=not train, momentum=BATCH_NORM_MOMENTUM
        ),
        "layer": lambda features: nn.LayerNorm(),
        "group": lambda features: nn.GroupNorm(num_groups=math.gcd(8, features)),
        "none": lambda features: lambda x: x,
    }
    return makers[norm]


class MLP(nn.Module):
    """Dense layers: dense, normalize, relu, and a linear classifier at the end."""

    classes: int
    norm: Norm = "batch"
    width: int = 32
    depth: int = 2
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits."""
        norm = _normalization(self.norm, train)
        units = 4 * self.width
        x = x.reshape(x.shape[0], -1)  # (batch, features)
        for _ in range(self.depth):
            x = nn.Dense(units, use_bias=self.norm == "none")(x)
            x = norm(units)(x)
            x = nn.relu(x)  # (batch, units)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)  # (batch, classes)


class CNN(nn.Module):
    """Pairs of convolutions, each pair halving the image, then a hidden layer."""

    classes: int
    norm: Norm = "batch"
    width: int = 32
    depth: int = 2
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits."""
        norm = _normalization(self.norm, train)
        use_bias = self.norm == "none"  # elsewhere the norm has one
        features = self.width
        for stage in range(self.depth):
            features = self.width * 2**stage
            for _ in range(2):
                x = nn.Conv(features, (3, 3), use_bias=use_bias)(x)
                x = norm(features)(x)
                x = nn.relu(x)  # (batch, height, width, features)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # (batch, height * width * features)
        x = nn.Dense(2 * features, use_bias=use_bias)(x)
        x = norm(2 * features)(x)
        x = nn.relu(x)  # (batch, 2 * features)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)  # (batch, classes)


class ResidualBlock(nn.Module):
    """Two convolutions added to their input, which is projected if shapes differ."""

    features: int
    norm: Norm
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute the features of the next stage."""
        norm = _normalization(self.norm, train)
        use_bias = self.norm == "none"
        strides = (self.strides, self.strides)
        y = nn.Conv(self.features, (3, 3), strides, use_bias=use_bias)(x)
        y = norm(self.features)(y)
        y = nn.relu(y)
        y = nn.Conv(self.features, (3, 3), use_bias=use_bias)(y)
        y = norm(self.features)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides, use_bias=use_bias)(x)
            x = norm(self.features)(x)
        return nn.relu(x + y)  # (batch, height, width, features)


class ResNet(nn.Module):
    """A stem and stages of two residual blocks, averaged over the image."""

    classes: int
    norm: Norm = "batch"
    width: int = 32
    depth: int = 2
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits."""
        x = nn.Conv(self.width, (3, 3), use_bias=self.norm == "none")(x)
        x = _normalization(self.norm, train)(self.width)(x)
        x = nn.relu(x)
        for stage in range(self.depth):
            for block in range(2):
                strides = 2 if stage > 0 and block == 0 else 1
                features = self.width * 2**stage
                x = ResidualBlock(features, self.norm, strides)(x, train)
        x = jnp.mean(x, axis=(1, 2))  # (batch, features)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)  # (batch, classes)


_MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": CNN, "resnet": ResNet}


def make_model(
    options: ModelOptions, shape: tuple[int, ...], classes: int
) -> nn.Module:
    """Make the chosen model for examples of a shape.

    Args:
        options: the model options.
        shape: of one example, channels last.
        classes: number of classes.

    Returns:
        The module; call it with a batch and `train`.

    Raises:
        InputError: the model cannot take such examples.
    """
    if options.model != "mlp":
        _require_image(options, shape)
    make = cast(Callable[..., nn.Module], _MODELS[options.model])
    return make(
        classes=classes,
        norm=options.norm,
        width=options.width,
        depth=options.depth,
        dropout=options.dropout,
    )


def _require_image(options: ModelOptions, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise InputError(
            f"a {options.model} needs images", key="--model", found=f"examples {shape}",
            expected="examples (height, width, channels)", hint="use --model mlp",
        )  # fmt: skip
    largest = int(math.log2(min(shape[:2])))
    if options.model == "cnn" and options.depth > largest:
        raise InputError(
            "more stages than the image can be halved", key="--depth",
            expected=f"at most {largest} for images of {shape[0]} x {shape[1]}",
            found=options.depth,
        )  # fmt: skip


# -- the table of layers -------------------------------------------------------------


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
