"""Every public name of the Linen side of Flax is here, with a compatible signature.

Compatible means: what Flax accepts is accepted. The parameters of Flax are there, in
its order, under its names and with its defaults; ours may have more, with defaults.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import flax.linen
import numpy as np
import pytest

import linsey.core.rng
import linsey.linen

# Public modules of the Linen side. NNX and what only serves it are out of scope.
MODULES = """
linen linen.activation linen.attention linen.batch_apply linen.combinators linen.dtypes
linen.experimental.layers_with_named_axes linen.fp8_ops linen.initializers
linen.kw_only_dataclasses linen.linear linen.module linen.normalization
linen.partitioning linen.pooling linen.recurrent linen.spmd linen.stochastic
linen.summary linen.transforms
core core.axes_scan core.frozen_dict core.lift core.meta core.nn core.partial_eval
core.scope core.spmd core.tracers core.variables
training training.checkpoints training.common_utils training.dynamic_scale
training.early_stopping training.lr_schedule training.orbax_utils
training.prefetch_iterator training.train_state
configurations cursor errors ids io jax_utils metrics metrics.tensorboard
serialization struct traceback_util traverse_util typing version
""".split()

# Names still to come. A name that has come must be taken off this list.
MISSING: dict[str, str] = {}

# Parts of the machinery of Flax and of NNX without documentation: not offered.
MACHINERY = {
    "configurations": (
        "flax_always_shard_variable flax_array_ref flax_hijax_variable"
        " flax_max_repr_depth flax_pytree_module flax_use_flaxlib"
    ),
    "core.axes_scan": "build_shaped_array",
    "core.lift": ("CountsHolder TransformContext id_fn set_from_dict tree_map_rngs"),
    "core.scope": "child_rng_token no_flag",
    "linen.fp8_ops": "dot_general_transpose_lhs dot_general_transpose_rhs",
    "linen.module": (
        "Descriptor DescriptorWrapper ParentDescriptor SetupState TestScope"
        " ThreadLocalStack capture_call_intermediates create_descriptor_wrapper"
        " module_field run_interceptors wrap_descriptor_once"
    ),
    "linen.summary": "Row",
    "linen.transforms": (
        "InstancePlaceholder VariablePlaceholder clean_clone decorator_lift_transform"
        " decorator_lift_transform_cached fork_rngs get_module_scopes"
        " lift_direct_transform lift_transform lift_transform_cached"
        " module_class_lift_transform module_class_lift_transform_cached"
        " set_module_scopes"
    ),
    "traceback_util": "register_exclusion",
    "typing": (
        "BaseConfigContext HashableMapping MISSING Missing PytreeDeque ShapeDtype"
        " SizeBytes has_shape_dtype"
    ),
}

# Names that are there and hold something else: tables are made by `tabulate`, and a
# product in 8 bits cannot do without its scales, which have a default of None in Flax.
OF_ANOTHER_SHAPE = {
    "linen.fp8_ops": "fp8_scaled_dot_general",
    "linen.summary": "Table",
}

# Methods that only NNX and the machinery need.
UNOFFERED_METHODS = {
    "from_nnx_metadata": object,
    "to_nnx_metadata": object,
    "replace": linsey.core.rng.LazyRng,
}

# Classes whose methods JAX asks for, by position.
ASKED_BY_JAX = {"Fp8MetaTyRules", "fp8_meta_dtype", "fp8_meta_dtype_wrapper"}


def load(package: str, name: str) -> Any:
    """A module, None if it is not there or needs what is not installed."""
    try:
        return importlib.import_module(f"{package}.{name}")
    except ImportError:
        return None


def public_names(module: types.ModuleType) -> list[str]:
    """What a module offers: what it defines, and what a package takes together."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    is_package = hasattr(module, "__path__")
    return [
        name
        for name, value in sorted(vars(module).items())
        if not name.startswith(("_", "nnx_")) and _is_offered(module, value, is_package)
    ]


def _is_offered(module: types.ModuleType, value: Any, is_package: bool) -> bool:
    if isinstance(value, (types.ModuleType, typing.TypeVar)):
        return False
    home = getattr(value, "__module__", None)
    if home in ("typing", "__future__", "collections.abc", None):
        return False
    return is_package or home == module.__name__


def listed(lists: dict[str, str], module: str, name: str) -> bool:
    names = lists.get(module, "")
    return names == "*" or name in names.split()


def all_names() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        found = load("flax", module)
        if found is not None:
            for name in public_names(found):
                yield module, name


OFFERED = [
    (module, name)
    for module, name in all_names()
    if not listed(MISSING, module, name) and not listed(MACHINERY, module, name)
]


@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_there_or_listed(module):
    theirs, ours = load("flax", module), load("linsey", module)
    if theirs is None:
        pytest.skip("needs what is not installed")
    for name in public_names(theirs):
        is_there = hasattr(ours, name)
        is_listed = listed(MISSING, module, name) or listed(MACHINERY, module, name)
        if is_there and is_listed:
            pytest.fail(f"{module}.{name} has come: take it off the list")
        assert is_there or is_listed, f"{module}.{name} is missing"


