"""Compact methods: what they build in their first run is what they use ever after.

The objects are stored in fields of their own. Which method built which is remembered by
the method's name; a compact method inside of another one, of the same object, adds to
the record of the outer one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeVar

from linsey.errors.treex import (
    CompactNameError,
    CompactRecursionError,
    FirstRunError,
    MissingFieldError,
    UndeclaredFieldError,
)
from linsey.treex.treeo.fields import FieldMetadata
from linsey.treex.treeo.names import default_name, unique_name
from linsey.treex.treeo.records import CURRENT, CompactRecord
from linsey.treex.treeo.tree import Tree, set_metadata

F = TypeVar("F", bound=Callable[..., Any])

_SUBTREE = FieldMetadata(True, NoneType, False)


def in_compact() -> bool:
    """Whether objects that are built here become fields of another one."""
    return CURRENT.get() is not None


def compact(f: F) -> F:
    """Lets a method build the objects that it uses.

    In its first run they are built and stored as fields; in later runs the k-th
    constructor returns the k-th object of the first run.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> class Model(tx.Module):
        ...     @tx.compact
        ...     def __call__(self, x):
        ...         x = tx.Linear(8)(x)
        ...         return tx.Linear(1)(x)
        >>> model = Model().init(0, jnp.ones((5, 2)))
        >>> model.linear.kernel.shape, model.linear2.kernel.shape
        ((2, 8), (8, 1))
    """

    @functools.wraps(f)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = CURRENT.get()
        if outer is not None and outer.runs(self, f):
            raise CompactRecursionError(self, f)
        if outer is not None and outer.owner is self:
            outer.functions.append(f)
            try:
                return f(self, *args, **kwargs)
            finally:
                outer.functions.pop()
        names = (vars(self).get("_compact_methods") or {}).get(f.__qualname__)
        record = CompactRecord(self, [f], outer, names)
        token = CURRENT.set(record)
        try:
            result = f(self, *args, **kwargs)
        finally:
            CURRENT.reset(token)
        if not record.replays:
            _store(record)
        return result

    return run  # type: ignore[return-value]


def _store(record: CompactRecord) -> None:
    """Makes what the first run built fields of the object."""
    owner, attributes = record.owner, record.owner.__dict__
    names: list[str] = []

    def taken(name: str) -> bool:
        of_class = getattr(type(owner), name, None)
        return (
            name in attributes or isinstance(of_class, property) or callable(of_class)
        )

    for subtree in record.subtrees:
        name = unique_name(default_name(subtree), taken)
        entry = owner.field_metadata.get(name)
        layout = owner._static_part.layout
        if entry is not None and not entry.node and name in layout.declared:
            raise CompactNameError(owner, name)
        attributes[name] = subtree
        names.append(name)
    methods = attributes.get("_compact_methods") or {}
    function = record.functions[0].__qualname__
    attributes["_compact_methods"] = {**methods, function: tuple(names)}
    attributes["_subtrees"] = (*(attributes.get("_subtrees") or ()), *names)
    set_metadata(owner, dict.fromkeys(names, _SUBTREE))


class Compact:
    """What trees with compact methods offer."""

    _subtrees: Any = None

    @property
    def first_run(self) -> bool:
        """Whether the compact method that runs does so for the first time.

        Raises:
            FirstRunError: no compact method of this object runs.
        """
        record = CURRENT.get()
        if record is None or record.owner is not self:
            raise FirstRunError(self)
        return not record.replays

    def get_field(self, field_name: str, initializer: Callable[[], Any]) -> Any:
        """The value of a declared field, created if there is none.

        Args:
            field_name: its name.
            initializer: makes the value, in the first run.

        Raises:
            UndeclaredFieldError: the class does not declare it.
            MissingFieldError: it has no value, and this is a later run.
        """
        assert isinstance(self, Tree)
        if field_name not in self.field_metadata:
            raise UndeclaredFieldError(self, field_name)
        attributes = vars(self)
        if field_name not in attributes:
            if self._subtrees is not None:
                raise MissingFieldError(self, field_name)
            setattr(self, field_name, initializer())
        return attributes[field_name]
