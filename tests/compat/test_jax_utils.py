"""`jax_utils`, `io` and the small modules of `training` against Flax."""

from __future__ import annotations

import threading

import flax.io
import flax.jax_utils
import flax.training.common_utils
import flax.training.early_stopping
import flax.training.lr_schedule
import flax.training.prefetch_iterator
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.io
import linsey.jax_utils
import linsey.training.common_utils
import linsey.training.early_stopping
import linsey.training.lr_schedule
import linsey.training.prefetch_iterator
from linsey.errors import AlreadyExistsError

JAX_UTILS = (flax.jax_utils, linsey.jax_utils)
COMMON = (flax.training.common_utils, linsey.training.common_utils)
SCHEDULES = (flax.training.lr_schedule, linsey.training.lr_schedule)


def assert_same(expected, found):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert jnp.shape(b) == jnp.shape(a)
        assert jnp.result_type(b) == jnp.result_type(a)
        assert getattr(b, "sharding", None) == getattr(a, "sharding", None)
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-6)


# -- jax_utils -------------------------------------------------------------------------


def test_replicated_trees_equal_those_of_flax():
    tree = {"a": jnp.arange(3.0), "b": 2}
    copies = [utils.replicate(tree) for utils in JAX_UTILS]
    assert_same(*copies)
    first = [
        utils.unreplicate(copy) for utils, copy in zip(JAX_UTILS, copies, strict=True)
    ]
    assert_same(*first)
    devices = jax.devices()[:1]
    assert_same(*(utils.replicate(tree, devices) for utils in JAX_UTILS))


def test_prefetched_batches_equal_those_of_flax():
    batches = [{"x": np.full((1, 2), float(i))} for i in range(4)]
    assert_same(*(list(u.prefetch_to_device(iter(batches), 2)) for u in JAX_UTILS))


def test_prefetching_holds_the_size_asked_for():
    taken = []

    def source():
        for i in range(5):
            taken.append(i)
            yield np.zeros((1,))

    batches = linsey.jax_utils.prefetch_to_device(source(), 2)
    next(batches)
    assert taken == [0, 1]
    next(batches)
    assert taken == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"axis": 0},
        {"axis": (1,)},
        {"axis": (1, 0)},
        {"axis": (2, 0), "keepdims": True},
        {"axis": (0, 2), "unroll": (1, 2)},
    ],
)
def test_scans_over_axes_equal_those_of_flax(options):
    x = jnp.arange(24.0).reshape(2, 3, 4)

    def body(carry, x):
        return carry * 0.5 + x.sum(), x * 2 + carry

    assert_same(*(u.scan_in_dim(body, 0.0, x, **options) for u in JAX_UTILS))


def test_partial_evaluation_equals_that_of_flax():
    def fn(x, scale, power=1):
        return {"y": (x * scale) ** power, "n": jnp.arange(x.shape[0]) * power}

    spec = [((3, 2), jnp.float16)]
    expected, found = (u.partial_eval_by_shape(fn, spec, 2, power=3) for u in JAX_UTILS)
    assert (found["y"].shape, found["y"].dtype) == ((3, 2), jnp.float16)
    assert found["y"] == expected["y"]
    np.testing.assert_array_equal(found["n"], expected["n"])
    shapes = [u.partial_eval_by_shape(lambda x: x, [(2, 3)]) for u in JAX_UTILS]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("options", [{}, {"min_device_batch": 8}])
@pytest.mark.parametrize("static_return", [True, False])
def test_batches_are_padded_as_in_flax(options, static_return):
    def call(params, batch, flag=None):
        return {"y": params * batch["x"], "z": batch["z"] + (flag or 0)}

    batch = {"x": np.arange(5.0), "z": np.ones((5, 2))}
    found = [
        u.pad_shard_unpad(call, static_argnames=("flag",), static_return=static_return)(
            2.0, batch, flag=3, **options
        )
        for u in JAX_UTILS
    ]
    assert_same(*found)


def test_batches_of_different_sizes_are_refused():
    for utils in JAX_UTILS:
        with pytest.raises(AssertionError, match="Inconsistent batch-sizes"):
            utils.pad_shard_unpad(lambda x: x, ())([np.ones(4), np.ones(5)])


def test_the_mean_over_an_axis_is_that_of_jax():
    mean = jax.vmap(lambda x: linsey.jax_utils.pmean({"x": x}, "i"), axis_name="i")
    assert mean(jnp.arange(4.0))["x"].tolist() == [1.5] * 4


# -- common_utils ----------------------------------------------------------------------

COMMON_CALLS = {
    "metrics": lambda u: u.get_metrics(
        [{"a": jnp.ones((1, 2))}, {"a": jnp.zeros((1, 2))}]
    ),
    "onehot": lambda u: u.onehot(jnp.array([[0, 5], [2, 1]]), 3),
    "onehot values": lambda u: u.onehot(jnp.array(1), 3, 0.9, 0.1),
    "shard": lambda u: u.shard({"a": np.ones((4, 2))}),
    "shard key": lambda u: u.shard_prng_key(jax.random.PRNGKey(0)),
    "stack": lambda u: u.stack_forest([{"a": 1.0}, {"a": 2.0}]),
}


