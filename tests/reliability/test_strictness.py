"""Strict readers refuse whatever differs from their target, and list all of it.

Each leaf of each target, with another shape, another dtype, missing, extra, renamed.
Readers that are not strict do what Flax does, which is called here.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.configurations import config as flax_config

import linsey.treex as tx
from linsey import config, optim
from linsey import serialization as s
from linsey.checkpoint import open_checkpoint, write_checkpoint
from linsey.errors import InputError, OptionError, StateDictMismatchError
from linsey.training import checkpoints
from linsey.training.train_state import TrainState
from tests.reliability.figures import record

pytestmark = pytest.mark.filterwarnings("ignore")  # of Orbax and its threads

ROW = "strict readers refuse every difference"
CASES: dict[str, int] = {}
KINDS = ("shape", "dtype", "missing", "extra", "renamed")
VARIABLES = {
    "params": {"Dense_0": {"kernel": np.ones((2, 3), np.float32)}},
    "batch_stats": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)},
}
Restore = Callable[[Any, Any], Any]


class Reader(NamedTuple):
    """A reader of states: what it restores into, and how."""

    target: Any
    restore: Restore


def orbax_is_used(is_used: bool):
    return config.temp_flip_flag("use_orbax_checkpointing", is_used)


def through_files(folder: Path, is_orbax: bool) -> Restore:
    def restore(target: Any, state: Any) -> Any:
        with orbax_is_used(is_orbax):
            checkpoints.save_checkpoint(folder, state, 1, overwrite=True)
        return checkpoints.restore_checkpoint(folder, target, strict=True)

    return restore


def through_a_step(folder: Path) -> Restore:
    def restore(target: Any, state: Any) -> Any:
        step = folder / f"step_{len(os.listdir(folder)):08d}"
        write_checkpoint(step, int(step.name[5:]), state, {})
        return open_checkpoint(step).restore(target)

    return restore


def from_bytes(target: Any, state: Any) -> Any:
    return s.from_bytes(target, s.msgpack_serialize(state), strict=True)


def readers(folder: Path) -> dict[str, Reader]:
    params = {"w": jnp.ones((2, 2)), "b": {"c": jnp.zeros(3)}}
    adam = optim.Adam(learning_rate=0.1)
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    module = tx.Sequential(tx.Linear(3), tx.BatchNorm()).init(0, jnp.ones((2, 2)))
    return {
        "state dict": Reader(
            VARIABLES, lambda t, state: s.from_state_dict(t, state, strict=True)
        ),
        "msgpack": Reader(VARIABLES, from_bytes),
        "file": Reader(VARIABLES, through_files(folder, False)),
        "Orbax": Reader(VARIABLES, through_files(folder, True)),
        "step": Reader(VARIABLES, through_a_step(folder)),
        "TrainState": Reader(state, from_bytes),
        "treex": Reader(module, from_bytes),
        "treex optimizer": Reader(
            tx.Optimizer(optax.adam(0.1)).init(params), from_bytes
        ),
        "optim": Reader(
            adam.create(params), lambda t, state: t.restore_state(state, strict=True)
        ),
        "replicated": Reader(
            adam.create(params).replicate(),
            lambda t, state: t.restore_state(state, strict=True),
        ),
        "definition": Reader(
            adam.create(params),
            lambda t, state: adam.restore_state(t.target, t.state, state, strict=True),
        ),
        "old checkpoint": Reader(
            adam.create(params),
            lambda t, state: optim.restore_train_state(
                state, adam, apply_fn=None, target=params, strict=True
            ),
        ),
    }


NAMES = tuple(readers(Path()))


def plain(target: Any) -> dict[str, Any]:
    """A state dict of NumPy arrays and numbers, which may be changed."""
    state = s.to_state_dict(target)
    return jax.tree.map(lambda x: x if type(x) is int else np.array(x), state)


def leaves(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name)


def changed(state: Any, path: tuple[str, ...], kind: str) -> tuple[Any, str]:
    """A copy with one difference, and what a strict reader says of it."""
    state = copy.deepcopy(state)
    holder = state
    for name in path[:-1]:
        holder = holder[name]
    name, at = path[-1], "/".join(path)
    value = np.asarray(holder[name])
    if kind == "shape":
        holder[name] = np.ones((*value.shape, 2), value.dtype)
        return state, f"`{at}` is {value.dtype}["
    if kind == "dtype":
        holder[name] = value.astype(np.float16)
        return state, f"`{at}` is float16["
    if kind == "extra":
        # Of a shape that nothing has, so that it is no other name of something.
        holder[f"{name}_2"] = np.ones((4, 1, 4), np.float32)
        return state, f"`{at}_2` is not expected"
    value = holder.pop(name)
    if kind == "missing":
        return state, f"`{at}` is missing"
    holder[f"{name}_2"] = value
    return state, f"`{at}` is called `{at}_2`"


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_with_every_difference_is_refused(name, tmp_path):
    target, restore = readers(tmp_path)[name]
    good = plain(target)
    restored = restore(target, good)
    if name not in ("step", "definition", "old checkpoint"):
        assert jax.tree.structure(restored) == jax.tree.structure(target)
    paths = list(leaves(good))
    if name == "Orbax":  # a save takes its time: the leaf of each collection
        paths = paths[:2]
    count = 0
    for path in paths:
        for kind in KINDS:
            state, told = changed(good, path, kind)
            with pytest.raises((StateDictMismatchError, InputError)) as caught:
                restore(target, state)
            assert told in str(caught.value)
            assert str(caught.value).count("; ") == 0  # and nothing else
            count += 1
    assert count == len(paths) * len(KINDS) >= 10
    CASES[name] = count
    record(ROW, f"{sum(CASES.values())} of {sum(CASES.values())}")


@pytest.mark.parametrize("name", NAMES)
def test_all_differences_are_listed_at_once(name, tmp_path):
    target, restore = readers(tmp_path)[name]
    state, texts = plain(target), []
    paths = list(leaves(state))
    # The first leaf is only renamed where no other one is of its kind.
    kinds = ("dtype", "shape", "missing")
    for path, kind in zip(paths, kinds * len(paths), strict=False):
        state, told = changed(state, path, kind)
        texts.append(told)
    state, told = changed(state, paths[0], "extra")
    with pytest.raises((StateDictMismatchError, InputError)) as caught:
        restore(target, state)
    assert all(text in str(caught.value) for text in [*texts, told])
    if isinstance(caught.value, StateDictMismatchError):
        assert len(caught.value.differences) == len(texts) + 1


def test_a_renamed_subtree_is_one_difference():
    target = {"params": {"Dense_0": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}}
    state = {"params": {"dense": target["params"]["Dense_0"]}}
    with pytest.raises(StateDictMismatchError) as caught:
        s.from_state_dict(target, state, strict=True)
    (difference,) = caught.value.differences
    assert (difference.kind, difference.path) == ("renamed", "params/Dense_0")
    assert difference.found == "params/dense"


def test_two_entries_that_could_be_meant_are_not_guessed():
    target = {"scale": np.ones(3), "bias": np.ones(3)}
    state = {"gamma": np.ones(3), "beta": np.ones(3)}
    with pytest.raises(StateDictMismatchError) as caught:
        s.from_state_dict(target, state, strict=True)
    found = [(each.kind, each.path) for each in caught.value.differences]
    missing = [("missing", "scale"), ("missing", "bias")]
    assert found == [*missing, ("extra", "gamma"), ("extra", "beta")]


def test_numbers_stand_for_arrays_without_axes():
    """A `TrainState` begins with a step that is an integer of Python."""
    kinds = {
        0: np.int32(3),
        0.5: jnp.bfloat16(2),
        True: np.bool_(0),
        1j: np.complex64(1),
    }
    for number, array in kinds.items():
        for target, state in ((number, array), (array, number)):
            restored = s.from_state_dict({"x": target}, {"x": state}, strict=True)
            assert restored["x"] is state
        for other in [value for value in kinds.values() if value is not array]:
            with pytest.raises(StateDictMismatchError):
                s.from_state_dict({"x": number}, {"x": other}, strict=True)
    for other in (np.zeros(1, np.int32), "3", None, {}, {"a": 3}):
        with pytest.raises(StateDictMismatchError, match="`x` is .*, not int"):
            s.from_state_dict({"x": 0}, {"x": other}, strict=True)


def test_descriptions_are_as_good_as_arrays(tmp_path):
    target = jax.eval_shape(lambda: VARIABLES)
    path = checkpoints.save_checkpoint(tmp_path, VARIABLES, 1)
    restored = checkpoints.restore_checkpoint(path, target, strict=True)
    jax.tree.map(np.testing.assert_array_equal, restored, VARIABLES)
    assert s.from_state_dict(target, VARIABLES, strict=True) == VARIABLES


def test_random_keys_in_a_checkpoint_of_orbax_are_no_difference(tmp_path):
    tree = {"key": jax.random.key(1), "w": jnp.ones(2)}
    checkpoints.save_checkpoint(tmp_path, tree, 1)
    found = checkpoints.restore_checkpoint(tmp_path, tree, strict=True)
    assert (jax.random.key_data(found["key"]) == jax.random.key_data(tree["key"])).all()


def test_nothing_is_compared_with_no_target(tmp_path):
    checkpoints.save_checkpoint(tmp_path, VARIABLES, 1)
    for call in (
        lambda: s.from_bytes(None, s.to_bytes(VARIABLES), strict=True),
        lambda: checkpoints.restore_checkpoint(tmp_path, None, strict=True),
    ):
        with pytest.raises(OptionError, match="the target is None"):
            call()


# -- without `strict`: what Flax does ------------------------------------------------


def outcome(call: Callable[[], Any]) -> Any:
    """What comes back: types, dtypes, values; or that it was refused."""
    try:
        tree = call()
    except Exception:
        return "refused"
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        kind = "jax" if isinstance(leaf, jax.Array) else type(leaf).__name__
        key = jax.tree_util.keystr(path)
        found[key] = (kind, array.dtype.name, array.shape, array.tobytes())
    return found


@pytest.mark.thinned(2)
@pytest.mark.parametrize("is_orbax", [False, True], ids=["bytes", "orbax"])
@pytest.mark.parametrize("lib", [np, jnp], ids=["numpy", "jax"])
def test_what_is_not_strict_does_what_flax_does(is_orbax, lib, tmp_path):
    target = jax.tree.map(lambda x: lib.zeros(x.shape, x.dtype), VARIABLES)
    target["step"] = 0
    good = {**copy.deepcopy(VARIABLES), "step": 5}
    paths = [*list(leaves(good))[:2], ("step",)]
    with (
        orbax_is_used(is_orbax),
        flax_config.temp_flip_flag("use_orbax_checkpointing", is_orbax),
    ):
        for number, path in enumerate(paths):
            for kind in KINDS:
                state, _ = changed(good, path, kind)
                folder = tmp_path / f"{number}_{kind}"
                checkpoints.save_checkpoint(folder, state, 1)
                expected, found = (
                    outcome(lambda: lib.restore_checkpoint(folder, target))  # noqa: B023
                    for lib in (flax.training.checkpoints, checkpoints)
                )
                assert found == expected, (path, kind)
    gc.collect()  # what Orbax leaves behind when it refuses


def test_half_precision_stays_half_precision(tmp_path):
    """A target of NumPy arrays gets what is stored; one of JAX its own dtype."""
    checkpoints.save_checkpoint(tmp_path, {"w": np.ones(3, np.float16)}, 1)
    restore = checkpoints.restore_checkpoint
    assert restore(tmp_path, {"w": np.ones(3, np.float32)})["w"].dtype == np.float16
    assert restore(tmp_path, {"w": jnp.ones(3, np.float32)})["w"].dtype == np.float32
    with pytest.raises(StateDictMismatchError, match=r"float16\[3\], not float32\[3\]"):
        restore(tmp_path, {"w": np.ones(3, np.float32)}, strict=True)
