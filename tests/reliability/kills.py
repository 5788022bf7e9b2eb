"""A program that saves and prunes for ever, and one that kills it and looks.

    python -m tests.reliability.kills write FOLDER
    python -m tests.reliability.kills FOLDER TRIALS SEED

The second imports the store once and starts a process for each trial, which SIGKILL
ends at a random instant: in one half of the trials while a save goes on. What it had
said to be saved has to be there, right, and nothing unfinished may stay after the next
start.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np

from linsey.checkpoint import CheckpointStore

KEEP = 2


def make_tree(step: int) -> dict:
    values = np.random.default_rng(step).standard_normal((30, 1000))
    return {"params": {f"w{i}": row for i, row in enumerate(values)}}


def write_for_ever(folder: Path, acknowledge: int, keep: int = KEEP) -> None:
    """Save step after step; tell when a save begins (b) and when it is done (d)."""
    store = CheckpointStore(folder)
    store.clean()
    newest = store.newest()
    step = newest.step + 1 if newest else 0
    while True:
        tree = make_tree(step)
        os.write(acknowledge, b"b%08d" % step)
        store.save(step, tree, {"step": step}, replace=True)
        os.write(acknowledge, b"d%08d" % step)
        store.prune(range(step - keep + 1, step + 1))
        step += 1


def trial(folder: Path, choice: random.Random) -> str:
    """Start a writer, kill it, and compare what is left with what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            write_for_ever(folder, writing)
        finally:
            os._exit(1)
    os.close(writing)
    said = b""
    in_save = choice.random() < 0.5
    if in_save:  # at some time within a save, of which there may be some before
        saves = choice.randrange(1, 4)
        while said.count(b"b") < saves:
            said += os.read(reading, 9)
    wait = choice.uniform(0, 0.03 if in_save else 0.1)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while select.select([reading], [], [], 0)[0] and (more := os.read(reading, 9000)):
        said += more
    os.close(reading)
    if os.WTERMSIG(status) != signal.SIGKILL:
        return "the writer ended by itself"
    done = [int(said[i + 1 : i + 9]) for i in range(0, len(said), 9) if said[i] == 100]
    store = CheckpointStore(folder)
    newest = store.newest()
    if newest is None:
        return "nothing is there" if done else ""
    if done and newest.step < done[-1]:
        return f"step {done[-1]} was said to be saved, step {newest.step} is there"
    found, right = newest.restore(make_tree(newest.step)), make_tree(newest.step)
    if any((found["params"][k] != v).any() for k, v in right["params"].items()):
        return f"step {newest.step} holds other numbers"
    store.clean()
    if left := [name for name in os.listdir(folder) if name.startswith(".")]:
        return f"left behind: {left}"
    store.prune({newest.step})
    return "" if store.steps() == [newest.step] else f"steps {store.steps()}"


def main(folder: str, trials: int, seed: int) -> None:
    choice = random.Random(seed)
    failures = [
        why for _ in range(trials) if (why := trial(Path(folder, "store"), choice))
    ]
    steps = CheckpointStore(Path(folder, "store")).steps()
    print(f"{trials - len(failures)} of {trials}, up to step {max(steps, default=-1)}")
    print(*failures, sep="\n")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write_for_ever(Path(sys.argv[2]), acknowledge=1, keep=1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
