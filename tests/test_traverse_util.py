"""Laws of flat dictionaries and of traversals."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linsey import struct
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.traverse_util import (
    ModelParamTraversal,
    Traversal,
    empty_node,
    flatten_dict,
    path_aware_map,
    t_identity,
    unflatten_dict,
)

keys = st.text("abc", min_size=1, max_size=2)
nested = st.dictionaries(
    keys,
    st.recursive(
        st.integers(),
        lambda inner: st.dictionaries(keys, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=3,
)


@given(nested, st.sampled_from([None, "/", "--"]))
def test_unflatten_undoes_flatten(tree, sep):
    flat = flatten_dict(tree, keep_empty_nodes=True, sep=sep)
    assert unflatten_dict(flat, sep=sep) == tree
    assert flatten_dict(freeze(tree), keep_empty_nodes=True, sep=sep) == flat


@given(nested)
def test_without_empty_nodes_only_values_are_kept(tree):
    flat = flatten_dict(tree, keep_empty_nodes=True)
    values = {path: x for path, x in flat.items() if x != empty_node}
    assert flatten_dict(tree) == values


def test_paths_are_tuples_or_joined_keys():
    assert flatten_dict({"a": {"b": 1}, 3: [{"x": 2}]}) == {
        ("a", "b"): 1,
        (3,): [{"x": 2}],
    }
    assert flatten_dict({"a": {"b": 1}}, sep=".") == {"a.b": 1}
    with pytest.raises(TypeError):
        flatten_dict({3: 1}, sep=".")


def test_a_leaf_may_be_a_dictionary():
    asked = []

    def is_leaf(path, value):
        asked.append(path)
        return len(path) == 2

    tree = {"a": {"b": {"c": 1}}}
    assert flatten_dict(tree, is_leaf=is_leaf) == {("a", "b"): {"c": 1}}
    assert asked == [(), ("a",), ("a", "b")]


def test_what_is_no_dictionary_is_refused():
    with pytest.raises(TypeError, match=r"expected \(frozen\)dict; got"):
        flatten_dict([1])
    with pytest.raises(TypeError, match="input is not a dict"):
        unflatten_dict([1])
    with pytest.raises(TypeError, match=r"'a/b' leads through the value of 'a'"):
        unflatten_dict({"a": 1, "a/b": 2}, sep="/")


def test_path_aware_map_sees_paths_and_keeps_empty_dictionaries():
    tree = {"a": {"b": 1, "e": {}}, "c": 2}
    assert path_aware_map(lambda path, x: (path, x), tree) == {
        "a": {"b": (("a", "b"), 1), "e": {}},
        "c": (("c",), 2),
    }


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Plain:
    x: Any
    y: Any = 0


class Node(struct.PyTreeNode):
    x: Any
    y: Any = 0


class Box:
    """An object that is no dataclass."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self.x == other.x


I = t_identity  # noqa: E741

CASES = {
    "id": (I, 3, [3], 30),
    "item of dict": (I["a"], {"a": 1, "b": 2}, [1], {"a": 10, "b": 2}),
    "item of frozen": (I["a"], freeze({"a": 1, "b": 2}), [1], {"a": 10, "b": 2}),
    "item of list": (I[1], [1, 2], [2], [1, 20]),
    "item of tuple": (I[-1], (1, 2), [2], (1, 20)),
    "item of pair": (I[0], Pair(1, 2), [1], Pair(10, 2)),
    "slice of list": (I[1:], [1, 2, 3], [2, 3], [1, 20, 30]),
    "slice of tuple": (I[:2], (1, 2, 3), [1, 2], (10, 20, 3)),
    "attribute of pair": (I.y, Pair(1, 2), [2], Pair(1, 20)),
    "attribute of dataclass": (I.x, Plain(1, 2), [1], Plain(10, 2)),
    "attribute of node": (I.x, Node(1, 2), [1], Node(10, 2)),
    "attribute of object": (I.x, Box(1), [1], Box(10)),
    "each of list": (I.each(), [1, 2], [1, 2], [10, 20]),
    "each of pair": (I.each(), Pair(1, 2), [1, 2], Pair(10, 20)),
    "each of dict": (I.each(), {"b": 1, "a": 2}, [1, 2], {"b": 10, "a": 20}),
    "each of frozen": (I.each(), freeze({"b": 1}), [1], freeze({"b": 10})),
    "tree": (I.tree(), {"b": [1], "a": (2,)}, [2, 1], {"b": [10], "a": (20,)}),
    "filter": (I.each().filter(lambda x: x > 1), [1, 2, 3], [2, 3], [1, 20, 30]),
    "steps": (I.x.each()["a"], Node([{"a": 1}, {"a": 2}]), [1, 2], Node([{"a": 10}, {"a": 20}])),  # noqa: E501
    "merge": (I.merge(I["a"], I["b"]), {"a": 1, "b": 2, "c": 3}, [1, 2], {"a": 10, "b": 20, "c": 3}),  # noqa: E501
}  # fmt: skip


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", CASES)
def test_iterate_and_update_see_the_same_values(name):
    traversal, inputs, values, outputs = CASES[name]
    before = copy.deepcopy(inputs)
    assert list(traversal.iterate(inputs)) == values
    updated = traversal.update(lambda x: x * 10, inputs)
    assert updated == outputs and type(updated) is type(inputs)
    assert inputs == before


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", CASES)
def test_set_puts_back_what_iterate_gave(name):
    traversal, inputs, values, _ = CASES[name]
    assert traversal.set(traversal.iterate(inputs), inputs) == inputs
    with pytest.raises(ValueError, match="Not enough values"):
        traversal.set(values[1:], inputs)
    with pytest.raises(ValueError, match="Too many values"):
        traversal.set([*values, 0], inputs)


