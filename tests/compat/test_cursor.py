"""Cursors against Flax."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.core
import flax.cursor
import flax.struct
import numpy as np
import pytest

import linsey.core
import linsey.cursor
import linsey.struct
from linsey.errors import CursorFindError, TraverseTreeError

LIBRARIES = (flax, linsey)


@dataclasses.dataclass
class Plain:
    a: int
    b: Any


class Pair(NamedTuple):
    p: int
    q: Any


class Trees:
    """The same tree, with the classes of one library."""

    def __init__(self, lib):
        @lib.struct.dataclass
        class State:
            x: int
            y: Any

        self.cursor = lib.cursor.cursor
        self.tree = {
            "a": 1,
            "list": (1, 2, [3, 4]),
            "plain": Plain(1, {"z": 2}),
            "state": State(1, 2),
            "pair": Pair(1, (2, 3)),
            "frozen": lib.core.FrozenDict({"k": 1}),
        }


def text(value):
    """A value as text, without the names of libraries."""
    return str(value).replace("test_cursor.", "")


def set_deep(t):
    c = t.cursor(t.tree)
    return c["list"][2][0].set(9), c["plain"].b["z"].set(5), c["pair"].q[1].set(8)


def build_many(t):
    c = t.cursor(t.tree)
    c["plain"].b["z"] = 7
    c["state"].y += 10
    c["pair"].p = 3
    c["pair"][1] = 4
    c["frozen"]["k"] = 5
    c["new"] = [1]
    c["list"][2][0] *= 2
    return c.build(), t.tree


def replace_and_go_on(t):
    c = t.cursor(t.tree)
    c["a"] = {"q": 1}
    c["a"]["q"] += 4
    return c.build()


def show(t):
    c = t.cursor(t.tree)
    c["state"].y = 3
    c["plain"].b["z"] = 4
    return repr(c), repr(c["list"]), str(c["a"])


def compute(t):
    c = t.cursor({"x": 5, "y": 2.5})
    x = c["x"]
    return (
        *(x + 1, 1 + x, 2 - x, x - 2, x * 3, x / 2, x // 2, x % 3, 2**x, x**2),
        *(-x, +x, abs(x), ~x, x << 1, x >> 1, x & 4, x | 2, x ^ 1),
        *(x == 5, x != 5, x < 6, x <= 5, x > 5, x >= 5, round(c["y"])),
        *(divmod(x, 2), c["x"] + c["y"], len(t.cursor([1, 2]))),
    )


def iterate(t):
    return [item.build() for item in t.cursor([1, [2]])]


def update(t):
    seen = []

    def double(path, value):
        seen.append(path)
        return value + 100 if isinstance(value, int) else value

    def cut(path, value):
        seen.append(path)
        return 5 if path == "list" else value

    c = t.cursor(t.tree)
    return c.apply_update(double).build(), c.apply_update(cut).build(), seen


def find(t):
    c = t.cursor(t.tree)
    by_path = c.find(lambda path, value: path == "plain/b/z")
    by_value = c.find_all(lambda path, value: isinstance(value, int) and value == 2)
    c["plain"].b["z"] = 1
    return by_path.set(4), [place.build() for place in by_value]


def find_outer(t):
    c = t.cursor(t.tree)
    return [str(place) for place in c.find_all(lambda path, value: True)]


@pytest.mark.parametrize(
    "walk",
    [
        *(set_deep, build_many, replace_and_go_on, show, compute),
        *(iterate, update, find, find_outer),
    ],
)
def test_walks_end_as_in_flax(walk):
    expected, found = (text(walk(Trees(lib))) for lib in LIBRARIES)
    assert found == expected


@pytest.mark.parametrize(
    ("walk", "error"),
    [
        (lambda c: c["missing"], KeyError),
        (lambda c: c["list"][7], IndexError),
        (lambda c: c.missing, AttributeError),
        (lambda c: c["plain"].missing, AttributeError),
        (lambda c: list(c), NotImplementedError),
        (lambda c: hash(c), TypeError),
    ],
)
def test_wrong_steps_are_refused_as_in_flax(walk, error):
    for lib in LIBRARIES:
        t = Trees(lib)
        with pytest.raises(error):
            walk(t.cursor(t.tree))


def test_a_search_finds_exactly_one():
    c = linsey.cursor.cursor({"a": 1, "b": {"c": 1}})
    with pytest.raises(CursorFindError, match="No object found"):
        c.find(lambda path, value: False)
    with pytest.raises(CursorFindError, match=r"\['a'\] and \['b'\]\['c'\]"):
        c.find(lambda path, value: value == 1)
    with pytest.raises(TraverseTreeError):
        list(linsey.cursor._traverse_tree((), {"a": 1}))


def test_parts_without_a_change_are_shared():
    tree = {"a": [1, 2], "b": {"c": np.ones(3)}}
    c = linsey.cursor.cursor(tree)
    c["a"][0] = 5
    built = c.build()
    assert built["b"] is tree["b"]
    assert tree["a"] == [1, 2]


def test_two_names_of_a_place_note_changes_in_one():
    c = linsey.cursor.cursor({"a": {"p": 0, "q": 0}})
    first, second = c["a"], c["a"]
    first["p"], second["q"] = 1, 2
    assert c.build() == {"a": {"p": 1, "q": 2}}


def test_a_train_state_is_changed_deep_inside():
    @linsey.struct.dataclass
    class State:
        step: int
        params: dict

    c = linsey.cursor.cursor(State(0, {"Dense_0": {"kernel": np.ones(2)}}))
    c.step += 1
    c.params["Dense_0"]["kernel"] *= 2
    state = c.build()
    assert state.step == 1
    assert state.params["Dense_0"]["kernel"].tolist() == [2.0, 2.0]


def test_paths_are_written_as_in_flax():
    seen = []
    for lib in LIBRARIES:
        t = Trees(lib)
        found = t.cursor([t.tree, (1, {2: 3, "x y": 4})]).find_all(
            lambda path, value: not isinstance(value, (dict, list, tuple))
        )
        seen.append([c._path for c in found])
    assert seen[0] == seen[1] and "[1][1]['x y']" in seen[1]


@pytest.mark.parametrize("walk", [iter, reversed])
def test_only_sequences_are_walked(walk):
    for lib in LIBRARIES:
        cursor = Trees(lib).cursor
        assert sorted(c.build() for c in walk(cursor((1, 2)))) == [1, 2]
        for value in ({1: 2, 0: 3}, 5, "text", linsey.core.freeze({"a": 1})):
            with pytest.raises(
                NotImplementedError, match=f"__{walk.__name__}__ method"
            ):
                list(walk(cursor(value)))


def test_what_has_no_parts_is_not_given_any():
    c = linsey.cursor.cursor({"x": np.arange(3)})
    c["x"][1] = 5
    with pytest.raises(TypeError, match=r"of type ndarray"):
        c.build()
