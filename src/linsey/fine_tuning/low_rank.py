"""Low-rank adaptation: a product of two small matrices beside a kernel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from linsey.core.meta import replace_boxed, unbox
from linsey.errors import OptionError, UnsupportedError, UsageError
from linsey.errors.base import named
from linsey.fine_tuning.adapted import (
    Args,
    Called,
    Change,
    Kwargs,
    Run,
    adapt,
    changes_of,
    check_module,
)
from linsey.fine_tuning.paths import (
    Path,
    Rename,
    Where,
    as_text,
    check_where,
    is_within,
    like,
    matches,
    put,
)
from linsey.fine_tuning.replacement import Rngs, initialised, trace
from linsey.linen.initializers import variance_scaling
from linsey.linen.linear import Conv, Dense, DenseGeneral
from linsey.linen.linear.dense import as_tuple
from linsey.linen.module import Module
from linsey.linen.normalization import SpectralNorm, WeightNorm
from linsey.linen.summary.calls import Call
from linsey.ops.conv import conv
from linsey.ops.dot import dense_general

FACTORS = ("lora_a", "lora_b")
# Uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in), as in the code of the paper.
_draw = variance_scaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class LowRank(Change):
    """Factors beside the kernels of layers.

    Attributes:
        paths: of the layers.
        rank: the length of the axis that the factors share.
        alpha: what their product is multiplied with, times the rank.
        collection: where the factors are.
    """

    paths: tuple[Path, ...]
    rank: int
    alpha: float
    collection: str

    def call(
        self, path: Path, run: Run, args: Args, kwargs: Kwargs, called: Called
    ) -> Any:
        """Add what the factors give to what the layer returns."""
        y = run(*args, **kwargs)
        layer = called.module
        if path not in self.paths or called.method_name != "__call__":
            return y
        if FACTORS[0] in layer._bound.frame.names:  # `__call__` of the base class did
            return y
        x = args[0] if args else kwargs["inputs"]
        a, b = self._factors(layer)
        x, a, b = layer.promote_dtype(x, a, b, dtype=layer.dtype)
        low = _project(layer, x, a)  # (..., rank)
        change = jnp.tensordot(low, b, 1, precision=layer.precision)
        return y + (change * (self.alpha / self.rank)).astype(y.dtype)

    def _factors(self, layer: Any) -> tuple[Array, Array]:
        kernel = unbox(layer.get_variable("params", "kernel"))
        count = _contracted(layer, kernel.ndim)
        shapes = (*kernel.shape[:count], self.rank), (self.rank, *kernel.shape[count:])

        def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            flat = (math.prod(shape[:-1]), shape[-1])
            return _draw(key, flat, dtype).reshape(shape)

        def zeros(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.zeros(shape, dtype)

        found = []
        for name, init, shape in zip(FACTORS, (draw, zeros), shapes, strict=True):
            if self.collection == "params":
                found.append(layer.param(name, init, shape, kernel.dtype))
            else:
                make = _Maker(layer, init, shape, kernel.dtype)
                found.append(layer.variable(self.collection, name, make).value)
        return found[0], found[1]

    def renamed(self, rename: Rename) -> Change | None:
        """Follow the layers."""
        paths = tuple(new for p in self.paths if (new := rename(p)) is not None)
        return dataclasses.replace(self, paths=paths) if paths else None


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes an initial value, with a key of the stream `params`."""

    layer: Any
    init: Any
    shape: tuple[int, ...]
    dtype: Any

    def __call__(self) -> Array:
        return self.init(self.layer.make_rng("params"), self.shape, self.dtype)


def _contracted(layer: Module, ndim: int) -> int:
    """Return the number of axes of a kernel that inputs are contracted with."""
    if isinstance(layer, Conv):
        return ndim - 1
    return len(as_tuple(layer.axis)) if isinstance(layer, DenseGeneral) else 1


def _project(layer: Any, x: Array, a: Array) -> Array:
    """Call a layer with the first factor as its kernel, and without a bias."""
    if isinstance(layer, Conv):
        return conv(
            x,
            a,
            None,
            strides=layer.strides,
            padding=layer.padding,
            input_dilation=layer.input_dilation,
            kernel_dilation=layer.kernel_dilation,
            feature_group_count=1,
            precision=layer.precision,
        )
    axes = as_tuple(layer.axis) if isinstance(layer, DenseGeneral) else (-1,)
    axes = sorted(axis % x.ndim for axis in axes)
    return dense_general(x, a, axes=axes, batch_axes=(), precision=layer.precision)


