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


def test_the_mark_is_that_of_the_standard_library():
    assert ours.KW_ONLY is dataclasses.KW_ONLY
