"""`FILE.py:NAME` names a model; what is wrong with it is told in a line."""

from __future__ import annotations

import sys

import pytest

from linsey.app.own_model import named_model
from linsey.errors import InputError

PROGRAM = """
import linsey.linen as nn
import beside_model

class Net(nn.Module):
    width: int = beside_model.WIDTH

class Wide(nn.Module):
    width: int
    depth: int

ready = Wide(3, 2)
number = 3

def make(width=5):
    return Net(width)

def function(variables, x, train, mutable):
    return x

def broken():
    return 1 / 0
"""


def load_model_file(text):
    return named_model(text).make(None)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_model.py").write_text("WIDTH = 7")
    path = tmp_path / "model.py"
    path.write_text(PROGRAM)
    return path


def test_classes_instances_and_functions(file):
    assert load_model_file(f"{file}:Net").width == 7
    assert load_model_file(f"{file}:ready").depth == 2
    assert load_model_file(f"{file}:make").width == 5
    assert load_model_file(f"{file}:function").__name__ == "function"
    # The file runs once.
    assert load_model_file(f"{file}:ready") is load_model_file(f"{file}:ready")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "Wide",
            "model.py: Wide: needs the arguments width, depth (give them with "
            "--model-arg width=... --model-arg depth=...)",
        ),
        (
            "Nett",
            "model.py: Nett: the file has no such name: expected Net, Wide, make, "
            "function, broken (did you mean Net?)",
        ),
        (
            "number",
            "model.py: number: no model: expected a module, its class, or a function, "
            "found int",
        ),
        (
            "broken",
            "model.py: line 22: broken() raised ZeroDivisionError: division by zero",
        ),
    ],
)
def test_names_that_are_no_models(file, name, told):
    with pytest.raises(InputError) as caught:
        load_model_file(f"{file}:{name}")
    assert str(caught.value) == f"{file.parent}/{told}"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("x = 1\nimport no_such_package", "line 2: running the file raised Module"),
        ("def f(:", "line 1: running the file raised SyntaxError"),
    ],
)
def test_files_that_do_not_run(tmp_path, program, told):
    path = tmp_path / "bad.py"
    path.write_text(program)
    with pytest.raises(InputError, match=told):
        load_model_file(f"{path}:Net")
    assert not [name for name in sys.modules if name.startswith("linsey_model_bad")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.py", "--model: no name of a model: expected mlp, cnn"),
        ("model.txt:Net", "model.txt: --model: not a Python file"),
        ("nowhere.py:Net", "nowhere.py: --model: no such file"),
    ],
)
def test_texts_that_name_no_file(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(InputError, match=told):
        load_model_file(text)
