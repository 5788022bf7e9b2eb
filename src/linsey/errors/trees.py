"""Mistakes with transforms, tree updates and stored trees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from linsey.errors.base import LinseyError
from linsey.errors.files import InputError


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
    """The target of a transform is neither a module class nor a function."""

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
    """A tree update got both or neither of two functions that exclude each other."""

    def __init__(self, update_fn: object, cond_fn: object) -> None:
        both = "None" if update_fn is None and cond_fn is None else "not None"
        super().__init__(
            f"Both update_fn and cond_fn are {both}. Exactly one of them must be "
            f"{both}.",
            "`update_fn` says the new value of a node, `cond_fn` which nodes to keep.",
            "Pass one of them.",
        )


class StateDictMismatchError(LinseyError, ValueError):
    """A state dict has a different structure than the tree it is restored into.

    Args:
        message: what was found.
        why: why that does not fit.
        differences: all differences, if a strict reader has compared the two.

    Attributes:
        differences: the same, each a `linsey.specs.Difference`.
    """

    def __init__(
        self, message: str, why: str = "", differences: Sequence[object] = ()
    ) -> None:
        super().__init__(
            message,
            why,
            "Restore into a target built with the settings that the state was saved "
            "with, or read it without one: `from_bytes(None, data)`.",
        )
        self.differences = tuple(differences)


class MalformedBytesError(InputError, ValueError):
    """The bytes are not a complete tree that `to_bytes` wrote.

    The parts of the message are attributes, as in every `InputError`.

    Args:
        size: number of bytes.
        cause: what is wrong.
        file: the file that they came from, if known.
        key: the path of the value that is wrong.
        expected: what would have been right.
        found: what was there.
    """

    def __init__(
        self,
        size: int,
        cause: object,
        *,
        file: str | os.PathLike[str] | None = None,
        key: str | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(
            f"The {size} bytes given are not a serialized tree: {cause}",
            file=file,
            key=key,
            expected=expected,
            found=found,
            hint="pass the whole content of a file that `to_bytes` wrote",
        )
