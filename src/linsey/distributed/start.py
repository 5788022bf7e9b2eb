"""How a process becomes a rank: it meets the others, and then initialises JAX.

The ranks meet at the coordinator's address before JAX is imported. A missing rank or a
wrong number is therefore noticed within seconds, and from then on each rank learns when
another one dies; JAX's own timeouts can be long. Rank 0 finds a free port for JAX's
service and tells the others.
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

    After this call, the death of any rank ends all others within five seconds.
    `jax.distributed` is initialised; on CPUs, collectives use Gloo. JAX's own
    preemption service is disabled, because it would intercept SIGTERM, which
    `shared_fate` handles.

    Call this only once, before JAX computes anything. In a job of a single process, the
    call has no effect.

    Arguments that are `None` are taken from the launcher: `linsey launch`, or one that
    JAX knows (Slurm, Open MPI, TPU pods, Kubernetes).

    Args:
        coordinator: host and port at which rank 0 waits for the others, such as
            "10.0.0.1:1234"; a loopback address if all are on one machine.
        processes: number of processes of the job.
        rank: number of this process, from 0 on.
        timeout: seconds to wait for missing ranks. Defaults to 10 on one machine and to
            300 across machines.

    Returns:
        The job, and the place of this process in it.

    Raises:
        InputError: the launcher or the arguments do not describe a job, the
            coordinator's port is in use, a rank does not connect, or the ranks disagree
            on the number of processes.
        UsageError: it was called before.
        RuntimeError: JAX has already computed something, with the devices of only this
            process.

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
        # Keepers detect deaths and hangs; JAX would do so later, with less detail.
        heartbeat_timeout_seconds=_LONG_SECONDS,
        shutdown_timeout_seconds=_LONG_SECONDS,
        coordinator_bind_address=f"{name}:{port}" if near else None,
    )  # fmt: skip
    with _gloo_at(host) if near else contextlib.nullcontext():
        _connect_gloo()


@contextlib.contextmanager
def _gloo_at(host: str) -> Iterator[None]:
    """Make Gloo use an address for the CPU client that is created in this block.

    By default, it looks up the host name of the machine, which may not resolve, or not
    to an address that others can reach. JAX has no option for this.
    """
    from jaxlib import _jax

    make = _jax.make_gloo_tcp_collectives
    _jax.make_gloo_tcp_collectives = functools.partial(make, hostname=host)
    try:
        yield
    finally:
        _jax.make_gloo_tcp_collectives = make


def _connect_gloo() -> None:
    """Make the processes connect for collectives while all of them are ready.

    In the first collective of a set of devices, Gloo waits only 30 s for the other
    processes; later it waits as long as necessary. Without this call, a rank that
    compiles its first step for a minute would end the job.
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
    """Return the connection of this process to its job, or `None` if it is alone.

    If the program has initialised `jax.distributed` itself, this starts the keeper.
    """
    global _link
    jax = sys.modules.get("jax")
    if _link is None and jax is not None and jax.distributed.is_initialized():
        if jax.process_count() > 1:
            _link = Link(_job_of_jax(), _FAR_SECONDS)
            _connect_gloo()
    return _link


def _job_of_jax() -> Job:
    """Return the job that JAX knows. Rank 0 shares its address by JAX's service."""
    import jax

    # Orbax uses this as well; JAX has no public name for it.
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
