"""linsey's modules as Equinox layers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import linsey.linen as nn
from linsey.batch_stats.calls import FLAGS
from linsey.interop.equinox_arrays import equinox
from linsey.treex.treeo import Hashable


def to_equinox(module: nn.Module, variables: Mapping[str, Any]) -> Any:
    """Return a stateful Equinox layer that computes the same as a Linen module.

    Its arrays are the parameters. All other collections together are one entry of an
    `eqx.nn.State`, so that `eqx.filter_grad` differentiates only the parameters. As for
    every stateful layer, `eqx.nn.make_with_state` takes the state out, here or around a
    larger model that contains this layer.

    The layer is called as `outputs, state = layer(*inputs, state, key=None)` with the
    inputs of the module, which are usually batches. The key is used for all random
    streams. A flag that tells training from evaluation (`train`, `training`,
    `is_training`, `deterministic`, `use_running_average`, ...) is set according to the
    mode of the layer, which `eqx.nn.inference_mode` changes. In inference mode, the
    state does not change. `layer.variables(state)` returns the variables of the module.

    Args:
        module: the module.
        variables: its variables, as `init` returns them.

    Raises:
        MissingPackageError: Equinox is not installed.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, linsey.linen as nn
        >>> from linsey.interop import to_equinox
        >>> module, x = nn.BatchNorm(momentum=0.5), jnp.ones((4, 2))
        >>> variables = module.init(jax.random.key(0), x, use_running_average=True)
        >>> layer, state = eqx.nn.make_with_state(to_equinox)(module, variables)
        >>> y, state = eqx.filter_jit(layer)(x, state)
        >>> layer.variables(state)["batch_stats"]["mean"]
        Array([0.5, 0.5], dtype=float32)
    """
    return _layer_class()(module, variables)


@functools.cache
def _layer_class() -> Any:
    """Make the class, whose base class is in Equinox."""
    eqx = equinox()

    class LinenLayer(eqx.nn.StatefulLayer):
        params: Any
        others: Any
        inference: bool
        module: Hashable[nn.Module] = eqx.field(static=True)

        def __init__(self, module: nn.Module, variables: Mapping[str, Any]) -> None:
            collections = jax.tree.map(jnp.asarray, dict(variables))
            self.params = collections.pop("params", {})
            self.others = eqx.nn.StateIndex(collections)
            self.inference = False
            self.module = Hashable(module)

        def __call__(
            self, *args: Any, state: Any = None, key: jax.Array | None = None
        ) -> Any:
            inputs = list(args)
            if state is None:  # `eqx.nn.Sequential` passes it by name
                state = inputs.pop()
            module = self.module.value
            parameters = inspect.signature(type(module).__call__).parameters
            flags: dict[str, Any] = {
                name: value != self.inference
                for name, value in FLAGS.items()
                if name in parameters
            }
            variables = self.variables(state)
            mutable = [name for name in variables if name != "params"]
            outputs, updates = module.apply(
                variables,
                *inputs,
                rngs=None if key is None else {"params": key},  # all streams fall back
                mutable=[] if self.inference else mutable,
                **flags,
            )
            if updates:
                state = state.set(self.others, {**state.get(self.others), **updates})
            return outputs, state

        def variables(self, state: Any) -> dict[str, Any]:
            """Return the variables of the Linen module."""
            return {"params": self.params, **state.get(self.others)}

    return LinenLayer
