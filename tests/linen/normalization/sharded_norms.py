"""A program for several simulated devices; `test_sharded_norms` runs it and compares.

It normalizes one batch on 1, 2, 4 and 8 devices, in each way to divide it, and writes
outputs, statistics, gradients and what devices send to an `.npz` file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import linsey.linen as nn
from tests.linen.normalization.collectives import collectives

BATCH, FEATURES = (16, 3, 5), 5
WHOLE, SPLIT = PartitionSpec(), PartitionSpec("data")
MASKS = ("none", "mask", "weights")
Results = Iterator[tuple[str, dict]]
GROUPS = [[0, 3], [1, 2]]  # of four devices
OFFSET = 1e5  # mean by deviation


def inputs(kind: str = "none", dtype=np.float32) -> tuple[np.ndarray, ...]:
    """A batch, a cotangent, and weights that leave some shards nearly empty."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(BATCH) * np.arange(1, 17)[:, None, None] + 50
    weights = generator.random((*BATCH[:2], 1)) + 0.1
    mask = weights < 0.8
    mask[2:5] = False
    cotangent = generator.standard_normal(BATCH)
    given = {"none": None, "mask": mask, "weights": np.where(mask, weights, 0)}[kind]
    if kind == "weights":
        given = given.astype(dtype)
    return x.astype(dtype), cotangent.astype(dtype), given


def far_inputs() -> np.ndarray:
    """A batch far from zero, whose shards have means that differ."""
    x = np.random.default_rng(0).standard_normal((16, 6, 5))
    return np.float32(x + np.arange(16)[:, None, None] / 16 + OFFSET)


def variables(dtype=np.float32) -> dict:
    ramp = jnp.arange(1, 1 + FEATURES, dtype=dtype)
    zeros, ones = jnp.zeros(FEATURES, dtype), jnp.ones(FEATURES, dtype)
    return {
        "params": {"scale": ramp, "bias": -ramp},
        "batch_stats": {"mean": zeros, "var": ones},
    }


def apply(layer, params, x, mask):
    stats = variables(x.dtype)["batch_stats"]
    given = {"params": params, "batch_stats": stats}
    return layer.apply(given, x, mask=mask, mutable=["batch_stats"])


def forward_and_gradients(run: Callable, params, x, cotangent, mask):
    """What one way of running gives: output, averages, and then gradients."""
    y, pull, updates = jax.vjp(lambda *a: run(*a, mask), params, x, has_aux=True)
    if mask is not None:
        cotangent = jnp.where(mask != 0, cotangent, 0)
    params, dx = pull(cotangent)
    y = y if mask is None else jnp.where(mask != 0, y, 0)
    return {"y": y, **updates["batch_stats"]}, {**params, "x": dx}


def observe(run: Callable, kind: str, sharding=None, dtype=np.float32) -> dict:
    """Results, and `[number, bytes]` of what all devices send together."""
    given = jax.device_put(inputs(kind, dtype), sharding)
    program = jax.jit(partial(forward_and_gradients, run))
    program = program.lower(variables(dtype)["params"], *given).compile()
    first, second = program(variables(dtype)["params"], *given)
    found = collectives(program.as_text())
    return {
        **first,
        **{f"gradient of {name}": value for name, value in second.items()},
        "sent": [len(found), sum(c.size for c in found)],
    }


def unsharded(kind: str, dtype=np.float32, **options) -> dict:
    layer = nn.BatchNorm(use_running_average=False, **options)
    found = observe(partial(apply, layer), kind, dtype=dtype)
    return {part: np.asarray(v) for part, v in found.items() if part != "sent"}


def grouped() -> dict:
    """The output of each group of four shards by itself, and its gradient."""
    x, cotangent, _ = inputs()
    layer = nn.BatchNorm(use_running_average=False)
    run, params = partial(apply, layer), variables()["params"]
    found = {"y": np.empty_like(x), "gradient of x": np.empty_like(x)}
    for group in GROUPS:
        rows = np.concatenate([np.arange(4 * i, 4 * i + 4) for i in group])
        y, gradients = forward_and_gradients(
            run, params, x[rows], cotangent[rows], None
        )
        found["y"][rows], found["gradient of x"][rows] = y["y"], gradients["x"]
    return found