def lora(
    module: Module,
    variables: Mapping[str, Any],
    *inputs: object,
    rngs: Rngs,
    rank: int = 8,
    alpha: float = 16.0,
    where: Where | None = None,
    collection: str = "lora",
    **kwargs: object,
) -> tuple[Module, Any]:
    """Add a trainable product of low rank to the kernels of layers.

        y = W x + c + (alpha / rank) B A x

    for `Dense`, `DenseGeneral` and `Conv`, where `A` maps to `rank` features, by a
    kernel of the same window in a convolution, and `B` maps these to the features of
    the layer. `B` starts at zero: until it is trained, the model returns what it did.
    The product is never formed; no gradient of `W` is needed.

    The factors `lora_a` and `lora_b` are in a collection of their own, beside the
    kernels by path. What is differentiated and given to the optimizer is that
    collection; nothing else is held there, so that nothing has to be masked:

        grads = jax.grad(lambda factors: loss({**variables, "lora": factors}))

    Layers inside of `nn.scan` or `nn.vmap` have it only if these transforms are told of
    the collection; `collection="params"` puts the factors beside the kernels, where
    they follow what is said of `params`.

    Args:
        module: the model.
        variables: its variables by collection.
        *inputs: arguments of `module.init`, with which the model is traced. They may be
            `jax.ShapeDtypeStruct`s.
        rngs: keys for the initial values of `lora_a`, as for `init`.
        rank: at least 1.
        alpha: the size of the change, in units of the rank.
        where: which layers, see `freeze`. If `None`, all that can have factors.
        collection: where the factors are.
        **kwargs: keyword arguments of `init`, such as `train=False`.

    Returns:
        The model with factors, and its variables with them.

    Raises:
        OptionError: no layer is chosen; `rank` is below 1; or a transform does not know
            the collection.
        UnsupportedError: a layer that is chosen can have no factors: a convolution in
            groups or with a mask, `batch_dims`, or a kernel that is normalized.
        UsageError: the model has factors already.
        ArgumentTypeError: the model is no module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model, x, key = nn.Dense(6), jnp.ones((1, 4)), jax.random.key(0)
        >>> model = nn.Sequential([model, nn.relu])
        >>> variables = model.init(key, x)
        >>> model, variables = lora(model, variables, x, rngs=key, rank=2)
        >>> jax.tree.map(jnp.shape, variables["lora"])
        {'layers_0': {'lora_a': (4, 2), 'lora_b': (2, 6)}}

    References:
        Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """
    check_module(module)
    if rank < 1:
        raise OptionError(
            f"`rank` is {rank}.",
            "It is the number of features between both factors.",
            "Give at least 1; usual are 4 to 64.",
        )
    if any(isinstance(change, LowRank) for change in changes_of(module)):
        raise UsageError(
            f"{named(module)} has factors already.",
            "Two pairs at one layer would have one name.",
            "Merge them first, `model, variables = merge(model, variables)`, or choose "
            "all layers in one call.",
        )
    calls, _ = trace(module, inputs, kwargs)
    paths = tuple(sorted(_chosen(calls, where)))
    changed = adapt(
        module, (*changes_of(module), LowRank(paths, rank, float(alpha), collection))
    )
    try:
        created = initialised(changed, inputs, rngs, kwargs)
    except Exception as error:
        error.add_note("This was raised while the factors were initialised.")
        raise
    out: dict[str, Any] = dict(variables)
    for path in paths:
        found: Any = created.get(collection, {})
        for name in path:
            found = found.get(name, {})
        if any(name not in found for name in FACTORS):
            raise _lost(path, collection)
        for name in FACTORS:
            out = put(out, (collection, *path, name), found[name])
    return changed, like(out, variables)


