"""The conversion of weights to other libraries and formats: `linsey convert`.

With a model, names and layouts are translated too: the arrays of the file go into the
variables of the model, and these are written with the names that are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from linsey import weights
from linsey.app.averaging import evaluated_contents
from linsey.app.config import ConvertConfig, ModelOptions
from linsey.app.like_file import arranged, check_values, entries_for, without_counts
from linsey.app.linen_module import linen_module
from linsey.app.model_name import is_own
from linsey.app.own_model import named_model
from linsey.app.own_network import make_network
from linsey.app.their_model import installed_model
from linsey.checkpoint import durable, flatten
from linsey.errors import ArgumentTypeError, InputError, MismatchError, OptionError
from linsey.training.contents import Contents, read_contents, write_contents
from linsey.training.conversion import Written, is_step_name, step_number
from linsey.weights.formats import kinds, names
from linsey.weights.formats.writing import Format

_SUFFIXES = {**{f".{name}": name for name in get_args(Format)}, ".pth": "pt"}
_COUNTERS = {"step", "skipped", "noise"}  # entries of a run besides its model
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A report of a conversion.

    Attributes:
        source: the file or folder that was read.
        kinds: the kinds of source and target.
        step: number of the step, if one was written.
        count: number of arrays.
        size: their size in bytes.
        notes: lines of text on what was left out, matched and proved.
    """

    source: Path
    kinds: tuple[str, str]
    step: int | None
    count: int
    size: int
    notes: tuple[str, ...]


def convert_weights(config: ConvertConfig) -> Converted:
    """Read arrays, translate them if a model is given, and write them.

    Args:
        config: the options.

    Raises:
        InputError: the source cannot be read; the target exists, or cannot hold the
            arrays; or arrays of either side have no counterpart.
        DiskError: a file cannot be read or written.
    """
    target = config.target
    format = config.to or _format_of_name(target)
    if os.path.lexists(target):
        hint = "name another one, or remove it"
        raise InputError("is there already", file=target, hint=hint)
    if config.like is not None and config.names != "linen":
        hint = f"leave --names {config.names} out"
        raise InputError("these names are given already", key="--like", hint=hint)
    kind = kinds.recognize(config.source)
    source, arrays = read_arrays(config.source)
    like = None
    if config.like is not None:
        like, _ = of_model(read_arrays(config.like)[1])
    notes: list[str] = []
    if config.model is not None:
        arrays, notes = _translated(config, arrays, like)
    elif config.like is not None and like is not None:
        arrays = arranged(arrays, like, config.source, config.like)
    step = None
    if format == "step":
        step = step_number(None, source, target, config.step)
    try:
        _write(target, format, arrays, step)
    except (ArgumentTypeError, OptionError) as error:
        problem = f"not for {format}: {error.found}"
        raise InputError(problem, file=config.source, hint=error.fix) from error
    size = sum(array.nbytes for array in arrays.values())
    return Converted(source, (kind, format), step, len(arrays), size, tuple(notes))


def tree_kind(config: ConvertConfig) -> Written | None:
    """Return the format for a whole tree, which `training.conversion` converts.

    `None` if only arrays are read or written, or a model or a pattern is given.
    """
    try:
        is_flat = kinds.recognize(config.source) not in get_args(Written)
    except InputError:  # reported when the file is read
        is_flat = False
    if is_flat or config.model is not None or config.like is not None:
        return None
    suffix = config.target.suffix[1:]
    to = config.to or ("step" if is_step_name(config.target) else suffix)
    return next((kind for kind in get_args(Written) if kind == to), None)


def _format_of_name(target: Path) -> str:
    if is_step_name(target):
        return "step"
    if format := _SUFFIXES.get(target.suffix):
        return format
    hint = f"say it with --to: step, {', '.join(get_args(Format))}"
    raise InputError("the name does not say what to write", file=target, hint=hint)


