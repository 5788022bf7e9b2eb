"""Low-rank adaptation: a product of two small matrices that is added to a kernel."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from linsey.core.meta import replace_boxed, unbox
from linsey.errors import MismatchError, OptionError, UnsupportedError, UsageError
from linsey.errors.base import named
from linsey.fine_tuning.adapted import Change, adapt, changes_of, check_unbound
from linsey.fine_tuning.paths import Where, check_where, matches, text_of
from linsey.fine_tuning.variables import Calls, Rngs, completed, traced
from linsey.linen.initializers import lecun_normal, zeros
from linsey.linen.linear import Conv, Dense, DenseGeneral
from linsey.linen.linear.dense import as_tuple
from linsey.linen.module import (
    InterceptorContext,
    Module,
    compact,
    intercept_methods,
)
from linsey.linen.normalization import SpectralNorm, WeightNorm
from linsey.traverse_util import flatten_dict, unflatten_dict
from linsey.typing import Dtype

M = TypeVar("M", bound=Module)
LINEAR = (Dense, DenseGeneral, Conv)
NAME = "lora"


class LowRank(Module):
    """The product with a kernel plus a low-rank matrix: `x W + scale (x A) B`.

    A layer calls it in place of `jax.lax.dot_general`, or of the convolution.

    Attributes:
        product: the function that it replaces.
        rank: length of the axis that `a` and `b` share.
        scale: factor of the low-rank product.
        contracted: number of axes of the kernel that are contracted with the input.
        param_dtype: dtype of `a` and `b`.
    """

    product: Callable[..., Array]
    rank: int
    scale: float
    contracted: int
    param_dtype: Dtype

    @compact
    def __call__(self, x: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
        """Return the product of `x` and the adapted kernel."""
        count, dtype = self.contracted, self.param_dtype
        a = self.param("a", _normal, (*kernel.shape[:count], self.rank), dtype)
        b = self.param("b", zeros, (self.rank, *kernel.shape[count:]), dtype)
        y = self.product(x, kernel, *args, **kwargs)
        low = self.product(x, a.astype(kernel.dtype), *args, **kwargs)  # (..., rank)
        precision = kwargs.get("precision")
        change = jnp.tensordot(low, b.astype(low.dtype), 1, precision=precision)
        return y + self.scale * change.astype(y.dtype)


def _normal(key: Array, shape: tuple[int, ...], dtype: Dtype) -> Array:
    """Draw normal values with a variance of one over the number of inputs."""
    flat = math.prod(shape[:-1]), shape[-1]
    return lecun_normal()(key, flat, dtype).reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Adaptation(Change):
    """Factors `a` and `b` that are added to the kernels of layers.

    Attributes:
        layers: `alpha` by path.
        rank: length of the axis that the factors share.
    """

    rank: int

    def layer(self, path: str, layer: Any) -> Module:
        """Return a layer that also multiplies by the factors."""
        if path not in self.layers:
            return layer
        is_conv = isinstance(layer, Conv)
        contracted = 1
        if is_conv:
            contracted = len(as_tuple(layer.kernel_size)) + 1
        elif isinstance(layer, DenseGeneral):
            contracted = len(as_tuple(layer.axis))
        make = functools.partial(
            LowRank,
            lax.conv_general_dilated if is_conv else lax.dot_general,
            self.rank,
            self.layers[path] / self.rank,
            contracted,
            layer.param_dtype,
            name=NAME,
        )
        field = "conv_general_dilated_cls" if is_conv else "dot_general_cls"
        return layer.clone(**{field: make})


def lora(
    module: M,
    variables: Mapping[str, Any],
    where: Where,
    *inputs: object,
    rngs: Rngs,
    rank: int = 8,
    alpha: float = 16.0,
    **kwargs: object,
) -> tuple[M, dict[str, Any]]:
    """Add low-rank products to the kernels of layers.

        y = W x + c + (alpha / rank) B A x

    for `Dense`, `DenseGeneral` and `Conv`. `A` maps inputs to `rank` features (in a
    convolution, with the window of the kernel), and `B` maps these to the features of
    the layer. `B` is initialised to zero, so the model's output is unchanged until it
    is trained. The product `B A` is never formed.

    The factors are parameters, `lora/a` and `lora/b`, next to each `kernel`. To train
    only them, freeze the rest: `freeze(model, nn.DenyList("*/lora"))`.

    Args:
        module: the model.
        variables: its variables by collection.
        where: selects the layers that get factors; other than linear layers are
            ignored. `"*"` selects all, `nn.DenyList("head")` all except one, and
            `"*/attention"` those inside modules of this name. A sequence selects
            several.
        *inputs: arguments of `init`, with which the model is traced. They may be
            `jax.ShapeDtypeStruct`s.
        rngs: keys for the initial values of `A`, as for `init`.
        rank: number of features between the two factors, at least 1.
        alpha: factor of the product, before it is divided by the rank.
        **kwargs: keyword arguments of `init`, such as `train=False`.

    Returns:
        The changed model, and its variables.

    Raises:
        OptionError: `where` selects no linear layer, a path in it does not exist, or
            `rank` is below 1.
        UnsupportedError: a selected layer cannot have factors: a convolution with
            groups or with a mask, a layer with `batch_dims`, with a normalized kernel,
            or with a custom product (for example, from an earlier `lora`).
        MismatchError: `variables` lack some that the model needs.
        ArgumentTypeError: the model is not an unbound module of linsey.

    Example:
        >>> import linsey.linen as nn
        >>> model, x = nn.Sequential([nn.Dense(6), nn.relu]), jnp.ones((1, 4))
        >>> key = jax.random.key(0)
        >>> variables = model.init(key, x)
        >>> model, variables = lora(model, variables, "*", x, rngs=key, rank=2)
        >>> jax.tree.map(jnp.shape, variables["params"]["layers_0"]["lora"])
        {'a': (4, 2), 'b': (2, 6)}

    References:
        Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """
    check_unbound(module)
    if rank < 1:
        raise OptionError(
            f"`rank` is {rank}.",
            "It is the number of features between both factors.",
            "Give at least 1; usual are 4 to 64.",
        )
    watch = _Watch()
    with intercept_methods(watch):
        before, _ = traced(module, inputs, kwargs)
    chosen = _chosen(before, where, watch.paths)
    change = Adaptation(dict.fromkeys(chosen, float(alpha)), rank)
    changed = adapt(module, (*changes_of(module), change))
    new = [f"{path}/{NAME}".removeprefix("/") for path in change.layers]
    return changed, completed(changed, variables, new, before, inputs, kwargs, rngs)


def merge(module: M, variables: Mapping[str, Any]) -> tuple[M, dict[str, Any]]:
    """Add the factors of `lora` to the kernels, `W + (alpha / rank) A B`.

    Args:
        module: a model with factors.
        variables: its variables by collection.

    Returns:
        The model without factors, and its variables.

    Raises:
        UsageError: the model has no factors.
        MismatchError: the variables lack factors that the model has.
        ArgumentTypeError: the model is not an unbound module of linsey.

    Example:
        >>> import linsey.linen as nn
        >>> model, x, key = nn.Dense(6), jnp.ones((1, 4)), jax.random.key(0)
        >>> variables = model.init(key, x)
        >>> changed, variables = lora(model, variables, "*", x, rngs=key, rank=2)
        >>> merged, variables = merge(changed, variables)
        >>> merged == model, sorted(variables["params"])
        (True, ['bias', 'kernel'])
    """
    check_unbound(module)
    changes = changes_of(module)
    rest = tuple(one for one in changes if not isinstance(one, Adaptation))
    if rest == changes:
        raise UsageError(
            f"{named(module)} has no factors.",
            "What is merged are those that `lora` has added.",
            "Pass the model and the variables that `lora` returned.",
        )
    flat = flatten_dict(variables)
    for change in changes:
        if not isinstance(change, Adaptation):
            continue
        for path, alpha in change.layers.items():
            place = ("params", *filter(None, path.split("/")))
            try:
                a, b = (flat.pop((*place, NAME, name)) for name in "ab")
            except KeyError:
                raise MismatchError(
                    f'The variables hold no factors for "{path}".',
                    "The model has some there, which are to be merged.",
                    "Pass the variables that `lora` returned, trained or not.",
                ) from None
            kernel = flat[*place, "kernel"]
            value = unbox(kernel)
            product = _product(value, a, b) * (alpha / change.rank)
            total = (value.astype(product.dtype) + product).astype(value.dtype)
            flat[*place, "kernel"] = replace_boxed(kernel, total)
    return adapt(module, rest), unflatten_dict(flat)


def _product(kernel: Array, a: Array, b: Array) -> Array:
    """Multiply factors in float32 or wider; leading axes are those of `nn.scan`."""
    multiply = functools.partial(jnp.tensordot, axes=1, precision=lax.Precision.HIGHEST)
    for _ in range(a.ndim + b.ndim - 2 - kernel.ndim):
        multiply = jax.vmap(multiply)
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    return multiply(a.astype(dtype), b.astype(dtype))


@dataclasses.dataclass(eq=False)
class _Watch:
    """An interceptor that records the layers whose kernels another layer normalizes."""

    paths: set[str] = dataclasses.field(default_factory=set)
    depth: int = 0

    def __call__(
        self,
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: InterceptorContext,
    ) -> Any:
        if self.depth:
            self.paths.add(text_of(context.module.path))
        is_norm = isinstance(context.module, WeightNorm | SpectralNorm)
        self.depth += is_norm
        try:
            return next_fun(*args, **kwargs)
        finally:
            self.depth -= is_norm


def _chosen(calls: Calls, where: Where, normalized: set[str]) -> list[str]:
    """Return the paths of the layers that get factors."""
    check_where(where, calls)
    linear = [path for path, one in calls.items() if isinstance(one.module, LINEAR)]
    chosen = [path for path in linear if matches(where, path)]
    for path in chosen:
        if reason := _unsupported(path, calls, normalized):
            raise UnsupportedError(
                f'The layer at "{path}" {reason}.',
                "What is added would be no product of two matrices beside its kernel.",
                f'Leave it out: `nn.DenyList("{path}")` is all but this one.',
            )
    if not chosen:
        raise OptionError(
            f"No layer among {where} can have factors.",
            "They are added to `Dense`, `DenseGeneral` and `Conv`.",
            f"Choose some of {', '.join(linear) or 'them'}.",
        )
    return chosen


def _unsupported(path: str, calls: Calls, normalized: set[str]) -> str | None:
    """Return the reason why a layer cannot have factors, or `None` if it can."""
    layer: Any = calls[path].module
    if path in normalized:
        return "has a kernel that `WeightNorm` or `SpectralNorm` changes"
    if getattr(layer, "feature_group_count", 1) != 1:
        return f"has feature_group_count={layer.feature_group_count}"
    if getattr(layer, "mask", None) is not None:
        return "has a `mask`"
    if getattr(layer, "batch_dims", ()):
        return f"has batch_dims={tuple(layer.batch_dims)}"
    own = ("dot_general", "conv_general_dilated")
    if any(getattr(layer, f + end, None) for f in own for end in ("", "_cls")):
        return "has a product of its own"
    return None
