"""Runs one program on Flax and on linsey and compares all that can be seen of it.

A program is a test function whose parameters name parts of a library: `nn`, `core`,
`errors`, ... `agrees` makes a test of it, whose law is: both libraries return the same
(structure, order of keys, types, dtypes, bits), or both raise an error of the same
class name whose first sentence agrees.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.core.lift
import flax.errors
import flax.linen
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.configurations import config as flax_config

import linsey.config
import linsey.core
import linsey.core.lift
import linsey.errors
import linsey.linen
import linsey.struct

FLAX = {
    "nn": flax.linen,
    "core": flax.core,
    "lift": flax.core.lift,
    "errors": flax.errors,
    "struct": flax.struct,
    "config": flax_config,
}
LINSEY = {
    "nn": linsey.linen,
    "core": linsey.core,
    "lift": linsey.core.lift,
    "errors": linsey.errors,
    "struct": linsey.struct,
    "config": linsey.config.config,
}
KEY = jax.random.key(0)
X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)


def agrees(
    program: Callable[..., Any] | None = None,
    *,
    ulps: int = 0,
    refused: bool = False,
    wording: bool = True,
    ordered: bool = True,
) -> Any:
    """Makes a test of a program: Flax and linsey do the same.

    Args:
        program: the program.
        ulps: rounding allowed for floats, in units of the largest value of an array.
        refused: whether both must raise (else neither may).
        wording: whether the first sentences must agree too.
        ordered: whether dictionaries must have their keys in one order.
    """
    if program is None:
        return functools.partial(
            agrees, ulps=ulps, refused=refused, wording=wording, ordered=ordered
        )
    signature = inspect.signature(program)
    libraries = [name for name in signature.parameters if name in FLAX]

    def test(**fixtures: Any) -> None:
        runs = [
            _outcome(program, {name: lib[name] for name in libraries}, fixtures)
            for lib in (FLAX, LINSEY)
        ]
        (expected, theirs), (found, ours) = runs
        if refused:
            assert theirs is not None, f"Flax returns {expected}"
            assert ours is not None, f"linsey returns {found}"
            assert_same_error(theirs, ours, wording)
        elif theirs is not None or ours is not None:
            raise AssertionError(f"Flax: {theirs!r}, linsey: {ours!r}") from (
                ours or theirs
            )
        else:
            if not ordered:
                expected, found = _sorted(expected), _sorted(found)
            assert_same(expected, found, ulps)

    rest = [p for name, p in signature.parameters.items() if name not in libraries]
    test.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    test.__name__, test.__doc__ = program.__name__, program.__doc__
    test.__module__, test.__qualname__ = program.__module__, program.__qualname__
    test.pytestmark = list(getattr(program, "pytestmark", ()))  # type: ignore[attr-defined]
    return test


refuses = functools.partial(agrees, refused=True)


def _outcome(program: Any, library: Any, fixtures: Any) -> tuple[Any, Any]:
    try:
        return program(**library, **fixtures), None
    except Exception as error:  # noqa: BLE001
        return None, error


def _sorted(tree: Any) -> Any:
    """Rebuilds dictionaries with sorted keys, as JAX does."""
    return jax.tree_util.tree_map(lambda x: x, tree)


def assert_same_error(
    theirs: BaseException, ours: BaseException, wording: bool = True
) -> None:
    """Same class name, or same built-in class; the first sentence agrees."""
    if isinstance(theirs, flax.errors.FlaxError):
        assert type(ours).__name__ == type(theirs).__name__, f"{theirs!r} / {ours!r}"
        if wording:
            assert first_sentence(ours).startswith(first_sentence(theirs))
    else:
        assert isinstance(ours, builtin_of(theirs)), f"{theirs!r} / {ours!r}"


def first_sentence(error: BaseException) -> str:
    """The opening sentence of a message, without link and full stop."""
    text = str(error).split(" (https://")[0].split("\n")[0]
    return text.split(". ")[0].rstrip(".")


def builtin_of(error: BaseException) -> type:
    """The built-in class of an error, which programs written for Flax catch."""
    return next(cls for cls in type(error).__mro__ if cls.__module__ == "builtins")


def assert_same(expected: Any, found: Any, ulps: int = 0, path: str = "result") -> None:
    """Two results are equal all the way down; classes of the libraries by name."""
    if isinstance(expected, (jax.Array, np.ndarray, np.generic)):
        assert_same_array(expected, found, ulps, path)
        return
    assert type(found).__name__ == type(expected).__name__, path
    if isinstance(expected, Mapping):
        assert list(found) == list(expected), path
        for key in expected:
            assert_same(expected[key], found[key], ulps, f"{path}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            assert_same(a, b, ulps, f"{path}[{i}]")
    elif isinstance(expected, (flax.linen.Module, flax.core.DenyList)):
        assert repr(found) == repr(expected), path
    elif isinstance(expected, type):
        assert found.__name__ == expected.__name__, path
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            a, b = getattr(expected, field.name), getattr(found, field.name)
            assert_same(a, b, ulps, f"{path}.{field.name}")
    else:
        assert found == expected, path


def assert_same_array(expected: Any, found: Any, ulps: int, path: str) -> None:
    """Arrays agree in dtype and shape, and in bits or up to rounding."""
    assert isinstance(found, type(expected)) or isinstance(found, jax.Array), path
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), path
    if jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
        expected, found = jax.random.key_data(expected), jax.random.key_data(found)
    if ulps and jnp.issubdtype(expected.dtype, jnp.inexact):
        scale = float(np.max(np.abs(expected), initial=0.0))
        atol = ulps * float(jnp.finfo(expected.dtype).eps) * scale
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=path)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=path)
