"""Loss scaling with an automatic scale, for gradients in half precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from linsey import struct


class DynamicScaleResult(NamedTuple):
    """The result of a function returned by `DynamicScale.value_and_grad`."""

    dynamic_scale: DynamicScale
    finite: jax.Array
    aux: Any
    grad: Any


class DynamicScale(struct.PyTreeNode):
    """A scale for a loss, which is kept as large as the gradients stay finite.

    Gradients in float16 that are smaller than 6e-8 become 0. They are preserved if the
    loss is multiplied by a scale and its gradients are divided by it afterwards. The
    scale shrinks when a gradient is not finite, and grows after many steps in which all
    gradients were finite. Skip the update of a step whose gradients are not finite.

    Args:
        growth_factor: factor by which the scale grows. Defaults to 2.
        backoff_factor: factor by which the scale shrinks. Defaults to 0.5.
        growth_interval: number of finite steps after which the next finite step
            increases the scale. Defaults to 2000.
        fin_steps: number of finite steps since the scale changed.
        scale: the scale. Defaults to 65536.
        minimum_scale: the smallest scale. If `None`, there is no limit.

    Example:
        >>> scaling = DynamicScale(growth_interval=1)
        >>> for _ in range(2):
        ...     value_and_grad = scaling.value_and_grad(lambda p: p**2)
        ...     scaling, finite, loss, grad = value_and_grad(jnp.float32(2.0))
        >>> float(loss), float(grad), bool(finite), float(scaling.scale)
        (4.0, 4.0, True, 131072.0)
    """

    growth_factor: float = struct.field(pytree_node=False, default=2.0)
    backoff_factor: float = struct.field(pytree_node=False, default=0.5)
    growth_interval: int = struct.field(pytree_node=False, default=2000)
    fin_steps: int | jax.Array = 0
    scale: float | jax.Array = 65536.0
    minimum_scale: float | None = struct.field(
        pytree_node=False, default=float(jnp.finfo(jnp.float32).tiny)
    )

    def value_and_grad(
        self,
        fun: Callable[..., Any],
        argnums: int | Sequence[int] = 0,
        has_aux: bool = False,
        axis_name: str | None = None,
    ) -> Callable[..., DynamicScaleResult]:
        """Return a function that computes a loss and its gradients.

        Args:
            fun: returns the loss or, with `has_aux`, a pair of the loss and anything
                else.
            argnums: positional arguments to differentiate with respect to.
            has_aux: whether `fun` returns a pair.
            axis_name: mapped axis over which gradients are averaged. If `None`, they
                are not averaged.

        Returns:
            A function of the positional arguments of `fun`. It returns the next
            `DynamicScale`, whether all gradients are finite, the loss (or the pair),
            and the gradients in float32.
        """

        def scaled(*args: object) -> object:
            value = fun(*args)
            return (self.scale * value[0], value[1]) if has_aux else self.scale * value

        differentiated = jax.value_and_grad(scaled, argnums, has_aux)

        def value_and_grad(*args: object) -> DynamicScaleResult:
            value, grad = differentiated(*args)
            scale = self.scale
            aux = (value[0] / scale, value[1]) if has_aux else value / scale
            grad = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32) / scale, grad)
            if axis_name is not None:
                grad = lax.pmean(grad, axis_name)
            finite = jnp.array(True)
            for g in jax.tree.leaves(grad):
                finite &= jnp.all(jnp.isfinite(g))
            return DynamicScaleResult(self._after(finite), finite, aux, grad)

        return value_and_grad

    def _after(self, finite: jax.Array) -> DynamicScale:
        """Return the scale for the next step, after a finite or non-finite one."""
        grows = finite & (self.fin_steps == self.growth_interval)
        largest = jnp.finfo(jnp.float32).max
        grown = jnp.minimum(self.scale * self.growth_factor, largest)
        shrunk = jnp.asarray(self.scale * self.backoff_factor, jnp.float32)
        if self.minimum_scale is not None:
            shrunk = jnp.maximum(shrunk, self.minimum_scale)
        scale = jnp.where(finite, jnp.where(grows, grown, self.scale), shrunk)
        fin_steps = jnp.where(grows | ~finite, 0, self.fin_steps + 1)
        return self.replace(fin_steps=fin_steps, scale=scale)
