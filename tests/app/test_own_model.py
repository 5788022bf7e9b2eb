"""Models of one's own: how they are called, what is refused, and what is imported."""

from __future__ import annotations

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app import steps
from linsey.app.config import TrainConfig
from linsey.app.own_model import named_model
from linsey.app.own_network import make_network
from linsey.errors import InputError
from tests.app.runs import arrays, assert_same_run, final

PROGRAM = """
import jax, jax.numpy as jnp
import flax.linen as fnn
import linsey.linen as nn
import linsey.treex as tx

def layers(nn, x, classes, width, norm, drop):
    x = nn.Dense(width)(x)
    return nn.Dense(classes)(drop(nn.relu(norm(x))))

class Train(nn.Module):
    classes: int
    width: int = 3
    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(use_running_average=not train)
        drop = nn.Dropout(0.5, deterministic=not train)
        return layers(nn, x, self.classes, self.width, norm, drop)

class Deterministic(nn.Module):
    num_classes: int
    @nn.compact
    def __call__(self, x, *, deterministic=True):
        norm = nn.BatchNorm(use_running_average=deterministic)
        drop = nn.Dropout(0.5, deterministic=deterministic)
        return layers(nn, x, self.num_classes, 3, norm, drop)

class Field(nn.Module):
    classes: int
    training: bool = False
    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=not self.training)
        drop = nn.Dropout(0.5, deterministic=not self.training)
        return layers(nn, x, self.classes, 3, norm, drop)

class Plain(nn.Module):
    n_classes: int
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(x)

class Odd(nn.Module):
    classes: int
    @nn.compact
    def __call__(self, x, in_lesson):
        norm = nn.BatchNorm(use_running_average=not in_lesson)
        return layers(nn, x, self.classes, 3, norm, lambda x: x)

class Flax(fnn.Module):
    classes: int
    @fnn.compact
    def __call__(self, x, train: bool):
        norm = fnn.BatchNorm(use_running_average=not train)
        drop = fnn.Dropout(0.5, deterministic=not train)
        return layers(fnn, x, self.classes, 3, norm, drop)

class Treex(tx.Module):
    def __init__(self, classes, width=3):
        self.first, self.norm = tx.Linear(width), tx.BatchNorm()
        self.drop, self.last = tx.Dropout(0.5), tx.Linear(classes)
    def __call__(self, x):
        return self.last(self.drop(jax.nn.relu(self.norm(self.first(x)))))

class Counting(nn.Module):
    classes: int
    @nn.compact
    def __call__(self, x, train):
        calls = self.variable("counter", "calls", lambda: jnp.zeros((), jnp.int32))
        self.sow("sown", "mean", x.mean())
        if train and not self.is_initializing():
            calls.value += 1
        return nn.Dense(self.classes)(x)

def make(num_labels, width=3):
    return Train(num_labels, width)

def function(variables, x, train, mutable):
    y = x @ variables["params"]["w"]
    return (y, {}) if mutable else y

function.init = lambda key, x: {
    "params": {"w": 0.1 * jax.random.normal(key, (x.shape[-1], 4))}}

def without_init(variables, x, train, mutable):
    return x

class Default(nn.Module):
    units: int = 7
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.units)(x)

class Precise(nn.Module):
    classes: int
    dtype: jnp.dtype = jnp.float32
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes, dtype=self.dtype)(x)

class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(7)(x)

class Pair(nn.Module):
    classes: int
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(x), x

class Broken(nn.Module):
    @nn.compact
    def __call__(self, x):
        raise RuntimeError("no weather")
"""
OPTIONS = ("--epochs", 1, "--batch-size", 16, "--plain")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "own_models.py"
    path.write_text(PROGRAM)
    return path


def network_of(file, name, *arguments, flag=None):
    own = named_model(f"{file}:{name}", arguments)
    return make_network(TrainConfig(model=own.name, model_flag=flag), (6,), 4, own)


