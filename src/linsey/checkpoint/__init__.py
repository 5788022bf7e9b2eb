"""Checkpoints whose arrays are verified.

A *step* is a folder that either is complete on disk or does not exist (`durable`). It
holds safetensors files and a *manifest*: a SHA-256 of each array, computed in memory
before anything was written, and the size and SHA-256 of each file. Opening a step reads
everything once and compares it with the manifest, so the arrays of an open step are
correct. A *store* is a folder of steps.

    store = CheckpointStore(Path("checkpoints"))
    store.save(step, tree, metadata)
    tree = store.newest().restore(template)

If several processes hold parts of the arrays, all of them call `save` of a
`CheckpointStore(folder, Processes())`, and each writes its own file.

Files that cannot be used raise `linsey.errors.InputError`, which names the file, the
array, what was expected and what was found. If a disk operation fails,
`linsey.errors.DiskError` is raised. `linsey train` writes these checkpoints; for those
that Flax reads and writes, see `linsey.training.checkpoints`.
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