def mesh_of(count: int, kind: AxisType = AxisType.Auto) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(kind,))


def of_compiler(count: int, layer=None, spec=SPLIT) -> Callable:
    """The compiler divides the batch."""
    sharding = NamedSharding(mesh_of(count), spec)
    layer = layer or nn.BatchNorm(use_running_average=False)

    def run(params, x, mask):
        return apply(layer, params, jax.lax.with_sharding_constraint(x, sharding), mask)

    return run


def mapped(count: int, check_vma: bool = True, **options) -> Callable:
    """Each device runs the layer on its shard."""
    layer = nn.BatchNorm(use_running_average=False, axis_name="data", **options)

    def run(params, x, mask):
        given = [] if mask is None else [mask]
        # Where the groups of a shard differ, so do their averages.
        stats = SPLIT if "axis_index_groups" in options else WHOLE

        def shard(params, x, *mask):
            y, updates = apply(layer, params, x, *(mask or [None]))
            rows = jax.tree.map(lambda v: v[None], updates)
            return y, rows if stats is SPLIT else updates

        return jax.shard_map(
            shard,
            mesh=mesh_of(count),
            in_specs=(WHOLE, SPLIT, *[SPLIT] * len(given)),
            out_specs=(SPLIT, stats),
            check_vma=check_vma,
        )(params, x, *given)

    return run


def by_pmap(count: int) -> Callable:
    layer = nn.BatchNorm(use_running_average=False, axis_name="data")

    def run(params, x, mask):
        def parts(v):
            return None if v is None else v.reshape(count, -1, *v.shape[1:])

        y, updates = jax.pmap(
            partial(apply, layer),
            "data",
            in_axes=(None, 0, 0),
            devices=jax.devices()[:count],
        )(params, parts(x), parts(mask))
        return y.reshape(x.shape), jax.tree.map(lambda v: v[0], updates)

    return run


def ways(kind: str, counts: tuple[int, ...]) -> Iterator[tuple[str, int, Callable]]:
    """Ways to divide the batch over devices, none of which may change anything."""
    for count in counts:
        yield "jit", count, of_compiler(count)
        yield "shard_map", count, mapped(count)
    if kind == "none":
        yield "ghost", 4, mapped(4, group_size=8)
    if kind == "none" and len(counts) > 2:
        ghost = nn.BatchNorm(use_running_average=False, group_size=8)
        yield "ghost of compiler", 8, of_compiler(8, ghost)
        for count in (1, 2, 8):
            yield "ghost", count, mapped(count, group_size=8)
    if kind == "mask" and len(counts) > 2:
        yield "unchecked", 8, mapped(8, check_vma=False)
        yield "pmap", 2, by_pmap(2)
        yield "positions", 2, of_compiler(2, spec=PartitionSpec(None, "data"))


def far_from_zero(count: int, way: str) -> np.ndarray:
    """The variance of a batch whose mean is far from zero."""
    names = {"axis_name": "data"} if way == "shard_map" else {}
    layer = nn.BatchNorm(use_running_average=False, momentum=0.0, **names)
    x = jax.device_put(far_inputs(), NamedSharding(mesh_of(count), SPLIT))

    def run(x):
        return apply(layer, variables()["params"], x, None)[1]["batch_stats"]["var"]

    if way == "shard_map":
        run = jax.shard_map(run, mesh=mesh_of(count), in_specs=SPLIT, out_specs=WHOLE)
    return jax.jit(run)(x)


def wild_inputs() -> np.ndarray:
    """A batch with a channel that is not finite, and one that is very large."""
    x = np.random.default_rng(0).standard_normal((16, 6, 5)) + 3
    x[:, :, 1] *= 1e30
    x[5, 2, 0] = np.nan
    return np.float32(x)


def wild(count: int, run: Callable) -> np.ndarray:
    """What a layer makes of such a batch."""
    x = jax.device_put(wild_inputs(), NamedSharding(mesh_of(count), SPLIT))
    return jax.jit(lambda x: run(variables()["params"], x, None)[0])(x)


