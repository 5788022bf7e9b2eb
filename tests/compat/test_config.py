"""Flags against those of Flax: names, defaults, errors."""

from __future__ import annotations

import pytest

import linsey.configurations as ours

theirs = pytest.importorskip("flax.configurations")

# The rest of Flax's flags steer its NNX side, which linsey does not have.
NAMES = [
    "flax_filter_frames",
    "flax_profile",
    "flax_use_orbax_checkpointing",
    "flax_preserve_adopted_names",
    "flax_return_frozendict",
    "flax_fix_rng",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_and_defaults_agree(name):
    mine, other = getattr(ours, name), getattr(theirs, name)
    assert mine.name == other.name
    assert mine.value is other.value
    assert getattr(ours.config, mine.name) is getattr(theirs.config, other.name)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda m: m.config.update("nope", True),
        lambda m: m.config.nope,
        lambda m: setattr(m.config, "flax_profile", True),
        lambda m: bool(m.flax_profile),
        lambda m: m.bool_flag("flax_profile", default=True, help=""),
    ],
)
def test_misuse_raises_what_flax_raises(misuse):
    with pytest.raises(Exception) as expected:
        misuse(theirs)
    with pytest.raises(type(expected.value)):
        misuse(ours)
