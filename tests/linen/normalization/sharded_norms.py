"""A program for eight simulated devices; `test_sharded_norms` runs it and compares.

It normalizes one batch on 1, 2, 4 and 8 devices, in each way to divide it, and writes
outputs, statistics and gradients to an `.npz` file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linsey.linen as nn

BATCH, FEATURES = (16, 3, 5), 5


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch, a mask that leaves some shards nearly empty, and a cotangent."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(BATCH) * np.arange(1, 17)[:, None, None] + 50
    mask = generator.random((*BATCH[:2], 1)) < 0.7
    mask[2:5] = False
    cotangent = generator.standard_normal(BATCH)
    return np.float32(x), mask, np.float32(cotangent)


def variables() -> dict:
    ramp = jnp.arange(1.0, 1 + FEATURES)
    return {
        "params": {"scale": ramp, "bias": -ramp},
        "batch_stats": {"mean": jnp.zeros(FEATURES), "var": jnp.ones(FEATURES)},
    }


def apply(layer, params, x, mask):
    return layer.apply(
        {**variables(), "params": params}, x, mask=mask, mutable=["batch_stats"]
    )


def observe(run: Callable, x, mask, cotangent) -> dict:
    """What one way of running gives: output, averages and gradients."""

    def loss(params, x):
        y, updates = run(params, x, mask)
        kept = y if mask is None else jnp.where(mask, y, 0)
        return jnp.vdot(cotangent, kept), (kept, updates)

    (_, (y, updates)), (params, dx) = jax.jit(
        jax.value_and_grad(loss, (0, 1), has_aux=True)
    )(variables()["params"], x)
    return {"y": y, **updates["batch_stats"], **params, "x": dx}


def unsharded(masked: bool, **options) -> dict:
    x, mask, cotangent = inputs()
    layer = nn.BatchNorm(use_running_average=False, **options)
    return observe(partial(apply, layer), x, mask if masked else None, cotangent)


def ways(count: int, masked: bool) -> dict[str, Callable]:
    """Ways to divide the batch over devices, none of which may change anything."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    batch, whole = PartitionSpec("data"), PartitionSpec()
    layer = nn.BatchNorm(use_running_average=False)
    synced = nn.BatchNorm(use_running_average=False, axis_name="data")

    def global_view(params, x, mask):
        x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, batch))
        return apply(layer, params, x, mask)

    def mapped(synced, params, x, mask):
        return jax.shard_map(
            lambda params, x, *mask: apply(synced, params, x, *(mask or [None])),
            mesh=mesh,
            in_specs=(whole, batch, *([] if mask is None else [batch])),
            out_specs=(batch, whole),
        )(params, x, *([] if mask is None else [mask]))

    found = {"jit": global_view, "shard_map": partial(mapped, synced)}
    if not masked:
        ghost = nn.BatchNorm(False, axis_name="data", group_size=8)
        found["groups"] = partial(mapped, ghost)
    return found


def main(target: str) -> None:
    x, mask, cotangent = inputs()
    results = {}
    for masked in (False, True):
        for count in (1, 2, 4, 8):
            for name, run in ways(count, masked).items():
                seen = observe(run, x, mask if masked else None, cotangent)
                for part, value in seen.items():
                    results[f"{name}/{masked}/{count}/{part}"] = np.asarray(value)
    np.savez(target, **results)


if __name__ == "__main__":
    main(sys.argv[1])
