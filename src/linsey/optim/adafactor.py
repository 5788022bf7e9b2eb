"""Adafactor: second moments of matrices, stored as those of their rows and columns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of
from linsey.typing import Dtype

__all__ = ["Adafactor"]


@struct.dataclass
class _AdafactorHyperParams:
    learning_rate: LearningRate = None
    factored: bool = struct.field(pytree_node=False, default=True)
    multiply_by_parameter_scale: bool = struct.field(pytree_node=False, default=True)
    beta1: Scalar | None = None
    decay_rate: Scalar = 0.8
    step_offset: Scalar = 0
    clipping_threshold: Scalar | None = 1.0
    weight_decay_rate: Scalar | None = None
    min_dim_size_to_factor: int = struct.field(pytree_node=False, default=128)
    epsilon1: Scalar = 1e-30
    epsilon2: Scalar = 1e-3


@struct.dataclass
class _AdafactorArguments(_AdafactorHyperParams):
    dtype_momentum: Dtype = struct.field(pytree_node=False, default=jnp.float32)


@struct.dataclass
class _AdafactorParamState:
    v_row: jax.Array
    v_col: jax.Array
    v: jax.Array
    m: jax.Array


class Adafactor(OptaxDefinition):
    """Divides by the root of an average square that takes little memory.

        v = decay * v + (1 - decay) * (grad**2 + epsilon1)
        u = grad / sqrt(v)
        u *= learning_rate / max(1, rms(u) / clipping_threshold)
        u *= max(rms(param), epsilon2)
        param -= u + weight_decay_rate * param

    at update t = 1, 2, ... with decay = 1 - t**-decay_rate. For a leaf with two long
    axes, only the means of v over each of them are kept, and v is approximated by their
    product divided by the overall mean. The state is float32.

    Args:
        learning_rate: the step size, as a fraction of the size of the leaf.
        factored: whether to keep only means over axes if a leaf allows it. This option,
            `min_dim_size_to_factor` and `multiply_by_parameter_scale` cannot be
            overridden for a single update.
        multiply_by_parameter_scale: whether to multiply by the size of the leaf, as in
            the fourth line.
        beta1: the fraction that is kept of an average of u, which then moves the leaf.
            If `None`, there is no such average.
        decay_rate: exponent of the decay above, in (0, 1].
        step_offset: the step that counts as the first, when training is continued.
        clipping_threshold: upper bound on the root mean square of u. If `None`, it is
            not clipped.
        weight_decay_rate: the weight decay, not scaled by the learning rate. If `None`,
            there is none.
        min_dim_size_to_factor: minimum length of the second longest axis.
        epsilon1: number added to the squares.
        epsilon2: lower bound on the size of a leaf.
        dtype_momentum: dtype of the average of u.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adafactor(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.6987, -1.6987]

    References:
        Shazeer & Stern 2018, Adafactor, https://arxiv.org/abs/1804.04235
    """

    param_state = _AdafactorParamState

    @takes_fields_of(_AdafactorArguments)
    def __init__(self, arguments: _AdafactorArguments) -> None:
        names = [field.name for field in dataclasses.fields(_AdafactorHyperParams)]
        values = [getattr(arguments, name) for name in names]
        super().__init__(_AdafactorHyperParams(*values))
        self.dtype_momentum = arguments.dtype_momentum

    def init_param_state(self, param: ArrayLike) -> _AdafactorParamState:
        """Return zeros; fields that a leaf does not need have shape (1,)."""
        shape = np.shape(param)
        unused = jnp.zeros(1, jnp.float32)
        v_row = v_col = v = m = unused
        if axes := self._factored_axes(shape):
            d1, d0 = axes
            v_row = jnp.zeros(np.delete(shape, d0), jnp.float32)
            v_col = jnp.zeros(np.delete(shape, d1), jnp.float32)
        else:
            v = jnp.zeros(shape, jnp.float32)
        if self.hyper_params.beta1 is not None:
            m = jnp.zeros(shape, self.dtype_momentum)
        return _AdafactorParamState(v_row, v_col, v, m)

    def _factored_axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the second longest and the longest axis, if their means are kept."""
        hp = self.hyper_params
        if not hp.factored or len(shape) < 2:
            return None
        *_, d1, d0 = (int(axis) for axis in np.argsort(shape))
        return (d1, d0) if shape[d1] >= hp.min_dim_size_to_factor else None

    def cast(self, leaf: jax.Array) -> jax.Array:  # noqa: D102
        return leaf.astype(jnp.float32)

    def stages(self, hyper_params: _AdafactorHyperParams) -> list[Stage]:  # noqa: D102
        hp, own = hyper_params, self.hyper_params
        moments = optax.scale_by_factored_rms(
            factored=own.factored,
            decay_rate=hp.decay_rate,
            step_offset=hp.step_offset,
            min_dim_size_to_factor=own.min_dim_size_to_factor,
            epsilon=hp.epsilon1,
        )
        fields = {name: name for name in ("v_row", "v_col", "v")}
        stages = [Stage(moments, optax.FactoredState, fields)]
        if hp.clipping_threshold is not None:
            stages.append(Stage(optax.clip_by_block_rms(hp.clipping_threshold)))
        stages.append(self.learning_rate_stage(hp.learning_rate, flip_sign=False))
        if own.multiply_by_parameter_scale:
            stages.append(Stage(optax.scale_by_param_block_rms(hp.epsilon2)))
        if hp.beta1 is not None:
            ema = optax.ema(hp.beta1, False, self.dtype_momentum)
            stages.append(Stage(ema, optax.EmaState, {"ema": "m"}))
        if hp.weight_decay_rate is not None:
            stages.append(Stage(optax.add_decayed_weights(hp.weight_decay_rate)))
        return [*stages, Stage(optax.scale(-1.0))]
