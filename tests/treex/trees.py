"""Trees that the tests of this folder are about."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

import jax

import linsey.treex as tx

Array = Any


class Leaf(tx.Treex):
    """A tree of one parameter and one state."""

    w: Array = tx.Parameter.node()
    n: Array = tx.State.node()

    def __init__(self, w=1.0, n=2, name="leaf"):
        self.w, self.n, self.name = w, n, name


class Pair(tx.Treex):
    """Two trees and a static one."""

    a: Leaf
    b: Leaf = tx.static()
    more: list[Leaf]

    def __init__(self):
        self.a, self.b, self.more = Leaf(), Leaf(), [Leaf(5.0, 6)]


class Annotated(tx.Tree):
    """One field of each annotation."""

    plain: Leaf
    listed: list[Leaf]
    nested: dict[str, list[Leaf]]
    optional: Optional[Leaf]  # noqa: UP045
    either: Leaf | None
    union: Union[int, Leaf]  # noqa: UP007
    many: tuple[Leaf, ...]
    anything: Any
    number: tuple[int, ...]
    word: Literal["a"]


class Outside(tx.Tree):
    """Holds a tree in a field that says nothing of it."""

    child: Any

    def __init__(self, child):
        self.child = child
        self.late = None


def kinds_of(tree):
    with tx.add_field_info():
        return [(leaf.name, leaf.kind) for leaf in jax.tree.leaves(tree)]
