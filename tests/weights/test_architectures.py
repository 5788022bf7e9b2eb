"""The architectures of `linsey.models` by their tables of names, without PyTorch."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from linsey import models
from linsey.checkpoint import flatten
from linsey.models.mobilenet_v3 import SMALL
from linsey.weights import load, to_torch
from tests.weights.nets import random_variables

SMALL_ONES = {
    "resnet": functools.partial(models.ResNet, 3, stage_sizes=(1, 1)),
    "mobilenet": functools.partial(models.MobileNetV3, 3, rows=SMALL[:2]),
    "densenet": functools.partial(models.DenseNet, 3, block_sizes=(1, 1), growth=4),
    "vit": functools.partial(
        models.VisionTransformer, 3, patch_size=8, features=8, depth=1, heads=2,
        hidden=16,
    ),
}  # fmt: skip
LARGE_ONES = {
    name: functools.partial(make, 3)
    for name, make in models.MODELS.items()
    if name != "vit_b_16"
}
# One of each family; the others have more of the same blocks.
ONE_OF_EACH = ("resnet50", "mobilenet_v3_large", "efficientnet_b0", "densenet121",
               "vit_s_16")  # fmt: skip
CASES = [
    *SMALL_ONES.items(),
    *(
        pytest.param(
            *case,
            marks=pytest.mark.slow if case[0] in ONE_OF_EACH else pytest.mark.soak,
        )
        for case in LARGE_ONES.items()
    ),
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_variables_come_back_from_both_libraries_bit_by_bit(name, make):
    model, x = make(), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    variables = random_variables(model, x)
    for library in ("torchvision", "timm"):
        state = to_torch(model, variables, x, library=library)
        found, report = load(model, state, x)
        assert {match.by for match in report.matches} == {"table"}
        assert report.is_complete
        expected = flatten(variables)
        for path, array in flatten(found).items():
            assert np.asarray(array).tobytes() == np.asarray(expected[path]).tobytes()
        assert flatten(found).keys() == expected.keys()


@pytest.mark.parametrize(("name", "make"), CASES[:3])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_counters_come_back_to_both_libraries_bit_by_bit(library, name, make):
    model, x = make(), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    state = to_torch(model, random_variables(model, x), x, library=library)
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    state |= {name: np.array(place + 5) for place, name in enumerate(counters)}
    variables, report = load(model, state, x)
    assert len(report.counts) == len(counters) > 0 and report.is_complete
    back = to_torch(model, variables, x, library=library)
    assert back.keys() == state.keys()
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)
    image = np.ones(x.shape, x.dtype)
    without = {name: tree for name, tree in variables.items() if name != "batch_counts"}
    found = model.apply(variables, image)
    np.testing.assert_array_equal(found, model.apply(without, image))
