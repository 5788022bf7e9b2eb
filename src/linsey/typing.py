"""The names that signatures of linsey use for shapes, dtypes, variables and axes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeGuard, TypeVar

import jax
from jax.lax import Precision
from jax.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    from linsey.core.frozen_dict import FrozenDict as FrozenDict

T = TypeVar("T")
K = TypeVar("K")
P = ParamSpec("P")

_HELPERS = {*globals()}
"""The names defined above, which this module does not export."""

# ---------------------------------------------------------------- arrays

Array = jax.Array | Any
"""A JAX array, or a value that a layer converts to one."""
PRNGKey = jax.Array
"""A random key."""
RNGSequences = dict[str, PRNGKey]
"""A random key for each stream of random numbers, by the name of the stream."""
Dtype = DTypeLike
"""A dtype, or a value that NumPy converts to one."""
Shape = Sequence[int]
"""The size of each axis."""
PRNGFoldable = int | str
"""Data that can be folded into a random key."""
PrecisionLike = None | str | Precision | tuple[str, str] | tuple[Precision, Precision]
"""The precision of products on an accelerator, as in `jax.lax.Precision`."""
DotGeneralT = Callable[..., jax.Array]
"""A function with the arguments of `jax.lax.dot_general`."""
ConvGeneralDilatedT = Callable[..., jax.Array]
"""A function with the arguments of `jax.lax.conv_general_dilated`."""
EinsumT = Callable[..., jax.Array]
"""A function with the arguments of `jax.numpy.einsum`."""
PaddingLike = str | int | Sequence[int | tuple[int, int]]
"""The padding of a convolution: its name, or the sizes at both ends of each axis."""
LaxPadding = str | Sequence[tuple[int, int]]
"""A padding in the form that `jax.lax` takes."""
Initializer = jax.nn.initializers.Initializer | Callable[..., Any]
"""A function `(key, shape, dtype) -> array`."""


class PromoteDtypeFn(Protocol):
    """A function like `linsey.linen.dtypes.promote_dtype`."""

    def __call__(
        self, *args: ArrayLike | None, dtype: Dtype | None = None, inexact: bool = True
    ) -> list[Any]:
        """Return the arrays of a layer in one dtype.

        Args:
            *args: arrays and numbers; `None` is returned unchanged.
            dtype: the dtype. If `None`, the one that all arguments promote to.
            inexact: whether integers are promoted to floating-point numbers.
        """
        ...


# ---------------------------------------------------------------- variables


class Key(Hashable, Protocol):
    """A key of a dictionary that JAX can sort."""

    def __lt__(self: K, value: K, /) -> bool:
        """Return whether this key comes first."""
        ...


def is_key_like(x: object) -> TypeGuard[Key]:
    """Return whether a value can be a key: it has a hash and an order.

    Example:
        >>> is_key_like("kernel"), is_key_like({})
        (True, False)
    """
    return isinstance(x, Hashable) and hasattr(x, "__lt__")


Path = str
"""The keys that lead to a leaf, in one string."""
PathParts = tuple[Key, ...]
"""The keys that lead to a leaf."""
Leaf = Any
"""A value at the end of a path."""
ArrayPytree = Any
"""A pytree of arrays."""
Collection = Mapping[str, Any]
"""A collection of variables, by name, in dictionaries for the modules."""
MutableCollection = dict[str, Any]
"""A collection of variables that may be changed in place."""
VariableDict = Mapping[str, Collection]
"""The collections of variables, by name."""
MutableVariableDict = dict[str, MutableCollection]
"""Collections of variables that may be changed in place."""

if TYPE_CHECKING:
    FrozenVariableDict = FrozenDict[str, Collection]
else:

    def __getattr__(name: str) -> object:
        """Find the names from `linsey.core`, which is one floor above this module."""
        if name not in ("FrozenDict", "FrozenVariableDict"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from linsey.core.frozen_dict import FrozenDict

        return FrozenDict if name == "FrozenDict" else FrozenDict[str, Collection]


# ---------------------------------------------------------------- axes

Axis = int | None
"""An axis, or `None` for no axis."""
Axes = int | Sequence[int]
"""One axis or several."""


@dataclass(frozen=True)
class In(Generic[T]):
    """An axis that only the values going into a transform have.

    Args:
        axis: the axis; `None` if the values have no such axis.
    """

    axis: T


@dataclass(frozen=True)
class Out(Generic[T]):
    """An axis that only the values coming out of a transform have.

    Args:
        axis: the axis; `None` if the values have no such axis.
    """

    axis: T


InOutAxis = Axis | In[Axis] | Out[Axis]
"""An axis of the values that go in and those that come out, or of one of these."""
ScanAxis = int
"""The axis that a loop runs over."""
InOutScanAxis = ScanAxis | In[ScanAxis] | Out[ScanAxis]
"""A `ScanAxis` of the values that go in and those that come out, or of one of these."""

AxisName = str | tuple[str, ...] | None
"""The name of a mesh axis, the names of several, or `None`."""
LogicalNames = tuple[str | None, ...]
"""A name or `None` for each axis of an array."""
LogicalRules = Sequence[tuple[str, str | tuple[str, ...] | None]]
"""For each logical name of an array axis, the mesh axes that it is split over."""
# Python's types cannot express yet what the leaves of a pytree are.
LogicalPartitionSpec = Any
"""A `jax.sharding.PartitionSpec` of logical names."""
LogicalPartitionSpecPytree = Any
"""A pytree of `LogicalPartitionSpec`."""
PartitionSpecPytree = Any
"""A pytree of `jax.sharding.PartitionSpec`."""
Sharding = tuple[AxisName, ...]
"""The names of the mesh axes that each axis of an array is split over."""


def with_signature_of(
    model: Callable[P, object],
) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Declare that a function takes the arguments of another one and passes them on.

    Readers, the documentation and type checkers see the parameters of `model`.

    Example:
        >>> def scaled(x: float, factor: float = 2.0) -> float:
        ...     return factor * x
        >>> @with_signature_of(scaled)
        ... def negated(*args, **kwargs) -> float:
        ...     return -scaled(*args, **kwargs)
        >>> negated(3.0), inspect.signature(negated)
        (-6.0, <Signature (x: 'float', factor: 'float' = 2.0) -> 'float'>)
    """

    def declare(fn: Callable[..., T]) -> Callable[P, T]:
        returned = inspect.signature(fn).return_annotation
        signature = inspect.signature(model).replace(return_annotation=returned)
        vars(fn)["__signature__"] = signature
        return fn

    return declare


if not TYPE_CHECKING:  # type checkers find the names by the same rule
    __all__ = sorted(
        name
        for name in {*globals(), "FrozenDict", "FrozenVariableDict"} - _HELPERS
        if not name.startswith("_")
    )
