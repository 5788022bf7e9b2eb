"""Any Haiku function as an object, if Haiku is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linsey.errors.treex import MissingVariableError
from linsey.extras import require
from linsey.treex.key_seq import KeySeq
from linsey.treex.module import Module
from linsey.treex.nn.flax_module import wants_training
from linsey.treex.treeo import static
from linsey.treex.types import BatchStat, Parameter

Params = Mapping[str, Mapping[str, object]]
"""Values by module and name."""


class HaikuModule(Module):
    """Wraps a function that uses Haiku modules, with its parameters and its state.

    If the function has an argument `training`, it gets the mode of the module:
    `training and not frozen`.

    Args:
        transform: the function, or the result of `haiku.transform` or
            `haiku.transform_with_state`.
        params: its parameters, if it has been initialized before.
        states: its state.

    Raises:
        MissingPackageError: Haiku is not installed.

    Attributes:
        params_: parameters by module and name.
        state_: state by module and name.
    """

    params_: Any = Parameter.node()
    state_: Any = BatchStat.node()
    next_key: KeySeq
    transform: Any = static()

    def __init__(
        self, transform: Any, params: Params | None = None, states: Params | None = None
    ) -> None:
        init = getattr(transform, "init", None)  # haiku keeps the function there
        self.function = getattr(init, "_original_fn", _unknown) if init else transform
        self.transform = transformed(transform)
        self.next_key = KeySeq()
        self.params_ = None if params is None else _mutable(params)
        self.state_ = None if states is None else _mutable(states)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with the next key.

        Raises:
            NotInitializedError: the module has not been initialized.
            MissingVariableError: `init` was given no inputs.
        """
        initializing = self.initializing()
        training = self.training and not self.frozen
        if wants_training(self.function, args, kwargs):
            kwargs = {**kwargs, "training": training}
        key = self.next_key()
        if self.params_ is None:
            if not initializing:
                raise MissingVariableError(self, ["params_"])
            params, state = self.transform.init(key, *args, **kwargs)
            self.params_ = _mutable(params)
            if self.state_ is None:
                self.state_ = _mutable(state)
        state = {} if self.state_ is None else self.state_
        outputs, state = self.transform.apply(self.params_, state, key, *args, **kwargs)
        if training and not initializing:
            self.state_ = _mutable(state)
        return outputs


def transformed(function: Any) -> Any:
    """Transform a function that uses Haiku modules into pure functions with state.

    Args:
        function: the function, or the result of `haiku.transform` or
            `haiku.transform_with_state`.

    Raises:
        MissingPackageError: Haiku is not installed.
    """
    haiku = require("haiku", "haiku", "A function of Haiku")
    if isinstance(function, haiku.TransformedWithState):
        return function
    if isinstance(function, haiku.Transformed):
        return haiku.with_empty_state(function)
    return haiku.transform_with_state(function)


def _unknown(*args: object, **kwargs: object) -> None:
    """Stand for a function that cannot be found, whose arguments are unknown."""


def _mutable(tree: Params) -> dict[str, dict[str, object]]:
    return {module: dict(values) for module, values in tree.items()}
