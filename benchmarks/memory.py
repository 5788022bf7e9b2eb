"""What the gradient of a stack of conv, batch norm and relu needs beside its arrays.

The temporary memory that XLA plans for the compiled program: eight times convolution
(64 channels), batch normalization and relu, batch 32, 32 x 32, float32. One activation
is 8.4 MB; two are needed for each layer, and one where the other is computed again.
Run with `python -m benchmarks.memory`.
"""

from __future__ import annotations

from benchmarks import harness
from benchmarks.models import convolutional as models

WIDTHS, SHAPE = (64,) * 8, (32, 32, 32, 64)
GOALS = {
    "linsey": "<= 150 MB",
    "linsey save_memory": "<= 90 MB",
    "flax": None,
    "haiku": None,
}


def run() -> list[harness.Row]:
    """Measure all rivals that run on XLA."""
    x, rows = models.numbers(*SHAPE), []
    for rival, goal in GOALS.items():
        try:
            program, _ = models.network_gradient(rival, WIDTHS, x, pools=False)
        except ImportError as error:
            harness.missing(rival, error)
            continue
        size = program.memory_analysis().temp_size_in_bytes
        task = "gradient of 8 blocks"
        rows.append(harness.summarise(task, rival, [size], None, goal, "B"))
    return rows


if __name__ == "__main__":
    found = run()
    harness.print_table("memory: beside arguments and results", found)
    print(f"written to {harness.write_json('memory', 1, found)}")
