"""The variables of a changed model: the old ones, and initial values of new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from linsey.core.meta import unbox
from linsey.errors import MismatchError, OptionError, ShapeError
from linsey.errors.base import named
from linsey.fine_tuning.paths import is_within, text_of
from linsey.linen.module import InterceptorContext, Module, intercept_methods
from linsey.linen.module.functional import CREATED
from linsey.linen.summary.calls import Call, first_calls, record_calls
from linsey.traverse_util import flatten_dict, unflatten_dict
from linsey.typing import VariableDict

Rngs = Any
Calls = dict[str, Call]
Args = tuple[object, ...]
Kwargs = Mapping[str, Any]


def traced(module: Module, inputs: Args, kwargs: Kwargs) -> tuple[Calls, VariableDict]:
    """Trace the `init` of a model.

    Args:
        module: the model.
        inputs: arguments of `init`; may be abstract.
        kwargs: keyword arguments of `init`.

    Returns:
        The first call at each path, in the order in which the calls begin, and the
        abstract variables.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    rngs = {"params": key, "dropout": key}
    calls, variables = record_calls(module, rngs, CREATED, inputs, kwargs)
    return {text_of(call.path): call for call in first_calls(calls)}, variables


def completed(
    changed: Module,
    variables: Mapping[str, Any],
    new: Sequence[str],
    before: Calls,
    inputs: Args,
    kwargs: Kwargs,
    rngs: Rngs,
) -> dict[str, Any]:
    """Return the variables of a changed model.

    Args:
        changed: the changed model.
        variables: the variables before the change, which are kept unless they are new.
        new: paths of the new layers; all variables below them are new.
        before: the calls of the model before the change.
        inputs: arguments of `init`; may be abstract.
        kwargs: keyword arguments of `init`.
        rngs: keys for initial values.

    Raises:
        OptionError: a new layer is not called.
        ShapeError: a kept variable no longer has the required shape.
        MismatchError: a variable that is not new is missing, or had a wrong shape
            before.
    """

    def is_new(key: tuple[str, ...]) -> bool:
        return any(is_within(text_of(key[1:]), path) for path in new)

    with intercept_methods(_noting(new)):
        calls, abstract = traced(changed, inputs, kwargs)
    needed = flatten_dict(abstract)
    given = flatten_dict(variables).items()
    kept = {key: leaf for key, leaf in given if not is_new(key)}
    _check(needed, kept, is_new, new, calls, before)
    missing = [key for key in needed if is_new(key)]
    if missing:
        fresh = flatten_dict(changed.lazy_init(rngs, *inputs, **kwargs))
        kept |= {key: fresh[key] for key in missing}
    return unflatten_dict(kept)


def _noting(new: Sequence[str]) -> Callable[..., Any]:
    """Return an interceptor that adds to an error the layer in which it was raised."""
    noted: list[BaseException] = []

    def note(
        next_fun: Callable[..., Any],
        args: Args,
        kwargs: Kwargs,
        context: InterceptorContext,
    ) -> Any:
        try:
            return next_fun(*args, **kwargs)
        except Exception as error:
            if not noted and context.module._bound is not None:
                noted.append(error)
                at = f'"{text_of(context.module.path)}"'.replace('""', "the model")
                what = f"This was raised in {at}, after a change of {_listed(new)}."
                error.add_note(what)
            raise

    return note


def _check(
    needed: Mapping[tuple[str, ...], Any],
    kept: Mapping[tuple[str, ...], Any],
    is_new: Callable[[tuple[str, ...]], bool],
    new: Sequence[str],
    calls: Calls,
    before: Calls,
) -> None:
    """Compare the variables that a changed model needs with those that are kept.

    Raises:
        OptionError: a new layer is not called.
        ShapeError: a variable does not have the required shape.
        MismatchError: a variable is missing, or had a wrong shape before.
    """
    for path in new:
        if path not in calls:
            raise OptionError(
                f'Nothing calls what is new at "{path}".',
                "A replaced block does not call the layers of the old one, and what "
                "follows a layer is called if `__call__` of that layer is.",
                "Leave this path out, or give one that the changed model calls.",
            )
    order = list(calls)
    broken: list[tuple[int, tuple[str, ...]]] = []
    for key, leaf in needed.items():
        if is_new(key):
            continue
        if key not in kept:
            raise _unfit(key, leaf, "none")
        if _shape(kept[key]) != _shape(leaf):
            owner = text_of(key[1:-1])
            broken.append((order.index(owner) if owner in order else len(order), key))
    if not broken:
        return
    at, key = min(broken)
    above, name = text_of(key[1:-1]), key[-1]
    called = [path for path in new if path in order[:at]]
    cause = max(called or new, key=order.index)
    old = before.get(cause) or before[cause.rpartition("/")[0]]
    if not called or _shapes(old) == _shapes(calls[cause]):
        raise _unfit(key, needed[key], str(_shape(kept[key])))
    raise ShapeError(
        f'{named(calls[cause].module)} at "{cause}" returns {_shapes(calls[cause])}, '
        f'where the model had {_shapes(old)}; "{above}" then needs `{name}` of shape '
        f"{_shape(needed[key])}, and holds {_shape(kept[key])}.",
        "What is not new keeps its variables, which fit what came before.",
        f'Give "{cause}" a layer that returns {_shapes(old)}, or replace "{above}" '
        f'too: `replace(model, variables, {{"{cause}": ..., "{above}": ...}}, ...)`.',
    )


def _unfit(key: tuple[str, ...], needed: object, found: str) -> MismatchError:
    return MismatchError(
        f"The model needs `{text_of(key)}` of shape {_shape(needed)}; the variables "
        f"hold {found}.",
        "Only what is new is initialised; everything else is taken as it is.",
        "Pass all variables of the model, as `init` returned them.",
    )


def _shape(leaf: object) -> tuple[int, ...]:
    return np.shape(unbox(leaf))


def _shapes(call: Call) -> str:
    return str(jax.tree.map(np.shape, call.outputs))


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(f'"{path}"' for path in paths)
