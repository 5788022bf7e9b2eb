"""Layers that let another layer see its parameters changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from linsey.linen.module import Module
from linsey.linen.transforms import map_variables


def call_with(
    layer: Module,
    change: Callable[[str, Any], Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    mutable: bool,
) -> Any:
    """Calls a layer that sees each of its parameters changed.

    Args:
        layer: the layer.
        change: called with the path of a parameter, such as `Dense_0/kernel`, and its
            value.
        args: arguments of the layer.
        kwargs: keyword arguments of the layer.
        mutable: whether the layer may write its parameters.

    Returns:
        What the layer returns.
    """

    def change_all(variables: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, value: change(_path_of(layer, path), value), variables
        )

    def forward(layer: Any) -> Any:
        return layer(*args, **kwargs)

    initializing = layer.is_initializing()
    mapped = map_variables(
        forward,
        mapped_collections="params",
        trans_in_fn=change_all,
        init=initializing,
        mutable=mutable or initializing,
    )
    return mapped(layer)


def _path_of(layer: Module, path: tuple[Any, ...]) -> str:
    """The name of the layer and of what is in it, joined with `/`."""
    # The first key is the collection.
    return "/".join([str(layer.name), *(str(key.key) for key in path[1:])])
