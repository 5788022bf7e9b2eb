"""Checkpoints of a tree at steps of a training, in one folder.

A checkpoint is a folder written by Orbax, or, with the flag
`use_orbax_checkpointing` off or without Orbax, a file of msgpack bytes; both are read,
also those that Flax has written. For new programs the `linsey` command and Orbax itself
check more; this is the interface of `flax.training.checkpoints`.

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
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax

from linsey import io
from linsey.config import config
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.errors import InvalidCheckpointError
from linsey.serialization import from_state_dict, msgpack_restore, to_bytes
from linsey.training import orbax_utils

__all__ = [
    "AsyncManager",
    "available_steps",
    "convert_pre_linen",
    "latest_checkpoint",
    "natural_sort",
    "restore_checkpoint",
    "safe_normpath",
    "save_checkpoint",
    "save_checkpoint_multiprocess",
]

SIGNED_FLOAT_RE = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
UNSIGNED_FLOAT_RE = re.compile(r"[-+]?((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
MODULE_NUM_RE = re.compile(r"(.*)_\d+$")
SCHEME_RE = re.compile(r"^(?P<scheme>[a-z][a-z0-9.+-]+://)?(?P<path>.*)", re.I)

Path = str | os.PathLike[str]


class AsyncManager:
    """Saves in a thread, one checkpoint after the other.

    Args:
        max_workers: number of threads.
    """

    def __init__(self, max_workers: int = 1) -> None:
        self.executor = concurrent.futures.ThreadPoolExecutor(max_workers)
        self.save_future: concurrent.futures.Future[Any] | None = None

    def wait_previous_save(self) -> None:
        """Waits for the save that runs, if any, and raises what went wrong in it."""
        if self.save_future is not None:
            self.save_future.result()

    def save_async(self, task: Callable[[], Any]) -> None:
        """Runs a task in the thread, when the one before is done."""
        self.wait_previous_save()
        self.save_future = self.executor.submit(task)


# -- names ---------------------------------------------------------------------------


def natural_sort(file_list: Iterable[str], signed: bool = True) -> list[str]:
    """Sorts names by the numbers in them.

    Args:
        file_list: the names.
        signed: whether a minus before a number belongs to it.

    Example:
        >>> natural_sort(["step_10", "step_9", "step_1e1", "step_-2"])
        ['step_-2', 'step_9', 'step_10', 'step_1e1']
    """
    number = SIGNED_FLOAT_RE if signed else UNSIGNED_FLOAT_RE

    def key(name: str) -> list[Any]:
        parts = number.split(name)
        return [float(p) if i % 2 else p for i, p in enumerate(parts)]

    return sorted(file_list, key=key)


def safe_normpath(path: str) -> str:
    """Normalizes a path, and leaves the scheme of a remote one alone.

    Example:
        >>> safe_normpath("gs://bucket//a/../b")
        'gs://bucket/b'
    """
    match = SCHEME_RE.match(path)
    assert match is not None
    return (match["scheme"] or "") + os.path.normpath(match["path"])


def _checkpoint_path(ckpt_dir: Path, step: Any, prefix: str) -> str:
    return os.path.join(os.fspath(ckpt_dir), f"{prefix}{step}")


def _all_checkpoints(ckpt_dir: Path, prefix: str) -> list[str]:
    """The paths of all whole checkpoints, in order."""
    folder = safe_normpath(os.fspath(ckpt_dir))
    if not io.isdir(folder):
        return []
    names = [
        name.rstrip("/")
        for name in io.listdir(folder)
        if name.startswith(prefix) and ".orbax-checkpoint-tmp" not in name
    ]
    names = [name for name in names if name != f"{prefix}tmp"]
    return natural_sort(os.path.join(folder, name) for name in names)


def _step_of(path: str, step_type: Callable[[Any], Any] = float) -> Any:
    numbers = SIGNED_FLOAT_RE.split(os.path.basename(path))
    return step_type(float(numbers[-2])) if len(numbers) > 1 else None


def latest_checkpoint(ckpt_dir: Path, prefix: str = "checkpoint_") -> str | None:
    """Returns the path of the newest checkpoint, none if there is none.

    Args:
        ckpt_dir: the folder.
        prefix: what the names begin with.
    """
    paths = _all_checkpoints(ckpt_dir, prefix)
    return paths[-1] if paths else None


def available_steps(
    ckpt_dir: Path, prefix: str = "checkpoint_", step_type: type = int
) -> list[Any]:
    """Lists the steps that there are checkpoints of.

    Args:
        ckpt_dir: the folder.
        prefix: what the names begin with.
        step_type: the type of the steps, `int` or `float`.
    """
    return [_step_of(path, step_type) for path in _all_checkpoints(ckpt_dir, prefix)]


# -- saving --------------------------------------------------------------------------


def save_checkpoint(
    ckpt_dir: Path,
    target: Any,
    step: int | float,
    prefix: str = "checkpoint_",
    keep: int = 1,
    overwrite: bool = False,
    keep_every_n_steps: int | None = None,
    async_manager: AsyncManager | None = None,
    orbax_checkpointer: Any = None,
) -> str:
    """Saves a tree as the checkpoint of a step, and removes old ones.

    Args:
        ckpt_dir: the folder.
        target: the tree: a train state, dictionaries, and so on.
        step: the step.
        prefix: what the names begin with.
        keep: number of checkpoints to keep.
        overwrite: whether to replace checkpoints of this and later steps.
        keep_every_n_steps: keep also those that are so many steps apart.
        async_manager: saves in a thread; the tree is copied to the host first.
        orbax_checkpointer: writes it, in place of a new one of Orbax.

    Returns:
        The path of the checkpoint.

    Raises:
        InvalidCheckpointError: there is one of this or a later step.
    """
    if async_manager is not None:
        async_manager.wait_previous_save()
    path = safe_normpath(_checkpoint_path(ckpt_dir, step, prefix))
    newer = _newer(path, _all_checkpoints(ckpt_dir, prefix))
    if newer and not overwrite:
        raise InvalidCheckpointError(path, step)
    io.makedirs(os.path.dirname(path))
    if orbax_checkpointer is not None or _uses_orbax():
        write = _orbax_writer(path, target, orbax_checkpointer)
    else:
        write = _bytes_writer(path, target, prefix)

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
    target: Any,
    step: int | float,
    prefix: str = "checkpoint_",
    keep: int = 1,
    overwrite: bool = False,
    keep_every_n_steps: int | None = None,
    async_manager: AsyncManager | None = None,
    gda_manager: Any = None,
    orbax_checkpointer: Any = None,
) -> str:
    """Like `save_checkpoint`, called by every process of a training.

    Args:
        ckpt_dir: the folder, the same for all.
        target: the tree.
        step: the step.
        prefix: what the names begin with.
        keep: number of checkpoints to keep.
        overwrite: whether to replace checkpoints of this and later steps.
        keep_every_n_steps: keep also those that are so many steps apart.
        async_manager: saves in a thread.
        gda_manager: no longer needed: Orbax writes arrays that span processes.
        orbax_checkpointer: writes it, in place of a new one of Orbax.

    Returns:
        The path of the checkpoint.
    """
    del gda_manager
    return save_checkpoint(
        ckpt_dir,
        target,
        step,
        prefix,
        keep,
        overwrite,
        keep_every_n_steps,
        async_manager,
        orbax_checkpointer,
    )


def _uses_orbax() -> bool:
    installed = importlib.util.find_spec("orbax") is not None
    return installed and config.use_orbax_checkpointing


def _orbax_writer(path: str, target: Any, checkpointer: Any) -> Callable[[], None]:
    import orbax.checkpoint as ocp

    writer = checkpointer or ocp.PyTreeCheckpointer()
    save_args = orbax_utils.save_args_from_target(target)
    full = path if "://" in path else os.path.abspath(path)
    return lambda: writer.save(full, target, save_args=save_args)


def _bytes_writer(path: str, target: Any, prefix: str) -> Callable[[], None]:
    content = to_bytes(target)  # copies the arrays to the host, before a thread writes

    def write() -> None:
        if jax.process_index():
            return
        partial = os.path.join(os.path.dirname(path), f"{prefix}tmp")
        with io.GFile(partial, "wb") as file:
            file.write(content)
        io.rename(partial, path, overwrite=True)

    return write


def _newer(path: str, paths: list[str]) -> list[str]:
    """The checkpoints of the step of a path and of later ones."""
    order = natural_sort({*paths, path})
    return [p for p in order[order.index(path) :] if p in paths]


def _prune(ckpt_dir: Path, prefix: str, keep: int, every: int | None) -> None:
    """Removes checkpoints but the last ones, and those some steps apart."""
    last_kept = -float("inf")
    for path in _all_checkpoints(ckpt_dir, prefix)[:-keep]:
        step = _step_of(path)
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
    gda_manager: Any = None,
    allow_partial_mpa_restoration: bool = False,
    orbax_checkpointer: Any = None,
    orbax_transforms: dict[str, Any] | None = None,
) -> Any:
    """Restores a checkpoint.

    Args:
        ckpt_dir: the folder, or the path of a checkpoint.
        target: a tree of the structure to restore; none for plain dictionaries.
        step: the step; none means the newest.
        prefix: what the names begin with.
        parallel: accepted; files are read at once.
        gda_manager: no longer needed.
        allow_partial_mpa_restoration: no longer needed.
        orbax_checkpointer: reads it, in place of a new one of Orbax.
        orbax_transforms: see Orbax.

    Returns:
        A tree like the target; the target itself if there is no checkpoint.

    Raises:
        ValueError: there is no checkpoint of that step.
    """
    del parallel, gda_manager, allow_partial_mpa_restoration
    folder = safe_normpath(os.fspath(ckpt_dir))
    if step is not None:
        path = safe_normpath(_checkpoint_path(folder, step, prefix))
        if not io.exists(path):
            raise ValueError(
                f"Matching checkpoint not found: {path}\n"
                f"The folder has the steps {available_steps(folder, prefix, float)}.\n"
                "Leave `step` out for the newest one."
            )
    elif not io.exists(folder):
        return target
    elif io.isdir(folder) and not _is_orbax(folder):
        newest = latest_checkpoint(folder, prefix)
        if newest is None:
            return target
        path = newest
    else:
        path = folder
    if io.isdir(path):
        return _read_orbax(path, target, orbax_checkpointer, orbax_transforms)
    with io.GFile(path, "rb") as file:
        state = msgpack_restore(file.read())
    return state if target is None else from_state_dict(target, state)


def _is_orbax(path: str) -> bool:
    """Whether a folder is itself a checkpoint."""
    marks = ("checkpoint", "manifest.ocdbt", "_METADATA", "_CHECKPOINT_METADATA")
    return any(io.exists(os.path.join(path, mark)) for mark in marks)


def _read_orbax(path: str, target: Any, checkpointer: Any, transforms: Any) -> Any:
    import orbax.checkpoint as ocp

    reader = checkpointer or ocp.PyTreeCheckpointer()
    full = path if "://" in path else os.path.abspath(path)
    if target is None:
        return reader.restore(full)
    return reader.restore(
        full,
        item=target,
        restore_args=orbax_utils.restore_args_from_target(target),
        transforms=orbax_utils.maybe_construct_transformations(target, transforms),
    )


# -- older layouts -------------------------------------------------------------------


def convert_pre_linen(params: Any) -> Any:
    """Renames the submodules in parameters from before Linen.

    There the numbers of automatic names counted all submodules of a module; now they
    count those of a class.

    Args:
        params: parameters, as a dictionary or `FrozenDict`.

    Returns:
        The same, with new names.

    Example:
        >>> convert_pre_linen({"Dense_0": 1, "Conv_1": 2, "Dense_2": 3})
        {'Conv_0': 2, 'Dense_0': 1, 'Dense_1': 3}
    """
    if isinstance(params, FrozenDict):
        return freeze(convert_pre_linen(params.unfreeze()))
    if not isinstance(params, dict):
        return params
    counts: dict[str, int] = {}
    renamed = {}
    for name in natural_sort(params):
        match = MODULE_NUM_RE.match(name)
        new = name
        if match is not None:
            number = counts.get(match[1], 0)
            counts[match[1]] = number + 1
            new = f"{match[1]}_{number}"
        renamed[new] = convert_pre_linen(params[name])
    return renamed
