"""The errors of layers: their full text, what catches them, and pickling."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from linsey.errors import LinseyError, attention, layers, sharding

MODULES = (attention, layers, sharding)
CASES = {
    "AttentionHeadsError": ((8, 3), AssertionError),
    "AttentionHooksError": (("Both are needed.",), ValueError),
    "AttentionInputsError": (("`inputs_k` is missing.",), ValueError),
    "AttentionMaskError": (((3, 4), (1, 2, 3, 3)), ValueError),
    "AttentionShapeError": (
        ("q, k must have same rank.", {"query": (3, 2, 4), "key": (2, 4)}),
        AssertionError,
    ),
    "AxisOutOfRangeError": (("DenseGeneral", 3, (2, 4)), IndexError),
    "AxisMetadataTypeError": ((3,), AssertionError),
    "AxisNamesChangedError": ((("a",), ("b",)), ValueError),
    "AxisRulesError": (({"batch": "data"},), ValueError),
    "BatchApplyError": ((2,), ValueError),
    "BatchDimsError": (((1, 2),), ValueError),
    "CacheShapeError": (((2, 1, 2, 4), (2, 3, 2, 4)), ValueError),
    "CausalPaddingError": ((2,), ValueError),
    "DilatedPaddingError": (("SAME", (2, 1)), ValueError),
    "DropoutRateError": ((1.5,), ValueError),
    "DuplicateAxisNamesError": ((("in", "in"), ("in",)), ValueError),
    "EinsumEquationError": (("ab,bc", 'must be explicit and include "->"'), ValueError),
    "FeatureGroupError": (("Conv", "input", 3, 2), AssertionError),
    "InconsistentRulesError": (("batch", "data", "model"), ValueError),
    "InputRankError": (("Conv", (8, 3), "spatial, spatial, channels"), ValueError),
    "IntegerInputError": ((5, "float32"), ValueError),
    "InvalidPaddingError": (((1,), 2, ("SAME", "VALID")), ValueError),
    "MaskRanksError": (((1, 2),), AssertionError),
    "MaskShapeError": (("Conv", (3, 3), (3, 3, 4)), ValueError),
    "MeshNeededError": (("P('data',)",), ValueError),
    "NoAxisRuleError": ((("batch", "embed"),), ValueError),
    "NotAMatrixError": (("Conv_0/kernel", (3, 3, 4)), ValueError),
    "PerAxisError": (("strides", (2,), 2), ValueError),
    "SequentialLayersError": (("Empty Sequential module None.",), ValueError),
    "UnsharedGroupsError": ((2,), NotImplementedError),
    "WindowShapeError": (("has strides (2,)", (2, 2), (1, 4, 4, 3)), AssertionError),
}
CLASSES = {
    name: value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, type) and value.__module__ == module.__name__
}
TEXTS = (Path(__file__).parent / "layer_error_messages.txt").read_text()


def error(name):
    arguments, _ = CASES[name]
    return CLASSES[name](*arguments)


def test_every_error_of_layers_has_a_case():
    assert set(CLASSES) == set(CASES)


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
