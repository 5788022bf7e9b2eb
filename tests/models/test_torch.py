"""Every architecture is that of torchvision and timm: names, numbers, training."""

from __future__ import annotations

import copy
import functools
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import models
from tests.models import torch_models as theirs

# They are looked for, not imported: torchvision needs help for that.
MISSING = [name for name in ("torchvision", "timm") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
torch = pytest.importorskip("torch")

# In training the last layers of the smallest image normalize one pixel an example, and
# rounding grows from step to step: with 4 examples and a rate of 0.05 PyTorch differs
# from itself by 1e-7 in three steps of a ResNet-34 if the batch is in another order.
# With 8 examples and a rate of 0.01 it is 2e-12. EfficientNet normalizes 32 values a
# channel there, and its steps are steep: at a rate of 0.01 PyTorch differs from itself
# by 2e-8 in an EfficientNet-B1, so that its rate is smaller.
CLASSES, RATE = 5, 0.01
SMALL_RATE = 0.0001
OF_TORCHVISION = [name for name in models.MODELS if name != "vit_s_16"]
CASES = [
    *(("torchvision", name) for name in OF_TORCHVISION),
    *(("timm", name) for name in theirs.OF_TIMM),
]
# Two programs in double precision take minutes to compile for each of the others.
ONE_OF_EACH_FAMILY = [
    *(
        ("torchvision", name)
        for name in (
            "resnet18",
            "mobilenet_v3_small",
            "efficientnet_b0",
            "densenet121",
        )
    ),
    ("timm", "vit_s_16"),
]
DOUBLE = [
    case if case in ONE_OF_EACH_FAMILY else pytest.param(*case, marks=pytest.mark.soak)
    for case in CASES
]
# They run a few times, and the step of a DenseNet-121 takes 2 s, but 51 s to compile
# with fusion emitters, and 26 s without. Later versions of jax do not know this option.
QUICKLY = {
    **(
        {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
    ),
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
quickly_compiled = functools.partial(jax.jit, compiler_options=QUICKLY)
# timm keeps PyTorch's epsilon and momentum, where the paper has others.
USUAL = {"momentum": 0.9, "epsilon": 1e-5}


def smallest(name: str) -> int:
    """The side of the smallest image that a model takes in training."""
    return 29 if name.startswith("densenet") else 32


def batch(name: str) -> int:
    """How many examples; the deepest of the narrow networks need more for 1e-8."""
    return 32 if name.startswith("efficientnet") else 8


def rate_of(name: str) -> float:
    """The learning rate."""
    return SMALL_RATE if name.startswith("efficientnet") else RATE


def pair(library: str, name: str) -> tuple[models.Architecture, Any]:
    """Our model and theirs, the second with random arrays."""
    make = getattr(theirs, f"{library}_model")
    other = make(torch, name, CLASSES, smallest(name))
    theirs.randomize(torch, other)
    options: dict[str, Any] = {}
    if name.startswith(("mobilenet", "efficientnet")):
        options["dropout"] = 0.0
    if name.startswith("efficientnet"):
        options["drop_path"] = 0.0
    if library == "timm" and not name.startswith("vit"):
        options["batch_norm"] = USUAL
    return models.by_name(name, CLASSES, **options), other


def relative(ours: Any, other: np.ndarray) -> float:
    """The largest difference, by the largest value."""
    scale = max(float(np.abs(other).max()), 1e-30)
    return float(np.abs(np.asarray(ours) - other).max()) / scale


def largest(ours: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(relative(ours[name], array) for name, array in other.items())


@pytest.mark.parametrize(("library", "name"), CASES)
def test_names_and_arrays_go_there_and_back_bit_by_bit(library, name):
    model, other = pair(library, name)
    state = theirs.arrays(other)
    variables = theirs.shapes(model, smallest(name))
    filled = theirs.to_ours(model, variables, state, library)
    back = theirs.to_theirs(model, filled, state, library)
    assert back.keys() == state.keys()
    for key, array in state.items():
        assert back[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize(("library", "name"), CASES)
def test_single_precision_is_near(library, name):
    model, other = pair(library, name)
    side = smallest(name)
    x = (
        np.random.default_rng(0)
        .normal(size=(batch(name), side, side, 3))
        .astype(np.float32)
    )
    variables = theirs.shapes(model, side)
    filled = theirs.to_ours(model, variables, theirs.arrays(other), library)
    with torch.no_grad():
        expected = other.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    found = relative(quickly_compiled(model.apply)(filled, x), expected)
    print(f"{library} {name}: single precision {found:.1e}")
    assert found < 1e-4


@pytest.mark.parametrize(("library", "name"), DOUBLE)
def test_double_precision_agrees_in_gradients_and_training(library, name):
    """Compare outputs and gradients within 1e-9, and three steps within 1e-8.

    The batch is large enough, and the rate small enough, that PyTorch is as near to
    itself if the batch is in another order; that difference is printed.
    """
    model, other = pair(library, name)
    other.double()
    side, state, rate = smallest(name), theirs.arrays(other), rate_of(name)
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(batch(name), side, side, 3))
    cotangent = drawn.normal(size=(batch(name), CLASSES))
    labels = drawn.integers(CLASSES, size=batch(name))
    shapes = theirs.shapes(model, side)

    with jax.enable_x64(True):
        variables = theirs.to_ours(model, shapes, state, library)
        variables = jax.tree.map(jnp.asarray, variables)
        logits, gradients = evaluated(model, variables, x, cotangent)
        stepped = variables
        for _ in range(3):
            stepped = step(model, stepped, x, labels, rate)
        trained = theirs.to_theirs(model, stepped, state, library)
        gradients = theirs.to_theirs(model, gradients, state, library)

    image = torch.tensor(x.transpose(0, 3, 1, 2))
    output = other.eval()(image)
    (output * torch.tensor(cotangent)).sum().backward()
    outputs = relative(logits, output.detach().numpy())
    expected = {n: p.grad.numpy() for n, p in other.named_parameters()}
    moves = largest(gradients, expected)
    print(f"{library} {name}: outputs {outputs:.1e}, gradients {moves:.1e}")
    assert max(outputs, moves) < 1e-9

    order = drawn.permutation(len(x))
    reordered = train(copy.deepcopy(other), x[order], labels[order], rate)
    moved = train(other, x, labels, rate)
    steps, rounding = largest(trained, moved), largest(reordered, moved)
    print(f"{library} {name}: three steps {steps:.1e}, reordered {rounding:.1e}")
    assert steps < 1e-8
    assert max(relative(moved[key], state[key]) for key in state) > 1e-3


def train(
    model: Any, x: np.ndarray, labels: np.ndarray, rate: float
) -> dict[str, np.ndarray]:
    """The arrays of a module of PyTorch after three steps."""
    image, chosen = torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(labels)
    optimizer = torch.optim.SGD(model.train().parameters(), rate)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(image), chosen).backward()
        optimizer.step()
    return theirs.arrays(model)


@functools.partial(quickly_compiled, static_argnums=0)
def evaluated(model, variables, x, cotangent):
    def loss(params):
        logits = model.apply({**variables, "params": params}, x)
        return jnp.sum(logits * cotangent), logits

    gradients, logits = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, {"params": gradients}


@functools.partial(quickly_compiled, static_argnums=0)
def step(model, variables, x, labels, rate):
    def loss(params):
        logits, changed = model.apply(
            {**variables, "params": params}, x, True, mutable=["batch_stats"]
        )
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -jnp.mean(chosen), changed

    gradients, changed = jax.grad(loss, has_aux=True)(variables["params"])
    moved = jax.tree.map(lambda p, g: p - rate * g, variables["params"], gradients)
    return {**variables, **changed, "params": moved}
