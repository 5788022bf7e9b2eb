"""A job that sums over its devices in a loop, and what can happen to it.

python -m tests.distributed.loop COORDINATOR PROCESSES RANK [NAME=VALUE ...]
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from linsey import distributed


def main() -> None:
    coordinator, processes, rank = sys.argv[1], *map(int, sys.argv[2:4])
    given = dict(one.split("=") for one in sys.argv[4:])
    number = {name: float(value) for name, value in given.items() if name != "what"}
    what, victim = given.get("what", ""), int(number.get("victim", -1))
    at, steps = number.get("at", 3), int(number.get("steps", 20))
    if coordinator == "launched":
        job = distributed.initialize()
    else:
        job = distributed.initialize(coordinator, processes, rank)
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    rows = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    ones = np.ones(jax.local_device_count(), np.float32)
    total = jax.jit(lambda x: x.sum())
    timeout = number.get("timeout", 10)
    if what == "raise_before" and job.rank == victim:
        raise ValueError("a bad file")
    with distributed.shared_fate(timeout) as fate:
        for step in range(steps):
            fate.beat("data loading")
            if step == at and (job.rank == victim or what == "raise_all"):
                happen(what, number)
            array = jax.make_array_from_process_local_data(rows, ones)
            if fate.step(step) == "stop":
                break
            fate.beat("training")
            if step == 0 and job.rank == victim:
                time.sleep(number.get("late", 0))
            assert float(total(array)) == jax.device_count()
            print(f"rank {job.rank} step {step} pid {os.getpid()}", flush=True)
            time.sleep(number.get("pause", 0))
    print(f"rank {job.rank} left at {step} stopped={fate.is_stopped}", flush=True)
    sys.exit(75 if fate.is_stopped else 0)


def happen(what: str, number: dict[str, float]) -> None:
    if what in ("raise", "raise_all"):
        raise ValueError("a bad sample")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "sleep":
        time.sleep(number.get("seconds", 600))
    if what == "exit":
        sys.exit(4)
    if what == "term":
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