def merge(module: Module, variables: Mapping[str, Any]) -> tuple[Module, Any]:
    """Add the factors of `lora` to the kernels, `W + (alpha / rank) A B`.

    Args:
        module: a model with factors.
        variables: its variables by collection.

    Returns:
        The model without them, and its variables, all of whose other arrays are the
        same.

    Raises:
        UsageError: the model has none.
        ArgumentTypeError: the model is no module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model, x = nn.Sequential([nn.Dense(6)]), jnp.ones((1, 4))
        >>> key = jax.random.key(0)
        >>> given = model.init(key, x)
        >>> changed, variables = lora(model, given, x, rngs=key, rank=2)
        >>> merged, variables = merge(changed, variables)
        >>> merged == model, sorted(variables)
        (True, ['params'])
    """
    check_module(module)
    changes = changes_of(module)
    low_rank = next((one for one in changes if isinstance(one, LowRank)), None)
    if low_rank is None:
        raise UsageError(
            f"{named(module)} has no factors.",
            "What is merged are those that `lora` has added.",
            "Pass the model and the variables that `lora` returned.",
        )
    out: dict[str, Any] = dict(variables)
    for path in low_rank.paths:
        a, b = (_get(out, (low_rank.collection, *path, name)) for name in FACTORS)
        place = ("params", *path, "kernel")
        kernel = _get(out, place)
        product = _product(unbox(kernel), unbox(a), unbox(b))
        scaled = product * (low_rank.alpha / low_rank.rank)
        value = unbox(kernel)
        total = (value.astype(scaled.dtype) + scaled).astype(value.dtype)
        out = put(out, place, replace_boxed(kernel, total))
        for name in FACTORS:
            out = put(out, (low_rank.collection, *path, name), None)
    if low_rank.collection in out and not out[low_rank.collection]:
        del out[low_rank.collection]
    rest = tuple(change for change in changes if change is not low_rank)
    return adapt(module, rest), like(out, variables)


def _product(kernel: Array, a: Array, b: Array) -> Array:
    """Multiply factors, in float32 at least; leading axes are those of `nn.scan`."""
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    stacked = a.ndim + b.ndim - 2 - kernel.ndim

    def multiply(a: Array, b: Array) -> Array:
        return jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)

    for _ in range(stacked):
        multiply = jax.vmap(multiply)
    return multiply(a.astype(dtype), b.astype(dtype))


def _chosen(calls: Sequence[Call], where: Where | None) -> list[Path]:
    """Return the paths of the layers that get factors."""
    linear = [c for c in calls if isinstance(c.module, Dense | DenseGeneral | Conv)]
    reasons = {call.path: _unsupported(call, calls) for call in linear}
    if where is None:
        chosen = [path for path, reason in reasons.items() if reason is None]
    else:
        check_where(where, (call.path for call in calls))
        chosen = [path for path in reasons if matches(where, path)]
    for path in chosen:
        if reasons[path] is not None:
            raise UnsupportedError(
                f'The layer at "{as_text(path)}" {reasons[path]}.',
                "What is added would be no product of two small matrices.",
                "Leave it out of `where`, or leave out `where`, which then is all "
                "layers that can have factors.",
            )
    if not chosen:
        have = ", ".join(f'"{as_text(path)}"' for path in reasons) or "none"
        raise OptionError(
            "No layer is chosen.",
            "Factors are added to `Dense`, `DenseGeneral` and `Conv`; the model calls "
            f"{have}.",
            "Give `where` one of these, or leave it out.",
        )
    return chosen


def _unsupported(call: Call, calls: Sequence[Call]) -> str | None:
    """Return why a layer can have no factors, `None` if it can."""
    layer: Any = call.module
    for other in calls:
        is_around = call.path != other.path and is_within(call.path, other.path)
        if is_around and isinstance(other.module, WeightNorm | SpectralNorm):
            return f"has a kernel that {named(other.module)} normalizes"
    if isinstance(layer, Conv) and layer.feature_group_count != 1:
        return f"has feature_group_count={layer.feature_group_count}"
    if isinstance(layer, Conv) and layer.mask is not None:
        return "has a `mask`"
    if isinstance(layer, DenseGeneral) and layer.batch_dims:
        return f"has batch_dims={tuple(layer.batch_dims)}"
    return None


def _get(tree: Any, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _lost(path: Path, collection: str) -> OptionError:
    return OptionError(
        f'The layer at "{as_text(path)}" got no factors in the collection '
        f"`{collection}`.",
        "It is inside of a transform, such as `nn.scan`, which does not keep this "
        "collection.",
        'Write `lora(..., collection="params")`, or name it in the transform, as in '
        '`variable_axes={"params": 0, "lora": 0}`.',
    )
