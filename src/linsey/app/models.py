"""The classifiers of the command, written as users would, and the table of layers.

Each takes a batch and a flag that is true in training, and returns logits. With batch
normalization, their variables are `params` and `batch_stats`; a training call updates
the latter, an evaluation call reads it. Logits have the dtype of the computation.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from typing import TypedDict

import jax
from jax import numpy as jnp
from jax.typing import DTypeLike

from linsey import linen as nn
from linsey.app.batch_norm_options import BatchNormOptions, batch_norm_options
from linsey.app.config import ModelOptions, Norm, Precision, Shape
from linsey.app.model_name import checked_name
from linsey.checkpoint import flatten
from linsey.errors import InputError
from linsey.linen.summary.calls import is_array, record_calls


class Dtypes(TypedDict, total=False):
    """The dtypes in which layers compute, and keep their parameters."""

    dtype: DTypeLike
    param_dtype: DTypeLike


def dtypes_of(precision: Precision) -> Dtypes:
    """Return the dtypes of layers, except those that are float32 by default."""
    if precision == "mixed":
        return {"dtype": jnp.bfloat16}
    if precision == "bfloat16":
        return {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    return {}


def normalize(
    x: jax.Array, norm: Norm, train: bool, batch_norm: BatchNormOptions, dtypes: Dtypes
) -> jax.Array:
    """Apply the chosen normalization; its moments are computed in float32."""
    if norm == "batch":
        return nn.BatchNorm(not train, **vars(batch_norm), **dtypes)(x)
    if norm == "layer":
        return nn.LayerNorm(**dtypes)(x)
    if norm == "group":
        return nn.GroupNorm(num_groups=math.gcd(8, x.shape[-1]), **dtypes)(x)
    return x


class Classifier(nn.Module):
    """The base of all classifiers: their options, and a linear layer at the end."""

    classes: int
    options: ModelOptions
    batch_norm: BatchNormOptions = BatchNormOptions()

    @property
    def dtypes(self) -> Dtypes:
        """The dtypes of its layers."""
        return dtypes_of(self.options.precision)

    def logits(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply dropout and the last linear layer: logits (batch, classes)."""
        x = nn.Dropout(self.options.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, **self.dtypes)(x)


class MLP(Classifier):
    """Dense layers: dense, normalize, relu, and a linear classifier at the end."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits."""
        norm, units = self.options.norm, 4 * self.options.width
        dtypes = self.dtypes
        x = x.reshape(x.shape[0], -1)  # (batch, features)
        for _ in range(self.options.depth):
            x = nn.Dense(units, use_bias=norm == "none", **dtypes)(x)
            x = normalize(x, norm, train, self.batch_norm, dtypes)
            x = nn.relu(x)  # (batch, units)
        return self.logits(x, train)


class CNN(Classifier):
    """Pairs of convolutions, each pair halving the image, then a hidden layer."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits."""
        norm, features = self.options.norm, self.options.width
        dtypes = self.dtypes
        use_bias = norm == "none"  # otherwise the norm has a bias
        for stage in range(self.options.depth):
            features = self.options.width * 2**stage
            for _ in range(2):
                x = nn.Conv(features, (3, 3), use_bias=use_bias, **dtypes)(x)
                x = nn.relu(normalize(x, norm, train, self.batch_norm, dtypes))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # (batch, height * width * features)
        x = nn.Dense(2 * features, use_bias=use_bias, **dtypes)(x)
        x = normalize(x, norm, train, self.batch_norm, dtypes)
        x = nn.relu(x)  # (batch, 2 * features)
        return self.logits(x, train)


class ResidualBlock(nn.Module):
    """Two convolutions added to their input, which is projected if shapes differ."""

    features: int
    norm: Norm
    strides: int
    batch_norm: BatchNormOptions
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute the features of the next stage."""
        use_bias, dtypes = self.norm == "none", dtypes_of(self.precision)
        strides = (self.strides, self.strides)
        norm = functools.partial(
            normalize,
            norm=self.norm,
            train=train,
            batch_norm=self.batch_norm,
            dtypes=dtypes,
        )
        y = nn.Conv(self.features, (3, 3), strides, use_bias=use_bias, **dtypes)(x)
        y = nn.relu(norm(y))
        y = norm(nn.Conv(self.features, (3, 3), use_bias=use_bias, **dtypes)(y))
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides, use_bias=use_bias, **dtypes)(x)
            x = norm(x)
        return nn.relu(x + y)  # (batch, height, width, features)


class ResNet(Classifier):
    """A stem and stages of two residual blocks, averaged over the image."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits."""
        norm, width = self.options.norm, self.options.width
        dtypes, precision = self.dtypes, self.options.precision
        x = nn.Conv(width, (3, 3), use_bias=norm == "none", **dtypes)(x)
        x = nn.relu(normalize(x, norm, train, self.batch_norm, dtypes))
        for stage in range(self.options.depth):
            for block in range(2):
                strides = 2 if stage > 0 and block == 0 else 1
                features, how = width * 2**stage, (self.batch_norm, precision)
                x = ResidualBlock(features, norm, strides, *how)(x, train)
        return self.logits(jnp.mean(x, axis=(1, 2)), train)


