"""The mechanism behind all lifted transforms.

A function of scopes reads and writes variables and draws keys, which no JAX transform
can see. `Lifted` converts it to a pure function of arrays and back:

1. `Lifted(scopes, ...)` takes the variables and keys out of the scopes. Filters sort
   them into groups, one for each way in which the transform treats them;
2. `lifted.plan.pure(fn)` is `fn` as a pure function `(variables, rngs, *args) ->
   (result, variables)`, which runs on fresh scopes at the same paths;
3. `lifted.merge(variables)` writes the resulting variables back into the scopes.

A transform then only has to handle axes. Invariants: collections that no filter selects
are invisible inside; only collections that are mutable outside and selected by an
output filter are mutable inside; counters of random streams continue from their values
outside, so that an identity transform does not change the keys that a function draws.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar

import jax

from linsey.core.filters import ALL, NONE, Filter, Selection, group_collections
from linsey.core.frozen_dict import in_order
from linsey.core.rng import LazyRng
from linsey.core.scope import bind
from linsey.core.state import KEPT, PLACE_READ, Scope

__all__ = ["Lifted", "Plan", "pack"]

T = TypeVar("T")

# Variables or keys that a transform treats alike: {name: tree} for each root scope.
Group = tuple[dict[str, Any], ...]
Groups = tuple[Group, ...]
Filters = Sequence[Filter | Selection]
Path = tuple[str, ...]
Counters = dict[tuple[Path, str], int]


class Lifted:
    """The variables and keys of some scopes, taken out for a transform.

    Args:
        scopes: a pytree of scopes; a scope inside another one is accessed through it.
        inputs: filters of the variables that go in, one for each group.
        outputs: filters of the variables that come out, one for each group.
        rngs: filters of the random streams, one for each group.

    Attributes:
        variables: the variables that go in.
        rngs: the keys that go in.
        plan: how to make the scopes again inside the transform.
    """

    def __init__(
        self, scopes: object, inputs: Filters, outputs: Filters, rngs: Filters = ()
    ):
        flat, tree = jax.tree_util.tree_flatten(scopes)
        self.roots = roots = _outermost(flat)
        self.first: list[Scope] = flat[:1]
        groups = tuple(map(Selection.of, outputs))
        out = reduce(operator.or_, groups, NONE)
        self.plan = Plan(
            Order(tree, tuple(_locate(scope, roots) for scope in flat), len(roots)),
            tuple(
                Root(s.context.selection & out, tuple(s.flags.items())) for s in roots
            ),
            groups,
            [(scope._name, scope._path) for scope in roots],
            [scope.rng_counters for scope in roots],
        )
        self.variables = _sort((scope.nodes() for scope in roots), inputs)
        self.rngs = _sort((scope.rngs for scope in roots), rngs)

    def call(
        self, run: Callable[..., tuple[T, Groups]], /, *args: object, **kwargs: object
    ) -> T:
        """Call a pure function of variables and keys, and merge the new variables."""
        y, variables = run(self.variables, self.rngs, *args, **kwargs)
        self.merge(variables)
        return y

    def merge(self, variables: Groups) -> None:
        """Write variables from the transform back into the scopes they belong to."""
        for group in variables:
            for scope, collections in zip(self.roots, group, strict=True):
                for col, tree in collections.items():
                    for name, value in in_order(tree).items():
                        scope.put_variable(col, name, value)

    def forked_rngs(self) -> Groups:
        """Return keys without a path; those of the first scope are drawn from it now.

        If another scope contains the first one, the draw only advances its counter.
        """
        first = self.first
        streams = {s for group in self.rngs for keys in group for s in keys}
        drawn = {s: f.make_rng(s) for f in first for s in streams if f.has_rng(s)}

        def forked(scope: Scope, keys: Mapping[str, LazyRng]) -> dict[str, LazyRng]:
            if scope in first:
                return {stream: LazyRng(drawn[stream]) for stream in keys}
            return {stream: key.clear_suffix() for stream, key in keys.items()}

        return tuple(tuple(map(forked, self.roots, group)) for group in self.rngs)

    def only_mutable(self, group: Group) -> Group:
        """Return the part of a group of variables that the function may write."""
        return tuple(
            {col: tree for col, tree in collections.items() if col in root.mutable}
            for collections, root in zip(group, self.plan.roots, strict=True)
        )


def update_group(group: Group, written: Group) -> Group:
    """Update a group of variables with the collections that were written."""
    return tuple({**old, **new} for old, new in zip(group, written, strict=True))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Untraced:
    """A leaf that passes a transform as part of the structure, unseen by JAX."""

    value: Any


class Root(NamedTuple):
    """The mutable collections of an outermost scope, and its flags."""

    mutable: Selection
    flags: tuple[tuple[str, object], ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Order:
    """The structure in which scopes were given, and the path to each from its root.

    Values that belong to roots have the same structure. If one scope contains another,
    not every scope has a value: then the values are a list with one entry per root.
    """

    tree: jax.tree_util.PyTreeDef
    ways: tuple[tuple[int, Path], ...]  # index of the root, names below it
    size: int  # the number of roots

    def scopes(self, roots: Sequence[Scope]) -> Any:
        """Return scopes in the structure that was given, over other roots."""
        flat = [reduce(Scope._descend, names, roots[i]) for i, names in self.ways]
        return jax.tree_util.tree_unflatten(self.tree, flat)

    @property
    def _is_one_to_one(self) -> bool:
        return sorted(self.ways) == [(i, ()) for i in range(self.size)]

    def to_scopes(self, values: Sequence[object]) -> Any:
        """Arrange one value per root in the structure of the scopes."""
        if not self._is_one_to_one:
            return list(values)
        return jax.tree_util.tree_unflatten(
            self.tree, [values[i] for i, _ in self.ways]
        )

    def to_roots(self, values: Any) -> tuple[Any, ...]:
        """Invert `to_scopes`."""
        if not self._is_one_to_one:
            return tuple(values)
        in_order = self.tree.flatten_up_to(values)
        return tuple(in_order[self.ways.index((i, ()))] for i in range(self.size))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to make scopes again over other variables: comparable, without arrays.

    Two detached plans are equal if the same function gives the same program for both.
    The paths of the roots may differ, as long as the function does not read them.
    """

    order: Order
    roots: tuple[Root, ...]
    outputs: tuple[Selection, ...]
    # The name and the path of each root, and the counters of its streams.
    paths: list[tuple[str | None, Path]] = dataclasses.field(compare=False)
    counters: list[Counters] = dataclasses.field(compare=False)
    kept: Selection = dataclasses.field(default_factory=KEPT.get)
    # In a detached plan: the counters at the start, and the paths if they matter.
    counts: tuple[frozenset[Any], ...] | None = None
    fixed: tuple[tuple[str | None, Path], ...] | None = None

    def detached(self) -> Plan:
        """Return the plan with counters of its own, usable as a static argument."""
        counts = self.relative_counters()
        paths, own = [(None, path) for _, path in self.paths], [{} for _ in counts]
        plan = dataclasses.replace(self, paths=paths, counters=own, counts=counts)
        plan.update_counters(counts)
        return plan

    def placed(self) -> Plan:
        """Return a detached plan that is equal only to plans for the same paths."""
        PLACE_READ.set(True)  # an enclosing traced program depends on the paths too
        paths = [(path[-1] if path else None, path) for _, path in self.paths]
        return dataclasses.replace(self, paths=paths, fixed=tuple(paths))

    def relative_counters(self) -> tuple[frozenset[Any], ...]:
        """Return the current counters as a value, by paths relative to each root."""
        return tuple(
            frozenset(
                (at[len(path) :], stream, count)
                for (at, stream), count in drawn.items()
                if _starts_with(at, path)
            )
            for (_, path), drawn in zip(self.paths, self.counters, strict=True)
        )

    def update_counters(self, relative: tuple[frozenset[Any], ...]) -> None:
        """Set counters to a result of `relative_counters`, perhaps of an equal plan."""
        rows = zip(self.paths, self.counters, relative, strict=True)
        for (_, path), drawn, counts in rows:
            drawn.update({((*path, *at), stream): n for at, stream, n in counts})

    def pure(self, fn: Callable[..., T]) -> Callable[..., tuple[T, Groups]]:
        """Turn `fn(scopes, ...)` into `(variables, rngs, ...) -> (y, variables)`."""

        def run(
            variables: Groups, rngs: Groups, /, *args: object, **kwargs: object
        ) -> tuple[T, Groups]:
            with contextlib.ExitStack() as stack:
                made = self._make_roots(variables, rngs)
                roots = [stack.enter_context(scope.temporary()) for scope in made]
                y = fn(self.order.scopes(roots), *args, **kwargs)
                return y, _sort((root.mutable_nodes() for root in roots), self.outputs)

        return run

    def _make_roots(
        self, variables: Groups, rngs: Groups, allowed: Selection = ALL
    ) -> Iterator[Scope]:
        for i, root in enumerate(self.roots):
            nodes = {col: tree for group in variables for col, tree in group[i].items()}
            streams = {s: key for group in rngs for s, key in group[i].items()}
            scope = bind(nodes, streams, root.mutable & allowed, dict(root.flags))
            scope._name, scope._path = self.paths[i]
            scope.rng_counters = self.counters[i]
            yield scope


