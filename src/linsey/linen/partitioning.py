"""Names of parameter axes in separate collections, the older way of storing them.

The axis names of a parameter `kernel` in the collection `params` are stored as
`kernel_axes` in `params_axes`; the values are plain arrays. Newer programs put the
names in boxes around the values, using `with_logical_partitioning`.
"""

# ruff: noqa: F403, F405 (programs also look here for the types of `linsey.typing`)

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec

from linsey import struct
from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict, freeze, unfreeze
from linsey.core.lift import remat as core_remat_static
from linsey.core.lift.control import split_in_out
from linsey.core.scope import Variable
from linsey.errors.base import MismatchError, OptionError
from linsey.errors.layers import AxisMetadataTypeError
from linsey.linen import spmd
from linsey.linen.module import Module
from linsey.linen.module.functional import RUNNING
from linsey.linen.spmd import RulesFallback as RulesFallback
from linsey.linen.spmd import logical_to_mesh as logical_to_mesh
from linsey.linen.spmd import logical_to_mesh_axes as logical_to_mesh_axes
from linsey.linen.transforms import map_variables, scan, vmap
from linsey.linen.transforms.lifting import Methods, lifted
from linsey.traverse_util import flatten_dict, unflatten_dict
from linsey.typing import *

T = TypeVar("T")
AxesTree = Any
"""A tuple with the logical names of an array's axes, or a tree of such tuples."""
Target = TypeVar("Target")

ScanIn = In
ScanOut = Out
axis_rules = spmd.logical_axis_rules
get_axis_rules = spmd.get_logical_axis_rules
set_axis_rules = spmd.set_logical_axis_rules
with_sharding_constraint = spmd.with_logical_constraint


@struct.dataclass
class AxisMetadata:
    """The names of the axes of one variable, stored as a value in a collection.

    Args:
        names: a tuple with a logical name for each axis; for a tree of arrays, a tree
            of such tuples.

    Example:
        >>> AxisMetadata(("embed", "mlp")).names
        ('embed', 'mlp')
    """

    names: AxesTree = struct.field(pytree_node=False)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class PartitionedVariable(Variable[T]):
    """A reference to a variable whose value is constrained to a sharding.

    Args:
        scope: the scope that holds the variable.
        collection: its collection.
        name: its name.
        axes: a logical name for each axis. If `None`, the value is not constrained.
        fallback: what to do with names without a rule.
    """

    unbox: bool = dataclasses.field(default=True, init=False)
    axes: AxesTree | None = None
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED

    @property
    def value(self) -> T:
        """The current value, constrained to the sharding."""
        return self._constrained(self.scope.get_variable(self.collection, self.name))

    @value.setter
    def value(self, value: T) -> None:
        value = self._constrained(value)
        self.scope.put_variable(self.collection, self.name, value)

    def _constrained(self, value: T) -> T:
        return with_sharding_constraint(value, self.axes, fallback=self.fallback)


def param_with_axes(
    name: str,
    init_fn: Callable[..., T],
    *init_args: object,
    axes: AxesTree | None = None,
    module: Module | None = None,
    **init_kwargs: Any,
) -> T:
    """Declare a parameter whose axes have names.

    Args:
        name: name of the parameter.
        init_fn: returns the initial value, called as `init_fn(key, *init_args)`.
        *init_args: arguments of `init_fn`.
        axes: a tuple with a logical name for each axis, or a tree of such tuples for a
            tree of arrays. If `None`, the parameter is a plain one.
        module: the module. Defaults to the running module.
        **init_kwargs: keyword arguments of `init_fn`.

    Returns:
        The value, constrained to its sharding if there are rules and a mesh.

    Raises:
        MismatchError: different names are stored already.
        OptionError: no module is running, and none is given.

    Example:
        >>> import jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> class Scale(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         init = nn.initializers.ones
        ...         return x * param_with_axes("scale", init, (3,), axes=("embed",))
        >>> variables = Scale().init(jax.random.key(0), jnp.ones(3))
        >>> variables["params_axes"]["scale_axes"].names
        ('embed',)
    """
    module = _running(module)
    value = module.param(name, init_fn, *init_args, **init_kwargs)
    if axes is None:
        return value
    axes = _store_names(module, "params", name, axes)
    return with_sharding_constraint(value, axes)