# -- every kind of model -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flag", "draws"),
    [
        ("Train", None, True),
        ("Deterministic", None, True),
        ("Field", None, True),
        ("Plain", None, False),
        ("Odd", "in_lesson", False),
        ("Flax", None, True),
        ("Treex", None, True),
        ("make", None, True),
        ("function", None, False),
    ],
)
def test_every_kind_of_model_takes_a_step(file, name, flag, draws):
    network = network_of(file, name, flag=flag)
    state = steps.create_state(TrainConfig(), network, (6,), 4)
    x = jax.random.normal(jax.random.key(1), (16, 6))
    y = jnp.arange(16) % 4
    loss, (logits, changed) = steps.loss_fn(state.params, state, x, y)
    assert logits.shape == (16, 4)
    assert np.isfinite(loss)
    # Statistics move in training, and evaluation uses them and draws nothing.
    before = jax.tree.leaves(state.batch_stats)
    after = jax.tree.leaves(changed["batch_stats"])
    assert len(before) == (0 if name in ("Plain", "function") else 2)
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    evaluated = network.evaluate(state.variables, x)
    np.testing.assert_array_equal(evaluated, network.evaluate(state.variables, x))
    if draws:
        later = state.replace(noise=state.noise + 1)
        if name == "Treex":  # it carries its keys
            later = state.replace(collections=changed["collections"])
        other = steps.loss_fn(state.params, later, x, y)[1][0]
        assert (np.asarray(other) != np.asarray(logits)).any()


def test_flax_and_linsey_have_the_same_bits(file):
    x = jax.random.normal(jax.random.key(1), (8, 6))
    ours, theirs = (network_of(file, name) for name in ("Train", "Flax"))
    one, other = (n.init(jax.random.key(0), x[:1]) for n in (ours, theirs))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_of_equal_modules_are_one_program(file):
    one, other = (network_of(file, "Train", "width=5") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != network_of(file, "Train", "width=6")


# -- runs ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "others"), [("Counting", {"counter/calls"}), ("Treex", {"object_state"})]
)
def test_stopped_run_resumes_to_the_bit(
    linsey, file, blobs, tmp_path, monkeypatch, name, others
):
    command = ("train", "--data", blobs, "--model", f"{file}:{name}", *OPTIONS)
    assert linsey(*command, "--out", tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        step, count = steps.train_step, 0

        def train_step(*args):
            nonlocal count
            count += 1
            if count == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*args)

        patch.setattr(steps, "train_step", train_step)
        result = linsey(*command, "--out", tmp_path / "parts")
    assert result.code == 75
    assert final(tmp_path / "parts").step == 3
    # The line that it prints goes on.
    told = result.out.strip().splitlines()[-1].split()
    assert linsey(*told[1:]).code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    found = [path for path in arrays(tmp_path / "parts") if path[:11] == "collections"]
    assert found
    assert all(any(other in path for other in others) for path in found)
    if name == "Counting":  # what is sown is not kept
        assert arrays(tmp_path / "parts")["collections/counter/calls"] == 4


def test_what_a_folder_names_is_not_imported(linsey, file, blobs, tmp_path):
    run, model = tmp_path / "run", f"{file}:Train"
    command = ("train", "--data", blobs, "--out", run, *OPTIONS)
    result = linsey(*command, "--model", model, "--model-arg", "width=5")
    assert result.code == 0
    config = (run / "config.toml").read_text()
    assert 'model_arg = ["width=5"]' in config
    record = final(run).metadata["model"]
    assert f'model_sha256 = "{record["sha256"]}"' in config
    scores = linsey("eval", run, "--model", model)
    assert scores.code == 0, scores.err
    # From here on whoever imports the file finds out.
    file.write_text("raise RuntimeError('imported')")
    for tool in ("eval", "audit"):
        error = linsey(tool, run).error
        assert f"give --model {model}, or model='{model}' in Python" in error
    for tool in ("recalibrate", "fold"):
        assert f"give --model {model}" in linsey(tool, run, tmp_path / "new").error
    assert linsey("inspect", run).code == 0
    assert f"give --model {model}" in linsey("train", "--resume", "--out", run).error
    again = linsey("train", "--config", run / "config.toml", "--out", tmp_path / "b")
    assert f"give --model {model}" in again.error
    assert not (tmp_path / "b").exists()
    assert "imported" in linsey("eval", run, "--model", model).error
    # Elsewhere and with other source: a warning.
    moved = tmp_path / "moved" / file.name
    moved.parent.mkdir()
    moved.write_text(PROGRAM + "# changed\n")
    for arguments in (
        ("eval", run),
        ("train", "--resume", "--out", run),
        ("audit", run),
    ):
        result = linsey(*arguments, "--model", f"{moved}:Train")
        assert result.code == 0, result.err
        assert "is not what it was when the checkpoint was written" in result.err