def pack(
    fn: Callable[..., tuple[T, Groups]],
    in_variable_filters: Sequence[Filter],
    out_variable_filters: Sequence[Filter],
    rng_filters: Sequence[Filter],
    name: str | None = None,
    enable_kwargs: bool = False,
) -> Callable[..., T]:
    """Give a function the variables and keys of its scopes, to lift it by hand.

    Args:
        fn: called with `(scope_fn, repack_fn, variables, rngs, *args)`, where
            `variables` and `rngs` hold a tuple for each filter, with a dictionary for
            each scope in it. `scope_fn(variables, rngs, mutable_filter=True)` makes
            scopes that hold them, and `repack_fn(scopes)` sorts the variables that may
            have changed in them. `fn` returns its result and that of `repack_fn`.
        in_variable_filters: filters of the variables that go in, one for each group.
        out_variable_filters: filters of the variables that come out.
        rng_filters: filters of the random streams, one for each group.
        name: has no effect.
        enable_kwargs: has no effect: keyword arguments are passed on.

    Returns:
        A function of a scope, or a pytree of them, and the arguments.

    Example:
        >>> from linsey import core
        >>> def batched(scope_fn, repack_fn, variables, rngs, x):
        ...     def run(x):
        ...         scope = scope_fn(variables, rngs)
        ...         return x * scope.get_variable("params", "w"), repack_fn(scope)
        ...     return jax.vmap(run, out_axes=(0, None))(x)
        >>> scale = pack(batched, ["params"], [], [])
        >>> core.apply(scale)({"params": {"w": 3.0}}, jax.numpy.ones(2)).tolist()
        [3.0, 3.0]
    """

    def packed(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, in_variable_filters, out_variable_filters, rng_filters)
        plan = lifted.plan

        def scope_fn(
            variables: Groups, rngs: Groups, mutable_filter: Filter = True
        ) -> object:
            roots = plan._make_roots(variables, rngs, Selection.of(mutable_filter))
            return plan.order.scopes(tuple(roots))

        def repack_fn(scopes: object) -> Groups:
            roots = _outermost(jax.tree_util.tree_leaves(scopes))
            return _sort((root.mutable_nodes() for root in roots), plan.outputs)

        return lifted.call(partial(fn, scope_fn, repack_fn), *args, **kwargs)

    return packed


