"""What the gradient of a stack of conv, batch norm and relu needs beside its arrays.

The temporary memory that XLA plans for the compiled program: eight times convolution
(64 channels), batch normalization and relu, batch 32, 32 x 32, float32. One activation
is 8.4 MB; two are needed for each layer, and one where the other is computed again.
Run with `python -m benchmarks.memory`.
"""

from __future__ import annotations

import dataclasses

from benchmarks import harness
from benchmarks.models import convolutional as models

WIDTHS, SHAPE = (64,) * 8, (32, 32, 32, 64)
GOALS = {
    "linsey": "<= 150",
    "linsey save_memory": "<= 90",
    "flax": None,
    "haiku": None,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What one rival needs."""

    task: str
    rival: str
    megabytes: float
    goal: str | None = None


def run() -> list[Row]:
    """All rivals that run on XLA."""
    x, rows = models.numbers(*SHAPE), []
    for rival, goal in GOALS.items():
        try:
            program, _ = models.network_gradient(rival, WIDTHS, x, pools=False)
        except ImportError as error:
            harness.missing(rival, error)
            continue
        size = program.memory_analysis().temp_size_in_bytes
        rows.append(Row("gradient of 8 blocks", rival, size / 2**20, goal))
    return rows


if __name__ == "__main__":
    found = run()
    for row in found:
        print(f"{row.task}, {row.rival:20} {row.megabytes:6.0f} MiB  {row.goal or ''}")
    print(f"written to {harness.write_json('memory', 1, found)}")
