"""Jobs of several processes: how the processes meet, and how they end together.

`initialize` makes a process a *rank* of its job. `shared_fate` makes all ranks
continue, stop or end together. Each rank has a *keeper*, a small process that notices
when the rank dies or hangs. The keeper of rank 0 contains the *hub*, which knows the
state of all ranks. Each keeper has one connection to the hub, at the coordinator's
address.

Nothing here imports JAX before it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# Keepers import this package, and should not import modules that only ranks need.
_HOMES = {
    "Fate": "fate",
    "Job": "job",
    "find": "job",
    "initialize": "start",
    "shared_fate": "fate",
}

if TYPE_CHECKING:
    from linsey.distributed.fate import Fate as Fate
    from linsey.distributed.fate import shared_fate as shared_fate
    from linsey.distributed.job import Job as Job
    from linsey.distributed.job import find as find
    from linsey.distributed.start import initialize as initialize
else:
    __all__ = sorted(_HOMES)

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            module = importlib.import_module(f"linsey.distributed.{_HOMES[name]}")
            return getattr(module, name)
        raise AttributeError(f"module 'linsey.distributed' has no attribute {name!r}")
