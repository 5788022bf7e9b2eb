"""Every mistake linsey can name, one class for each.

A message has three parts, one a line: *found* (what was met, with path and
shapes), *why* (why it cannot work) and *fix* (the line to write instead). They
are attributes of the exception too, so that a tool can show the first alone.
The opening sentence keeps the words that programs written for Flax match on.

Positional arguments of the constructors are those of Flax; keywords that follow
them only make a message richer. Every error can be pickled and copied, whatever
its arguments were: what travels is the finished text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "AlreadyExistsError",
    "ApplyModuleInvalidMethodError",
    "ApplyScopeInvalidVariablesStructureError",
    "ApplyScopeInvalidVariablesTypeError",
    "AssignSubModuleError",
    "CallCompactUnboundModuleError",
    "CallSetupUnboundModuleError",
    "CallShareScopeOnUnboundModuleError",
    "CallUnbindOnUnboundModuleError",
    "CursorFindError",
    "DescriptorAttributeError",
    "FeatureShapeChangedError",
    "FlaxError",
    "ImmutableVariableError",
    "IncorrectPostInitOverrideError",
    "InvalidCheckpointError",
    "InvalidFilterError",
    "InvalidInstanceModuleError",
    "InvalidRngError",
    "InvalidScopeError",
    "JaxTransformError",
    "LazyInitError",
    "LinseyError",
    "MPACheckpointingRequiredError",
    "MPARestoreDataCorruptedError",
    "MPARestoreTargetRequiredError",
    "MissingBatchStatsError",
    "ModifyScopeVariableError",
    "MultipleMethodsCompactError",
    "NameInUseError",
    "PartitioningUnspecifiedError",
    "ReservedModuleAttributeError",
    "ScopeCollectionNotFound",
    "ScopeParamNotFoundError",
    "ScopeParamShapeError",
    "ScopeVariableNotFoundError",
    "SetAttributeFrozenModuleError",
    "SetAttributeInModuleSetupError",
    "SingleValuePerChannelError",
    "TraceContextError",
    "TracedFlagError",
    "TransformTargetError",
    "TransformedMethodReturnValueError",
    "TraverseTreeError",
    "UnboundAxisNameError",
]


class LinseyError(Exception):
    """Base of all errors of linsey: what was found, why it fails, what to write.

    Args:
        message: what was found, with path and shapes.
        why: why it cannot work.
        fix: the line to write instead.

    Example:
        >>> error = LinseyError("Axis 3 was asked for.", "There are two.", "Use 1.")
        >>> print(error)
        Axis 3 was asked for.
        There are two.
        Use 1.
        >>> error.fix
        'Use 1.'
    """

    found: str
    why: str
    fix: str

    def __init__(self, message: object, why: str = "", fix: str = "") -> None:
        self.found, self.why, self.fix = str(message), why, fix
        super().__init__("\n".join(filter(None, (self.found, why, fix))))

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the constructor with the message as its arguments,
        # which fits none of the subclasses.
        return _restore, (type(self), self.args), self.__dict__


FlaxError = LinseyError


def _restore(cls: type[LinseyError], args: tuple[Any, ...]) -> LinseyError:
    error = cls.__new__(cls)
    error.args = args
    return error


def _a_module(module: object) -> str:
    """Names a module given as class, instance or text in a message."""
    if module is None:
        return "the module"
    if isinstance(module, str):
        return f"`{module}`"
    cls = module if isinstance(module, type) else type(module)
    return f"`{cls.__name__}`"


def _names(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "none"


# --------------------------------------------------------------------------- scopes


class InvalidRngError(LinseyError):
    """A random stream is missing, or what was given for it is no key."""

    def __init__(
        self,
        msg: str,
        *,
        stream: str | None = None,
        available: Sequence[str] | None = None,
    ) -> None:
        why = fix = ""
        if available is not None:
            why = f"The streams that were given are: {_names(available)}."
        if stream is not None:
            fix = (
                "Pass a key for it: "
                f"`module.apply(variables, ..., rngs={{'{stream}': key}})`, or "
                f"`module.init({{'params': key, '{stream}': other_key}}, ...)`."
            )
        super().__init__(msg, why, fix)


class ApplyScopeInvalidVariablesTypeError(LinseyError):
    """The variables given to `apply` are no dictionary of collections."""

    def __init__(self, *, found: object = None) -> None:
        what = f" Found a {type(found).__name__}." if found is not None else ""
        super().__init__(
            "The first argument passed to an apply function should be a dictionary "
            f"of collections.{what}",
            "Each collection should be a dictionary with string keys, because "
            "variables are looked up by collection and then by path.",
            "Pass what `init` returned, or `{'params': params}`.",
        )


class ApplyScopeInvalidVariablesStructureError(LinseyError):
    """The variables given to `apply` hold a `params` level too many."""

    def __init__(self, variables: Any) -> None:
        keys = _names(variables["params"]) if "params" in variables else "none"
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
    """A parameter is read that the variables do not have."""

    def __init__(
        self,
        param_name: str,
        scope_path: str,
        *,
        available: Iterable[str] | None = None,
    ) -> None:
        there = "" if available is None else f" It holds: {_names(available)}."
        super().__init__(
            f'Could not find parameter named "{param_name}" in scope "{scope_path}".',
            "`apply` creates no parameters; the variables come from a module of "
            f"another structure, or were never initialised.{there}",
            "Initialise this module, `variables = module.init(key, x)`, and pass "
            "these variables; or add `mutable=['params']` to create it here.",
        )


class ScopeCollectionNotFound(LinseyError):  # noqa: N818 (the name in Flax)
    """A variable is read from a collection that is not there."""

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
    """A parameter has another shape than this call needs."""

    def __init__(
        self,
        param_name: str,
        scope_path: str,
        value_shape: Any,
        init_shape: Any,
        *,
        module: object = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        of = "" if module is None else f" of {_a_module(module)}"
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


def _param_shape_fix(value_shape: Any, init_shape: Any) -> str:
    fix = "Re-run `init` with this input"
    is_kernel = (
        isinstance(value_shape, tuple)
        and isinstance(init_shape, tuple)
        and len(value_shape) == len(init_shape) >= 2
        and value_shape[-1] == init_shape[-1]
        and value_shape[-2] != init_shape[-2]
    )
    if not is_kernel:
        return f"{fix}, or build the module as it was when it was initialised."
    return f"{fix}, or pass inputs whose last axis is {value_shape[-2]}."


class ScopeVariableNotFoundError(LinseyError):
    """A variable is read that its collection does not have."""

    def __init__(
        self,
        name: str,
        col: str,
        scope_path: str,
        *,
        available: Iterable[str] | None = None,
    ) -> None:
        there = "" if available is None else f" It holds: {_names(available)}."
        super().__init__(
            f'No Variable named "{name}" for collection "{col}" exists in '
            f'"{scope_path}".',
            f"It was neither initialised nor can it be created now.{there}",
            f"Create it with `self.variable('{col}', '{name}', init_fn)`, or make the "
            f"collection mutable: `module.apply(variables, ..., mutable=['{col}'])`.",
        )


class InvalidFilterError(LinseyError):
    """A collection filter is of no known form."""

    def __init__(self, filter_like: Any) -> None:
        super().__init__(
            f'Invalid Filter: "{filter_like}"',
            "A filter says which collections are meant: True (all), False (none), a "
            "name, a set or sequence of names, or `DenyList(names)`; found a "
            f"{type(filter_like).__name__}.",
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
    """A variable of an immutable collection is written."""

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
    """A value of a frozen container or variable is written."""

    def __init__(self, message: str, why: str = "", fix: str = "") -> None:
        super().__init__(message, why, fix)


class JaxTransformError(LinseyError):
    """A module or scope is used inside a plain JAX transform made outside of it."""

    def __init__(self) -> None:
        super().__init__(
            "Jax transforms and Flax models cannot be mixed.",
            "A plain JAX transform sees a pure function of arrays; the variables and "
            "random keys that a bound module reads would leak out of it.",
            "Use the lifted transform, `linsey.linen.jit`, `.vmap`, `.scan`, ..., or "
            "transform `lambda variables, x: module.apply(variables, x)`.",
        )


class TraceContextError(LinseyError):
    """A variable is changed at another trace level than it was made at."""


class LazyInitError(LinseyError):
    """A value asked for by `lazy_init` depends on data that only has a shape."""

    def __init__(self, partial_val: Any) -> None:
        super().__init__(
            "Lazy init encountered a value that could not be computed with the given "
            f"inputs (shape: {partial_val}).",
            "`lazy_init` was given shapes for some inputs; an initial value depends "
            "on the numbers in them.",
            "Pass this input as an array, or call `init` instead of `lazy_init`.",
        )


class PartitioningUnspecifiedError(LinseyError):
    """A transform adds an axis to a partitioned variable and no name is given."""

    def __init__(self, target: Any) -> None:
        super().__init__(
            'Trying to transform a Partitioned variable but "partition_name" is not '
            f"specified in metadata_params: {target}",
            "Every axis of a partitioned variable has a name (or None), the axis that "
            "the transform adds too.",
            "Write `nn.vmap(..., metadata_params={nn.PARTITION_NAME: 'layers'})`; "
            "None leaves the axis unsharded.",
        )


# -------------------------------------------------------------------------- modules


class NameInUseError(LinseyError):
    """Two variables, parameters or submodules of a module share one name."""

    def __init__(self, key_type: str, value: str, module_name: str) -> None:
        super().__init__(
            f'Could not create {key_type} "{value}" in Module {module_name}: Name in '
            "use.",
            "Parameters, variables and submodules of one module share one namespace; "
            "this name was taken before.",
            "Give one of them another name, or create it once and use it twice.",
        )


class AssignSubModuleError(LinseyError):
    """A submodule is made where modules may not be made."""

    def __init__(self, cls: str) -> None:
        super().__init__(
            f"Submodule {cls} must be defined in `setup()` or in a method wrapped in "
            "`@compact`",
            "Only there can it be given a name, and so a place in the variables.",
            "Put `@nn.compact` above the method, or write "
            f"`self.layer = {cls}(...)` in `setup`.",
        )


class SetAttributeInModuleSetupError(LinseyError):
    """A constructor field is assigned inside `setup`."""

    def __init__(self, *, module: object = None, attr_name: str | None = None) -> None:
        attr = "" if attr_name is None else f" Found `self.{attr_name} = ...`"
        where = "" if attr_name is None else f" in {_a_module(module)}."
        super().__init__(
            f"Module construction attributes are frozen.{attr}{where}",
            "A module is the value of its fields; were they to change, the same "
            "module would mean different things before and after `setup`.",
            "Store it under another name in `setup`, or build the module with it: "
            "`module.clone(field=value)`.",
        )


class SetAttributeFrozenModuleError(LinseyError):
    """An attribute is assigned outside of `setup`."""

    def __init__(self, module_cls: str, attr_name: str, attr_val: Any) -> None:
        super().__init__(
            f"Can't set {attr_name}={attr_val} for Module of type {module_cls}: Module "
            "instance is frozen outside of setup method.",
            "Modules hold no state: what a call leaves in an attribute is lost, or "
            "leaks a traced value.",
            f"Use a local variable, assign it in `setup`, or keep it as state with "
            f"`self.variable('state', '{attr_name}', init_fn)`.",
        )


class MultipleMethodsCompactError(LinseyError):
    """More than one method of a class is compact."""

    def __init__(
        self, *, module: object = None, methods: Iterable[str] | None = None
    ) -> None:
        found = (
            ""
            if methods is None
            else f" {_a_module(module)} has: {_names(methods)}.".replace(" the m", " M")
        )
        super().__init__(
            f"Only one method per class can be @compact{'.' if found else ''}{found}",
            "Names are counted in the order in which a compact method makes its "
            "submodules; with two, the same submodule would get two names.",
            "Make the shared submodules in `setup`, or wrap the methods with "
            "`@nn.compact_name_scope`.",
        )


class ReservedModuleAttributeError(LinseyError):
    """A module class declares `parent` or `name` as a field of its own."""

    def __init__(self, annotations: Any) -> None:
        super().__init__(
            f"properties `parent` and `name` are reserved: {annotations}",
            "Every module has these two fields already; they say where it stands.",
            "Give your field another name.",
        )


class ApplyModuleInvalidMethodError(LinseyError):
    """The `method` given to `init` or `apply` is no function of the module."""

    def __init__(self, method: Any) -> None:
        super().__init__(
            f"Cannot call apply(): {method} is not a valid function for apply().",
            "`method` says what to run: a method of the module, its name, or a "
            f"function whose first argument is the module; found a "
            f"{type(method).__name__}.",
            "Write `module.apply(variables, x, method='encode')`.",
        )


class CallCompactUnboundModuleError(LinseyError):
    """A compact method is called on a module that holds no variables."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f", here {_a_module(module)}"
        super().__init__(
            f"Can't call compact methods on unbound modules{what}",
            "A module is only the description; its parameters are held outside.",
            "Write `variables = module.init(key, x)`, then "
            "`module.apply(variables, x)`.",
        )


