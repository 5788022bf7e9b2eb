"""The file that `linsey new` writes: a model to change, and how it is trained."""

from __future__ import annotations

TEXT = '''"""A model of my own.

Train it on the digits that ship with linsey, or on your own data:

    linsey train --model {file}:Model
    linsey train --model {file}:Model --data cells.npz --model-arg width=64

Each run has its own folder and can be resumed:

    linsey train --model {file}:Model --out runs/mine --epochs 50
    linsey train --model {file}:Model --out runs/mine --resume

    linsey eval runs/mine --model {file}:Model

The same from Python:

    import linsey
    result = linsey.fit("{file}:Model", "cells.npz", epochs=50)
"""

import jax
import linsey.linen as nn  # or: import flax.linen as nn


class Model(nn.Module):
    # A field without a default is set to the number of classes of the data. The names
    # num_classes, n_classes, num_outputs and num_labels work as well.
    classes: int
    # These are set by --model-arg width=64.
    width: int = 32
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # x is float32, standardized with the mean and standard deviation of the
        # training part: (batch, features), or (batch, height, width, channels).
        # `train` is recognized by its name; so are `deterministic` and others.
        if x.ndim == 4:
            for features in (self.width, 2 * self.width):
                x = nn.Conv(features, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
                x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            x = x.mean(axis=(1, 2))  # (batch, features)
        x = nn.Dense(4 * self.width, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)  # logits: (batch, classes)
'''


def starting_file(name: str) -> str:
    """Return the content of a starting file.

    Args:
        name: the name of the file, which its comments mention.
    """
    return TEXT.replace("{file}", name)
