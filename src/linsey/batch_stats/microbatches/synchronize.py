"""Batch norms that see all microbatches, whatever axis their model was built with.

Inside these contexts, layers of linsey (and of Flax, if it is imported) that keep a
running mean and variance combine the microbatches. A call of such a layer is
intercepted, and the name of the axis of microbatches is added to its `axis_name` while
it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar

import jax
from jax import Array

from linsey import linen
from linsey.errors import UnsynchronizedLayerError
from linsey.ops.axes import as_names

STATS = "batch_stats"
T = TypeVar("T")
Arguments = tuple[object, ...]
Method = Callable[..., Array]


class BatchNormLayer(Protocol):
    """The parts of a module of linsey or Flax that are used here."""

    axis_name: object
    path: tuple[str, ...]
    scope: object
    variables: Mapping[str, Mapping[str, object]]

    def apply(
        self, variables: object, *args: object, mutable: list[str], **kwargs: object
    ) -> tuple[Array, Mapping[str, Mapping[str, object]]]:
        """Run the layer on variables."""
        ...

    def clone(self, *, parent: None, axis_name: object) -> BatchNormLayer:
        """Return a copy without a parent and with another `axis_name`."""
        ...

    def has_variable(self, col: str, name: str) -> bool:
        """Tell whether the module has a variable."""
        ...

    def is_mutable_collection(self, col: str) -> bool:
        """Tell whether a collection is mutable."""
        ...

    def put_variable(self, col: str, name: str, value: object) -> None:
        """Set a variable."""


class Context(Protocol):
    """The context that an interceptor receives."""

    @property
    def module(self) -> BatchNormLayer:
        """The module."""
        ...

    @property
    def method_name(self) -> str:
        """The method that is called."""
        ...


Interceptor = Callable[[Method, Arguments, Mapping[str, object], Context], Array]


@contextmanager
def whole_batch(axis: str) -> Iterator[None]:
    """Normalize over all microbatches."""

    def call(
        method: Method, args: Arguments, kwargs: Mapping[str, object], context: Context
    ) -> Array:
        if not _keeps_moments(context):
            return method(*args, **kwargs)
        with _named(context.module, axis):
            return method(*args, **kwargs)

    with _intercepted(call):
        yield


@contextmanager
def pooled_averages(axis: str) -> Iterator[None]:
    """Normalize within microbatches, and update averages by their pooled moments.

    Each layer runs twice: unchanged for its output, and over all microbatches for the
    update of its statistics. Operations that both runs share are compiled only once.
    """
    twins: list[BatchNormLayer] = []  # copies that are running now

    def call(
        method: Method, args: Arguments, kwargs: Mapping[str, object], context: Context
    ) -> Array:
        layer = context.module
        if twins or not _keeps_moments(context):
            return method(*args, **kwargs)
        variables, before = jax.tree.map(lambda x: x, layer.variables), _state(layer)
        output = method(*args, **kwargs)
        after = _state(layer)
        if all(after[name] is value for name, value in before.items()):
            return output  # in evaluation
        # A separate scope, because the layer has used the names in its own scope.
        twin = layer.clone(parent=None, axis_name=_with_axis(layer, axis))
        twins.append(twin)
        collections = [*dict.fromkeys(collection for collection, _ in before)]
        try:
            _, updates = twin.apply(variables, *args, mutable=collections, **kwargs)
        finally:
            twins.pop()
        for collection, name in before:
            layer.put_variable(collection, name, updates[collection][name])
        return output

    with _intercepted(call):
        yield


def _keeps_moments(context: Context) -> bool:
    """Tell whether a call belongs to a layer that updates a mean and a variance.

    Raises:
        UnsynchronizedLayerError: it does, but the layer has no field `axis_name`.
    """
    layer = context.module
    if context.method_name != "__call__" or layer.scope is None:
        return False
    own = all(layer.has_variable(STATS, name) for name in ("mean", "var"))
    if not own or not layer.is_mutable_collection(STATS):
        return False
    if not hasattr(layer, "axis_name"):
        raise UnsynchronizedLayerError("/".join(layer.path), module=layer)
    return True


@contextmanager
def _named(layer: BatchNormLayer, axis: str) -> Iterator[None]:
    """Add a name to the axes of a layer, although its fields are frozen for users."""
    names = layer.axis_name
    object.__setattr__(layer, "axis_name", _with_axis(layer, axis))
    try:
        yield
    finally:
        object.__setattr__(layer, "axis_name", names)


def _with_axis(layer: BatchNormLayer, axis: str) -> object:
    names = layer.axis_name
    return (*as_names(names), axis) if names else axis


State = dict[tuple[str, str], object]


def _state(layer: BatchNormLayer) -> State:
    """Return the layer's own values in mutable collections other than `params`."""
    return {
        (collection, name): value
        for collection, values in layer.variables.items()
        if collection != "params" and layer.is_mutable_collection(collection)
        for name, value in values.items()
        if not isinstance(value, Mapping)
    }


@contextmanager
def _intercepted(interceptor: Interceptor) -> Iterator[None]:
    """Intercept calls of modules of linsey, and of Flax if it is imported."""
    contexts = [linen.intercept_methods]
    flax = getattr(sys.modules.get("flax.linen"), "intercept_methods", None)
    if flax is not None and flax is not linen.intercept_methods:
        contexts.append(flax)
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context(interceptor))
        yield


MODES = {"exact": whole_batch, "ghost": pooled_averages}
