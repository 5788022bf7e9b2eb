"""The text of each error, its form, and its journey through pickle."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import linsey.errors as errors
import linsey.linen as nn


class MLP:
    """Stands for a module in messages."""


CASES = {
    "AlreadyExistsError": (("ckpt_1",), {}),
    "ApplyModuleInvalidMethodError": ((3,), {}),
    "ApplyScopeInvalidVariablesStructureError": (({"params": {"kernel": 0}},), {}),
    "ApplyScopeInvalidVariablesTypeError": ((), {}),
    "AssignSubModuleError": (("Dense",), {}),
    "CallCompactUnboundModuleError": ((), {}),
    "CallSetupUnboundModuleError": ((), {}),
    "CallShareScopeOnUnboundModuleError": ((), {}),
    "CallUnbindOnUnboundModuleError": ((), {}),
    "CursorFindError": ((), {}),
    "DescriptorAttributeError": ((), {}),
    "DiskError": (
        (OSError(28, "No space left on device"), "run/step"),
        {"doing": "save", "needed": 5000, "free": 4096},
    ),
    "FeatureShapeChangedError": (("/bn",), dict(expected=3, found=4)),
    "FrozenDictIsImmutableError": (("bias",), {}),
    "ImmutableVariableError": (("found",), {}),
    "IncorrectPostInitOverrideError": ((), {}),
    "InputError": (
        ("label out of range",),
        {
            "file": "a.npz",
            "key": "y[7]",
            "expected": "0 to 9",
            "found": 12,
            "hint": "count from 0",
        },
    ),
    "InvalidCheckpointError": (("ckpt", 3), {}),
    "InvalidFilterError": ((3,), {}),
    "InvalidInstanceModuleError": ((), {}),
    "InvalidRngError": (('Dropout_0 needs PRNG for "dropout"',), {}),
    "InvalidScopeError": (("/a",), {}),
    "JaxTransformError": ((), {}),
    "LazyInitError": (("f32[2]",), {}),
    "MPACheckpointingRequiredError": (("ckpt", 3), {}),
    "MPARestoreDataCorruptedError": ((3, "ckpt"), {}),
    "MPARestoreTargetRequiredError": (("ckpt", 3), {}),
    "MissingBatchStatsError": (("/bn",), {}),
    "ModifyScopeVariableError": (("batch_stats", "mean", "/bn"), {}),
    "MultipleMethodsCompactError": ((), {}),
    "NameInUseError": (("submodule", "a", "Foo"), {}),
    "PartitioningUnspecifiedError": (("box",), {}),
    "ReservedModuleAttributeError": (({"name": str},), {}),
    "ScopeCollectionNotFound": (("batch_stats", "mean", "/bn"), {}),
    "ScopeParamNotFoundError": (("kernel", "/a"), {}),
    "ScopeParamShapeError": (("kernel", "/encoder/Dense_0", (784, 128), (28, 128)), {}),
    "ScopeVariableNotFoundError": (("mean", "batch_stats", "/bn"), {}),
    "SetAttributeFrozenModuleError": (("Foo", "a", 3), {}),
    "SetAttributeInModuleSetupError": ((), {}),
    "SingleValuePerChannelError": (("/bn", (1, 8)), {}),
    "UnsynchronizedLayerError": (("bn",), {"module": "OwnNorm"}),
    "UnsynchronizedStatisticsError": (("batch_stats/bn/mean", "microbatches"), {}),
    "StateDictMismatchError": (("found", "why"), {}),
    "MalformedBytesError": ((12, "incomplete input"), {}),
    "TraceContextError": (("found",), {}),
    "TracedFlagError": (("train",), {}),
    "TransformTargetError": ((3,), {}),
    "TransformedMethodReturnValueError": (("__call__",), {}),
    "TraverseTreeError": ((None, None), {}),
    "UnboundModuleError": (("variables",), {"module": MLP()}),
    "GradientStructureError": (("there is no gradient of ['b'].",), {}),
    "HalfPrecisionStatisticsError": (("/bn", "bfloat16"), {}),
    "NonFiniteBatchError": (("/bn", 2), {}),
    "HyperParamUnknownError": (("Adam", ["rho"], ["beta1", "beta2"]), {}),
    "OptimizerStateDictError": (("found", "why"), {}),
    "DeclarationOutsideSetupError": (("param",), {"module": MLP()}),
    "UnboundAxisNameError": (("batch",), {}),
    "ArgumentTypeError": (("found", "why", "fix"), {}),
    "MismatchError": (("found", "why", "fix"), {}),
    "OptionError": (("found", "why", "fix"), {}),
    "ShapeError": (("found", "why", "fix"), {}),
    "UnsupportedError": (("found", "why", "fix"), {}),
    "UsageError": (("found", "why", "fix"), {}),
}

MESSAGES = dict(
    section.strip().split("\n", 1)
    for section in Path(__file__)
    .with_name("error_messages.txt")
    .read_text()
    .removeprefix("# ")
    .split("\n# ")
)


def make(name: str) -> errors.LinseyError:
    args, keywords = CASES[name]
    return getattr(errors, name)(*args, **keywords)


def test_every_error_has_a_tested_text():
    public = set(errors.__all__) - {"LinseyError", "FlaxError"}
    assert public == CASES.keys() == MESSAGES.keys()


def test_every_error_can_be_imported_from_the_package():
    """From `linsey.errors` itself, whatever file it is in, and `dir` shows it."""
    homes = {}
    for info in pkgutil.iter_modules(errors.__path__):
        module = importlib.import_module(f"linsey.errors.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                assert issubclass(value, errors.LinseyError | Warning)
                assert homes.setdefault(name, module) is module, f"two classes {name}"
                assert getattr(errors, name) is value
    assert homes.keys() <= set(dir(errors))
    with pytest.raises(AttributeError, match="NoSuchError"):
        errors.NoSuchError  # noqa: B018


def test_errors_of_layers_are_imported_when_they_are_asked_for():
    program = (
        "import sys, linsey.errors\n"
        "before = set(sys.modules)\n"
        "from linsey.errors import treex, InputRankError\n"
        "print(*sorted(n for n in set(sys.modules) - before if 'linsey' in n))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["linsey.errors.layers", "linsey.errors.treex"]


@pytest.mark.parametrize("name", CASES)
def test_full_text(name):
    assert str(make(name)) == MESSAGES[name]


@pytest.mark.parametrize("name", CASES)
def test_parts_make_up_the_text(name):
    error = make(name)
    parts = [part for part in (error.found, error.why, error.fix) if part]
    assert str(error) == "\n".join(parts)
    assert isinstance(error, errors.FlaxError)


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, "pickle"])
@pytest.mark.parametrize("name", CASES)
def test_errors_survive_a_journey(name, travel):
    if travel == "pickle":
        travel = lambda error: pickle.loads(pickle.dumps(error))  # noqa: E731
    error = make(name)
    error.add_note("while building /encoder")
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.fix == error.fix
    assert arrived.__notes__ == ["while building /encoder"]


def test_an_error_pickles_whatever_its_arguments_were():
    error = errors.TransformTargetError(lambda: 0)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_keywords_make_messages_richer():
    assert errors.ScopeParamNotFoundError(
        "kernel", "/a", available=["w", "b"]
    ).why.endswith("It holds: `w`, `b`.")
    assert errors.ScopeVariableNotFoundError(
        "mean", "batch_stats", "/a", available=[]
    ).why.endswith("It holds: none.")
    assert "{'dropout': key}" in errors.InvalidRngError("x", stream="dropout").fix
    assert "`params`" in errors.InvalidRngError("x", available=["params"]).why
    assert "self.width" in str(
        errors.SetAttributeInModuleSetupError(module="MLP", attr_name="width")
    )
    assert str(errors.MultipleMethodsCompactError(methods=["f", "g"])).startswith(
        "Only one method per class can be @compact. It has: `f`, `g`.\n"
    )
    assert "`MLP`" in str(errors.CallCompactUnboundModuleError(module="MLP"))
    assert (
        "of `MLP` were"
        in errors.ScopeParamShapeError(
            "k", "/", (1,), (2,), module=type("MLP", (), {})
        ).why
    )


def test_shape_fix_names_the_width_only_where_it_is_the_cause():
    error = errors.ScopeParamShapeError
    assert "last axis is 784" in error("k", "/", (784, 8), (28, 8)).fix
    assert "last axis" not in error("k", "/", (784, 8), (784, 9)).fix
    assert "last axis" not in error("k", "/", (8,), (9,)).fix


@pytest.mark.parametrize(
    ("found", "expected", "order"),
    [
        ((16, 8, 3, 3), (3, 3, 8, 16), (2, 3, 1, 0)),
        ((16, 8), (8, 16), (1, 0)),
        ((8, 16, 2, 4), (2, 4, 8, 16), (2, 3, 0, 1)),
        ((16, 8, 5), (5, 8, 16), (2, 1, 0)),
        ((2, 3, 4), (3, 4, 2), (1, 2, 0)),
    ],
)
def test_permuted_axes_are_named(found, expected, order):
    error = errors.ScopeParamShapeError("kernel", "/", found, expected)
    assert f"`kernel.transpose{order}`" in error.fix
    assert np.zeros(found).transpose(order).shape == expected


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.Dense(2), "kernel"), (nn.LayerNorm(), "scale")]
)
def test_names_of_pytorch_are_recognised(layer, name):
    x = np.ones((1, 3), np.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    theirs = {"weight": params[name], "bias": params["bias"]}
    with pytest.raises(errors.ScopeParamNotFoundError) as caught:
        layer.apply({"params": theirs}, x)
    assert "It holds: `weight`, `bias`." in caught.value.why
    assert f"`{{'{name}': weight" in caught.value.fix


def test_shapes_with_symbols_are_compared_in_the_error():
    (n,) = jax.export.symbolic_shape("n")
    error = errors.ScopeParamShapeError
    assert "(n, 3)" in str(error("k", "/", (3, 3), (n, 3)))


def test_errors_are_caught_where_jax_errors_were():
    assert issubclass(errors.UnboundAxisNameError, NameError)
    assert issubclass(errors.TracedFlagError, TypeError)
    assert issubclass(errors.SingleValuePerChannelError, ValueError)
    assert issubclass(errors.MissingBatchStatsError, errors.ScopeCollectionNotFound)
    assert issubclass(errors.FeatureShapeChangedError, errors.ScopeParamShapeError)
