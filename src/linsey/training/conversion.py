"""Conversion of checkpoints to another format, verified by reading the copy.

Trees are represented as state dicts: lists and tuples are dictionaries with the keys
"0", "1", ..., and `from_state_dict` turns them into lists again.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from linsey.serialization import from_bytes, to_bytes
    >>> folder = Path(tempfile.mkdtemp())
    >>> tree = {"params": {"w": np.arange(3.0)}}
    >>> _ = (folder / "flax.msgpack").write_bytes(to_bytes(tree))
    >>> done = convert(folder / "flax.msgpack", folder / "step_00000007")
    >>> done.kinds, done.step, done.leaves, done.size
    (('msgpack', 'step'), 7, 1, 24)
    >>> back = convert(folder / "step_00000007", folder / "again.msgpack")
    >>> from_bytes(tree, (folder / "again.msgpack").read_bytes(), strict=True)
    {'params': {'w': array([0., 1., 2.])}}
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from linsey.checkpoint import dtypes, durable
from linsey.errors import ArgumentTypeError, InputError, OptionError
from linsey.specs import flatten, spec_of
from linsey.training import orbax_utils
from linsey.training.contents import Contents, read_contents, write_contents
from linsey.training.formats import Kind, recognize

__all__ = ["Conversion", "Written", "convert"]

Written = Literal["step", "orbax", "msgpack"]
_STEP = re.compile(r"step_(\d{8,18})")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A record of what `convert` did.

    Attributes:
        source: the path that was read.
        target: the path that was written.
        kinds: the kinds of both.
        step: the number of the step, if one was written.
        leaves: the number of arrays and other leaves that were compared.
        size: the number of bytes of the arrays.
        notes: sentences about differences in the copy.
    """

    source: Path
    target: Path
    kinds: tuple[Kind, Kind]
    step: int | None
    leaves: int
    size: int
    notes: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: Written | None = None,
    *,
    step: int | None = None,
) -> Conversion:
    """Write a checkpoint again as another kind, and compare the copy with the source.

    Nothing is overwritten. The target gets its name only after all hashes agree.

    Args:
        source: a step, in the present format or an older one, a checkpoint of Orbax, or
            msgpack bytes.
        target: the file or folder to create.
        kind: the kind of the target. If `None`, it is inferred from the name of the
            target: `step_00000042`, `x.orbax`, `x.msgpack`.
        step: the number of a step. If `None`, it is taken from the name of the target
            or from the source, or it is the last number in the name of the source.

    Returns:
        A record of what was done.

    Raises:
        InputError: the source cannot be read, the target exists already, or the target
            cannot hold the content of the source; the message names it.
        DiskError: the disk or the system refused.
    """
    source, target = Path(source), Path(target)
    kind = kind or _kind_of_name(target)
    if os.path.lexists(target):
        hint = "name another one, or remove it"
        raise InputError("is there already", file=target, hint=hint)
    found = recognize(source)
    if found == "safetensors":
        hint = "`linsey convert` takes it, and so does linsey.weights.read"
        problem = "a safetensors file does not hold a tree"
        raise InputError(problem, file=source, hint=hint)
    contents = read_contents(source, found)
    step = step_number(contents.step, source, target, step) if kind == "step" else None
    tree, notes = _storable(contents.tree, found, kind, source)
    if contents.metadata and kind != "step":
        names = ", ".join(contents.metadata)
        notes += (f"left out, since only a step holds it: metadata ({names})",)
    hashes = _hashes(tree)
    durable.make_folder(target.parent)
    with durable.replacing(target) as temporary:
        try:
            write_contents(temporary, kind, Contents(tree, step, contents.metadata))
        except (ArgumentTypeError, OptionError) as error:
            raise InputError(f"not for {kind}: {error.found}", file=source) from error
        again = _hashes(read_contents(temporary, kind).tree)
        for name in hashes | again:
            if hashes.get(name) != again.get(name):
                problem = "the value read back differs from the one written"
                raise InputError(problem, file=target, key=name)
    size = sum(np.asarray(leaf).nbytes for _, leaf in flatten(tree) if _is_array(leaf))
    return Conversion(source, target, (found, kind), step, len(hashes), size, notes)