def variable_with_axes(
    collection: str,
    name: str,
    init_fn: Callable[..., T],
    *init_args: object,
    axes: AxesTree | None = None,
    module: Module | None = None,
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
    **init_kwargs: Any,
) -> PartitionedVariable[T]:
    """Declare a variable whose axes have names.

    Args:
        collection: the collection.
        name: name of the variable.
        init_fn: returns the initial value, called as `init_fn(*init_args)`.
        *init_args: arguments of `init_fn`.
        axes: a tuple with a logical name for each axis, or a tree of such tuples for a
            tree of arrays. If `None`, the value is not constrained.
        module: the module. Defaults to the running module.
        fallback: what to do with names without a rule.
        **init_kwargs: keyword arguments of `init_fn`.

    Returns:
        A reference to the variable, whose value is constrained to its sharding.

    Raises:
        MismatchError: different names are stored already.
        OptionError: no module is running, and none is given.
    """
    module = _running(module)
    module.variable(collection, name, init_fn, *init_args, **init_kwargs)
    if axes is not None:
        axes = _store_names(module, collection, name, axes)
    scope = module.scope
    assert scope is not None  # otherwise the declaration above would have failed
    return PartitionedVariable(scope, collection, name, axes, fallback)


def _running(module: Module | None) -> Module:
    module = RUNNING.get() if module is None else module
    if module is None:
        raise OptionError(
            "Axis names are declared inside a module's method: no module runs.",
            "The names are stored beside the variable, in the scope of a module.",
            "Call it in `setup` or a compact method, or pass `module=`.",
        )
    return module


def _store_names(module: Module, col: str, name: str, axes: AxesTree) -> AxesTree:
    if isinstance(axes, list) and spmd._is_logical(tuple(axes)):
        axes = tuple(axes)
    place, names = (f"{col}_axes", f"{name}_axes"), AxisMetadata(axes)
    module.sow(*place, names, reduce_fn=_same_names, init_fn=tuple)
    return axes


def _same_names(stored: object, declared: AxisMetadata) -> AxisMetadata:
    if stored == ():
        return declared
    if not isinstance(stored, AxisMetadata):
        raise AxisMetadataTypeError(stored)
    if stored != declared:
        raise MismatchError(
            "If axis names are sown twice, expected them to match. Got "
            f"{stored} and {declared}.",
            "The names belong to the variable, which is the same.",
            "Declare the same `axes` at each place, or initialise the variables again.",
        )
    return declared


def get_axis_names(axes_metadata: Any) -> FrozenDict[str, Any]:
    """Return the axis names stored in a collection such as `params_axes`.

    Args:
        axes_metadata: the collection.

    Returns:
        A tree like that of the variables, with a `PartitionSpec` of logical names for
        each variable.

    Example:
        >>> get_axis_names({"Dense_0": {"bias_axes": AxisMetadata(("mlp",))}})
        FrozenDict({
            Dense_0: {
                bias: P('mlp',),
            },
        })
    """

    def names(box: object) -> Any:
        if not isinstance(box, AxisMetadata):
            raise AxisMetadataTypeError(box)
        return _map_names(lambda names: PartitionSpec(*names), box.names)

    flat = flatten_dict(unfreeze(axes_metadata), sep="/")
    specs = {path.removesuffix("_axes"): names(box) for path, box in flat.items()}
    return freeze(unflatten_dict(specs, sep="/"))


def _with_names(target: Target, axis: int, name: str, collection: str) -> Target:
    """Name the axis that a transform adds to the variables of a collection."""

    def insert(names: list[AxisName]) -> None:
        # Negative axes count from the end of the array with the new axis.
        names.insert(axis if axis >= 0 else len(names) + 1 + axis, name)

    def remove(names: list[AxisName]) -> None:
        del names[axis]

    def change(edit: Callable[[list[AxisName]], None]) -> Callable[[T], T]:
        def edited(given: Iterable[AxisName]) -> tuple[AxisName, ...]:
            names = list(given)
            edit(names)
            return tuple(names)

        def changed(box: object) -> object:
            if not isinstance(box, AxisMetadata):
                return box
            return AxisMetadata(_map_names(edited, box.names))

        return functools.partial(jax.tree.map, changed, is_leaf=_is_box)

    return map_variables(
        target,
        mapped_collections=collection,
        trans_in_fn=change(remove),
        trans_out_fn=change(insert),
        mutable=True,
    )