@pytest.mark.parametrize("name", COMMON_CALLS)
def test_common_utils_equal_those_of_flax(name):
    expected, found = map(COMMON_CALLS[name], COMMON)
    np.testing.assert_array_equal(
        jax.tree.leaves(found)[0], jax.tree.leaves(expected)[0]
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)


# -- schedules and stopping ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create_constant_learning_rate_schedule", (0.1, 10)),
        ("create_constant_learning_rate_schedule", (0.1, 10, 2.0)),
        ("create_stepped_learning_rate_schedule", (0.1, 10, [[0, 1.0]])),
        (
            "create_stepped_learning_rate_schedule",
            (0.1, 10, [[0, 1.0], [2, 0.1], [3, 0.01]], 1.5),
        ),
        ("create_cosine_learning_rate_schedule", (0.1, 10, 5, 1.0)),
        ("create_cosine_learning_rate_schedule", (0.1, 10, 5)),
    ],
)
def test_schedules_equal_those_of_flax(name, arguments):
    expected, found = (getattr(module, name)(*arguments) for module in SCHEDULES)
    for step in (0, 5, 19, 20, 21, 30, 31, 60):
        np.testing.assert_allclose(found(step), expected(step), rtol=1e-6, atol=1e-8)
    step = jnp.array(25)
    np.testing.assert_allclose(jax.jit(found)(step), expected(step), rtol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"min_delta": 0.1, "patience": 2}])
def test_stopping_equals_that_of_flax(fields):
    theirs = flax.training.early_stopping.EarlyStopping(**fields)
    ours = linsey.training.early_stopping.EarlyStopping(**fields)
    for metric in (1.0, 0.95, 0.8, 0.79, 0.78, 0.77, 0.1):
        theirs, ours = theirs.update(metric), ours.update(metric)
        assert repr(ours) == repr(theirs)
    assert repr(ours.reset()) == repr(theirs.reset())


# -- the iterator ----------------------------------------------------------------------


def PrefetchIterator(*args):  # noqa: N802
    with pytest.warns(DeprecationWarning, match="PrefetchIterator is deprecated"):
        return linsey.training.prefetch_iterator.PrefetchIterator(*args)


@pytest.mark.filterwarnings("ignore:PrefetchIterator is deprecated")
def test_the_iterator_gives_the_elements_in_order():
    for module in (flax.training, linsey.training):
        iterator = module.prefetch_iterator.PrefetchIterator(iter(range(20)), 3)
        assert list(iterator) == list(range(20))


def test_an_exception_is_raised_when_its_turn_comes():
    def source():
        yield 1
        raise RuntimeError("broken")

    iterator = PrefetchIterator(source())
    assert next(iterator) == 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            next(iterator)


def test_the_iterator_runs_ahead_as_far_as_asked():
    taken, third = [], threading.Event()

    def source():
        for i in range(9):
            taken.append(i)
            if i == 2:
                third.set()
            yield i

    iterator = PrefetchIterator(source(), 2)
    next(iterator)
    assert third.wait(5)
    iterator.close()
    assert len(taken) <= 4
    assert list(iterator) == taken[1 : len(taken)]


# -- files -----------------------------------------------------------------------------


def run_files(module, folder):
    """The results of one walk through the functions on files."""
    name, other = str(folder / "a"), str(folder / "b")
    with module.GFile(name, "w") as file:
        file.write("hé")
    seen = [module.GFile(name, mode).read() for mode in ("r", "rb")]
    seen += [module.exists(name), module.exists(other), module.isdir(folder)]
    seen += [module.getsize(name), module.listdir(folder)]
    module.copy(name, other)
    module.rename(other, str(folder / "c"))
    module.makedirs(str(folder / "x" / "y"))
    module.makedirs(str(folder / "x" / "y"))
    seen.append(sorted(path[-1] for path in module.glob(str(folder / "*"))))
    module.rmtree(str(folder / "x"))
    module.remove(name)
    return [*seen, sorted(module.listdir(folder))]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_files_are_handled_as_in_flax(tmp_path):
    results = []
    for module in (flax.io, linsey.io):
        folder = tmp_path / module.__name__
        folder.mkdir()
        results.append(run_files(module, folder))
    assert results[0] == results[1]


def test_files_are_not_overwritten_unasked(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    source, target = str(tmp_path / "a"), str(tmp_path / "b")
    for action in (linsey.io.copy, linsey.io.rename):
        with pytest.raises(AlreadyExistsError, match="existing file"):
            action(source, target)
        action(source, target, overwrite=True)
    assert (tmp_path / "b").read_text() == "a"


def test_the_mode_is_checked_and_restored():
    modes = linsey.io.BackendMode
    with pytest.raises(ValueError, match="Unknown IO Backend Mode"):
        linsey.io.set_mode("local")
    with linsey.io.override_mode(modes.DEFAULT):
        assert linsey.io.io_mode is modes.DEFAULT
    if "tensorflow" not in __import__("sys").modules:
        with pytest.raises(ImportError, match="Install `tensorflow`"):
            linsey.io.set_mode(modes.TF)
    assert linsey.io.io_mode is modes.DEFAULT
