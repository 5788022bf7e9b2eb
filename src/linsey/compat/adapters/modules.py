"""Private names of `flax.linen.module`: the running modules and records of calls."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from contextvars import ContextVar
from typing import Any, overload

import jax

from linsey._contexts import assigned
from linsey.core.frozen_dict import FrozenDict
from linsey.linen.module import Module, binding, intercept_methods
from linsey.linen.module.functional import INTERCEPTORS, RUNNING, Capture
from linsey.linen.summary.calls import abstract

Sentinel = binding._Unspecified
unspecified_parent = binding.UNSPECIFIED

# The modules that `append` has covered in this thread or task, outermost first.
_COVERED: ContextVar[tuple[Any, ...]] = ContextVar("linsey_covered", default=())


class ModuleStack(MutableSequence[Any]):
    """The modules whose methods are running, outermost first, after a `None`.

    linsey stores only the innermost one; the others are found through its parents. New
    modules without a parent become children of the module that is last in this stack.
    """

    def _items(self) -> list[Any]:
        module, items = RUNNING.get(), []
        if module is None:
            return [*_COVERED.get(), None]
        while isinstance(module, Module):
            items.append(module)
            module = module.parent
        return [*(_COVERED.get() or (None,)), *reversed(items)]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return RUNNING.get() if index == -1 else self._items()[index]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        items = self._items()
        items[index] = value
        _COVERED.set(())
        RUNNING.set(items[-1] if items else None)

    def __delitem__(self, index: int | slice) -> None:
        if index == -1 and _COVERED.get():
            *covered, last = _COVERED.get()
            _COVERED.set(tuple(covered))
            RUNNING.set(last)
            return
        items = self._items()
        del items[index]
        RUNNING.set(items[-1] if items else None)

    def __len__(self) -> int:
        return len(self._items())

    def insert(self, index: int, value: Any) -> None:
        """Put a module on top of the stack, whatever the index is."""
        _COVERED.set((*_COVERED.get(), RUNNING.get()))
        RUNNING.set(value)

    def __repr__(self) -> str:
        return repr(self._items())


class SetupState(enum.IntEnum):
    """Whether the `setup` of a module has run."""

    NEW = 0
    TRANSFORMED = 1
    DONE = 2


@dataclasses.dataclass
class InternalState:
    """The stage of a module's life, in the form in which Flax stores it."""

    in_compact_method: bool = False
    in_setup: bool = False
    setup_called: SetupState = SetupState.NEW
    is_initialized: bool = True
    autoname_cursor: dict[str, int] = dataclasses.field(default_factory=dict)
    children: dict[str, Any] = dataclasses.field(default_factory=dict)


class StateOfModule:
    """Descriptor for the state of a module; an attribute of that name comes first."""

    def __get__(self, module: Module | None, owner: type) -> Any:
        """Return the state of a module; each access builds a new record."""
        if module is None:
            return self
        bound = module._bound
        if bound is None:
            return InternalState()
        compact = bound.frame is not bound.setup_frame and bound.frame.is_open
        done = SetupState.DONE if bound.phase == binding.READY else SetupState.NEW
        counts, names = dict(bound.frame.counts), bound.frame.names.items()
        children = {k: v[0] if isinstance(v, tuple) else v for k, v in names}
        return InternalState(
            compact, bound.phase == binding.SETTING_UP, done, True, counts, children
        )


state_of_module = StateOfModule()


@property
def may_initialize(self: Module) -> bool:
    """Whether the module may create parameters and submodules now."""
    return self._bound is None or self._bound.frame.is_open


def try_setup(self: Module, shallow: bool = False) -> None:
    """Run `setup` if it has not run yet, unless `shallow` is set."""
    bound = self._bound
    if bound is not None and bound.phase == binding.FRESH and not shallow:
        bound.set_up(self)


@dataclasses.dataclass
class CallInfo:
    """One call of a method, with shapes and dtypes in place of arrays."""

    index: int
    path: tuple[str, ...]
    module: Module
    rngs: dict[str, Any] | None
    mutable: Any
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any


CallInfo.__name__ = CallInfo.__qualname__ = "_CallInfo"


class Calls:
    """A record of calls, in the order in which they returned."""

    def __init__(self) -> None:
        self.index = 0
        self.calls: list[CallInfo] = []

    def get_call_index(self) -> int:
        """Return the index of the next call."""
        self.index += 1
        return self.index - 1


_CALLS: ContextVar[tuple[Calls, ...]] = ContextVar("linsey_calls", default=())


class DynamicContext:
    """The current context: running modules, captured methods, records of calls."""

    def __init__(self) -> None:
        self.module_stack = ModuleStack()

    @property
    def capture_stack(self) -> list[Any]:
        """The filters of `capture_intermediates`; `False` if nothing is captured."""
        found = [i.which for i in INTERCEPTORS.get() if isinstance(i, Capture)]
        return found or ([] if RUNNING.get() is None else [False])

    @property
    def call_info_stack(self) -> list[Calls]:
        """The records that `_tabulate_context` keeps."""
        return list(_CALLS.get())


context = DynamicContext()


@contextlib.contextmanager
def tabulate_context() -> Iterator[None]:
    """Record the calls in the `with` block, in `_context.call_info_stack[-1].calls`."""
    record = Calls()

    def note(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: Any,
    ) -> Any:
        module, method = context.module, context.method_name
        if method == "setup":
            return next_fun(*args, **kwargs)
        index = record.get_call_index()
        outputs = next_fun(*args, **kwargs)
        copy, variables = module.unbind()
        inputs, found, variables = abstract(((args, dict(kwargs)), outputs, variables))
        rngs = {name: rng.as_jax_rng() for name, rng in module.scope.rngs.items()}
        call = CallInfo(
            index,
            module.path,
            copy,
            abstract(rngs),
            module.scope.mutable,
            method,
            *inputs,
            found,
        )
        vars(call)["_variables"] = variables
        record.calls.append(call)
        return outputs

    with assigned(_CALLS, (*_CALLS.get(), record)), intercept_methods(note):
        yield


def freeze_attr(value: Any) -> Any:
    """Freeze dictionaries and turn lists into tuples, as in the fields of modules."""
    if isinstance(value, dict | FrozenDict):
        return FrozenDict({k: freeze_attr(v) for k, v in value.items()})
    if isinstance(value, tuple):
        items = [freeze_attr(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return tuple(freeze_attr(v) for v in value)
    return value


def get_fn_name(fn: Any) -> str:
    """Return the name of a function, looking inside `functools.partial` objects."""
    return get_fn_name(fn.func) if hasattr(fn, "func") else (
        getattr(fn, "__name__", "unnamed_function")
    )  # fmt: skip


def module_repr(module: Module, num_spaces: int = 4) -> str:
    """Return a text that shows a module with its fields and children."""
    return repr(module)


def map_submodules(fn: Callable[[Module], Any], tree: Any) -> Any:
    """Freeze a tree and map a function over the modules in it; keep other leaves."""
    return jax.tree.map(
        lambda leaf: fn(leaf) if isinstance(leaf, Module) else leaf,
        freeze_attr(tree),
        is_leaf=lambda leaf: isinstance(leaf, Module),
    )
