"""The errors of objects: their full text, what catches them, and pickling."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from linsey.errors import LinseyError, treex


class Model:
    """Stands for an object."""

    def __call__(self):
        """Stands for a method."""


OBJECT = Model()
CASES = {
    "CompactCountError": ((OBJECT, Model.__call__, Model, ("a", "b")), ValueError),
    "CompactNameError": ((OBJECT, "linear"), ValueError),
    "CompactRecursionError": ((OBJECT, Model.__call__), RuntimeError),
    "FilterTypeError": ((3,), TypeError),
    "FirstRunError": ((OBJECT,), RuntimeError),
    "InPlaceError": (("map", (1,)), ValueError),
    "KeyTypeError": (("seed",), TypeError),
    "LeafCountError": (("grads", 2, 3), ValueError),
    "LossShapeError": (
        ("The ranks differ", (2,), (2, 3, 4), "Add an axis."),
        ValueError,
    ),
    "MissingAuxError": (("aux_losses",), ValueError),
    "MissingFieldError": ((OBJECT, "w"), RuntimeError),
    "MissingVariableError": ((OBJECT, ["kernel", "bias"]), RuntimeError),
    "NoKeyError": ((), RuntimeError),
    "NoLinenTwinError": ((OBJECT,), TypeError),
    "NotInitializedError": ((OBJECT,), RuntimeError),
    "OptimizerParamsError": ((), ValueError),
    "OptimizerStateError": ((), RuntimeError),
    "PositionalArgumentsError": ((OBJECT, 2), TypeError),
    "StaticTracerError": ((OBJECT, "cache", "Traced<float32[]>"), TypeError),
    "TabulateError": ((OBJECT,), TypeError),
    "TreeMismatchError": (("merge", "2 and 3 leaves."), ValueError),
    "UndeclaredFieldError": ((OBJECT, "w"), ValueError),
}
TEXTS = (Path(__file__).parent / "error_messages.txt").read_text()


def error(name):
    arguments, _ = CASES[name]
    return getattr(treex, name)(*arguments)


def test_every_error_has_a_case():
    classes = {
        name
        for name, value in vars(treex).items()
        if isinstance(value, type) and value.__module__ == treex.__name__
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


def test_changes_in_place_are_caught_as_either():
    assert issubclass(treex.InPlaceError, TypeError)
    assert issubclass(treex.InPlaceError, ValueError)
