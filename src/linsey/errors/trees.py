"""Mistakes with transforms, tree updates and stored trees."""

from __future__ import annotations

from typing import Any

from linsey.errors.base import LinseyError


class TransformedMethodReturnValueError(LinseyError):
    """A lifted method returns a module or a variable."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Transformed module method {name} cannot return Modules or Variables.",
            "Only arrays pass through a transform; a module outside of it would hold "
            "values that exist only inside.",
            "Return arrays (for a variable its `.value`), or make the module outside "
            "of the transformed method.",
        )


class TransformTargetError(LinseyError, ValueError):
    """What is to be transformed is neither a module class nor a function."""

    def __init__(self, target: Any) -> None:
        super().__init__(
            "Linen transformations must be applied to Modules classes or functions "
            "taking a Module instance as the first argument. The provided target is "
            f"not a Module class or callable: {target}",
            "A transform of a class gives a class, a transform of a function gives a "
            f"function; a value of type {type(target).__name__} is neither.",
            "Write `nn.vmap(nn.Dense, ...)(features=3)`, or "
            "`nn.vmap(lambda module, x: module(x), ...)(module, x)`.",
        )


class CursorFindError(LinseyError):
    """A search with a cursor found nothing, or more than one value."""

    def __init__(self, cursor: Any = None, cursor2: Any = None) -> None:
        if cursor is None or cursor2 is None:
            found = "No object found given the conditions of the cond_fn."
        else:
            found = (
                "More than one object found given the conditions of the cond_fn. The "
                "first two objects found have the following paths: "
                f"{cursor._path} and {cursor2._path}"
            )
        super().__init__(
            found,
            "`find` returns the only value that fulfils the condition.",
            "Change the condition, or use `find_all`.",
        )


class TraverseTreeError(LinseyError):
    """A tree update was given both of two functions that exclude each other."""

    def __init__(self, update_fn: object, cond_fn: object) -> None:
        if update_fn is None and cond_fn is None:
            found = (
                "Both update_fn and cond_fn are None. Exactly one of them must be None."
            )
        else:
            found = (
                "Both update_fn and cond_fn are not None. Exactly one of them must be "
                "not None."
            )
        super().__init__(
            found,
            "`update_fn` says the new value of a node, `cond_fn` which nodes to keep.",
            "Pass one of them.",
        )


class AlreadyExistsError(LinseyError):
    """A file is written that is there already."""

    def __init__(self, path: Any) -> None:
        super().__init__(
            f'Trying overwrite an existing file: "{path}".',
            "Nothing is overwritten unless that is asked for.",
            "Pass `overwrite=True`, or write to another path.",
        )


class InvalidCheckpointError(LinseyError, ValueError):
    """A checkpoint is saved for an earlier step than one that is there."""

    def __init__(self, path: Any, step: Any) -> None:
        super().__init__(
            f'Trying to save an outdated checkpoint at step: "{step}" and path: '
            f'"{path}".',
            "The folder holds a checkpoint of this or of a later step.",
            "Pass `overwrite=True` to replace the later ones, or use another folder.",
        )


class MPACheckpointingRequiredError(LinseyError):
    """Arrays that span processes are saved without a manager for them."""

    def __init__(self, path: Any, step: Any) -> None:
        super().__init__(
            f'Checkpoint failed at step: "{step}" and path: "{path}": Target contains '
            "a multiprocess array should be saved/restored with a "
            "GlobalAsyncCheckpointManager.",
            "No process holds the whole of such an array.",
            "Pass `gda_manager=`, or use the Orbax checkpointer.",
        )


class MPARestoreTargetRequiredError(LinseyError):
    """Arrays that span processes are restored without arrays to restore into."""

    def __init__(self, path: Any, step: Any, key: Any = None) -> None:
        at = (
            ""
            if key is None
            else f" This error fired when trying to restore array at {key}."
        )
        super().__init__(
            f'Restore checkpoint failed at step: "{step}" and path: "{path}": '
            "Checkpoints containing a multiprocess array need to be restored with a "
            f"target with pre-created arrays.{at}",
            "The sharding of each array is taken from the array in the target.",
            "Pass a full target, or `allow_partial_mpa_restoration=True`.",
        )


class MPARestoreDataCorruptedError(LinseyError):
    """An array that spans processes was not written to its end."""

    def __init__(self, step: Any, path: Any) -> None:
        super().__init__(
            f'Restore checkpoint failed at step: "{step}" on multiprocess array at  '
            f'"{path}": No "commit_success.txt" found on this "_gda" directory.',
            "The save was stopped before it was complete.",
            "Restore an earlier step.",
        )


class StateDictMismatchError(LinseyError, ValueError):
    """A state dict has another structure than the tree it is restored into."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(
            message,
            why,
            "Restore into a target built with the settings that the state was saved "
            "with, or read it without one: `from_bytes(None, data)`.",
        )


class MalformedBytesError(LinseyError, ValueError):
    """Bytes are not a tree that `to_bytes` wrote, or only a part of one."""

    def __init__(self, size: int, cause: object) -> None:
        super().__init__(
            f"The {size} bytes given are not a serialized tree: {cause}",
            "They are incomplete, damaged, or of another format.",
            "Pass the whole content of a file that `to_bytes` wrote, read as bytes.",
        )
