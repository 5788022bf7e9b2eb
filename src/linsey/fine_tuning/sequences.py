"""Layers put into lists of layers, and taken out of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linsey.errors import UnsupportedError
from linsey.fine_tuning.adapted import (
    Args,
    Called,
    Change,
    Kwargs,
    Run,
    adapt,
    changes_of,
    check_module,
)
from linsey.fine_tuning.paths import (
    Path,
    Rename,
    as_path,
    as_text,
    is_within,
    like,
    moved,
    not_found,
    put,
)
from linsey.fine_tuning.replacement import (
    Rngs,
    check_layer,
    check_variables,
    completed,
    trace,
    with_replacement,
)
from linsey.linen.module import Module, intercept_methods
from linsey.linen.module.binding import copy_deep


class Identity(Module):
    """Return the first argument; what stands where a layer was removed."""

    def __call__(self, x: Any, *args: object, **kwargs: object) -> Any:
        """Return `x`."""
        return x


@dataclasses.dataclass(frozen=True)
class ListEdit(Change):
    """A list of layers with one more, or one less.

    Attributes:
        owner: the path of the module that has the list.
        attribute: the name of the list there.
        index: where in the list.
        layer: what is put there; `None`: what is there is taken out.
        in_setup: whether `setup` assigns the list; else it is a field.
    """

    owner: Path
    attribute: str
    index: int
    layer: Module | None
    in_setup: bool

    def edited(self, entries: Sequence[Any]) -> list[Any]:
        """Return the entries of the list after the edit."""
        rest = self.index + (self.layer is None)
        new = [] if self.layer is None else [self.layer]
        return [*entries[: self.index], *new, *entries[rest:]]

    def other(self, path: Path, module: Module) -> Module | None:
        """Return the owner with another list in its field."""
        if self.in_setup or path != self.owner:
            return None
        twin = copy_deep(module, reset_names=True)
        twin.__dict__[self.attribute] = tuple(self.edited(vars(twin)[self.attribute]))
        return twin

    def call(
        self, path: Path, run: Run, args: Args, kwargs: Kwargs, called: Called
    ) -> Any:
        """Assign another list after `setup` has assigned the one that it makes."""
        y = run(*args, **kwargs)
        if self.in_setup and path == self.owner and called.method_name == "setup":
            owner = called.module
            entries = vars(owner)[self.attribute]
            for entry in entries:  # their names are free for others again
                if isinstance(entry, Module):
                    owner._bound.frame.names.pop(entry.name, None)
            copies = [
                copy_deep(entry, reset_names=True)
                if isinstance(entry, Module)
                else entry
                for entry in entries
            ]
            setattr(owner, self.attribute, self.edited(copies))
        return y

    def renamed(self, rename: Rename) -> Change | None:
        """Follow the owner."""
        owner = rename(self.owner)
        return None if owner is None else dataclasses.replace(self, owner=owner)

    def rename(self, path: Path) -> Path | None:
        """Return the path of a layer after the edit, `None` if that took it out."""
        depth = len(self.owner)
        entry = _entry(path[depth]) if len(path) > depth else None
        if not is_within(path, self.owner) or entry is None:
            return path
        attribute, index = entry
        if attribute != self.attribute or index < self.index:
            return path
        if self.layer is None and index == self.index:
            return None
        name = f"{attribute}_{index + (1 if self.layer is not None else -1)}"
        return (*self.owner, name, *path[depth + 1 :])


def insert(
    module: Module,
    variables: Mapping[str, Any],
    path: str | Sequence[str],
    layer: Module,
    *inputs: object,
    rngs: Rngs,
    **kwargs: object,
) -> tuple[Module, Any]:
    """Put a layer into a list of layers: of `Sequential`, of a field, or of `setup`.

    The layers behind it are renumbered, and so are their variables.

    Args:
        module: the model.
        variables: its variables by collection.
        path: the path that the layer will have, `"blocks_2"` or `"stem/layers_0"`:
            before the layer that has it now, or one beyond the last.
        layer: the layer, unbound.
        *inputs: arguments of `module.init`; may be abstract.
        rngs: keys for the initial values of the layer.
        **kwargs: keyword arguments of `init`.

    Returns:
        The model and its variables with the layer.

    Raises:
        OptionError: there is no such list, or it is too short.
        UnsupportedError: the layers of the list are named by themselves, as those of a
            compact method are.
        ShapeError: other layers would need variables of another shape.
        MismatchError: they would need variables that there are not.
        ArgumentTypeError: model or layer is no module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model = nn.Sequential([nn.Dense(8), nn.Dense(2)])
        >>> x, key = jnp.ones((1, 4)), jax.random.key(0)
        >>> model, variables = insert(
        ...     model, model.init(key, x), "layers_1", nn.LayerNorm(), x, rngs=key
        ... )
        >>> {name: sorted(layer) for name, layer in sorted(variables["params"].items())}
        {'layers_0': ['bias', 'kernel'], 'layers_1': ['bias', 'scale'],
         'layers_2': ['bias', 'kernel']}
    """
    check_module(module)
    check_layer(layer)
    names = as_path(path)
    edit, paths = _find_edit(module, names, layer, inputs, kwargs)
    if edit is None:
        if names not in paths:
            raise not_found(as_text(names), paths)
        raise UnsupportedError(
            f'The layer at "{as_text(names)}" is in no list that a layer could be put '
            "into.",
            "The method that calls it says by its source what follows what.",
            "Replace the layer by one that calls both, with `replace`.",
        )
    changed = _edited(module, edit)
    given = moved(variables, edit.owner, edit.rename)
    given = completed(changed, given, names, inputs, rngs, kwargs)
    return changed, like(given, variables)


def remove(
    module: Module,
    variables: Mapping[str, Any],
    path: str | Sequence[str],
    *inputs: object,
    **kwargs: object,
) -> tuple[Module, Any]:
    """Take a layer out of a model, and its variables.

    In a list of layers, of `Sequential`, of a field, or of `setup`, the layers behind
    it are renumbered, and so are their variables. Any other layer is replaced by one
    that returns its first argument.

    Args:
        module: the model.
        variables: its variables by collection.
        path: the path of the layer.
        *inputs: arguments of `module.init`; may be abstract.
        **kwargs: keyword arguments of `init`.

    Returns:
        The model and its variables without the layer.

    Raises:
        OptionError: the model calls no layer at the path.
        ShapeError: other layers would need variables of another shape.
        MismatchError: they would need variables that there are not.
        ArgumentTypeError: the model is no module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model = nn.Sequential([nn.Dense(8), nn.Dense(8), nn.Dense(2)])
        >>> x = jnp.ones((1, 4))
        >>> variables = model.init(jax.random.key(0), x)
        >>> model, variables = remove(model, variables, "layers_1", x)
        >>> {name: layer["kernel"].shape for name, layer in variables["params"].items()}
        {'layers_0': (4, 8), 'layers_1': (8, 2)}
    """
    check_module(module)
    names = as_path(path)
    edit, paths = _find_edit(module, names, None, inputs, kwargs)
    given: Mapping[str, Any] = variables
    if edit is not None:
        changed = _edited(module, edit)
        given = moved(variables, edit.owner, edit.rename)
    elif names in paths:
        changed = with_replacement(module, names, Identity())
        for collection in variables:
            given = put(given, (collection, *names), None)
    else:
        raise not_found(as_text(names), paths)
    check_variables(trace(changed, inputs, kwargs)[1], given)
    return changed, like(given, variables)


def _edited(module: Module, edit: ListEdit) -> Module:
    before = (change.renamed(edit.rename) for change in changes_of(module))
    changes = tuple(change for change in before if change is not None)
    if not changes and not edit.owner and not edit.in_setup:
        plain = edit.other((), module)  # no more than another field
        return module if plain is None else plain
    return adapt(module, (*changes, edit))


def _entry(name: str) -> tuple[str, int] | None:
    """Return the name of a list and an index from the name of a layer in it."""
    found = re.fullmatch(r"(.+)_(\d+)", name)
    return None if found is None else (found[1], int(found[2]))


def _find_edit(
    module: Module,
    path: Path,
    layer: Module | None,
    inputs: tuple[object, ...],
    kwargs: Mapping[str, Any],
) -> tuple[ListEdit | None, list[Path]]:
    """Return the edit of the list that a path leads into, and the paths of layers."""
    *above, name = path
    owner, entry = tuple(above), _entry(name)
    found: list[ListEdit] = []

    def look(
        next_fun: Callable[..., Any], args: Args, kw: Kwargs, called: Called
    ) -> Any:
        y = next_fun(*args, **kw)
        one = called.module
        if entry is not None and one._bound is not None and one.path == owner:
            attribute, index = entry
            entries = vars(one).get(attribute)
            if called.method_name != "setup" and _is_list(one, attribute, entries):
                if index < len(entries) + (layer is not None):
                    in_setup = attribute not in type(one)._init_fields
                    found.append(ListEdit(owner, attribute, index, layer, in_setup))
        return y

    with intercept_methods(look):
        calls, _ = trace(module, inputs, kwargs)
    return (found[0] if found else None), [call.path for call in calls]


def _is_list(owner: Module, attribute: str, entries: object) -> bool:
    """Return whether entries are the layers of a list that their owner numbers."""
    if not isinstance(entries, list | tuple) or not entries:
        return False
    inside = [(i, e) for i, e in enumerate(entries) if isinstance(e, Module)]
    return all(e.parent is owner and e.name == f"{attribute}_{i}" for i, e in inside)