def layer_norm_sent(count: int) -> list[int]:
    """Number and bytes of the collectives of the gradients of another norm."""
    layer = nn.LayerNorm()
    mapped = jax.shard_map(
        lambda params, x: layer.apply({"params": params}, x),
        mesh=mesh_of(count),
        in_specs=(WHOLE, SPLIT),
        out_specs=SPLIT,
    )

    def gradients(params, x, cotangent):
        return jax.vjp(mapped, params, x)[1](cotangent)

    given = jax.device_put(inputs()[:2], NamedSharding(mesh_of(count), SPLIT))
    program = jax.jit(gradients).lower(variables()["params"], *given).compile()
    found = collectives(program.as_text())
    return [len(found), sum(c.size for c in found)]


def forward_sent(run: Callable, kind: str, count: int) -> list[int]:
    """Number and bytes of the collectives of the forward pass."""
    given = jax.device_put(inputs(kind), NamedSharding(mesh_of(count), SPLIT))

    def forward(x, _, mask):
        return run(variables()["params"], x, mask)

    found = collectives(jax.jit(forward).lower(*given).compile().as_text())
    return [len(found), sum(c.size for c in found)]


def divided(counts: tuple[int, ...], kinds: tuple[str, ...]) -> Results:
    for kind in kinds:
        for way, count, run in ways(kind, counts):
            sharding = NamedSharding(mesh_of(count), SPLIT)
            yield f"{way}/{kind}/{count}", observe(run, kind, sharding)


def others() -> Results:
    explicit = NamedSharding(mesh_of(2, AxisType.Explicit), SPLIT)
    layer = nn.BatchNorm(use_running_average=False)
    with jax.set_mesh(explicit.mesh):
        yield "explicit/mask/2", observe(partial(apply, layer), "mask", explicit)
    sharding = NamedSharding(mesh_of(4), SPLIT)
    for way, checked in (("groups", True), ("unchecked groups", False)):
        run = mapped(4, checked, axis_index_groups=GROUPS)
        yield f"{way}/none/4", observe(run, "none", sharding)
    sharding = NamedSharding(mesh_of(8), SPLIT)
    with jax.enable_x64(True):
        for way, run in (("jit", of_compiler(8)), ("shard_map", mapped(8))):
            yield f"{way}/mask/double", observe(run, "mask", sharding, np.float64)
    for way in ("jit", "shard_map"):
        yield f"{way}/far/8", {"var": far_from_zero(8, way)}
    for way, run in (("jit", of_compiler(8)), ("shard_map", mapped(8))):
        yield f"{way}/wild/8", {"y": wild(8, run)}
    yield "layer norm/none/8", {"sent": layer_norm_sent(8)}
    for way, kind, run in (
        ("jit", "mask", of_compiler(8)),
        ("shard_map", "none", mapped(8)),
    ):
        yield f"{way}/{kind}/forward", {"sent": forward_sent(run, kind, 8)}


def sent_by(count: int) -> Results:
    """What is sent where nothing is computed, because the devices are many."""
    shape = (count, *BATCH[1:])
    sharding = NamedSharding(mesh_of(count), SPLIT)
    x = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
    mask = jax.ShapeDtypeStruct((*shape[:-1], 1), bool, sharding=sharding)
    for kind, given in (("none", None), ("mask", mask)):
        for way, run in (("jit", of_compiler(count)), ("shard_map", mapped(count))):
            program = jax.jit(partial(forward_and_gradients, run))
            program = program.lower(variables()["params"], x, x, given).compile()
            found = collectives(program.as_text())
            yield (
                f"{way}/{kind}/{count}",
                {"sent": [len(found), sum(c.size for c in found)]},
            )


def main(target: str, what: str) -> None:
    if what == "few":
        found = chain(divided((2, 8), MASKS[:2]), others())
    elif what == "all":
        found = divided((1, 2, 4, 8), MASKS)
    else:
        found = sent_by(int(what))
    np.savez(
        target,
        **{
            f"{name}/{part}": np.asarray(value)
            for name, parts in found
            for part, value in parts.items()
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
