import os
import subprocess
import sys

import numpy as np

from linsey.app.devices import Devices
from tests.app.runs import SMALL, arrays, evaluations, final


def train_on(devices: int, blobs, out) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "linsey", "train", "--data", blobs, *SMALL,
               "--dropout", 0.5, "--out", out]  # fmt: skip
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
    )


def test_eight_devices_train_as_one_does(blobs, tmp_path):
    """Batch, noise and statistics are global: only the order of sums differs."""
    processes = [train_on(count, blobs, tmp_path / str(count)) for count in (1, 8)]
    assert [process.wait() for process in processes] == [0, 0]
    one, eight = tmp_path / "1", tmp_path / "8"
    assert final(one).metadata["environment"]["devices"] == 1
    assert final(eight).metadata["environment"]["devices"] == 8
    expected, found = arrays(one), arrays(eight)
    assert expected.keys() == found.keys()
    # Eight steps, each adding a few roundings of float32 values near 1.
    for name in expected:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=name
        )
    np.testing.assert_allclose(evaluations(eight), evaluations(one), rtol=2e-5)


def test_batch_is_split_and_the_rest_is_copied():
    devices = Devices()
    x, y = np.arange(32.0).reshape(16, 2), np.arange(16)
    put_x, put_y = devices.put_batch(x, y)
    np.testing.assert_array_equal(put_x, x)
    assert put_x.sharding == devices.batch
    assert put_y.addressable_shards[0].data.shape == (16 // devices.count,)
    assert devices.replicate(x).sharding.is_fully_replicated


def test_batch_that_cannot_be_sharded_is_refused(linsey, blobs, monkeypatch):
    monkeypatch.setattr("linsey.app.devices.jax.local_devices", lambda: [0, 1, 2])
    monkeypatch.setattr("linsey.app.devices.Mesh", lambda *_: None)
    monkeypatch.setattr("linsey.app.devices.NamedSharding", lambda *_: None)
    result = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    assert result.code == 2
    assert result.error == (
        "--batch-size: does not divide over the devices: expected a multiple of 3, "
        "found 16"
    )
