"""The errors of layers: their full text, what catches them, and pickling."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from linsey.errors import LinseyError, layers

CASES = {
    "AxisOutOfRangeError": (("DenseGeneral", 3, (2, 4)), IndexError),
    "BatchDimsError": (((1, 2),), ValueError),
    "CausalPaddingError": ((2,), ValueError),
    "DilatedPaddingError": (("SAME", (2, 1)), ValueError),
    "DropoutRateError": ((1.5,), ValueError),
    "EinsumEquationError": (("ab,bc", 'must be explicit and include "->"'), ValueError),
    "FeatureGroupError": (("Conv", "input", 3, 2), AssertionError),
    "InputRankError": (("Conv", (8, 3), "spatial, spatial, channels"), ValueError),
    "IntegerInputError": ((5, "float32"), ValueError),
    "InvalidPaddingError": (((1,), 2, ("SAME", "VALID")), ValueError),
    "MaskShapeError": (("Conv", (3, 3), (3, 3, 4)), ValueError),
    "PerAxisError": (("strides", (2,), 2), ValueError),
    "SequentialLayersError": (("Empty Sequential module None.",), ValueError),
    "UnsharedGroupsError": ((2,), NotImplementedError),
    "WindowShapeError": (("has strides (2,)", (2, 2), (1, 4, 4, 3)), AssertionError),
}
TEXTS = (Path(__file__).parent / "layer_error_messages.txt").read_text()


def error(name):
    arguments, _ = CASES[name]
    return getattr(layers, name)(*arguments)


def test_every_error_of_layers_has_a_case():
    classes = {
        name
        for name, value in vars(layers).items()
        if isinstance(value, type) and value.__module__ == layers.__name__
    }
    assert classes == set(CASES)


def test_the_text_of_every_error():
    assert "\n".join(f"{name}\n{error(name)}\n" for name in sorted(CASES)) == TEXTS


@pytest.mark.parametrize("name", CASES)
def test_errors_have_three_parts_and_travel(name):
    found = error(name)
    assert all((found.found, found.why, found.fix))
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
    assert isinstance(found, LinseyError)
    assert isinstance(found, CASES[name][1])


def test_a_padding_of_unknown_name_is_told_the_known_ones():
    error = layers.InvalidPaddingError("FOO", 1, ("SAME", "VALID"))
    assert error.found == (
        "Unrecognized padding type: expected 'SAME', 'VALID', got 'FOO'."
    )
    assert isinstance(error, RuntimeError)
