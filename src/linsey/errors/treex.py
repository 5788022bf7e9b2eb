"""Misuse of objects that are pytrees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from linsey.errors.base import LinseyError, listed, named


class StaticTracerError(LinseyError, TypeError):
    """A static attribute holds a traced value."""

    def __init__(self, obj: object, name: str, value: object) -> None:
        super().__init__(
            f"{named(obj)} has a traced value in the static attribute `{name}`: "
            f"{value}.",
            "Static attributes are part of the structure of a compiled program and "
            "outlive it; a traced value does not.",
            f"Declare it in the class, `{name}: jax.Array = tx.State.node()`.",
        )


class InPlaceError(LinseyError, TypeError, ValueError):
    """Something without attributes is to be changed in place."""

    def __init__(self, function: str, obj: object) -> None:
        super().__init__(
            f"`{function}` was called with inplace=True on a `{type(obj).__name__}`.",
            "In place means that the attributes of the object are set, and it has "
            "none.",
            f"Use the result of `tx.{function}` without `inplace`.",
        )


class FilterTypeError(LinseyError, TypeError):
    """A filter is neither a kind nor a function."""

    def __init__(self, found: object) -> None:
        super().__init__(
            f"A filter is {found!r}.",
            "A filter is a class, which keeps the leaves of that kind, or a function "
            "of a `FieldInfo` that says whether to keep the leaf.",
            "For several kinds give their common base, or write "
            "`lambda field: issubclass(field.kind, (A, B))`.",
        )


class TreeMismatchError(LinseyError, ValueError):
    """Trees that are to be combined differ in structure."""

    def __init__(self, function: str, detail: object) -> None:
        super().__init__(
            f"`{function}` was given trees of different structure: {detail}",
            "They are combined leaf by leaf, so classes, attributes and, in the mode "
            "`normal`, static values must be the same.",
            "Make one of the other by tree operations (`filter`, `jax.tree.map`), or "
            "give `ignore_static=True` to `merge` if only static values differ.",
        )


class CompactCountError(LinseyError, ValueError):
    """A later run of a compact method builds more than the first one."""

    def __init__(
        self,
        owner: object,
        function: Callable[..., Any],
        cls: type,
        names: Sequence[str],
    ) -> None:
        super().__init__(
            f"Out of bounds: `{function.__qualname__}` of {named(owner)} builds a "
            f"`{cls.__name__}` that its first run did not build; it built "
            f"{listed(names)}.",
            "Later runs of a compact method find what the first run built by its "
            "place in the order.",
            "Build the same objects, in the same order, in every run: move "
            "conditions behind the constructors.",
        )


class CompactNameError(LinseyError, ValueError):
    """A compact method builds an object for a static field."""

    def __init__(self, owner: object, name: str) -> None:
        super().__init__(
            f"A compact method of {named(owner)} built the object `{name}`, and "
            f"`{name}` is declared static.",
            "What compact methods build has parameters, which a static field hides.",
            "Give the object another `name=`, or do not declare the field static.",
        )


class CompactRecursionError(LinseyError, RuntimeError):
    """A compact method calls itself."""

    def __init__(self, owner: object, function: Callable[..., Any]) -> None:
        super().__init__(
            f"`{function.__qualname__}` was called inside of itself, on the same "
            f"{named(owner)}.",
            "What it builds is stored by place in one run; a run inside of it has no "
            "places of its own.",
            "Build one object for each level, or use `jax.lax.scan`.",
        )


class FirstRunError(LinseyError, RuntimeError):
    """`first_run` is read where no compact method of the object runs."""

    def __init__(self, owner: object) -> None:
        super().__init__(
            f"`first_run` of {named(owner)} was read outside of its compact methods.",
            "Only a compact method has a first run.",
            "Decorate the method with `@tx.compact`, or ask `self.initializing()`.",
        )


class UndeclaredFieldError(LinseyError, ValueError):
    """`get_field` is asked for a field that the class does not declare."""

    def __init__(self, owner: object, name: str) -> None:
        super().__init__(
            f"{named(owner)} declares no field `{name}`.",
            "`get_field` must know whether the value is a node and of which kind.",
            f"Add to the class: `{name}: jax.Array = tx.Parameter.node()`.",
        )


class MissingFieldError(LinseyError, RuntimeError):
    """`get_field` would create a field after the first run."""

    def __init__(self, owner: object, name: str) -> None:
        super().__init__(
            f"{named(owner)} has no value for the field `{name}`.",
            "`get_field` creates values in the first run of a compact method only, so "
            "that the structure stays the same.",
            f"Ask for `{name}` in every run, or set it in `__init__`.",
        )


class NotInitializedError(LinseyError, RuntimeError):
    """A module is used before `init`."""

    def __init__(self, module: object, what: str = "was called") -> None:
        super().__init__(
            f"{named(module)} {what} before it was initialized.",
            "Its parameters take their shapes from the first inputs, and there are "
            "none yet.",
            "Write `model = model.init(key, inputs)` on the outermost module first.",
        )


class MissingVariableError(LinseyError, RuntimeError):
    """A module was initialized without inputs and has no parameters."""

    def __init__(self, module: object, names: Iterable[str]) -> None:
        super().__init__(
            f"{named(module)} counts as initialized and has no value for "
            f"{listed(names)}.",
            "`init` was given no inputs, so the layer was not called and could not "
            "know their shapes.",
            "Give `init` the inputs of a call: `model.init(key, x)`, or "
            "`model.init(key, tx.Inputs(x, flag=True))`.",
        )


class NoKeyError(LinseyError, RuntimeError):
    """A random key is asked for where there are none."""

    def __init__(self, what: str = "`next_key()` was called") -> None:
        super().__init__(
            f"{what} outside of `init` and `rng_key`.",
            "Keys are split off the one that these were given.",
            "Call `model.init(key, ...)`, write `with tx.rng_key(key): ...` around, or "
            "use a `tx.KeySeq` of the module's own.",
        )


class KeyTypeError(LinseyError, TypeError):
    """Something that is no key is given as a key."""

    def __init__(self, found: object) -> None:
        super().__init__(
            f"A random key is {found!r}.",
            "Keys come from an integer, `jax.random.key` or `jax.random.PRNGKey`.",
            "Write `tx.Key(42)`.",
        )


class TabulateError(LinseyError, TypeError):
    """A module that cannot be called is tabulated with inputs."""

    def __init__(self, module: object) -> None:
        super().__init__(
            f"{named(module)} was tabulated with inputs and has no `__call__`.",
            "The inputs are passed to it to find the shapes of all outputs.",
            "Leave `inputs` away, or define `__call__`.",
        )


class PositionalArgumentsError(LinseyError, TypeError):
    """A loss or a metric is called with positional arguments."""

    def __init__(self, obj: object, count: int) -> None:
        super().__init__(
            f"{named(obj)} was called with {count} positional arguments.",
            "Which of them are targets and predictions cannot be seen from their "
            "places.",
            "Write `(target=y, preds=y_pred)`.",
        )


class LossShapeError(LinseyError, ValueError):
    """Arguments of a loss or a metric do not fit each other."""

    def __init__(
        self, what: str, target: Sequence[int], preds: Sequence[int], fix: str
    ) -> None:
        super().__init__(
            f"{what}: target has the shape {tuple(target)} and preds {tuple(preds)}.",
            "They are compared entry by entry, target by class index or by one "
            "number per class.",
            fix,
        )


class MissingAuxError(LinseyError, ValueError):
    """A configured auxiliary value is not given."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"`{name}` was configured and is not given to `update`.",
            "Its average would count nothing for this batch.",
            f"Pass `{name}=...`, for example `model.loss_logs()`.",
        )


