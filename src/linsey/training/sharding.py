"""States sharded over devices, for models that are larger than one device.

Parameters, optimizer state and moving averages are arrays of the same shapes. If each
device holds a part of each array, as in FSDP or ZeRO, each of n devices needs 1/n of
the memory for a state; a step gathers arrays when it needs them. The axis along which
an array is divided depends only on its shape: the moments of an optimizer are sharded
like their parameter, without any reference to it.

    large array              its longest axis that divides evenly
    box with names           as the model says; see `linsey.linen.with_partitioning`
    running statistics       replicated
    everything else          replicated

Shardings change numbers only by the order of summation: they determine where arrays
are, and the compiler adds the collectives. Alternatives that were not chosen: to gather
all parameters at the beginning of a step, which makes all of them whole at once; and to
flatten arrays into one vector, which can always be divided evenly, but changes the
structure of the state.

References:
    Zhao et al. 2023, https://arxiv.org/abs/2304.11277 (FSDP)
    Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054 (ZeRO)
    Xu et al. 2021, https://arxiv.org/abs/2105.04663 (GSPMD)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any, Protocol, TypeGuard, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from linsey.core.spmd import from_sharding_rules
from linsey.errors.base import OptionError, ShapeError
from linsey.linen.spmd import logical_to_mesh_axes
from linsey.typing import LogicalRules

__all__ = ["shard_state", "state_sharding"]

State = TypeVar("State")
MeshAxes = str | tuple[str, ...]
Path = tuple[object, ...]

MIN_SIZE = 2**14
"""The smallest size, in elements, at which an array is divided: 64 KiB of float32. For
smaller arrays, gathering costs more time than the saved memory is worth."""
FIELDS = ("mean", "var")
STATISTICS = ("batch_stats", *FIELDS)
"""The names of running statistics: a collection of Linen, and fields of treex."""


class Box(Protocol):
    """The box that `with_partitioning` puts around a value, in linsey or in Flax."""

    names: Sequence[Any]

    def get_partition_spec(self) -> PartitionSpec:
        """Return the names as a `PartitionSpec`."""
        ...


def state_sharding(
    state: object,
    mesh: Mesh | AbstractMesh,
    *,
    axis: MeshAxes | None = None,
    min_size: int = MIN_SIZE,
    whole: Collection[str] = STATISTICS,
    rules: LogicalRules | None = None,
) -> Any:
    """Return the sharding of each array of a state that is divided over a mesh.

    Args:
        state: any pytree: a `TrainState` of linsey or Flax, variables, a module or an
            optimizer of treex. It may hold shapes only, as from `jax.eval_shape`.
        mesh: the devices.
        axis: axis of the mesh, or several, over which large arrays are divided.
            Defaults to its first axis, which is the batch axis by convention.
        min_size: the smallest number of elements at which an array is divided, at
            least 1.
        whole: names of collections and arrays that are replicated, unless they are in
            boxes.
        rules: pairs of a name in a box and a mesh axis, or `None` for an axis that is
            not divided. For logical names, this defaults to the rules of the box or the
            current ones.

    Returns:
        A tree like the state, with a `NamedSharding` for each array, which can be
        passed to `jax.device_put` and as `in_shardings` and `out_shardings` to
        `jax.jit`.

    Raises:
        OptionError: the mesh has no such axis.
        ShapeError: the axis that a box names does not divide evenly.

    Example:
        A state that was never whole on any device:

        >>> import jax.numpy as jnp
        >>> mesh = Mesh(jax.devices()[:1], ("data",))
        >>> create = lambda: {"kernel": jnp.ones((128, 256)), "bias": jnp.ones(256)}
        >>> shardings = state_sharding(jax.eval_shape(create), mesh)
        >>> shardings["kernel"].spec, shardings["bias"].spec
        (P(None, 'data'), P())
        >>> state = jax.jit(create, out_shardings=shardings)()
        >>> state["kernel"].sharding.spec
        P(None, 'data')
    """
    axis = mesh.axis_names[0] if axis is None else axis
    rule = _Rule(mesh, axis, min_size, frozenset(whole), rules)
    return jax.tree.map_with_path(rule.sharding, state, is_leaf=_is_box)


def shard_state(
    state: State,
    mesh: Mesh,
    *,
    axis: MeshAxes | None = None,
    min_size: int = MIN_SIZE,
    whole: Collection[str] = STATISTICS,
    rules: LogicalRules | None = None,
) -> State:
    """Shard a state over the devices of a mesh.

    A step keeps the state sharded if it is compiled with the shardings of its result:
    `jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))`.

    A checkpoint of a sharded state is saved like any other, and restored with NumPy
    arrays; then this function shards it again, over any mesh.

    Args:
        state: any pytree of arrays, wherever they are; see `state_sharding`.
        mesh: the devices. If there are several processes, each passes the same state.
        axis: see `state_sharding`.
        min_size: see `state_sharding`.
        whole: see `state_sharding`.
        rules: see `state_sharding`.

    Returns:
        The state, with the same values. Replicated arrays may share memory with the
        given ones: if a step gets one of the two as a donated argument, the other can
        no longer be used.

    Raises:
        OptionError: the mesh has no such axis.
        ShapeError: the axis that a box names does not divide evenly.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from linsey.training.train_state import TrainState
        >>> state = TrainState.create(
        ...     apply_fn=None, params=jnp.ones((128, 256)), tx=optax.adam(0.1)
        ... )
        >>> state = shard_state(state, Mesh(jax.devices()[:1], ("data",)))
        >>> state.params.sharding.spec == state.opt_state[0].mu.sharding.spec
        True
        >>> state.params.sharding.spec
        P(None, 'data')
    """
    shardings = state_sharding(
        state, mesh, axis=axis, min_size=min_size, whole=whole, rules=rules
    )
    return jax.tree.map(_placed, state, shardings)


def _placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Put an array on its devices; with several processes, each puts its own part."""
    is_here = getattr(leaf, "is_fully_addressable", True)
    if sharding.is_fully_addressable or not is_here:
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.prng_key):
        numbers = _placed(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    # `device_put` would first compare the array between all processes.
    array = np.asarray(leaf, jax.typeof(leaf).dtype)
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The rule that maps the axes of arrays to mesh axes."""

    mesh: Mesh | AbstractMesh
    axis: MeshAxes
    min_size: int
    whole: frozenset[str]
    rules: LogicalRules | None

    def __post_init__(self) -> None:
        for name in _names(self.axis):
            if name not in self.mesh.shape:
                raise OptionError(
                    f"The mesh has no axis {name!r}; it has {_listed(self.mesh)}.",
                    "Arrays are divided over axes of the mesh.",
                    f"Pass `axis={self.mesh.axis_names[0]!r}`.",
                )

    def sharding(self, path: Path, leaf: Any) -> Any:
        """Return the sharding of an array; for a box, a box that holds the sharding."""
        if _is_box(leaf):
            box = leaf
            return jax.tree.map_with_path(
                lambda _, value: self._named(path, box, np.shape(value)), box
            )
        is_whole = self._is_whole([_entry_name(entry) for entry in path])
        return self._over(
            PartitionSpec() if is_whole else self._by_shape(np.shape(leaf))
        )

    def _is_whole(self, names: list[str]) -> bool:
        # A layer may be called `mean`; only arrays of that name are statistics.
        collections = self.whole.difference(FIELDS)
        return bool(names) and (
            names[-1] in self.whole or not collections.isdisjoint(names)
        )

    def _over(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def _by_shape(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Divide the longest axis that divides evenly; if tied, the last of them."""
        parts = self._count(self.axis)
        sizes = [size if size % parts == 0 else 0 for size in shape]
        if math.prod(shape) < self.min_size or not any(sizes):
            return PartitionSpec()
        place = max(range(len(sizes)), key=lambda i: (sizes[i], i))
        return PartitionSpec(*[None] * place, self.axis)

    def _named(self, path: Path, box: Box, shape: tuple[int, ...]) -> NamedSharding:
        """Divide the array in a box as the names of the box say."""
        if len(box.names) > len(shape):
            # This is not the parameter but a sum over its axes, kept by an optimizer.
            return self._over(self._by_shape(shape))
        spec: list[object] = []
        for place, part in enumerate(self._spec(path, box)):
            size, count, name = shape[place], self._count(part), box.names[place]
            if size % count and size > 1:
                raise ShapeError(
                    f"`{_text(path)}` has shape {shape}, and axis {place} is divided "
                    f"over {count} devices, by the name {name!r}.",
                    "Each device holds a part of the same size.",
                    f"Make the size a multiple of {count}, or leave the axis whole: "
                    f"`rules=[({name!r}, None)]`.",
                )
            # An axis of size one cannot be divided; optimizers use it as a placeholder.
            spec.append(part if size > 1 and _names(part) else None)
        return self._over(PartitionSpec(*spec))

    def _spec(self, path: Path, box: Box) -> PartitionSpec:
        """Return the mesh axes for the names in a box."""
        if hasattr(box, "rules"):  # the names are logical ones
            rules = box.rules if self.rules is None else self.rules
            spec = logical_to_mesh_axes(tuple(box.names), rules) or PartitionSpec()
        else:
            names = from_sharding_rules(tuple(box.names), self.rules or ())
            spec = PartitionSpec(*names)
        for name in (name for part in spec for name in _names(part)):
            if name not in self.mesh.shape:
                raise OptionError(
                    f"`{_text(path)}` names the mesh axis {name!r}; the mesh has "
                    f"{_listed(self.mesh)}.",
                    "A name stands for an axis of the mesh, or a rule says for which.",
                    f"Pass `rules=[({name!r}, None)]` to leave that axis of the array "
                    "whole, or a mesh that has it.",
                )
        return spec

    def _count(self, part: object) -> int:
        """Return the number of devices over which such an axis is divided."""
        return math.prod(self.mesh.shape[name] for name in _names(part))


def _is_box(leaf: object) -> TypeGuard[Box]:
    return hasattr(leaf, "get_partition_spec") and hasattr(leaf, "names")


def _names(part: object) -> tuple[str, ...]:
    """Return the mesh axes in one entry of a specification."""
    if isinstance(part, tuple | list):
        return tuple(part)
    return (part,) if isinstance(part, str) else ()


def _entry_name(entry: object) -> str:
    return jax.tree_util.keystr((entry,), simple=True)


def _text(path: Path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(mesh: Mesh | AbstractMesh) -> str:
    return ", ".join(map(repr, mesh.axis_names))
