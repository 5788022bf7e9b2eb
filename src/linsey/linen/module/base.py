"""`Module`: a dataclass that describes a piece of a model.

A module instance is a description until it is bound to a scope; then its methods can
declare and use variables. Its life:

1. *constructed* (`phase.py`): inside a compact method it becomes a child of the running
   module at once; in `setup` when it is assigned; anywhere else it stays unbound.
2. *bound* (`adoption.py`): it gets a scope, and the modules in its fields become its
   children.
3. *set up*, lazily: `setup` runs at the first call or look-up that may need it.

Every method is wrapped (`methods.py`), and all names of a module are taken in its frame
(`frame.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from linsey import errors
from linsey.core import scope as core_scope
from linsey.core.filters import Filter
from linsey.core.scope import Scope, Variable, VariableDict
from linsey.linen.module import adoption, functional
from linsey.linen.module.fields import make_dataclass
from linsey.linen.module.functional import CREATED, CaptureFilter
from linsey.linen.module.methods import wrap_class
from linsey.linen.module.phase import CONSTRUCTING, FRESH, READY, SETTING_UP, UNBOUND
from linsey.linen.module.repr import module_repr
from linsey.linen.module.stack import RUNNING

T = TypeVar("T")

RNGs = Any


class _Unspecified:
    """Stands for a parent that is not given: the module that is running, if any."""

    def __reduce__(self) -> str:  # so that copies are this object too
        return "_unspecified"

    def __repr__(self) -> str:
        return "<the running module>"


_unspecified = _Unspecified()


def tuple_init() -> tuple[Any, ...]:
    """The initial value of a sown variable: an empty tuple."""
    return ()


def tuple_reduce(xs: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
    """Appends to a tuple: how sown values are collected unless told otherwise."""
    return (*xs, x)


@dataclass_transform(field_specifiers=(field,))
class ModuleBase:
    """Tells type checkers that subclasses of `Module` are dataclasses."""


@dataclass(repr=False)
class Module(ModuleBase):
    """Base class of all modules: layers, models, anything that holds variables.

    Subclasses are dataclasses: annotated class attributes are constructor arguments.
    Submodules and variables are declared in `setup` or in one method marked `compact`.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> class Scale(nn.Module):
        ...     start: float = 2.0
        ...
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         scale = self.param("scale", lambda key: jnp.full((), self.start))
        ...         return scale * x
        >>> Scale().init(jax.random.key(0), 3.0)
        {'params': {'scale': Array(2., dtype=float32, weak_type=True)}}

    Attributes:
        parent: the module (or scope) this one belongs to; None for the outermost.
        name: its name there; chosen automatically if not given.
        scope: where its variables are; None while it is unbound.
    """

    parent: Any = field(default=_unspecified, repr=False, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    scope: ClassVar[Scope | None] = None
    _phase: ClassVar[int] = CONSTRUCTING
    _init_fields: ClassVar[tuple[str, ...]] = ()
    _has_setup: ClassVar[bool] = False
    _hash_fields: ClassVar[tuple[str, ...]] = ("parent", "name")

    # -- class creation --------------------------------------------------------------

    def __init_subclass__(cls, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        make_dataclass(cls, Module, kw_only)
        wrap_class(cls)
        cls._has_setup = cls.setup is not Module.setup

    # -- one instance ----------------------------------------------------------------

    def __post_init__(self) -> None:
        values = self.__dict__
        parent = values["parent"]
        if parent is _unspecified:
            parent = values["parent"] = RUNNING.get()
        values["_phase"] = UNBOUND
        if parent is None:
            return
        if isinstance(parent, Module):
            if parent._phase == SETTING_UP and values["name"] is None:
                return  # named and bound when it is assigned
            frame = parent.__dict__.get("_frame")
            if frame is None or not frame.is_open:
                raise errors.AssignSubModuleError(type(self).__name__)
            if values["name"] is None:
                values["name"] = frame.automatic_name(type(self).__name__)
            adoption.attach(self, parent)
        elif isinstance(parent, Scope):
            adoption.bind_module(self, parent)
        else:
            raise ValueError(
                f"`parent` of {type(self).__name__} must be None, a Module or a Scope,"
                f" got {type(parent).__name__}."
            )

    def setup(self) -> None:
        """Declares submodules and variables; runs when a bound module is first used.

        What it assigns to `self` is visible to all methods of the bound module.
        """

    def _run_setup(self) -> None:
        values = self.__dict__
        values.update(_phase=SETTING_UP, _assigned=[])
        before = values["_frame"]
        frame = values["_frame"] = values["_setup_frame"]
        frame.is_open = True
        adopted = dict(frame.names)
        try:
            self.setup()
        except BaseException:
            values["_phase"] = FRESH
            for name in values.pop("_assigned"):
                values.pop(name, None)
            frame.names, frame.counts = adopted, {}
            raise
        finally:
            frame.is_open = False
            values["_frame"] = before
        values["_phase"] = READY

    def _open_frame(self) -> bool:
        """Opens a frame of names for a compact call; False inside another one."""
        if self.scope is None:
            raise errors.CallCompactUnboundModuleError(module=self)
        frame = self._frame
        if frame.is_open and frame is not self._setup_frame:
            return False
        self.__dict__["_frame"] = self._setup_frame.child()
        return True

    def _open(self, what: str) -> Any:
        """The frame in which a `what` can be declared now."""
        if self.scope is None:
            raise errors.UnboundModuleError(what, module=self)
        frame = self._frame
        if not frame.is_open:
            raise errors.DeclarationOutsideSetupError(what, module=self)
        return frame

    # -- attributes ------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        phase = self._phase
        if phase == SETTING_UP:
            if name in type(self).__dataclass_fields__:
                raise errors.SetAttributeInModuleSetupError(module=self, attr_name=name)
            self._assigned.append(name)
            value = adoption.adopt(self, name, value)
        elif phase >= FRESH and not name.startswith("__"):
            raise errors.SetAttributeFrozenModuleError(type(self).__name__, name, value)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Only called for names that are not there: `setup` may have yet to make them.
        values = self.__dict__
        if values.get("_phase") == FRESH and not name.startswith("__"):
            self._run_setup()
            if name in values:
                return values[name]
        raise AttributeError(
            f'"{type(self).__name__}" object has no attribute "{name}". If "{name}" is'
            " defined in '.setup()', remember these fields are only accessible from"
            " inside 'init' or 'apply'."
        )

    def __dir__(self) -> list[str]:
        if self.__dict__.get("_phase") == FRESH:
            self._run_setup()
        return list(object.__dir__(self))

    def __hash__(self) -> int:
        if self.scope is not None:
            raise TypeError("Can't call __hash__ on modules that hold variables.")
        return hash(tuple(getattr(self, name) for name in type(self)._hash_fields))

    def __repr__(self) -> str:
        return module_repr(self)

    def __getstate__(self) -> dict[str, Any]:
        # The description; what ties it to a context stays behind.
        state = adoption.copy_deep(self).__dict__ if self.scope else self.__dict__
        return {name: value for name, value in state.items() if name != "scope"}

    def __copy__(self) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = memo[id(self)] = object.__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    # -- copies ----------------------------------------------------------------------

    def clone(
        self,
        *,
        parent: Any = None,
        _deep_clone: Any = False,
        _reset_names: bool = False,
        **updates: Any,
    ) -> Self:
        """A new module with the same fields, except for `updates`.

        Args:
            parent: parent of the copy; by default it is unbound.
            _deep_clone: unbind the modules in the fields too; else they are shared.
            _reset_names: forget their names.
            **updates: new values of fields.
        """
        source = adoption.copy_deep(self, _reset_names) if _deep_clone else self
        values = source.__dict__
        fields = {n: values[n] for n in type(self)._init_fields if n in values}
        return type(self)(**{**fields, "name": self.name, "parent": parent, **updates})

    def copy(
        self, *, parent: Any = _unspecified, name: str | None = None, **updates: Any
    ) -> Self:
        """A new module with the same fields that may be used beside this one.

        It has variables of its own, and so have the modules in its fields. Inside a
        compact method it becomes a child of the running module.
        """
        return self.clone(
            parent=parent, name=name, _deep_clone=True, _reset_names=True, **updates
        )

    # -- variables -------------------------------------------------------------------

    def variable(
        self,
        col: str,
        name: str,
        init_fn: Callable[..., T] | None = None,
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> Variable[T]:
        """Declares a variable of collection `col` and returns a reference to it.

        Args:
            col: the collection.
            name: name of the variable in this module.
            init_fn: makes the initial value, called as `init_fn(*init_args,
                **init_kwargs)` if the variable does not exist.
            *init_args: arguments of `init_fn`.
            unbox: remove axis metadata from values that are read.
            **init_kwargs: keyword arguments of `init_fn`.

        Returns:
            A `Variable`; read and write its `value`.

        Raises:
            NameInUseError: the name is taken in this module.
            ScopeVariableNotFoundError: it does not exist and cannot be created.
        """
        self._open("variable").claim_variable(name, col, self)
        return self.scope._variable(col, name, init_fn, init_args, init_kwargs, unbox)  # type: ignore[union-attr]

    def param(
        self,
        name: str,
        init_fn: Callable[..., T],
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> T:
        """Declares a parameter and returns its value.

        Args:
            name: name of the parameter in this module.
            init_fn: makes the initial value, called as `init_fn(key, *init_args,
                **init_kwargs)` if the parameter does not exist.
            *init_args: arguments of `init_fn`, usually shape and dtype.
            unbox: remove axis metadata from the value.
            **init_kwargs: keyword arguments of `init_fn`.

        Returns:
            The value of the parameter.

        Raises:
            NameInUseError: the name is taken in this module.
            ScopeParamNotFoundError: it does not exist and cannot be created.
            ScopeParamShapeError: its shape is not the one `init_fn` would give.
        """
        self._open("param").claim_variable(name, "params", self)
        return self.scope._param(name, init_fn, init_args, init_kwargs, unbox)  # type: ignore[union-attr]

    def has_variable(self, col: str, name: str) -> bool:
        """Whether a variable of this module exists."""
        return self._bound("has_variable").has_variable(col, name)

    def get_variable(self, col: str, name: str, default: Any = None) -> Any:
        """The value of a variable of this module, `default` if it does not exist."""
        return self._bound("get_variable").get_variable(col, name, default)

    def put_variable(self, col: str, name: str, value: Any) -> None:
        """Writes a variable of this module; its collection must be mutable."""
        self._bound("put_variable").put_variable(col, name, value)

    def is_mutable_collection(self, col: str) -> bool:
        """Whether collection `col` may be written."""
        return self._bound("is_mutable_collection").is_mutable_collection(col)

    def has_rng(self, name: str) -> bool:
        """Whether there is a random stream `name`."""
        return self._bound("has_rng").has_rng(name)

    def make_rng(self, name: str = "params") -> jax.Array:
        """The next key of a random stream, different at every call and in every module.

        A stream that was not given falls back to `params`.
        """
        return self._bound("make_rng").make_rng(name)

    def is_initializing(self) -> bool:
        """Whether this runs under `init`."""
        return self._bound("is_initializing").get_flag("initializing", False)

    def sow(
        self,
        col: str,
        name: str,
        value: Any,
        reduce_fn: Callable[[Any, Any], Any] = tuple_reduce,
        init_fn: Callable[[], Any] = tuple_init,
    ) -> bool:
        """Stores a value in a collection, without passing it through return values.

        Args:
            col: the collection; if it is not mutable nothing happens.
            name: name of the variable.
            value: what to store.
            reduce_fn: combines the stored value with the new one; appends by default.
            init_fn: makes the value before the first.

        Returns:
            Whether the value was stored.
        """
        scope = self._bound("sow")
        if not scope.is_mutable_collection(col):
            return False
        if scope.has_variable(col, name):
            stored = scope.get_variable(col, name)
        else:
            self._frame.claim_variable(name, col, self)
            stored = init_fn()
        scope.put_variable(col, name, reduce_fn(stored, value))
        return True

    def perturb(self, name: str, value: T, collection: str = "perturbations") -> T:
        """Adds a zero variable to a value, so that its gradient can be read off.

        The gradient of a loss by the variable `name` of `collection` is the gradient by
        `value`. Without the collection this is the identity.
        """
        scope = self._bound("perturb")
        exists = scope.has_variable(collection, name)
        if not exists and scope.is_mutable_collection(collection):
            self._frame.claim_variable(name, collection, self)
            zeros = jax.tree_util.tree_map(jnp.zeros_like, value)
            scope.put_variable(collection, name, zeros)
        elif collection not in scope.root._nodes:
            return value
        elif not exists:
            raise ValueError(
                f"Perturbation collection {collection} present, but missing"
                f" perturbation variable {name}"
            )
        perturbation = scope.get_variable(collection, name)
        return jax.tree_util.tree_map(jnp.add, value, perturbation)

    @property
    def variables(self) -> VariableDict:
        """The variables of this module: `{collection: tree}`."""
        if self.scope is None:
            raise ValueError("Can't access variables on unbound modules")
        return self.scope.variables()

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the outermost module to this one."""
        if self.scope is None:
            raise ValueError("Can't access module paths on unbound modules.")
        return self.scope.path

    def _bound(self, what: str) -> Scope:
        if self.scope is None:
            raise errors.UnboundModuleError(what, module=self)
        return self.scope

    # -- running it ------------------------------------------------------------------

    def bind(
        self,
        variables: VariableDict,
        *args: Any,
        rngs: RNGs | None = None,
        mutable: Filter = False,
    ) -> Self:
        """A module bound to variables, for interactive use.

        Unlike `apply`, state lives on in the bound module; prefer `apply` in programs.
        """
        functional.check_instance(self)
        if rngs is not None and not isinstance(rngs, Mapping):
            rngs = {"params": rngs}
        scope = core_scope.bind(variables, rngs=rngs, mutable=mutable)
        return functional.bound_copy(self, scope)

    def unbind(self) -> tuple[Self, VariableDict]:
        """The unbound module and its variables: the inverse of `bind`.

        Raises:
            CallUnbindOnUnboundModuleError: the module is not bound.
        """
        if self.scope is None:
            raise errors.CallUnbindOnUnboundModuleError(module=self)
        module = adoption.copy_deep(self)
        module.__dict__["name"] = None
        return module, self.variables

    def apply(
        self,
        variables: VariableDict,
        *args: Any,
        rngs: RNGs | None = None,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = False,
        capture_intermediates: CaptureFilter = False,
        **kwargs: Any,
    ) -> Any:
        """Calls a method of the module with these variables.

        Args:
            variables: `{collection: tree}`.
            *args: arguments of the method.
            rngs: `{stream: key}`, or one key for the stream `params`.
            method: a method, its name, or any function of the module; `__call__` by
                default.
            mutable: the collections that may be written.
            capture_intermediates: store what methods return in `intermediates`: True
                for all `__call__`s, or a function `(module, method_name) -> bool`.
            **kwargs: keyword arguments of the method.

        Returns:
            The result of the method; with `mutable` not False, the pair of it and the
            collections that may be written.
        """
        fn = functional.function_of(self, method)
        run = functional.apply(fn, self, mutable, capture_intermediates)
        return run(variables, *args, **kwargs, rngs=rngs)

    def init_with_output(
        self,
        rngs: RNGs,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = CREATED,
        capture_intermediates: CaptureFilter = False,
        **kwargs: Any,
    ) -> tuple[Any, VariableDict]:
        """Creates the variables of the module by calling a method, see `init`.

        Returns:
            The result of the method and the variables.
        """
        fn = functional.function_of(self, method)
        run = functional.init_with_output(fn, self, mutable, capture_intermediates)
        return run(rngs, *args, **kwargs)

    def init(
        self,
        rngs: RNGs,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = CREATED,
        capture_intermediates: CaptureFilter = False,
        **kwargs: Any,
    ) -> VariableDict:
        """Creates the variables of the module by calling a method.

        Args:
            rngs: one key (the stream `params`) or `{stream: key}`.
            *args: arguments of the method; they decide the shapes.
            method: a method, its name, or any function of the module; `__call__` by
                default.
            mutable: the collections to create.
            capture_intermediates: see `apply`.
            **kwargs: keyword arguments of the method.

        Returns:
            The variables, `{collection: tree}`.
        """
        functional.check_instance(self)
        kwargs.update(method=method, mutable=mutable)
        return self.init_with_output(
            rngs, *args, capture_intermediates=capture_intermediates, **kwargs
        )[1]

    def lazy_init(
        self,
        rngs: RNGs,
        *args: Any,
        method: Callable[..., Any] | None = None,
        mutable: Filter = CREATED,
        **kwargs: Any,
    ) -> VariableDict:
        """Like `init`, for abstract arguments: nothing but the variables is computed.

        Args:
            rngs: one key or `{stream: key}`.
            *args: arrays or `jax.ShapeDtypeStruct`s.
            method: the method to call.
            mutable: the collections to create.
            **kwargs: keyword arguments of the method.

        Raises:
            LazyInitError: an initial value depends on the value of an argument.
        """
        fn = functional.scope_function(functional.function_of(self, method), self)
        return core_scope.lazy_init(fn, mutable)(rngs, *args, **kwargs)

    def tabulate(
        self,
        rngs: RNGs,
        *args: Any,
        depth: int | None = None,
        show_repeated: bool = False,
        mutable: Filter = CREATED,
        console_kwargs: Mapping[str, Any] | None = None,
        table_kwargs: Mapping[str, Any] = {},
        column_kwargs: Mapping[str, Any] = {},
        compute_flops: bool = False,
        compute_vjp_flops: bool = False,
        **kwargs: Any,
    ) -> str:
        """A table of the submodules: shapes, sizes, and if asked, operations."""
        from linsey.linen import summary

        rows = (depth, show_repeated, mutable)
        looks = (console_kwargs, table_kwargs, column_kwargs)
        flops = (compute_flops, compute_vjp_flops)
        return summary.tabulate(self, rngs, *rows, *looks, *flops)(*args, **kwargs)

    def module_paths(
        self,
        rngs: RNGs,
        *args: Any,
        show_repeated: bool = False,
        mutable: Filter = CREATED,
        **kwargs: Any,
    ) -> dict[str, Module]:
        """The submodules that a call uses, by their path joined with `/`."""
        from linsey.linen import summary

        return summary.module_paths(self, rngs, show_repeated, mutable, args, kwargs)
