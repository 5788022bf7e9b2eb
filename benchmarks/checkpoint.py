"""What a checkpoint costs, and what one flipped bit does to it.

A tree of 30 float32 arrays, 1 MB in all, is written and read by each library, as its
users do it: the time until the call says that it is saved, and the time to read it.
Then single bits, chosen at random over all files of the checkpoint, are flipped; each
time the checkpoint is read, and the outcome is *refused* (an exception), *silent*
(other numbers and no word) or *harmless* (the right numbers).
Run with `python -m benchmarks.checkpoint [--rounds N] [--flips N]`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

Tree = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Library:
    """How one library writes a tree to a free path, and reads it again."""

    save: Callable[[Path, Tree], object]
    load: Callable[[Path, Tree], Tree]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What flipped bits did."""

    rival: str
    refused: int
    silent: int
    harmless: int


def make_tree() -> Tree:
    """Thirty arrays, 1 MB."""
    generator = np.random.default_rng(0)
    shapes = [(93, 93)] * 29 + [(64,)]
    return {
        f"layer_{index:02d}": generator.standard_normal(shape, np.float32)
        for index, shape in enumerate(shapes)
    }


def linsey() -> Library:
    """Time the store of `linsey.checkpoint`."""
    from linsey.checkpoint import CheckpointStore

    def load(path: Path, tree: Tree) -> Tree:
        checkpoint = CheckpointStore(path).newest()
        assert checkpoint is not None
        return checkpoint.restore(tree)

    return Library(lambda path, tree: CheckpointStore(path).save(0, tree, {}), load)


def orbax() -> Library:
    """Orbax with the checkpointer for trees."""
    import orbax.checkpoint as ocp

    # The metadata of a checkpoint warns about shardings that were not saved.
    checkpointer = ocp.PyTreeCheckpointer()
    return Library(
        checkpointer.save, lambda path, tree: checkpointer.restore(path, item=tree)
    )


def safetensors() -> Library:
    """Time the safetensors library alone."""
    from safetensors import numpy

    return Library(
        lambda path, tree: numpy.save_file(tree, path),
        lambda path, tree: numpy.load_file(path),
    )


def flax() -> Library:
    """MessagePack in the format of Flax."""
    from flax import serialization

    return Library(
        lambda path, tree: path.write_bytes(serialization.to_bytes(tree)),
        lambda path, tree: serialization.from_bytes(tree, path.read_bytes()),
    )


def torch() -> Library:
    """Time `torch.save`, which Lightning uses too."""
    import torch

    def save(path: Path, tree: Tree) -> None:
        torch.save({key: torch.from_numpy(value) for key, value in tree.items()}, path)

    def load(path: Path, tree: Tree) -> Tree:
        found = torch.load(path, weights_only=True)
        return {key: value.numpy() for key, value in found.items()}

    return Library(save, load)


def equinox() -> Library:
    """Time Equinox, which writes the leaves of a tree one after the other."""
    import equinox

    return Library(
        equinox.tree_serialise_leaves,
        lambda path, tree: equinox.tree_deserialise_leaves(path, tree),
    )


RIVALS: dict[str, Callable[[], Library]] = {
    "linsey": linsey,
    "Orbax": orbax,
    "safetensors": safetensors,
    "Flax msgpack": flax,
    "torch.save": torch,
    "Equinox": equinox,
}


def fresh(folder: Path, counter: list[int]) -> Path:
    """Return a path that is still free, with the suffix that one library asks for."""
    counter[0] += 1
    return folder / f"{counter[0]}.eqx"


def is_same(found: Any, tree: Tree) -> bool:
    """Tell whether every array has the right bits."""
    return found.keys() == tree.keys() and all(
        np.asarray(found[key]).tobytes() == value.tobytes()
        for key, value in tree.items()
    )


def flip(path: Path, generator: random.Random) -> tuple[Path, bytes]:
    """Flip one bit of one file; return the file and what it held."""
    files = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
    sizes = [file.stat().st_size for file in files]
    file = generator.choices(files, sizes)[0]
    content = file.read_bytes()
    position = generator.randrange(len(content))
    changed = bytearray(content)
    changed[position] ^= 1 << generator.randrange(8)
    file.write_bytes(changed)
    return file, content


def damage(rival: str, library: Library, flips: int, folder: Path) -> Outcome:
    """Flip bits one at a time and count what happens."""
    tree, generator = make_tree(), random.Random(0)
    path = fresh(folder, [10**6])
    library.save(path, tree)
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(flips):
        file, content = flip(path, generator)
        try:
            found = library.load(path, tree)
        except Exception:
            counts["refused"] += 1
        else:
            counts["harmless" if is_same(found, tree) else "silent"] += 1
        file.write_bytes(content)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Outcome(rival, counts["refused"], counts["silent"], counts["harmless"])


def run(rounds: int, flips: int) -> tuple[list[harness.Row], list[Outcome]]:
    """Return times and outcomes of all libraries that are installed."""
    tree, counter = make_tree(), [0]
    libraries: dict[str, Library] = {}
    for rival, make in RIVALS.items():
        try:
            libraries[rival] = make()
        except ImportError as error:
            harness.missing(rival, error)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def prepare_save(library: Library) -> Callable[[], object]:
            return functools.partial(library.save, fresh(folder, counter), tree)

        def prepare_load(library: Library) -> Callable[[], object]:
            path = fresh(folder, counter)
            library.save(path, tree)
            return functools.partial(library.load, path, tree)

        rows = []
        for task, prepare in (("save", prepare_save), ("load", prepare_load)):
            cases = [
                harness.Case(rival, functools.partial(prepare, library))
                for rival, library in libraries.items()
            ]
            rows += harness.measure(f"{task} 1 MB", cases, rounds, "linsey")
        outcomes = [
            damage(rival, library, flips, folder)
            for rival, library in libraries.items()
        ]
    return rows, outcomes


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--flips", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, outcomes = run(options.rounds, options.flips)
    harness.print_table("checkpoints", rows)
    for each in outcomes:
        print(
            f"one flipped bit, {each.rival:14} {each.refused:4} refused "
            f"{each.silent:4} silent {each.harmless:4} harmless"
        )
    for each in outcomes:
        for what in ("refused", "silent", "harmless"):
            task = f"one flipped bit, of {options.flips}: {what}"
            count = [getattr(each, what)]
            rows.append(harness.summarise(task, each.rival, count, unit=""))
    path = harness.write_json("checkpoint", options.rounds, rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