def _least_size(options: ModelOptions, shape: Shape) -> float:
    """Return a lower bound on the number of parameters, without building the model."""
    if options.model == "mlp":
        units = 4.0 * options.width
        return units * (math.prod(shape) + units * (options.depth - 1))
    features = options.width * 2.0 ** (options.depth - 1)
    if options.model == "cnn":
        inputs = features * math.prod(shape[:2]) // 4**options.depth
        return features * (2 * inputs + 9 * features)
    return 36 * features * features  # floats: infinite rather than an error


MAX_PARAMETERS = 2**33
"""Larger models are not built, whether a user or a file asks for them."""
_MODELS: dict[str, type[Classifier]] = {"mlp": MLP, "cnn": CNN, "resnet": ResNet}


def make_model(options: ModelOptions, shape: Shape, classes: int) -> Classifier:
    """Make the chosen model for examples of a shape.

    Args:
        options: the model options.
        shape: the shape of one example, channels last.
        classes: number of classes.

    Returns:
        The module; call it with a batch and `train`.

    Raises:
        InputError: the model cannot take such examples.
    """
    checked_name(options.model)
    if options.model != "mlp" and len(shape) != 3:
        raise InputError(
            f"a {options.model} needs images", key="--model", found=f"examples {shape}",
            expected="examples (height, width, channels)", hint="use --model mlp",
        )  # fmt: skip
    if options.model == "cnn":
        largest = int(math.log2(min(shape[:2])))
        expected = f"at most {largest} for images of {shape[0]} x {shape[1]}"
        if (depth := options.depth) > largest:
            problem = "more stages than the image can be halved"
            raise InputError(problem, key="--depth", expected=expected, found=depth)
    if (found := _least_size(options, shape)) > MAX_PARAMETERS:
        raise InputError(
            "a larger model than a machine can hold", key="--width and --depth",
            expected=f"at most {MAX_PARAMETERS:,} parameters", found=f"{found:.1e}",
        )  # fmt: skip
    return _MODELS[options.model](classes, options, batch_norm_options(options))


def least_averaged(options: ModelOptions, shape: Shape) -> int:
    """Count the values of an example that share statistics in the smallest layer.

    With one value, and one example in a batch, batch normalization has no variance.

    Args:
        options: the model options.
        shape: the shape of one example, channels last.
    """
    if options.model != "resnet":
        return 1  # in a dense layer
    halvings = options.depth - 1
    return math.prod(-(-size // 2**halvings) for size in shape[:2])


# -- the table of layers -------------------------------------------------------------


@dataclasses.dataclass
class LayerRow:
    """A module in the table of layers.

    Attributes:
        path: its path in the model; empty for the model itself.
        kind: the name of its class.
        output: dtype and shape of its output.
        sizes: number of values it owns, by collection.
    """

    path: tuple[str, ...]
    kind: str
    output: str
    sizes: Counter[str] = dataclasses.field(default_factory=Counter)


def summarize(model: nn.Module, shape: Shape, batch_size: int) -> list[LayerRow]:
    """List the modules in the order in which they are called.

    Nothing is computed: shapes are inferred.

    Args:
        model: the model; it is called with (batch, train).
        shape: the shape of one example.
        batch_size: examples in the batch.

    Returns:
        One row per module, the model first.
    """
    batch = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    calls, variables = record_calls(model, key, True, (batch, False), {})
    rows = []
    for call in calls:
        if call.method == "__call__" and is_array(call.outputs):
            output = f"{call.outputs.dtype} {call.outputs.shape}"
            rows.append(LayerRow(call.path, type(call.module).__name__, output))
    for name, array in flatten(variables).items():
        collection, *path, _ = name.split("/")
        row = next(row for row in rows if row.path == tuple(path))
        row.sizes[collection] += math.prod(array.shape)
    return rows


def total_size(rows: list[LayerRow], collection: str) -> int:
    """Count the values of a collection in the whole model."""
    return sum(row.sizes[collection] for row in rows)


def summary_cells(rows: list[LayerRow]) -> list[list[str]]:
    """Return the rows as text: layer, kind, output, parameters, statistics."""
    cells = []
    for row in rows:
        name = "  " * len(row.path) + (row.path[-1] if row.path else "(model)")
        sizes = [row.sizes[key] for key in ("params", "batch_stats")]
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
        columns = zip(cells, "<<<>>", widths, strict=True)  # numbers to the right
        aligned = [f"{cell:{align}{width}}" for cell, align, width in columns]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)