def _kind_of_name(target: Path) -> Written:
    if is_step_name(target):
        return "step"
    for kind in get_args(Written):
        if target.suffix == f".{kind}":
            return kind
    hint = "say it with --to: " + ", ".join(get_args(Written))
    raise InputError("the name does not say what to write", file=target, hint=hint)


def is_step_name(target: Path) -> bool:
    """Return whether a path is named like a step."""
    return _STEP.fullmatch(target.name) is not None


def step_number(
    recorded: int | None, source: Path, target: Path, given: int | None
) -> int:
    """Return the number of the step to write.

    Args:
        recorded: the number recorded in the source.
        source: the source; the last number in its name may be used.
        target: the target; its name may contain the number.
        given: the requested number.

    Raises:
        InputError: the target has the name of another step.
    """
    named = _STEP.fullmatch(target.name)
    given = recorded if given is None else given
    if named and given not in (None, int(named[1])):
        problem = "the name of another step"
        raise InputError(problem, file=target, expected=f"step {given}")
    if named or given is not None:
        return int(named[1]) if named else given or 0
    digits = re.findall(r"\d+", source.name)
    return int(digits[-1][:18]) if digits else 0


# -- what a kind can hold ------------------------------------------------------------


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | jax.Array)


def _storable(
    tree: object, found: Kind, kind: Kind, source: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a tree in the form that a kind can hold, and notes about differences.

    Raises:
        InputError: the kind cannot hold some leaves; the message names all of them.
    """
    if not isinstance(tree, Mapping) or not tree:
        raise InputError("its outermost value is not a dictionary", file=source)
    refused: list[str] = []
    notes: set[str] = set()

    def converted(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return {str(k): converted(v, f"{path}/{k}") for k, v in value.items()}
        spec = spec_of(value)
        if value is None and (kind == "step" or found == "orbax"):
            # Where Orbax has None, there may have been an empty tuple.
            notes.add("None has become an empty dictionary")
            return {}
        if kind == "step" and isinstance(value, bool | int | float | complex):
            notes.add("numbers of Python have become arrays without axes")
            value = np.asarray(value)
        if not _holds(kind, value):
            refused.append(f"`{path.removeprefix('/')}` ({spec})")
        return np.asarray(value) if isinstance(value, np.generic) else value

    result = converted(tree, "")
    if refused:
        problem = f"cannot be written as {kind}: {', '.join(refused)}"
        raise InputError(problem, file=source)
    return result, tuple(sorted(notes))


def _holds(kind: Kind, value: Any) -> bool:
    if not _is_array(value):
        kinds = {
            "step": (),
            "orbax": (bool, int, float, str, type(None)),
            "msgpack": (bool, int, float, complex, str, bytes, type(None)),
        }
        return type(value) in kinds[kind]
    if kind == "step":
        return dtypes.storage(dtypes.name_of(value.dtype)) is not None
    if kind == "orbax":
        return orbax_utils.is_storable(value.dtype) and bool(value.size)
    return isinstance(value.dtype, np.dtype) and value.dtype.kind not in "OSU"


def _hashes(tree: object) -> dict[str, str]:
    """Return for each leaf a hash of its dtype, shape and bytes."""
    return {path: _hash(leaf) for path, leaf in flatten(tree)}


def _hash(leaf: object) -> str:
    if isinstance(leaf, jax.Array) and not isinstance(leaf.dtype, np.dtype):
        leaf = jax.random.key_data(leaf)
    if leaf is None or isinstance(leaf, Mapping | str | bytes):
        return f"{spec_of(leaf)} {leaf or ''!r}"
    array = np.asarray(leaf)
    # Little-endian and in C order, however the array is stored in memory.
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    content = f"{array.dtype.name} {array.shape}".encode() + array.tobytes()
    return hashlib.sha256(content).hexdigest()
