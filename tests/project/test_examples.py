"""Every example runs, in little, and shows what its README says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"examples_{name}", EXAMPLES / name / "train.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_program_and_a_page():
    for folder in EXAMPLES.iterdir():
        assert {"train.py", "README.md"} <= {path.name for path in folder.iterdir()}


def test_batch_norm_learns_digits_sooner(capsys):
    final = load("digits").main(["--steps", "60"])
    assert final[True, 0.01] > final[False, 0.01] + 0.2
    assert final[True, 0.3] > 0.9
    assert capsys.readouterr().out.count("learning rate") == 4
