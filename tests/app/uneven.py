"""Evaluate and read any number of examples as one of several processes.

    python -m tests.app.uneven COORDINATOR PROCESSES RANK FILE

The results are written into a file as JSON: for each number of examples what an
evaluation found, and which examples the batches of an epoch had, as they lie on the
devices of all processes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from linsey import distributed
from linsey.app import steps
from linsey.app.config import TrainConfig
from linsey.app.dataset import BatchOrder, Dataset
from linsey.app.devices import Devices
from linsey.app.loading import training_loader
from linsey.app.own_network import make_network
from tests.app.runs import make_blobs

BATCH = 6
CLASSES = ("a", "b", "c", "d")


def evaluated(state: steps.TrainState, count: int, devices: Devices) -> dict:
    """Evaluate on so many examples."""
    x, y = make_blobs(3, count)
    rows = np.arange(count, dtype=np.float32)[:, None] + np.zeros((1, 6), np.float32)
    data = Dataset("blobs", rows, y.astype(np.int32), x, y.astype(np.int32), CLASSES)
    found = steps.evaluate(state, data, lambda x: x, devices)
    return {
        "count": found.count, "loss": found.loss, "confusion": found.confusion.tolist(),
        "rows": read(data, devices),
    }  # fmt: skip


def read(data: Dataset, devices: Devices) -> list[int]:
    """Read an epoch of batches; return which examples there were, in order."""
    count = len(data.x_train)
    size = max(1, min(BATCH, count) // devices.count) * devices.count
    if size > count:
        return list(range(count))
    plan = BatchOrder(count, size, 7, 0, count // size)
    loader = training_loader(data, lambda x: x, devices, plan, TrainConfig())
    seen: list[int] = []
    for step in range(count // size):
        batch = loader.take()
        x, y = devices.fetch(batch.shards)
        assert (x[:, 0] == plan[step]).all() and (y == data.y_train[plan[step]]).all()
        seen += x[:, 0].astype(int).tolist()
    loader.close()
    left = sorted(set(range(count)) - set(seen))
    assert len(set(seen)) == len(seen) and len(left) == count % size
    return sorted([*seen, *left])


def main(coordinator: str, processes: str, rank: str, file: str) -> None:
    """Be one of the processes."""
    distributed.initialize(coordinator, int(processes), int(rank))
    import jax

    with distributed.shared_fate(60.0):
        steps._BATCH = BATCH
        devices = Devices(jax.devices())
        config = TrainConfig(model="mlp", width=1, depth=1)
        network = make_network(config, (6,), len(CLASSES), None)
        state = devices.replicate(steps.create_state(config, network, (6,), 1))
        found = {n: evaluated(state, n, devices) for n in range(1, 3 * BATCH + 2)}
        Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
