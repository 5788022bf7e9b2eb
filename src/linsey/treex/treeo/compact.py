"""Compact methods, which build objects in their first run and use them in later runs.

The objects are stored in separate fields, and recorded by the name of the method that
built them. A compact method that is called by another one of the same object adds to
the record of the outer method.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextvars import ContextVar
from types import NoneType
from typing import Any, TypeVar

from linsey.errors.base import MismatchError, OptionError, UsageError, listed, named
from linsey.treex.treeo.fields import FieldMetadata
from linsey.treex.treeo.flatten import set_metadata
from linsey.treex.treeo.names import default_name, unique_name
from linsey.treex.treeo.static import Storage

__all__ = ["Compact", "compact", "in_compact"]

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

_SUBTREE = FieldMetadata(True, NoneType)


@dataclasses.dataclass
class CompactRecord:
    """A run of a compact method.

    Attributes:
        owner: the object whose method is running.
        functions: the running methods of `owner`: the outermost and the inner ones.
        outer: the record of the surrounding compact method of another object.
        names: the fields of the subtrees of the first run; `None` in the first run.
        subtrees: in the first run, the objects built so far.
        used: in a later run, the number of subtrees used so far.
    """

    owner: Storage
    functions: list[Callable[..., object]]
    outer: CompactRecord | None
    names: tuple[str, ...] | None
    subtrees: list[Storage] = dataclasses.field(default_factory=list)
    used: int = 0

    @property
    def replays(self) -> bool:
        """Whether this is a later run, which builds nothing."""
        return self.names is not None

    def next_subtree(self, cls: type) -> Any:
        """Return the object that the first run built at this point.

        Raises:
            MismatchError: the first run built nothing at this point.
        """
        names = self.names or ()
        if self.used >= len(names):
            raise MismatchError(
                f"Out of bounds: `{self.functions[0].__qualname__}` of "
                f"{named(self.owner)} builds a `{cls.__name__}` that its first run did "
                f"not build; it built {listed(names)}.",
                "Later runs of a compact method find what the first run built by the "
                "order of construction.",
                "Build the same objects, in the same order, in every run: move "
                "conditions behind the constructors.",
            )
        name = names[self.used]
        self.used += 1
        return getattr(self.owner, name)

    def runs(self, owner: object, function: Callable[..., object]) -> bool:
        """Tell whether a method of an object is running, here or further out."""
        here = self.owner is owner and function in self.functions
        return here or (self.outer is not None and self.outer.runs(owner, function))

    def store(self) -> None:
        """Store the objects built in the first run as fields of the owner.

        Raises:
            OptionError: a field of that name is declared static.
        """
        attributes = self.owner.__dict__
        layout = self.owner._static_part.layout
        names: list[str] = []

        def taken(name: str) -> bool:
            of_class = getattr(type(self.owner), name, None)
            is_method = isinstance(of_class, property) or callable(of_class)
            return name in attributes or is_method

        for subtree in self.subtrees:
            name = unique_name(default_name(subtree), taken)
            if name in layout.declared and not layout.metadata[name].node:
                raise OptionError(
                    f"A compact method of {named(self.owner)} built the object "
                    f"`{name}`, and `{name}` is declared static.",
                    "What compact methods build has parameters, which a static field "
                    "hides.",
                    "Give the object another `name=`, or do not declare the field "
                    "static.",
                )
            attributes[name] = subtree
            names.append(name)
        methods = attributes.get("_compact_methods") or {}
        function = self.functions[0].__qualname__
        attributes["_compact_methods"] = {**methods, function: tuple(names)}
        attributes["_subtrees"] = (*(attributes.get("_subtrees") or ()), *names)
        set_metadata(self.owner, dict.fromkeys(names, _SUBTREE))


CURRENT: ContextVar[CompactRecord | None] = ContextVar("compact_record", default=None)


def in_compact() -> bool:
    """Tell whether objects that are built now become fields of another object."""
    return CURRENT.get() is not None


def compact(f: F) -> F:
    """Let a method build the objects that it uses.

    In the first run they are built and stored as fields. In later runs, the k-th
    constructor call returns the k-th object of the first run.

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
    def run(self: Storage, *args: object, **kwargs: object) -> object:
        outer = CURRENT.get()
        if outer is not None and outer.runs(self, f):
            raise UsageError(
                f"`{f.__qualname__}` was called inside of itself, on the same "
                f"{named(self)}.",
                "What it builds is stored in the order of one run; a run inside of it "
                "has no order of its own.",
                "Build one object for each level, or use `jax.lax.scan`.",
            )
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
            record.store()
        return result

    return run  # type: ignore[return-value]


class Compact:
    """The interface of trees with compact methods."""

    _subtrees: tuple[str, ...] | None = None

    @property
    def first_run(self) -> bool:
        """Whether the running compact method runs for the first time.

        Raises:
            UsageError: no compact method of this object is running.
        """
        record = CURRENT.get()
        if record is None or record.owner is not self:
            raise UsageError(
                f"`first_run` of {named(self)} was read outside of its compact "
                "methods.",
                "Only a compact method has a first run.",
                "Decorate the method with `@tx.compact`, or ask `self.initializing()`.",
            )
        return not record.replays

    def get_field(self, field_name: str, initializer: Callable[[], T]) -> T:
        """Return the value of a declared field; create it if it has no value.

        Args:
            field_name: the name of the field.
            initializer: returns the value, in the first run.

        Raises:
            OptionError: the class does not declare the field.
            UsageError: the field has no value, and this is a later run.
        """
        assert isinstance(self, Storage)
        if field_name not in self._static_part.layout.metadata:
            raise OptionError(
                f"{named(self)} declares no field `{field_name}`.",
                "`get_field` must know whether the value is a node and of which kind.",
                f"Add to the class: `{field_name}: jax.Array = tx.Parameter.node()`.",
            )
        attributes = vars(self)
        if field_name not in attributes:
            if self._subtrees is not None:
                raise UsageError(
                    f"{named(self)} has no value for the field `{field_name}`.",
                    "`get_field` creates values in the first run of a compact method "
                    "only, so that the structure stays the same.",
                    f"Ask for `{field_name}` in every run, or set it in `__init__`.",
                )
            setattr(self, field_name, initializer())
        return attributes[field_name]
