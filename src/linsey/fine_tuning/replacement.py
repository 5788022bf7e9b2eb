"""Other layers in the place of those of a model, by path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from linsey.errors import ArgumentTypeError, MismatchError, ShapeError
from linsey.fine_tuning.adapted import Change, adapt, changes_of, check_module
from linsey.fine_tuning.paths import (
    Path,
    Rename,
    as_path,
    as_text,
    is_within,
    leaves,
    like,
    not_found,
    put,
)
from linsey.linen.module import Module
from linsey.linen.module.functional import CREATED
from linsey.linen.summary.calls import Call, first_calls, record_calls

Rngs = Any


@dataclasses.dataclass(frozen=True)
class Replacement(Change):
    """Another module in the place of a layer.

    Attributes:
        path: of the layer.
        layer: the module, unbound.
    """

    path: Path
    layer: Module

    def other(self, path: Path, module: Module) -> Module | None:
        """Return the module."""
        return self.layer if path == self.path else None

    def renamed(self, rename: Rename) -> Change | None:
        """Follow the layer."""
        path = rename(self.path)
        return None if path is None else dataclasses.replace(self, path=path)


def replace(
    module: Module,
    variables: Mapping[str, Any],
    path: str | Sequence[str],
    layer: Module,
    *inputs: object,
    rngs: Rngs,
    **kwargs: object,
) -> tuple[Module, Any]:
    """Replace a layer of a model, or a whole block, by another module.

    The module that comes back is of the class of the model and is called as it is; the
    new layer is called where, and as, the model calls the old one, in loops of
    `nn.scan` and inside of `nn.remat` and `nn.jit` too. Of the variables only those
    below the path are new; all others are the same arrays.

    Layers that are called by methods of the model are meant. A bound layer that is
    taken out of a bound model and called by itself, `model.bind(variables).head(x)`, is
    the old one.

    Args:
        module: the model.
        variables: its variables by collection.
        path: the names that lead to the layer, as in the variables: `"head"`,
            `"encoder/layer_3/mlp"`.
        layer: the new layer, unbound.
        *inputs: arguments of `module.init`, with which the model is traced. They may be
            `jax.ShapeDtypeStruct`s.
        rngs: keys for the initial values of the layer, as for `init`.
        **kwargs: keyword arguments of `init`, such as `train=False`.

    Returns:
        The model and its variables with the layer replaced.

    Raises:
        OptionError: the model calls no layer at the path.
        ShapeError: other layers would need variables of another shape.
        MismatchError: they would need variables that there are not.
        ArgumentTypeError: model or layer is no module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(1000)])
        >>> x, key = jnp.ones((1, 4)), jax.random.key(0)
        >>> variables = model.init(key, x)
        >>> model, variables = replace(
        ...     model, variables, "layers_2", nn.Dense(10), x, rngs=key
        ... )
        >>> model.apply(variables, x).shape
        (1, 10)
    """
    check_module(module)
    check_layer(layer)
    names = as_path(path)
    calls = trace(module, inputs, kwargs)[0]
    if not any(call.path == names for call in calls):
        raise not_found(as_text(names), (call.path for call in calls))
    changed = with_replacement(module, names, layer)
    return changed, completed(changed, variables, names, inputs, rngs, kwargs)


def with_replacement(module: Module, path: Path, layer: Module) -> Module:
    """Return a model with another layer; what was changed below the path is gone."""

    def kept(old: Path) -> Path | None:
        return None if is_within(old, path) else old

    before = (change.renamed(kept) for change in changes_of(module))
    changes = tuple(change for change in before if change is not None)
    return adapt(module, (*changes, Replacement(path, layer)))


def check_layer(layer: object) -> None:
    """Refuse what is no unbound module.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not isinstance(layer, Module) or layer._bound is not None:
        found = layer.__name__ if isinstance(layer, type) else type(layer).__name__
        raise ArgumentTypeError(
            f"The new layer is `{found}`, and no unbound module of `linsey.linen`.",
            "It is called in the model, over the variables that it has there.",
            "Pass an instance such as `nn.Dense(10)`; put a function into a module.",
        )


def trace(
    module: Module, inputs: tuple[object, ...], kwargs: Mapping[str, Any]
) -> tuple[list[Call], dict[str, Any]]:
    """Return the first call of each layer, and the abstract variables of a model."""
    keys = jax.eval_shape(lambda: jax.random.key(0))
    rngs = {"params": keys, "dropout": keys}
    calls, variables = record_calls(module, rngs, CREATED, inputs, kwargs)
    return first_calls(calls), dict(variables)


def completed(
    module: Module,
    variables: Mapping[str, Any],
    path: Path,
    inputs: tuple[object, ...],
    rngs: Rngs,
    kwargs: Mapping[str, Any],
) -> Any:
    """Return variables with those below a path initialised, all others as they are.

    Raises:
        ShapeError: one of the others has not the shape that the model needs.
        MismatchError: one of them is missing.
    """
    _, needed = trace(module, inputs, kwargs)
    new = [col for col, tree in needed.items() if _at(tree, path) is not None]
    check_variables(needed, variables, path)
    out: dict[str, Any] = dict(variables)
    for collection in variables:
        out = put(out, (collection, *path), None)
    if new:
        created = initialised(module, inputs, rngs, kwargs)
        for collection in new:
            out = put(out, (collection, *path), _at(created[collection], path))
    return like(out, variables)


def initialised(
    module: Module, inputs: tuple[object, ...], rngs: Rngs, kwargs: Mapping[str, Any]
) -> Any:
    """Initialise a model; inputs may be abstract."""
    is_abstract = (isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(inputs))
    init = module.lazy_init if any(is_abstract) else module.init
    return init(rngs, *inputs, **dict(kwargs))


def _at(tree: object, path: Path) -> object:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def check_variables(
    needed: Mapping[str, Any], given: Mapping[str, Any], path: Path | None = None
) -> None:
    """Compare what a model needs with what there is, except below a path.

    Raises:
        ShapeError: something has another shape than the model needs.
        MismatchError: something is missing.
    """
    found = leaves(given)
    for (collection, *rest), leaf in leaves(needed).items():
        names = tuple(rest)
        if path is not None and is_within(names, path):
            continue
        name, have = f"{collection}/{as_text(names)}", found.get((collection, *names))
        if have is None:
            raise MismatchError(
                f"The model needs `{name}`, of shape {leaf.shape}, and the variables "
                "do not hold it.",
                "Only the variables of a new layer are initialised.",
                "Pass all variables of the model, as `init` returned them.",
            )
        if np.shape(have) != leaf.shape:
            raise ShapeError(
                f"After the change the model needs `{name}` of shape {leaf.shape}; the "
                f"variables hold one of shape {np.shape(have)}.",
                "What comes to this layer has another shape than before.",
                "Change the layers before it so that they return as many features as "
                "they did, or replace the block that holds them and this one.",
            )
