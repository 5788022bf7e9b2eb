"""Axis names beside parameters: the older way, in collections of their own.

A parameter `kernel` of collection `params` has its names in `params_axes`, as
`kernel_axes`; values are plain arrays. Newer programs put the names around the values,
with `with_logical_partitioning`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from linsey import struct
from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict, freeze, unfreeze
from linsey.core.lift.axes import split_in_out
from linsey.core.scope import Scope, Variable
from linsey.core.spmd import (
    get_logical_axis_rules as get_axis_rules,
)
from linsey.core.spmd import (
    logical_axis_rules as axis_rules,
)
from linsey.core.spmd import (
    set_logical_axis_rules as set_axis_rules,
)
from linsey.errors.sharding import AxisMetadataTypeError, AxisNamesChangedError
from linsey.linen.module import Module
from linsey.linen.module.stack import RUNNING
from linsey.linen.spmd import (
    RulesFallback,
    logical_to_mesh,
    logical_to_mesh_axes,
)
from linsey.linen.spmd import (
    with_logical_constraint as with_sharding_constraint,
)
from linsey.linen.transforms import map_variables, scan, vmap
from linsey.linen.transforms.lifting import lift
from linsey.traverse_util import flatten_dict, unflatten_dict
from linsey.typing import (
    Array,
    ArrayPytree,
    In,
    InOutAxis,
    InOutScanAxis,
    LogicalPartitionSpec,
    LogicalPartitionSpecPytree,
    LogicalRules,
    Out,
    PartitionSpecPytree,
)

__all__ = [
    "Array",
    "ArrayPytree",
    "AxisMetadata",
    "InOutAxis",
    "InOutScanAxis",
    "LogicalPartitionSpec",
    "LogicalPartitionSpecPytree",
    "LogicalRules",
    "PartitionSpecPytree",
    "PartitionedVariable",
    "RulesFallback",
    "ScanIn",
    "ScanOut",
    "axis_rules",
    "core_remat_static",
    "flatten_dict",
    "freeze",
    "get_axis_names",
    "get_axis_rules",
    "logical_to_mesh",
    "logical_to_mesh_axes",
    "param_with_axes",
    "remat",
    "scan_with_axes",
    "set_axis_rules",
    "unflatten_dict",
    "unfreeze",
    "variable_with_axes",
    "vmap_with_axes",
    "with_sharding_constraint",
]

ScanIn = In
ScanOut = Out


@struct.dataclass
class AxisMetadata:
    """The names of the axes of one array, as a value of a collection.

    Args:
        names: a logical name for each axis.

    Example:
        >>> AxisMetadata(("embed", "mlp")).names
        ('embed', 'mlp')
    """

    names: LogicalPartitionSpec = struct.field(pytree_node=False)


class PartitionedVariable(Variable[Any]):
    """A reference to a variable whose value is constrained to a sharding.

    Args:
        scope: the scope that holds the variable.
        collection: its collection.
        name: its name.
        axes: a logical name for each axis, or none.
        fallback: what to do with names without a rule.
    """

    __slots__ = ("axes", "fallback")

    def __init__(
        self,
        scope: Scope,
        collection: str,
        name: str,
        axes: tuple[str, ...] | None = None,
        fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
    ) -> None:
        super().__init__(scope, collection, name)
        self.axes = axes
        self.fallback = fallback

    @property
    def value(self) -> Any:
        """The value now, constrained."""
        return self._constrained(self.scope.get_variable(self.collection, self.name))

    @value.setter
    def value(self, value: Any) -> None:
        value = self._constrained(value)
        self.scope.put_variable(self.collection, self.name, value)

    def _constrained(self, value: Any) -> Any:
        if self.axes is None:
            return value
        names = PartitionSpec(*self.axes)
        return with_sharding_constraint(value, names, fallback=self.fallback)


def param_with_axes(
    name: str,
    init_fn: Callable[..., Any],
    *init_args: Any,
    axes: tuple[str, ...] | None = None,
    module: Module | None = None,
    **init_kwargs: Any,
) -> Any:
    """Declares a parameter whose axes have names.

    Args:
        name: name of the parameter.
        init_fn: makes the initial value, called as `init_fn(key, *init_args)`.
        *init_args: arguments of `init_fn`.
        axes: a logical name for each axis; none for a plain parameter.
        module: the module; none means the one that runs.
        **init_kwargs: keyword arguments of `init_fn`.

    Returns:
        The value, constrained to its sharding where there are rules and a mesh.

    Raises:
        AxisNamesChangedError: other names are stored.

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
    value: Any = module.param(name, init_fn, *init_args, **init_kwargs)
    if axes is None:
        return value
    _store_names(module, "params", name, axes)
    return with_sharding_constraint(value, PartitionSpec(*axes))


