"""The state of one `init`, `apply` or `bind`, and the scopes that point into it.

A `Context` is shared by the whole run, a `Scope` is a light pointer (context, path)
into its variables, and a `Variable` is a reference to one of them. The terms and
invariants are those of `linsey.core.scope`, which makes functions of scopes pure.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from linsey import _drawing, errors
from linsey.config import config
from linsey.core import meta, tracers
from linsey.core.filters import NONE, Filter, Selection
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.core.meta import PLAIN_TYPES, is_plain_array, unbox_fast
from linsey.core.rng import LazyRng
from linsey.errors._texts import no_node, not_text
from linsey.typing import Collection, MutableCollection, PRNGKey, VariableDict

T = TypeVar("T")
Flags = Mapping[str, object]
Args = tuple[object, ...]
Kwargs = Mapping[str, object]
Init = Callable[..., T]

_MISSING = object()

# The root keys of the streams that differ between the steps of the lifted loop that is
# running. Modules from outside the loop also draw from them; otherwise they would draw
# the same keys in every step.
_NO_KEYS: Mapping[str, PRNGKey] = FrozenDict()
STEP: ContextVar[Mapping[str, PRNGKey]] = ContextVar("linsey_step", default=_NO_KEYS)
# The collections whose variables keep the values that they are created with.
KEPT: ContextVar[Selection] = ContextVar("linsey_kept", default=NONE)
# In the trace that finds the values which are the same at every step of a loop: that
# trace, and the variables that it created outside of the loop.
Created = list[tuple["Scope", str, str]]
CREATED: ContextVar[tuple[object, Created]] = ContextVar("created", default=(None, []))
# Whether the name or path of a scope has been read since this was last reset. If so,
# the results of the program may depend on it.
PLACE_READ: ContextVar[bool] = ContextVar("linsey_place_read", default=False)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Context:
    """The state that all scopes of one `init`, `apply` or `bind` share.

    Attributes:
        mutable: which collections may be written, as passed by the user.
        rngs: the root key of each stream.
        flags: settings readable from every scope.
        selection: `mutable`, normalized.
        is_mutable: whether a collection may be written. It is called for each variable,
            so its results are cached.
        trace: the JAX trace in which the context began.
        is_valid: whether the context has not ended.
        memo: the bound module made from each module met so far, by the id of that
            module, which is kept with it: an object that is met twice is bound once.
        bound: every module bound here, if the end of the context is known.
        step: the keys of the step of a lifted loop in which the context began.
    """

    mutable: Filter | Selection
    rngs: Mapping[str, LazyRng]
    flags: Flags
    selection: Selection = dataclasses.field(init=False)
    is_mutable: Callable[[str], bool] = dataclasses.field(init=False)
    trace: object = dataclasses.field(default_factory=tracers.current_trace)
    is_valid: bool = True
    memo: dict[int, tuple[object, Any]] = dataclasses.field(default_factory=dict)
    bound: list[object] | None = None
    step: Mapping[str, PRNGKey] = dataclasses.field(default_factory=STEP.get)

    def __post_init__(self) -> None:
        self.selection = Selection.of(self.mutable)
        self.is_mutable = functools.cache(self.selection.__contains__)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Variable(Generic[T]):
    """A reference to one variable of a scope: read and write it through `value`."""

    scope: Scope
    collection: str
    name: str
    unbox: bool = True

    @property
    def value(self) -> T:
        """The current value; axis metadata boxes are removed if `unbox` is set."""
        value = self.scope.get_variable(self.collection, self.name)
        return unbox_fast(value) if self.unbox else value

    @value.setter
    def value(self, value: T) -> None:
        boxed: object = value
        if self.unbox:
            current = self.scope.get_variable(self.collection, self.name)
            if current is not None and not is_plain_array(current):
                boxed = meta.keep_boxes(current, value)
        self.scope.put_variable(self.collection, self.name, boxed)

    def is_mutable(self) -> bool:
        """Return whether the collection of this variable may be written."""
        return self.scope.is_mutable_collection(self.collection)


class Scope:
    """A pointer into the variables of a context.

    A root scope holds the variables; a child finds its part of each collection through
    its parent, once, and remembers it.

    Args:
        variables: `{collection: tree}`; writable collections must be plain dicts.
        rngs: a JAX key or `LazyRng` for each stream.
        name: name of this scope in its parent.
        mutable: which collections may be written.
        parent: the scope above; `None` for a root.
        path: names from the root of the model to this scope.
        flags: settings readable from every scope below, e.g. `initializing`.
    """

    __slots__ = (
        "context", "parent", "_name", "_path", "reservations", "rng_counters",
        "_nodes", "_suffix", "__weakref__",
    )  # fmt: skip

    def __init__(
        self,
        variables: VariableDict,
        rngs: Mapping[str, PRNGKey | LazyRng] | None = None,
        name: str | None = None,
        mutable: Filter | Selection = False,
        parent: Scope | None = None,
        path: Iterable[str] = (),
        debug_path: Iterable[str] = (),
        flags: Flags | None = None,
    ):
        lazy = {stream: LazyRng.create(key) for stream, key in (rngs or {}).items()}
        self.context = Context(mutable, lazy, dict(flags or {}))
        self.parent = parent
        self._name = name
        self._path = tuple(path)
        self.reservations: dict[str, set[str | None]] = {}
        # Number of draws from each stream at each path; all scopes below share it.
        self.rng_counters: dict[tuple[tuple[str, ...], str], int] = {}
        # This scope's part of each collection.
        self._nodes: dict[str, Collection] = variables  # type: ignore[assignment]
        self._suffix: tuple[str, ...] = ()  # path from the root of this context

    def _descend(self, name: str) -> Scope:
        """Return the child scope `name`, without any check."""
        child = object.__new__(Scope)
        child.context = self.context
        child.parent = self
        child._name = name
        child._path = (*self._path, name)
        child.reservations = {}
        child.rng_counters = self.rng_counters
        child._nodes = {}
        child._suffix = (*self._suffix, name)
        return child

    # -- where this scope is ---------------------------------------------------------

    @property
    def root(self) -> Scope:
        """The root scope of this context."""
        return self if self.parent is None else self.parent.root

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root of the model to this scope."""
        PLACE_READ.set(True)
        return self._path

    @property
    def name(self) -> str | None:
        """The name of this scope in its parent."""
        if self._name is not None or not self._path:
            return self._name
        return self.path[-1]  # of the root of a compiled function

    @property
    def path_text(self) -> str:
        """The path in readable form, such as `/encoder/Dense_0`."""
        return "/" + "/".join(self.path)

    debug_path = property(lambda self: self.path)

    @property
    def mutable(self) -> Filter | Selection:
        """The filter of the collections that may be written."""
        return self.context.mutable

    @property
    def flags(self) -> Flags:
        """The flags of this context."""
        return self.context.flags

    @property
    def rngs(self) -> dict[str, LazyRng]:
        """The keys of all streams at this scope."""
        rngs = self.context.rngs.items()
        keys = {stream: self._of_step(stream, key) for stream, key in rngs}
        return {s: LazyRng.create(key, *self._suffix) for s, key in keys.items()}

    @property
    def invalid(self) -> bool:
        """Whether the `init`, `apply` or `bind` of this scope is over."""
        return not self.context.is_valid

    def _check_valid(self) -> None:
        if not self.context.is_valid:
            raise errors.InvalidScopeError(self.path_text)

    def has_flag(self, key: str) -> bool:
        """Return whether a flag is set at all."""
        return key in self.context.flags

    def get_flag(self, key: str, default: object = _MISSING) -> Any:
        """Return the value of a flag."""
        value = self.context.flags.get(key, default)
        if value is _MISSING:
            raise ValueError(f"Flag {key!r} is not set and no default was given.")
        return value

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Scope]:
        """Use this scope in a `with` block; it is invalid afterwards."""
        self.context.bound = []
        try:
            yield self
        finally:
            self.invalidate()

    def invalidate(self) -> None:
        """End this context: later use of any of its scopes is an error."""
        context = self.context
        context.is_valid = False
        # Break the parent-child cycles of bound modules, so that they and any tracers
        # they hold are freed now and not in the next garbage collection.
        for module in context.bound or ():
            module.__dict__["parent"] = None
        context.bound = None
        context.memo = {}

    # -- names and children ----------------------------------------------------------

    def name_reserved(self, name: str, col: str | None = None) -> bool:
        """Return whether a child, or a variable of collection `col`, has this name."""
        taken = self.reservations.get(name)
        return bool(taken) and (None in taken or col is None or col in taken)

    def reserve(self, name: str, col: str | None = None) -> None:
        """Reserve a name for a child (`col=None`) or for a variable of `col`."""
        if not isinstance(name, str):
            raise not_text(name)
        if self.name_reserved(name, col):
            raise errors.OptionError(
                f'Duplicate use of scope name: "{name}"',
                f"A child or a variable of {self.path_text} has this name already.",
                "Give one of them another name, or call one child twice to share it.",
            )
        self.reservations.setdefault(name, set()).add(col)

    def default_name(self, prefix: str) -> str:
        """Return the first free name `prefix0`, `prefix1`, ..."""
        names = (f"{prefix}{i}" for i in itertools.count())
        return next(name for name in names if name not in self.reservations)

    def push(
        self, name: str | None = None, prefix: str = "", reuse: bool = False
    ) -> Scope:
        """Make a child scope; its name is reserved unless `reuse`."""
        self._check_valid()
        if name is None:
            name = self.default_name(prefix)
        if not reuse or name not in self.reservations:
            self.reserve(name)
        return self._descend(name)

    def child(
        self,
        fn: Callable[..., T],
        name: str | None = None,
        prefix: str | None = None,
        named_call: bool = True,
        **partial_kwargs: object,
    ) -> Callable[..., T]:
        """Turn a function of a scope into one that runs in a child of this scope.

        Calling the result twice shares the child's variables.
        """
        if prefix is None:
            prefix = fn.__name__ + "_" if hasattr(fn, "__name__") else ""
        scope = self.push(name, prefix)
        named = jax.named_scope if named_call else contextlib.nullcontext

        def call(*args: object, **kwargs: object) -> T:
            with named(scope._path[-1]):
                return fn(scope.rewound(), *args, **{**partial_kwargs, **kwargs})

        return call

    def rewound(self, rewind_rngs: bool = False) -> Scope:
        """Return a scope with the same path in which no name is reserved yet."""
        self._check_valid()
        scope = copy.copy(self)
        scope.reservations = {}
        if rewind_rngs:
            scope.rng_counters = {}
        return scope

    # -- variables -------------------------------------------------------------------

    def _node(self, col: str) -> Collection | None:
        """Return this scope's part of a collection, or `None` if there is none."""
        node = self._nodes.get(col)
        if node is None and self.parent is not None:
            above = self.parent._node(col)
            if above is not None:
                node = above.get(self._path[-1])
                if isinstance(node, Mapping):
                    self._nodes[col] = node
                elif node is not None:
                    raise no_node(self, col)
        return node

    def _mutable_collection(self, col: str) -> MutableCollection:
        node = self._node(col)
        if node is None:
            node = self._nodes[col] = {}
            if self.parent is not None:
                self.parent._mutable_collection(col)[self._path[-1]] = node
        return node  # type: ignore[return-value]

    def is_mutable_collection(self, col: str) -> bool:
        """Return whether collection `col` may be written here."""
        return self.context.is_mutable(col)

    def is_collection_empty(self, col: str) -> bool:
        """Return whether the context has no variables in collection `col`."""
        return not self.root._nodes.get(col)

    def nodes(self) -> dict[str, Collection]:
        """Return this scope's part of every collection, as stored."""
        found = {col: self._node(col) for col in self.root._nodes}
        return {col: node for col, node in found.items() if node is not None}

    def mutable_nodes(self) -> dict[str, Collection]:
        """Return this scope's part of the collections that may be written."""
        nodes = self.nodes()
        collections = filter(self.context.is_mutable, self.root._nodes)
        return {col: nodes.get(col, {}) for col in collections}

    def mutable_variables(self) -> VariableDict:
        """Return the current state of the collections that may be written."""
        return _as_returned(self.mutable_nodes())

    def variables(self) -> VariableDict:
        """Return this scope's part of every collection."""
        return _as_returned(self.nodes())

    def has_variable(self, col: str, name: str) -> bool:
        """Return whether variable `name` of collection `col` exists here."""
        return name in (self._node(col) or ())

    def get_variable(self, col: str, name: str, default: object = None) -> Any:
        """Return the value of a variable, or `default` if it does not exist."""
        return (self._node(col) or {}).get(name, default)

    def put_variable(self, col: str, name: str, value: object) -> None:
        """Write a variable; raise `ModifyScopeVariableError` if `col` is immutable."""
        self._check_valid()
        if not self.context.is_mutable(col):
            raise errors.ModifyScopeVariableError(col, name, self.path_text)
        if tracers.leaks(self.context.trace, value):
            trace, created = CREATED.get()
            if trace != tracers.current_trace() or self.has_variable(col, name):
                errors.report_misuse(errors.JaxTransformError())
            else:
                created.append((self, col, name))
        kept = KEPT.get()
        if kept is not NONE and col in kept and self.has_variable(col, name):
            return
        _put(self._mutable_collection(col), name, value)

    def variable(
        self,
        col: str,
        name: str,
        init_fn: Init[T] | None = None,
        *init_args: object,
        unbox: bool = True,
        **init_kwargs: object,
    ) -> Variable[T]:
        """Declare a variable: create it if it is missing; return a reference to it."""
        self.reserve(name, col)
        self._create_missing(col, name, init_fn, init_args, init_kwargs)
        return Variable(self, col, name, unbox=unbox)

    def _create_missing(
        self, col: str, name: str, init_fn: Init[T] | None, args: Args, kwargs: Kwargs
    ) -> None:
        """Create a variable if it is missing."""
        if not self.has_variable(col, name):
            if init_fn is None or not self.context.is_mutable(col):
                raise self._not_found(errors.ScopeVariableNotFoundError, col, name, col)
            self.put_variable(col, name, init_fn(*args, **kwargs))

    def param(
        self,
        name: str,
        init_fn: Init[T],
        *init_args: object,
        unbox: bool = True,
        **init_kwargs: object,
    ) -> T:
        """Declare a parameter: read it, or create it as `init_fn(key, *init_args)`.

        An existing value must have the shape that `init_fn` would give it.
        """
        self.reserve(name, "params")
        return self._param(name, init_fn, init_args, init_kwargs, unbox)

    def _param(
        self, name: str, init_fn: Init[T], args: Args, kwargs: Kwargs, unbox: bool
    ) -> T:
        node = self._nodes.get("params")
        if node is None:
            node = self._node("params")
        value: Any = _MISSING if node is None else node.get(name, _MISSING)
        if value is _MISSING:
            if not self.context.is_mutable("params"):
                raise self._not_found(errors.ScopeParamNotFoundError, "params", name)
            key = self._next_key("params")
            drawn = None if init_fn in _KEYLESS else key
            value = _drawing.draw(init_fn, drawn, args, kwargs)
            self.put_variable("params", name, value)
            return unbox_fast(value) if unbox else value
        if type(value) in PLAIN_TYPES or is_plain_array(value):
            # The shape is nearly always among the arguments of the initializer.
            # Otherwise the initializer has to be evaluated (abstractly).
            shape = getattr(value, "shape", ())
            try:
                for arg in args:
                    if type(arg) is tuple and arg == shape:
                        return value
            except (TypeError, ValueError):  # tuples of arrays, or of tracers
                pass
        self._check_param_shape(name, value, init_fn, args, kwargs)
        return unbox_fast(value) if unbox else value

    def _not_found(
        self, error: Callable[..., Exception], col: str, name: str, *details: str
    ) -> Exception:
        """Make the error for a missing variable, or for a missing collection."""
        if self.is_collection_empty(col):
            return errors.ScopeCollectionNotFound(col, name, self.path_text)
        return error(name, *details, self.path_text, available=self._node(col))

    def _check_param_shape(
        self, name: str, value: T, init_fn: Init[T], args: Args, kwargs: Kwargs
    ) -> None:
        """Compare the shapes of a stored parameter with those that `init_fn` gives."""
        expected = jax.eval_shape(lambda: init_fn(jax.random.key(0), *args, **kwargs))
        # Boxes are inspected but not unboxed, which could add sharding constraints.
        # Only the shapes must agree: values may be stored in another dtype.
        for got, want in zip(_shapes(value), _shapes(expected), strict=False):
            if got != want:
                raise errors.ScopeParamShapeError(name, self.path_text, got, want)

    # -- random keys -----------------------------------------------------------------

    def has_rng(self, name: str) -> bool:
        """Return whether there is a stream `name`."""
        return name in self.context.rngs

    def make_rng(self, name: str = "params") -> PRNGKey:
        """Return the next key of a stream; unknown streams fall back to `params`."""
        return self._of_step(name, self._next_key(name)).as_jax_rng()

    def _of_step(self, name: str, key: LazyRng) -> LazyRng:
        """Return a key for the current step of a loop that this scope is outside of.

        Keys that create variables outside of a loop are the same in all of its steps.
        """
        step = STEP.get()
        if step is self.context.step or name == "params":
            return key
        stream = name if name in self.context.rngs else "params"
        return LazyRng(step.get(stream, key.rng), key.suffix)

    def _next_key(self, name: str) -> LazyRng:
        """Count a draw from a stream; the caller computes the key."""
        rngs = self.context.rngs
        if name not in rngs:
            if "params" not in rngs:
                raise errors.InvalidRngError(
                    f'{self.name} needs PRNG for "{name}", at {self.path_text}.',
                    stream=name,
                    available=sorted(rngs),
                )
            name = "params"
        self._check_valid()
        drawn = (self._path, name)
        self.rng_counters[drawn] = count = self.rng_counters.get(drawn, 0) + 1
        key = rngs[name]
        return LazyRng(key.rng, (*key.suffix, *self._suffix, count))


# The usual initializers of biases and scales: they use no randomness, so the draw is
# counted but the key is not computed.
_KEYLESS = (jax.nn.initializers.zeros, jax.nn.initializers.ones)


def _shapes(tree: object) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree_util.tree_leaves(tree)]


def _as_returned(variables: dict[str, Collection]) -> VariableDict:
    return freeze(variables) if config.flax_return_frozendict else variables


def _put(target: MutableCollection, name: str, value: object) -> None:
    """Write a value; a mapping is merged into an existing dict."""
    current = target.get(name)
    if isinstance(current, dict) and isinstance(value, Mapping):
        for key, item in value.items():
            _put(current, key, item)
    else:
        target[name] = value
