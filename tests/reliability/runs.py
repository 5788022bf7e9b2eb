"""A small problem with everything in it, and the history that two runs must share."""

from __future__ import annotations

from pathlib import Path

from linsey.app import metrics_log
from linsey.app.metrics_log import Record
from tests.app.runs import assert_same_run

# 64 examples to train on: 15 steps, 4 examples are left over in each epoch. Dropout,
# a schedule with warm-up, batch normalization, records that straddle epochs.
OPTIONS = ("--model", "mlp", "--width", 2, "--depth", 1, "--epochs", 3, "--lr", 0.2,
           "--batch-size", 12, "--log-every", 4, "--checkpoint-every", 6)  # fmt: skip


def history(run: Path) -> list[Record]:
    """All records but their times."""
    records = metrics_log.read(run / "metrics.jsonl")
    return [
        {key: value for key, value in record.items() if key != "examples_per_second"}
        for record in records
    ]


def assert_one_history(one: Path, other: Path) -> None:
    """Arrays, cursor and all records are equal, to the last bit."""
    assert_same_run(one, other)
    assert history(one) == history(other)
