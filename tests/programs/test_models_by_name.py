"""Models of other people's packages, named on the command line, and one of treex.

Each is trained, killed by a signal that nothing can catch, resumed to the bits of a run
that was not, asked for predictions, and exported. What is not installed is skipped;
`make test-all` has all.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from linsey.app.run_folder import CHECKPOINTS
from tests.app.runs import assert_same_run

MODELS = {
    "flaxmodels": (
        "flaxmodels:ResNet18", "output=logits", "pretrained=none", "num_classes=4",
    ),
    "jax-resnet": ("jax_resnet:ResNet18", "n_classes=4"),
    "jax-models": (
        "jax_models.models.conv_mixer:ConvMixer", "features=8", "patch_size=4",
        "num_mixer_layers=2", "filter_size=3", "attach_head=True", "num_classes=4",
    ),
    "brax": ("brax.training.networks:MLP", "layer_sizes=(8, 4)", "layer_norm=true"),
    "treex": ("treex_model.py:Net",),
}  # fmt: skip
TREEX = '''
"""A convolutional network, as its readme has them."""

import jax
import jax.numpy as jnp
import linsey.treex as tx


class Net(tx.Module):
    def __init__(self, classes):
        self.conv, self.norm = tx.Conv(4, (3, 3), strides=2), tx.BatchNorm()
        self.drop, self.head = tx.Dropout(0.2), tx.Linear(classes)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x).mean((1, 2)))
'''
OPTIONS = ("--epochs", "2", "--batch-size", "8", "--checkpoint-every", "1")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "linsey", *map(str, arguments)]


def run(*arguments: object) -> str:
    """Run the command to its end."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_until_saved(out: Path, *arguments: object) -> None:
    """Kill the command as soon as a step after the first one is saved."""
    process = subprocess.Popen(
        command(*arguments, "--out", out),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    while process.poll() is None and not steps(out) - {0}:
        time.sleep(0.005)
    process.kill()
    _, error = process.communicate()
    assert process.returncode < 0, error.decode()


def steps(out: Path) -> set[int]:
    """Those that are saved."""
    names = [path.name for path in (out / CHECKPOINTS).glob("step_*")]
    return {int(name.removeprefix("step_")) for name in names}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("package", MODELS)
def test_a_model_of_a_package_is_trained_resumed_and_served(
    package, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if package != "treex":
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    Path("treex_model.py").write_text(TREEX)
    random = np.random.default_rng(0)
    shape = (40, 6) if package == "brax" else (40, 32, 32, 3)
    x = random.integers(0, 256, shape).astype("u1")
    np.savez("images.npz", x=x, y=np.arange(40) % 4)
    name, *given = MODELS[package]
    model = ["--model", name]
    for argument in given:
        model += ["--model-arg", argument]
    train = ("train", "--data", "images.npz", *model, *OPTIONS)
    run(*train, "--out", "whole")
    run_until_saved(Path("parts"), *train)
    run(*train, "--out", "parts", "--resume")
    assert_same_run(Path("whole"), Path("parts"))

    options = ("--model", name, "--probabilities", "--out", "answers.csv")
    run("predict", "parts", "images.npz", *options)
    found = np.genfromtxt("answers.csv", delimiter=",", skip_header=1)[:, -4:]
    run("export", "parts", "exported", "--model", name)
    program = jax.export.deserialize(
        bytearray(Path("exported/program.bin").read_bytes())
    )
    answer = program.call(x)
    assert found.shape == (40, 4)
    np.testing.assert_allclose(found, answer["probabilities"], atol=1e-5)
