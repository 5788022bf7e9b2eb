"""A batch normalization whose batch is divided over devices of a job.

python -m tests.distributed.norms COORDINATOR PROCESSES RANK FOLDER DEVICES [...]

For each number of devices the batch is divided over so many devices of each process.
Rank 0 writes what came out, whole, into the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linsey import distributed

COUNTS = (24, 29)  # the second one is divided with a remainder
FEATURES = 3
DTYPES = ("float32", "float64")


def inputs(count: int, dtype: str) -> dict[str, np.ndarray]:
    """Inputs, what the gradients come from, and two kinds of weights."""
    random = np.random.default_rng(count)
    return {
        "x": random.normal(3.0, 2.0, (count, 2, FEATURES)).astype(dtype),
        "cotangent": random.normal(size=(count, 2, FEATURES)).astype(dtype),
        "mask": (random.random((count, 1, 1)) < 0.7).astype(dtype),
        "weights": random.random((count, 1, 1)).astype(dtype),
    }


def main() -> None:
    coordinator, processes, rank, folder, *numbers = sys.argv[1:]
    distributed.initialize(coordinator, int(processes), int(rank))
    import jax

    jax.config.update("jax_enable_x64", True)
    with distributed.shared_fate(60):
        for number in map(int, numbers):
            found = {
                f"{name}/{part}": value
                for name, results in computed(number)
                for part, value in results.items()
            }
            if jax.process_index() == 0:
                np.savez(Path(folder, f"{processes}x{number}.npz"), **found)


def computed(number: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the name of each case and what came out, on so many devices of each."""
    import jax
    from jax.experimental.multihost_utils import process_allgather
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    rows = PartitionSpec("data")
    devices = np.array(jax.devices()).reshape(jax.process_count(), -1)[:, :number]
    mesh = Mesh(devices.ravel(), ("data",))
    share = NamedSharding(mesh, rows)

    def divided(array: np.ndarray) -> jax.Array:
        missing = -len(array) % devices.size
        array = np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
        parts = np.split(array, jax.process_count())
        own = parts[jax.process_index()]
        return jax.make_array_from_process_local_data(share, own, array.shape)

    for dtype in DTYPES:
        for count in COUNTS:
            given = inputs(count, dtype)
            all_rows = np.ones((count, 1, 1), dtype)
            for kind in ("none", "mask", "weights"):
                if kind == "none" and count % devices.size:
                    kind = "padding"  # rows that are no examples
                weights = all_rows if kind in ("none", "padding") else given[kind]
                arrays = [divided(given[n]) for n in ("x", "cotangent")]
                arrays.append(divided(weights))
                for way in ("jit", "shard_map"):
                    step = make_step(way, kind, mesh)
                    results = process_allgather(step(*arrays), tiled=True)
                    name = kind if kind != "padding" else "none"
                    whole = {
                        part: value[:count] if part in ("y", "dx") else value
                        for part, value in results.items()
                    }
                    yield f"{dtype}/{count}/{name}/{way}", whole


def make_step(way: str, kind: str, mesh: Any) -> Any:
    """Return a function from inputs, cotangents and weights to all results."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    import linsey.linen as nn

    axis = "data" if way == "shard_map" else None

    def step(x, cotangent, weights):
        layer = nn.BatchNorm(use_running_average=False, axis_name=axis, dtype=x.dtype,
                             param_dtype=x.dtype)  # fmt: skip
        mask = None if kind == "none" else weights
        features = jnp.arange(1.0, FEATURES + 1).astype(x.dtype)
        params = {"scale": features, "bias": -features}
        stats = {"mean": 0 * features, "var": features}

        def loss(params, x):
            variables = {"params": params, "batch_stats": stats}
            y, updated = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
            counted = jnp.where(weights > 0, y, 0) * cotangent
            return counted.sum(), (y, updated["batch_stats"])

        (_, (y, updated)), (dparams, dx) = jax.value_and_grad(
            loss, argnums=(0, 1), has_aux=True
        )(params, x)
        if axis is not None:
            dparams = jax.lax.psum(dparams, axis)
        y = jnp.where(weights > 0, y, 0)
        flat = {f"stats_{name}": value for name, value in updated.items()}
        flat |= {f"d{name}": value for name, value in dparams.items()}
        return {"y": y, "dx": dx, **flat}

    if axis is None:
        return jax.jit(step)
    rows, whole = PartitionSpec("data"), PartitionSpec()
    names = ["stats_mean", "stats_var", "dscale", "dbias"]
    out = {"y": rows, "dx": rows, **dict.fromkeys(names, whole)}
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(rows,) * 3, out_specs=out, check_vma=False
    )
    return jax.jit(mapped)


if __name__ == "__main__":
    main()
