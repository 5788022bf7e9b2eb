"""What `linsey train` needs of memory: on tiny data, and for each byte of large ones.

The largest resident memory of whole commands, each in a new process, which take turns:
the built-in digits; 50,000 images of 32 x 32 x 3 in an npz file against 640 of them;
and a folder of 5,000 JPEGs of 512 x 512 against one of 50, once with the decoded images
held and once streamed.
Run with `python -m benchmarks.training_memory`; `--scale 0.01` tries it in small.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness

EXAMPLES, FEW = 50_000, 640
IMAGES, FEW_IMAGES, SIDE = 5_000, 50, 512
# In a process of its own each: the peak of one that was started by a large one counts
# the memory of that one too.
COMMAND = """
import resource, sys
from pathlib import Path
from linsey.app import cli
code = cli.main(sys.argv[1:])
status = Path("/proc/self/status")
if status.exists():
    lines = status.read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("PEAK", code, peak * 1024)
"""
MAKE_NPZ = """
import sys
import numpy as np
path, count = sys.argv[1], int(sys.argv[2])
x = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
np.savez(path, x=x, y=np.arange(count) % 10)
"""
MAKE_FOLDER = """
import sys
from pathlib import Path
from benchmarks.models.photos import make_folder
make_folder(Path(sys.argv[1]), int(sys.argv[2]), (int(sys.argv[3]),) * 2, distinct=50)
"""


def run(rounds: int, scale: float) -> list[harness.Row]:
    """Measure all commands, interleaved, and the differences of each round."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = make(folder, scale)
        peaks: dict[str, list[float]] = {task: [] for task in commands}
        for round_ in range(rounds):
            tasks = list(commands)
            turn = round_ % len(tasks)
            for task in tasks[turn:] + tasks[:turn]:
                out = folder / f"run-{round_}-{task.replace(' ', '-')}"
                peaks[task].append(peak([*commands[task], "--out", str(out)]))
    rows = [row(task, found) for task, found in peaks.items()]
    rows[0] = dataclasses.replace(rows[0], goal="<= 550 MB")
    for more, less, goal in (
        ("npz", "npz few", "<= 220 MB"),
        ("folder held", "folder held few", "<= 150 MB"),
        ("folder streamed", "folder streamed few", "<= 150 MB"),
    ):
        difference = [a - b for a, b in zip(peaks[more], peaks[less], strict=True)]
        rows.append(row(f"{more} less {less}", difference, goal))
    return rows


def make(folder: Path, scale: float) -> dict[str, list[str]]:
    """Write the data, and name the commands that are measured."""
    python(MAKE_NPZ, folder / "many.npz", max(FEW, int(EXAMPLES * scale)))
    python(MAKE_NPZ, folder / "few.npz", FEW)
    python(MAKE_FOLDER, folder / "many", max(FEW_IMAGES, int(IMAGES * scale)), SIDE)
    python(MAKE_FOLDER, folder / "few", FEW_IMAGES, SIDE)
    common = ["train", "--epochs", "1", "--plain", "--width", "8"]
    images = [*common, "--batch-size", "32", "--image-size"]

    def data(name: str) -> list[str]:
        return ["--data", str(folder / name)]

    return {
        "digits": [*common[:-2]],
        "npz": [*common, *data("many.npz")],
        "npz few": [*common, *data("few.npz")],
        # 61 MB of pixels, which are held if nothing else is said.
        "folder held": [*images, "64", *data("many")],
        "folder held few": [*images, "64", *data("few")],
        "folder streamed": [*images, "64", "--image-memory", "0", *data("many")],
        "folder streamed few": [*images, "64", "--image-memory", "0", *data("few")],
    }


def python(program: str, *arguments: object) -> str:
    """Run a program in a new process; return what it printed."""
    command: Sequence[str] = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def peak(arguments: list[str]) -> float:
    """Return the largest resident memory of a command, in bytes."""
    last = python(COMMAND, *arguments).splitlines()[-1].split()
    if last[1] != "0":
        raise RuntimeError(f"{arguments} ended with exit code {last[1]}")
    return int(last[2])


def row(task: str, found: list[float], goal: str | None = None) -> harness.Row:
    """Return a row of bytes."""
    return harness.summarise(task, "linsey", found, None, goal, "B")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the larger data")
    given = parser.parse_args()
    measured = run(given.rounds, given.scale)
    harness.print_table("training_memory: largest resident memory", measured)
    print(f"written to {harness.write_json('training_memory', given.rounds, measured)}")
