"""The job of a process and its rank, from arguments or from the launcher.

They are determined by, in this order: the three arguments; the environment variables of
`linsey launch`; JAX's own detection of the launchers that it knows (Slurm, Open MPI,
TPU pods and Kubernetes). JAX is imported only for the last of these, and only if the
environment shows signs of such a launcher.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from linsey.distributed.meeting import is_loopback
from linsey.errors import InputError

COORDINATOR = "LINSEY_COORDINATOR"
PROCESSES = "LINSEY_PROCESSES"
RANK = "LINSEY_RANK"
DEVICES = "LINSEY_LOCAL_DEVICES"
TOKEN = "LINSEY_TOKEN"
RESTART = "LINSEY_RESTART"
"""How often `linsey launch` has started the job again."""

# Launchers that provide the number of processes and the rank, but not the address of
# rank 0, or not in a way that JAX knows.
_OTHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    ("JAX_PROCESS_COUNT", "JAX_PROCESS_INDEX"),
    ("WORLD_SIZE", "RANK"),
)
_HINT = (
    "give --coordinator HOST:PORT, --processes N and --rank R, or --processes 1 for a "
    "process that is alone"
)


@dataclass(frozen=True)
class Job:
    """A process in a job of one or several processes.

    Attributes:
        processes: number of processes of the job.
        rank: number of this process, from 0 on.
        coordinator: host and port at which rank 0 waits for the others; `None` if there
            is only one process.
        local_devices: the indices of the accelerators that this process uses. If
            `None`, all accelerators of its machine.
        found_by: the source of this information, for messages.
        token: the secret of the job, if it has one.

    Example:
        >>> Job(processes=4, rank=1, coordinator="127.0.0.1:1234").is_first
        False
    """

    processes: int = 1
    rank: int = 0
    coordinator: str | None = None
    local_devices: tuple[int, ...] | None = None
    found_by: str = ""
    token: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether there are no other processes."""
        return self.processes == 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the output that is written only once."""
        return self.rank == 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = (self.coordinator or "").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all processes must be on this machine."""
        return is_loopback(self.address[0])


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    rank: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Job:
    """Find the job of this process and its rank, without starting anything.

    Arguments that are `None` are taken from the launcher.

    Args:
        coordinator: host and port at which rank 0 waits, such as "10.0.0.1:1234".
        processes: number of processes of the job.
        rank: number of this process.
        environment: the environment variables that launchers set.

    Returns:
        The job. It has a single process if nothing indicates others.

    Raises:
        InputError: the arguments, or the launcher's variables, do not describe a job.

    Example:
        >>> job = find("10.0.0.1:1234", processes=2, rank=1)
        >>> job.processes, job.rank
        (2, 1)
        >>> find(environment={}).is_alone
        True
        >>> find("10.0.0.1:1234", processes=2, rank=2)
        Traceback (most recent call last):
        linsey.errors.files.InputError: --rank: no such rank: expected 0 to 1, found 2
    """
    if processes == 1:
        return Job()
    given = (coordinator, processes, rank)
    found = _launched(environment)
    if found is None and None in given:
        found = _detected(environment) or _counted(environment)
    if found is None:
        if given == (None, None, None):
            return Job()
        found = Job(processes=0, rank=-1, found_by="the arguments")
    if coordinator is not None:
        found = replace(found, coordinator=coordinator)
    if processes is not None:
        found = replace(found, processes=processes)
    if rank is not None:
        found = replace(found, rank=rank)
    return _checked(found)


def _checked(job: Job) -> Job:
    if job.processes == 1:
        return Job()
    missing = [
        option
        for option, is_missing in (
            ("--coordinator", job.coordinator is None),
            ("--processes", job.processes == 0),
            ("--rank", job.rank < 0),
        )
        if is_missing
    ]
    if missing:
        raise InputError(
            f"one of several processes has to know its job, and {job.found_by} did not "
            f"say all of it", key=", ".join(missing), hint=_HINT,
        )  # fmt: skip
    if job.processes < 1:
        problem = "there has to be a process"
        raise InputError(problem, key="--processes", found=job.processes)
    if not 0 <= job.rank < job.processes:
        expected = f"0 to {job.processes - 1}"
        raise InputError(
            "no such rank", key="--rank", expected=expected, found=job.rank
        )
    host, _, port = str(job.coordinator).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError("not an address", key="--coordinator", expected="HOST:PORT",
                         found=job.coordinator)  # fmt: skip
    return job


def _launched(environment: Mapping[str, str]) -> Job | None:
    """Return the job that `linsey launch` started."""
    if COORDINATOR not in environment:
        return None
    devices = environment.get(DEVICES)
    return Job(
        _number(environment, PROCESSES), _number(environment, RANK),
        environment[COORDINATOR],
        None if devices is None else tuple(int(one) for one in devices.split(",")),
        "linsey launch", environment.get(TOKEN, ""),
    )  # fmt: skip


def _counted(environment: Mapping[str, str]) -> Job | None:
    """Return the job of a launcher that does not provide the address of rank 0."""
    for size, rank in _OTHERS:
        if size in environment and rank in environment:
            return Job(
                _number(environment, size), _number(environment, rank),
                environment.get("JAX_COORDINATOR_ADDRESS"), found_by=size,
            )  # fmt: skip
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise InputError("not a number", key=name, found=repr(text))
    return int(text)


def _marks(environment: Mapping[str, str]) -> str:
    """Return the launcher known to JAX of which there are signs; empty if none."""
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return "Open MPI"
    # A batch script is a single process; only `srun` starts several. This variable is
    # the number of tasks of the step, not that of the allocation.
    if {"SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_JOB_ID"} <= environment.keys():
        if environment.get("SLURM_STEP_NUM_TASKS", "2") != "1":
            return "Slurm"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys():
        return "Kubernetes"
    has_tpu = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    if has_tpu and importlib.util.find_spec("libtpu") is not None:
        return "the TPU pod"
    return ""


def _detected(environment: Mapping[str, str]) -> Job | None:
    """Return the job that JAX's own detection finds."""
    launcher = _marks(environment)
    if not launcher or environment is not os.environ:
        return None
    # The same call as in `jax.distributed.initialize`, which does not return it.
    from jax._src.clusters import ClusterEnv

    try:
        coordinator, processes, rank, devices = (
            ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, 300
            )
        )
    except Exception as error:
        problem = f"{launcher} does not say what job this is: {error}"
        raise InputError(problem, hint=_HINT) from error
    if coordinator is None or processes is None or rank is None:
        return None
    if _is_one_machine(environment):
        coordinator = f"127.0.0.1:{coordinator.rpartition(':')[2]}"
    local = None if devices is None else tuple(devices)
    return Job(processes, rank, coordinator, local, launcher)


def _is_one_machine(environment: Mapping[str, str]) -> bool:
    if "OMPI_COMM_WORLD_SIZE" in environment:
        size = environment["OMPI_COMM_WORLD_SIZE"]
        return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == size
    return environment.get("SLURM_STEP_NUM_NODES") == "1"
