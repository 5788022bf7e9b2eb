"""Mistakes with variables, collections, random streams and scopes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from linsey.errors.base import LinseyError, Names, listed, named


class InvalidRngError(LinseyError, ValueError):
    """A random stream is missing, or the value given for it is not a key."""

    def __init__(
        self,
        msg: str,
        *,
        stream: str | None = None,
        available: Names = None,
        fix: str = "",
    ) -> None:
        why = fix and (
            "RNGs should be of shape (2,) or PRNGKey: a random stream begins with a "
            "JAX key, and nothing else is one."
        )
        if available is not None:
            why = f"The streams that were given are: {listed(available)}."
        if stream is not None:
            fix = (
                "Pass a key for it: "
                f"`module.apply(variables, ..., rngs={{'{stream}': key}})`, or "
                f"`module.init({{'params': key, '{stream}': other_key}}, ...)`."
            )
        super().__init__(msg, why, fix)


class ApplyScopeInvalidVariablesTypeError(LinseyError, TypeError):
    """The variables given to `apply` are not a dictionary of collections."""

    def __init__(self, *, found: object = None) -> None:
        what = f" Found a {type(found).__name__}." if found is not None else ""
        super().__init__(
            "The first argument passed to an apply function should be a dictionary "
            "of collections. Each collection should be a dictionary with string keys."
            f"{what}",
            "Variables are looked up by collection and then by path.",
            "Pass what `init` returned, or `{'params': params}`.",
        )


class ApplyScopeInvalidVariablesStructureError(LinseyError):
    """The variables given to `apply` have one level `params` too many."""

    def __init__(self, variables: Mapping[str, Iterable[object]]) -> None:
        keys = listed(variables["params"]) if "params" in variables else "none"
        super().__init__(
            "Expect the `variables` (first argument) passed to apply() to be a dict "
            'with the structure {"params": ...}, but got a dict with an extra params '
            'layer, i.e.  {"params": {"params": ... } }.',
            f"Under `params` there are: {keys}; parameters are looked for one level "
            "below.",
            'You should instead pass in your dict\'s ["params"]: '
            "`module.apply({'params': variables['params']['params']}, ...)`.",
        )


class ScopeParamNotFoundError(LinseyError):
    """A parameter that is read does not exist in the variables."""

    def __init__(
        self, param_name: str, scope_path: str, *, available: Names = None
    ) -> None:
        there = "" if available is None else f" It holds: {listed(available)}."
        super().__init__(
            f'Could not find parameter named "{param_name}" in scope "{scope_path}".',
            "`apply` creates no parameters; the variables come from a module of "
            f"another structure, or were never initialised.{there}",
            _renamed(param_name, available)
            or "Initialise this module, `variables = module.init(key, x)`, and pass "
            "these variables; or add `mutable=['params']` to create it here.",
        )


# The names that PyTorch uses for the variables of equivalent layers.
_IN_PYTORCH = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def _renamed(name: str, available: Names) -> str:
    """Return how to rename a variable that has its PyTorch name, or an empty string."""
    theirs = _IN_PYTORCH.get(name)
    if theirs is None or available is None or theirs not in available:
        return ""
    if name != "kernel":
        return f"This is the name in PyTorch: pass `{{'{name}': {theirs}, ...}}`."
    return (
        "This is the name in PyTorch, whose axes are in another order too: pass "
        "`{'kernel': weight.transpose(1, 0), ...}` to `Dense`, and "
        "`weight.transpose(2, 3, 1, 0)` to a `Conv` of images."
    )


def _transposed(found: object, expected: object) -> tuple[int, ...] | None:
    """Return the order of axes that turns one shape into another, if there is one."""
    if not isinstance(found, tuple) or not isinstance(expected, tuple):
        return None
    axes = range(len(found))
    if len(axes) < 2 or sorted(found, key=str) != sorted(expected, key=str):
        return None
    # In PyTorch, kernels are (out, in, ...), and those of transposed convolutions are
    # (in, out, ...). Axes of equal length keep their order.
    orders = itertools.permutations(axes) if len(axes) < 6 else ()
    for order in ((*axes[2:], 1, 0), (*axes[2:], 0, 1), *orders):
        if tuple(found[axis] for axis in order) == expected:
            return order
    return None


class ScopeCollectionNotFound(LinseyError):  # noqa: N818 (the name in Flax)
    """A variable is read from a collection that does not exist."""

    def __init__(
        self,
        col_name: str,
        var_name: str,
        scope_path: str,
        *,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(
            f'Tried to access "{var_name}" from collection "{col_name}" in '
            f'"{scope_path}" but the collection is empty.',
            why
            or (
                f"The variables given hold nothing under `{col_name}` for this module, "
                "and the collection is not mutable, so nothing can be created."
            ),
            fix
            or (
                "Pass the collection too, "
                f"`module.apply({{..., '{col_name}': variables['{col_name}']}}, ...)`, "
                f"or let the call create it with `mutable=['{col_name}']`."
            ),
        )


class ScopeParamShapeError(LinseyError):
    """A parameter does not have the shape that this call needs."""

    def __init__(
        self,
        param_name: str,
        scope_path: str,
        value_shape: object,
        init_shape: object,
        *,
        module: object = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        of = "" if module is None else f" of {named(module)}"
        order = _transposed(value_shape, init_shape)
        if order is not None:
            why = why or (
                "It has the same axes in another order, such as that of PyTorch, or of "
                "a layer with other widths."
            )
            fix = fix or (
                f"If it comes from PyTorch, pass `{param_name}.transpose{order}` "
                "instead; else build the module as it was when it was initialised."
            )
        super().__init__(
            f'For parameter "{param_name}" in "{scope_path}", the given initializer is '
            f"expected to generate shape {init_shape}, but the existing parameter it "
            f"received has shape {value_shape}.",
            why
            or (
                f"The variables{of} were initialised with inputs of another width or "
                "with other constructor arguments."
            ),
            fix or _param_shape_fix(value_shape, init_shape),
        )


def _param_shape_fix(value_shape: object, init_shape: object) -> str:
    match value_shape, init_shape:
        case (*front, found, width), (*other_front, needed, other_width) if (
            len(front) == len(other_front) and width == other_width and found != needed
        ):
            instead = f"pass inputs whose last axis is {found}."
        case _:
            instead = "build the module as it was when it was initialised."
    return f"Re-run `init` with this input, or {instead}"


class ScopeVariableNotFoundError(LinseyError):
    """A variable that is read does not exist in its collection."""

    def __init__(
        self, name: str, col: str, scope_path: str, *, available: Names = None
    ) -> None:
        there = "" if available is None else f" It holds: {listed(available)}."
        super().__init__(
            f'No Variable named "{name}" for collection "{col}" exists in '
            f'"{scope_path}".',
            f"It was neither initialised nor can it be created now.{there}",
            _renamed(name, available)
            or f"Create it with `self.variable('{col}', '{name}', init_fn)`, or make "
            "the collection mutable: "
            f"`module.apply(variables, ..., mutable=['{col}'])`.",
        )


class InvalidFilterError(LinseyError):
    """A collection filter has an unknown form."""

    def __init__(self, filter_like: object) -> None:
        super().__init__(
            f'Invalid Filter: "{filter_like}"',
            "A filter says which collections are meant: True (all), False (none), a "
            "name, a set or sequence of names, or `DenyList(names)`; found a "
            f"value of type {type(filter_like).__name__}.",
            "Write for example `mutable=['batch_stats']`.",
        )


class InvalidScopeError(LinseyError):
    """A scope is used after the call that owned it has ended."""

    def __init__(self, scope_name: str) -> None:
        super().__init__(
            f'The scope "{scope_name}" is no longer valid.',
            "Variables exist only while `init` or `apply` runs; a scope or a bound "
            "module was kept (in an attribute, a closure, a list) and used after it.",
            "Use it inside the call, or `module.bind(variables)` for one that stays.",
        )


class ModifyScopeVariableError(LinseyError):
    """A variable of an immutable collection is being written."""

    def __init__(self, col: str, variable_name: str, scope_path: str) -> None:
        super().__init__(
            f'Cannot update variable "{variable_name}" in "{scope_path}" because '
            f'collection "{col}" is immutable.',
            "`apply` is a pure function: only collections that it is told to return "
            "may change.",
            f"Write `y, updates = module.apply(variables, ..., mutable=['{col}'])` and "
            "put the updates into the next call's variables.",
        )


class ImmutableVariableError(LinseyError):
    """A value of a frozen container or variable is being written."""


class JaxTransformError(LinseyError):
    """A module or scope from outside a plain JAX transform is used inside it."""

    def __init__(self) -> None:
        super().__init__(
            "Jax transforms and Flax models cannot be mixed.",
            "A plain JAX transform sees a pure function of arrays; the variables and "
            "random keys that a bound module reads would leak out of it.",
            "Use the lifted transform, `linsey.linen.jit`, `.vmap`, `.scan`, ..., or "
            "transform `lambda variables, x: module.apply(variables, x)`.",
        )


class TraceContextError(LinseyError):
    """A variable is changed at a different trace level than it was created at."""


class LazyInitError(LinseyError):
    """A value needed by `lazy_init` depends on an input that only has a shape."""

    def __init__(self, partial_val: object) -> None:
        super().__init__(
            "Lazy init encountered a value that could not be computed with the given "
            f"inputs (shape: {partial_val}).",
            "`lazy_init` was given shapes for some inputs; an initial value depends "
            "on the numbers in them.",
            "Pass this input as an array, or call `init` instead of `lazy_init`.",
        )


class PartitioningUnspecifiedError(LinseyError):
    """A transform adds an axis without a name to a partitioned variable."""

    def __init__(self, target: object) -> None:
        super().__init__(
            'Trying to transform a Partitioned variable but "partition_name" is not '
            f"specified in metadata_params: {target}",
            "Every axis of a partitioned variable has a name (or None), the axis that "
            "the transform adds too.",
            "Write `nn.vmap(..., metadata_params={nn.PARTITION_NAME: 'layers'})`; "
            "None leaves the axis unsharded.",
        )
