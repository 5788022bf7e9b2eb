"""Linen modules as objects: layers with a Linen counterpart, and `FlaxModule`.

Each layer has a Linen layer as its counterpart, called its *twin* in the code, and has
the variables of the twin as fields: the kind of a field determines the collection, and
its name is that of the variable. Fields with the names of the twin's arguments are
passed to it. The twin does the computation. `FlaxModule` wraps any other Linen module.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import jax

import linsey.linen as linen
from linsey.errors.base import ArgumentTypeError, named
from linsey.errors.treex import MissingVariableError
from linsey.treex.contexts import next_key
from linsey.treex.key_seq import KeySeq
from linsey.treex.module import Module
from linsey.treex.treeo import Hashable, field, node, static
from linsey.treex.treeo.flatten import facts_of
from linsey.treex.types import BatchStat, Cache, Log, Parameter
from linsey.treex.utils import iter_split
from linsey.typing import AxisName

M = TypeVar("M", bound=Module)
_COLLECTIONS = {Parameter: "params", BatchStat: "batch_stats", Cache: "cache"}
_FIELDS = {"params": "params_", "batch_stats": "batch_stats_", "cache": "cache_"}


# --- layers --------------------------------------------------------------------------


@dataclass_transform(
    eq_default=False,
    field_specifiers=(
        field, node, static, Parameter.node, BatchStat.node, Cache.node
    ),
)  # fmt: skip
def layer(cls: type[M]) -> type[M]:
    """Make the fields of a module class the arguments of its constructor.

    Equality and hash remain those of the object's identity, as in all modules.
    """
    dataclasses.dataclass(eq=False, repr=False)(cls)
    for name in vars(cls)["__dataclass_fields__"]:
        # Instances have the defaults too. If a default stayed on the class, it would
        # be found there instead of the value of a lean instance.
        if name in vars(cls):
            delattr(cls, name)
    return cls


class LinenLayer(Module):
    """A layer whose variables and computation are those of a Linen layer.

    Subclasses declare a field for each variable and for each argument.

    Attributes:
        linen_class: the Linen layer.
        linen_names: the Linen names of arguments that have different names here.
    """

    linen_class: ClassVar[type[linen.Module]]
    linen_names: ClassVar[dict[str, str]] = {}
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]  # by `layer`

    @property
    def module(self) -> linen.Module:
        """The Linen twin."""
        arguments = twin_of(type(self)).arguments.items()
        return self.linen_class(
            **{theirs: getattr(self, ours) for ours, theirs in arguments}
        )

    def linen_variables(self) -> dict[str, dict[str, Any]]:
        """Return the variables of the twin that are set, by collection."""
        variables: dict[str, dict[str, Any]] = {}
        for name, collection in twin_of(type(self)).variables.items():
            value = getattr(self, name)
            if value is not None:
                variables.setdefault(collection, {})[name] = value
        return variables

    def take_variables(self, variables: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the fields of the given variables."""
        for name, collection in twin_of(type(self)).variables.items():
            if name in variables.get(collection, ()):
                setattr(self, name, variables[collection][name])

    def run(
        self,
        *args: object,
        axis_name: AxisName = None,
        mutable: Sequence[str] = (),
        rngs: dict[str, jax.Array] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the twin and store the collections that it may change.

        During `init`, the variables are created first, with the next key.

        Args:
            *args: arguments of the call.
            axis_name: a mapped axis along which initial parameters differ.
            mutable: the collections that the call may change.
            rngs: random keys of the call, by stream.
            **kwargs: keyword arguments of the call.

        Raises:
            NotInitializedError: the layer has no variables yet.
            MissingVariableError: `init` was given no inputs.
        """
        fields = twin_of(type(self)).variables
        if fields and self.initializing():
            key = next_key(axis_name=axis_name)
            self.take_variables(self.module.init(key, *args, **kwargs))
        variables = self.linen_variables()
        unset = [name for name in fields if getattr(self, name) is None]
        missing = [name for name in unset if getattr(self, f"use_{name}", True)]
        if missing:
            raise MissingVariableError(self, missing)
        outputs, updates = self.module.apply(
            variables, *args, rngs=rngs, mutable=list(mutable), **kwargs
        )
        self.take_variables(updates)
        return outputs

    def to_linen(self) -> tuple[linen.Module, dict[str, Any]]:
        """Return the Linen twin and its variables: the arrays of this layer."""
        return self.module, self.linen_variables()


class Twin(NamedTuple):
    """The fields that a class of layers shares with its Linen twin.

    Attributes:
        variables: the fields that are variables, with their collections.
        arguments: the fields that are arguments, with their names in Linen.
    """

    variables: dict[str, str]
    arguments: dict[str, str]


def twin_of(cls: type[LinenLayer]) -> Twin:
    """Return what a class shares with its twin; it is cached on this class."""
    twin = cls.__dict__.get("_twin")
    if twin is None:
        known = {made.name for made in dataclasses.fields(cls.linen_class)}
        known -= {"name", "parent"}
        ours = [made.name for made in dataclasses.fields(cls) if made.init]
        arguments = {name: cls.linen_names.get(name, name) for name in ours}
        variables = {
            name: _COLLECTIONS[entry.kind]
            for name, entry in facts_of(cls).metadata.items()
            if entry.node and entry.kind in _COLLECTIONS
        }
        twin = Twin(variables, {k: v for k, v in arguments.items() if v in known})
        type.__setattr__(cls, "_twin", twin)
    return twin


# --- any module ----------------------------------------------------------------------


class FlaxModule(Module):
    """Wraps a Linen module with its variables.

    If the called method has an argument `training`, it gets the mode of the module:
    `training and not frozen`, and False during initialization.

    Args:
        module: the Linen module.
        mutable: collections that calls in training may change.
        rngs: random streams of every call.
        init_rngs: further random streams of the initialization.
        variables: its variables, if it has been initialized before.
        method: name of the method to call.

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
        variables: Mapping[str, object] | None = None,
        method: str | None = None,
    ) -> None:
        self.module = Hashable(module)
        self.mutable = tuple(mutable)
        self.rng_names = tuple(rngs)  # `rngs` is a method of all modules
        self.init_rngs = tuple(init_rngs)
        self.method = "__call__" if method is None else method
        self.next_key = KeySeq()
        self.params_ = self.batch_stats_ = self.cache_ = self.variables_ = None
        if variables is not None:
            self.take_variables(variables)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module.

        Raises:
            NotInitializedError: the module has not been initialized.
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
            rngs = self._split((*self.rng_names, *self.init_rngs))
            outputs, new = module.init_with_output(rngs, *args, method=method, **kwargs)
            self.take_variables(new)
            return outputs
        variables, rngs = self.linen_variables(), self._split(self.rng_names)
        mutable = list(self.mutable) if training else []
        outputs, updates = module.apply(
            variables, *args, rngs=rngs, method=method, mutable=mutable, **kwargs
        )
        self.take_variables(updates)
        return outputs

    def linen_variables(self) -> dict[str, Any]:
        """Return the variables of the module, by collection."""
        known = {name: getattr(self, field) for name, field in _FIELDS.items()}
        known = {name: value for name, value in known.items() if value is not None}
        return {**known, **(self.variables_ or {})}

    def take_variables(self, variables: Mapping[str, object]) -> None:
        """Store collections, in place of those with the same names."""
        others = dict(self.variables_ or {})
        for collection, value in variables.items():
            value = _as_dict(value)
            if collection in _FIELDS:
                setattr(self, _FIELDS[collection], value)
            else:
                others[collection] = value
        if others or self.params_ is None:  # the latter means: no parameters at all
            self.variables_ = others

    def to_linen(self) -> tuple[Any, dict[str, Any]]:
        """Return the Linen module and its variables: the arrays of this object."""
        return self.module.value, self.linen_variables()

    def _split(self, names: Sequence[str]) -> dict[str, jax.Array]:
        """Return a key for each stream; a single stream gets the key itself."""
        if not names:
            return {}
        key = self.next_key()
        keys = [key] if len(names) == 1 else iter_split(key, len(names))
        return dict(zip(names, keys, strict=True))