def test_a_model_that_takes_dtypes_gets_those_of_the_precision(file):
    def network(name, precision, *arguments):
        own = named_model(f"{file}:{name}", arguments)
        options = TrainConfig(model=own.name, precision=precision)
        return make_network(options, (6,), 4, own)

    x = jnp.ones((2, 6))
    mixed = network("Precise", "mixed")
    variables = mixed.init(jax.random.key(0), x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert "bf16" in str(jax.make_jaxpr(mixed.evaluate)(variables, x))
    with pytest.raises(InputError) as caught:
        network("Precise", "bfloat16")
    assert "precision bfloat16: has no argument `param_dtype`" in str(caught.value)
    assert "let the model take `param_dtype`, and pass" in str(caught.value)
    with pytest.raises(InputError, match="let the model take `dtype`, and pass"):
        network("Train", "mixed")
    with pytest.raises(InputError, match="make the model with dtype=jax.numpy.bf"):
        network("function", "mixed")


# -- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("Train", ["widht=3"], "--model-arg widht: no such argument: expected classes, "
         "width (did you mean width?)"),
        ("Default", [], "Default: outputs of the wrong shape in evaluation: expected "
         "logits (batch, 4), found (batch, 7) (give --model-arg units=4)"),
        ("Fixed", [], "found (batch, 7) (end the model with a layer of 4 units, one "
         "for each class)"),
        ("Pair", [], "found a tuple of (batch, 4), (batch, 6) (return the logits "
         "alone)"),
        ("Broken", [], "Broken: cannot be called on a batch of (2, 6): Tried with no "
         "flag: RuntimeError: no weather"),
        ("Odd", [], "--model-flag NAME"),
        ("without_init", [], "cannot make them (add a function init(key, x) to it, as "
         "`without_init.init = init`)"),
        ("function", ["width=3"], "takes no arguments, since it is made already"),
    ],
)  # fmt: skip
def test_models_that_are_refused(file, name, arguments, told):
    with pytest.raises(InputError) as caught:
        network_of(file, name, *arguments)
    assert told in str(caught.value)


def test_hint_for_the_number_of_classes_works(file):
    network = network_of(file, "Default", "units=4")
    assert network.init(jax.random.key(0), jnp.ones((1, 6)))["params"]["Dense_0"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.py:Net"], "nowhere.py: --model: no such file"),
        (["nowhere.net:Net"], "nowhere.net: --model: no such module"),
        (["own_models.py"], "add the name of the model in it, as own_models.py:NAME"),
        (["resnt"], "did you mean resnet?"),
        (["own_models.py:Train", "--compare"], "--compare: compares mlp, cnn and"),
        (["own_models.py:Train", "--width", 5], "--width: an option of mlp, cnn and "
         "resnet alone (give --model-arg width=5)"),
        (["mlp", "--model-arg", "width=5"], "expected momentum, group_size, renorm, "
         "save_memory (give --width 5)"),
        (["mlp", "--norm", "none", "--model-arg", "renorm=3,5"], "give --norm batch"),
    ],
)  # fmt: skip
def test_refusals_leave_nothing(linsey, file, blobs, tmp_path, arguments, told):
    result = linsey("train", "--data", blobs, "--out", "run", "--model", *arguments)
    assert result.code == 2
    assert told in result.error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_models_of_linsey_take_options_of_batch_norm(linsey, blobs, tmp_path):
    arguments = ("renorm=3,5", "momentum=0.5")
    command = ("train", "--data", blobs, "--out", tmp_path / "run", "--model", "mlp")
    sizes = ("--width", 2, "--depth", 1)
    result = linsey(*command, *sizes, *OPTIONS, "--model-arg", *arguments)
    assert result.code == 0, result.err
    config = final(tmp_path / "run").metadata["config"]
    expected = ["momentum=0.5", "renorm=(3, 5)"]
    assert config["model_arg"] == expected
    assert linsey("eval", tmp_path / "run").code == 0


def test_model_of_a_package_in_the_current_folder(linsey, file, tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "nets.py").write_text(PROGRAM)
    result = linsey("summary", "--model", "my_package.nets:Train", "--shape", 6)
    assert result.code == 0, result.err
    assert "Dense_1" in result.out