def _map_names(fn: Callable[[Any], object], axes: AxesTree) -> Any:
    """Apply a function to the names of each array in a tree."""

    def change(names: object) -> object:
        return None if names is None else fn(names)

    return jax.tree.map(change, axes, is_leaf=spmd._is_logical)


def _is_box(x: object) -> bool:
    return isinstance(x, AxisMetadata)


def _lift_with_axes(
    transform: Callable[..., Target],
    variable_axes: Mapping[Any, InOutAxis] | Mapping[Any, InOutScanAxis],
    names: Mapping[str, str],
    names_axis: int | None,
) -> Target:
    """Apply a lifted transform, and name the axis that it adds to some collections."""
    axes, _ = split_in_out(variable_axes)
    names = {col: name for col, name in names.items() if col in axes}
    of_names = {f"{col}_axes": names_axis for col in names}
    lifted = transform(variable_axes={**variable_axes, **of_names})
    for col, name in names.items():
        if axes[col] is not None:
            lifted = _with_names(lifted, axes[col], name, f"{col}_axes")
    return lifted


def scan_with_axes(
    target: Target,
    variable_axes: Mapping[Any, InOutScanAxis] = {},
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Any, bool] = {},
    in_axes: object = 0,
    out_axes: object = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    axis_name: str = "layers",
    axes_collections: tuple[str, ...] = ("params",),
    data_transform: Callable[..., object] | None = None,
    methods: Methods = None,
) -> Target:
    """Lift a scan and name the axis that it adds; see `scan`.

    Args:
        target: a module class, or a function of a module.
        variable_axes: the axis along which collections are stacked.
        variable_broadcast: collections that all steps share.
        variable_carry: collections passed from step to step.
        split_rngs: whether streams differ between steps.
        in_axes: axes of the arguments after the carry.
        out_axes: axes of the results after the carry.
        length: number of steps.
        reverse: whether to go from the last element to the first.
        unroll: number of steps in one iteration of the compiled loop.
        axis_name: the logical name of the new axis.
        axes_collections: the collections whose axes have names.
        data_transform: see `scan`.
        methods: the methods of a class to lift.

    Returns:
        A class or function like `target`.
    """

    def transform(variable_axes: Mapping[Any, InOutScanAxis]) -> Target:
        collections = variable_axes, variable_broadcast, variable_carry, split_rngs
        steps = in_axes, out_axes, length, reverse, unroll, data_transform
        return scan(target, *collections, *steps, methods=methods)

    names = dict.fromkeys(axes_collections, axis_name)
    return _lift_with_axes(transform, variable_axes, names, 0)


def vmap_with_axes(
    target: Target,
    variable_axes: Mapping[Any, InOutAxis],
    split_rngs: Mapping[Any, bool] = {},
    in_axes: object = 0,
    out_axes: object = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    partitioning_axis_names: Mapping[str, str] = {},
    spmd_axis_name: str | None = None,
    methods: Methods = None,
) -> Target:
    """Lift a vmap and name the axis that it adds; see `vmap`.

    Args:
        target: a module class, or a function of a module.
        variable_axes: the axis along which collections are stacked.
        split_rngs: whether streams differ between instances.
        in_axes: axes of the arguments.
        out_axes: axes of the results.
        axis_size: number of instances.
        axis_name: the name for collectives.
        partitioning_axis_names: for each collection, the logical name of the new axis.
        spmd_axis_name: see `jax.vmap`.
        methods: the methods of a class to lift.

    Returns:
        A class or function like `target`.
    """

    def transform(variable_axes: Mapping[Any, InOutAxis]) -> Target:
        instances = in_axes, out_axes, axis_size, axis_name, spmd_axis_name
        return vmap(target, variable_axes, split_rngs, *instances, methods=methods)

    return _lift_with_axes(transform, variable_axes, partitioning_axis_names, None)


@lifted(core_remat_static, "Core_remat_static")
def remat(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
    methods: Methods = None,
) -> Target:
    """Lift `jax.checkpoint` like `linen.remat`, but do not count the module.

    That is, `static_argnums` are indices of the arguments after the module.
    """
    return target
