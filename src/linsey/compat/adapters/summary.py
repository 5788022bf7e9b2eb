"""Private names of `flax.linen.summary`: calls, their FLOPs and their variables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from linsey.compat.adapters.modules import CallInfo
from linsey.core.filters import DenyList
from linsey.linen.module import Module
from linsey.linen.summary.calls import Call, first_calls, record_calls
from linsey.linen.summary.flops import forward_flops, vjp_flops

Path = tuple[str, ...]
Variables = Mapping[str, Any]


@dataclasses.dataclass
class ArrayRepresentation:
    """An array in Flax's table; linsey's table holds a `jax.ShapeDtypeStruct`."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass
class ObjectRepresentation:
    """Any other value in Flax's table; linsey's table holds the value itself."""

    obj: Any


def get_call_flops(
    c: CallInfo, compute_flops: bool, compute_vjp_flops: bool
) -> tuple[int, int]:
    """Estimate the FLOPs of a call, without and with its reverse-mode derivative.

    Returns:
        Both counts; a count that was not requested is -1.
    """
    rngs = c.rngs or {}
    variables = vars(c).get("_variables")
    if variables is None:  # a record made by the program itself
        init = functools.partial(c.module.init, method=c.method)
        variables = jax.eval_shape(init, rngs, *c.args, **c.kwargs)
    call = Call(c.path, c.module, c.method, c.args, c.kwargs, c.outputs, variables)
    flops = (forward_flops(call, rngs, c.mutable) or 0) if compute_flops else -1
    vjp = (vjp_flops(call, rngs, c.mutable) or 0) if compute_vjp_flops else -1
    return flops, vjp


def process_inputs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Combine arguments into one value: a single argument, a tuple or a dictionary."""
    if not kwargs:
        return args[0] if len(args) == 1 else tuple(args)
    return (*args, dict(kwargs)) if args else dict(kwargs)


def get_path_variables(path: Path, variables: Variables) -> dict[str, Any]:
    """Return the variables at a path, for each collection that has any there."""
    found = {}
    for collection, tree in variables.items():
        for name in path:
            tree = tree.get(name) if isinstance(tree, Mapping) else None
        if tree is not None:
            found[collection] = tree
    return found


def get_module_variables(
    path: Path, variables: Variables, all_paths: set[Path]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return a module's own variables and, separately, those of its submodules."""
    own: dict[str, dict[str, Any]] = {}
    inside: dict[str, dict[str, Any]] = {}
    for collection, tree in get_path_variables(path, variables).items():
        own[collection], inside[collection] = {}, {}
        for name, value in tree.items():
            is_inside = (*path, name) in all_paths
            (inside if is_inside else own)[collection][name] = value
    return own, inside


@dataclasses.dataclass
class Row:
    """One call, as a row of a table."""

    path: Path
    module_copy: Module
    method: str
    inputs: Any
    outputs: Any
    module_variables: dict[str, dict[str, Any]]
    counted_variables: dict[str, dict[str, Any]]
    flops: int
    vjp_flops: int

    def size_and_bytes(self, collections: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return the number of values and bytes that each collection holds here."""
        own = self.counted_variables
        return {c: size_and_bytes(own[c]) if c in own else (0, 0) for c in collections}


class Table(list[Row]):
    """The rows of a table, with the model and the names of the collections."""

    def __init__(
        self, module: Module, collections: Sequence[str], rows: Iterable[Row]
    ) -> None:
        super().__init__(rows)
        self.module = module
        self.collections = collections


def get_module_table(
    module: Module,
    depth: int | None,
    show_repeated: bool,
    compute_flops: bool,
    compute_vjp_flops: bool,
) -> Callable[..., Table]:
    """Return a function that takes the arguments of `init` and lists the calls."""

    def table(rngs: Any, *args: Any, **kwargs: Any) -> Table:
        mutable = kwargs.pop("mutable", DenyList("intermediates"))
        calls, variables = record_calls(module, rngs, mutable, args, kwargs)
        shown = calls if show_repeated else first_calls(calls)
        if depth is not None:
            shown = [call for call in shown if len(call.path) <= depth]
        called, visible = {c.path for c in calls}, {c.path for c in shown}
        rows, seen = [], set()
        for call in shown:
            first = call.path not in seen
            seen.add(call.path)
            own = get_module_variables(call.path, variables, called)[0]
            counted = get_module_variables(call.path, variables, visible)[0]
            flops = forward_flops(call, rngs, mutable) if compute_flops else -1
            vjp = vjp_flops(call, rngs, mutable) if compute_vjp_flops else -1
            rows.append(
                Row(
                    call.path,
                    call.module,
                    call.method,
                    process_inputs(call.args, call.kwargs),
                    call.outputs,
                    own if first else {},
                    counted if first else {},
                    flops or 0,
                    vjp or 0,
                )
            )
        return Table(module, tuple(variables), rows)

    return table


def size_and_bytes(pytree: Any) -> tuple[int, int]:
    """Count the values and the bytes of a tree."""
    leaves = [leaf for leaf in jax.tree.leaves(pytree) if hasattr(leaf, "size")]
    return (
        sum(leaf.size for leaf in leaves),
        sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
    )
