"""A check whether this process is one of several that a launcher started as one job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from linsey.errors import InputError

# For each launcher: the variables that give the number of processes, and the rank of
# this one. Slurm gives the size of the whole allocation even to a batch script, which
# is one process; if the size of the step is known, it is used instead.
_LAUNCHERS = (
    (("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_PROCID"),
    (("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_RANK"),
    (("PMI_SIZE",), "PMI_RANK"),
    (("JAX_NUM_PROCESSES",), "JAX_PROCESS_ID"),
    (("JAX_PROCESS_COUNT",), "JAX_PROCESS_INDEX"),
    (("WORLD_SIZE",), "RANK"),
    (("LINSEY_PROCESSES",), "LINSEY_RANK"),
)


def refuse_several_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to run as one of several processes: each would train a model of its own.

    Args:
        environment: the environment variables, in which launchers describe the job.

    Raises:
        InputError: there are other processes; the error names the variable that says
            so.

    Example:
        >>> refuse_several_processes({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
        Traceback (most recent call last):
        linsey.errors.files.InputError: SLURM_NTASKS: one of several processes that know
        nothing of each other: expected 1 process, found 2, of which this is number 1
        (start one process, which uses all devices of its machine; or `linsey train`
        with --coordinator, --processes and --rank)
    """
    for sizes, rank_name in _LAUNCHERS:
        known = [name for name in sizes if environment.get(name, "").isdigit()]
        rank = environment.get(rank_name, "")
        rank = rank if rank.isdigit() else "0"
        if known and int(environment[known[0]]) > 1:
            _refuse(known[0], environment[known[0]], rank)
        if int(rank) > 0:
            _refuse(rank_name, "several", rank)
    if (jax := sys.modules.get("jax")) is not None and jax.distributed.is_initialized():
        if jax.process_count() > 1:
            _refuse("jax.distributed", jax.process_count(), jax.process_index())


def _refuse(key: str, count: object, rank: object) -> None:
    raise InputError(
        "one of several processes that know nothing of each other", key=key,
        expected="1 process", found=f"{count}, of which this is number {rank}",
        hint="start one process, which uses all devices of its machine; or "
        "`linsey train` with --coordinator, --processes and --rank",
    )  # fmt: skip
