"""Weights of PyTorch are loaded, and a wrong momentum is found.

PyTorch's momentum is the fraction that is replaced, Flax's the fraction that is kept.
Nothing fails if it is copied; `prove` runs both models and names it. A model of linsey
stands for theirs here, so that PyTorch need not be installed.
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
        """Compute logits (batch, 2) of images (batch, height, width, channels)."""
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(not train, momentum=self.momentum, name="bn")(x)
        return nn.Dense(2, name="fc")(nn.relu(x).mean((1, 2)))


def main() -> list[str]:
    """Load a state dict, and compare the models; return what is wrong."""
    drawn = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return drawn.normal(size=shape).astype(np.float32)

    state = {  # as `torch_module.state_dict()` has it
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