def test_misuse_is_refused():
    for inputs in (3, "abc", Node(1), {1, 2}):
        with pytest.raises(ValueError, match="Only the entries"):
            I.each().update(lambda x: x, inputs)
        with pytest.raises(ValueError, match="Only the entries"):
            list(I.each().iterate(inputs))
    with pytest.raises(KeyError):
        I["z"].update(lambda x: x, {"a": 1})
    with pytest.raises(IndexError):
        I[5].update(lambda x: x, (1, 2))
    with pytest.raises(TypeError, match="abstract"):
        Traversal()


def test_traversals_can_be_copied_and_pickled():
    traversal = I["a"].each()
    for twin in (copy.deepcopy(traversal), pickle.loads(pickle.dumps(traversal))):
        assert list(twin.iterate({"a": [1, 2]})) == [1, 2]
    assert not hasattr(I, "__wrapped__")


def test_parameters_are_chosen_by_path():
    seen = []

    def is_kernel(path, value):
        seen.append((path, value))
        return path.endswith("/kernel")

    params = {"l": {"kernel": 1, "bias": 2}, "e": {}}
    kernels = ModelParamTraversal(is_kernel)
    assert list(kernels.iterate(params)) == [1]
    assert seen == [("/l/bias", 2), ("/l/kernel", 1)]
    expected = {"l": {"kernel": 10, "bias": 2}, "e": {}}
    assert kernels.update(lambda x: x * 10, params) == expected
    updated = kernels.update(lambda x: x * 10, freeze(params))
    assert type(updated) is FrozenDict and updated == expected
    with pytest.raises(ValueError, match="nested dict"):
        kernels.update(lambda x: x, 3)


def test_paths_of_parameters_are_text_whatever_the_keys_are():
    kernels = ModelParamTraversal(lambda path, _: path == "/0/kernel")
    assert list(kernels.iterate({0: {"kernel": 1}, 1: {"kernel": 2}})) == [1]
    assert kernels.update(lambda x: x * 10, {}) == {}


@pytest.mark.parametrize(
    "tree",
    [
        {"a/b": 1, "a": {"b": 2}},
        {"a": {"b": {}}, "a/b": {}},
        {"a": {"b/c": 1}, "a/b": {"c": 2}},
    ],
)
def test_two_paths_that_are_one_text_are_refused(tree):
    with pytest.raises(ValueError, match="a/b") as caught:
        flatten_dict(tree, keep_empty_nodes=True, sep="/")
    assert "a/b" in caught.value.fix or "b/c" in caught.value.fix
    assert len(flatten_dict(tree, keep_empty_nodes=True, sep=".")) == 2
    assert len(flatten_dict(tree, keep_empty_nodes=True)) == 2


def test_a_separator_inside_a_key_is_harmless_where_no_path_repeats():
    assert flatten_dict({"loss/train": {"x": 1}}, sep="/") == {"loss/train/x": 1}