class CallSetupUnboundModuleError(LinseyError):
    """`setup` is called by hand on a module that holds no variables."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f" ({_a_module(module)})"
        super().__init__(
            f"Can't call `setup` on unbound modules{what}",
            "`setup` runs by itself when a module with variables is first used.",
            "Write `module.init(key, x)` or `module.bind(variables)`.",
        )


class CallUnbindOnUnboundModuleError(LinseyError):
    """`unbind` is called on a module that holds no variables."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f" ({_a_module(module)})"
        super().__init__(
            f"Can't call `unbind()` on unbound modules{what}",
            "There are no variables to take it apart from.",
            "Write `module.bind(variables).unbind()`, or use the module as it is.",
        )


class CallShareScopeOnUnboundModuleError(LinseyError):
    """`share_scope` is called on modules that hold no variables."""

    def __init__(self) -> None:
        super().__init__(
            "Can't call `share_scope` on unbound modules",
            "Only while a call runs do modules stand somewhere in the variables.",
            "Call `nn.share_scope(self, self.layer)` in `setup` or in a compact "
            "method.",
        )


class InvalidInstanceModuleError(LinseyError):
    """`init` or `apply` is called on the class instead of on an instance."""

    def __init__(self, *, module: object = None) -> None:
        name = module.__name__ if isinstance(module, type) else "Model"
        super().__init__(
            "Can only call init, init_with_output or apply methods on an instance of "
            "the Module class, not the Module class itself",
            "The fields of the module have no values yet.",
            f"Write `{name}(...).init(key, x)`, with parentheses after the class.",
        )


