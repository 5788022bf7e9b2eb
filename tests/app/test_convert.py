"""`linsey convert`: between formats, between libraries, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

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


def other_like(state) -> dict[str, np.ndarray]:
    """Other values in another order, with other names, shapes and dtypes."""
    found = {f"net.{name}": 0 * array for name, array in reversed(state.items())}
    found["net.bn.num_batches_tracked"] = np.array([99], np.int32)
    found["net.fc.weight"] = np.zeros((3, 4, 1, 1), np.float64)
    return {**found, "net.conv.weight": np.zeros((4, 2, 3, 3), np.float16)}


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
def test_arrays_are_written_like_those_of_another_file(linsey, state, suffix):
    like = other_like(state)
    weights.write(f"like.{suffix}", like)
    model = (*OPTIONS, "--like", f"like.{suffix}")
    assert linsey("convert", "theirs.pt", "ours.npz", *OPTIONS).code == 0
    for source in "theirs.pt", "ours.npz":
        target = f"of_{source[:4]}.{suffix}"
        done = linsey("convert", source, target, *model)
        assert done.code == 0, done.err
        found = weights.read(target)
        assert [*found] == [*weights.read(f"like.{suffix}")]
        for name, array in found.items():
            expected = state[name.removeprefix("net.")].astype(like[name].dtype)
            assert array.dtype == expected.dtype, name
            assert array.shape == like[name].shape, name
            np.testing.assert_array_equal(array.ravel(), expected.ravel(), name)


def test_a_tree_of_linen_may_be_what_another_one_is_like(linsey, state):
    for target in "ours.npz", "like.npz":
        assert linsey("convert", "theirs.pt", target, *OPTIONS).code == 0
    done = linsey("convert", "theirs.pt", "x.npz", *OPTIONS, "--like", "like.npz")
    assert done.code == 0, done.err
    assert_same(weights.read("x.npz"), weights.read("ours.npz"))


def test_without_a_model_the_names_are_equal(linsey, state):
    names = sorted(state)
    like = {name: state[name].astype(np.float64) for name in names}
    like["fc.weight"] = like["fc.weight"].reshape(3, 4, 1, 1)
    weights.write("like.npz", like)
    done = linsey("convert", "theirs.pt", "x.pt", "--like", "like.npz")
    assert done.code == 0, done.err
    found = weights.read("x.pt")
    assert [*found] == names
    assert_same(found, like)


def refused_like(linsey, state, like, *options) -> str:
    weights.write("theirs_too.npz", state)
    weights.write("like.npz", like)
    done = linsey("convert", "theirs_too.npz", "x.pt", "--like", "like.npz", *options)
    assert done.code == 2
    assert not Path("x.pt").exists()
    return done.error


def test_names_of_one_file_alone_are_listed(linsey, state):
    like = {name.replace("fc.", "fcs."): array for name, array in state.items()}
    assert refused_like(linsey, state, like) == (
        "theirs_too.npz: --like: the names differ: 2 of like.npz not in "
        "theirs_too.npz: `fcs.weight` (most like `fc.weight`), `fcs.bias` (most like "
        "`fc.bias`); 2 of theirs_too.npz not in like.npz: `fc.weight` (most like "
        "`fcs.weight`), `fc.bias` (most like `fcs.bias`) (give --model NAME, whose "
        "layers say which arrays correspond)"
    )
    like = {**state, "fc.weight": state["fc.weight"].T}
    assert "`fc.weight` (3, 4) instead of (4, 3)" in refused_like(linsey, state, like)


def test_layers_of_one_file_alone_are_listed(linsey, state):
    without = {n: array for n, array in state.items() if not n.startswith("fc")}
    error = refused_like(linsey, state, without, *OPTIONS)
    assert "like.npz: not the arrays of net.py:Net" in error
    assert "Arrays of the module without a value: 2" in error
    assert "`params/fc/kernel`" in error
    more = {**state, "extra.weight": np.ones((5, 5), np.float32)}
    error = refused_like(linsey, state, more, *OPTIONS)
    assert "of the file without a place: 1" in error and "`extra.weight`" in error


@pytest.mark.parametrize("options", [(), OPTIONS])
def test_dtypes_that_cannot_hold_the_values_are_refused(linsey, state, options):
    large = {**state, "fc.bias": np.array([1, 1e6, 0], np.float32)}
    like = {**state, "fc.bias": np.zeros(3, np.float16)}
    error = refused_like(linsey, large, like, *options)
    assert "the dtypes of like.npz cannot hold its values" in error
    assert ("params/fc/bias" if options else "fc.bias") in error


def test_names_are_given_once(linsey, state):
    error = refused_like(linsey, state, state, *OPTIONS, "--names", "torchvision")
    assert (
        error == "--like: these names are given already (leave --names torchvision out)"
    )


def test_a_mapping_is_for_the_file_that_has_the_names(linsey, state):
    names = ("--model-arg", "names=('stem', 'norm', 'head')")
    pairs = ("--map", "conv=stem", "bn=norm", "fc=head")
    assert linsey("convert", "theirs.pt", "o.npz", *OPTIONS, *names, *pairs).code == 0
    done = linsey(
        "convert", "o.npz", "x.pt", *OPTIONS, *names, *pairs, "--like", "theirs.pt"
    )
    assert done.code == 0, done.err
    assert_same(weights.read("x.pt"), state)
    wrong = linsey(
        "convert", "o.npz", "y.pt", *OPTIONS, *names, *pairs, "nothing=head", "--like",
        "theirs.pt",
    )  # fmt: skip
    assert wrong.code == 2 and "names `nothing`" in wrong.error


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
