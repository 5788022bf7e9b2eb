"""How to call a model in training and in evaluation, found by trying.

Models differ in the name of the flag that tells training from evaluation, in the
collections that training changes, in the random streams that they draw from, and in
whether a batch is one argument or several. `find_call` settles this once, by abstract
evaluation, and returns a `Call`, which all tools use.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from linsey.batch_stats.objects import (
    Variables,
    is_object,
    variables_of,
    with_variables,
)
from linsey.errors import OptionError

Batch = object
Inputs = Callable[[Any], Any]
Rngs = Mapping[str, jax.Array]
# Called as `run(variables, args, kwargs, train, mutable, rngs)`, which returns the
# output and the collections that changed.
Run = Callable[..., tuple[Any, Variables]]

# Names of flags, and their values in training.
FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "deterministic": False,
    "use_running_average": False,
    "eval": False,
    "evaluate": False,
    "is_eval": False,
    "inference": False,
    "test": False,
}


@dataclass(frozen=True)
class Call:
    """A model as a pure function of variables and a batch.

    Attributes:
        model: what the user passed.
        module: the underlying Linen module, of linsey or Flax; `None` for functions
            and treex objects.
        run: the call itself.
        flags: the flags and their values in training.
        inputs: function from a batch to the argument of the call (a tuple: several
            arguments; a dictionary: keyword arguments).
        rngs: keys for the random streams in training.
        mutable: the collections that training changes.
    """

    model: Any
    module: Any
    run: Run
    flags: Mapping[str, bool]
    inputs: Inputs
    rngs: Rngs
    mutable: tuple[str, ...]

    def train(
        self, variables: Variables, batch: Batch, rngs: Rngs | None = None
    ) -> tuple[Any, Variables]:
        """Call the model in training mode.

        Args:
            variables: by collection.
            batch: input of one call.
            rngs: keys of the random streams. If `None`, `self.rngs` in every call.

        Returns:
            The output, and the complete collections that changed.
        """
        rngs = self.rngs if rngs is None else rngs
        return self.apply(variables, batch, True, self.mutable, rngs)

    def evaluate(self, variables: Variables, batch: Batch) -> Any:
        """Call the model in evaluation mode, in which nothing changes."""
        return self.apply(variables, batch, False)[0]

    def apply(
        self,
        variables: Variables,
        batch: Batch,
        train: bool,
        mutable: Sequence[str] = (),
        rngs: Rngs | None = None,
    ) -> tuple[Any, Variables]:
        """Call the model in either mode, with the given collections mutable."""
        args, kwargs = arguments(self.inputs(batch))
        flags = {name: value is train for name, value in self.flags.items()}
        return self.run(
            variables, args, {**kwargs, **flags}, train, mutable, rngs or {}
        )

    @contextmanager
    def intercept(self, interceptor: Callable[..., Any]) -> Iterator[None]:
        """Intercept the methods of Linen modules, of linsey or Flax, with a function.

        It is called as `interceptor(next_fun, args, kwargs, context)`. If the model is
        a function or an object, modules of both libraries are intercepted.
        """
        libraries: list[Any] = [
            sys.modules[name]
            for name in ("linsey.linen", "flax.linen")
            if name in sys.modules
        ]
        if self.module is not None:
            libraries = [library_of(self.module)]
        with ExitStack() as stack:
            for library in libraries:
                stack.enter_context(library.intercept_methods(interceptor))
            yield


def find_call(
    model: object,
    variables: Variables | None,
    batch: Batch,
    *,
    flag: str | None = None,
    inputs: Inputs | None = None,
    rngs: Rngs | None = None,
    mutable: Sequence[str] | None = None,
) -> Call:
    """Find out how a model is called.

    Args:
        model: a module of linsey or Flax, its `apply` (bound, or a partial of it), an
            object of `linsey.treex`, or a function called as
            `model(variables, x, train=..., mutable=...)`, which returns the output,
            and the changed collections too if `mutable` is not False.
        variables: its variables by collection. If `None`, an object's own variables.
        batch: an example input of one call: an array, a tuple of several arguments, or
            a dictionary of keyword arguments. If the model does not accept all items of
            a tuple, such as (input, label), only the first item is passed.
        flag: name of the argument, or field, that is True in training, or
            `"not deterministic"` if it is False in training. If `None`, it is detected
            by its name.
        inputs: function from a batch to the arguments.
        rngs: keys for the random streams of training. If `None`, fixed ones for
            `params` and `dropout`.
        mutable: the collections that training changes. If `None`, all but `params`.

    Raises:
        OptionError: no way was found. The message says what was tried and what to pass.

    Example:
        >>> import jax.numpy as jnp, linsey.linen as nn
        >>> class Model(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.BatchNorm(use_running_average=not train)(x)
        >>> x = jnp.ones((4, 2))
        >>> variables = Model().init(jax.random.key(0), x, train=False)
        >>> call = find_call(Model(), variables, x)
        >>> call.flags, call.evaluate(variables, x).shape
        ({'train': True}, (4, 2))
    """
    if variables is None and is_object(model):
        variables = variables_of(model)
    variables = {} if variables is None else variables
    if rngs is None:
        rngs = _keys()
    if mutable is None:
        mutable = [name for name in {**variables, "batch_stats": 0} if name != "params"]
    failures: list[str] = []
    for form in _forms(model, flag):
        for chosen in _inputs(batch) if inputs is None else (inputs,):
            call = Call(model, form[0], form[1], form[2], chosen, rngs, tuple(mutable))
            failure = _failure(call, variables, batch)
            if failure is None:
                return call
            failures.append(f"with {dict(form[2]) or 'no flag'}: {failure}")
    raise OptionError(
        f"No way was found to call {_label(model)} in training and in evaluation.",
        "Tried " + "; ".join(dict.fromkeys(failures)) + ".",
        'Name the flag, as `flag="train"` or `flag="not deterministic"`, and make the '
        "arguments from a batch by `inputs=lambda batch: batch[0]`; or pass a function "
        "`(variables, x, train, mutable)`.",
    )


def initial(
    model: object,
    batch: Batch,
    *,
    flag: str | None = None,
    inputs: Inputs | None = None,
) -> Variables | None:
    """Return shapes and dtypes of the variables that a Linen module initialises.

    Args:
        model: as for `find_call`.
        batch: an example input of one call.
        flag: as for `find_call`.
        inputs: as for `find_call`.

    Returns:
        The variables by collection, without values; `None` if they cannot be
        determined.
    """
    try:
        return find_initializer(model, batch, flag=flag, inputs=inputs).shapes
    except OptionError:
        return None


def find_initializer(
    model: object,
    batch: Batch,
    *,
    flag: str | None = None,
    inputs: Inputs | None = None,
) -> Initializer:
    """Find out how the variables of a Linen module are initialised.

    Args:
        model: as for `find_call`.
        batch: an example input of one call; may be abstract.
        flag: as for `find_call`.
        inputs: as for `find_call`.

    Returns:
        A function of the keys of the random streams and a batch.

    Raises:
        OptionError: no way was found, or the model is not a Linen module.
    """
    rngs = dict.fromkeys(("params", "dropout"), jax.eval_shape(jax.random.key, 0))
    failures: list[str] = []
    for _, run, flags in _forms(model, flag):
        if not isinstance(run, _LinenRun):
            failures.append("to call it: it is no Linen module")
            continue
        evaluation = {name: not value for name, value in flags.items()}
        for chosen in _inputs(batch) if inputs is None else (inputs,):
            make = functools.partial(run.init, flags=evaluation)
            args, kwargs = arguments(chosen(batch))
            try:
                made = jax.eval_shape(make, rngs, args, kwargs)
            except Exception as error:  # of any kind: it is the model's
                failures.append(f"with {dict(flags) or 'no flag'}: {_told(error)}")
                continue
            return Initializer(run, evaluation, chosen, made)
    raise OptionError(
        f"No way was found to initialise {_label(model)}.",
        "Tried " + "; ".join(dict.fromkeys(failures)) + ".",
        'Name the flag, as `flag="train"` or `flag="not deterministic"`.',
    )


@dataclass(frozen=True, eq=False)
class Initializer:
    """A function that makes the variables of a Linen module.

    Attributes:
        run: calls the module.
        flags: the flags and their values in evaluation.
        inputs: function from a batch to the arguments.
        shapes: shapes and dtypes of the variables, by collection.
    """

    run: _LinenRun
    flags: Mapping[str, bool]
    inputs: Inputs
    shapes: Variables

    def __call__(self, rngs: Rngs, batch: Batch) -> Variables:
        """Make the variables."""
        return self.run.init(rngs, *arguments(self.inputs(batch)), self.flags)


@jax.jit
def _keys() -> dict[str, jax.Array]:
    """Return fixed keys for the random streams of training, by one program."""
    params, dropout = jax.random.split(jax.random.key(0))
    return {"params": params, "dropout": dropout}


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a call."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})


def is_linen(value: object) -> bool:
    """Tell whether a value is a Linen module, of linsey or Flax."""
    return any(
        cls.__name__ == "Module"
        and cls.__module__.endswith("linen.module")
        or cls.__module__.startswith("linsey.linen.module")
        for cls in type(value).__mro__
    )


def library_of(module: object) -> Any:
    """Return the package `linen` that a module belongs to."""
    is_ours = any(
        c.__module__ == "linsey.linen.module.base" for c in type(module).__mro__
    )
    return sys.modules["linsey.linen" if is_ours else "flax.linen"]


def _forms(
    model: Any, flag: str | None
) -> Iterator[tuple[Any, Run, Mapping[str, bool]]]:
    """Yield possible modules, ways to run them, and flags, the likeliest first."""
    if is_object(model):
        yield None, _run_object(model), {}
        return
    fixed: Mapping[str, Any] = {}
    bound = model
    if isinstance(model, functools.partial):
        bound, fixed = model.func, model.keywords
    if is_linen(getattr(bound, "__self__", None)) and bound.__name__ == "apply":
        module = bound.__self__
    elif is_linen(model):
        module = model
    else:
        yield None, _run_function(model), {}
        return
    method = fixed.get("method", "__call__")
    function = (
        getattr(type(module), method, None) if isinstance(method, str) else method
    )
    if flag is not None:
        yield from _named(module, fixed, function, flag)
        return
    names, is_open = _parameters(function)
    known = {name: FLAGS[name] for name in FLAGS if name in names}
    if known:
        yield module, _LinenRun(module, fixed, ()), known
    fields = {n: v for n, v in FLAGS.items() if hasattr(module, n) and n not in known}
    if fields:
        yield module, _LinenRun(module, fixed, tuple(fields)), {**known, **fields}
    if not known:
        yield module, _LinenRun(module, fixed, ()), {}  # mutability sets the mode
    if is_open:
        for name, value in FLAGS.items():
            yield module, _LinenRun(module, fixed, ()), {name: value}


def _named(
    module: Any, fixed: Mapping[str, Any], function: Any, flag: str
) -> Iterator[tuple[Any, Run, Mapping[str, bool]]]:
    """Yield the ways to call a module with the flag that the user named."""
    name = flag.removeprefix("not ").strip()
    names, is_open = _parameters(function)
    is_field = name not in names and not is_open and hasattr(module, name)
    value = FLAGS.get(name, True) if flag == name else False
    yield module, _LinenRun(module, fixed, (name,) if is_field else ()), {name: value}


def _parameters(function: Any) -> tuple[tuple[str, ...], bool]:
    """Return a function's parameter names, and whether it takes `**kwargs`."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return (), True
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return tuple(parameters), is_open


@dataclass(frozen=True)
class _LinenRun:
    """A way to run a Linen module.

    Attributes:
        module: the module, of linsey or Flax.
        fixed: keyword arguments that a partial of `apply` holds already.
        fields: the flags that are fields of the module, not arguments.
    """

    module: Any
    fixed: Mapping[str, Any]
    fields: tuple[str, ...]

    def __call__(
        self,
        variables: Variables,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        train: bool,
        mutable: Sequence[str],
        rngs: Rngs,
    ) -> tuple[Any, Variables]:
        used, options = self._options(kwargs)
        options["rngs"] = self.fixed.get("rngs")
        if train:
            options["rngs"] = {**(options["rngs"] or {}), **rngs}
        if not mutable:
            return used.apply(variables, *args, **options), {}
        return used.apply(variables, *args, mutable=list(mutable), **options)

    def init(
        self,
        rngs: Rngs,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> Variables:
        """Make the variables."""
        used, options = self._options({**kwargs, **flags})
        options.pop("rngs", None)
        return used.init(rngs, *args, **options)

    def _options(self, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        values = {name: kwargs[name] for name in self.fields}
        used = self.module.clone(**values) if values else self.module
        rest = {k: v for k, v in kwargs.items() if k not in values}
        return used, {**self.fixed, **rest}


def _run_function(function: Callable[..., Any]) -> Run:
    def run(
        variables: Variables,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        train: bool,
        mutable: Sequence[str],
        rngs: Rngs,
    ) -> tuple[Any, Variables]:
        if not mutable:
            return function(variables, *args, **kwargs, train=train, mutable=False), {}
        changes = list(mutable)
        return function(variables, *args, **kwargs, train=train, mutable=changes)

    return run


def _run_object(model: Any) -> Run:
    def run(
        variables: Variables,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        train: bool,
        mutable: Sequence[str],
        rngs: Rngs,
    ) -> tuple[Any, Variables]:
        used = with_variables(model, variables).train(train)
        y = used(*args, **kwargs)
        after = variables_of(used)
        return y, {name: after[name] for name in mutable if name in after}

    return run


def _inputs(batch: Batch) -> Iterator[Inputs]:
    """Yield ways to make arguments from a batch: first whole, then without labels."""
    yield lambda batch: batch
    if isinstance(batch, tuple | list) and len(batch) > 1:
        yield operator.itemgetter(0)
    if isinstance(batch, Mapping):
        yield lambda batch: (batch,)  # a dictionary as one argument
        for name in ("image", "images", "x", "inputs"):
            if name in batch:
                yield operator.itemgetter(name)


def _failure(call: Call, variables: Variables, batch: Batch) -> str | None:
    """Return the reason why a call does not work, or `None` if it works."""

    def both(variables: Variables, batch: Batch) -> Any:
        y, updates = call.train(variables, batch)
        return call.evaluate(variables, batch), y, updates

    try:
        _, _, updates = jax.eval_shape(both, variables, batch)
    except Exception as error:  # of any kind: it is the model's
        return _told(error)
    if "batch_stats" in variables and "batch_stats" not in updates:
        return "training changed no `batch_stats`"
    return None


def _told(error: Exception) -> str:
    """Describe an error by its class and its first line."""
    first = str(error).splitlines()[:1]
    return ": ".join([type(error).__name__, *first])


def _label(model: object) -> str:
    return f"`{getattr(model, '__qualname__', type(model).__name__)}`"
