"""Options of a process that trains together with others."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from linsey.schema import Between


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options that say which process of which job this is."""

    coordinator: Annotated[str, Between(1, 1000)] | None = None
    """HOST:PORT at which the process of rank 0 waits for the others. It is found under
    `linsey launch`, Slurm, Open MPI, Kubernetes and on TPU pods."""
    processes: Annotated[int, Between(1, 2**20)] | None = None
    """Number of processes that train the model together."""
    rank: Annotated[int, Between(0, 2**20)] | None = None
    """Number of this process among them, from 0."""
    step_timeout: Annotated[float, Between(1.0, 1e6)] = 300.0
    """Seconds without a step after which a job of several processes ends as hung."""
