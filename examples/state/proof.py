"""PyTorch weights are loaded, and a wrong momentum is found.

PyTorch's momentum is the fraction of the old average that is replaced, Flax's is the
fraction that is kept. If the number is copied, nothing fails; `prove` runs both models
and reports the mistake. Here a linsey model takes the place of the PyTorch model, so
that PyTorch need not be installed.
"""

from __future__ import annotations

import jax
import numpy as np

import linsey.linen as nn
from linsey import weights


class Model(nn.Module):
    """A convolution with batch normalization, and a head."""

    momentum: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Compute logits (batch, 2) from images (batch, height, width, channels)."""
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(not train, momentum=self.momentum, name="bn")(x)
        return nn.Dense(2, name="fc")(nn.relu(x).mean((1, 2)))


def main() -> list[str]:
    """Load a state dict and compare the models; return the causes of differences."""
    drawn = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return drawn.normal(size=shape).astype(np.float32)

    state = {  # as returned by `torch_module.state_dict()`
        "conv.weight": array(4, 3, 3, 3),
        "bn.weight": array(4),
        "bn.bias": array(4),
        "bn.running_mean": array(4),
        "bn.running_var": np.exp(array(4)),
        "fc.weight": array(2, 4),
        "fc.bias": array(2),
    }
    x = array(8, 6, 6, 3)
    variables, report = weights.load(Model(0.9), state, x)
    print(report)
    theirs = Model(0.9), variables
    proof = weights.prove((Model(0.1), variables), theirs, x)
    print(proof)
    return [cause.kind for cause in proof.causes]


if __name__ == "__main__":
    main()
