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
from linsey.app.object_network import ObjectNetwork
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
    if isinstance(network, ObjectNetwork):
        return _of_object(config, network, shape, arrays, sha256)
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


def _of_object(
    config: TrainConfig,
    network: ObjectNetwork,
    shape: Shape,
    arrays: dict[str, np.ndarray],
    sha256: str,
) -> InitialWeights:
    """Take the arrays for an object of `linsey.treex`, which have its own names.

    An object does not show the layouts of its layers, so nothing is translated.
    """
    x = jax.ShapeDtypeStruct((1, *shape), np.float32)
    specs = flatten(jax.eval_shape(network.init, jax.random.key(0), x))
    shapes = {name: spec.shape for name, spec in specs.items() if _is_weight(name)}
    found = {name: array for name, array in arrays.items() if _is_weight(name)}
    others = {name: found[name].shape for name in found if name in shapes}
    wrong = [name for name, other in others.items() if other != shapes[name]]
    missing = [f"`{name}` is missing" for name in shapes if name not in found]
    extra = [f"`{name}` is not of the model" for name in found if name not in shapes]
    if not found:
        extra = [f"`{name}` is not of the model" for name in arrays]
    if config.new_head and len({name.rpartition("/")[0] for name in wrong}) == 1:
        found = {name: array for name, array in found.items() if name not in wrong}
        wrong = []
    differ = [
        f"`{name}` has the shape {others[name]} instead of {shapes[name]}"
        for name in wrong
    ]
    if lines := missing + extra + differ:
        more = f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
        raise InputError(
            f"not the weights of {config.described}: {'; '.join(lines[:4])}{more}",
            file=config.weights, key="--weights",
            hint="a treex model begins with a run of the same model, or with a file of "
            "the same names; only the weights of Linen modules are translated",
        )  # fmt: skip
    report = f"{len(found)} arrays loaded (by the names of the treex model)"
    return InitialWeights(found, report, sha256)


def _is_weight(name: str) -> bool:
    return name.startswith(("params/", "batch_stats/"))


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
