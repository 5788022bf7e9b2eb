"""Train state, checkpoints, and other tools of training loops."""

import sys

from linsey.checkpoint import durable, manifest, step, store
from linsey.errors import files

# Modules that were documented under these names before they moved.
for _name, _module in {
    "checkpoint_store": store,
    "durable": durable,
    "input_error": files,
    "manifest": manifest,
    "verified_checkpoint": step,
}.items():
    sys.modules[f"{__name__}.{_name}"] = _module
