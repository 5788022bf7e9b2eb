"""From transforms of scope functions to transforms of modules.

A lifted function runs on different scopes than its caller, so the modules that it uses
must be bound again inside. `Detacher` turns bound modules into descriptions without
scopes and traced arrays. These can be compared by structure, so that a compiled
function can be reused for an equal description. `Restorer` turns them back into bound
modules, using the inner scopes.

`call_lifted` connects both sides: it detaches the modules that a call uses, passes
their scopes to a transform of `core.lift`, and restores the modules inside (`Run`).
Everything else uses it: lifting a class (a subclass whose listed methods are lifted), a
function or method (`lift_functions`), and several functions at once (`call_direct`, for
branches, loops and derivatives).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar, cast

import jax

from linsey import errors
from linsey._static import COMPARABLE, static_key
from linsey.core.frozen_dict import FrozenDict
from linsey.core.lift.split import Untraced
from linsey.core.state import Scope, Variable
from linsey.errors._texts import field_without_hash
from linsey.linen.module.base import Module
from linsey.linen.module.binding import FRESH, READY, SETTING_UP, Bound, map_modules
from linsey.linen.module.methods import wrap_method_once

P = ParamSpec("P")
T = TypeVar("T")

Function = Callable[..., object]
Args = Sequence[object]
# A transform of `core.lift` with its options filled in: takes functions of scopes and
# returns one.
Transform = Callable[..., Callable[..., Any]]
# The methods of a class to lift; a mapping gives each method its own options.
Methods = str | Iterable[str] | Mapping[str, Mapping[str, object]] | None


@dataclasses.dataclass(eq=False)
class Detached:
    """A bound module without its scope.

    If a module was detached before, only its number is stored. An unbound module has
    the number -1, and is stored as the only attribute. For a traced array in a field,
    only a number is stored, since its value cannot be used to look up a program.

    Attributes:
        index: its number among the detached objects.
        cls: its class.
        parent: the number of its parent; `None` if the parent was not detached.
        name: its name; `None` if that is the name of its scope.
        attributes: fields and other attributes of the unbound module, with the modules
            and variables in them detached.
        is_ready: whether `setup` does not have to run.
        counts: the number of submodules of each class that were named in its open
            frame; `None` if the frame is closed. The names themselves are free again
            inside, where the module declares its variables again.
    """

    index: int
    cls: type = object
    parent: int | None = None
    name: str | None = None
    attributes: tuple[tuple[str, Any], ...] = ()
    is_ready: bool = False
    counts: tuple[tuple[str, int], ...] | None = None

    @functools.cached_property
    def key(self) -> tuple[int, Hashable]:
        """The hash of this object, and the key by which it is compared."""
        values = tuple((n, _key_of_field(self.cls, n, v)) for n, v in self.attributes)
        described = (self.index, self.cls, self.parent, self.name, values)
        key = (*described, self.is_ready, self.counts)
        return hash(key), key

    def __hash__(self) -> int:
        return self.key[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Detached) and self.key == other.key


COMPARABLE.add(Detached)


def _key_of_field(cls: type, name: str, value: object) -> Hashable:
    try:
        return static_key(value)
    except Exception as error:  # `__reduce_ex__` of the value may raise anything
        if isinstance(value, Module):  # name the field of the inner module
            for inner in value.__dict__.items():
                _key_of_field(type(value), *inner)
        raise field_without_hash(cls, name, value) from error


_PARTS = (Module, Variable)
_IN_FIELDS = (*_PARTS, jax.core.Tracer)
_DETACHED = (Detached, Module)


class Detacher:
    """Detaches bound modules and variables, and remembers those it has seen.

    Attributes:
        scopes: the scope of each detached module and variable, by its number.
        tracers: the traced arrays in fields, by their number.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.tracers: list[jax.core.Tracer] = []
        # For the id of a module: its number and the module itself, which is kept so
        # that its id is not used again.
        self._met: dict[int, tuple[int, Module]] = {}

    def detach(self, module: Module) -> Module | Detached:
        """Return the description of a bound module; return an unbound one unchanged."""
        bound = module._bound
        if bound is None:
            return module
        if id(module) in self._met:
            return Detached(self._met[id(module)][0])
        scope = bound.scope
        index = self._number(scope)
        self._met[id(module)] = (index, module)
        parent, _ = self._met.get(id(module.parent), (None, None))
        is_ready = bound.phase == SETTING_UP  # keep what `setup` has assigned so far
        hidden = {"parent", "name", "_bound", *(() if is_ready else bound.assigned)}
        attributes = tuple(
            (name, _in_order(map_modules(self._detach_part, field, "", _IN_FIELDS)))
            for name, field in module.__dict__.items()
            if name not in hidden
        )
        name = module.__dict__.get("name")
        if scope._path and name == scope._path[-1]:
            name = None
        counts = open_counts(module)
        return Detached(index, type(module), parent, name, attributes, is_ready, counts)

    def _detach_part(self, part: Any, path: str = "") -> object:
        if isinstance(part, Module):
            return self.detach(part)
        if isinstance(part, jax.core.Tracer):
            self.tracers.append(part)
            return Detached(len(self.tracers) - 1, jax.core.Tracer)
        names = ("collection", "name", "unbox")
        attributes = tuple((name, getattr(part, name)) for name in names)
        return Detached(self._number(part.scope), Variable, attributes=attributes)

    def detach_leaf(self, leaf: object) -> object:
        """Detach a leaf of the arguments if it is a module or a variable."""
        if not isinstance(leaf, _PARTS):
            return leaf
        unbound = Detached(-1, type(leaf), attributes=(("module", leaf),))
        part = self._detach_part(leaf)
        return Untraced(unbound if part is leaf else part)

    def _number(self, scope: Scope) -> int:
        self.scopes.append(scope)
        return len(self.scopes) - 1


