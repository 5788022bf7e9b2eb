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
    """Begin with trained weights: a run, or any file or folder of PyTorch, Flax or
    linsey that `linsey convert` reads."""
    new_head: bool = False
    """With --weights: initialize the one layer whose shape differs, such as the last
    layer of a model for other classes."""
    augment: Augment = "none"
    """Change images at random in training: flip (mirror), crop (shift by up to an
    eighth), color (brightness, contrast, saturation), separated by commas."""
    label_smoothing: Annotated[float, _Below1] = 0.0
    """Fraction of the target probability that is spread evenly over all classes."""
    class_weights: Annotated[tuple[_Text, ...], Between(0, 2**20)] = ()
    """Weight of an example in the loss, by its class: `balanced` (all classes count the
    same), NAME=WEIGHT for some classes, or a weight for each class."""
    accumulate: Annotated[int, Between(1, 2**20)] = 1
    """Microbatches into which a batch is divided to save memory; loss, gradients and
    batch statistics are those of the whole batch."""
    ema: Annotated[float, _Below1] = 0.0
    """Evaluate a moving average of weights and statistics that keeps this fraction of
    itself in each step, such as 0.999; 0 evaluates the weights themselves."""

    @property
    def augmentations(self) -> frozenset[str]:
        """The kinds of augmentation."""
        return frozenset(self.augment.split(",")) - {"none"}
