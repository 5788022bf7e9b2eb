"""Training options that were added later: augmentation, loss, averages, accumulation.

At their defaults they change neither the numbers of a run nor the digest of its
options.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from linsey.schema import Between, Matching

_KINDS = "(flip|crop|color)"
Augment = Annotated[
    str,
    Matching(rf"none|{_KINDS}(,{_KINDS})*", "none, or some of flip,crop,color"),
]
_Text = Annotated[str, Between(1, 4096)]
_Below1 = Between(0.0, math.nextafter(1, 0), "a number in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Further options of the training."""

    weights: _Text | None = None
    """Begin with trained weights: any file or folder that `linsey convert` reads, of
    PyTorch, Flax or linsey, or a run."""
    new_head: bool = False
    """With --weights: begin with a new layer where one layer has another shape there,
    as the last one of a model for other classes."""
    augment: Augment = "none"
    """Change images at random while learning: flip (mirror), crop (shift by up to an
    eighth), color (brightness, contrast, saturation), parted by commas."""
    label_smoothing: Annotated[float, _Below1] = 0.0
    """Part of the probability that the loss wants given to all classes alike."""
    class_weights: Annotated[tuple[_Text, ...], Between(0, 2**20)] = ()
    """What an example counts in the loss by its class: `balanced` (the same for all
    classes together), NAME=WEIGHT of some classes, or a weight for each."""
    accumulate: Annotated[int, Between(1, 2**20)] = 1
    """Microbatches that a batch is divided into, for less memory; loss, gradients and
    statistics of batch normalization are those of the whole batch."""
    ema: Annotated[float, _Below1] = 0.0
    """Evaluate a moving average of weights and statistics that keeps this part of
    itself in each step, such as 0.999; 0 evaluates the weights themselves."""

    @property
    def augmentations(self) -> frozenset[str]:
        """The kinds of augmentation."""
        return frozenset(self.augment.split(",")) - {"none"}