class IncorrectPostInitOverrideError(LinseyError):
    """A module overrides `__post_init__` without calling the original."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f" in {_a_module(module)}"
        super().__init__(
            "Overrode `.__post_init__()` without calling `super().__post_init__()`"
            f"{what}",
            "Modules register themselves with their parent there.",
            "End the override with `super().__post_init__()`.",
        )


class DescriptorAttributeError(LinseyError):
    """A property or descriptor of a module raises AttributeError inside."""

    def __init__(self, *, module: object = None, attr_name: str | None = None) -> None:
        what = "" if attr_name is None else f" `{attr_name}` of {_a_module(module)}:"
        super().__init__(
            "Trying to access a property that is accessing a non-existent attribute.",
            f"The property runs code of yours that raised AttributeError;{what} the "
            "cause is shown above.",
            "Correct the attribute name in the property, or assign it in `setup`.",
        )


# ----------------------------------------------------------------------- transforms


class TransformedMethodReturnValueError(LinseyError):
    """A lifted method returns a module or a variable."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Transformed module method {name} cannot return Modules or Variables.",
            "Only arrays pass through a transform; a module outside of it would hold "
            "values that exist only inside.",
            "Return arrays (for a variable its `.value`), or make the module outside "
            "of the transformed method.",
        )


class TransformTargetError(LinseyError):
    """What is to be transformed is neither a module class nor a function."""

    def __init__(self, target: Any) -> None:
        super().__init__(
            "Linen transformations must be applied to Modules classes or functions "
            "taking a Module instance as the first argument. The provided target is "
            f"not a Module class or callable: {target}",
            "A transform of a class gives a class, a transform of a function gives a "
            f"function; a {type(target).__name__} is neither.",
            "Write `nn.vmap(nn.Dense, ...)(features=3)`, or "
            "`nn.vmap(lambda module, x: module(x), ...)(module, x)`.",
        )


