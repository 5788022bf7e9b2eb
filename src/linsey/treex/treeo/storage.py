"""Where the attributes of a tree are: all in the object, or the static ones shared.

A tree that JAX puts together is *lean*: its dictionary holds the children and the
`Static` that they came with, and no static attribute. Most such trees are taken apart
again and never looked at. The first look at a static attribute, or at `__dict__`, and
the first change of anything but a child, makes the tree *full*. So a lean tree is known
to have the static attributes of its `Static`, without comparing any.
"""

from __future__ import annotations

from typing import Any

from linsey.treex.treeo.static import Static

LEAN = "_lean"


class Storage:
    """An object with a dictionary, and room for the last static part."""

    __slots__ = ("__dict__", "__weakref__", "_static_part")

    _static_part: Static


# The dictionary itself, and the way around what trees make of attributes.
get_dict: Any = Storage.__dict__["__dict__"].__get__
set_dict: Any = Storage.__dict__["__dict__"].__set__
set_static: Any = Storage.__dict__["_static_part"].__set__


def fill(obj: Any) -> dict[str, Any]:
    """Makes a tree full and returns its dictionary."""
    attributes = get_dict(obj)
    static = attributes.get(LEAN)
    if static is not None:
        # In this order, so that other threads find everything at any time.
        attributes.update(static.attributes)
        set_static(obj, static)
        attributes.pop(LEAN, None)
    return attributes


class SharedStatic(Storage):
    """Storage whose static attributes may still be shared with the structure."""

    __slots__ = ()

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """All attributes; they may be changed here too."""
        return fill(self)

    @__dict__.setter
    def __dict__(self, attributes: dict[str, Any]) -> None:
        fill(self)
        set_dict(self, attributes)

    def __getattr__(self, name: str) -> Any:
        fill(self)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        static = get_dict(self).get(LEAN)
        if static is not None and name not in static.layout.nodes:
            fill(self)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        fill(self)
        object.__delattr__(self, name)


def may_be_lean(cls: type) -> bool:
    """Whether a class leaves access to attributes as it is here."""
    return all(
        getattr(cls, name) is getattr(SharedStatic, name)
        for name in ("__getattr__", "__setattr__", "__delattr__")
    ) and (cls.__getattribute__ is object.__getattribute__)
