"""Tables of modules."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import pytest

import linsey.treex as tx
from linsey.errors import ArgumentTypeError
from linsey.errors.treex import NotInitializedError

X = jnp.ones((5, 1))


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


class Model(tx.Module):
    """Modules in containers, and parameters in others."""

    a: dict[str, list[tx.MLP]]
    b: list[Any] = tx.Parameter.node()

    def __init__(self):
        self.a = {"mlps": [tx.MLP([2, 1]), tx.MLP([3, 1])], 3: [tx.Flatten()]}
        del self.a[3]
        self.b = [tx.Initializer(lambda key: jnp.zeros(4)), jnp.zeros((5, 13))]

    def __call__(self, x):
        return dict(y1=self.a["mlps"][0](x), y2=self.a["mlps"][1](x))


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def row(text, path):
    (line,) = [line for line in plain(text).split("\n") if f"│ {path} " in line]
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_paths_parameters_and_totals():
    model = Model().init(0, X)
    text = model.tabulate()
    assert '.a["mlps"]' in text and "b:" in text
    assert row(text, '.a["mlps"][1].linear2')[1:3] == [
        "Linear()",
        "bias: Parameter(1)  float32",
    ]
    assert row(text, "*")[-1] == "69  276B"
    assert "Total Parameters: 86  344B" in plain(text)
    assert "kernel: Parameter(\x1b[32m1, 2\x1b[0m)" in text
    assert "kernel: (\x1b[32m1, 2\x1b[0m)" in model.tabulate(param_types=False)


def test_inputs_and_outputs():
    text = Model().init(0, X).tabulate(inputs=tx.Inputs(X))
    assert "(\x1b[32m5, 1\x1b[0m)" in text
    assert "y1:" in text and "y2:" in text
    assert row(text, '.a["mlps"][0].linear')[3:5] == [
        "(5, 1) float32",
        "(5, 2) float32",
    ]


def test_depth():
    model = Model().init(0, X)
    rows = [model.tabulate(depth=depth).count(" │ ") for depth in (0, 1, 2, -1)]
    assert rows[0] < rows[1] < rows[2] == rows[3]
    assert row(model.tabulate(depth=0), "*")[-1] == "86  344B"


def test_signatures():
    text = tx.Dropout(0.25).tabulate(signature=True)
    assert "Dropout(rate = 0.250, broadcast_dims = ())" in plain(text)
    text = tx.BatchNorm(momentum=1e-3).tabulate(signature=True)
    assert "momentum = 1.00e-03," in plain(text)
    assert 'Module(name = "x")' in plain(tx.Module("x").tabulate(signature=True))


def test_columns_are_in_the_order_of_appearance():
    class Parts(tx.Module):
        b: Any = tx.BatchStat.node(1)
        a: Any = tx.Rng.node(1)

        def __init__(self):
            self.c = tx.Linear(2)

    header = plain(Parts().init(0).tabulate()).split("\n")[2]
    assert header.index("Rng") < header.index("BatchStat")


def test_nothing_is_computed_and_nothing_changes():
    model = tx.Sequential(tx.Linear(2), tx.BatchNorm(), tx.Dropout(0.5)).init(0, X)
    before = model.layers[1].mean, model.layers[2].next_key.key
    assert "Dropout()" in model.tabulate(X)
    assert (model.layers[1].mean, model.layers[2].next_key.key) == before


def test_modules_that_are_dataclasses_and_uninitialized_ones():
    @dataclasses.dataclass
    class Made(tx.Module):
        units: int

        @tx.compact
        def __call__(self, x):
            return tx.Linear(self.units)(x)

    assert "(5, 3) float32" in plain(Made(3).init(0, X).tabulate(X))
    assert "Made()" in Made(3).tabulate()
    changed = tx.map(lambda x: x, Model()).filter(tx.State)
    assert "b:" in changed.tabulate()
    with pytest.raises(NotInitializedError):
        Made(3).tabulate(X)
    with pytest.raises(ArgumentTypeError):
        tx.Module().init(0).tabulate(X)


def test_escape_codes_are_printed_on_terminals_alone(capsys, monkeypatch):
    text = tx.Linear(2).init(0, X).tabulate()
    print(text)
    assert "\x1b" in text and capsys.readouterr().out == plain(text) + "\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    print(text)
    assert "\x1b" in capsys.readouterr().out


def test_a_narrow_table_loses_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = plain(Model().init(0, X).tabulate(X))
    assert max(map(len, text.split("\n"))) == 80 and "…" not in text