class CursorFindError(LinseyError):
    """A search with a cursor found nothing, or more than one value."""

    def __init__(self, cursor: Any = None, cursor2: Any = None) -> None:
        if cursor is None or cursor2 is None:
            found = "No object found given the conditions of the cond_fn."
        else:
            found = (
                "More than one object found given the conditions of the cond_fn. The "
                "first two objects found have the following paths: "
                f"{cursor._path} and {cursor2._path}"
            )
        super().__init__(
            found,
            "`find` promises exactly one.",
            "Change the condition, or use `find_all`.",
        )


class TraverseTreeError(LinseyError):
    """A tree update was given both of two functions that exclude each other."""

    def __init__(
        self, update_fn: Callable[..., Any] | None, cond_fn: Callable[..., Any] | None
    ) -> None:
        if update_fn is None and cond_fn is None:
            found = (
                "Both update_fn and cond_fn are None. Exactly one of them must be None."
            )
        else:
            found = (
                "Both update_fn and cond_fn are not None. Exactly one of them must be "
                "not None."
            )
        super().__init__(
            found,
            "`update_fn` says the new value of a node, `cond_fn` which nodes to keep.",
            "Pass one of them.",
        )


# ---------------------------------------------------------------------- checkpoints


class AlreadyExistsError(LinseyError):
    """A file is written that is there already."""

    def __init__(self, path: Any) -> None:
        super().__init__(
            f'Trying overwrite an existing file: "{path}".',
            "Nothing is overwritten unless that is asked for.",
            "Pass `overwrite=True`, or write to another path.",
        )


