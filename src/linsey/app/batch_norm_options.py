"""The options of batch norm that `--model-arg` sets in the models of linsey."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TypeVar

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
        group_size: number of examples that are normalized together.
        renorm: bounds `(r_max, d_max)` of batch renormalization.
        save_memory: whether to keep one array for each layer instead of two.
    """

    # The running statistics average about ten steps, since runs here are short.
    momentum: Annotated[float, Between(0, 1)] = 0.9
    group_size: Annotated[int, Between(1, 2**24)] | None = None
    renorm: _Bounds | None = None
    save_memory: bool = False


Options = TypeVar("Options", bound=BatchNormOptions)


def batch_norm_options(options: ModelOptions) -> BatchNormOptions:
    """Read the batch normalization options of a model of linsey.

    Raises:
        InputError: an option is unknown, out of range or excludes another, or the model
            has no batch normalization.

    Example:
        >>> batch_norm_options(ModelOptions(model_arg=("renorm=3, 5",))).renorm
        (3.0, 5.0)
    """
    given = parse_arguments(options.model_arg)
    names = [field.name for field in dataclasses.fields(BatchNormOptions)]
    # Models of linsey take their sizes as options of the command.
    others = {
        name: f"give --{name} {given[name]}"
        for name in ("norm", "width", "depth", "dropout")
        if name in given
    }
    refuse_unknown(given, names, others)
    if given and options.norm != "batch":
        key = f"--model-arg {next(iter(given))}"
        problem = "an option of batch normalization, which this model does not have"
        raise InputError(problem, key=key, hint="give --norm batch, or leave it out")
    return read_options(given, BatchNormOptions)


def refuse_unknown(
    given: Iterable[str], names: Sequence[str], hints: Mapping[str, str] = {}
) -> None:
    """Refuse arguments of a model that it does not take.

    Args:
        given: the names of the arguments.
        names: the names that the model takes.
        hints: what to write instead of names that are options of the command.

    Raises:
        InputError: the model does not take one of them.
    """
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise InputError(
                "no such argument", key=f"--model-arg {name}",
                expected=", ".join(names),
                hint=f"did you mean {near[0]}?" if near else hints.get(name),
            )  # fmt: skip


def read_options(given: Mapping[str, object], kind: type[Options]) -> Options:
    """Read options of batch normalization.

    Raises:
        InputError: an option is out of range, or excludes another.
    """
    read = conform(given, kind, file=None, key="--model-arg")
    if read.save_memory and read.group_size is not None:
        problem, hint = "excludes group_size", "leave one of them out"
        raise InputError(problem, key="--model-arg save_memory", hint=hint)
    return read
