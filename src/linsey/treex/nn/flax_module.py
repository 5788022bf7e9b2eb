"""Any Linen module as an object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from linsey.errors.treex import MissingVariableError
from linsey.treex.key_seq import KeySeq
from linsey.treex.kinds import BatchStat, Cache, Log, Parameter
from linsey.treex.module import Module
from linsey.treex.treeo import Hashable
from linsey.treex.utils import iter_split

_FIELDS = {"params": "params_", "batch_stats": "batch_stats_", "cache": "cache_"}


class FlaxModule(Module):
    """Wraps a Linen module with its variables.

    If the method that is called has an argument `training`, it gets the module's mode:
    `training and not frozen`, and False while initializing.

    Args:
        module: the Linen module.
        mutable: collections that calls in training may change.
        rngs: random streams of every call.
        init_rngs: further ones of the initialization.
        variables: its variables, if it has been initialized before.
        method: name of the method that is called.

    Attributes:
        params_: the collection `params`.
        batch_stats_: the collection `batch_stats`.
        cache_: the collection `cache`.
        variables_: all other collections.

    Example:
        >>> import jax.numpy as jnp, linsey.linen as nn, linsey.treex as tx
        >>> model = tx.FlaxModule(nn.Dense(3)).init(42, jnp.ones((1, 2)))
        >>> model(jnp.ones((5, 2))).shape, model.params_["kernel"].shape
        ((5, 3), (2, 3))
    """

    params_: Any = Parameter.node()
    batch_stats_: Any = BatchStat.node()
    cache_: Any = Cache.node()
    variables_: Any = Log.node()
    next_key: KeySeq

    def __init__(
        self,
        module: Any,
        mutable: Sequence[str] = ("batch_stats", "cache"),
        rngs: Sequence[str] = ("dropout",),
        init_rngs: Sequence[str] = ("params",),
        variables: Mapping[str, Any] | None = None,
        method: str | None = None,
    ) -> None:
        self.module = Hashable(module)
        self.mutable = tuple(mutable)
        self.rng_names = tuple(rngs)
        self.init_rngs = tuple(init_rngs)
        self.method = "__call__" if method is None else method
        self.next_key = KeySeq()
        self.params_ = None
        self.batch_stats_ = None
        self.cache_ = None
        self.variables_ = None
        if variables is not None:
            self.take_variables(variables)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module.

        Raises:
            NotInitializedError: it has not been initialized.
            MissingVariableError: `init` was given no inputs, and there are no
                variables.
        """
        module = self.module.value
        method = getattr(type(module), self.method)
        initializing = self.initializing()
        training = self.training and not self.frozen and self.initialized
        if wants_training(method, (module, *args), kwargs):
            kwargs = {**kwargs, "training": training}
        if self.params_ is None and self.variables_ is None:
            if not initializing:
                raise MissingVariableError(self, ["params_"])
            outputs, variables = module.init_with_output(
                self._split((*self.rng_names, *self.init_rngs)),
                *args,
                method=method,
                **kwargs,
            )
            self.take_variables(variables)
            return outputs
        outputs, updates = module.apply(
            self.linen_variables(),
            *args,
            rngs=self._split(self.rng_names),
            method=method,
            mutable=list(self.mutable) if training else [],
            **kwargs,
        )
        self.take_variables(updates)
        return outputs

    def linen_variables(self) -> dict[str, Any]:
        """The variables of the module, by collection."""
        known = {
            collection: getattr(self, field)
            for collection, field in _FIELDS.items()
            if getattr(self, field) is not None
        }
        return {**known, **(self.variables_ or {})}

    def take_variables(self, variables: Mapping[str, Any]) -> None:
        """Keeps collections, in place of those of the same name."""
        others = dict(self.variables_ or {})
        for collection, value in variables.items():
            value = _as_dict(value)
            if collection in _FIELDS:
                setattr(self, _FIELDS[collection], value)
            else:
                others[collection] = value
        if others or self.params_ is None:  # then the module has no parameters
            self.variables_ = others

    def to_linen(self) -> tuple[Any, dict[str, Any]]:
        """The Linen module and its variables, which are the arrays of this object."""
        return self.module.value, self.linen_variables()

    def _split(self, names: Sequence[str]) -> dict[str, jax.Array]:
        """A key for each stream; one stream gets the key as it is."""
        if not names:
            return {}
        key = self.next_key()
        keys = [key] if len(names) == 1 else iter_split(key, len(names))
        return dict(zip(names, keys, strict=True))


def wants_training(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a method has an argument `training` that the caller did not give."""
    signature = inspect.signature(method)
    parameters = signature.parameters
    if "training" not in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    ):
        return False
    return "training" not in signature.bind_partial(*args, **kwargs).arguments


def _as_dict(value: Any) -> Any:
    """Nested mappings as dictionaries; arrays are shared."""
    if isinstance(value, Mapping):
        return {name: _as_dict(item) for name, item in value.items()}
    return value
