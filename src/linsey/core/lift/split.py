"""The one mechanism under every lifted transform.

A function of scopes reads and writes variables and draws keys: no JAX transform can see
that. `Lifted` makes it a pure function of arrays and back:

1. `Lifted(scopes, ...)` takes the variables and keys out of the scopes, sorted into
   groups by filters, one group for each way the transform treats them;
2. `lifted.plan.pure(fn)` is `fn` as a pure function `(variables, rngs, *args) ->
   (result, variables)`: it runs on fresh scopes that stand at the same places;
3. `lifted.merge(variables)` writes what came out back into the scopes.

A transform is then only its axis logic. Invariants: collections that no filter selects
are invisible inside; only collections that are mutable outside and selected by an
output filter are mutable inside; counters of random streams go on from where they were,
so that a function draws the same keys lifted by an identity as unlifted.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from linsey.core.filters import NONE, Filter, Selection
from linsey.core.rng import LazyRng
from linsey.core.scope import Context, Scope, copy_structure

# One entry for each group; each is a tuple with one {name: tree} for each root scope.
Groups = tuple[tuple[dict[str, Any], ...], ...]


class Lifted:
    """The variables and keys of some scopes, taken out for a transform.

    Args:
        scopes: a pytree of scopes; a scope inside another one is reached through it.
        inputs: filters of the variables that go in, one for each group.
        outputs: filters of the variables that come out, one for each group.
        rngs: filters of the random streams, one for each group.

    Attributes:
        variables: the variables that go in.
        rngs: the keys that go in.
        plan: how to stand the scopes up again.
    """

    def __init__(
        self,
        scopes: Any,
        inputs: Sequence[Filter],
        outputs: Sequence[Filter],
        rngs: Sequence[Filter] = (),
    ):
        flat, tree = jax.tree_util.tree_flatten(scopes)
        self.roots, places = _outermost(flat)
        out = tuple(Selection.of(f) for f in outputs)
        self.plan = Plan(tree, tuple(places), self.roots, out)
        into = [Selection.of(f) for f in inputs]
        streams = [Selection.of(f) for f in rngs]
        self.variables: Groups = _transpose(
            [_sort(_variables(scope), into) for scope in self.roots], len(into)
        )
        self.rngs: Groups = _transpose(
            [_sort(scope.rngs, streams) for scope in self.roots], len(streams)
        )

    def merge(self, variables: Groups) -> None:
        """Writes variables that came out back into the scopes they belong to."""
        for group in variables:
            for scope, collections in zip(self.roots, group, strict=True):
                for col, tree in collections.items():
                    for name, value in tree.items():
                        scope.put_variable(col, name, value)

    def forked_rngs(self) -> Groups:
        """Keys drawn now from the streams that go in, instead of these themselves."""
        return tuple(
            tuple(
                {stream: LazyRng(scope.make_rng(stream)) for stream in keys}
                for scope, keys in zip(self.roots, group, strict=True)
            )
            for group in self.rngs
        )


class Plan:
    """How to stand scopes up again over other variables: no arrays, comparable.

    Two plans are equal if running the same function on them gives the same program.
    """

    def __init__(
        self,
        tree: Any,
        places: tuple[tuple[int, tuple[str, ...]], ...],
        roots: list[Scope],
        outputs: tuple[Selection, ...],
    ):
        allowed = NONE
        for selection in outputs:
            allowed = allowed | selection
        self.tree = tree
        self.places = places
        self.outputs = outputs
        self.roots = [
            (s.name, s.path, s.context.selection & allowed, s.context.flags)
            for s in roots
        ]
        self.counters = [s.rng_counters for s in roots]
        self._key: Any = None

    @property
    def order(self) -> RootOrder:
        """How values of the roots stand in the tree of scopes."""
        return RootOrder(self.tree, self.places, len(self.roots))

    def detached(self) -> Plan:
        """The same plan with counters of its own, usable as a static argument."""
        plan = copy.copy(self)
        plan.counters = copy.deepcopy(self.counters)
        plan._key = (
            self.tree,
            self.places,
            self.outputs,
            tuple((n, p, m, frozenset(f.items())) for n, p, m, f in self.roots),
            tuple(map(_freeze_counters, self.counters)),
        )
        return plan

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._key == other._key

    def pure(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn(scopes, *args)` as `(variables, rngs, *args) -> (result, variables)`."""

        def run(variables: Groups, rngs: Groups, *args: Any, **kwargs: Any) -> Any:
            inner = [self._stand_up(i, variables, rngs) for i in range(len(self.roots))]
            flat = [_at(inner[root], names) for root, names in self.places]
            try:
                y = fn(jax.tree_util.tree_unflatten(self.tree, flat), *args, **kwargs)
                out = [_sort(scope.mutable_nodes(), self.outputs) for scope in inner]
                return y, _transpose(out, len(self.outputs))
            finally:
                for scope in inner:
                    scope.invalidate()

        return run

    def _stand_up(self, i: int, variables: Groups, rngs: Groups) -> Scope:
        name, path, mutable, flags = self.roots[i]
        scope = Scope({}, name=name, path=path)
        streams = {stream: key for group in rngs for stream, key in group[i].items()}
        scope.context = Context(mutable, streams, flags)
        scope.context.bound = []
        scope.rng_counters = self.counters[i]
        scope._nodes = {
            col: copy_structure(tree) if col in mutable else tree
            for group in variables
            for col, tree in group[i].items()
        }
        return scope


