"""The same models written for each rival, as its own users would write them.

Each file offers the same works:

* `dense_apply`: dense layers of width 64, 200 if not told otherwise, forward.
* `dense_init`: the parameters of 200 such layers from a key.
* `residual_forward`: 24 blocks `x + relu(batch_norm(conv(x)))` in training mode,
  returning the output and the new running averages.
* `residual_grad`: value and gradient of a loss over the same.

Plain JAX and Linen modules offer two more:

* `transformer`: 24 blocks of causal attention and a perceptron, each after a layer
  norm, forward.
* `transformer_scan`: the same by a scan over stacked parameters.

Linen modules offer one more:

* `compiled_blocks`: 12 blocks of a layer norm and a perceptron under `nn.jit`, forward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

LAYERS, WIDTH, BATCH = 200, 64, 8
BLOCKS, CHANNELS, SIDE = 24, 16, 8
MOMENTUM, EPSILON = 0.99, 1e-5
DEPTH, EMBED, HEADS, LENGTH = 24, 64, 4, 8
COMPILED = 12


@dataclasses.dataclass(frozen=True)
class Work:
    """A function of arrays and the arguments to trace it with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def fresh(self) -> Callable[..., Any]:
        """Return a new function object, since jax caches the trace of a known one."""
        return lambda *arguments: self.function(*arguments)
