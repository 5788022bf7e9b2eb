"""How a process becomes a rank: it meets the others, and then JAX is initialised.

The ranks meet at the coordinator's address before JAX is imported. So a missing rank
or a wrong number is known in seconds, and each knows from then on when another one
dies: JAX's own limits can be long. Rank 0 finds a free port for JAX's service and tells
the others.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import socket
import sys
from collections.abc import Iterator

from linsey.distributed.job import Job, find
from linsey.distributed.link import Link
from linsey.distributed.meeting import is_loopback
from linsey.errors import UsageError

_NEAR_SECONDS, _FAR_SECONDS = 10.0, 300.0
_JAX_SECONDS = 300
_LONG_SECONDS = 86400
_KEY = "linsey/coordinator"

_link: Link | None = None


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    rank: int | None = None,
    *,
    timeout: float | None = None,
) -> Job:
    """Make this process a rank of its job, if it is one of several.

    From here on the death of any rank ends all others within five seconds.
    `jax.distributed` is initialised; on CPUs collectives use Gloo. JAX's own service
    for preemption is off: it would take SIGTERM for itself, which `shared_fate` minds.

    Call this before anything that JAX computes. It is called once; a process that is
    alone goes on as if it had not been.

    Args:
        coordinator: host and port at which rank 0 waits for the others, such as
            "10.0.0.1:1234"; a loopback address if all are on one machine.
        processes: how many processes the job has.
        rank: which one this is, from 0 on. What is `None` is taken from the launcher:
            `linsey launch`, or one that JAX knows (Slurm, Open MPI, TPU pods,
            Kubernetes).
        timeout: seconds to wait for ranks that are not there yet. Defaults to 10 on one
            machine and to 300 across machines.

    Returns:
        Which process of which job this is.

    Raises:
        InputError: the launcher or the arguments name no job, the coordinator's port is
            taken, a rank does not come, or the ranks do not agree on their number.
        UsageError: it was called before.
        RuntimeError: JAX has computed already, with the devices of one process.

    Example:
        >>> initialize(processes=1)
        Job(processes=1, rank=0, coordinator=None, local_devices=None, found_by='',
        token='')
    """
    global _link
    job = find(coordinator, processes, rank)
    if job.is_alone:
        return job
    if _link is not None:
        raise UsageError(
            "`linsey.distributed.initialize` was called before.",
            "A process has one place in one job.", "Call it once, at the start.",
        )  # fmt: skip
    if timeout is None:
        timeout = _NEAR_SECONDS if job.is_on_one_machine else _FAR_SECONDS
    link = Link(job, timeout)
    _link = link
    _initialize_jax(job, link.jax_port)
    return job


def _initialize_jax(job: Job, port: int) -> None:
    import jax

    host, _ = job.address
    near = job.is_on_one_machine
    name = f"[{host}]" if ":" in host else host
    jax.config.update("jax_enable_preemption_service", False)
    devices = None if job.local_devices is None else list(job.local_devices)
    jax.distributed.initialize(
        f"{name}:{port}", job.processes, job.rank, devices,
        cluster_detection_method="deactivate",
        initialization_timeout=_JAX_SECONDS,
        # Keepers see deaths and hangs: JAX would judge later, and say less.
        heartbeat_timeout_seconds=_LONG_SECONDS,
        shutdown_timeout_seconds=_LONG_SECONDS,
        coordinator_bind_address=f"{name}:{port}" if near else None,
    )  # fmt: skip
    with _gloo_at(host) if near else contextlib.nullcontext():
        _connect_gloo()


@contextlib.contextmanager
def _gloo_at(host: str) -> Iterator[None]:
    """Have Gloo use an address for the CPU client that is made in this block.

    It would look up the name of the machine, which need not be known to anybody, or be
    an address that others can reach. JAX has no option for it.
    """
    from jaxlib import _jax

    make = _jax.make_gloo_tcp_collectives
    _jax.make_gloo_tcp_collectives = functools.partial(make, hostname=host)
    try:
        yield
    finally:
        _jax.make_gloo_tcp_collectives = make


def _connect_gloo() -> None:
    """Have the processes connect for collectives while all are there.

    At the first collective of some devices Gloo waits 30 s for the other processes,
    afterwards as long as it takes. So a rank that compiles its first step for a minute
    would end the job.
    """
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    if jax.default_backend() != "cpu":
        return
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    ones = np.ones(jax.local_device_count(), np.float32)
    rows = NamedSharding(mesh, PartitionSpec("devices"))
    array = jax.make_array_from_process_local_data(rows, ones)
    jax.jit(lambda x: x.sum())(array).block_until_ready()


def link() -> Link | None:
    """Return the connection of this process to its job, `None` if it is alone.

    A program that initialised `jax.distributed` itself gets its keepers here.
    """
    global _link
    jax = sys.modules.get("jax")
    if _link is None and jax is not None and jax.distributed.is_initialized():
        if jax.process_count() > 1:
            _link = Link(_job_of_jax(), _FAR_SECONDS)
            _connect_gloo()
    return _link


def _job_of_jax() -> Job:
    """Return the job that JAX knows; by JAX's service rank 0 tells where it waits."""
    import jax

    # What Orbax uses as well; JAX has no public name for it.
    from jax._src.distributed import global_state

    client, coordinator = global_state.client, global_state.coordinator_address
    assert client is not None and coordinator is not None
    host = coordinator.rpartition(":")[0].strip("[]")
    if jax.process_index() == 0:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.bind((host if is_loopback(host) else "", 0))
            port = trial.getsockname()[1]
        client.key_value_set(_KEY, f"{port} {secrets.token_hex(16)}")
    told = client.blocking_key_value_get(_KEY, int(1000 * _FAR_SECONDS))
    port, token = told.split()
    name = f"[{host}]" if ":" in host else host
    return Job(
        jax.process_count(), jax.process_index(), f"{name}:{port}",
        found_by="jax.distributed", token=token,
    )  # fmt: skip
