"""Transforms of how modules run: compiled, recomputed, with other variables or keys."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax

from linsey._static import static_key
from linsey.config import config
from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict
from linsey.core.lift import control as core_control
from linsey.core.lift.split import Untraced, shifted
from linsey.core.spmd import get_logical_axis_rules
from linsey.core.state import Scope
from linsey.linen.module.functional import INTERCEPTORS, Capture
from linsey.linen.transforms.lifting import Methods, Run, lift, lifted, map_leaves

__all__ = ["checkpoint", "jit", "remat"]
__all__ += ["add_metadata_axis", "fold_rngs", "map_variables", "named_call"]

Target = TypeVar("Target")


def _jit(
    programs: dict[object, Callable[..., Any]], run: Run, **options: Any
) -> Callable[..., Any]:
    """Apply `core.lift.jit`; equal runs of a function share one of the programs."""
    if run.fn not in programs:
        # The run is an argument between the scopes and the user's arguments.
        options["static_argnums"] = (1, *shifted(options["static_argnums"], 1))
        options["donate_argnums"] = shifted(options["donate_argnums"], 1)
        fn = functools.wraps(run.fn)(functools.partial(_run_and_count))
        programs[run.fn] = core_lift.jit(fn, **options)
    return functools.partial(_call_program, programs[run.fn], run)


@lifted(_jit, "Jit", has_store=True)
def jit(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: jax.Device | None = None,
    backend: str | None = None,
    methods: Methods = None,
) -> Target:
    """Lift `jax.jit`: equal modules share one compiled program.

    Modules are equal if their classes and fields are, whatever their names. A program
    that reads `name` or `path` is not shared with modules of other paths. Unhashable
    fields are compared by content; traced arrays in fields become inputs. Random keys
    are drawn at each call and do not depend on what the process has compiled before.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> variables = nn.jit(nn.Dense)(2).init(jax.random.key(0), jnp.ones((1, 3)))
        >>> sorted(variables["params"])
        ['bias', 'kernel']

    Args:
        target: a module class, or a function of a module.
        variables: collections that may be used inside.
        rngs: streams that may be used inside.
        static_argnums: indices of arguments that are compile-time constants; the module
            is 0.
        static_argnames: names of keyword arguments that are compile-time constants.
        donate_argnums: indices of arguments whose memory may be reused.
        device: see `jax.jit`.
        backend: see `jax.jit`.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return target


_TRACERS = "the traced arrays in fields"  # a keyword that no call uses


def _call_program(
    program: Callable[..., Any],
    run: Run,
    scopes: Sequence[Scope],
    *args: Any,
    **kw: Any,
) -> Any:
    # Interceptors, flags and rules take effect while a program is traced, so they are
    # part of the key. An interceptor without a hash is replaced by its `__call__`
    # method, whose hash uses the identity of the object.
    interceptors = INTERCEPTORS.get()
    keys: list[object] = [i if type(i).__hash__ else i.__call__ for i in interceptors]
    if interceptors and not all(isinstance(i, Capture) for i in interceptors):
        keys += [scope.path for scope in scopes]  # interceptors must see every call
    modules = getattr(run.modules, "value", run.modules)  # usually one module
    rules = get_logical_axis_rules() and static_key(get_logical_axis_rules())
    run.key = (*keys, config._values, rules, static_key(modules))
    # If a field has no hash, this raises an error that names it, also for modules in
    # arguments.
    hash(run.key)
    map_leaves(lambda leaf: isinstance(leaf, Untraced) and hash(leaf), (args, kw))
    if run.tracers:  # the program may outlive the trace to which they belong
        kw[_TRACERS], run.tracers = tuple(run.tracers), ()
    # The name of this module; the program itself is traced under its class name.
    name = scopes[0]._path[-1] if scopes and scopes[0]._path else ""
    with jax.named_scope(name) if name else contextlib.nullcontext():
        y, counts = program(scopes, run, *args, **kw)
    run.counts.update(counts.value)
    return y


def _run_and_count(
    scopes: Sequence[Scope], run: Run, *args: object, **kwargs: object
) -> tuple[Any, Untraced]:
    """Run a call to be compiled; return its counts as part of the output structure."""
    run = dataclasses.replace(run, tracers=cast(Any, kwargs.pop(_TRACERS, ())))
    y = run(scopes, *args, **kwargs)
    return y, Untraced(tuple(run.counts.items()))


def _remat(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Apply `core.lift.remat`, whose indices do not count the scope."""
    argnums = jax.tree_util.tree_leaves(options["static_argnums"])
    options["static_argnums"] = tuple(i - (i > 0) for i in argnums if i)
    return core_lift.remat(fn, **options)


@lifted(_remat, "Checkpoint")
def remat(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
    methods: Methods = None,
) -> Target:
    """Lift `jax.checkpoint`: recompute a module in the backward pass.

    Intermediate values are not kept for the gradient; variables are written only once.

    Args:
        target: a module class, or a function of a module.
        variables: collections that may be used inside.
        rngs: streams that may be used inside.
        concrete: no longer used by JAX.
        prevent_cse: see `jax.checkpoint`; `False` is faster inside `scan`.
        static_argnums: indices of arguments that are constants, whether they are passed
            by position or by keyword; the module is 0, the last argument is -1.
        policy: chooses values to keep nevertheless.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return target


checkpoint = remat


def _map_variables(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    options["map_in_fn"] = options.pop("trans_in_fn")
    options["map_out_fn"] = options.pop("trans_out_fn")
    return core_lift.map_variables(fn, **options)


@lifted(_map_variables, "Map_variables")
def map_variables(
    target: Target,
    mapped_collections: Filter = True,
    trans_in_fn: Callable[[Any], Any] = lambda x: x,
    trans_out_fn: Callable[[Any], Any] = lambda x: x,
    init: bool = False,
    mutable: bool = False,
    rngs: Filter = True,
    variables: Filter = True,
    methods: Methods = None,
) -> Target:
    """Run a module with transformed variables, e.g. tied or normalized weights.

    Args:
        target: a module class, or a function of a module.
        mapped_collections: the collections to transform.
        trans_in_fn: maps `{collection: tree}` as stored to the variables that the
            module sees.
        trans_out_fn: the inverse, for variables that the module creates or writes.
        init: whether the module may create these variables.
        mutable: whether it may write them.
        rngs: streams it may use.
        variables: the other collections it may use.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return target


@lifted(core_lift.fold_rngs, "Fold_rngs")
def fold_rngs(target: Target, variables: Filter = True, rngs: Filter = True) -> Target:
    """Run a module with keys that are drawn from its streams once, at the call."""
    return target


def add_metadata_axis(
    target: Target,
    variable_axes: Mapping[Any, object] = FrozenDict(),
    metadata_params: Mapping[Any, Any] = {},
) -> Target:
    """Add an axis to the metadata of variables, as `vmap` and `scan` do.

    The arrays are not changed: use this with transforms that add the axis by other
    means.

    Args:
        target: a module class, or a function of a module.
        variable_axes: for each filter the index of the new axis.
        metadata_params: passed to `add_axis` of the metadata boxes.

    Returns:
        A class or function like `target`; `target` itself if there are no axes.
    """
    axes = {"variable_axes": variable_axes, "metadata_params": metadata_params}
    transform = functools.partial(core_control.add_metadata_axis, **axes)
    return lift(transform, target, "Map_variables") if variable_axes else target


def named_call(class_fn: Target, force: bool = True) -> Target:
    """Return its target: every method of a module has a profiler name already."""
    del force
    return class_fn
