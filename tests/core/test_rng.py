"""Laws of random streams: a key depends on its path and the draws there, bit by bit."""

from __future__ import annotations

import flax.core
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from flax.configurations import config as flax_config
from hypothesis import given, settings

import linsey.core
from linsey import errors
from linsey.config import config
from linsey.core.rng import LazyRng, fold_in_static, hash_suffix, is_rng_key
from tests.compat.agreement import KEY, agrees, refuses

names = st.text(min_size=1, max_size=8)
suffixes = st.lists(st.one_of(names, st.integers(0, 2**40)), max_size=5).map(tuple)


def bits(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@settings(deadline=None, max_examples=40)
@given(suffixes, st.booleans())
def test_a_folded_suffix_gives_the_key_of_flax(suffix, separate):
    flip = "fix_rng_separator", separate
    with config.temp_flip_flag(*flip):
        ours = LazyRng.create(KEY, *suffix).as_jax_rng()
    with flax_config.temp_flip_flag(*flip):
        theirs = flax.core.scope.LazyRng.create(KEY, *suffix).as_jax_rng()
    assert bits(ours) == bits(theirs)


def test_an_empty_suffix_leaves_the_key_as_it_is():
    assert fold_in_static(KEY, ()) is KEY


@given(suffixes, suffixes)
def test_suffixes_are_appended(first, second):
    lazy = LazyRng.create(LazyRng.create(KEY, *first), *second)
    assert lazy.suffix == first + second
    assert lazy.rng is KEY


def test_a_cleared_suffix_is_folded_in():
    lazy = LazyRng.create(KEY, "encoder", 1)
    cleared = lazy.clear_suffix()
    assert cleared.suffix == ()
    assert bits(cleared.as_jax_rng()) == bits(lazy.as_jax_rng())


def test_the_separator_tells_apart_names_that_join_to_the_same_text():
    joined, apart = ("ab",), ("a", "b")
    assert hash_suffix(joined, separate=False) == hash_suffix(apart, separate=False)
    assert hash_suffix(joined, separate=True) != hash_suffix(apart, separate=True)


@pytest.mark.parametrize("item", [1.0, None, b"bytes"])
def test_other_items_are_refused(item):
    with pytest.raises(ValueError, match="Expected int or string"):
        fold_in_static(KEY, (item,))


def test_a_lazy_key_is_a_pytree_of_the_root_key_and_keeps_its_suffix():
    lazy = jax.jit(lambda key: key)(LazyRng.create(KEY, "a", 1))
    assert lazy.suffix == ("a", 1)
    assert bits(lazy.rng) == bits(KEY)


@pytest.mark.parametrize("fix_separator", [False, True])
@agrees
def test_keys_of_paths_streams_and_counters(core, config, fix_separator):
    def draws(scope):
        below = scope.push("encoder").push("layer_0")
        return [
            scope.make_rng("params"),
            scope.make_rng("params"),
            below.make_rng("params"),
            below.make_rng("dropout"),
            below.make_rng("dropout"),
            scope.push("decoder").make_rng("dropout"),
            below.make_rng("unknown"),
            below.make_rng(),
        ]

    before = config.flax_fix_rng_separator
    config.update("flax_fix_rng_separator", fix_separator)
    try:
        rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
        return core.init(draws)(rngs)[0]
    finally:
        config.update("flax_fix_rng_separator", before)


@agrees
def test_raw_keys_are_keys(core):
    run = core.init(lambda scope: scope.push("a").make_rng("params"))
    return run(jax.random.PRNGKey(3))[0]


@agrees
def test_cursors_to_one_path_share_their_counters(core):
    def draws(scope):
        first = scope.push("a")
        again = scope.push("a", reuse=True)
        child = scope.child(lambda s: s.make_rng("params"), "b")
        return [
            first.make_rng("params"),
            again.make_rng("params"),
            child(),
            child(),
            scope.rewound().make_rng("params"),
            scope.rewound(rewind_rngs=True).make_rng("params"),
        ]

    return core.init(draws)(KEY)[0]


@refuses(wording=False)
def test_a_stream_that_is_not_there_needs_params_to_fall_back_to(core):
    return core.apply(lambda scope: scope.make_rng("dropout"))({}, rngs={"noise": KEY})


@refuses(wording=False)
def test_no_stream_at_all(core):
    return core.apply(lambda scope: scope.make_rng("dropout"))({})


@pytest.mark.parametrize("rngs", [1, {"params": 0}, {"params": np.zeros(3)}, "key"])
@refuses
def test_what_is_no_key_is_refused_by_init(core, rngs):
    return core.init(lambda scope: None)(rngs)


@pytest.mark.parametrize("rngs", [{"params": 0}, {1: KEY}])
@refuses
def test_what_is_no_key_is_refused_by_apply(core, rngs):
    return core.apply(lambda scope: None)({}, rngs=rngs)


def test_the_error_names_the_missing_stream_and_the_line_to_write():
    def draw(scope):
        return scope.push("encoder").make_rng("dropout")

    with pytest.raises(errors.InvalidRngError) as caught:
        linsey.core.apply(draw)({}, rngs={"noise": KEY})
    assert str(caught.value).splitlines() == [
        'encoder needs PRNG for "dropout", at /encoder.',
        "The streams that were given are: `noise`.",
        "Pass a key for it: `module.apply(variables, ..., rngs={'dropout': key})`, or"
        " `module.init({'params': key, 'dropout': other_key}, ...)`.",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (jax.random.key(0), True),
        (jax.random.PRNGKey(0), True),
        (jax.random.key(0, impl="rbg"), True),
        (np.zeros(2, np.uint32), True),
        (jax.ShapeDtypeStruct((2,), np.uint32), True),
        (np.zeros(3, np.uint32), False),
        (np.zeros(2, np.int32), False),
        (jax.random.split(jax.random.key(0)), False),
        (0, False),
        (None, False),
    ],
)
def test_what_counts_as_a_key(value, expected):
    assert is_rng_key(value) is expected