class InvalidCheckpointError(LinseyError):
    """A checkpoint is saved for an earlier step than one that is there."""

    def __init__(self, path: Any, step: Any) -> None:
        super().__init__(
            f'Trying to save an outdated checkpoint at step: "{step}" and path: '
            f'"{path}".',
            "The folder holds a checkpoint of this or of a later step.",
            "Pass `overwrite=True` to replace the later ones, or use another folder.",
        )


class MPACheckpointingRequiredError(LinseyError):
    """Arrays that span processes are saved without a manager for them."""

    def __init__(self, path: Any, step: Any) -> None:
        super().__init__(
            f'Checkpoint failed at step: "{step}" and path: "{path}": Target contains '
            "a multiprocess array should be saved/restored with a "
            "GlobalAsyncCheckpointManager.",
            "No process holds the whole of such an array.",
            "Pass `gda_manager=`, or use the Orbax checkpointer.",
        )


class MPARestoreTargetRequiredError(LinseyError):
    """Arrays that span processes are restored without arrays to restore into."""

    def __init__(self, path: Any, step: Any, key: Any = None) -> None:
        at = (
            ""
            if key is None
            else f" This error fired when trying to restore array at {key}."
        )
        super().__init__(
            f'Restore checkpoint failed at step: "{step}" and path: "{path}": '
            "Checkpoints containing a multiprocess array need to be restored with a "
            f"target with pre-created arrays.{at}",
            "The sharding of each array is taken from the array in the target.",
            "Pass a full target, or `allow_partial_mpa_restoration=True`.",
        )


class MPARestoreDataCorruptedError(LinseyError):
    """An array that spans processes was not written to its end."""

    def __init__(self, step: Any, path: Any) -> None:
        super().__init__(
            f'Restore checkpoint failed at step: "{step}" on multiprocess array at  '
            f'"{path}": No "commit_success.txt" found on this "_gda" directory.',
            "The save was stopped before it was complete.",
            "Restore an earlier step.",
        )


# ------------------------------------------- misuse that would otherwise be silent