class OptimizerStateError(LinseyError, RuntimeError):
    """An optimizer updates before it has a state."""

    def __init__(self) -> None:
        super().__init__(
            "`Optimizer.update` was called before `init`.",
            "Its state is made for the parameters that it will update.",
            "Write `optimizer = optimizer.init(model.parameters())`.",
        )


class OptimizerParamsError(LinseyError, ValueError):
    """An optimizer applies updates to nothing."""

    def __init__(self) -> None:
        super().__init__(
            "`Optimizer.update` was called without `params`.",
            "By default it applies the updates to them.",
            "Pass `params`, or `apply_updates=False` to get the updates.",
        )


class LeafCountError(LinseyError, ValueError):
    """An optimizer gets another number of arrays than it has states for."""

    def __init__(self, what: str, expected: int, found: int) -> None:
        super().__init__(
            f"`{what}` has {found} leaves, and the optimizer was initialized with "
            f"{expected}.",
            "States belong to parameters by their order.",
            "Pass the same selection to `init`, `jax.grad` and `update`, for example "
            "`model.parameters()` each time.",
        )


class NoLinenTwinError(LinseyError, TypeError):
    """An object has no equivalent in Linen."""

    def __init__(self, obj: object, why: str = "") -> None:
        super().__init__(
            f"{named(obj)} cannot be written as a Linen module.",
            why or "Its `__call__` is a program of its own, which nothing translates.",
            "Convert its layers one by one (`layer.to_linen()`), or wrap the Linen "
            "module in the first place, `tx.from_linen(module, variables)`.",
        )