class Restorer:
    """Turns detached modules into bound ones.

    Args:
        scopes: the scope for each number.
        tracers: the traced array in a field for each number.
    """

    def __init__(self, scopes: Sequence[Scope], tracers: Sequence[jax.Array] = ()):
        self.scopes = scopes
        self.tracers = tracers
        self._made: dict[int | None, Module] = {}

    def restore(self, detached: Any) -> Any:
        """Return the module bound to its new scope, always the same for one number."""
        if not isinstance(detached, Detached):
            return detached
        if detached.index < 0:
            return detached.attributes[0][1]
        if detached.cls is jax.core.Tracer:
            return self.tracers[detached.index]
        if detached.index in self._made:
            return self._made[detached.index]
        scope = self.scopes[detached.index]
        if detached.cls is Variable:
            return Variable(scope, **dict(detached.attributes))
        module = self._made[detached.index] = object.__new__(detached.cls)
        needs_setup = detached.cls._has_setup and not detached.is_ready
        bound = Bound(scope, FRESH if needs_setup else READY)
        parent = self._made.get(detached.parent, scope)
        module.__dict__.update(parent=parent, _bound=bound)
        name = detached.name or scope._name
        if name is not None:
            module.__dict__["name"] = name
            if isinstance(parent, Module) and open_counts(parent) is not None:
                cast(Bound, parent._bound).frame.names[name] = module  # an argument
        if scope.context.bound is not None:
            scope.context.bound.append(module)

        def restore_part(detached: Any, path: str) -> object:
            part = self.restore(detached)
            if isinstance(part, Module) and part._bound is not None:
                *above, name = part._bound.scope._path
                if tuple(above) == scope._path:  # the parent may share this scope
                    bound.frame.names[name] = part
            return part

        for name, value in detached.attributes:
            module.__dict__[name] = map_modules(restore_part, value, "", _DETACHED)
        if detached.counts is not None:
            bound.open_frame()
            bound.frame.counts.update(detached.counts)
        return module

    def restore_leaf(self, leaf: object) -> object:
        """Undo `Detacher.detach_leaf`."""
        return self.restore(leaf.value) if isinstance(leaf, Untraced) else leaf