def read_arrays(path: Path) -> tuple[Path, Arrays]:
    """Read arrays by name; for a run, those that its newest step is evaluated with.

    Args:
        path: a file or folder of any known kind.

    Returns:
        The path that was read, and the arrays.

    Raises:
        InputError: it is of another kind, or damaged.
        DiskError: a file cannot be read or written.
    """
    kind = kinds.recognize(path)
    if kind not in ("run", "step"):
        return path, weights.read(path)
    if kind == "run":
        newest = kinds.run_steps(path).newest()
        assert newest is not None  # otherwise it would not be a run
        path = newest.folder
    tree = evaluated_contents(read_contents(path, "step")).tree
    tree = {**tree, **tree.get("collections", {})}
    tree.pop("collections", None)
    return path, {name: np.asarray(array) for name, array in flatten(tree).items()}


def _write(target: Path, format: Any, arrays: Arrays, step: int | None) -> None:
    """Write arrays; the target gets its name once they read back the same."""
    durable.make_folder(target.absolute().parent)
    with durable.replacing(target) as temporary:
        if format == "step":
            write_contents(temporary, "step", Contents(names.unflatten(arrays), step))
        else:
            weights.write(temporary, arrays, format)
        again = weights.read(temporary)
        for name in {**arrays, **again}:
            if (
                name not in arrays
                or name not in again
                or not _is_same(arrays[name], again[name])
            ):
                problem = "the value read back differs from the one written"
                raise InputError(problem, file=target, key=name)


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    kinds_agree = one.dtype.name == other.dtype.name and one.shape == other.shape
    return kinds_agree and one.tobytes() == other.tobytes()


# -- between libraries ---------------------------------------------------------------


def _translated(
    config: ConvertConfig, arrays: Arrays, like: Arrays | None
) -> tuple[Arrays, list[str]]:
    """Load arrays into a model, and return its arrays with other names."""
    module, flags = _module(config)
    x = jax.ShapeDtypeStruct((1, *config.shape), np.float32)
    mapping = _mapping(config.map)
    arrays, left_out = of_model(arrays)
    all_of_map = mapping
    if like is not None:
        mapping = entries_for(all_of_map, arrays, like)
    with _telling(
        f"not the weights of {config.model}", config.source,
        "say what is what by --map THEIRS=OURS, leave out by --map THEIRS=, give "
        "--classes and --shape as the weights have them, or --no-strict for initial "
        "values where there are none",
    ):  # fmt: skip
        variables, report = weights.load(
            module, arrays, x, mapping=mapping, strict=config.strict, **flags
        )
    notes = [*left_out, *str(report).splitlines()]
    found, of_theirs = arrays, arrays
    if like is not None:
        mapping = entries_for(all_of_map, like, arrays)
        found, variables = _like(config, like, mapping, module, variables, **flags)
        of_theirs = found
    elif config.names == "linen":
        found = {path: np.asarray(array) for path, array in flatten(variables).items()}
    else:
        call: dict[str, Any] = {"library": config.names, **flags}
        problem = f"{config.model} has no names of {config.names}"
        with _telling(problem, config.source, "leave --names out"):
            found = weights.to_torch(module, variables, x, **call)
        of_theirs, mapping = found, {}
    if config.prove:
        problem = "the models cannot be compared"
        with _telling(problem, config.source, "give --no-prove"):
            notes += _proof(config, module, variables, of_theirs, mapping)
    return found, notes


def _like(
    config: ConvertConfig,
    like: Arrays,
    mapping: Mapping[str, Any],
    module: Any,
    variables: Mapping[str, Any],
    **flags: bool,
) -> tuple[Arrays, Mapping[str, Any]]:
    """Write variables with the names, shapes, dtypes and order of another file.

    Returns:
        The arrays, and the variables that they hold: their dtypes may be narrower.
    """
    file = config.like
    assert file is not None
    x = jax.ShapeDtypeStruct((1, *config.shape), np.float32)
    pattern = without_counts(like)
    hint = (
        "name a file of the same layers as --like, with --classes and --shape as it "
        "has them, or say what is what by --map THEIRS=OURS"
    )
    with _telling(f"not the arrays of {config.model}", file, hint):
        weights.load(module, pattern, x, mapping=mapping, **flags)
        call: dict[str, Any] = {"like": pattern, "mapping": mapping, **flags}
        with np.errstate(over="ignore", invalid="ignore"):
            found = weights.to_torch(module, variables, x, **call)
        held, _ = weights.load(module, found, x, mapping=mapping, **flags)
    after = {path: np.asarray(array) for path, array in flatten(held).items()}
    before = {path: np.asarray(array) for path, array in flatten(variables).items()}
    before = {path: array for path, array in before.items() if path in after}
    check_values(before, after, config.source, file)
    return found, held


