"""`Module`: a dataclass that describes a piece of a model.

A module instance is a description until it is bound to a scope; then its methods can
declare and use variables. Its life:

1. *constructed*: inside a compact method, it becomes a child of the running module at
   once; inside `setup`, when it is assigned; anywhere else, it stays unbound.
2. *bound* (`binding.py`): it gets a scope, and the modules in its fields become its
   children.
3. *set up*, lazily: `setup` runs at the first call or attribute access that may need
   it.

Every method is wrapped (`methods.py`), and a `Frame` records all names that are taken
in a module (`binding.py`). Running a module is a pure function of variables
(`functional.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import jax
import jax.numpy as jnp

from linsey import _drawing, errors
from linsey.core import scope as core_scope
from linsey.core.filters import Filter
from linsey.core.scope import RNGs as RNGs
from linsey.core.state import Scope, Variable
from linsey.errors._texts import no_attribute, no_parent, not_set_up
from linsey.linen.module import binding, functional, methods
from linsey.linen.module.binding import FRESH, SETTING_UP, UNSPECIFIED, Bound, is_module
from linsey.linen.module.functional import CREATED, RUNNING, CaptureFilter
from linsey.traceback_util import api_boundary
from linsey.typing import VariableDict, with_signature_of

__all__ = ["CompactNameScope", "Module", "compact_name_scope", "tuple_init"]
__all__ += ["tuple_reduce"]

T = TypeVar("T")
CallableT = TypeVar("CallableT", bound=Callable[..., object])

Method = Callable[..., Any] | str | None


_unspecified = UNSPECIFIED  # the name in older pickles


def tuple_init() -> tuple[Any, ...]:
    """Return the initial value of a sown variable: an empty tuple."""
    return ()


def tuple_reduce(xs: tuple[T, ...], x: T) -> tuple[T, ...]:
    """Append to a tuple, the default way of collecting sown values."""
    return (*xs, x)


class Module(binding.ModuleBase):
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
        parent: the module (or scope) this one belongs to; `None` for the outermost.
        name: its name in the parent; chosen automatically if not given.
        scope: the scope of its variables; `None` while it is unbound.
    """

    if TYPE_CHECKING:  # at run time each subclass has them, after its own fields
        parent: Any = dataclasses.field(default=UNSPECIFIED, repr=False, kw_only=True)
        name: str | None = dataclasses.field(default=None, kw_only=True)

    # -- class creation --------------------------------------------------------------

    def __init_subclass__(cls, kw_only: bool = False, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        methods.make_dataclass(cls, Module, kw_only)
        methods.wrap_class(cls)
        cls._has_setup = cls.setup is not Module.setup
        cls._has_post_init = cls.__post_init__ is not Module.__post_init__

    # -- one instance ----------------------------------------------------------------

    def __post_init__(self) -> None:
        values = self.__dict__
        if "parent" not in values:  # the user wrote the constructor
            values |= {"parent": UNSPECIFIED, "name": None}
        parent = values["parent"]
        if parent is UNSPECIFIED:
            parent = values["parent"] = RUNNING.get()
        values["_bound"] = None
        if parent is None:
            return
        if isinstance(parent, Module):
            bound, name = parent._bound, values["name"]
            if bound is not None and bound.phase == SETTING_UP and name is None:
                return  # it is named and bound when it is assigned
            if bound is None or not bound.frame.is_open:
                raise errors.AssignSubModuleError(type(self).__name__)
            if name is None:
                values["name"] = bound.frame.automatic_name(type(self).__name__)
            bound.attach(parent, self)
        elif isinstance(parent, Scope):
            binding.bind_module(self, parent)
        else:
            raise no_parent(type(self), parent)

    def _open(self, what: str) -> Bound:
        """Return the `Bound` record, if the module can declare a `what` now."""
        bound = self._bound_for(what)
        if not bound.frame.is_open:
            raise errors.DeclarationOutsideSetupError(what, module=self)
        return bound

    # -- attributes ------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        bound, cls = self._bound, type(self)
        if bound is not None and bound.phase == SETTING_UP:
            if name in cls._init_fields or name in ("parent", "name"):
                raise errors.SetAttributeInModuleSetupError(module=self, attr_name=name)
            bound.assigned.append(name)
            value = bound.adopt(self, name, value)
        elif bound is not None and not name.startswith("__"):
            raise errors.SetAttributeFrozenModuleError(cls.__name__, name, value)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Only called for missing names: perhaps `setup` has yet to create them.
        bound = self._bound
        if bound is not None and name == "name":
            # Inside a compiled function, whose program may be reused for other names.
            return bound.scope.name
        if bound is not None and bound.phase == FRESH and not name.startswith("__"):
            bound.set_up(self)
            if name in self.__dict__:
                return self.__dict__[name]
        raise no_attribute(type(self), name, is_bound=bound is not None)

    def __dir__(self) -> list[str]:
        if self._bound is not None and self._bound.phase == FRESH:
            self._bound.set_up(self)
        return list(object.__dir__(self))

    def __hash__(self) -> int:
        if self._bound is not None:
            raise errors.ArgumentTypeError(
                "Can't call __hash__ on modules that hold variables.",
                "Their hash would have to be that of the arrays, which have none.",
                "Use the unbound module as a key: `module.unbind()[0]`.",
            )
        try:
            return hash(tuple(map(self.__dict__.get, type(self)._hash_fields)))
        except TypeError as error:
            raise errors.ArgumentTypeError(
                f"Failed to hash Flax Module {type(self).__name__}.",
                f"The module probably contains unhashable attributes: {error}.",
                "Use tuples, strings and numbers as fields.",
            ) from error

    def __eq__(self, other: object) -> bool:
        cls = type(self)
        if type(other) is not cls:
            return NotImplemented
        # A field that `setup` assigns has no value before that.
        ours, theirs = self.__dict__.get, other.__dict__.get
        names = cls._compared_fields
        return tuple(map(ours, names)) == tuple(map(theirs, names))

    def __repr__(self) -> str:
        """Show the fields and, if it is bound, the submodules it has so far."""
        if "_bound" not in self.__dict__:
            return object.__repr__(self)
        names = {} if self._bound is None else self._bound.frame.names
        children = {n: repr(child) for n, child in names.items() if is_module(child)}
        attributes = {
            name: _value_repr(getattr(self, name, None))
            for name in type(self)._shown_fields
        }
        lines = []
        for title, texts in (("# attributes", attributes), ("# children", children)):
            if texts:
                lines += [title, *(f"{name} = {text}" for name, text in texts.items())]
        body = "".join(f"\n{line}".replace("\n", "\n    ") for line in lines)
        cls = type(self).__name__
        return f"{cls}({body}\n)" if lines else f"{cls}()"

    def __getstate__(self) -> dict[str, object]:
        # Only the description, without what ties it to a context, and without functions
        # that are defaults of fields: closures, such as initializers, have no name by
        # which pickle could find them again.
        source = self if self._bound is None else binding.copy_deep(self)
        hidden = {"_bound", *self._default_functions()}
        return {k: value for k, value in source.__dict__.items() if k not in hidden}

    def __setstate__(self, state: dict[str, object]) -> None:
        for field in dataclasses.fields(self):
            if field.init and field.default is not dataclasses.MISSING:
                self.__dict__[field.name] = field.default
        self.__dict__.update(state, _bound=None)
        self.__dict__.pop("_phase", None)  # older pickles have it instead of `_bound`

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if self._bound is not None:
            twin.__dict__["_bound"] = copy.copy(self._bound)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = object.__new__(type(self))
        memo |= {id(fn): fn for fn in self._default_functions().values()}
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def _default_functions(self) -> dict[str, Any]:
        """Return the functions in fields that still hold their default, by field."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        held = self.__dict__.get
        return {n: fn for n, fn in defaults.items() if callable(fn) and held(n) is fn}

    # -- copies ----------------------------------------------------------------------

    def clone(
        self,
        *,
        parent: object = None,
        _deep_clone: object = False,
        _reset_names: bool = False,
        **updates: object,
    ) -> Self:
        """Make a new module with the same fields, except for `updates`.

        Args:
            parent: parent of the copy. If `None`, the copy is unbound.
            _deep_clone: whether to copy and unbind the modules in the fields too;
                otherwise they are shared.
            _reset_names: whether to drop their names, if this module is bound.
            **updates: new values of fields.
        """
        source = binding.copy_deep(self, _reset_names) if _deep_clone else self
        values = source.__dict__
        names = type(self)._init_fields
        fields: dict[str, Any] = {n: values[n] for n in names if n in values}
        fields |= {"name": self.name, "parent": parent, **updates}
        return type(self)(**fields)

    def copy(
        self, *, parent: Any = UNSPECIFIED, name: str | None = None, **updates: object
    ) -> Self:
        """Make a new module with the same fields, to be used alongside this one.

        It has its own variables, and so do the modules in its fields. Inside a compact
        method it becomes a child of the running module.
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
        *init_args: object,
        unbox: bool = True,
        **init_kwargs: object,
    ) -> Variable[T]:
        """Declare a variable of collection `col` and return a reference to it.

        Args:
            col: the collection.
            name: name of the variable in this module.
            init_fn: returns the initial value, called as `init_fn(*init_args,
                **init_kwargs)` if the variable does not exist.
            *init_args: arguments of `init_fn`.
            unbox: whether to remove axis metadata from values that are read.
            **init_kwargs: keyword arguments of `init_fn`.

        Returns:
            A `Variable`; read and write its `value`.

        Raises:
            NameInUseError: the name is taken in this module.
            ScopeVariableNotFoundError: the variable is missing and cannot be created.
        """
        bound = self._open("variable")
        bound.frame.claim_variable(name, col, self)
        scope = bound.scope
        scope._create_missing(col, name, init_fn, init_args, init_kwargs)
        return Variable(scope, col, name, unbox=unbox)

    def param(
        self,
        name: str,
        init_fn: Callable[..., T],
        *init_args: object,
        unbox: bool = True,
        **init_kwargs: object,
    ) -> T:
        """Declare a parameter and return its value.

        Args:
            name: name of the parameter in this module.
            init_fn: returns the initial value, called as `init_fn(key, *init_args,
                **init_kwargs)` if the parameter does not exist.
            *init_args: arguments of `init_fn`, usually shape and dtype.
            unbox: whether to remove axis metadata from the value.
            **init_kwargs: keyword arguments of `init_fn`.

        Returns:
            The value of the parameter.

        Raises:
            NameInUseError: the name is taken in this module.
            ScopeParamNotFoundError: the parameter is missing and cannot be created.
            ScopeParamShapeError: its shape is not the one that `init_fn` would return.
        """
        bound = self._open("param")
        bound.frame.claim_variable(name, "params", self, "param")
        return bound.scope._param(name, init_fn, init_args, init_kwargs, unbox)

    def has_variable(self, col: str, name: str) -> bool:
        """Return whether a variable of this module exists."""
        return self._bound_for("has_variable").scope.has_variable(col, name)

    def get_variable(self, col: str, name: str, default: object = None) -> Any:
        """Return the value of a variable, or `default` if it does not exist."""
        return self._bound_for("get_variable").scope.get_variable(col, name, default)

    def put_variable(self, col: str, name: str, value: object) -> None:
        """Write a variable of this module; its collection must be mutable."""
        self._bound_for("put_variable").scope.put_variable(col, name, value)

    def is_mutable_collection(self, col: str) -> bool:
        """Return whether collection `col` may be written."""
        return self._bound_for("is_mutable_collection").scope.is_mutable_collection(col)

    def has_rng(self, name: str) -> bool:
        """Return whether there is a random stream `name`."""
        return self._bound_for("has_rng").scope.has_rng(name)

    def make_rng(self, name: str = "params") -> jax.Array:
        """Return the next key of a random stream, a different one at every call.

        Keys also differ between modules. A stream that was not given falls back to
        `params`.
        """
        return self._bound_for("make_rng").scope.make_rng(name)

    def is_initializing(self) -> bool:
        """Return whether this runs under `init`."""
        return self._bound_for("is_initializing").scope.get_flag("initializing", False)

    def _bound_for(self, what: str) -> Bound:
        if self._bound is None:
            raise errors.UnboundModuleError(what, module=self)
        return self._bound

    def sow(
        self,
        col: str,
        name: str,
        value: object,
        reduce_fn: Callable[[Any, Any], object] = tuple_reduce,
        init_fn: Callable[[], object] = tuple_init,
    ) -> bool:
        """Store a value in a collection, without passing it through return values.

        Args:
            col: the collection; if it is not mutable, nothing happens.
            name: name of the variable.
            value: the value to store.
            reduce_fn: combines the stored value with the new one; appends by default.
            init_fn: returns the stored value to start with; an empty tuple by default.

        Returns:
            Whether the value was stored.
        """
        bound = self._bound_for("sow")
        scope = bound.scope
        if not scope.is_mutable_collection(col):
            return False
        if scope.has_variable(col, name):
            stored = scope.get_variable(col, name)
            if reduce_fn is tuple_reduce and not isinstance(stored, tuple):
                raise errors.ArgumentTypeError(
                    f'"{name}" of "{col}" at {scope.path_text} is of type '
                    f"{type(stored).__name__}: `sow` appends to tuples.",
                    "It is of a submodule of this name, or was written by other means.",
                    "Sow under another name, or pass `reduce_fn` and `init_fn`.",
                )
        else:
            bound.frame.claim_variable(name, col, self)
            stored = init_fn()
        scope.put_variable(col, name, reduce_fn(stored, value))
        return True

    def perturb(self, name: str, value: T, collection: str = "perturbations") -> T:
        """Add a zero variable to a value, which gives access to the value's gradient.

        The gradient of a loss with respect to the variable `name` of `collection` is
        the gradient with respect to `value`. If the collection is missing, `value` is
        returned unchanged.
        """
        bound = self._bound_for("perturb")
        scope = bound.scope
        exists = scope.has_variable(collection, name)
        if not exists and scope.is_mutable_collection(collection):
            bound.frame.claim_variable(name, collection, self)
            zeros = jax.tree_util.tree_map(jnp.zeros_like, value)
            scope.put_variable(collection, name, zeros)
        elif collection not in scope.root._nodes:
            return value
        elif not exists:
            raise errors.MismatchError(
                f"Perturbation collection {collection} present, but missing"
                f" perturbation variable {name}",
                "The collection comes from a model that perturbs other values.",
                f"Pass what `init` returns: `variables['{collection}']`.",
            )
        perturbation = scope.get_variable(collection, name)
        return jax.tree_util.tree_map(jnp.add, value, perturbation)

    @property
    def variables(self) -> VariableDict:
        """The variables of this module: `{collection: tree}`."""
        return self._bound_for("variables").scope.variables()

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the outermost module to this one."""
        return self._bound_for("path").scope.path

    # -- running a module ------------------------------------------------------------

    def bind(
        self,
        variables: VariableDict,
        *args: object,
        rngs: RNGs | None = None,
        mutable: Filter = False,
    ) -> Self:
        """Return a module bound to variables, for interactive use.

        Unlike with `apply`, state remains in the bound module; prefer `apply` in
        programs.
        """
        functional.check_instance(self)
        scope = core_scope.bind(variables, rngs=rngs, mutable=mutable)
        return functional.bound_copy(self, scope)

    def unbind(self) -> tuple[Self, VariableDict]:
        """Return the unbound module and its variables: the inverse of `bind`.

        Raises:
            CallUnbindOnUnboundModuleError: the module is not bound.
        """
        if self._bound is None:
            raise errors.CallUnbindOnUnboundModuleError(module=self)
        return binding.copy_deep(self, reset_names=True), self.variables

    @api_boundary
    def apply(
        self,
        variables: VariableDict,
        *args: object,
        rngs: RNGs | None = None,
        method: Method = None,
        mutable: Filter = False,
        capture_intermediates: CaptureFilter = False,
        **kwargs: object,
    ) -> Any:
        """Call a method of the module with these variables.

        Args:
            variables: `{collection: tree}`.
            *args: arguments of the method.
            rngs: `{stream: key}`, or one key for the stream `params`.
            method: a method, its name, or any function of the module. If `None`,
                `__call__`.
            mutable: the collections that may be written.
            capture_intermediates: the methods whose results are stored in
                `intermediates`: `True` for every `__call__`, or a function `(module,
                method_name) -> bool`.
            **kwargs: keyword arguments of the method.

        Returns:
            The result of the method. Unless `mutable` is `False`, a pair of the result
            and the mutable collections.
        """
        fn = functional.function_of(self, method)
        run, mutable = functional.capturing(fn, self, mutable, capture_intermediates)
        functional.check_rngs(self, rngs)
        return core_scope.apply(run, mutable)(variables, *args, **kwargs, rngs=rngs)

    @api_boundary
    def init_with_output(
        self,
        rngs: RNGs,
        *args: object,
        method: Method = None,
        mutable: Filter = CREATED,
        capture_intermediates: CaptureFilter = False,
        **kwargs: object,
    ) -> tuple[Any, VariableDict]:
        """Create the variables of the module by calling a method; see `init`.

        Returns:
            The result of the method and the variables.
        """
        fn = functional.function_of(self, method)
        run, mutable = functional.capturing(fn, self, mutable, capture_intermediates)
        functional.check_rngs(self, rngs)
        return core_scope.init(run, mutable)(rngs, *args, **kwargs)

    @api_boundary
    @with_signature_of(init_with_output)
    def init(self, *args: Any, **kwargs: Any) -> VariableDict:
        """Create the variables of the module by calling a method.

        Args:
            rngs: one key (the stream `params`) or `{stream: key}`.
            *args: arguments of the method; they determine the shapes.
            method: a method, its name, or any function of the module. If `None`,
                `__call__`.
            mutable: the collections to create.
            capture_intermediates: see `apply`.
            **kwargs: keyword arguments of the method.

        Returns:
            The variables, `{collection: tree}`.
        """
        functional.check_instance(self)
        return _drawing.collected(self.init_with_output, *args, **kwargs)

    @api_boundary
    def lazy_init(
        self,
        rngs: RNGs,
        *args: object,
        method: Method = None,
        mutable: Filter = CREATED,
        **kwargs: object,
    ) -> VariableDict:
        """Create variables like `init`, from arguments that may be abstract.

        Only the variables are computed, not the result of the method.

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
        functional.check_rngs(self, rngs)
        return core_scope.lazy_init(fn, mutable)(rngs, *args, **kwargs)

    # Added by `linsey.linen.summary`, which builds on this module.
    tabulate: ClassVar[Callable[..., str]]
    module_paths: ClassVar[Callable[..., dict[str, Module]]]


