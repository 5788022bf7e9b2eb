"""The architectures of `linsey.models` as models of the command."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Annotated

from linsey import models
from linsey.app.batch_norm_options import (
    BatchNormOptions,
    read_options,
    refuse_unknown,
)
from linsey.app.config import ModelOptions, Shape
from linsey.app.models import MAX_PARAMETERS, dtypes_of
from linsey.app.named_values import parse_arguments
from linsey.errors import InputError, LinseyError
from linsey.schema import Between, conform

_BUILT_IN_OPTIONS = ("norm", "width", "depth", "dropout")
_Rate = Annotated[float, Between(0.0, math.nextafter(1, 0), "a number in [0, 1)")]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments that `--model-arg` accepts; each architecture takes some."""

    dropout: _Rate = 0.0
    attention_dropout: _Rate = 0.0
    drop_path: _Rate = 0.0
    patch_size: Annotated[int, Between(1, 4096)] = 16


@dataclasses.dataclass(frozen=True)
class BatchNormArguments(BatchNormOptions):
    """The arguments that `--model-arg` accepts for batch normalization."""

    epsilon: Annotated[float, Between(1e-12, 1.0)] = 1e-5


def make_architecture(
    options: ModelOptions, shape: Shape, classes: int
) -> models.Architecture:
    """Make an architecture for images of a shape.

    Args:
        options: the model options; `model` is one of `linsey.models.MODELS`.
        shape: the shape of one image, channels last.
        classes: number of classes.

    Returns:
        The module; call it with a batch and `train`.

    Raises:
        InputError: an option is unknown or has no effect, or the architecture cannot
            take images of this shape.
    """
    make = models.MODELS[options.model]
    taken = inspect.signature(make).parameters
    refuse_options(options, taken)
    arguments = _arguments(options, taken)
    model = make(classes, **arguments, **dtypes_of(options.precision))
    if len(shape) != 3:
        raise InputError(
            f"{options.model} needs images", key="--model", found=f"examples {shape}",
            expected="examples (height, width, channels)", hint="use --model mlp",
        )  # fmt: skip
    try:
        model.check_images(shape)
    except LinseyError as error:
        raise InputError(
            f"{options.model} cannot take images of {shape[0]} x {shape[1]} pixels",
            key="--model", hint=_fitting(model, shape),
        ) from error  # fmt: skip
    if isinstance(model, models.VisionTransformer):
        # The parameters of the others do not depend on the image size.
        patches = math.prod(side // model.patch_size for side in shape[:2])
        if (found := patches * model.features) > MAX_PARAMETERS:
            raise InputError(
                "a larger model than a machine can hold", key="--model-arg patch_size",
                expected=f"at most {MAX_PARAMETERS:,} parameters", found=f"{found:.1e}",
            )  # fmt: skip
    return model


def _arguments(options: ModelOptions, taken: Mapping[str, object]) -> dict[str, object]:
    """Read the arguments for the function that makes an architecture."""
    given = parse_arguments(options.model_arg)
    own = [field.name for field in dataclasses.fields(Arguments) if field.name in taken]
    norms = [field.name for field in dataclasses.fields(BatchNormArguments)]
    refuse_unknown(given, [*own, *(norms if "batch_norm" in taken else ())])
    of_norm = {name: value for name, value in given.items() if name in norms}
    read = read_options(of_norm, BatchNormArguments)
    own_given = {name: value for name, value in given.items() if name in own}
    found = vars(conform(own_given, Arguments, file=None, key="--model-arg"))
    arguments = {name: found[name] for name in own_given}
    if of_norm:
        arguments["batch_norm"] = {name: getattr(read, name) for name in of_norm}
    return arguments


def _fitting(model: models.Architecture, shape: Shape) -> str:
    """Suggest what to write if a model cannot take the images."""
    if isinstance(model, models.VisionTransformer):
        common = math.gcd(*shape[:2])
        size = max(n for n in range(1, model.patch_size + 1) if common % n == 0)
        return f"give --model-arg patch_size={size}, or images of another size"
    return "use --model resnet18, or larger images"


def refuse_options(options: ModelOptions, taken: Mapping[str, object]) -> None:
    """Refuse options of the command that a model ignores.

    Args:
        options: the model options.
        taken: arguments that the model takes, by name.

    Raises:
        InputError: an ignored option is not at its default.
    """
    defaults = ModelOptions()
    for name in _BUILT_IN_OPTIONS:
        if (value := getattr(options, name)) != getattr(defaults, name):
            hint = (
                f"give --model-arg {name}={value}" if name in taken else "leave it out"
            )
            raise InputError(
                "an option of mlp, cnn and resnet alone", key=f"--{name}", hint=hint
            )


def least_averaged_by(name: str, shape: Shape) -> int | None:
    """Count the pixels of an image that share statistics in the smallest layer.

    Args:
        name: the architecture.
        shape: the shape of one image, channels last.

    Returns:
        The number of pixels after the last stage; `None` without batch normalization.

    Example:
        >>> least_averaged_by("resnet18", (33, 64, 3))
        4
    """
    if "batch_norm" not in inspect.signature(models.MODELS[name]).parameters:
        return None
    if not name.startswith("densenet"):
        return math.prod(-(-side // 32) for side in shape[:2])
    # The stem rounds up; the stages after it round down.
    return math.prod(-(-side // 4) // 8 for side in shape[:2])
