"""Checkpoints that vouch for their arrays.

A *step* is a folder that is complete on disk, or not there (`durable`). It holds
safetensors files and a *manifest*: a SHA-256 of each array, taken in memory before
anything was written, and size and SHA-256 of each file. To open a step is to read
everything once and compare it; so an open one holds right arrays. A *store* is a folder
of steps.

    store = CheckpointStore(Path("checkpoints"))
    store.save(step, tree, metadata)
    tree = store.newest().restore(template)

Where several processes hold parts of the arrays, all of them save, each into a file of
its own, by `CheckpointStore(folder, Processes())`.

What cannot be used raises `linsey.errors.InputError`, which names the file, the array,
what was expected and what was found; what the disk refuses raises
`linsey.errors.DiskError`. `linsey train` writes such checkpoints; those that Flax
reads and writes are in `linsey.training.checkpoints`.
"""

from linsey.checkpoint import durable, manifest
from linsey.checkpoint.group import Processes
from linsey.checkpoint.step import open_checkpoint, write_checkpoint
from linsey.checkpoint.store import CheckpointStore
from linsey.checkpoint.trees import flatten, nest
from linsey.checkpoint.verified import VerifiedCheckpoint
from linsey.specs import ArraySpec

__all__ = [
    "ArraySpec",
    "CheckpointStore",
    "Processes",
    "VerifiedCheckpoint",
    "durable",
    "flatten",
    "manifest",
    "nest",
    "open_checkpoint",
    "write_checkpoint",
]
