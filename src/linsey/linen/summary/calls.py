"""Records of the calls in a model, made by tracing `init` without computing anything.

In the records, arrays are replaced by their shapes and dtypes (*abstract* values), so
no traced value outlives the trace.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, TypeVar

import jax
import numpy as np

from linsey._contexts import assigned
from linsey.core.filters import Filter
from linsey.linen.module import InterceptorContext, Module
from linsey.linen.module.base import RNGs
from linsey.linen.module.functional import INTERCEPTORS
from linsey.typing import VariableDict

T = TypeVar("T")
Path = tuple[str, ...]
Args = tuple[object, ...]
Arrays = list[jax.ShapeDtypeStruct]  # or anything with a shape and a dtype
_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a method of a module.

    Attributes:
        path: the names from the outermost module to this one.
        module: an unbound copy of the module.
        method: the name of the method.
        args: its abstract arguments.
        kwargs: its abstract keyword arguments.
        outputs: its abstract result.
        variables: the abstract variables of the module at the end of the call.
    """

    path: Path
    module: Module
    method: str
    args: Args
    kwargs: dict[str, Any]
    outputs: object
    variables: VariableDict


def is_array(value: object) -> TypeGuard[jax.ShapeDtypeStruct]:
    """Return whether a value has a shape and a dtype; Python numbers do not."""
    return isinstance(value, _ARRAYS)


def abstract(tree: T) -> T:
    """Replace the arrays in a tree with `jax.ShapeDtypeStruct`s."""
    return with_arrays(tree, jax.eval_shape(lambda arrays: arrays, arrays_of(tree)))


def arrays_of(tree: object) -> Arrays:
    """Return the leaves that are arrays: the part of a tree that can be traced."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def with_arrays(tree: T, arrays: Arrays) -> T:
    """Return the tree with other arrays in place of its own."""
    others = iter(arrays)
    return jax.tree.map(lambda leaf: next(others) if is_array(leaf) else leaf, tree)


def record_calls(
    module: Module, rngs: RNGs, mutable: Filter, args: Args, kwargs: Mapping[str, Any]
) -> tuple[list[Call], VariableDict]:
    """Trace `module.init` and record the method calls in the order in which they begin.

    Args:
        module: the outermost module.
        rngs: one key or `{stream: key}`; may be abstract, like the other arrays.
        mutable: the collections to create.
        args: arguments of the call.
        kwargs: keyword arguments of `Module.init`.

    Returns:
        The completed calls, and the abstract variables.
    """
    calls: list[Call | None] = []

    def record(
        next_fun: Callable[..., T],
        args: Args,
        kwargs: Mapping[str, object],
        context: InterceptorContext,
    ) -> T:
        name = context.method_name
        if name in ("setup", "<lambda>"):  # the latter is a lifted function
            return next_fun(*args, **kwargs)
        index = len(calls)
        calls.append(None)
        inputs = abstract((args, dict(kwargs)))
        outputs = next_fun(*args, **kwargs)
        path, unbind = context.module.path, Module.unbind  # a field may hide `unbind`
        module, variables = unbind(context.module)
        found = abstract((outputs, variables))
        calls[index] = Call(path, module, name, *inputs, *found)
        return outputs

    inputs = (rngs, args, dict(kwargs))

    def init(arrays: Arrays) -> VariableDict:
        rngs, args, kwargs = with_arrays(inputs, arrays)
        with assigned(INTERCEPTORS, (record, *INTERCEPTORS.get())):
            return module.init(rngs, *args, mutable=mutable, **kwargs)

    variables = jax.eval_shape(init, arrays_of(inputs))
    return [call for call in calls if call is not None], variables


def first_calls(calls: list[Call]) -> list[Call]:
    """Return the first call at each path."""
    found: dict[Path, Call] = {}
    for call in calls:
        found.setdefault(call.path, call)
    return list(found.values())