class MissingBatchStatsError(ScopeCollectionNotFound):
    """A training call has no running statistics to update."""

    def __init__(
        self,
        scope_path: str,
        *,
        module: object = "BatchNorm",
        col_name: str = "batch_stats",
        var_name: str = "mean",
    ) -> None:
        super().__init__(
            col_name,
            var_name,
            scope_path,
            why=(
                f"{_a_module(module)} updates its running statistics in training, and "
                "the variables given hold none: each step would start them anew."
            ),
            fix=(
                "Keep what `init` returned and pass it: `y, updates = module.apply("
                f"{{'params': params, '{col_name}': {col_name}}}, x, "
                f"mutable=['{col_name}'])`, then "
                f"`{col_name} = updates['{col_name}']`."
            ),
        )


class SingleValuePerChannelError(LinseyError, ValueError):
    """Batch statistics are asked of one value per channel."""

    def __init__(
        self,
        scope_path: str,
        shape: Sequence[int],
        *,
        axes: Sequence[int] | None = None,
        module: object = "BatchNorm",
    ) -> None:
        over = "" if axes is None else f" over the axes {tuple(axes)}"
        super().__init__(
            f'{_a_module(module)} at "{scope_path}" was called in training with an '
            f"input of shape {tuple(shape)}, which has one value per channel{over}.",
            "The variance of one value is zero, so every output would be the bias, "
            "whatever the input is.",
            "Use a batch of two or more, or `use_running_average=True`.",
        )


class UnboundAxisNameError(LinseyError, NameError):
    """A named axis is used that no transform around the call has bound."""

    def __init__(
        self,
        axis_name: Any,
        *,
        bound: Iterable[Any] = (),
        scope_path: str | None = None,
        module: object = None,
    ) -> None:
        at = "" if scope_path is None else f' by {_a_module(module)} at "{scope_path}"'
        super().__init__(
            f"Found an unbound axis name: {axis_name}. It was asked for{at or ' here'};"
            f" the names bound are: {_names(bound)}.",
            "Statistics are averaged over a named axis, which only `jax.vmap`, "
            "`jax.pmap` or `jax.shard_map` around the call can bind.",
            f"Write `jax.vmap(step, axis_name='{axis_name}')`, or build the layer "
            "with `axis_name=None`.",
        )


class TracedFlagError(LinseyError, TypeError):
    """A Python flag that decides the structure of a call is traced."""

    def __init__(
        self,
        flag: str,
        *,
        scope_path: str | None = None,
        module: object = None,
        value: object = None,
    ) -> None:
        at = "" if scope_path is None else f' of {_a_module(module)} at "{scope_path}"'
        what = "" if value is None else f": {value}"
        super().__init__(
            f"The flag `{flag}`{at} is a traced value{what}.",
            "It decides which computation is built, which must be known before "
            "anything is traced.",
            f"Mark it static, `jax.jit(step, static_argnames='{flag}')`, or make two "
            "compiled functions, one for training and one for evaluation.",
        )


class FeatureShapeChangedError(ScopeParamShapeError):
    """An input has another number of features than the variables were made for."""

    def __init__(
        self,
        scope_path: str,
        *,
        expected: Any,
        found: Any,
        input_shape: Sequence[int] | None = None,
        axis: int | Sequence[int] = -1,
        name: str = "mean",
        module: object = "BatchNorm",
    ) -> None:
        super().__init__(
            name,
            scope_path,
            expected,
            found,
            why=_feature_mismatch(module, axis, input_shape, expected, found),
            fix=(
                f"Pass inputs whose axis {axis} has {expected} features (move channels "
                "there with `x.transpose(0, 2, 3, 1)`), or build the layer with "
                "`axis=` where the channels are."
            ),
        )


def _feature_mismatch(
    module: object,
    axis: int | Sequence[int],
    input_shape: Sequence[int] | None,
    expected: Any,
    found: Any,
) -> str:
    of = "" if input_shape is None else f" of the input {tuple(input_shape)}"
    return (
        f"{_a_module(module)} keeps one statistic per feature of axis {axis}{of}: it "
        f"was initialised for {expected} and now finds {found}, as happens when "
        "channels come first."
    )
