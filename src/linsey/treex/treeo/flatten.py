"""Taking trees apart and putting them together, by code generated for each layout.

A lean tree, see `storage`, is taken apart without looking at its static attributes. A
full one whose static attributes are the very objects that they were the last time needs
no more than these comparisons. All else goes the long way: it looks for attributes that
are new, and at the contexts.
"""

from __future__ import annotations

import inspect
from operator import itemgetter
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from linsey.errors.treex import StaticTracerError
from linsey.treex.treeo import contexts
from linsey.treex.treeo.contexts import FlattenMode
from linsey.treex.treeo.fields import FieldInfo, TreeField
from linsey.treex.treeo.static import Closed, Layout, Static, Whole
from linsey.treex.treeo.storage import (
    LEAN,
    get_dict,
    may_be_lean,
    set_dict,
    set_static,
)

_UNSEEN = object()

_FLATTEN = """
def flatten(obj, attributes, static):
    if contexts.special == 0 and len(attributes) == {size}:
        try:
            {values} = static.values
            if {same}:
                return children(attributes), static
        except KeyError:  # one attribute went and another came
            pass
    return examine(obj)
"""

_UNFLATTEN_LEAN = """
def unflatten(static, children):
    {names} = children
    obj = new(cls)
    set_dict(obj, {{{items}, "_lean": static}})
    return obj
"""

_UNFLATTEN_FULL = """
def unflatten(static, children):
    attributes = static.attributes.copy()
    {targets} = children
    obj = new(cls)
    set_static(obj, static)
    set_dict(obj, attributes)
    return obj
"""


def prepare(layout: Layout, examine: Any) -> None:
    """Lets the functions of a layout be written when they are first needed."""

    def flatten(obj: Any, attributes: dict[str, Any], static: Static) -> Any:
        generate(layout, examine)
        return layout.flatten(obj, attributes, static)

    def unflatten(static: Static, children: Any) -> Any:
        if layout.unflatten is unflatten:
            generate(layout, examine)
        static.build = layout.unflatten  # it was made before the function was
        return static.build(static, children)

    layout.children = _getter(layout.nodes)
    layout.flatten, layout.unflatten = flatten, unflatten


def _getter(names: tuple[str, ...]) -> Any:
    """A function from attributes to those of some names, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda attributes: tuple([attributes[name] for name in names])


def generate(layout: Layout, examine: Any) -> None:
    """Writes the functions of a layout."""
    nodes, statics = layout.nodes, layout.statics
    values = [f"v{i}" for i in range(len(statics))]
    same = (f"attributes[{n!r}] is {v}" for n, v in zip(statics, values, strict=True))
    source = _FLATTEN.format(
        size=len(nodes) + len(statics),
        values="".join(f"{value}, " for value in values) or "()",
        same=" and ".join(same) or "True",
    )
    if may_be_lean(layout.cls):
        # A static attribute that the class has too would be found there.
        carried = [name for name in statics if _is_on_class(layout.cls, name)]
        items = [f"{name!r}: c{i}" for i, name in enumerate(nodes)]
        items += [f"{name!r}: static.attributes[{name!r}]" for name in carried]
        source += _UNFLATTEN_LEAN.format(
            names="".join(f"c{i}, " for i in range(len(nodes))) or "()",
            items=", ".join(items) or "**{}",
        )
    else:
        source += _UNFLATTEN_FULL.format(
            targets="".join(f"attributes[{name!r}], " for name in nodes) or "()"
        )
    names: dict[str, Any] = {
        "children": layout.children,
        "cls": layout.cls,
        "contexts": contexts,
        "examine": examine,
        "new": object.__new__,
        "set_dict": set_dict,
        "set_static": set_static,
    }
    exec(source, names)
    layout.flatten, layout.unflatten = names["flatten"], names["unflatten"]


def _is_on_class(cls: type, name: str) -> bool:
    found = inspect.getattr_static(cls, name, None)
    return found is not None and not isinstance(found, TreeField)


def register(cls: type, discover: Any) -> None:
    """Makes a class known to JAX.

    Args:
        cls: the class.
        discover: brings the layout of an instance up to date and returns its `Static`.
    """
    new = object.__new__

    def examine(obj: Any) -> tuple[tuple[Any, ...], Any]:
        names, children, structure = take_apart(obj, discover(obj))
        return children, structure

    def flatten(obj: Any) -> tuple[tuple[Any, ...], Any]:
        attributes = get_dict(obj)
        static = attributes.get(LEAN)
        if static is None:
            static = obj._static_part
            return static.layout.flatten(obj, attributes, static)
        if contexts.special:
            return examine(obj)
        return static.children(attributes), static

    def flatten_with_keys(obj: Any) -> tuple[list[Any], Any]:
        names, children, structure = take_apart(obj, discover(obj))
        keys = [GetAttrKey(name) for name in names]
        return list(zip(keys, children, strict=True)), structure

    def unflatten(structure: Any, children: Any) -> Any:
        if contexts.special and contexts.NAMED_LEAVES.get():
            children = [_unnamed(child) for child in children]
        build = structure.build
        if build is not None:
            return build(structure, children)
        if type(structure) is Whole:
            attributes = dict(zip(structure.names, children, strict=True))
        else:
            attributes = dict(structure.attributes)
        obj = new(cls)
        set_static(obj, unseen(structure.layout))
        set_dict(obj, attributes)
        return obj

    cls._examine = staticmethod(examine)  # type: ignore[attr-defined]
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def unseen(layout: Layout) -> Static:
    """A static part that no instance has, so that the next look is a long one."""
    return Static(layout, (_UNSEEN,) * len(layout.statics))


def take_apart(obj: Any, static: Static) -> tuple[tuple[str, ...], Any, Any]:
    """Names, children and structure of an instance, as the contexts want them."""
    layout, attributes = static.layout, obj.__dict__
    mode = contexts.current_mode()
    structure: Any
    if mode is FlattenMode.normal:
        for name, value in static.attributes.items():
            if isinstance(value, jax.core.Tracer):
                raise StaticTracerError(obj, name, value)
        names, structure = layout.nodes, static
    elif mode is FlattenMode.all_fields:
        names = tuple(sorted(attributes))
        structure = Whole(layout, names)
    else:
        names, structure = (), Closed(layout, dict(attributes))
    children = tuple([attributes[name] for name in names])
    if contexts.NAMED_LEAVES.get():
        children = tuple(
            _named(obj, name, child, layout.metadata[name].kind)
            for name, child in zip(names, children, strict=True)
        )
    return names, children, structure


def _is_tree(value: Any) -> bool:
    return hasattr(type(value), "_examine")


def _named(obj: Any, name: str, child: Any, kind: type) -> Any:
    """Names the leaves of a child; trees in it name their own."""

    def name_leaf(leaf: Any) -> Any:
        return leaf if _is_tree(leaf) else FieldInfo(name, leaf, kind, obj)

    return jax.tree.map(name_leaf, child, is_leaf=_is_tree)


def _unnamed(child: Any) -> Any:
    if type(child) is FieldInfo:
        return child.value
    if child is None or isinstance(child, str | int | float | jax.Array):
        return child

    def bare(leaf: Any) -> Any:
        return leaf.value if type(leaf) is FieldInfo else leaf

    return jax.tree.map(bare, child, is_leaf=_is_tree)