def wants_training(
    method: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> bool:
    """Tell whether a method has an argument `training` that the caller did not give."""
    signature = inspect.signature(method)
    parameters = signature.parameters
    if "training" not in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    ):
        return False
    return "training" not in signature.bind_partial(*args, **kwargs).arguments


def _as_dict(value: object) -> object:
    """Return nested mappings as dictionaries; arrays are shared."""
    if isinstance(value, Mapping):
        return {name: _as_dict(item) for name, item in value.items()}
    return value


# --- between both faces --------------------------------------------------------------


def from_linen(
    module: Any,
    variables: Mapping[str, object],
    *,
    key: int | jax.Array = 0,
    **options: Any,
) -> FlaxModule:
    """Return an initialized object with a Linen module and its variables.

    The arrays are shared, not copied. `to_linen` returns the module and the variables.

    Args:
        module: any Linen module.
        variables: its variables by collection, as `init` returns them.
        key: the seed or key from which the random keys of calls are derived.
        **options: further arguments of `FlaxModule`, for example `rngs`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn, linsey.treex as tx
        >>> module = nn.Dense(3)
        >>> variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> model = tx.from_linen(module, variables)
        >>> model(jnp.ones((5, 2))).shape
        (5, 3)
        >>> model.to_linen()[1]["params"]["kernel"] is variables["params"]["kernel"]
        True
    """
    # Only the keys are left to initialize, so no call is needed.
    return FlaxModule(module, variables=variables, **options).init(key)


def to_linen(obj: object) -> tuple[Any, dict[str, Any]]:
    """Return the Linen module of an object, and its variables, which share arrays.

    Args:
        obj: a `FlaxModule`, a layer, or a `Sequential` of these.

    Raises:
        ArgumentTypeError: the object has no Linen equivalent.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> module, variables = tx.to_linen(tx.Linear(3).init(0, jnp.ones((1, 2))))
        >>> type(module).__name__, sorted(variables["params"])
        ('Dense', ['bias', 'kernel'])
    """
    convert = getattr(obj, "to_linen", None)
    if convert is None:
        raise ArgumentTypeError(
            f"{named(obj)} cannot be written as a Linen module.",
            "Its `__call__` is a program of its own, which nothing translates.",
            "Convert its layers one by one (`layer.to_linen()`), or wrap the Linen "
            "module in the first place, `tx.from_linen(module, variables)`.",
        )
    return convert()
