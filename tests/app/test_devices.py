import functools
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from linsey.app import steps
from linsey.app.config import TrainConfig
from linsey.app.devices import Devices
from linsey.app.own_network import make_network
from linsey.app.readers import load
from linsey.app.trainer import Trainer
from linsey.checkpoint import CheckpointStore
from tests.app.runs import SMALL, arrays, evaluations, final

DROPPING = (*SMALL, "--dropout", 0.5)
# Its second layer is divided: 128 x 128 entries.
DIVIDED = ("--model", "mlp", "--width", 32, "--depth", 2, "--epochs", 2,
           "--batch-size", 16, "--ema", 0.5)  # fmt: skip


def train_on(devices: int, blobs, out, *options: object) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "linsey", "train", "--data", blobs, *options,
               "--out", out]  # fmt: skip
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
    )


def assert_near(found, expected) -> None:
    assert expected.keys() == found.keys()
    # Eight steps, each adding a few roundings of float32 values near 1.
    for name in expected:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=name
        )


def test_eight_devices_train_as_one_does(blobs, tmp_path):
    """Batch, noise and statistics are global: only the order of sums differs."""
    processes = [
        train_on(count, blobs, tmp_path / str(count), *DROPPING) for count in (1, 8)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    one, eight = tmp_path / "1", tmp_path / "8"
    assert final(one).metadata["environment"]["devices"] == 1
    assert final(eight).metadata["environment"]["devices"] == 8
    assert_near(arrays(eight), arrays(one))
    np.testing.assert_allclose(evaluations(eight), evaluations(one), rtol=2e-5)


@pytest.mark.slow
def test_a_divided_run_is_that_of_one_device_and_goes_on_as_that(
    linsey, blobs, tmp_path
):
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    process = train_on(8, blobs, divided, *DIVIDED, "--shard-params")
    assert linsey("train", "--data", blobs, *DIVIDED, "--out", whole).code == 0
    assert process.wait() == 0
    assert_near(arrays(divided), arrays(whole))
    for run, option in (whole, "--shard-params"), (divided, "--no-shard-params"):
        further = "--resume", "--epochs", 3, option, "--out", run
        assert linsey("train", *further).code == 0
    assert_near(arrays(divided), arrays(whole))


def test_steps_of_a_divided_state_keep_it_divided(linsey, blobs, monkeypatch):
    states, divided_step = [], steps.divided_step

    def kept(shardings):
        def step(*arguments):
            state, metrics = compiled(*arguments)
            specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
            states.append((specs, arguments[0]))
            return state, metrics

        compiled = divided_step(shardings)
        return step

    monkeypatch.setattr(steps, "divided_step", kept)
    options = *DIVIDED, "--shard-params", "--out", "run"
    assert linsey("train", "--data", blobs, *options).code == 0
    assert len(states) == 8
    for specs, before in states:
        kernels = specs.params["Dense_1"]["kernel"], specs.average.total["params"]
        assert kernels[0] == kernels[1]["Dense_1"]["kernel"] == P(None, "batch")
        assert {*jax.tree.leaves(specs.batch_stats, is_leaf=is_spec)} == {P()}
        assert before.params["Dense_1"]["kernel"].is_deleted()  # its memory is reused


@pytest.mark.slow
def test_a_divided_run_of_two_processes_is_continued_by_one(linsey, blobs, tmp_path):
    if importlib.util.find_spec("linsey.app.commands.launch") is None:
        pytest.skip("`linsey launch` is no command yet")
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    train = "train", "--data", blobs, *DIVIDED, "--shard-params", "--out", divided
    command = [sys.executable, "-m", "linsey", "launch", "-n", 2, "--", *train]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    try:
        assert linsey("train", "--data", blobs, *DIVIDED, "--out", whole).code == 0
        assert process.wait(200) == 0
    finally:
        process.terminate()  # it ends those that it started
        process.wait()
    assert_near(arrays(divided), arrays(whole))
    for run in whole, divided:
        further = "--resume", "--epochs", 3, "--no-shard-params", "--out", run
        assert linsey("train", *further).code == 0
    assert_near(arrays(divided), arrays(whole))


def is_spec(value) -> bool:
    return isinstance(value, P)


def test_batch_is_split_and_the_rest_is_copied():
    devices = Devices()
    x, y = np.arange(32.0).reshape(16, 2), np.arange(16)
    put_x, put_y = devices.put_batch(x, y)
    np.testing.assert_array_equal(put_x, x)
    assert put_x.sharding == devices.batch
    assert devices.own_rows(16) == slice(0, 16)
    assert put_y.addressable_shards[0].data.shape == (16 // devices.count,)
    assert devices.replicate(x).sharding.is_fully_replicated


def test_one_program_makes_the_state_that_many_make():
    config = TrainConfig(model="cnn", width=8, depth=1, optimizer="adam", ema=0.5)
    network = make_network(config, (8, 8, 1), 3)
    expected = steps.create_state(config, network, (8, 8, 1), 4)
    devices = Devices()
    create = functools.partial(steps.create_state, config, network, (8, 8, 1), 4)
    abstract = devices.abstract(create)
    made = devices.create(create, abstract)
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(made), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
        assert one.sharding.is_fully_replicated
    assert jax.tree.structure(made) == jax.tree.structure(abstract)


def test_step_is_compiled_while_the_state_is_made(blobs, tmp_path, monkeypatch):
    config = TrainConfig(data=str(blobs), model="mlp", batch_size=16)
    trainer = Trainer(config, load(config, loading=config), CheckpointStore(tmp_path))
    assert trainer.compiling.exception() is None
    compilers = []
    monkeypatch.setattr(
        "jax._src.compiler.backend_compile_and_load",
        lambda *_, **__: compilers.append(1),
    )
    x, y = trainer.dataset.x_train[:16].astype("f4"), trainer.dataset.y_train[:16]
    state, _ = steps.train_step(trainer.state, *trainer.devices.put_batch(x, y))
    assert not compilers and state.step.item() == 1


def test_batch_that_cannot_be_sharded_is_refused(linsey, blobs, monkeypatch):
    three = [SimpleNamespace(process_index=0, id=number) for number in range(3)]
    monkeypatch.setattr("linsey.app.devices.jax.local_devices", lambda: three)
    monkeypatch.setattr("linsey.app.devices.Mesh", lambda *_: None)
    monkeypatch.setattr("linsey.app.devices.NamedSharding", lambda *_: None)
    result = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    assert result.code == 2
    assert result.error == (
        "--batch-size: does not divide over the devices: expected a multiple of 3, "
        "found 16"
    )
