"""Keyword-only fields against Flax."""

from __future__ import annotations

import dataclasses
import inspect

import flax.linen.kw_only_dataclasses as theirs
import pytest

import linsey.linen.kw_only_dataclasses as ours


def classes(module):
    @module.dataclass
    class Parent:
        x: int
        y: int = module.field(default=2, kw_only=True)

    @module.dataclass
    class Child(Parent):
        z: int

    @module.dataclass(
        extra_fields=[("more", int, module.field(default=7, kw_only=True))]
    )
    class Extended:
        x: int = 1

    return Parent, Child, Extended


@pytest.mark.parametrize("index", range(3))
def test_constructors_take_what_those_of_flax_take(index):
    expected, found = (classes(module)[index] for module in (theirs, ours))
    given = {"x": 1, "z": 3} if index == 1 else {"x": 1}
    assert vars(found(**given)) == vars(expected(**given))
    names = [list(inspect.signature(c).parameters) for c in (expected, found)]
    assert sorted(names[0]) == sorted(names[1])


@pytest.mark.parametrize("module", [theirs, ours])
def test_keyword_only_fields_follow_the_standard_library(module):
    _, child, _ = classes(module)
    places = [field.name for field in dataclasses.fields(child)]
    signature = inspect.signature(child)
    is_keyword_only = signature.parameters["y"].kind is inspect.Parameter.KEYWORD_ONLY

    def without_a_default():
        @module.dataclass
        class Needed:
            x: int = module.field(kw_only=True)

        return Needed

    if module is theirs:
        assert places == ["x", "z", "y"]
        assert not is_keyword_only  # and yet it cannot be given by position
        with pytest.raises(ValueError, match="no default"):
            without_a_default()
    else:
        assert places == ["x", "y", "z"]
        assert is_keyword_only
        assert without_a_default()(x=3).x == 3


def test_the_mark_is_that_of_the_standard_library():
    assert ours.KW_ONLY is dataclasses.KW_ONLY
