"""Functions of a scope as pure functions of variables: `apply`, `init`, `bind`.

Words:

- *variables*: `{collection: tree}`. A *collection* is a named kind of state (`params`,
  `batch_stats`, `cache`, ...); inside it, nested dicts follow the module tree.
- *stream*: a named sequence of random keys.
- `Context`: the state of one `init`, `apply` or `bind`: which collections are mutable,
  the keys, the flags.
- `Scope`: a context and a path, with which a function finds its variables.

Invariants: immutable collections are never copied; of mutable ones only the structure
is copied, once, at the boundary; the result of `apply` shares nothing writable with its
input.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from linsey import _drawing, errors
from linsey.core.filters import *
from linsey.core.filters import DenyList, Filter, Selection
from linsey.core.frozen_dict import FrozenDict, unfreeze
from linsey.core.partial_eval import evaluate_known
from linsey.core.rng import LazyRng, is_rng_key
from linsey.core.state import Flags, Scope
from linsey.core.state import Variable as Variable
from linsey.errors._texts import no_streams
from linsey.typing import Array, PRNGKey, VariableDict

__all__ = ["Array", "DenyList", "Scope", "apply", "bind", "init", "lazy_init"]

T = TypeVar("T")
FrozenVariableDict = FrozenDict
RNGSequences = Mapping[str, PRNGKey | LazyRng]
RNGs = PRNGKey | RNGSequences


def bind(
    variables: VariableDict,
    rngs: RNGs | None = None,
    mutable: Filter | Selection = False,
    flags: Flags | None = None,
) -> Scope:
    """Make a root scope over `variables`.

    The structure of mutable collections is copied; the others are used as they are.

    Raises:
        ApplyScopeInvalidVariablesTypeError: `variables` is not `{collection: tree}`.
        InvalidRngError: `rngs` is neither a JAX key nor a mapping to keys.
    """
    if not _maps_names(variables, lambda tree: isinstance(tree, Mapping)):
        raise errors.ApplyScopeInvalidVariablesTypeError()
    streams = None if rngs is None else _as_streams(rngs)
    selection = Selection.of(mutable)
    owned = {
        col: copy_structure(tree) if col in selection else tree
        for col, tree in variables.items()
    }
    return Scope(owned, rngs=streams, mutable=mutable, flags=flags)


def apply(
    fn: Callable[..., object], mutable: Filter = False, flags: Flags | None = None
) -> Callable[..., Any]:
    """Turn a function of a scope into a pure function of variables.

    Args:
        fn: called as `fn(scope, *args, **kwargs)`.
        mutable: which collections `fn` may write.
        flags: settings readable through the scope.

    Returns:
        A function `(variables, *args, rngs=None, **kwargs)` that returns the result of
        `fn`, together with the mutable collections unless `mutable` is `False`.
    """

    def wrapper(
        variables: VariableDict, *args: Any, rngs: RNGs | None = None, **kwargs: object
    ) -> object:
        match variables:
            case {"params": {"params": _}}:
                raise errors.ApplyScopeInvalidVariablesStructureError(variables)
        root = bind(variables, rngs=rngs, mutable=mutable, flags=flags)
        with root.temporary():
            y = fn(root, *args, **kwargs)
        return y if mutable is False else (y, root.mutable_variables())

    return wrapper


def init(
    fn: Callable[..., T], mutable: Filter = True, flags: Flags | None = None
) -> Callable[..., tuple[T, VariableDict]]:
    """Turn a function of a scope into one that creates its variables.

    Returns:
        A function `(rngs, *args, **kwargs)` that returns `(result, variables)`; a
        single key is that of the `params` stream.
    """
    flags = {**(flags or {}), "initializing": True}

    def wrapper(rngs: RNGs, *args: object, **kwargs: object) -> tuple[T, VariableDict]:
        rngs = _as_streams(rngs, "First argument passed to an init function")
        return apply(fn, mutable=mutable, flags=flags)({}, *args, rngs=rngs, **kwargs)

    return wrapper


def lazy_init(
    fn: Callable[..., object], mutable: Filter = True, flags: Flags | None = None
) -> Callable[..., VariableDict]:
    """Do the same as `init`, also for `ShapeDtypeStruct`s, without a forward pass.

    Raises:
        LazyInitError: the initial value of a variable depends on an abstract argument.
    """

    def wrapper(rngs: RNGs, *args: object, **kwargs: object) -> VariableDict:
        initialise = init(fn, mutable=mutable, flags=flags)
        create = evaluate_known(partial(_drawing.collected, initialise, rngs))
        return create(*args, **kwargs)

    return wrapper


def copy_structure(tree: T) -> T | dict[Any, Any]:
    """Copy nested mappings to dicts with the same leaves."""
    if isinstance(tree, FrozenDict):
        return unfreeze(tree)
    if isinstance(tree, Mapping):
        return {key: copy_structure(value) for key, value in tree.items()}
    return tree


def _as_streams(
    rngs: object, what: str = "The ``rngs`` argument passed to an apply function"
) -> RNGSequences:
    """Return a key for each stream; a single key is that of `params`."""
    if is_rng_key(rngs):
        return {"params": rngs}
    if _maps_names(rngs, lambda key: isinstance(key, LazyRng) or is_rng_key(key)):
        return cast(RNGSequences, rngs)
    raise no_streams(what, rngs)


def _maps_names(mapping: object, is_right: Callable[[object], bool]) -> bool:
    return isinstance(mapping, Mapping) and all(
        isinstance(name, str) and is_right(value) for name, value in mapping.items()
    )
