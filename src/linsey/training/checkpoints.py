"""Checkpoints of a tree at several steps, in one folder: `flax.training.checkpoints`.

A checkpoint is a folder written by Orbax. If the flag `use_orbax_checkpointing` is off
or Orbax is not installed, it is a file of msgpack bytes. Both can be read, also if Flax
has written them. A file has a checksum, which is verified when the file is read and
which Flax ignores. Folders written by Orbax have none: `linsey convert` turns them into
steps of `linsey.checkpoint`, which have a checksum for every array.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from linsey import config
    >>> folder = tempfile.mkdtemp()
    >>> with config.temp_flip_flag("use_orbax_checkpointing", False):
    ...     path = save_checkpoint(folder, {"x": np.arange(3)}, step=5)
    >>> restore_checkpoint(folder, target={"x": np.zeros(3)})
    {'x': array([0, 1, 2])}
    >>> available_steps(folder)
    [5]
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import itertools
import math
import os
import pathlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax

from linsey import files, io, msgpack_format
from linsey.checkpoint import durable
from linsey.config import config
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.errors import InvalidCheckpointError, OptionError
from linsey.errors.misuse import report_misuse
from linsey.extras import require
from linsey.serialization import (
    from_state_dict,
    refuse_differences,
    to_bytes,
    to_state_dict,
)
from linsey.training import orbax_utils

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

SIGNED_FLOAT_RE = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
UNSIGNED_FLOAT_RE = re.compile(r"[-+]?((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
MODULE_NUM_RE = re.compile(r"(.*)_\d+$")
SCHEME_RE = re.compile(r"^(?P<scheme>[a-z][a-z0-9.+-]+://)?(?P<path>.*)", re.I)

# Names of files and folders.
ORBAX_CKPT_FILENAME = "checkpoint"
ORBAX_MANIFEST_OCDBT = "manifest.ocdbt"
ORBAX_METADATA_FILENAME = "_METADATA"
MP_ARRAY_POSTFIX = "_gda"  # arrays of several processes, written before Orbax
COMMIT_SUCCESS_FILE = "commit_success.txt"

Path = str | os.PathLike[str]
Params = TypeVar("Params")


class AsyncManager:
    """A manager that saves in a thread, one checkpoint after the other.

    Args:
        max_workers: number of threads. Defaults to 1.
    """

    def __init__(self, max_workers: int = 1) -> None:
        self.executor = concurrent.futures.ThreadPoolExecutor(max_workers)
        self.save_future: concurrent.futures.Future[object] | None = None

    def wait_previous_save(self) -> None:
        """Wait for the running save, if any, and raise its exception if it failed."""
        if self.save_future is not None:
            self.save_future.result()

    def save_async(self, task: Callable[[], object]) -> None:
        """Run a task in the thread after the previous one has finished."""
        self.wait_previous_save()
        self.save_future = self.executor.submit(task)


# -- names ---------------------------------------------------------------------------


def natural_sort(file_list: Iterable[str], signed: bool = True) -> list[str]:
    """Sort names by the numbers in them.

    Args:
        file_list: the names.
        signed: whether a minus sign before a number belongs to it. Defaults to `True`.

    Example:
        >>> natural_sort(["step_10", "step_9", "step_1e1", "step_-2"])
        ['step_-2', 'step_9', 'step_10', 'step_1e1']
    """
    return sorted(file_list, key=functools.partial(_natural_key, signed=signed))


def _natural_key(name: str, signed: bool = True) -> list[float | str]:
    number = SIGNED_FLOAT_RE if signed else UNSIGNED_FLOAT_RE
    parts = enumerate(number.split(name))
    return [float(part) if i % 2 else part for i, part in parts]


def _in_order(paths: Iterable[str], prefix: str) -> list[str]:
    """Sort the paths of checkpoints by their steps."""
    # Without the prefix: a minus sign or a point at its end is not part of the number.
    step = lambda path: os.path.basename(path).removeprefix(prefix)  # noqa: E731
    return sorted(paths, key=lambda path: _natural_key(step(path)))


def safe_normpath(path: str) -> str:
    """Normalize a path, but leave the scheme of a remote path unchanged.

    Example:
        >>> safe_normpath("gs://bucket//a/../b")
        'gs://bucket/b'
    """
    match = SCHEME_RE.match(path)
    assert match is not None
    return (match["scheme"] or "") + os.path.normpath(match["path"])


def _checkpoint_path(ckpt_dir: Path, step: float, prefix: str) -> str:
    return safe_normpath(os.path.join(os.fspath(ckpt_dir), f"{prefix}{step}"))


def _all_checkpoints(ckpt_dir: Path, prefix: str) -> list[str]:
    """List the paths of all complete checkpoints, in order."""
    folder = safe_normpath(os.fspath(ckpt_dir))
    if not io.isdir(folder):
        return []
    paths = [
        os.path.join(folder, name)
        for name in (name.rstrip("/") for name in io.listdir(folder))
        if name.startswith(prefix) and not _is_part(name, prefix)
    ]
    return _in_order(paths, prefix)


def _is_part(name: str, prefix: str) -> bool:
    """Tell whether a name belongs to an unfinished checkpoint or a part of one."""
    return (
        name == f"{prefix}tmp"
        or name.endswith(MP_ARRAY_POSTFIX)
        or name.startswith(durable.TEMPORARY)
        or ".orbax-checkpoint-tmp" in name
    )


def _step_of(path: str, prefix: str) -> float:
    """Return the last number in a name, or NaN if there is none."""
    numbers = SIGNED_FLOAT_RE.split(os.path.basename(path).removeprefix(prefix))
    return float(numbers[-2]) if len(numbers) > 1 else math.nan


def latest_checkpoint(ckpt_dir: Path, prefix: str = "checkpoint_") -> str | None:
    """Return the path of the newest checkpoint, or `None` if there is none.

    Args:
        ckpt_dir: the folder.
        prefix: the prefix of the names. Defaults to `"checkpoint_"`.
    """
    paths = _all_checkpoints(ckpt_dir, prefix)
    return paths[-1] if paths else None


def available_steps(
    ckpt_dir: Path, prefix: str = "checkpoint_", step_type: type[float] = int
) -> list[float]:
    """List the steps for which there are checkpoints.

    Args:
        ckpt_dir: the folder.
        prefix: the prefix of the names. Defaults to `"checkpoint_"`.
        step_type: the type of the steps, `int` or `float`. Defaults to `int`.

    Raises:
        OptionError: a step is not a whole number and `step_type` is `int`.
    """
    steps = [_step_of(path, prefix) for path in _all_checkpoints(ckpt_dir, prefix)]
    steps = [step for step in steps if not math.isnan(step)]
    fractions = [step for step in steps if not step.is_integer()]
    if fractions and step_type is int:
        raise OptionError(
            f"invalid literal for int() with base 10: '{fractions[0]}', a step in "
            f"{os.fspath(ckpt_dir)}",
            "Steps are returned as whole numbers, which this one is not.",
            "Pass `step_type=float`.",
        )
    return [step_type(step) for step in steps]


# -- saving --------------------------------------------------------------------------


def save_checkpoint(
    ckpt_dir: Path,
    target: object,
    step: int | float,
    prefix: str = "checkpoint_",
    keep: int = 1,
    overwrite: bool = False,
    keep_every_n_steps: int | None = None,
    async_manager: AsyncManager | None = None,
    orbax_checkpointer: ocp.Checkpointer | None = None,
) -> str:
    """Save a tree as the checkpoint of a step, and remove old ones.

    Args:
        ckpt_dir: the folder.
        target: the tree: a train state, dictionaries, and so on.
        step: the step.
        prefix: the prefix of the names. Defaults to `"checkpoint_"`.
        keep: number of checkpoints to keep. Defaults to 1.
        overwrite: whether to replace checkpoints of this and later steps. Defaults to
            `False`.
        keep_every_n_steps: also keep checkpoints that are at least this many steps
            apart.
        async_manager: saves in a thread; the tree is copied to the host first.
        orbax_checkpointer: writes the checkpoint. Defaults to a new
            `PyTreeCheckpointer`.

    Returns:
        The path of the checkpoint.

    Raises:
        InvalidCheckpointError: there is a checkpoint of this or a later step.
    """
    if async_manager is not None:
        async_manager.wait_previous_save()
    path = _checkpoint_path(ckpt_dir, step, prefix)
    existing = _all_checkpoints(ckpt_dir, prefix)
    order = _in_order({*existing, path}, prefix)
    newer = [p for p in order[order.index(path) :] if p in existing]  # or the same step
    has_orbax = importlib.util.find_spec("orbax") is not None
    with_orbax = orbax_checkpointer or (has_orbax and config.use_orbax_checkpointing)
    if newer and not overwrite:
        error = InvalidCheckpointError(path, step)
        if path in newer or not with_orbax:
            raise error
        report_misuse(error)  # Flax keeps later steps and saves, but only with Orbax
        newer = []
    io.makedirs(os.path.dirname(path))
    if with_orbax:
        writer = orbax_checkpointer or orbax().PyTreeCheckpointer()
        save_args = orbax_utils.save_args_from_target(target)
        absolute = _absolute(path)
        write = functools.partial(writer.save, absolute, target, save_args=save_args)
    else:
        # This copies the arrays to the host before a thread writes them.
        write = functools.partial(_write_bytes, path, to_bytes(target), prefix)

    def save() -> None:
        if path in newer:
            _remove(path)
        write()
        for stale in newer:
            if stale != path:
                _remove(stale)
        _prune(ckpt_dir, prefix, keep, keep_every_n_steps)

    if async_manager is None:
        save()
    else:
        async_manager.save_async(save)
    return path


def save_checkpoint_multiprocess(
    ckpt_dir: Path,
    target: object,
    step: int | float,
    prefix: str = "checkpoint_",
    keep: int = 1,
    overwrite: bool = False,
    keep_every_n_steps: int | None = None,
    async_manager: AsyncManager | None = None,
    gda_manager: object = None,
    orbax_checkpointer: ocp.Checkpointer | None = None,
) -> str:
    """Save a tree like `save_checkpoint`, called by every process of a training run.

    Args:
        ckpt_dir: the folder, the same for all processes.
        target: the tree.
        step: the step.
        prefix: the prefix of the names. Defaults to `"checkpoint_"`.
        keep: number of checkpoints to keep. Defaults to 1.
        overwrite: whether to replace checkpoints of this and later steps. Defaults to
            `False`.
        keep_every_n_steps: also keep checkpoints that are at least this many steps
            apart.
        async_manager: saves in a thread.
        gda_manager: ignored: Orbax writes arrays that are sharded over processes.
        orbax_checkpointer: writes the checkpoint. Defaults to a new
            `PyTreeCheckpointer`.

    Returns:
        The path of the checkpoint.
    """
    del gda_manager
    options = prefix, keep, overwrite, keep_every_n_steps, async_manager
    return save_checkpoint(ckpt_dir, target, step, *options, orbax_checkpointer)


def _write_bytes(path: str, content: bytes, prefix: str) -> None:
    if jax.process_index():
        return
    if io.io_mode is io.BackendMode.DEFAULT:
        durable.write_file(pathlib.Path(path), content)
        return
    partial = os.path.join(os.path.dirname(path), f"{prefix}tmp")
    with io.GFile(partial, "wb") as file:
        file.write(content)
    io.rename(partial, path, overwrite=True)


def orbax() -> Any:
    """Import Orbax, which only checkpoints in its own format need."""
    return require("orbax.checkpoint", "train", "A checkpoint of this kind")


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _prune(ckpt_dir: Path, prefix: str, keep: int, every: int | None) -> None:
    """Remove all checkpoints except the last ones and those `every` steps apart."""
    last_kept = -float("inf")
    for path in _all_checkpoints(ckpt_dir, prefix)[:-keep]:
        step = _step_of(path, prefix)
        if every and step - last_kept >= every:
            last_kept = step
        else:
            _remove(path)


def _remove(path: str) -> None:
    if jax.process_index():
        return
    if io.isdir(path):
        io.rmtree(path)
    else:
        io.remove(path)


# -- restoring -----------------------------------------------------------------------


def restore_checkpoint(
    ckpt_dir: Path,
    target: Any | None,
    step: int | float | None = None,
    prefix: str = "checkpoint_",
    parallel: bool = True,
    gda_manager: object = None,
    allow_partial_mpa_restoration: bool = False,
    orbax_checkpointer: ocp.Checkpointer | None = None,
    orbax_transforms: dict[str, object] | None = None,
    *,
    strict: bool = False,
) -> Any:
    """Restore a checkpoint.

    As in Flax, differences from the target are accepted. Orbax keeps the values of the
    target for missing entries, and arrays of the target that are not a `jax.Array` get
    the stored dtype; both formats restore any shape. `strict=True` refuses all such
    differences.

    Args:
        ckpt_dir: the folder of checkpoints, or the path of one.
        target: a tree with the structure to restore. If `None`, the state dict is
            returned: lists and tuples are dictionaries with the keys "0", "1", ...
        step: the step. Defaults to the newest one.
        prefix: the prefix of the names. Defaults to `"checkpoint_"`.
        parallel: ignored.
        gda_manager: ignored.
        allow_partial_mpa_restoration: ignored.
        orbax_checkpointer: reads the checkpoint. Defaults to a new
            `PyTreeCheckpointer`.
        orbax_transforms: transformations of the tree; see Orbax.
        strict: whether shapes, dtypes and names must be those of the target.

    Returns:
        A tree like the target; the target itself if there is no checkpoint.

    Raises:
        OptionError: there is no checkpoint of that step; this is a `ValueError`.
        StateDictMismatchError: the checkpoint does not fit the target; with `strict`,
            the message lists all differences.
        InputError: the checkpoint is damaged, or the path is not a checkpoint; the
            message names the file.
        DiskError: the disk or the system refused.
    """
    del parallel, gda_manager, allow_partial_mpa_restoration
    folder = safe_normpath(os.fspath(ckpt_dir))
    if step is not None:
        path = _checkpoint_path(folder, step, prefix)
        if not io.exists(path):
            raise OptionError(
                f"Matching checkpoint not found: {path}",
                f"The folder has the steps {available_steps(folder, prefix, float)}.",
                "Leave `step` out for the newest one.",
            )
    elif not io.exists(folder):
        return target
    elif io.isdir(folder) and not is_orbax(folder):
        newest = latest_checkpoint(folder, prefix)
        if newest is None:
            return target
        path = newest
    else:
        path = folder
    if io.isdir(path):
        return _read_orbax(path, target, orbax_checkpointer, orbax_transforms, strict)
    state = read_bytes(path)
    if strict:
        refuse_differences(target, state, f"in {path}")
    return state if target is None else from_state_dict(target, state)


def read_bytes(path: Path) -> Any:
    """Read a file of msgpack bytes as a state dict.

    Raises:
        InputError: it is not a regular file, is damaged, or has another format.
        DiskError: the disk or the system refused.
    """
    if io.io_mode is io.BackendMode.DEFAULT:
        return msgpack_format.read(files.read_regular(path), path)
    with io.GFile(path, "rb") as file:
        return msgpack_format.read(file.read(), path)


def _read_orbax(
    path: str,
    target: Any | None,
    checkpointer: ocp.Checkpointer | None,
    transforms: dict[str, object] | None,
    strict: bool,
) -> Any:
    reader = checkpointer or orbax().PyTreeCheckpointer()
    absolute = _absolute(path)
    if strict:
        stored = orbax_utils.stored_specs(reader, absolute)
        refuse_differences(orbax_utils.without_keys(target), stored, f"in {path}")
    with orbax_utils.reading(path):
        if target is None:
            # Orbax stores which parts were lists; a file of msgpack bytes does not.
            return to_state_dict(reader.restore(absolute))
        args = orbax_utils.restore_args(target)
        return reader.restore(
            absolute, item=target, restore_args=args, transforms=transforms or {}
        )


def is_orbax(path: str) -> bool:
    """Tell whether a folder is itself a checkpoint of Orbax."""
    marks = (ORBAX_CKPT_FILENAME, ORBAX_MANIFEST_OCDBT, ORBAX_METADATA_FILENAME)
    names = (*marks, "_CHECKPOINT_METADATA")
    return any(io.exists(os.path.join(path, name)) for name in names)


# -- older layouts -------------------------------------------------------------------


def convert_pre_linen(params: Params) -> Params | Mapping[str, object]:
    """Rename the submodules in parameters from before Linen.

    Before Linen, automatic names were numbered over all submodules of a module; now
    they are numbered by class.

    Args:
        params: parameters, as a dictionary or `FrozenDict`.

    Returns:
        The same parameters, with new names.

    Example:
        >>> convert_pre_linen({"Dense_0": 1, "Conv_1": 2, "Dense_2": 3})
        {'Conv_0': 2, 'Dense_0': 1, 'Dense_1': 3}
    """
    if isinstance(params, FrozenDict):
        return freeze(convert_pre_linen(params.unfreeze()))
    if not isinstance(params, dict):
        return params
    numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)
    renamed = {}
    for name in natural_sort(params):
        match = MODULE_NUM_RE.match(name)
        new = f"{match[1]}_{next(numbers[match[1]])}" if match else name
        renamed[new] = convert_pre_linen(params[name])
    return renamed
