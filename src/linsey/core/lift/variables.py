"""Transforms of the variables and keys a function of scopes sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from linsey.core.filters import Filter, subtract_filters
from linsey.core.lift.split import Lifted

__all__ = ["fold_rngs", "map_variables", "swap_collection"]

T = TypeVar("T")
Collections = dict[str, Any]


def map_variables(
    fn: Callable[..., T],
    mapped_collections: Filter,
    map_in_fn: Callable[[Collections], Collections] = lambda x: x,
    map_out_fn: Callable[[Collections], Collections] = lambda x: x,
    init: bool = False,
    mutable: bool = False,
    rngs: Filter = True,
    variables: Filter = True,
) -> Callable[..., T]:
    """Let `fn(scope, *args)` see transformed variables.

    Args:
        fn: the function.
        mapped_collections: the collections that are transformed.
        map_in_fn: maps `{collection: tree}` as stored to what `fn` sees.
        map_out_fn: the inverse, for what `fn` creates or writes.
        init: whether `fn` may create these variables.
        mutable: whether `fn` may write them.
        rngs: streams `fn` may use.
        variables: the other collections it may use.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """
    writes = init or mutable
    seen_as_is = subtract_filters(variables, mapped_collections)
    inputs = (mapped_collections, seen_as_is)
    outputs = (mapped_collections if writes else False, seen_as_is)

    def mapped(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, inputs, outputs, (rngs,))
        stored, others = lifted.variables
        run = lifted.plan.pure(fn)
        if init and not any(tree for col in stored for tree in col.values()):
            _, (created, _) = run(lifted.variables, lifted.rngs, *args, **kwargs)
            stored = tuple(map(map_out_fn, created))
        seen = tuple(map(map_in_fn, stored))
        y, (written, others) = run((seen, others), lifted.rngs, *args, **kwargs)
        if writes:
            written = tuple(map(map_out_fn, written))
        lifted.merge((written, others))
        return y

    return mapped


def swap_collection(fn: Callable[..., T], col_a: str, col_b: str) -> Callable[..., T]:
    """Let `fn` see collection `col_a` as `col_b` and the other way round."""

    def swap(collections: Collections) -> Collections:
        names = {col_a: col_b, col_b: col_a}
        return {names.get(col, col): tree for col, tree in collections.items()}

    return map_variables(fn, (col_a, col_b), swap, swap, mutable=True)


def fold_rngs(
    fn: Callable[..., T], variables: Filter = True, rngs: Filter = True
) -> Callable[..., T]:
    """Run `fn(scope, *args)` on keys drawn once from the streams.

    The hash of the path is folded in at the call; inside, paths are shorter.
    """

    def folded(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        lifted.rngs = lifted.forked_rngs()
        return lifted.call(lifted.plan.pure(fn), *args, **kwargs)

    return folded
