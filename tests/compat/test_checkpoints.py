"""Checkpoints against Flax: names, what is kept, and reading each other's files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import flax.core
import flax.errors
import flax.training.checkpoints
import flax.training.orbax_utils
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.configurations import config as flax_config

import linsey.config
import linsey.core
import linsey.training.checkpoints
import linsey.training.orbax_utils
import linsey.training.train_state
from linsey.errors import InvalidCheckpointError

LIBRARIES = (flax, linsey)
TREE = {"a": np.arange(3.0), "b": {"c": jnp.ones(2), "d": jnp.zeros((), jnp.int32)}}

pytestmark = pytest.mark.filterwarnings("ignore")  # of Orbax and its threads


@pytest.fixture(params=[False, True], ids=["bytes", "orbax"])
def orbax(request):
    """Both ways to write a checkpoint, in both libraries."""
    with (
        linsey.config.temp_flip_flag("use_orbax_checkpointing", request.param),
        flax_config.temp_flip_flag("use_orbax_checkpointing", request.param),
    ):
        yield request.param


def assert_same(expected, found):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(np.asarray(b), np.asarray(a))
        assert np.asarray(b).dtype == np.asarray(a).dtype


def state_of(lib, value):
    return lib.training.train_state.TrainState.create(
        apply_fn=None,
        params={"Dense_0": {"kernel": jnp.full((2, 3), value)}},
        tx=optax.adam(0.1),
    ).replace(step=int(value))


@pytest.mark.parametrize("writer", LIBRARIES, ids=["flax", "linsey"])
@pytest.mark.parametrize("reader", LIBRARIES, ids=["flax", "linsey"])
def test_each_library_reads_what_the_other_wrote(orbax, writer, reader, tmp_path):
    state = state_of(writer, 5.0)
    path = writer.training.checkpoints.save_checkpoint(tmp_path, state, 5)
    assert Path(path).is_dir() == orbax
    found = reader.training.checkpoints.restore_checkpoint(
        tmp_path, state_of(reader, 1.0)
    )
    assert int(found.step) == 5
    assert_same(jax.tree.leaves(state), jax.tree.leaves(found))


def test_without_a_target_plain_dictionaries_come_back(orbax, tmp_path):
    found = []
    for lib in LIBRARIES:
        checkpoints = lib.training.checkpoints
        checkpoints.save_checkpoint(tmp_path / lib.__name__, TREE, 1)
        found.append(checkpoints.restore_checkpoint(tmp_path / lib.__name__, None))
    assert_same(*found)


def walk(lib, folder):
    """What is in a folder after each of several saves."""
    checkpoints = lib.training.checkpoints
    tree, seen = {"x": np.ones(1)}, []

    def save(step, **options):
        path = checkpoints.save_checkpoint(folder, tree, step, **options)
        seen.append((Path(path).name, sorted(os.listdir(folder))))

    save(1)
    save(2, keep=2)
    save(1, keep=3, overwrite=True)
    for step in (3, 4, 5, 6, 7):
        save(step, keep=2, keep_every_n_steps=3)
    save(2.5, prefix="best_")
    seen.append(checkpoints.available_steps(folder))
    seen.append(checkpoints.available_steps(folder, "best_", float))
    latest = checkpoints.latest_checkpoint(folder)
    return [*seen, Path(latest).name, checkpoints.latest_checkpoint(folder, "none_")]


def test_the_checkpoints_that_are_kept_are_those_of_flax(tmp_path):
    with (
        linsey.config.temp_flip_flag("use_orbax_checkpointing", False),
        flax_config.temp_flip_flag("use_orbax_checkpointing", False),
    ):
        expected, found = (walk(lib, tmp_path / lib.__name__) for lib in LIBRARIES)
    assert found == expected


def test_an_earlier_step_is_refused(orbax, tmp_path):
    checkpoints = linsey.training.checkpoints
    checkpoints.save_checkpoint(tmp_path, TREE, 2)
    for step in (1, 2):
        with pytest.raises(InvalidCheckpointError, match="outdated checkpoint"):
            checkpoints.save_checkpoint(tmp_path, TREE, step)
    checkpoints.save_checkpoint(tmp_path, TREE, 1, overwrite=True)
    assert checkpoints.available_steps(tmp_path) == [1]


def test_a_save_that_is_refused_is_a_value_error(orbax, tmp_path):
    for lib in LIBRARIES:
        save, folder = lib.training.checkpoints.save_checkpoint, tmp_path / lib.__name__
        save(folder, TREE, 2)
        # Flax without Orbax has its own class, which is no `ValueError`.
        refusals = (ValueError, flax.errors.InvalidCheckpointError)
        with pytest.raises(refusals if lib is flax else ValueError):
            save(folder, TREE, 2)
        try:
            save(folder, TREE, 1)
        except refusals:
            assert lib is linsey or not orbax
        else:  # and what was saved is not there
            assert lib is flax and orbax
            assert lib.training.checkpoints.available_steps(folder) == [2]
    if orbax:
        with linsey.config.temp_flip_flag("misuse", "ignore"):
            save(folder, TREE, 1, keep=2)
        assert linsey.training.checkpoints.available_steps(folder) == [1, 2]


def test_plain_files_are_not_deprecated(tmp_path):
    for lib, flags in zip(LIBRARIES, (flax_config, linsey.config), strict=True):
        with (
            flags.temp_flip_flag("use_orbax_checkpointing", False),
            warnings.catch_warnings(record=True) as seen,
        ):
            warnings.simplefilter("always")
            lib.training.checkpoints.save_checkpoint(tmp_path / lib.__name__, TREE, 1)
        categories = {warning.category for warning in seen}
        assert (DeprecationWarning in categories) == (lib is flax)


def test_what_is_not_there_is_not_restored(orbax, tmp_path):
    for lib in LIBRARIES:
        restore = lib.training.checkpoints.restore_checkpoint
        assert restore(tmp_path / "nowhere", TREE) is TREE
        assert restore(tmp_path, TREE) is TREE
        with pytest.raises(ValueError, match="Matching checkpoint not found"):
            restore(tmp_path, TREE, step=3)


def test_a_checkpoint_can_be_named_by_its_path(orbax, tmp_path):
    checkpoints = linsey.training.checkpoints
    path = checkpoints.save_checkpoint(tmp_path, TREE, 1)
    checkpoints.save_checkpoint(tmp_path, {**TREE, "a": np.zeros(3)}, 2, keep=2)
    assert_same(TREE, checkpoints.restore_checkpoint(path, TREE))
    assert_same(TREE, checkpoints.restore_checkpoint(tmp_path, TREE, step=1))


def test_a_thread_can_save(orbax, tmp_path):
    checkpoints = linsey.training.checkpoints
    manager = checkpoints.AsyncManager()
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, TREE, step, async_manager=manager)
    manager.wait_previous_save()
    assert checkpoints.available_steps(tmp_path) == [3]
    assert_same(TREE, checkpoints.restore_checkpoint(tmp_path, TREE))


def test_all_processes_can_save(orbax, tmp_path):
    checkpoints = linsey.training.checkpoints
    checkpoints.save_checkpoint_multiprocess(tmp_path, TREE, 1)
    assert_same(TREE, checkpoints.restore_checkpoint(tmp_path, TREE))


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.natural_sort(["f_100", "f_3.5e1", "f_-2", "f_2", "x_1e-3"]),
        lambda c: c.natural_sort(["f_-3", "f_2"], signed=False),
        lambda c: c.safe_normpath("gs://a//b/../c"),
        lambda c: c.safe_normpath("./a//b"),
        lambda c: c.convert_pre_linen({"Dense_0": 1, "Conv_3": {"Dense_4": 2}, "x": 3}),
    ],
    ids=range(5),
)
def test_names_are_handled_as_in_flax(call):
    expected, found = (call(lib.training.checkpoints) for lib in LIBRARIES)
    assert found == expected


def test_frozen_parameters_are_renamed_too():
    found = [
        lib.training.checkpoints.convert_pre_linen(
            lib.core.freeze({"Dense_2": {"Dense_7": 1}, "Dense_5": 2})
        )
        for lib in LIBRARIES
    ]
    assert repr(found[0]) == repr(found[1])


def test_arguments_for_orbax_are_those_of_flax():
    tree = {**TREE, "n": 3}
    expected, found = (lib.training.orbax_utils for lib in LIBRARIES)
    for name in ("save_args_from_target", "restore_args_from_target"):
        assert repr(getattr(found, name)(tree)) == repr(getattr(expected, name)(tree))
    assert found.maybe_construct_transformations(tree, None) == {}
    assert not found.is_multi_device_array(TREE["b"]["c"])


def test_arrays_are_restored_to_a_mesh():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    x = jax.device_put(jnp.ones(2), jax.sharding.NamedSharding(mesh, spec))
    found = linsey.training.orbax_utils.restore_args_from_target({"x": x, "n": 1}, mesh)
    assert found["x"].sharding.spec == spec
    assert found["n"].restore_type is int


FOLDERS = [
    ["run_tmp", "run_tmp_gda/", "run_1", "run_1_gda/", "run_5", "run_112"],
    ["run_tmp", "run_tmp_gda/"],
    ["run_1", "run_2.orbax-checkpoint-tmp-7/", "other_3", "run_2/", "run_-3"],
]


@pytest.mark.parametrize("names", FOLDERS)
def test_parts_and_unfinished_saves_are_no_steps(names, tmp_path):
    for name in names:
        path = tmp_path / name
        path.mkdir() if name.endswith("/") else path.write_text("x")
    seen = []
    for lib in LIBRARIES:
        checkpoints = lib.training.checkpoints
        steps = [checkpoints.available_steps(tmp_path, "run_", t) for t in (int, float)]
        seen.append([*steps, checkpoints.latest_checkpoint(tmp_path, "run_")])
    assert seen[0] == seen[1]


def test_signs_in_a_prefix_are_not_signs_of_steps_here(tmp_path):
    checkpoints = linsey.training.checkpoints
    for prefix in ("a-", "b."):
        for step in (10, 9, 2):
            (tmp_path / f"{prefix}{step}").write_text("x")
        assert checkpoints.available_steps(tmp_path, prefix) == [2, 9, 10]
        newest = checkpoints.latest_checkpoint(tmp_path, prefix)
        assert newest == str(tmp_path / f"{prefix}10")


def test_steps_that_are_no_integers_are_not_rounded(tmp_path):
    (tmp_path / "checkpoint_0.5").write_text("x")
    for lib in LIBRARIES:
        with pytest.raises(ValueError, match="invalid literal for int"):
            lib.training.checkpoints.available_steps(tmp_path)
    found = linsey.training.checkpoints.available_steps(tmp_path, step_type=float)
    assert found == [0.5]


def test_without_a_target_sequences_come_back_as_state_dicts(orbax, tmp_path):
    tree = {"a": (np.zeros(2), [np.ones(1)]), "b": {}}
    found = []
    for lib in LIBRARIES:
        checkpoints = lib.training.checkpoints
        checkpoints.save_checkpoint(tmp_path / lib.__name__, tree, 1)
        found.append(checkpoints.restore_checkpoint(tmp_path / lib.__name__, None))
    assert_same(*found)
    assert sorted(found[1]["a"]["1"]) == ["0"]


def test_the_first_step_is_kept_among_those_some_steps_apart_here(tmp_path):
    with linsey.config.temp_flip_flag("use_orbax_checkpointing", False):
        for step in range(6):
            linsey.training.checkpoints.save_checkpoint(
                tmp_path, {"x": np.ones(1)}, step, keep_every_n_steps=2
            )
    assert linsey.training.checkpoints.available_steps(tmp_path) == [0, 2, 4, 5]
