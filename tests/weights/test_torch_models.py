"""Random models of torchvision and timm go through `load`, `to_torch` and `prove`."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from linsey import models
from linsey.weights import batch_norm_options, load, prove, to_torch
from tests.models import torch_models as theirs

MISSING = [name for name in ("torchvision", "timm") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
torch = pytest.importorskip("torch")

# One of each family; the others have more of the same blocks.
ONE_OF_EACH = {
    ("torchvision", "resnet18"),
    ("timm", "mobilenet_v3_small"),
    ("torchvision", "efficientnet_b0"),
    ("timm", "densenet121"),
    ("torchvision", "vit_b_16"),
}
CASES = [
    case if case in ONE_OF_EACH else pytest.param(*case, marks=pytest.mark.soak)
    for case in (
        *(("torchvision", name) for name in models.MODELS if name != "vit_s_16"),
        *(("timm", name) for name in theirs.OF_TIMM),
    )
]


@pytest.mark.parametrize(("library", "name"), CASES)
def test_an_architecture_is_loaded_proved_and_written_back_bit_by_bit(library, name):
    side = 29 if name.startswith("densenet") else 32
    other = getattr(theirs, f"{library}_model")(torch, name, 5, side)
    theirs.randomize(torch, other)
    state = {key: array.numpy().copy() for key, array in other.state_dict().items()}
    options = {}
    if not name.startswith("vit"):
        options["batch_norm"] = batch_norm_options(other)
    model = models.by_name(name, 5, **options)
    x = np.random.default_rng(0).normal(size=(8, side, side, 3)).astype(np.float32)
    variables, report = load(model, state, x)
    assert report.is_complete and {match.by for match in report.matches} == {"table"}
    assert not report.counters
    alone = to_torch(model, variables, x, library=library)
    assert alone.keys() == state.keys()
    for key, array in state.items():  # linear layers of timm may be convolutions
        assert alone[key].dtype == array.dtype
        assert alone[key].tobytes() == array.tobytes(), key
    back = to_torch(model, variables, x, like=state)
    assert [*back] == [*state]
    assert all(back[key].tobytes() == state[key].tobytes() for key in state)
    proof = prove((model, variables), other, x)
    evaluation = [d.value for d in proof.differences if d.mode == "evaluation"]
    print(f"{library} {name}: {max(evaluation):.1e} of {len(evaluation)}")
    assert max(evaluation) < 1e-4 and not proof.causes, str(proof)
