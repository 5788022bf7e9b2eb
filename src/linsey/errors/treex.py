"""Misuse of objects that are pytrees: the errors that several places raise."""

from __future__ import annotations

from collections.abc import Iterable

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
    """An object without attributes is to be changed in place."""

    def __init__(self, function: str, obj: object) -> None:
        super().__init__(
            f"`{function}` was called with inplace=True on a `{type(obj).__name__}`.",
            "In place means that the attributes of the object are set, and it has "
            "none.",
            f"Use the result of `tx.{function}` without `inplace`.",
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
    """A random key is requested where none is available."""

    def __init__(self, what: str = "`next_key()` was called") -> None:
        super().__init__(
            f"{what} outside of `init` and `rng_key`.",
            "Keys are split off the one that these were given.",
            "Call `model.init(key, ...)`, write `with tx.rng_key(key): ...` around, or "
            "use a `tx.KeySeq` of the module's own.",
        )


class PositionalArgumentsError(LinseyError, TypeError):
    """A loss or a metric is called with positional arguments."""

    def __init__(self, obj: object, count: int) -> None:
        super().__init__(
            f"{named(obj)} was called with {count} positional arguments.",
            "Their order does not say which of them are targets and predictions.",
            "Write `(target=y, preds=y_pred)`.",
        )
