"""`linsey convert`: between formats, between libraries, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey import load, weights
from linsey.app.their_model import OF_TIMM
from linsey.checkpoint import flatten
from linsey.models import MODELS
from tests.app.runs import SMALL

MODEL = """
import linsey.linen as nn

class Net(nn.Module):
    classes: int
    names: tuple = ("conv", "bn", "fc")

    @nn.compact
    def __call__(self, x, train=False):
        conv, bn, fc = self.names
        x = nn.Conv(4, (3, 3), use_bias=False, name=conv)(x)
        x = nn.relu(nn.BatchNorm(not train, name=bn)(x))
        return nn.Dense(self.classes, name=fc)(x.mean((1, 2)))
"""
OPTIONS = ("--model", "net.py:Net", "--classes", 3, "--shape", 6, 6, 2)


@pytest.fixture
def state(tmp_path) -> dict[str, np.ndarray]:
    """A state dict of PyTorch, in the file `theirs.pt`, and the model beside it."""
    drawn = np.random.default_rng(0)

    def array(*shape):
        return drawn.normal(size=shape).astype(np.float32)

    (tmp_path / "net.py").write_text(MODEL)
    found = {
        "conv.weight": array(4, 2, 3, 3),
        "bn.weight": array(4), "bn.bias": array(4),
        "bn.running_mean": array(4), "bn.running_var": np.exp(array(4)),
        "bn.num_batches_tracked": np.array(1234),
        "fc.weight": array(3, 4), "fc.bias": array(3),
    }  # fmt: skip
    weights.write(tmp_path / "theirs.pt", found)
    return found


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, name)


def test_weights_of_pytorch_become_those_of_a_module_and_come_back(linsey, state):
    done = linsey("convert", "theirs.pt", "ours.safetensors", *OPTIONS)
    assert done.code == 0, done.err
    assert "note: 7 arrays loaded into 3 layers (3 by name)\n" in done.out
    assert "1 counter of updates in `batch_counts`" in done.out
    ours = weights.read("ours.safetensors")
    kernel = state["conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(ours["params/conv/kernel"], kernel)
    variance = state["bn.running_var"]
    np.testing.assert_array_equal(ours["batch_stats/bn/var"], variance)
    back = linsey("convert", "ours.safetensors", "back.pt", *OPTIONS,
                  "--names", "torchvision")  # fmt: skip
    assert back.code == 0, back.err
    assert_same(weights.read("back.pt"), state)


def test_formats_are_changed_without_a_model(linsey, state):
    for source, target in (
        ("theirs.pt", "a.safetensors"), ("a.safetensors", "b.npz"),
        ("b.npz", "c.msgpack"), ("c.msgpack", "d.orbax"), ("d.orbax", "step_00000007"),
        ("step_00000007", "e.pt"),
    ):  # fmt: skip
        done = linsey("convert", source, target)
        assert done.code == 0, done.err
        assert "all hashes equal" in done.out
    assert_same(weights.read("e.pt"), state)


def test_a_run_becomes_a_file_of_its_model_alone(linsey, blobs, tmp_path):
    options = (*SMALL, "--ema", 0.5, "--out", "run")
    assert linsey("train", "--data", blobs, *options).code == 0
    model = ("--model", "mlp")
    refused = linsey("convert", "run", "x.npz", *model, "--classes", 3)
    assert refused.code == 2 and not (tmp_path / "x.npz").exists()
    assert linsey("convert", "run", "all.npz").code == 0
    arrays = weights.read("all.npz")
    assert any(name.startswith("opt_state/") for name in arrays)
    loaded = load(tmp_path / "run")
    expected = flatten(jax.tree.map(np.asarray, dict(loaded.variables)))
    for name in expected:  # the average, with which it is evaluated
        np.testing.assert_array_equal(arrays[name], expected[name], name)


def test_names_that_differ_are_said_by_map(linsey, state):
    names = ("--model-arg", "names=('stem', 'norm', 'head')")
    refused = linsey("convert", "theirs.pt", "x.npz", *OPTIONS, *names, "--map", "conv")
    assert refused.error == (
        "--map: no pair: expected THEIRS=OURS, or THEIRS= for what is left out, found "
        "conv"
    )
    pairs = ("--map", "conv=stem", "bn=norm", "fc=head")
    done = linsey("convert", "theirs.pt", "x.npz", *OPTIONS, *names, *pairs)
    assert done.code == 0, done.err
    assert "params/head/kernel" in weights.read("x.npz")


def test_names_of_both_sides_may_differ_from_those_of_pytorch(linsey, state):
    renamed = {f"net.{name}": array for name, array in state.items()}
    weights.write("renamed.pt", renamed)
    pairs = ("--map", "net.conv=conv", "net.bn=bn", "net.fc=fc")
    names = ("--names", "torchvision")
    done = linsey("convert", "renamed.pt", "back.pt", *OPTIONS, *pairs, *names)
    assert done.code == 0, done.err
    assert_same(weights.read("back.pt"), state)


def test_half_precision_is_read_and_written(linsey, state):
    half = {n: a.astype(jnp.bfloat16) if a.ndim else a for n, a in state.items()}
    weights.write("half.pt", half)
    assert linsey("convert", "half.pt", "x.safetensors", *OPTIONS).code == 0
    found = weights.read("x.safetensors")["params/fc/bias"]
    np.testing.assert_array_equal(found, half["fc.bias"].astype(np.float32))


def test_a_record_of_their_model_proves_the_weights(linsey, state, tmp_path):
    assert linsey("convert", "theirs.pt", "ours.npz", *OPTIONS).code == 0
    namespace: dict = {}
    exec(MODEL, namespace)
    module = namespace["Net"](3)
    x = np.random.default_rng(1).normal(size=(8, 6, 6, 2)).astype(np.float32)
    variables, _ = weights.load(module, state, x)
    weights.write("record.npz", weights.record((module, variables), x))
    np.savez("x.npz", x=x)
    proof = ("--activations", "record.npz", "--example", "x.npz")
    done = linsey("convert", "theirs.pt", "proved.npz", *OPTIONS, *proof)
    assert done.code == 0, done.err
    assert "note: proof: The models agree.\n" in done.out
    wrong = {**state, "bn.running_mean": state["bn.running_var"]}
    weights.write("wrong.pt", wrong)
    refused = linsey("convert", "wrong.pt", "no.npz", *OPTIONS, *proof)
    assert refused.code == 2 and "they part at `bn`" in refused.error
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("x.npz", *OPTIONS[:2], "--classes", 5, *OPTIONS[4:]), "not the weights of"),
        (("x.npz", *OPTIONS, "--activations", "theirs.pt"), "an input is needed"),
        (
            ("x.npz", *OPTIONS, "--activations", "theirs.pt", "--example", "theirs.pt"),
            "more than one array",
        ),
        (("theirs.pt",), "is there already"),
        (("x.txt",), "the name does not say what to write"),
    ],
)
def test_what_is_refused_leaves_nothing(linsey, state, tmp_path, options, text):
    before = sorted(tmp_path.iterdir())
    refused = linsey("convert", "theirs.pt", *options)
    assert refused.code == 2 and text in refused.error
    left = [p for p in tmp_path.iterdir() if p.name != "__pycache__"]
    assert sorted(left) == before


def test_weights_without_a_counterpart_are_listed_if_they_may_be_missing(linsey, state):
    without = {n: array for n, array in state.items() if not n.startswith("fc")}
    weights.write("part.pt", without)
    options = (*OPTIONS, "--no-strict")
    done = linsey("convert", "part.pt", "x.npz", *options)
    assert done.code == 0, done.err
    assert "params/fc/kernel" in done.out
    assert weights.read("x.npz")["params/fc/kernel"].shape == (4, 3)


def test_every_architecture_has_a_name_in_timm():
    assert OF_TIMM.keys() == MODELS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_the_proof_runs_the_model_of_torchvision(linsey, name):
    if find_spec("torch") is None or find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    import torch

    from tests.models import torch_models as theirs

    model = theirs.torchvision_model(torch, name, 5, 64)
    theirs.randomize(torch, model)
    torch.save(model.state_dict(), "theirs.pt")
    options = ("--model", name, "--classes", 5, "--shape", 64, 64, 3)
    done = linsey("convert", "theirs.pt", "ours.npz", *options)
    assert done.code == 0 and "proof: The models agree." in done.out, done.err
    names = ("--names", "torchvision")
    assert linsey("convert", "ours.npz", "back.pt", *options, *names).code == 0
    back, state = torch.load("back.pt", weights_only=True), model.state_dict()
    assert back.keys() == state.keys()
    # The module does not count updates, and the report says so.
    kept = [key for key in state if not key.endswith("num_batches_tracked")]
    assert all(torch.equal(back[key], state[key]) for key in kept)