def open_counts(module: Module) -> tuple[tuple[str, int], ...] | None:
    """Return the counts of a module's open frame, or `None` if it is closed."""
    bound = module._bound
    if bound is None or not bound.frame.is_open:
        return None
    return tuple(bound.frame.counts.items())


def map_leaves(fn: Callable[[Any], object], tree: object) -> Any:
    """Map a function over a tree with modules and variables as leaves."""
    kinds = (*_PARTS, Untraced)
    return jax.tree_util.tree_map(fn, tree, is_leaf=lambda x: isinstance(x, kinds))


def _in_order(field: object) -> object:
    """Sort the keys in a field, as JAX does for any pytree in a transform."""
    with contextlib.suppress(TypeError):  # keys may have no order
        if type(field) in (tuple, FrozenDict):
            return map_leaves(lambda x: x, field)
    return field


@dataclasses.dataclass(unsafe_hash=True)
class Run:
    """A function of modules as a function of scopes.

    Attributes:
        fn: called as `fn(modules, *args, **kwargs)`.
        modules: a detached module, or a tree of these.
        counts: the number of submodules of each class that the module has named; set
            after a run.
        tracers: the traced arrays in fields of the modules.
        key: the key by which runs are compared.
    """

    fn: Callable[..., Any] = dataclasses.field(compare=False)
    modules: object = dataclasses.field(compare=False)
    counts: dict[str, int] = dataclasses.field(compare=False)
    tracers: Sequence[jax.Array] = dataclasses.field(compare=False)
    key: object = None

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.fn)

    def __call__(self, scopes: Sequence[Scope], *args: object, **kwargs: object) -> Any:
        """Run the function with modules that are restored on these scopes."""
        restore = Restorer(scopes, self.tracers).restore_leaf
        modules, args, kwargs = map_leaves(restore, (self.modules, args, kwargs))
        y = self.fn(modules, *args, **kwargs)
        if any(isinstance(x, _PARTS) for x in jax.tree_util.tree_leaves(y)):
            name = getattr(self.fn, "__name__", "unnamed_function")
            raise errors.TransformedMethodReturnValueError(name)
        if isinstance(modules, Module):
            self.counts.clear()
            self.counts.update(open_counts(modules) or ())
        return y


def call_lifted(
    transform: Transform,
    fns: Iterable[Function],
    module: object,
    args: Args,
    kwargs: Mapping[str, object],
    cls: type | None = None,
) -> Any:
    """Call transformed functions of a module.

    Args:
        transform: called as `transform(*scope_fns)(scopes, *args, **kwargs)`.
        fns: functions of the module.
        module: the bound module, or a tree of modules.
        args: arguments; they may hold further modules and variables.
        kwargs: keyword arguments.
        cls: the class of the module inside. Defaults to its own class.
    """
    if cls is not None and cast(Module, module)._bound is None:
        raise errors.CallCompactUnboundModuleError(module=module)
    detacher, counts = Detacher(), {}
    modules, args, kwargs = map_leaves(detacher.detach_leaf, (module, args, kwargs))
    if cls is not None:
        modules = Untraced(dataclasses.replace(modules.value, cls=cls))
    runs = [Run(fn, modules, counts, detacher.tracers) for fn in fns]
    y = transform(*runs)(detacher.scopes, *args, **kwargs)
    if counts and isinstance(module, Module) and module._bound is not None:
        # Outside, automatic names continue where they ended inside.
        module._bound.frame.counts.update(counts)
    return y


def call_direct(
    core: Function, fns: Iterable[Function], module: object, args: Args, **options: Any
) -> Any:
    """Call `core(*scope_fns, scopes, *args, **options)`.

    The first argument of the functions is a module; for a bound method, its underlying
    function is used.
    """
    # A transform that fills in the functions and leaves the rest of the call open.
    transform = functools.partial(functools.partial, core)
    functions = map(function_of_module, fns)
    return call_lifted(transform, functions, module, args, options)


