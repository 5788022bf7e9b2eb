"""The names that signatures of linsey use for shapes, dtypes, variables and axes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Optional,
    Protocol,
    TypeGuard,
    TypeVar,
    Union,
)

import jax
import numpy as np
from jax.typing import DTypeLike

if TYPE_CHECKING:
    from linsey.core.frozen_dict import FrozenDict

__all__ = [
    "Array",
    "ArrayPytree",
    "Axes",
    "Axis",
    "AxisName",
    "Collection",
    "ConvGeneralDilatedT",
    "DotGeneralT",
    "Dtype",
    "EinsumT",
    "FrozenDict",
    "FrozenVariableDict",
    "In",
    "InOutAxis",
    "InOutScanAxis",
    "Initializer",
    "Key",
    "LaxPadding",
    "Leaf",
    "LogicalNames",
    "LogicalPartitionSpec",
    "LogicalPartitionSpecPytree",
    "LogicalRules",
    "MutableCollection",
    "MutableVariableDict",
    "Out",
    "PRNGFoldable",
    "PRNGKey",
    "PaddingLike",
    "PartitionSpecPytree",
    "Path",
    "PathParts",
    "PrecisionLike",
    "PromoteDtypeFn",
    "RNGSequences",
    "ScanAxis",
    "Shape",
    "Sharding",
    "VariableDict",
    "is_key_like",
]

T = TypeVar("T")
K = TypeVar("K")
TupleArg = TypeVar("TupleArg", bound=tuple)

# ---------------------------------------------------------------- arrays

Array = Union[jax.Array, Any]  # noqa: UP007 (a value at run time, with Any in it)
PRNGKey = jax.Array
RNGSequences = dict[str, PRNGKey]
Dtype = Union[DTypeLike, np.dtype, Any]  # noqa: UP007
Shape = Sequence[int]
PRNGFoldable = int | str
PrecisionLike = (
    None
    | str
    | jax.lax.Precision
    | tuple[str, str]
    | tuple[jax.lax.Precision, jax.lax.Precision]
)
DotGeneralT = Callable[..., Array]
ConvGeneralDilatedT = Callable[..., Array]
EinsumT = Callable[..., Array]
PaddingLike = str | int | Sequence[int | tuple[int, int]]
LaxPadding = str | Sequence[tuple[int, int]]
Initializer = jax.nn.initializers.Initializer | Callable[..., Any]


class PromoteDtypeFn(Protocol):
    """Brings arrays to one dtype, as `linsey.linen.dtypes.promote_dtype` does."""

    def __call__(
        self, args: TupleArg, /, *, dtype: Any = None, inexact: bool = True
    ) -> TupleArg:
        """Returns the arrays in one dtype.

        Args:
            args: arrays, and None where there is none.
            dtype: the dtype; None for the one that they promote to.
            inexact: whether integers become floating.
        """
        ...


# ---------------------------------------------------------------- variables


class Key(Hashable, Protocol):
    """A key of a dictionary that JAX can sort."""

    def __lt__(self: K, value: K, /) -> bool:
        """Tells whether this key comes first."""
        ...


def is_key_like(x: Any) -> TypeGuard[Key]:
    """Tells whether a value can be a key: it has a hash and an order.

    Example:
        >>> is_key_like("kernel"), is_key_like({})
        (True, False)
    """
    return isinstance(x, Hashable) and hasattr(x, "__lt__")


Path = str
PathParts = tuple[Key, ...]
Leaf = Any
ArrayPytree = Any
Collection = Mapping[str, Any]
MutableCollection = dict[str, Any]
VariableDict = Mapping[str, Collection]
MutableVariableDict = dict[str, MutableCollection]

if TYPE_CHECKING:
    FrozenVariableDict = FrozenDict[str, Collection]


def __getattr__(name: str) -> Any:
    """Finds the names that come from `linsey.core`, which stands above this file."""
    if name not in ("FrozenDict", "FrozenVariableDict"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from linsey.core.frozen_dict import FrozenDict

    return FrozenDict if name == "FrozenDict" else FrozenDict[str, Collection]


# ---------------------------------------------------------------- axes

Axis = Optional[int]  # noqa: UP045 (a value at run time, subscripted below)
Axes = int | Sequence[int]


@dataclass(frozen=True)
class In(Generic[T]):
    """An axis of the values that go into a transform, and of these alone.

    Args:
        axis: the axis, or what stands for none.
    """

    axis: T


@dataclass(frozen=True)
class Out(Generic[T]):
    """An axis of the values that come out of a transform, and of these alone.

    Args:
        axis: the axis, or what stands for none.
    """

    axis: T


InOutAxis = Axis | In[Axis] | Out[Axis]
ScanAxis = int
InOutScanAxis = ScanAxis | In[ScanAxis] | Out[ScanAxis]

AxisName = str | tuple[str, ...] | None
LogicalNames = tuple[str | None, ...]
LogicalRules = Sequence[tuple[str, str | tuple[str, ...] | None]]
# Trees whose leaves are `jax.sharding.PartitionSpec`; no type can say so yet.
LogicalPartitionSpec = Any
LogicalPartitionSpecPytree = Any
PartitionSpecPytree = Any
Sharding = tuple[AxisName, ...]
