"""Our side: the layers and the arrays that they own, in the order of their calls.

Variables do not show what kind of layer owns them, and they are sorted alphabetically.
The module is therefore run abstractly, and an interceptor observes each call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from linsey.batch_stats.calls import library_of
from linsey.checkpoint import flatten
from linsey.core import meta

ATTENTION = ("MultiHeadDotProductAttention",)
CELLS = {
    "LSTMCell": "ifgo",
    "OptimizedLSTMCell": "ifgo",
    "GRUCell": "rzn",
    "SimpleCell": ("",),
}
"""Recurrent cells and their gates, in PyTorch's order."""
_SIMPLE = ("DenseGeneral", "ConvTranspose", "ConvLocal", "Einsum", "BatchNorm")
KINDS = {*ATTENTION, *CELLS, *_SIMPLE}
LEAVES = ("kernel", "scale", "embedding", "bias", "mean", "var", "updates")

Interceptor = Callable[..., Any]


@dataclass(frozen=True)
class Seen:
    """Information about a module from a call of it.

    Attributes:
        kind: the name of the class, if its layout depends on it.
        contracted: number of axes that a `DenseGeneral` contracts.
        transpose_kernel: the option of `ConvTranspose`.
        batch_norm: momentum, epsilon and `unbiased_variance` of a `BatchNorm`.
        shapes: names and shapes of its own parameters, as the call has them.
    """

    kind: str = ""
    contracted: int = 1
    transpose_kernel: bool = False
    batch_norm: tuple[float | None, float, bool] | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer and the arrays that it owns.

    Attributes:
        path: names joined by `/`. A parameter of a custom module counts as a layer by
            itself, whose path is that of the array.
        seen: information from its call.
        arrays: paths of the arrays with their collections, by the part within the
            layer.
        shapes: shapes of the arrays, by the same part.
    """

    path: str
    seen: Seen
    arrays: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    def stacked_axis(self, local: str) -> int | None:
        """Return the axis along which `nn.scan` or `nn.vmap` stacks an array, if any.

        Args:
            local: the part of the path of the array within the layer.
        """
        within, whole = dict(self.seen.shapes).get(local), self.shapes[local]
        if within is None or len(within) + 1 != len(whole):
            return None
        return next(
            (axis for axis in range(len(whole))
             if whole[:axis] + whole[axis + 1 :] == within),
            None,
        )  # fmt: skip

    @property
    def kind(self) -> str:
        """The name of the class, if the layout depends on it."""
        return self.seen.kind

    @property
    def contracted(self) -> int:
        """The number of axes that a `DenseGeneral` contracts."""
        return self.seen.contracted

    @property
    def transpose_kernel(self) -> bool:
        """The option of `ConvTranspose`."""
        return self.seen.transpose_kernel


def abstract_variables(
    module: Any, inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, Seen]]:
    """Find the shapes and dtypes of the variables, and the layers that own them.

    Args:
        module: a Linen module.
        inputs: inputs of a call; may be abstract.
        kwargs: keyword arguments of the call.

    Returns:
        Shapes and dtypes by path, and information about the modules by path, in the
        order of their calls.
    """

    def make(*inputs: Any) -> Any:
        return module.init(initial_rngs(), *inputs, **kwargs)

    with watching(module) as seen:
        variables = jax.eval_shape(make, *inputs)
    return flatten(meta.unbox(variables)), seen


def initial_rngs() -> dict[str, jax.Array]:
    """Return the random keys for initial values."""
    return {"params": jax.random.key(0), "dropout": jax.random.key(1)}


@contextmanager
def watching(module: object) -> Iterator[dict[str, Seen]]:
    """Record the modules that are called, by path, in the order of first calls."""
    seen: dict[str, Seen] = {}

    def watch(next_fun: Interceptor, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if context.method_name != "setup" and path not in seen:
            seen[path] = _look_at(context.module)
            result = next_fun(*args, **kwargs)
            seen[path] = dataclasses.replace(
                seen[path], shapes=tuple(_shapes_of(context.module))
            )
            return result
        return next_fun(*args, **kwargs)

    with library_of(module).intercept_methods(watch):
        yield seen


def _shapes_of(module: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for collection in ("params", "batch_stats"):
        for name, value in module.variables.get(collection, {}).items():
            if not isinstance(value, Mapping):
                yield name, jnp.shape(meta.unbox(value))


def _look_at(module: Any) -> Seen:
    names = [cls.__name__ for cls in type(module).__mro__]
    kind = next((name for name in names if name in KINDS), "")
    if kind == "DenseGeneral":
        axis = module.axis
        return Seen(kind, len(axis) if isinstance(axis, Sequence) else 1)
    if kind == "BatchNorm":
        unbiased = bool(getattr(module, "unbiased_variance", False))
        return Seen(kind, batch_norm=(module.momentum, module.epsilon, unbiased))
    return Seen(kind, transpose_kernel=bool(getattr(module, "transpose_kernel", False)))


def layers_of(
    shapes: Mapping[str, tuple[int, ...]], seen: Mapping[str, Seen], joined: set[str]
) -> list[Layer]:
    """Group arrays into layers.

    Args:
        shapes: shapes by path of the array, with its collection.
        seen: information about the modules, by path.
        joined: kinds of layers that are treated as one with their inner layers.

    Returns:
        The layers in the order of their first calls.
    """
    members: dict[str, dict[str, str]] = {}
    for path in shapes:
        owner, local = _owner(path.partition("/")[2], seen, joined)
        members.setdefault(owner, {})[local] = path
    order = {path: place for place, path in enumerate(seen)}

    def place(owner: str) -> int:
        # A parameter that is a layer by itself takes the position of its module.
        return order.get(owner, order.get(owner.rpartition("/")[0], len(order)))

    return [
        Layer(
            owner,
            seen.get(owner, Seen()),
            arrays,
            {local: shapes[path] for local, path in arrays.items()},
        )
        for owner, arrays in sorted(members.items(), key=lambda item: place(item[0]))
    ]


def _owner(path: str, seen: Mapping[str, Seen], joined: set[str]) -> tuple[str, str]:
    """Split the path of an array into that of its layer and the rest."""
    parts = path.split("/")
    for size in range(len(parts)):
        owner = "/".join(parts[:size])
        if owner in seen and seen[owner].kind in joined:
            return owner, "/".join(parts[size:])
    if parts[-1] in LEAVES:
        return "/".join(parts[:-1]), parts[-1]
    return path, ""
