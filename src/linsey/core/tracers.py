"""The current JAX trace; a variable must not outlive the trace of its value."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from linsey import errors


@functools.cache
def _trace_state() -> Callable[..., object]:
    # `jax.extend` loads a lot that most programs never use, so the import is deferred.
    from jax.extend.core import get_opaque_trace_state

    return get_opaque_trace_state


def current_trace() -> object:
    """Return an opaque token of the innermost JAX trace, comparable with `==`."""
    return _trace_state()(convention="flax")


def check_trace_level(base_level: object) -> None:
    """Raise `JaxTransformError` unless `base_level` is the current trace."""
    if current_trace() != base_level:
        raise errors.JaxTransformError()


def leaks(base_level: object, value: object) -> bool:
    """Return whether `value` belongs to a trace inside `base_level`.

    Such a value, written for example under a plain `jax.jit` or `jax.vmap` inside a
    module, is invalid as soon as the inner trace ends. A value that the inner trace did
    not touch is allowed.
    """
    now = current_trace()
    if now == base_level:
        return False
    token: Callable[..., object] = type(now)
    # JAX has no public name for the trace of a tracer. Tokens compare weak references.
    return any(
        isinstance(leaf, jax.core.Tracer) and now == token(leaf._trace._weakref)
        for leaf in jax.tree_util.tree_leaves(value)
    )
