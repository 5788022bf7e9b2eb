"""Flat dictionaries and traversals against those of Flax."""

from __future__ import annotations

import inspect
import warnings
from typing import TypeVar

import pytest

from linsey import traverse_util as ours

theirs = pytest.importorskip("flax.traverse_util")
pytestmark = pytest.mark.filterwarnings("ignore:`flax.traverse_util.Traversal`")

TREE = {"a": {"b": 1, "c": {}}, "d": [1, {"x": 2}], "e": {"f": {"g": None}}}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("sep", [None, "/"])
@pytest.mark.parametrize("is_leaf", [None, lambda p, x: len(p) == 1, lambda p, x: True])
@pytest.mark.parametrize("tree", [TREE, {}])
def test_flat_dictionaries_agree(tree, keep, sep, is_leaf):
    mine = ours.flatten_dict(tree, keep, is_leaf, sep)
    other = theirs.flatten_dict(tree, keep, is_leaf, sep)
    assert repr(mine) == repr(other)
    if is_leaf is None:
        assert ours.unflatten_dict(mine, sep) == theirs.unflatten_dict(other, sep)


def test_traversals_are_not_deprecated():
    """Flax has no optimizers any more; ours use them."""
    for module in (theirs, ours):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            module.ModelParamTraversal(lambda path, value: True)
        categories = [warning.category for warning in seen]
        assert (DeprecationWarning in categories) == (module is theirs)


def test_path_aware_map_agrees():
    tree = {"a": {"b": 1, "e": {}}, "c": 2}
    assert ours.path_aware_map(lambda p, x: (p, x), tree) == theirs.path_aware_map(
        lambda p, x: (p, x), tree
    )


PUBLIC = [
    name
    for name, value in vars(ours).items()
    if name[0] != "_" and getattr(value, "__module__", None) == ours.__name__
    if not isinstance(value, TypeVar)
]


def test_every_public_name_is_compared():
    assert len(PUBLIC) == 15


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "empty_node"])
def test_names_and_signatures_agree(name):
    mine, other = getattr(ours, name), getattr(theirs, name)
    if name == "t_identity":
        mine, other = type(mine), type(other)
    if inspect.isclass(other):
        public = {n for n in vars(other) if n[0] != "_"}
        assert public <= set(dir(mine))
        mine, other = mine.__init__, other.__init__
    parameters = inspect.signature(mine).parameters.values()
    expected = inspect.signature(other).parameters.values()
    assert [(p.name, p.default) for p in parameters] == [
        (p.name, p.default) for p in expected
    ]


TRAVERSALS = {
    "item": (lambda t: t["a"], {"a": 1, "b": 2}),
    "tuple": (lambda t: t[0], (1, 2)),
    "each": (lambda t: t.each(), {"b": 1, "a": 2}),
    "nested": (lambda t: t.each()["a"], [{"a": 1, "b": 2}, {"a": 3}]),
    "tree": (lambda t: t.tree(), {"a": [1, 2], "b": (3, None)}),
    "filter": (lambda t: t.each().filter(lambda x: x > 1), (1, 2, 3)),
    "merge": (lambda t: t.merge(t["a"], t["b"]), {"a": 1, "b": 2, "c": 3}),
}


@pytest.mark.parametrize("name", TRAVERSALS)
def test_traversals_agree(name):
    build, inputs = TRAVERSALS[name]
    mine, other = build(ours.t_identity), build(theirs.t_identity)
    assert list(mine.iterate(inputs)) == list(other.iterate(inputs))
    update = lambda x: x * 10  # noqa: E731
    assert mine.update(update, inputs) == other.update(update, inputs)


def test_parameter_traversals_agree():
    params = {"l": {"kernel": 1, "bias": 2}, "e": {}}
    mine, other = (
        m.ModelParamTraversal(lambda path, x: "kernel" in path) for m in (ours, theirs)
    )
    assert list(mine.iterate(params)) == list(other.iterate(params))
    update = lambda x: x * 10  # noqa: E731
    assert mine.update(update, params) == other.update(update, params)
