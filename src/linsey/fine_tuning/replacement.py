"""Replacement, insertion and removal of layers by path."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self, TypeVar

from linsey.errors import OptionError
from linsey.fine_tuning.adapted import Change, adapt, changes_of, check_unbound
from linsey.fine_tuning.paths import not_found
from linsey.fine_tuning.variables import Rngs, completed, traced
from linsey.linen.module import Module

M = TypeVar("M", bound=Module)


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement(Change):
    """Modules that replace layers, by path."""

    def layer(self, path: str, layer: Module) -> Module:
        """Return the module that replaces the layer, or the layer itself."""
        return self.layers.get(path, layer)


@dataclasses.dataclass(frozen=True, eq=False)
class Insertion(Change):
    """Modules that run on the result of the layer above them, by path."""

    def without(self, paths: Collection[str]) -> Self:
        """Drop insertions below these paths, but keep those at exactly these paths.

        A replacement at such a path runs in place of the inserted module.
        """
        kept = super().without(paths).layers.keys() | set(paths)
        layers = {path: one for path, one in self.layers.items() if path in kept}
        return dataclasses.replace(self, layers=layers)

    def behind(self, path: str) -> Mapping[str, Module]:
        """Return the modules directly below a path."""
        split = [(at.rpartition("/"), layer) for at, layer in self.layers.items()]
        return {name: layer for (above, _, name), layer in split if above == path}


class Identity(Module):
    """The identity, which takes the place of a removed layer."""

    def __call__(self, x: Any, *args: object, **kwargs: object) -> Any:
        """Return `x`."""
        return x


def replace(
    module: M,
    variables: Mapping[str, Any],
    layers: Mapping[str, Module],
    *inputs: object,
    rngs: Rngs,
    **kwargs: object,
) -> tuple[M, dict[str, Any]]:
    """Replace layers of a model, or whole blocks, by other modules.

    The returned model has the same class and fields, and is called as before. A new
    module is called wherever the model calls the old one, with the same arguments, also
    in loops of `nn.scan` and inside `nn.remat` and `nn.jit`. Only the variables of the
    new modules are new; all other arrays are the same.

    Layers are replaced in the calls from any method of the model. A layer that is taken
    out of a bound model and called directly, as in `model.bind(variables).head(x)`, is
    still the old one.

    Args:
        module: the model.
        variables: its variables by collection.
        layers: the new, unbound modules, by the path in the variables of the layer that
            each replaces, such as `"head"` or `"encoder/layer_3/mlp"`.
        *inputs: arguments of `init`, with which the model is traced. They may be
            `jax.ShapeDtypeStruct`s.
        rngs: keys for the initial values of the new modules, as for `init`.
        **kwargs: keyword arguments of `init`, such as `train=False`.

    Returns:
        The changed model, and its variables.

    Raises:
        OptionError: the model calls no layer at a path.
        ShapeError: a remaining layer would need variables of another shape.
        MismatchError: `variables` lack some that the model already needed.
        ArgumentTypeError: the model, or a layer, is not an unbound module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(1000)])
        >>> x, key = jnp.ones((1, 4)), jax.random.key(0)
        >>> variables = model.init(key, x)
        >>> head = {"layers_2": nn.Dense(10)}
        >>> model, variables = replace(model, variables, head, x, rngs=key)
        >>> model.apply(variables, x).shape
        (1, 10)
    """
    check_unbound(module)
    for path, layer in layers.items():
        check_unbound(layer, f'The layer for "{path}"')
    before, _ = traced(module, inputs, kwargs)
    for path in layers:
        if path not in before or not path:
            raise not_found(path, before)
    kept = (change.without(layers) for change in changes_of(module))
    changed = adapt(module, (*kept, Replacement(dict(layers))))
    new = list(layers)
    return changed, completed(changed, variables, new, before, inputs, kwargs, rngs)


def remove(
    module: M,
    variables: Mapping[str, Any],
    paths: str | Sequence[str],
    *inputs: object,
    **kwargs: object,
) -> tuple[M, dict[str, Any]]:
    """Remove layers and their variables from a model.

    In place of a removed layer, its first argument is passed on. The other layers keep
    their names, also in a list in `setup` or in a `Sequential`.

    Args:
        module: the model.
        variables: its variables by collection.
        paths: the path of the layer, or several.
        *inputs: arguments of `init`, as for `replace`.
        **kwargs: keyword arguments of `init`.

    Returns:
        The changed model, and its variables.

    Raises:
        OptionError: the model calls no layer at a path.
        ShapeError: a remaining layer would need variables of another shape.
        MismatchError: `variables` lack some that the model already needed.
        ArgumentTypeError: the model is not an unbound module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model, x = nn.Sequential([nn.Dense(8), nn.LayerNorm()]), jnp.ones((1, 4))
        >>> variables = model.init(jax.random.key(0), x)
        >>> model, variables = remove(model, variables, "layers_1", x)
        >>> list(variables["params"])
        ['layers_0']
    """
    gone = [paths] if isinstance(paths, str) else paths
    layers = {path: Identity() for path in gone}
    return replace(module, variables, layers, *inputs, rngs=None, **kwargs)


def insert(
    module: M,
    variables: Mapping[str, Any],
    layers: Mapping[str, Module],
    *inputs: object,
    rngs: Rngs,
    **kwargs: object,
) -> tuple[M, dict[str, Any]]:
    """Insert layers into a model, each after an existing layer.

    The path of a new layer is the path of the layer that it follows, plus a name: a
    layer at `"stem/norm"` is called with the output of `stem`, and its own output
    becomes the output of `stem`. A layer at a single name, such as `"head"`, follows
    the whole model. All other layers keep their names, also in a list in `setup` or in
    a `Sequential`, so existing weights and paths still fit.

    Args:
        module: the model.
        variables: its variables by collection.
        layers: the new, unbound modules, by their paths.
        *inputs: arguments of `init`, as for `replace`.
        rngs: keys for the initial values of the new modules, as for `init`.
        **kwargs: keyword arguments of `init`.

    Returns:
        The changed model, and its variables.

    Raises:
        OptionError: there is no layer directly above a path that the model calls by
            `__call__`; or the path is already in use.
        ShapeError: a remaining layer would need variables of another shape.
        MismatchError: `variables` lack some that the model already needed.
        ArgumentTypeError: the model, or a layer, is not an unbound module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model, x = nn.Sequential([nn.Dense(8), nn.Dense(2)]), jnp.ones((1, 4))
        >>> key = jax.random.key(0)
        >>> variables, norm = model.init(key, x), {"layers_0/norm": nn.LayerNorm()}
        >>> model, variables = insert(model, variables, norm, x, rngs=key)
        >>> {name: sorted(tree) for name, tree in variables["params"].items()}
        {'layers_0': ['bias', 'kernel', 'norm'], 'layers_1': ['bias', 'kernel']}
    """
    check_unbound(module)
    before, _ = traced(module, inputs, kwargs)
    for path, layer in layers.items():
        check_unbound(layer, f'The layer for "{path}"')
        above, _, name = path.rpartition("/")
        if above not in before or not name:
            raise not_found(path, before)
        names = {name for tree in before[above].variables.values() for name in tree}
        if name in names:
            raise OptionError(
                f'A layer cannot be put in at "{path}".',
                "A layer or a variable has this path already.",
                f'Call it "{path}_1", or change what is there with `replace`.',
            )
    changed = adapt(module, (*changes_of(module), Insertion(dict(layers))))
    new = list(layers)
    return changed, completed(changed, variables, new, before, inputs, kwargs, rngs)
