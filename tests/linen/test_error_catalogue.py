"""Every error of Flax that concerns modules and scopes, provoked on both libraries."""

from __future__ import annotations

import inspect
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import pytest

import linsey.errors
from tests.compat.agreement import FLAX, KEY, LINSEY, X

# These concern checkpoints, cursors and traversals; they are tested there.
ELSEWHERE = {
    "AlreadyExistsError",
    "CursorFindError",
    "InvalidCheckpointError",
    "MPACheckpointingRequiredError",
    "MPARestoreDataCorruptedError",
    "MPARestoreTargetRequiredError",
    "TraverseTreeError",
}
# Newer ones take zeros for an input that nobody gave.
NOT_RAISED_BY_NEWER = {"LazyInitError"}
FLAX_VERSION = tuple(map(int, flax.__version__.split(".")[:3]))
NAMES = {
    name
    for name, value in vars(flax.errors).items()
    if inspect.isclass(value) and issubclass(value, flax.errors.FlaxError)
} - {"FlaxError"}

PROGRAMS: dict[str, Any] = {}


def mistake(program: Any) -> Any:
    """Registers a program under the error that it provokes, which is its name."""
    PROGRAMS[program.__name__] = program
    return program


def compact(nn: Any, body: Any) -> Any:
    """A module whose compact call is `body(module, x)`."""

    class Net(nn.Module):
        field: int = 0

        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Net()


# -- constructing modules ------------------------------------------------------------


@mistake
def ReservedModuleAttributeError(nn, **_):
    class Net(nn.Module):
        parent: Any = None


@mistake
def IncorrectPostInitOverrideError(nn, **_):
    class Net(nn.Module):
        field: int = 0

        def __post_init__(self):
            pass

        def __call__(self, x):
            return x

    return Net().init(KEY, X)


@mistake
def AssignSubModuleError(nn, **_):
    class Net(nn.Module):
        def __call__(self, x):
            return nn.Dense(2)(x)

    return Net().init(KEY, X)


@mistake
def InvalidInstanceModuleError(nn, **_):
    return nn.Dense.init(KEY, X)


# -- names and attributes ------------------------------------------------------------


@mistake
def NameInUseError(nn, **_):
    def body(module, x):
        nn.Dense(2, name="a")(x)
        return nn.Dense(2, name="a")(x)

    return compact(nn, body).init(KEY, X)


@mistake
def SetAttributeFrozenModuleError(nn, **_):
    def body(module, x):
        module.field = 1

    return compact(nn, body).init(KEY, X)


@mistake
def SetAttributeInModuleSetupError(nn, **_):
    class Net(nn.Module):
        field: int = 0

        def setup(self):
            self.field = 1

        def __call__(self, x):
            return x

    return Net().init(KEY, X)


@mistake
def DescriptorAttributeError(nn, **_):
    class Net(nn.Module):
        def setup(self):
            self.a = 1

        @property
        def b(self):
            return self.c

        def __call__(self, x):
            return self.b

    return Net().init(KEY, X)


# -- calling modules -----------------------------------------------------------------


@mistake
def CallCompactUnboundModuleError(nn, **_):
    return nn.Dense(2)(X)


@mistake
def CallSetupUnboundModuleError(nn, **_):
    class Net(nn.Module):
        def setup(self):
            self.a = 1

    return Net().setup()


@mistake
def CallUnbindOnUnboundModuleError(nn, **_):
    return nn.Dense(2).unbind()


@mistake
def CallShareScopeOnUnboundModuleError(nn, **_):
    return nn.share_scope(nn.Dense(2), nn.Dense(2))


@mistake
def ApplyModuleInvalidMethodError(nn, **_):
    return nn.Dense(2).apply({"params": {}}, X, method=5)


@mistake
def TransformTargetError(nn, **_):
    return nn.vmap(nn.Dense(2))


@mistake
def TransformedMethodReturnValueError(nn, **_):
    def body(module, x):
        return nn.remat(lambda module, x: nn.Dense(2))(module, x)

    return compact(nn, body).init(KEY, X)


# -- variables and keys --------------------------------------------------------------


@mistake
def ApplyScopeInvalidVariablesTypeError(nn, **_):
    return nn.Dense(2).apply({1: {}}, X)


@mistake
def ApplyScopeInvalidVariablesStructureError(nn, **_):
    return nn.Dense(2).apply({"params": {"params": {}}}, X)


@mistake
def ScopeParamNotFoundError(nn, **_):
    return nn.Dense(2).apply({"params": {"other": X}}, X)


@mistake
def ScopeCollectionNotFound(nn, **_):
    return nn.Dense(2).apply({}, X)


@mistake
def ScopeVariableNotFoundError(nn, **_):
    body = lambda module, x: module.variable("state", "a", jnp.ones)  # noqa: E731
    return compact(nn, body).apply({"state": {"b": X}}, X)


@mistake
def ScopeParamShapeError(nn, **_):
    return nn.Dense(3).apply(nn.Dense(2).init(KEY, X), X)


@mistake
def ModifyScopeVariableError(nn, **_):
    body = lambda module, x: module.put_variable("state", "a", x)  # noqa: E731
    return compact(nn, body).apply({"state": {"a": X}}, X)


@mistake
def InvalidRngError(nn, **_):
    return nn.Dense(2).init(X, X)


@mistake
def InvalidScopeError(core, **_):
    kept: list[Any] = []
    core.apply(kept.append, mutable=True)({})
    return kept[0].push("child")


@mistake
def InvalidFilterError(core, **_):
    return core.apply(lambda scope: scope.is_mutable_collection("a"), mutable=3)({})


@mistake
def LazyInitError(nn, **_):
    body = lambda module, x: module.param("w", lambda key: x + 1)  # noqa: E731
    return compact(nn, body).lazy_init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))


@mistake
def PartitioningUnspecifiedError(core, **_):
    box = core.meta.Partitioned(X, names=(None, None))
    return box.add_axis(0, {})


def raised(name: str, library: dict[str, Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        PROGRAMS[name](**library)
    return caught.value


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_mistake_has_the_name_it_has_in_flax(name):
    ours = raised(name, LINSEY)
    assert type(ours).__name__ == name
    assert isinstance(ours, linsey.errors.LinseyError)
    if name in NOT_RAISED_BY_NEWER and FLAX_VERSION > (0, 12, 8):
        return
    theirs = raised(name, FLAX)
    assert type(theirs).__name__ == name
    builtin = next(c for c in type(theirs).__mro__ if c.__module__ == "builtins")
    assert isinstance(ours, builtin)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_message_has_three_parts(name):
    """What was found, why it cannot work, and the line to write."""
    lines = str(raised(name, LINSEY)).split("\n")
    assert len(lines) >= 3
    assert all(len(line) > 15 for line in (lines[0], *lines[-2:]))


def test_every_error_of_flax_is_provoked():
    # Flax defines these and never raises them (with the JAX of today).
    unused = {
        "ImmutableVariableError",
        "JaxTransformError",
        "MultipleMethodsCompactError",
        "TraceContextError",
    }
    assert NAMES - ELSEWHERE - unused == set(PROGRAMS)
