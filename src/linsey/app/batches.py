"""The number of examples in a step, and of those that an epoch leaves out."""

from __future__ import annotations

import functools
import math

from linsey.app.architectures import least_averaged_by
from linsey.app.config import BATCH_SIZE, Shape, TrainConfig
from linsey.app.dataset import Dataset
from linsey.app.model_name import is_architecture, is_own
from linsey.app.models import least_averaged
from linsey.errors import InputError


def choose_batch_size(config: TrainConfig, dataset: Dataset, devices: int) -> int:
    """Return the given batch size, or one that fits the data.

    Args:
        config: the options.
        dataset: the data to learn.
        devices: number of devices that each batch is split over.

    Returns:
        Examples per step.

    Raises:
        InputError: the given size does not fit the data, the devices or the model, or
            no size does.
    """
    examples = len(dataset.x_train)
    unit = math.lcm(devices, config.accumulate)
    size = config.batch_size or min(BATCH_SIZE, examples) // unit * unit
    wrong = functools.partial(InputError, key="--batch-size", found=size)
    most = examples // devices * devices
    if size % devices:
        expected = f"a multiple of {devices}"
        raise wrong("does not divide over the devices", expected=expected)
    if most == 0:
        problem = "fewer examples to train on than devices"
        raise InputError(problem, file=dataset.name, expected=devices, found=examples)
    if unit > examples or size % config.accumulate:
        fitting = max(min(size, examples) // unit, 1) * unit
        hint = f"--batch-size {fitting}" if fitting <= examples else "--accumulate 1"
        problem = (
            f"does not divide into {config.accumulate} microbatches (--accumulate)"
        )
        found, expected = size or examples, f"a multiple of {unit}"
        raise InputError(
            problem, key="--batch-size", expected=expected, found=found, hint=hint
        )
    if size > examples:
        hint = f"--batch-size {examples // unit * unit}, or leave it out"
        expected = f"at most {examples}"
        problem = "larger than the training data"
        raise wrong(problem, expected=expected, hint=hint)
    if size * (_least_averaged(config, dataset.shape) or 2) == 1:
        hints = (
            []
            if is_architecture(config.model)
            else ["--norm layer does without others"]
        )
        hints += ["give --batch-size 2"] if examples > 1 else []
        raise wrong(
            "batch normalization has no variance in a batch of one example",
            expected="2 or more", hint=", or ".join(hints) or None,
        )  # fmt: skip
    return size


def _least_averaged(config: TrainConfig, shape: Shape) -> int | None:
    """Count the values of an example that share statistics in the smallest layer.

    Returns:
        The count; `None` if it is not known, or without batch normalization.
    """
    if is_architecture(config.model):
        return least_averaged_by(config.model, shape)
    if config.norm != "batch" or is_own(config.model):
        return None
    return least_averaged(config, shape)


def describe_batches(config: TrainConfig, examples: int, size: int) -> str:
    """Describe the steps of an epoch, and how many examples it leaves out.

    Args:
        config: the options as they were given.
        examples: number of training examples.
        size: examples per step.

    Example:
        >>> describe_batches(TrainConfig(batch_size=16), examples=30, size=16)
        '1 step of 16 examples an epoch; each epoch leaves out 14 of 30 at random'
        >>> describe_batches(TrainConfig(), examples=30, size=30)
        '1 step of 30 examples an epoch (--batch-size is lowered from 64 to fit them)'
    """
    steps, left = divmod(examples, size)
    text = f"{steps} step{'s' * (steps > 1)} of {size} examples an epoch"
    if config.batch_size is None and size < BATCH_SIZE:
        text += f" (--batch-size is lowered from {BATCH_SIZE} to fit them)"
    if left:
        text += f"; each epoch leaves out {left} of {examples} at random"
    return text
