"""Checkpoints that vouch for their arrays.

A *step* is a folder that is complete on disk, or not there (`durable`). Its *manifest*
holds the size and SHA-256 of every file, and the shape and dtype of every array; it is
compared with the bytes before any of them is parsed. A *store* is a folder of steps.

    store = CheckpointStore(Path("checkpoints"))
    store.save(step, tree, metadata)
    tree = store.newest().restore(template)

What cannot be used raises `linsey.errors.InputError`, which names the file, what was
expected and what was found. `linsey train` writes such checkpoints; those that Flax
reads and writes are in `linsey.training.checkpoints`.
"""

from linsey.checkpoint import durable, manifest
from linsey.checkpoint.step import (
    ArraySpec,
    VerifiedCheckpoint,
    flatten,
    open_checkpoint,
    write_checkpoint,
)
from linsey.checkpoint.store import CheckpointStore

__all__ = [
    "ArraySpec",
    "CheckpointStore",
    "VerifiedCheckpoint",
    "durable",
    "flatten",
    "manifest",
    "open_checkpoint",
    "write_checkpoint",
]
