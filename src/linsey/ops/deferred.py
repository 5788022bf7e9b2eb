"""Values that are computed where they are used, and again in the backward pass.

A convolution keeps its input for the gradient of its kernel, and a batch normalization
before it keeps its own input: two arrays per layer. The input of the convolution can be
computed from that of the normalization, by one multiplication and one addition per
entry and an activation. A `Deferred` is the input of the normalization with the recipe
for its output. A consumer called by `feed` keeps only the former; all other code sees
the latter, as an array.

`jax.checkpoint` does not save this memory on a CPU: XLA merges equal computations, and
with them the recomputation and the original
(https://github.com/jax-ml/jax/issues/13999). Here the recomputation depends on the
incoming gradient, so it can neither be merged nor begin earlier
(`benchmarks/memory.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.moments import NormSpec
from linsey.ops.normalize import result_dtype, scale_and_shift

Recipe = tuple[NormSpec, Callable[[Array], Array] | None]
Operands = tuple[
    Array, Array, Array, Array | None, Array | None, *tuple[Array | None, ...]
]
Others = tuple[Any, ...]  # arrays, trees of them, `None`
T = TypeVar("T")


@dataclass(eq=False, repr=False)
class Deferred:
    """An array `activation((x - mean) * rstd * scale + bias)` not yet computed.

    As a pytree it is that array: it is computed when it enters or leaves a function
    that JAX transforms, and has the derivatives and axes of an array there.

    Args:
        recipe: which axes the operands belong to, and the activation or `None`.
        operands: `x`, `mean`, the reciprocal standard deviation `rstd`, and `scale` and
            `bias`, which may be `None`; and the prescale of `x`, if there is one.

    Example:
        >>> spec, x, one = NormSpec((0,), (1,)), jnp.array([[3.0, -5.0]]), jnp.ones(2)
        >>> z = Deferred((spec, jax.nn.relu), (x, one, one, None, None))
        >>> z.shape, (z + 1).tolist()
        ((1, 2), [[3.0, 1.0]])
        >>> z.feed(jnp.matmul, jnp.ones((2, 1))).tolist()
        [[2.0]]
    """

    recipe: Recipe
    operands: Operands

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.operands[0].shape

    @property
    def ndim(self) -> int:
        """Number of axes of the array."""
        return self.operands[0].ndim

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the array."""
        x, _, _, scale, bias, *_ = self.operands
        return result_dtype(x, scale, bias, self.recipe[0].dtype)

    @property
    def array(self) -> Array:
        """The array, computed here."""
        return _activate(self.recipe, self.operands)

    def feed(self, consumer: Callable[..., Array], *others: object) -> Array:
        """Compute `consumer(array, *others)`; recompute the array for its gradient.

        Reverse mode only: there is no forward-mode derivative.

        Args:
            consumer: a function of arrays, without state.
            others: its other arguments: arrays, trees of them or `None`.

        Returns:
            The result of the consumer, which is one array.
        """
        return _feed(consumer, self.recipe, self.operands, others)

    def __jax_array__(self) -> Array:
        return self.array

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.array.__array__(*args, **kwargs)

    def __getitem__(self, index: Any) -> Array:
        return self.array[index]

    def __getattr__(self, name: str) -> Any:
        # JAX takes an object with `aval` for one of its own arrays, and would not
        # convert it.
        if name.startswith("_") or name in ("recipe", "operands", "aval"):
            raise AttributeError(name)
        return getattr(self.array, name)


jax.tree_util.register_pytree_node(
    Deferred, lambda z: ((z.array,), None), lambda _, leaves: leaves[0]
)


def _add_operator(name: str) -> None:
    function = getattr(operator, name)
    setattr(Deferred, f"__{name}__", lambda self, other: function(self.array, other))
    setattr(Deferred, f"__r{name}__", lambda self, other: function(other, self.array))


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
for _name in (*_ARITHMETIC, "lt", "le", "gt", "ge", "eq", "ne"):
    _add_operator(_name)


def resolve(value: Deferred | T) -> Array | T:
    """Return the array of a `Deferred`, or any other value unchanged.

    The functions of `jax.lax` take only arrays, so their callers resolve the arguments.

    Example:
        >>> one = jnp.ones(1)
        >>> operands = jnp.ones((2, 1)), one, one, None, None
        >>> z = Deferred((NormSpec((0,), (1,)), None), operands)
        >>> resolve(z).tolist(), resolve(None)
        ([[0.0], [0.0]], None)
    """
    return value.array if isinstance(value, Deferred) else value


def _activate(recipe: Recipe, operands: Operands) -> Array:
    spec, activation = recipe
    y = scale_and_shift(spec, *operands)
    return y if activation is None else activation(y)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _feed(
    consumer: Callable[..., Array], recipe: Recipe, operands: Operands, others: Others
) -> Array:
    return consumer(_activate(recipe, operands), *others)


def _feed_forward(
    consumer: Callable[..., Array], recipe: Recipe, operands: Operands, others: Others
) -> tuple[Array, tuple[Operands, Others]]:
    return _feed(consumer, recipe, operands, others), (operands, others)


def _feed_backward(
    consumer: Callable[..., Array],
    recipe: Recipe,
    kept: tuple[Operands, Others],
    cotangent: Array,
) -> tuple[Operands, Others]:
    (x, mean, *rest), others = kept
    operands = x, _after(mean, cotangent), *rest
    z, pull = jax.vjp(lambda operands: _activate(recipe, operands), operands)
    given = jax.vjp(lambda others: consumer(z, *others), others)[1](cotangent)[0]
    # The gradient of the consumer's input comes last, when `z` is no longer needed.
    leaves, first = jax.tree.leaves(given), others[0]
    if leaves and jnp.issubdtype(leaves[0].dtype, jnp.floating):
        others = _after(first, leaves[0]), *others[1:]
    dz = jax.vjp(lambda z: consumer(z, *others), z)[1](cotangent)[0]
    return pull(dz)[0], given


_feed.defvjp(_feed_forward, _feed_backward)


def _after(values: Array, other: Array) -> Array:
    """Return `values` unchanged, but dependent on `other` as far as XLA can tell.

    The function adds `min(|other[0]|, 0)`, which is always zero; XLA does not know so.
    """
    if not other.size:
        return values
    entry = lax.abs(
        lax.reshape(lax.slice(other, (0,) * other.ndim, (1,) * other.ndim), ())
    )
    zero = lax.min(entry, lax.full_like(entry, 0))
    return lax.add(values, lax.full_like(values, 1) * zero.astype(values.dtype))
