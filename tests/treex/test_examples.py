"""The examples of the object face run, in little, and show what they say."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "treex"


def load(name):
    spec = importlib.util.spec_from_file_location(
        f"examples_treex_{name}", EXAMPLES / f"{name}.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_in_the_readme():
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"`{path.name}`" in page for path in EXAMPLES.glob("*.py"))


def test_linear_regression():
    np.testing.assert_allclose(
        load("linear_regression").main([]), (1.4, -0.3), atol=0.05
    )


def test_mlp():
    assert load("mlp").main(["--steps", "250"]) < 0.03


def test_metric():
    matrix = load("metric").main(["--batches", "5"])
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=1e-6)
    assert matrix[0, 0] == 1.0 and matrix[1, 2] > 0.1


@pytest.mark.slow
def test_digits():
    assert load("train").main([]) > 0.96


@pytest.mark.slow
def test_vae():
    first, last = load("vae").main(["--steps", "200"])
    assert last < 0.7 * first


@pytest.mark.slow
def test_eight_devices_train_as_one():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import data_parallel\n"
        "accuracy, difference = data_parallel.main(['--steps', '60'])\n"
        "assert accuracy > 0.9 and difference < 1e-4, (accuracy, difference)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLES)], check=True, env=environment
    )