def shifted(argnums: int | Iterable[int], by: int) -> tuple[int, ...]:
    """Shift indices of arguments, dropping that of the scope, which is 0."""
    argnums = (argnums,) if isinstance(argnums, int) else argnums
    return tuple(i + by for i in argnums if i >= 1)


def fill_in(
    fn: Callable[..., T],
    argnums: int | Iterable[int],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> tuple[Callable[..., T], list[object], dict[str, object]]:
    """Fill in the constant arguments of `fn(scope, *args, **kwargs)`.

    Args:
        fn: the function.
        argnums: their indices, not counting the scope, or from the end if negative.
        args: all arguments, of which some may be missing or given by keyword.
        kwargs: keyword arguments.

    Returns:
        A function of a scope and the remaining arguments, and the latter.
    """
    fixed = set(jax.tree_util.tree_leaves(argnums))
    if not fixed:
        return fn, list(args), kwargs
    _, *parameters = inspect.signature(fn).parameters.values()
    names = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    count = max(len(names), len(args))
    fixed = {i + count if i < 0 else i for i in fixed}
    given = {name for i, name in enumerate(names) if i in fixed and name in kwargs}
    constants = {name: kwargs.pop(name) for name in given}

    def run(scope: object, *dynamic: object, **kwargs: object) -> T:
        rest = iter(dynamic)
        every = (arg if i in fixed else next(rest) for i, arg in enumerate(args))
        return fn(scope, *every, **kwargs, **constants)

    return run, [arg for i, arg in enumerate(args) if i not in fixed], kwargs


def _sort(of_roots: Iterable[Mapping[str, Any]], filters: Filters) -> Groups:
    """Sort the named collections or streams of each root into groups."""
    rows = [group_collections(named, filters) for named in of_roots]
    return tuple(tuple(row[i] for row in rows) for i in range(len(filters)))


def _outermost(scopes: list[Scope]) -> list[Scope]:
    """Return the scopes that are not inside another one, without duplicates."""
    roots: list[Scope] = []
    for scope in sorted(scopes, key=lambda s: len(s._path)):
        if not any(_is_below(scope, root) for root in roots):
            roots.append(scope)
    return roots


def _locate(scope: Scope, roots: list[Scope]) -> tuple[int, Path]:
    """Return the index of the root of a scope, and the names below that root."""
    i = next(i for i, root in enumerate(roots) if _is_below(scope, root))
    return i, scope._path[len(roots[i]._path) :]


def _is_below(scope: Scope, root: Scope) -> bool:
    return scope.context is root.context and _starts_with(scope._path, root._path)


def _starts_with(path: Path, start: Path) -> bool:
    return path[: len(start)] == start
