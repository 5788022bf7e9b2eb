"""What a training step does besides calling the model.

A recipe is part of the program, not of the state: steps are compiled for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from linsey.app.augment import augment
from linsey.app.losses import CrossEntropy, class_weights
from linsey.app.training_options import TrainingOptions
from linsey.batch_stats.accumulation import accumulate

# From parameters, state, examples and labels to loss, (logits, changed fields).
LossFn = Callable[..., tuple[jax.Array, tuple[jax.Array, dict[str, Any]]]]
_AUGMENTATION = 1
"""Separates the random numbers of augmentation from those of the model."""
_FEW_STEPS = 2048
"""With more, the seconds that a faster step saves are more than those of compiling it:
for batches of 64 images of 8x8 to 32x32 on two cores."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a training step learns.

    Attributes:
        loss: the loss, a function of logits and labels.
        augmentations: the kinds of augmentation.
        microbatches: number of microbatches that a batch is divided into.
        decay: the decay of the moving average of weights and statistics; 0 switches
            the average off.
        is_brief: whether there are so few steps that compiling them takes longer. It
            is decided by the length of the whole run, so that a resumed run repeats
            the bits of an uninterrupted one.
    """

    loss: CrossEntropy = CrossEntropy()
    augmentations: frozenset[str] = frozenset()
    microbatches: int = 1
    decay: float = 0.0
    is_brief: bool = False

    @classmethod
    def of(
        cls,
        options: TrainingOptions,
        y: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
        steps: int | None = None,
    ) -> Recipe:
        """Return the recipe that options ask for.

        Args:
            options: the training options.
            y: labels of the training part, for class weights. If `None`, classes are
                not weighted: the state will not be trained.
            class_names: names of the classes.
            steps: the number of steps, if it is known.

        Raises:
            InputError: the class weights do not fit the classes.
        """
        weights = () if y is None else class_weights(
            options.class_weights, y, class_names
        )  # fmt: skip
        loss = CrossEntropy(options.label_smoothing, weights)
        is_brief = steps is not None and steps <= _FEW_STEPS
        return cls(
            loss, options.augmentations, options.accumulate, options.ema, is_brief
        )

    def augmented(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Augment the examples of a batch as the step with this key does."""
        if not self.augmentations:
            return x
        own = jax.random.fold_in(key, _AUGMENTATION)
        return augment(x, own, self.augmentations)

    def value_and_grad(
        self, loss_fn: LossFn
    ) -> Callable[..., tuple[tuple[jax.Array, tuple[jax.Array, dict[str, Any]]], Any]]:
        """Make `jax.value_and_grad(loss_fn, has_aux=True)`, computed in microbatches.

        The results are exactly those of the whole batch.

        Args:
            loss_fn: `loss_fn(params, state, x, y) -> loss, (logits, changed)`.
        """
        if self.microbatches == 1:
            return jax.value_and_grad(loss_fn, has_aux=True)

        def of_part(
            params: Any, state: Any, batch: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, dict[str, Any]]:
            loss, (logits, changed) = loss_fn(params, state, *batch)
            return loss, {"logits": logits, **changed}

        def gradient_fn(
            params: Any, state: Any, x: jax.Array, y: jax.Array
        ) -> tuple[tuple[jax.Array, tuple[jax.Array, dict[str, Any]]], Any]:
            # The loss needs neither, and microbatches would carry them along.
            lean = state.replace(params={}, opt_state={})
            parts = accumulate(of_part, self.microbatches)
            (loss, found), grads = parts(params, lean, (x, y))
            return (loss, (found.pop("logits"), found)), grads

        return gradient_fn