def variable_with_axes(
    collection: str,
    name: str,
    init_fn: Callable[..., Any],
    *init_args: Any,
    axes: tuple[str, ...] | None = None,
    module: Module | None = None,
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
    **init_kwargs: Any,
) -> PartitionedVariable:
    """Declares a variable whose axes have names.

    Args:
        collection: the collection.
        name: name of the variable.
        init_fn: makes the initial value, called as `init_fn(*init_args)`.
        *init_args: arguments of `init_fn`.
        axes: a logical name for each axis, or none.
        module: the module; none means the one that runs.
        fallback: what to do with names without a rule.
        **init_kwargs: keyword arguments of `init_fn`.

    Returns:
        A reference to the variable, whose value is constrained to its sharding.

    Raises:
        AxisNamesChangedError: other names are stored.
    """
    module = _running(module)
    module.variable(collection, name, init_fn, *init_args, **init_kwargs)
    if axes is not None:
        _store_names(module, collection, name, axes)
    scope: Any = module.scope
    return PartitionedVariable(scope, collection, name, axes, fallback)


def _running(module: Module | None) -> Module:
    module = RUNNING.get() if module is None else module
    assert module is not None, "Axis names are declared inside a module's method."
    return module


def _store_names(module: Module, col: str, name: str, axes: Sequence[Any]) -> None:
    module.sow(
        f"{col}_axes",
        f"{name}_axes",
        AxisMetadata(tuple(axes)),
        reduce_fn=_same_names,
        init_fn=tuple,
    )


def _same_names(stored: Any, declared: AxisMetadata) -> AxisMetadata:
    if stored == ():
        return declared
    if not isinstance(stored, AxisMetadata):
        raise AxisMetadataTypeError(stored)
    if stored != declared:
        raise AxisNamesChangedError(stored, declared)
    return declared


def get_axis_names(axes_metadata: Any) -> FrozenDict[str, Any]:
    """Takes the axis names out of a collection such as `params_axes`.

    Args:
        axes_metadata: the collection.

    Returns:
        A tree like that of the variables, with a specification of logical names for
        each.

    Example:
        >>> get_axis_names({"Dense_0": {"bias_axes": AxisMetadata(("mlp",))}})
        FrozenDict({
            Dense_0: {
                bias: P('mlp',),
            },
        })
    """

    def names(box: Any) -> PartitionSpec:
        if not isinstance(box, AxisMetadata):
            raise AxisMetadataTypeError(box)
        return PartitionSpec(*box.names)

    flat = flatten_dict(unfreeze(axes_metadata), sep="/")
    return freeze(
        unflatten_dict(
            {re.sub(r"_axes$", "", path): names(box) for path, box in flat.items()},
            sep="/",
        )
    )


def _with_names(target: Any, axis: int, name: Any, collection: str) -> Any:
    """Names the axis that a transform adds to the variables of a collection."""

    def change(edit: Callable[[list[Any]], None], variables: Any) -> Any:
        def changed(box: Any) -> Any:
            if not isinstance(box, AxisMetadata):
                return box
            names = list(box.names)
            edit(names)
            return AxisMetadata(tuple(names))

        def is_box(x: Any) -> bool:
            return isinstance(x, AxisMetadata)

        return jax.tree.map(changed, variables, is_leaf=is_box)

    def insert(names: list[Any]) -> None:
        # Counted from the end of the array that has the axis: -1 is the last.
        names.insert(axis if axis >= 0 else len(names) + 1 + axis, name)

    def remove(names: list[Any]) -> None:
        del names[axis]

    return map_variables(
        target,
        mapped_collections=collection,
        trans_in_fn=functools.partial(change, remove),
        trans_out_fn=functools.partial(change, insert),
        mutable=True,
    )