def _value_repr(value: object) -> str:
    name = getattr(value, "__name__", None) if callable(value) else None
    return repr(value) if name is None else name


def compact_name_scope(fun: CallableT) -> CallableT:
    """Make a method compact; a class may have several methods of this kind.

    Everything the method declares is in a child scope named after the method.

    Example:
        >>> import jax, linsey.linen as nn
        >>> class Pair(nn.Module):
        ...     @nn.compact_name_scope
        ...     def up(self, x):
        ...         return nn.Dense(4)(x)
        ...
        ...     @nn.compact_name_scope
        ...     def down(self, x):
        ...         return nn.Dense(2)(x)
        ...
        ...     def __call__(self, x):
        ...         return self.down(self.up(x))
        >>> sorted(Pair().init(jax.random.key(0), jax.numpy.ones((1, 3)))["params"])
        ['down', 'up']
    """
    methods.refuse_setup(fun, "compact_name_scope")

    @functools.wraps(fun)
    def method(self: Module, *args: object, **kwargs: object) -> object:
        bound, name = self._bound, fun.__name__
        if bound is None:
            raise not_set_up(type(self), name)
        if bound.phase == FRESH:
            bound.set_up(self)
        inner = bound.frame.names.get(name)
        if not isinstance(inner, CompactNameScope):
            inner = CompactNameScope(fun, lambda: self, parent=None, name=name)
            bound.attach(self, inner)
            # So that later calls, which open their own frames, know it too.
            bound.setup_frame.names.setdefault(name, inner)
        return inner(*args, **kwargs)

    # Interceptors and `capture_intermediates` see the call of the scope instead.
    return methods.nowrap(method)  # type: ignore[return-value]


class CompactNameScope(Module):
    """The module that represents one method marked with `compact_name_scope`.

    Attributes:
        fn: the method.
        module_fn: returns the module to which the method belongs.
    """

    fn: Callable[..., Any]
    module_fn: Callable[[], Module]

    @methods.compact
    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the method; everything it declares belongs to this module."""
        return self.fn(self.module_fn(), *args, **kwargs)