@pytest.mark.parametrize(
    "name",
    [
        "activation.Module", "activation.compact",
        "linear.Module", "linear.compact", "linear.initializers",
        "normalization.Module", "normalization.compact", "normalization.merge_param",
        "normalization.initializers", "normalization.dtypes",
    ],
)  # fmt: skip
def test_what_programs_take_from_the_files_of_layers_is_there(name):
    file, attribute = name.split(".")
    assert hasattr(importlib.import_module(f"flax.linen.{file}"), attribute)
    found = getattr(importlib.import_module(f"linsey.linen.{file}"), attribute)
    assert found is getattr(linsey.linen, attribute)


def test_the_lists_hold_only_names_of_flax():
    names = set(all_names())
    for lists in (MISSING, MACHINERY):
        for module, listing in lists.items():
            assert module in MODULES
            if listing != "*":
                assert {(module, name) for name in listing.split()} <= names


# -- signatures ----------------------------------------------------------------------


def signature(value: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def differences(theirs: Any, ours: Any) -> list[str]:
    """How a call that Flax accepts could fail or mean something else here."""
    expected, found = signature(theirs), signature(ours)
    if expected is None or found is None:
        return []
    if [str(p) for p in expected.parameters.values()] == ["*args", "**kwargs"]:
        return []  # says nothing
    mine = found.parameters
    kinds = {p.kind for p in mine.values()}
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds
    problems = []
    positional = [p for p in mine.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    place = 0
    for parameter in expected.parameters.values():
        name = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            if inspect.Parameter.VAR_POSITIONAL not in kinds:
                problems.append(f"no *{name}")
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            if not takes_all:
                problems.append(f"no **{name}")
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            place += 1
            continue
        if name not in mine:
            if not takes_all:
                problems.append(f"no {name}")
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            # Every module ends with these two; nobody passes them by position.
            if name in ("parent", "name") and mine[name].kind is parameter.KEYWORD_ONLY:
                continue
            if place >= len(positional) or positional[place].name != name:
                problems.append(f"{name} is not at position {place}")
            place += 1
        if not same_default(parameter.default, mine[name].default):
            problems.append(
                f"{name} = {mine[name].default!r} for {parameter.default!r}"
            )
    required = [
        p.name
        for p in mine.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)
        and p.name not in expected.parameters
    ]
    return problems + [f"{name} is required" for name in required]


def same_default(expected: Any, found: Any) -> bool:
    """Whether leaving an argument out means the same, as far as can be seen."""
    if expected is inspect.Parameter.empty:  # Flax wants it; a default does no harm
        return True
    if type(expected).__name__.startswith("_") or type(expected) is object:
        return found is not inspect.Parameter.empty  # a private marker
    if inspect.isfunction(expected) and expected.__name__ == "<lambda>":
        return callable(found)
    if isinstance(expected, (float, np.generic)):
        return float(expected) == pytest.approx(float(found), rel=1e-6)
    return normal(expected) == normal(found)


def normal(value: Any) -> str:
    """The text of a default without addresses, packages and names of sentinels."""
    if isinstance(value, (dict, typing.Mapping)):
        return str(dict(value))
    if isinstance(value, (list, tuple)):
        return str(tuple(map(normal, value)))
    if inspect.isfunction(value) or inspect.isclass(value):
        return value.__name__
    text = re.sub(r"\b(flax|linsey)\b(\.\w+)*\.", "", repr(value))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


@pytest.mark.parametrize(
    ("module", "name"), OFFERED, ids=[f"{module}.{name}" for module, name in OFFERED]
)
def test_what_flax_accepts_is_accepted(module, name):
    theirs, ours = (getattr(load(p, module), name) for p in ("flax", "linsey"))
    if name in OF_ANOTHER_SHAPE.get(module, "").split():
        assert differences(theirs, ours), f"{name} is compatible: take it off the list"
        return
    assert not differences(theirs, ours)
    for method in own_methods(theirs) if name not in ASKED_BY_JAX else ():
        if not issubclass(ours, UNOFFERED_METHODS.get(method, ())):
            assert hasattr(ours, method), f"no method {method}"
            problems = differences(getattr(theirs, method), getattr(ours, method))
            assert not problems, method


def own_methods(cls: Any) -> list[str]:
    """The public methods of a class of Flax; those of all modules only for `Module`."""
    if not inspect.isclass(cls) or not cls.__module__.startswith("flax."):
        return []
    inherited = (
        dir(flax.linen.Module)
        if issubclass(cls, flax.linen.Module) and cls is not flax.linen.Module
        else dir(object)
    )
    return [
        name
        for name in dir(cls)
        if (name == "__call__" or not name.startswith("_"))
        and name not in inherited
        and callable(getattr(cls, name))
        and not inspect.isclass(getattr(cls, name))
    ]
