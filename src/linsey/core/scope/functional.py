"""Functions of a scope as pure functions of variables: `apply`, `init`, `bind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from linsey import errors
from linsey.core.filters import Filter, Selection
from linsey.core.frozen_dict import FrozenDict, unfreeze
from linsey.core.rng import LazyRng, is_rng_key
from linsey.core.scope.cursor import Flags, PRNGKey, Scope, VariableDict

__all__ = ["RNGSequences", "apply", "bind", "copy_structure", "init", "lazy_init"]

RNGSequences = dict[str, PRNGKey]


def bind(
    variables: VariableDict,
    rngs: Mapping[str, PRNGKey] | None = None,
    mutable: Filter | Selection = False,
    flags: Flags | None = None,
) -> Scope:
    """A root scope over `variables`.

    Collections that may be written are copied, structure only; the others are used as
    they are.

    Raises:
        ApplyScopeInvalidVariablesTypeError: `variables` is no `{collection: tree}`.
        InvalidRngError: a value of `rngs` is no JAX key.
    """
    if not _maps_names(variables, lambda tree: isinstance(tree, Mapping)):
        raise errors.ApplyScopeInvalidVariablesTypeError()
    if rngs is not None and not _are_rngs(rngs):
        raise errors.InvalidRngError(
            f"`rngs` must map stream names to JAX keys, got {_describe(rngs)}.",
            fix='Pass for example `rngs={"dropout": jax.random.key(0)}`.',
        )
    selection = Selection.of(mutable)
    owned = {
        col: copy_structure(tree) if col in selection else tree
        for col, tree in variables.items()
    }
    return Scope(owned, rngs=rngs, mutable=mutable, flags=flags)


def apply(
    fn: Callable[..., Any], mutable: Filter = False, flags: Flags | None = None
) -> Callable[..., Any]:
    """Makes a function of a scope a pure function of variables.

    Args:
        fn: called as `fn(scope, *args, **kwargs)`.
        mutable: which collections `fn` may write.
        flags: settings readable through the scope.

    Returns:
        A function `(variables, *args, rngs=None, **kwargs)` which returns the result of
        `fn`, and with it the writable collections unless `mutable` is False.
    """

    def wrapper(
        variables: VariableDict,
        *args: Any,
        rngs: PRNGKey | RNGSequences | None = None,
        **kwargs: Any,
    ) -> Any:
        if rngs is not None and not isinstance(rngs, Mapping):
            if not is_rng_key(rngs):
                raise errors.InvalidRngError(
                    "`rngs` must be a JAX key or a mapping of stream names to keys, got"
                    f" {_describe(rngs)}.",
                    fix="Pass for example `rngs=jax.random.key(0)`.",
                )
            rngs = {"params": rngs}
        match variables:
            case {"params": {"params": _, **others}} if not others:
                raise errors.ApplyScopeInvalidVariablesStructureError(variables)
        root = bind(variables, rngs=rngs, mutable=mutable, flags=flags)
        with root.temporary():
            y = fn(root, *args, **kwargs)
        return y if mutable is False else (y, root.mutable_variables())

    return wrapper


def init(
    fn: Callable[..., Any], mutable: Filter = True, flags: Flags | None = None
) -> Callable[..., Any]:
    """Makes a function of a scope one that creates its variables.

    Returns:
        A function `(rngs, *args, **kwargs)` that returns `(result, variables)`; a
        single key is the `params` stream.
    """
    flags = {**(flags or {}), "initializing": True}

    def wrapper(rngs: PRNGKey | RNGSequences, *args: Any, **kwargs: Any) -> Any:
        if not is_rng_key(rngs) and not _are_rngs(rngs):
            raise errors.InvalidRngError(
                "The first argument of `init` must be a JAX key or a mapping of stream"
                f" names to keys, got {_describe(rngs)}.",
                fix="Pass for example `jax.random.key(0)`.",
            )
        return apply(fn, mutable=mutable, flags=flags)({}, *args, rngs=rngs, **kwargs)

    return wrapper


def lazy_init(
    fn: Callable[..., Any], mutable: Filter = True, flags: Flags | None = None
) -> Callable[..., Any]:
    """Like `init`, but arguments may be `ShapeDtypeStruct`s: no forward computation.

    Raises:
        LazyInitError: the initial value of a variable depends on an abstract argument.
    """
    from linsey.core.partial_eval import evaluate_known

    def wrapper(rngs: PRNGKey | RNGSequences, *args: Any, **kwargs: Any) -> Any:
        initialise = init(fn, mutable=mutable, flags=flags)
        create = evaluate_known(lambda *a, **k: initialise(rngs, *a, **k)[1])
        return create(*args, **kwargs)

    return wrapper


def copy_structure(tree: Any) -> Any:
    """Copies nested mappings to dicts; the leaves stay the same objects."""
    if isinstance(tree, FrozenDict):
        return unfreeze(tree)
    if isinstance(tree, Mapping):
        return {key: copy_structure(value) for key, value in tree.items()}
    return tree


def _are_rngs(rngs: Any) -> bool:
    return _maps_names(rngs, lambda key: isinstance(key, LazyRng) or is_rng_key(key))


def _maps_names(mapping: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(mapping, Mapping) and all(
        isinstance(name, str) and is_right(value) for name, value in mapping.items()
    )


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_describe(v)}" for k, v in value.items()) + "}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return repr(value)
