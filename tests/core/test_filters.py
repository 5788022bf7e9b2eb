"""Laws of collection filters: a Boolean algebra of sets of names."""

from __future__ import annotations

import flax.core.scope
import hypothesis.strategies as st
import pytest
from hypothesis import given

from linsey import errors
from linsey.core import filters
from linsey.core.filters import ALL, NONE, DenyList, Selection

NAMES = ("params", "batch_stats", "cache", "intermediates")
positive = st.one_of(
    st.booleans(),
    st.sampled_from(NAMES),
    st.sets(st.sampled_from(NAMES)),
    st.lists(st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(NAMES)),
    st.frozensets(st.sampled_from(NAMES)),
    st.dictionaries(st.sampled_from(NAMES), st.none()).map(dict.keys),
)
any_filter = st.recursive(positive, lambda f: f.map(DenyList), max_leaves=3)


def selected(filter_like):
    return {name for name in NAMES if filters.in_filter(filter_like, name)}


def as_flax(filter_like):
    if isinstance(filter_like, DenyList):
        return flax.core.scope.DenyList(as_flax(filter_like.deny))
    return filter_like


@given(any_filter, st.sampled_from(NAMES))
def test_in_filter_is_that_of_flax(filter_like, name):
    expected = flax.core.scope.in_filter(as_flax(filter_like), name)
    assert filters.in_filter(filter_like, name) == expected


@given(any_filter, any_filter)
def test_union_intersection_and_difference_are_those_of_sets(a, b):
    assert selected(filters.union_filters(a, b)) == selected(a) | selected(b)
    assert selected(filters.intersect_filters(a, b)) == selected(a) & selected(b)
    assert selected(filters.subtract_filters(a, b)) == selected(a) - selected(b)


@given(any_filter, any_filter)
def test_operations_select_what_those_of_flax_select(a, b):
    for name in ("union_filters", "intersect_filters", "subtract_filters"):
        result = getattr(flax.core.scope, name)(as_flax(a), as_flax(b))
        theirs = {col for col in NAMES if flax.core.scope.in_filter(result, col)}
        assert selected(getattr(filters, name)(a, b)) == theirs


@given(any_filter)
def test_deny_list_selects_the_complement(filter_like):
    everything = set(NAMES)
    assert selected(DenyList(filter_like)) == everything - selected(filter_like)


@given(any_filter)
def test_a_selection_and_its_public_form_select_the_same(filter_like):
    selection = Selection.of(filter_like)
    assert Selection.of(selection) is selection
    assert Selection.of(selection.public()) == selection


@given(any_filter, any_filter)
def test_selections_that_select_the_same_are_equal_and_hash_equally(a, b):
    left = Selection.of(a) | Selection.of(b)
    right = Selection.of(b) | Selection.of(a)
    assert left == right
    assert hash(left) == hash(right)


@given(any_filter)
def test_empty_filters_are_those_that_select_no_name_at_all(filter_like):
    selection = Selection.of(filter_like)
    assert filters.is_filter_empty(filter_like) == (not selection)
    assert bool(selection) == (selection != NONE)


@given(positive.filter(lambda f: not isinstance(f, bool)))
def test_filter_to_set_gives_the_names(filter_like):
    expected = flax.core.scope.filter_to_set(filter_like)
    assert filters.filter_to_set(filter_like) == set(expected)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.just({})),
    st.lists(any_filter, max_size=3),
)
def test_groups_give_each_collection_to_the_first_filter_that_selects_it(xs, wanted):
    groups = filters.group_collections(xs, wanted)
    expected = flax.core.scope.group_collections(xs, [as_flax(f) for f in wanted])
    assert groups == tuple(expected)


@pytest.mark.parametrize("invalid", [1, 2.0, None, object()])
def test_anything_else_is_refused(invalid):
    with pytest.raises(errors.InvalidFilterError, match="Invalid Filter"):
        filters.in_filter(invalid, "params")
    with pytest.raises(errors.InvalidFilterError):
        filters.in_filter(DenyList(invalid), "params")


def test_a_deny_list_has_no_finite_set():
    with pytest.raises(errors.InvalidFilterError):
        filters.filter_to_set(DenyList("params"))
    assert ALL.inverted
