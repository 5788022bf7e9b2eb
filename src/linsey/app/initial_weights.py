"""The weights that a run begins with: `--weights FILE`."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linsey import weights
from linsey.app.config import Shape, TrainConfig
from linsey.app.linen_module import linen_module
from linsey.app.network import Network
from linsey.app.terminal import warn
from linsey.app.weights_conversion import of_model, read_arrays
from linsey.checkpoint import flatten
from linsey.errors import InputError, OptionError
from linsey.weights import Leftover


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The weights that a run begins with.

    Attributes:
        arrays: arrays of the model's variables by path; variables that are not among
            them keep their initial values.
        report: a text on which arrays of the file and the model were matched.
        sha256: the SHA-256 of all arrays of the file.
    """

    arrays: dict[str, np.ndarray]
    report: str
    sha256: str


def initial_weights(
    config: TrainConfig, network: Network, shape: Shape, classes: int
) -> InitialWeights:
    """Read the weights that the options name.

    Args:
        config: the options, with `weights` given.
        network: the model.
        shape: the shape of one example.
        classes: number of classes.

    Raises:
        InputError: the file cannot be read, or arrays of either side have no
            counterpart.
        DiskError: a file cannot be read or written.
    """
    file = Path(config.weights or "")
    arrays, _ = of_model(read_arrays(file)[1])
    sha256 = _digest(arrays)
    if config.weights_sha256 not in (None, sha256):
        warn(f"{file} is not what it was when the options were saved")
    module, flags = linen_module(network)
    call: dict[str, Any] = {"strict": False, **flags}
    x = jax.ShapeDtypeStruct((1, *shape), np.float32)
    try:
        variables, report = weights.load(module, arrays, x, **call)
    except OptionError as error:
        raise InputError(error.found, file=file, key="--weights") from error
    rest = [left for left in report.leftovers if left.is_ours]
    if report.leftovers and not (config.new_head and _is_head(report.leftovers)):
        raise _incomplete(config, report.leftovers, shape, classes)
    found = flatten(jax.tree.map(np.asarray, variables))
    for name in (*report.initial, *report.counts, *(left.name for left in rest)):
        found.pop(name, None)
    return InitialWeights(found, str(report), sha256)


def _is_head(leftovers: tuple[Leftover, ...]) -> bool:
    """Tell whether only the arrays of one layer differ, and only in their shapes."""
    ours = {left.name.rpartition("/")[0] for left in leftovers if left.is_ours}
    names = {left.name for left in leftovers if left.is_ours}
    theirs = (left.resembles in names for left in leftovers if not left.is_ours)
    return len(ours) == 1 and all(theirs)


def _incomplete(
    config: TrainConfig, leftovers: tuple[Leftover, ...], shape: Shape, classes: int
) -> InputError:
    options = ["--model", config.model, "--classes", classes, "--shape", *shape]
    if config.model_arg:
        options += ["--model-arg", *config.model_arg]
    command = ["linsey", "convert", config.weights, "ours.safetensors", *options]
    shown = shlex.join(map(str, command))
    hint = f"begin with what `{shown} --map THEIRS=OURS` writes, or leaves out: THEIRS="
    if _is_head(leftovers):
        hint = "--new-head begins with a new layer there"
    lines = "; ".join(map(str, leftovers[:4]))
    more = f"; and {len(leftovers) - 4} more" if len(leftovers) > 4 else ""
    problem = f"not the weights of {config.described}: {lines}{more}"
    return InputError(problem, file=config.weights, key="--weights", hint=hint)


def _digest(arrays: dict[str, Any]) -> str:
    content = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.name} {array.shape} ".encode())
        content.update(array.tobytes())
    return content.hexdigest()
