"""Which leaves of a tree belong to which of several optimizers.

A traversal is applied to the parameters themselves, so that its filters see paths and
arrays. Its selection is a list of leaf indices. Gradients, states and labels of these
leaves are found by index if structures agree, otherwise by path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from linsey.errors import GradientStructureError, OptionError
from linsey.traverse_util import Traversal

__all__ = ["gradients_at", "gradients_of", "masked", "select"]


def select(traversals: Sequence[Traversal], params: object) -> list[list[int]]:
    """Return, for each traversal, the indices of the leaves that it selects.

    Raises:
        OptionError: if a traversal selects more than leaves, or two select the same
            leaf.
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    matches: list[list[int]] = [[] for _ in paths]
    for i, traversal in enumerate(traversals):
        # Matched by path and not by structure: a traversal may return plain
        # dictionaries where the parameters have frozen ones.
        marked = jax.tree.leaves_with_path(traversal.update(_mark, params))
        marks = {path: mark for path, mark in marked if isinstance(mark, _Mark)}
        for path, found in zip(paths, matches, strict=True):
            found.extend([i] * marks.pop(path).times if path in marks else [])
        for path in marks:
            raise OptionError(
                f"The traversal of optimizer {i} selects a subtree: "
                f"{jax.tree_util.keystr(path) or 'the whole target'}.",
                "An optimizer keeps one state for each leaf.",
                "Select the leaves in it: `t_identity['encoder'].tree()`.",
            )
    if any(len(found) > 1 for found in matches):
        tree = jax.tree.structure(params).unflatten(matches)
        raise OptionError(
            f"Multiple optimizers match the same leaves: {tree}",
            "The lists hold the numbers of the optimizers that select each leaf; a "
            "leaf has one state.",
            "Let each traversal exclude what another one selects.",
        )
    return [
        [leaf for leaf, found in enumerate(matches) if found == [i]]
        for i in range(len(traversals))
    ]


class _Mark:
    """The replacement for a leaf that a traversal has selected.

    Later filters see the attributes of the leaf, such as its dtype.
    """

    def __init__(self, leaf: object, times: int) -> None:
        self.leaf, self.times = leaf, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.leaf, name)


def _mark(leaf: object) -> object:
    if isinstance(leaf, _Mark):
        return _Mark(leaf.leaf, leaf.times + 1)
    # A value without leaves, such as None or (), has no state and is kept.
    return _Mark(leaf, 1) if jax.tree.leaves(leaf) else leaf


def masked(params: object, tree: object, selected: Sequence[int]) -> object:
    """Return a tree in which all leaves except the selected ones are masked."""
    treedef = jax.tree.structure(params)
    own = set(selected)
    return treedef.unflatten(
        value if leaf in own else optax.MaskedNode()
        for leaf, value in enumerate(treedef.flatten_up_to(tree))
    )


def gradients_of(treedef: jax.tree_util.PyTreeDef, grads: object) -> list[jax.Array]:
    """Return the gradients of the leaves of a tree."""
    try:
        return treedef.flatten_up_to(grads)
    except (ValueError, TypeError) as error:
        raise GradientStructureError(error) from error


def gradients_at(
    selected: Sequence[Sequence[int]], params: object, grads: object
) -> list[tuple[jax.Array, ...]]:
    """Return the gradients of selected leaves; other gradients may be missing."""
    if jax.tree.structure(grads) == jax.tree.structure(params):
        leaves = jax.tree.leaves(grads)
        return [tuple(leaves[leaf] for leaf in numbers) for numbers in selected]
    by_path = dict(jax.tree.leaves_with_path(grads))
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    for path in (paths[leaf] for numbers in selected for leaf in numbers):
        if path not in by_path:
            raise GradientStructureError(
                f"there is no gradient of {jax.tree_util.keystr(path)}."
            )
    return [tuple(by_path[paths[leaf]] for leaf in numbers) for numbers in selected]
