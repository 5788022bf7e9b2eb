"""Prediction and export of a run that trained a model of one's own."""

import json
import os
import sys

import jax
import numpy as np
import pytest

import linsey as package
from linsey import linen as nn
from linsey.errors import InputError
from tests.app.runs import SMALL, make_blobs

SOURCE = """
from linsey import linen as nn

print("imported", flush=True)


class Net(nn.Module):
    classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.width)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.classes)(x)
"""


class Net(nn.Module):
    """The same, in a program."""

    classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.width)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.classes)(x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, its model and its data."""
    from linsey.app import cli

    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(SOURCE)
    x, y = make_blobs()
    np.savez(folder / "blobs.npz", x=x, y=y)
    options = (
        "--data", folder / "blobs.npz", "--model", f"{folder}/net.py:Net",
        "--model-arg", "width=4", *SMALL[6:], "--out", folder / "run",
    )  # fmt: skip
    assert cli.main(["train", *map(str, options)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("predict", "run", "blobs.npz"), ("export", "run", "out")]
)
def test_what_a_run_names_is_imported_only_if_it_is_given(linsey, folder, command):
    os.chdir(folder)
    refused = linsey(*command)
    assert refused.code == 2 and "imported" not in refused.out
    assert "file,row" not in refused.out
    assert "--model" in refused.err.splitlines()[-1]
    given = linsey(*command, "--model", "net.py:Net")
    assert given.code == 0 and given.out.count("imported") <= 1
    with pytest.raises(InputError, match="--model"):
        package.load(folder / "run")


def test_a_program_hands_the_model_over(linsey, folder):
    os.chdir(folder)
    x, _ = make_blobs(seed=3, count=9)
    np.save("x.npy", x)
    text = linsey("predict", "run", "x.npy", "--json", "--model", "net.py:Net").out
    lines = [line for line in text.splitlines() if line != "imported"]
    model = package.load("run", model=Net(classes=4, width=4))
    found = model.predict(x)
    assert [json.loads(line)["class"] for line in lines] == found.class_names
    assert repr(model).startswith("<net.py:Net of step 8")
    assert (
        linsey("export", "run", "folded", "--fold", "--model", "net.py:Net").code == 0
    )
    with open("folded/program.bin", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    answer = program.call(x)
    scale = np.abs(found.logits).max()
    np.testing.assert_allclose(answer["logits"], found.logits, atol=1e-5 * scale)
    assert "rsqrt" not in program.mlir_module()
    assert "net" not in sys.modules
