"""How functions of scopes run: compiled, recomputed, or on other variables and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax

from linsey.core.filters import Filter, subtract_filters
from linsey.core.lift import split
from linsey.core.lift.split import Groups, Lifted, Plan, Untraced, shifted
from linsey.core.state import PLACE_READ

__all__ = ["checkpoint", "jit", "remat"]
__all__ += ["fold_rngs", "map_variables", "swap_collection"]

T = TypeVar("T")
Collections = dict[str, Any]


def jit(
    fn: Callable[..., T],
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: jax.Device | None = None,
    backend: str | None = None,
) -> Callable[..., T]:
    """Compile `fn(scope, *args)`; calls with an equal plan share the compiled program.

    Keys drawn inside are derived from keys drawn at the call, so they do not depend on
    earlier calls in the process.

    Args:
        fn: the function.
        variables: collections it may use.
        rngs: streams it may use.
        static_argnums: indices of compile-time constant arguments; the scope is 0.
        static_argnames: names of compile-time constant keyword arguments.
        donate_argnums: indices of arguments whose memory may be reused.
        device: see `jax.jit`.
        backend: see `jax.jit`.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """
    # The constants of programs that read a path; each of these is for one path only.
    placed: set[tuple[object, ...]] = set()

    def constants(plan: Plan, args: tuple[object, ...]) -> tuple[object, ...]:
        return (plan, *(args[i] for i in shifted(static_argnums, -1) if i < len(args)))

    def program(
        plan: Plan, variables: Groups, rngs: Groups, *args: object, **kwargs: object
    ) -> tuple[tuple[T, Untraced], Groups]:
        token = PLACE_READ.set(False)
        try:
            y, out = plan.pure(fn)(variables, rngs, *args, **kwargs)
        finally:
            if read := PLACE_READ.get():
                placed.add(constants(plan, args))
            else:
                PLACE_READ.reset(token)
        kept = Untraced((plan.relative_counters(), read and tuple(plan.paths)))
        return (y, kept), out

    program.__name__ = getattr(fn, "__name__", "unnamed_function")
    options: dict[str, Any] = {"device": device, "backend": backend}
    # Argument 0 of `fn` is the scope; here three arguments take its place.
    compiled = jax.jit(
        program,
        static_argnums=(0, *shifted(static_argnums, 2)),
        static_argnames=static_argnames,
        donate_argnums=shifted(donate_argnums, 2),
        **{name: value for name, value in options.items() if value is not None},
    )

    def call(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        lifted.rngs = lifted.forked_rngs()
        plan = lifted.plan.detached()

        def run(*operands: Any, **kwargs: object) -> Any:
            if not placed or constants(plan, args) not in placed:
                result = compiled(plan, *operands, **kwargs)
                if result[0][1].value[1] in (False, tuple(plan.paths)):
                    return result
                # Meanwhile another thread has traced the program for its own paths.
            return compiled(plan.placed(), *operands, **kwargs)

        y, kept = lifted.call(run, *args, **kwargs)
        # As if the function had run now: a cached program was traced long ago.
        lifted.plan.update_counters(kept.value[0])
        return y

    return call


def remat(
    fn: Callable[..., T],
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
) -> Callable[..., T]:
    """Recompute `fn(scope, *args)` in the backward pass instead of keeping its values.

    Args:
        fn: the function.
        variables: collections it may use.
        rngs: streams it may use.
        concrete: no longer used by JAX.
        prevent_cse: see `jax.checkpoint`; use `False` inside `scan`.
        static_argnums: indices of arguments that are constants, not counting the scope;
            they may be given by keyword too.
        policy: which values to keep nevertheless; see `jax.checkpoint`.

    Returns:
        A function `(scope, *args, **kwargs)`.
    """

    def call(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        run, dynamic, kwargs = split.fill_in(fn, static_argnums, args, kwargs)
        options = {"prevent_cse": prevent_cse, "policy": policy}
        recomputed = jax.checkpoint(lifted.plan.pure(run), **options)
        return lifted.call(recomputed, *dynamic, **kwargs)

    return call


checkpoint = remat


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
        map_in_fn: maps the stored `{collection: tree}` to the one that `fn` sees.
        map_out_fn: the inverse, for variables that `fn` creates or writes.
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
            written = split.in_order(tuple(map(map_out_fn, written)))
        lifted.merge((written, others))
        return y

    return mapped


def swap_collection(fn: Callable[..., T], col_a: str, col_b: str) -> Callable[..., T]:
    """Let `fn` see collection `col_a` as `col_b` and vice versa."""

    def swap(collections: Collections) -> Collections:
        names = {col_a: col_b, col_b: col_a}
        return {names.get(col, col): tree for col, tree in collections.items()}

    return map_variables(fn, (col_a, col_b), swap, swap, mutable=True)


def fold_rngs(
    fn: Callable[..., T], variables: Filter = True, rngs: Filter = True
) -> Callable[..., T]:
    """Run `fn(scope, *args)` on keys drawn once from the streams.

    The hash of the path is folded into them at the call; inside, paths are relative.
    """

    def folded(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Lifted(scopes, (variables,), (variables,), (rngs,))
        lifted.rngs = lifted.forked_rngs()
        return lifted.call(lifted.plan.pure(fn), *args, **kwargs)

    return folded
