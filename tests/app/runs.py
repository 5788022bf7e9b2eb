"""A tiny problem, and what the tests of runs compare: arrays, bit for bit."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np

from linsey.app import metrics_log
from linsey.checkpoint import CheckpointStore, VerifiedCheckpoint, flatten

# Eight steps: 64 examples to train on, 16 to test on.
SMALL = ("--model", "mlp", "--width", 2, "--depth", 1, "--epochs", 2,
         "--batch-size", 16, "--log-every", 2, "--lr", 0.2)  # fmt: skip


def make_blobs(seed: int = 0, count: int = 80, classes: int = 4, features: int = 6):
    """Points around one centre per class."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, features)) * 3
    y = np.arange(count) % classes
    return (centres[y] + random.normal(size=(count, features))).astype("f4"), y


def final(run: Path) -> VerifiedCheckpoint:
    """The newest checkpoint of a run."""
    checkpoint = CheckpointStore(run / "checkpoints").newest()
    assert checkpoint is not None
    return checkpoint


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All arrays of the newest checkpoint by path."""
    flat = flatten(final(run).read())
    return {name: np.asarray(array) for name, array in flat.items()}


def assert_same_run(one: Path, other: Path) -> None:
    """Parameters, statistics, optimizer state, counters and history are equal."""
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        assert first[name].tobytes() == second[name].tobytes(), name
    assert final(one).metadata["cursor"] == final(other).metadata["cursor"]
    assert evaluations(one) == evaluations(other)


def evaluations(run: Path) -> list[tuple[int, float, float]]:
    """Step, test loss and test accuracy of each evaluation."""
    return [
        (record["step"], record["loss"], record["accuracy"])
        for record in metrics_log.read(run / "metrics.jsonl")
        if record["kind"] == "eval"
    ]


def written(run: Path) -> int:
    """How many records a run has written so far."""
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_until_written(run: Path, records: int, process: subprocess.Popen) -> None:
    """Wait until a run has written so many records, or its process has ended."""
    while written(run) < records and process.poll() is None:
        time.sleep(0.005)