def function_of_module(fn: object) -> Callable[..., Any]:
    """Return a function whose first argument is a module: `fn` or that of a method."""
    if inspect.ismethod(fn) and isinstance(fn.__self__, Module):
        fn = fn.__func__
    if not callable(fn) or isinstance(fn, Module) or _is_module_class(fn):
        raise errors.TransformTargetError(fn)
    return wrap_method_once(fn, hasattr(fn, "compact"))


def _is_module_class(target: object) -> TypeGuard[type[Module]]:
    return inspect.isclass(target) and issubclass(target, Module)


def lift_function(transform: Transform, fn: object) -> Callable[..., Any]:
    """Lift a method, or a function whose first argument is a module."""
    return lift_functions(transform, [fn])


def lift_functions(transform: Transform, fns: Iterable[object]) -> Callable[..., Any]:
    """Lift several functions of a module into one, which is named after the first."""
    methods = list(map(function_of_module, fns))

    @functools.wraps(methods[0])
    def lifted(module: object, *args: object, **kwargs: object) -> Any:
        return call_lifted(transform, methods, module, args, kwargs)

    return lifted


def lift_class(
    transforms: Mapping[str, Transform], cls: type[Module], prefix: str
) -> type[Module]:
    """Make a subclass of `cls` whose methods in `transforms` are lifted.

    Args:
        transforms: the transform for each method.
        cls: the module class.
        prefix: prefix of the name of the new class.
    """

    def lift_method(transform: Transform, fn: Callable[..., Any]) -> object:
        @functools.wraps(fn)
        def method(self: Module, *args: object, **kwargs: object) -> Any:
            # Inside, the module has the original class, so that methods that call each
            # other are not lifted twice. Instances of a user's subclass keep theirs.
            inner = cls if type(self) is lifted else None
            return call_lifted(transform, [fn], self, args, kwargs, inner)

        method.method_handler_wrapped = True  # type: ignore[attr-defined]
        return method

    methods = {n: lift_method(t, getattr(cls, n)) for n, t in transforms.items()}
    lifted = type(prefix + cls.__name__, (cls,), {**methods, "__doc__": cls.__doc__})
    return lifted


def lift(transform: Transform, target: T, prefix: str, methods: Methods = None) -> T:
    """Lift a module class, a partial of one, or a function of a module.

    Args:
        transform: called with a function of scopes, and the options of a method.
        target: the class or function to lift.
        prefix: prefix of the name of a new class.
        methods: see `lifted`.
    """
    if isinstance(target, functools.partial) and _is_module_class(target.func):
        cls = lift(transform, target.func, prefix, methods)
        return cast(T, functools.partial(cls, *target.args, **target.keywords))
    if not _is_module_class(target):
        return cast(T, lift_function(transform, target))
    if methods is None or isinstance(methods, str):
        methods = ("__call__" if methods is None else methods,)
    if not isinstance(methods, Mapping):
        methods = dict.fromkeys(methods, {})
    partial = functools.partial
    transforms = {m: partial(transform, **own) for m, own in methods.items()}
    return cast(T, lift_class(transforms, target, prefix))


def lifted(
    core: Transform, prefix: str, has_store: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a transform of modules from a declaration that only returns its `target`.

    The signature and the documentation are those of the declaration. Its arguments are
    the options of `core`, except for two: `target` is a module class or a function
    whose first argument is a module; `methods` are the methods of a class to lift. A
    mapping gives options for each method. If `methods` is `None`, `__call__` is lifted.

    Args:
        core: the transform of `core.lift`.
        prefix: prefix of the name of a new class.
        has_store: whether the first argument of `core` is a dictionary, a separate one
            for each target.

    Raises:
        TransformTargetError: the target is something else.
    """

    def decorate(declaration: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(declaration)

        @functools.wraps(declaration)
        def transform_of_modules(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            options = bound.arguments
            target, methods = options.pop("target"), options.pop("methods", None)
            store = ({},) if has_store else ()
            transform = functools.partial(core, *store, **options)
            return lift(transform, target, prefix, methods)

        return transform_of_modules

    return decorate
