"""A program for eight simulated devices; `test_sharded_recalibrate` runs it.

It recalibrates from batches that lie on one device and on eight, divided by `jax.jit`
and by `jax.shard_map`, and writes the statistics to an `.npz` file.
"""

from __future__ import annotations

import sys
from functools import partial

import flax.linen
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linsey.linen
from linsey.batch_stats import recalibrate

CHANNELS = 5
LIBRARIES = {"linsey": linsey.linen, "flax": flax.linen}


def batches() -> list[dict[str, np.ndarray]]:
    """Batches of two sizes whose means differ, and masks that leave shards empty."""
    generator = np.random.default_rng(0)
    made = []
    for size in (16, 8, 16):
        x = generator.normal(10 + size, size, (size, 3, CHANNELS))
        mask = generator.random((size, 3, 1)) < 0.7
        mask[2:5] = False
        made.append({"x": np.float32(x), "mask": mask})
    return made


def by_jit(nn, sharding):
    """Statistics from batches that are laid out by a sharding."""
    model = nn.BatchNorm()
    data = [jax.device_put(batch, sharding) for batch in batches()]
    variables = model.init(jax.random.key(0), data[0]["x"], use_running_average=True)
    return recalibrate(model, variables, data)["batch_stats"]


def by_shard_map(mesh):
    """Statistics from a function whose layer names the axis of the mesh."""
    model = linsey.linen.BatchNorm(axis_name="devices")

    def function(variables, x, mask, train, mutable):
        rows, whole = PartitionSpec("devices"), PartitionSpec()
        options = {"use_running_average": not train, "mutable": mutable}

        @partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(whole, rows, rows),
            out_specs=(rows, whole) if mutable else rows,
            check_vma=False,
        )
        def sharded(variables, x, mask):
            return model.apply(variables, x, mask=mask, **options)

        return sharded(variables, x, mask)

    data = batches()
    variables = model.init(jax.random.key(0), data[0]["x"], use_running_average=True)
    return recalibrate(function, variables, data)["batch_stats"]


def main(target: str) -> None:
    results = {}
    for count in (1, 8):
        mesh = Mesh(np.array(jax.devices()[:count]), ("devices",))
        sharding = NamedSharding(mesh, PartitionSpec("devices"))
        ways = {name: by_jit(nn, sharding) for name, nn in LIBRARIES.items()}
        ways["shard_map"] = by_shard_map(mesh)
        for way, stats in ways.items():
            for name, value in stats.items():
                results[f"{way}/{count}/{name}"] = np.asarray(value)
    np.savez(target, **results)


if __name__ == "__main__":
    main(sys.argv[1])
