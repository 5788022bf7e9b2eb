"""Batches come in the order of the plan, ahead of the steps; errors in their place."""

import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from linsey.app.config import DataOptions, LoadingOptions
from linsey.app.dataset import BatchOrder
from linsey.app.devices import Devices
from linsey.app.loading import Here, Threads, prepared, source_for, training_loader
from linsey.app.readers import load
from linsey.app.workers import Workers, default_workers
from linsey.errors import InputError
from tests.app.images import make_photos

PLAN = BatchOrder(24, 6, seed=3, first_step=2, total=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), 30)


def loaded(folder, workers: int, memory: int = 0, loader: str = "threads"):
    loading = LoadingOptions(image_memory=memory, workers=workers, loader=loader)
    options = DataOptions(data=str(folder), image_size=6)
    return load(options, loading=loading), loading


@pytest.fixture(scope="module")
def expected(folder):
    """Indices, inputs and labels of each step, by hand."""
    data, _ = loaded(folder, 0, memory=1)
    whole = data.x_train[:]
    return [(i, data.standardizer(whole[i]), data.y_train[i]) for i in PLAN]


def loader_of(data, loading):
    return training_loader(data, data.standardizer, Devices(), PLAN, loading)


def wait_until_done(loader):
    deadline = time.monotonic() + 20
    while not all(pending.done() for _, pending in loader._coming):
        assert time.monotonic() < deadline
        time.sleep(0.001)


# -- order and bits ------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "memory"), [(0, 0), (1, 0), (2, 0), (2, 1)])
def test_batches_are_those_of_the_plan(folder, expected, workers, memory):
    data, loading = loaded(folder, workers, memory)
    loader = loader_of(data, loading)
    for indices, x, y in expected:
        batch = loader.take()
        loader.top_up()
        np.testing.assert_array_equal(batch.indices, indices)
        assert np.asarray(batch.shards[0]).tobytes() == x.tobytes()
        np.testing.assert_array_equal(batch.shards[1], y)
    assert not loader._ready and not loader._coming  # nothing beyond the last step
    assert loader.waited > 0
    loader.close()


def test_two_batches_are_put_on_the_devices_ahead_and_two_are_decoded(folder):
    loader = loader_of(*loaded(folder, 2))
    loader.take()
    for _ in range(3):
        loader.top_up()
        wait_until_done(loader)
    assert (len(loader._ready), len(loader._coming)) == (2, 2)
    loader.close()


def test_arrays_are_prepared_one_batch_ahead_by_nobody_else(folder):
    loader = loader_of(*loaded(folder, 2, memory=1))
    loader.take()
    loader.top_up()
    loader.top_up()
    assert (len(loader._ready), len(loader._coming)) == (1, 0)
    loader.close()


def test_workers_decode_what_is_not_held(folder):
    def chosen(workers, memory):
        data, _ = loaded(folder, workers, memory)
        source = source_for(data.x_train, data.standardizer)
        source.close()
        return type(source)

    assert chosen(2, 0) is Threads
    assert chosen(0, 0) is chosen(2, 1) is Here
    assert type(source_for(np.zeros((3, 2)), lambda x: x)) is Here


@pytest.mark.parametrize("workers", [0, 2])
def test_inputs_for_evaluation_come_in_order(folder, expected, workers):
    data, _ = loaded(folder, workers)
    found = list(prepared(data.x_train, data.standardizer, PLAN))
    assert [x.tobytes() for x in found] == [x.tobytes() for _, x, _ in expected]


# -- errors and ends -----------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_broken_file_shows_when_its_batch_is_taken(tmp_path, workers):
    data, loading = loaded(make_photos(tmp_path, 30), workers)
    broken = data.x_train._images.paths[PLAN[4][0]]  # of the third batch from here
    with open(broken, "wb") as file:
        file.write(b"\xff\xd8\xff nothing")
    loader = loader_of(data, loading)
    assert [loader.take().indices.tolist() for _ in range(2)] == [
        PLAN[2].tolist(), PLAN[3].tolist()
    ]  # fmt: skip
    loader.top_up()
    if workers:
        wait_until_done(loader)
    loader.top_up()  # says nothing
    for _ in range(2):
        with pytest.raises(InputError, match="not a readable image"):
            loader.take()
    loader.close()


def test_closing_in_the_middle_leaves_nothing_to_do(folder):
    data, loading = loaded(folder, 1)
    loader = loader_of(data, loading)
    loader.take()
    loader.top_up()
    pending = [pending for _, pending in loader._coming]
    assert pending
    loader.close()
    assert all(one.done() for one in pending)
    (thread,) = (
        thread for thread in threading.enumerate() if thread in data_threads(data)
    )
    # A task after it is begun at once: nothing is left before it.
    data.x_train.workers.submit(time.sleep, 0).result(timeout=5)
    assert thread.name.startswith("linsey-decode")


def data_threads(data):
    return data.x_train.workers._pool._threads


def test_leaving_an_evaluation_early_leaves_nothing_behind(folder):
    data, _ = loaded(folder, 2)
    filters = list(warnings.filters)
    batches = prepared(data.x_train, data.standardizer, PLAN)
    next(batches)
    assert warnings.filters != filters  # pillow is not to warn meanwhile
    batches.close()
    assert warnings.filters == filters


def test_errors_of_workers_come_where_their_result_would():
    def invert(x: int) -> float:
        return 1 / x

    results = Workers(2).ahead(invert, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert 1 <= default_workers() <= 16


# -- processes -----------------------------------------------------------------------


def test_processes_without_grain_are_refused_with_the_command_that_helps(
    linsey, folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "grain", None)
    result = linsey("train", "--data", folder, "--model", "mlp", "--width", 1,
                    "--image-memory", 0, "--loader", "processes")  # fmt: skip
    assert result.code == 2
    assert "--loader processes needs `grain`, which is not installed." in result.error
    assert "linsey's extra `images`. Write `pip install" in result.error
    assert not list(Path("runs").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_the_same_batches_and_errors(tmp_path, expected, workers):
    pytest.importorskip("grain")
    data, loading = loaded(make_photos(tmp_path, 30), workers, loader="processes")
    loader = loader_of(data, loading)
    for indices, x, _ in expected:
        batch = loader.take()
        loader.top_up()
        np.testing.assert_array_equal(batch.indices, indices)
        assert np.asarray(batch.shards[0]).tobytes() == x.tobytes()
    loader.close()
    with open(data.x_train._images.paths[PLAN[2][0]], "wb") as file:
        file.write(b"\xff\xd8\xff nothing")
    loader = loader_of(data, loading)
    with pytest.raises(InputError, match="not a readable image"):
        loader.take()
    loader.close()
