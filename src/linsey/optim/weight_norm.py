"""Weight normalization as an optimizer around another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey import struct
from linsey.optim._selection import gradients_of
from linsey.optim.base import OptimizerDef, Scalar
from linsey.optim.optax_definition import as_array, like
from linsey.optim.state import OptimizerState
from linsey.promotion import promote_types

__all__ = ["WeightNorm"]

T = TypeVar("T")

Pair = dict[str, Any]
Scale = jax.Array | tuple[()]
"""The scale of a leaf, or `()` if the leaf is updated as a whole."""


@struct.dataclass
class _WeightNormHyperParams:
    inner: Any
    wn_decay: Scalar
    wn_eps: Scalar


@struct.dataclass
class _WeightNormParamState:
    direction_state: Any
    scale_state: Any
    direction: jax.Array
    scale: Scale


class WeightNorm(OptimizerDef):
    """Optimizes direction and scale of each weight column separately.

        param = scale * direction / sqrt(sum(direction**2) + wn_eps)

    with the sum over all axes except the last. The wrapped optimizer updates direction
    and scale with their gradients. Leaves with one value per column, such as biases,
    are updated as a whole.

    Direction and scale are part of the state, and updates start from them: a `target`
    that was replaced by hand is lost at the next update.

    Args:
        wrapped_optimizer: the optimizer of direction and scale. It sees the tree
            `{"direction": ..., "scale": ...}`.
        wn_decay: this multiple of the direction is added to its gradient.
        wn_eps: keeps the quotient finite.

    Example:
        >>> from linsey import optim
        >>> definition = WeightNorm(optim.GradientDescent(0.1))
        >>> optimizer = definition.create(jnp.eye(2))
        >>> print(optimizer.apply_gradient(jnp.ones((2, 2))).target.round(4))
        [[ 0.8955 -0.0896]
         [-0.0896  0.8955]]

    References:
        Salimans & Kingma 2016, Weight normalization, https://arxiv.org/abs/1602.07868
    """

    def __init__(
        self,
        wrapped_optimizer: OptimizerDef,
        wn_decay: Scalar = 0,
        wn_eps: Scalar = 1e-8,
    ) -> None:
        inner = wrapped_optimizer.hyper_params
        super().__init__(_WeightNormHyperParams(inner, wn_decay, wn_eps))
        self.wrapped_optimizer = wrapped_optimizer

    def update_hyper_params(self, **overrides: Any) -> Any:
        """Return the hyper-parameters with some replaced.

        Args:
            **overrides: `wn_decay` and `wn_eps` are for this optimizer; all others are
                for the wrapped one.
        """
        own_names = {"wn_decay", "wn_eps"} & overrides.keys()
        own = {name: overrides.pop(name) for name in own_names}
        inner = self.wrapped_optimizer.update_hyper_params(**overrides)
        return self.hyper_params.replace(inner=inner, **own)

    def init_state(self, params: object) -> OptimizerState:  # noqa: D102
        eps = self.hyper_params.wn_eps
        parts = jax.tree.map(lambda leaf: _split(as_array(leaf), eps), params)
        direction = jax.tree.map(lambda _, part: part[0], params, parts)
        scale = jax.tree.map(lambda _, part: part[1], params, parts)
        pair = {"direction": direction, "scale": scale}
        return _state_by_leaf(params, self.wrapped_optimizer.init_state(pair), pair)

    def apply_gradient(  # noqa: D102
        self, hyper_params: Any, params: T, state: OptimizerState, grads: object
    ) -> tuple[T, OptimizerState]:
        treedef = jax.tree.structure(params)
        states = treedef.flatten_up_to(state.param_states)
        decay, eps = hyper_params.wn_decay, hyper_params.wn_eps

        def pair(parts: Iterable[tuple[object, object]]) -> Pair:
            """Return the tree that the wrapped optimizer sees."""
            directions, scales = zip(*parts, strict=True) if states else ((), ())
            direction, scale = treedef.unflatten(directions), treedef.unflatten(scales)
            return {"direction": direction, "scale": scale}

        old = [(as_array(state.direction), _scale(state.scale)) for state in states]
        moves = [
            _gradients(as_array(grad), *parts, decay, eps)
            for grad, parts in zip(gradients_of(treedef, grads), old, strict=True)
        ]
        inner_states = pair((s.direction_state, s.scale_state) for s in states)
        inner = OptimizerState(state.step, inner_states)
        moved, inner = self.wrapped_optimizer.apply_gradient(
            hyper_params.inner, pair(old), inner, pair(moves)
        )

        def weight(leaf: ArrayLike, direction: jax.Array, scale: Scale) -> jax.Array:
            if not isinstance(scale, tuple):
                direction = scale * direction * _inverse_norm(direction, eps)
            return like(direction, as_array(leaf))

        weights = jax.tree.map(weight, params, moved["direction"], moved["scale"])
        return weights, _state_by_leaf(params, inner, moved)


def _state_by_leaf(params: object, inner: OptimizerState, pair: Pair) -> OptimizerState:
    """Return the state, leaf by leaf, from that of the wrapped optimizer."""
    states = inner.param_states
    parts = (states["direction"], states["scale"], pair["direction"], pair["scale"])
    leaves = jax.tree.map(lambda _, *own: _WeightNormParamState(*own), params, *parts)
    return OptimizerState(inner.step, leaves)


def _scale(scale: Any) -> Scale:
    """Return the scale of a leaf as an array or `()`, also if it was restored."""
    return as_array(scale) if jax.tree.leaves(scale) else ()


def _inverse_norm(direction: jax.Array, eps: Scalar) -> jax.Array:
    """Return the inverse norm of each column, shape (1, ..., 1, columns)."""
    dtype = promote_types(direction.dtype, jnp.float32)
    squares = jnp.square(direction.astype(dtype))
    axes = tuple(range(direction.ndim - 1))
    return 1 / jnp.sqrt(jnp.sum(squares, axis=axes, keepdims=True) + eps)


def _split(weight: jax.Array, eps: Scalar) -> tuple[jax.Array, Scale]:
    """Return direction and scale; the scale is `()` if there are no columns."""
    if weight.ndim == 0 or weight.size <= weight.shape[-1]:
        return weight, ()
    inverse = _inverse_norm(weight, eps)
    return like(weight * inverse, weight), like(1 / inverse, weight)


def _gradients(
    grad: jax.Array, direction: jax.Array, scale: Scale, decay: Scalar, eps: Scalar
) -> tuple[jax.Array, Scale]:
    """Return the gradients of direction and scale, given that of the weight."""
    if isinstance(scale, tuple):
        return grad, ()
    inverse = _inverse_norm(direction, eps)
    axes = tuple(range(grad.ndim - 1))
    along = jnp.sum(grad * direction, axis=axes, keepdims=True)
    across = grad - direction * along * jnp.square(inverse)
    return scale * inverse * across + decay * direction, along * inverse
