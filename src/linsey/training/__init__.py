"""Train state, checkpoints, states sharded over devices, and other training tools."""

import importlib
import sys
from typing import TYPE_CHECKING

from linsey.checkpoint import durable, manifest, step, store
from linsey.errors import files

if TYPE_CHECKING:
    from linsey.training.sharding import shard_state as shard_state
    from linsey.training.sharding import state_sharding as state_sharding

# Modules that have moved but were documented under these names.
for _name, _module in {
    "checkpoint_store": store,
    "durable": durable,
    "input_error": files,
    "manifest": manifest,
    "verified_checkpoint": step,
}.items():
    sys.modules[f"{__name__}.{_name}"] = _module

if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> object:
        # Checkpoints can be read without importing jax.
        if name in ("shard_state", "state_sharding"):
            return getattr(importlib.import_module(f"{__name__}.sharding"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