@contextlib.contextmanager
def _telling(problem: str, file: Path, hint: str) -> Iterator[None]:
    """Turn errors of `linsey.weights` into one line, with an option as the hint."""
    try:
        yield
    except (ArgumentTypeError, MismatchError, OptionError) as error:
        raise InputError(f"{problem}: {error.found}", file=file, hint=hint) from error


def of_model(arrays: Arrays) -> tuple[Arrays, list[str]]:
    """Leave out the arrays of a run that do not belong to its model.

    Args:
        arrays: the arrays by name.

    Returns:
        The arrays of the model, and a note if anything was left out.
    """
    outer = {name.split("/")[0] for name in arrays}
    if "params" not in outer or not outer & {"opt_state", *_COUNTERS}:
        return arrays, []
    rest = {name for name in outer if name in {"opt_state", "average", *_COUNTERS}}
    kept = {n: array for n, array in arrays.items() if n.split("/")[0] not in rest}
    return kept, [f"left out, as it is not of the model: {', '.join(sorted(rest))}"]


def _module(config: ConvertConfig) -> tuple[Any, dict[str, bool]]:
    """Make the module, and find the flags that it is called with in evaluation."""
    text = config.model or ""
    own = named_model(text, config.model_arg) if is_own(text) else None
    options = ModelOptions(model=text, model_arg=config.model_arg)
    return linen_module(make_network(options, config.shape, config.classes, own))


def _mapping(given: Iterable[str]) -> dict[str, Any]:
    """Read THEIRS=OURS; OURS may be empty (left out), or several with commas."""
    mapping: dict[str, Any] = {}
    for text in given:
        theirs, equals, ours = text.partition("=")
        if not equals or not theirs:
            expected = "THEIRS=OURS, or THEIRS= for what is left out"
            raise InputError("no pair", key="--map", expected=expected, found=text)
        paths = tuple(ours.split(","))
        mapping[theirs] = None if not ours else paths if len(paths) > 1 else ours
    return mapping


def _proof(
    config: ConvertConfig,
    module: Any,
    variables: Mapping[str, Any],
    arrays: Arrays,
    mapping: Mapping[str, Any],
) -> list[str]:
    """Compare both models, if theirs is installed or its activations were recorded."""
    x = np.random.default_rng(0).normal(size=(8, *config.shape)).astype(np.float32)
    if config.activations is not None:
        theirs: Any = weights.read(config.activations)
        x = _example(config)
    else:
        theirs = installed_model(config.model or "", arrays, config.classes, x.shape)
        if theirs is None:
            return [
                "not proved: theirs is not installed, or the file is not of "
                "torchvision or timm; --activations FILE --example FILE compares with "
                "what `linsey.weights.record` wrote where it is"
            ]
    proof = weights.prove((module, variables), theirs, x, mapping=mapping)
    if proof.first is not None:
        problem = f"the models differ after the conversion:\n{proof}"
        hint = "mend what is named there, or give --no-prove"
        raise InputError(problem, file=config.source, hint=hint)
    return [f"proof: {line}" for line in str(proof).splitlines()]


def _example(config: ConvertConfig) -> np.ndarray:
    if config.example is None:
        hint = "give --example FILE.npz: what was given to `record`"
        raise InputError("an input is needed", key="--activations", hint=hint)
    found = weights.read(config.example)
    if len(found) > 1:
        names = ", ".join(found)
        raise InputError("more than one array", file=config.example, found=names)
    return next(iter(found.values()))