@dataclasses.dataclass(frozen=True)
class RootOrder:
    """Values that belong to root scopes, in the structure in which scopes were given.

    If one scope holds another there is no value for each: then they are a list with
    one value for each root.
    """

    tree: Any
    places: tuple[tuple[int, tuple[str, ...]], ...]
    size: int

    @property
    def _is_one_to_one(self) -> bool:
        return sorted(self.places) == [(i, ()) for i in range(self.size)]

    def to_scopes(self, values: Sequence[Any]) -> Any:
        """From one value for each root to the structure of the scopes."""
        if not self._is_one_to_one:
            return list(values)
        in_order = [values[i] for i, _ in self.places]
        return jax.tree_util.tree_unflatten(self.tree, in_order)

    def to_roots(self, values: Any) -> tuple[Any, ...]:
        """The inverse of `to_scopes`."""
        if not self._is_one_to_one:
            return tuple(values)
        of_root = dict(
            zip(
                (i for i, _ in self.places),
                self.tree.flatten_up_to(values),
                strict=True,
            )
        )
        return tuple(of_root[i] for i in range(self.size))


def _freeze_counters(counters: dict[Any, Any]) -> Any:
    return frozenset(
        (k, _freeze_counters(v) if isinstance(v, dict) else v)
        for k, v in counters.items()
    )


def _variables(scope: Scope) -> dict[str, Any]:
    found = {col: scope._node(col) for col in scope._all_collections()}
    return {col: node for col, node in found.items() if node is not None}


def _sort(xs: Any, selections: Sequence[Selection]) -> list[dict[str, Any]]:
    """Sorts entries into groups; the first selection that has a name takes it."""
    groups: list[dict[str, Any]] = [{} for _ in selections]
    for name, x in xs.items():
        for group, selection in zip(groups, selections, strict=True):
            if name in selection:
                group[name] = x
                break
    return groups


def _transpose(rows: list[list[dict[str, Any]]], width: int) -> Groups:
    return tuple(tuple(row[i] for row in rows) for i in range(width))


def _outermost(
    flat: list[Scope],
) -> tuple[list[Scope], list[tuple[int, tuple[str, ...]]]]:
    """The outermost scopes, and for each scope its root and the way down from it."""
    roots: list[Scope] = []
    for scope in sorted(flat, key=lambda s: len(s.path)):
        if not any(_is_below(scope, root) for root in roots):
            roots.append(scope)
    places = []
    for scope in flat:
        i = next(i for i, root in enumerate(roots) if _is_below(scope, root))
        places.append((i, scope.path[len(roots[i].path) :]))
    return roots, places


def _is_below(scope: Scope, root: Scope) -> bool:
    return scope.context is root.context and (scope.path[: len(root.path)] == root.path)


def _at(scope: Scope, names: tuple[str, ...]) -> Scope:
    for name in names:
        scope = scope._descend(name)
    return scope
