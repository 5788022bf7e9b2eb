"""Transforms of the variables and keys a function of scopes sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from linsey.core.filters import Filter, subtract_filters
from linsey.core.lift.split import Lifted


def map_variables(
    fn: Callable[..., Any],
    mapped_collections: Filter,
    map_in_fn: Callable[[Any], Any] = lambda x: x,
    map_out_fn: Callable[[Any], Any] = lambda x: x,
    init: bool = False,
    mutable: bool = False,
    rngs: Filter = True,
    variables: Filter = True,
) -> Callable[..., Any]:
    """Lets `fn(scope, *args)` see transformed variables.

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

    def mapped(scopes: Any, *args: Any, **kwargs: Any) -> Any:
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


def swap_collection(
    fn: Callable[..., Any], col_a: str, col_b: str
) -> Callable[..., Any]:
    """Lets `fn` see collection `col_a` as `col_b` and the other way round."""

    def swap(collections: Any) -> Any:
        names = {col_a: col_b, col_b: col_a}
        return {names.get(col, col): tree for col, tree in collections.items()}

    return map_variables(fn, (col_a, col_b), swap, swap, mutable=True)


def fold_rngs(
    fn: Callable[..., Any], variables: Filter = True, rngs: Filter = True
) -> Callable[..., Any]:
    """Runs `fn(scope, *args)` on keys drawn once from the streams.

    The hash of the path is folded in at the call; inside, paths are shorter.
    """

    def folded(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        lifted.rngs = lifted.forked_rngs()
        return lifted.call(lifted.plan.pure(fn), *args, **kwargs)

    return folded