def scan_with_axes(
    target: Any,
    variable_axes: Mapping[Any, InOutScanAxis] = {},
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Any, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    axis_name: str = "layers",
    axes_collections: tuple[str, ...] = ("params",),
    data_transform: Callable[..., Any] | None = None,
    methods: Any = None,
) -> Any:
    """A lifted scan that names the axis it adds; for the rest see `scan`.

    Args:
        target: a module class, or a function of a module.
        variable_axes: the axis along which collections are stacked.
        variable_broadcast: collections that all steps share.
        variable_carry: collections handed from step to step.
        split_rngs: whether streams differ between steps.
        in_axes: axes of the arguments after the carry.
        out_axes: axes of the results after the carry.
        length: number of steps.
        reverse: go from the last element to the first.
        unroll: steps in one iteration of the compiled loop.
        axis_name: the logical name of the axis that is added.
        axes_collections: the collections whose axes have names.
        data_transform: see `scan`.
        methods: the methods of a class to lift.

    Returns:
        A class or function like `target`.
    """
    into, _ = split_in_out(variable_axes)
    named = [col for col in axes_collections if col in into]
    scanned = scan(
        target,
        variable_axes={**variable_axes, **{f"{col}_axes": 0 for col in named}},
        variable_broadcast=variable_broadcast,
        variable_carry=variable_carry,
        split_rngs=split_rngs,
        in_axes=in_axes,
        out_axes=out_axes,
        length=length,
        reverse=reverse,
        unroll=unroll,
        data_transform=data_transform,
        methods=methods,
    )
    for col in named:
        scanned = _with_names(scanned, into[col], axis_name, f"{col}_axes")
    return scanned


def vmap_with_axes(
    target: Any,
    variable_axes: Mapping[Any, InOutAxis],
    split_rngs: Mapping[Any, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    partitioning_axis_names: Mapping[Any, str] = {},
    spmd_axis_name: str | None = None,
    methods: Any = None,
) -> Any:
    """A lifted vmap that names the axis it adds; for the rest see `vmap`.

    Args:
        target: a module class, or a function of a module.
        variable_axes: the axis along which collections are stacked.
        split_rngs: whether streams differ between instances.
        in_axes: axes of the arguments.
        out_axes: axes of the results.
        axis_size: number of instances.
        axis_name: the name for collectives.
        partitioning_axis_names: for each collection the logical name of the axis.
        spmd_axis_name: see `jax.vmap`.
        methods: the methods of a class to lift.

    Returns:
        A class or function like `target`.
    """
    into, _ = split_in_out(variable_axes)
    named = {col: into[col] for col in partitioning_axis_names if col in into}
    mapped = vmap(
        target,
        variable_axes={**variable_axes, **{f"{col}_axes": None for col in named}},
        split_rngs=split_rngs,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_size=axis_size,
        axis_name=axis_name,
        spmd_axis_name=spmd_axis_name,
        methods=methods,
    )
    for col, axis in named.items():
        if axis is not None:
            name = partitioning_axis_names[col]
            mapped = _with_names(mapped, axis, name, f"{col}_axes")
    return mapped


core_remat_static = core_lift.remat


def remat(
    target: Any,
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
    methods: Any = None,
) -> Any:
    """Like `linsey.linen.remat`; static arguments are counted without the module."""
    return lift(
        core_remat_static,
        target,
        "Core_remat_static",
        methods,
        variables=variables,
        rngs=rngs,
        concrete=concrete,
        prevent_cse=prevent_cse,
        static_argnums=static_argnums,
        policy=policy,
    )
