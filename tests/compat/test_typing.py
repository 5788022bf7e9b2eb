"""The names of `flax.typing`, and `flax.ids`."""

from __future__ import annotations

import jax
import pytest

from linsey import ids, typing
from linsey.core.frozen_dict import FrozenDict

theirs = pytest.importorskip("flax.typing")

# Names that serve NNX alone, which linsey does not have.
ABSENT = {
    "BaseConfigContext",
    "HashableMapping",
    "MISSING",
    "Missing",
    "PytreeDeque",
    "ShapeDtype",
    "SizeBytes",
    "has_shape_dtype",
}


IMPORTED = set(
    "Any Callable Generic Hashable Iterator Mapping Optional Protocol Sequence "
    "TypeGuard TypeVar Union annotations deque partial abc dataclasses functools jax "
    "jnp jtu np TupleArg".split()
)


def test_every_name_is_there():
    names = {n for n in vars(theirs) if n[0] != "_" and len(n) > 2} - IMPORTED
    assert names - set(typing.__all__) == ABSENT
    assert all(hasattr(typing, name) for name in typing.__all__)


def test_aliases_are_those_of_flax():
    assert typing.PRNGKey is theirs.PRNGKey is jax.Array
    assert typing.Shape == theirs.Shape and typing.Axes == theirs.Axes
    assert typing.PaddingLike == theirs.PaddingLike
    assert typing.LaxPadding == theirs.LaxPadding
    assert typing.PrecisionLike == theirs.PrecisionLike
    assert typing.VariableDict == theirs.VariableDict
    assert typing.LogicalRules == theirs.LogicalRules
    assert typing.Sharding == theirs.Sharding
    assert typing.FrozenDict is FrozenDict
    assert typing.FrozenVariableDict.__origin__ is FrozenDict


def test_axes_in_and_out_are_values():
    assert typing.In(1) == typing.In(axis=1) != typing.Out(1)
    assert hash(typing.Out(2)) == hash(typing.Out(2))
    assert repr(typing.In(1)) == repr(theirs.In(1))
    assert jax.tree.leaves(typing.In(1)) == [typing.In(1)]


def test_keys_have_a_hash_and_an_order():
    assert typing.is_key_like("a") and typing.is_key_like(("a", 1))
    assert not typing.is_key_like([1])


def test_identifiers_look_alike():
    flax_ids = pytest.importorskip("flax.ids")
    public = {name for name in vars(flax_ids) if name[0] != "_"} - {"threading"}
    assert public <= set(ids.__all__)
    assert repr(ids.FlaxId(3)) == repr(flax_ids.FlaxId(3))
