"""ResNets of libraries of Linen models are matched by a table, and proved."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from linsey import models
from linsey.checkpoint import flatten
from linsey.weights import load, prove
from tests.weights.nets import random_variables

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)


def of_flaxmodels(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("flaxmodels")
    make = getattr(library, name)
    return make(output="logits", pretrained=None, num_classes=5, normalize=False)


def of_jax_resnet(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("jax_resnet")
    return getattr(library, name)(n_classes=5)


# The momentum of flaxmodels is that of PyTorch, which counts the other way round.
LIBRARIES = {"flaxmodels": (of_flaxmodels, 0.1), "jax-resnet": (of_jax_resnet, 0.9)}


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("flaxmodels", "ResNet18"),
        ("jax-resnet", "ResNet50"),
        pytest.param("flaxmodels", "ResNet50", marks=pytest.mark.soak),
        pytest.param("jax-resnet", "ResNet18", marks=pytest.mark.soak),
    ],
)
def test_a_resnet_of_another_library_is_loaded_and_proved(library, name):
    make, momentum = LIBRARIES[library]
    theirs = make(name)
    kwargs = {"train": False} if library == "flaxmodels" else {}
    variables = random_variables(theirs, X, **kwargs)
    options = {"momentum": momentum, "unbiased_variance": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 0.1 may be meant for PyTorch
        ours = models.by_name(name.lower(), 5, batch_norm=options)
        mine, report = load(ours, flatten(variables), X)
        proof = prove((ours, mine), (theirs, variables), X)
    assert report.is_complete and {match.by for match in report.matches} == {"table"}
    evaluation = [d.value for d in proof.differences if d.mode == "evaluation"]
    training = [
        (d.value, d.rounding) for d in proof.differences if d.mode == "training"
    ]
    print(library, name, "training", max(training))
    print(f"{library} {name}: {max(evaluation):.1e} of {len(evaluation)} results")
    assert max(evaluation) < 1e-4 and not proof.causes, str(proof)
