"""What `--model-arg` says to the models of linsey: how their batch norms are set."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Annotated

from linsey.app.config import ModelOptions
from linsey.app.named_values import parse_arguments
from linsey.errors import InputError
from linsey.schema import Between, conform

_Bounds = tuple[Annotated[float, Between(1, 1e6)], Annotated[float, Between(0, 1e6)]]


@dataclasses.dataclass(frozen=True)
class BatchNormOptions:
    """Options of `linsey.linen.BatchNorm`.

    Attributes:
        momentum: fraction of the old average that is kept.
        group_size: examples that are normalized together.
        renorm: bounds `(r_max, d_max)` of batch renormalization.
        save_memory: whether to keep one array for each layer instead of two.
    """

    # Statistics average over about ten steps: the runs here are short.
    momentum: Annotated[float, Between(0, 1)] = 0.9
    group_size: Annotated[int, Between(1, 2**24)] | None = None
    renorm: _Bounds | None = None
    save_memory: bool = False


def batch_norm_options(options: ModelOptions) -> BatchNormOptions:
    """Read the options of batch normalization of a model of linsey.

    Raises:
        InputError: one is unknown, out of range, excludes another, or there is no batch
            normalization that it could be of.

    Example:
        >>> batch_norm_options(ModelOptions(model_arg=("renorm=3, 5",))).renorm
        (3.0, 5.0)
    """
    given = parse_arguments(options.model_arg)
    names = [field.name for field in dataclasses.fields(BatchNormOptions)]
    for name in given:
        key = f"--model-arg {name}"
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else _other_option(name, given)
            expected = ", ".join(names)
            raise InputError("no such argument", key=key, expected=expected, hint=hint)
        if options.norm != "batch":
            problem = "an option of batch normalization, which this model has not"
            raise InputError(
                problem, key=key, hint="give --norm batch, or leave it out"
            )
    read = conform(given, BatchNormOptions, file=None, key="--model-arg")
    refuse_excluded(read.save_memory, read.group_size)
    return read


def refuse_excluded(save_memory: bool, group_size: int | None) -> None:
    """Refuse options of batch normalization that exclude each other."""
    if save_memory and group_size is not None:
        problem, hint = "excludes group_size", "leave one of them out"
        raise InputError(problem, key="--model-arg save_memory", hint=hint)


def _other_option(name: str, given: dict[str, object]) -> str | None:
    """Models of linsey take their sizes as options of the command."""
    if name in ("norm", "width", "depth", "dropout"):
        return f"give --{name} {given[name]}"
    return None
