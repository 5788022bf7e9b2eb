"""Trains small models divided over eight devices; writes what came out of it.

Run as a program in a process with eight devices, with the path of the file to write and
one of `WAYS`; or in each of two processes, with the path, a port and the rank.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linsey.linen as nn
import linsey.treex as tx
from linsey import config
from linsey.batch_stats import ema
from linsey.checkpoint import CheckpointStore
from linsey.serialization import from_state_dict, to_state_dict
from linsey.training import checkpoints, shard_state, state_sharding
from linsey.training.train_state import TrainState

OPTIONS = {"min_size": 64}
MOMENTUM = optax.sgd(0.1, momentum=0.9)
STEPS = 3
AVERAGE = ema(0.5)


def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((32, 16), np.float32)
    return x, np.tanh(x @ random.standard_normal((16, 8), np.float32))


def model(library: Any = nn, boxed: bool = False) -> Any:
    """Two dense layers with a batch norm between; the first may have named axes."""
    # No bias before a batch norm: its gradient would be nothing but roundings.
    init = library.initializers.lecun_normal()
    if boxed:
        init = library.with_partitioning(init, (None, "model"))

    class Model(library.Module):
        @library.compact
        def __call__(self, x, train: bool = True):
            x = library.Dense(64, use_bias=False, kernel_init=init)(x)
            x = library.BatchNorm(use_running_average=not train)(x)
            return library.Dense(8)(library.relu(x))

    return Model()


class State(TrainState):
    batch_stats: Any
    average: Any


class FlaxState(flax.training.train_state.TrainState):
    batch_stats: Any
    average: Any


def linen_way(cls: Any, net: Any) -> tuple[Callable[[], Any], Callable[..., Any]]:
    """A function that makes a state, and a step of it."""

    def create() -> Any:
        variables = net.init(jax.random.key(1), jnp.ones((1, 16)))
        state = cls.create(
            apply_fn=None,
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            average=AVERAGE.init(dict(variables)),
            tx=MOMENTUM,
        )
        return state.replace(step=jnp.zeros((), jnp.int32))

    def step(state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            found, changed = net.apply(variables, x, mutable=["batch_stats"])
            return jnp.square(found - y).mean(), (found, changed["batch_stats"])

        grads, (outputs, statistics) = jax.grad(loss, has_aux=True)(state.params)
        state = state.apply_gradients(grads=grads, batch_stats=statistics)
        variables = {"params": state.params, "batch_stats": statistics}
        state = state.replace(average=AVERAGE.update(variables, state.average))
        return state, {"outputs": outputs, "statistics": statistics, "grads": grads}

    return create, step


def treex_way() -> tuple[Callable[[], Any], Callable[..., Any]]:
    """The same with modules and an optimizer of treex."""
    x, _ = batch()
    layers = tx.Linear(64, use_bias=False), tx.BatchNorm(), jax.nn.relu, tx.Linear(8)
    net = tx.Sequential(*layers).init(1, x[:1])
    optimizer = tx.Optimizer(MOMENTUM).init(net.parameters())

    def step(state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        net, optimizer = state

        def loss(params: Any) -> Any:
            used = net.merge(params)
            found = used(x)
            return jnp.square(found - y).mean(), (found, used)

        params = net.parameters()
        grads, (outputs, net) = jax.grad(loss, has_aux=True)(params)
        net = net.merge(optimizer.update(grads, params))
        found = {"outputs": outputs, "grads": grads, "statistics": net.batch_stats()}
        return (net, optimizer), found

    return lambda: (net, optimizer), step


WAYS: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    "rule": (lambda: linen_way(State, model()), (8, 1)),
    "boxes": (lambda: linen_way(State, model(boxed=True)), (4, 2)),
    "flax": (lambda: linen_way(FlaxState, model(flax.linen)), (8, 1)),
    "treex": (treex_way, (8, 1)),
}


def mesh_of(shape: tuple[int, int]) -> Mesh:
    count = shape[0] * shape[1]
    return Mesh(np.array(jax.devices()[:count]).reshape(shape), ("data", "model"))


def flat(tree: Any) -> dict[str, Any]:
    """Leaves by path, boxes taken off."""
    named, _ = jax.tree_util.tree_flatten_with_path(tree)
    keystr = jax.tree_util.keystr
    paths = ((keystr(path, simple=True, separator="/"), leaf) for path, leaf in named)
    return {path.removesuffix("/value"): leaf for path, leaf in paths}


def specs(tree: Any) -> dict[str, str]:
    return {path: str(tuple(leaf.sharding.spec)) for path, leaf in flat(tree).items()}


def same_sharding(state: Any, shardings: Any) -> bool:
    found = jax.tree.map(
        lambda leaf, s: leaf.sharding.is_equivalent_to(s, leaf.ndim), state, shardings
    )
    return all(jax.tree.leaves(found))


def train(name: str, shape: tuple[int, int]) -> tuple[Any, dict[str, Any], Any]:
    """The state after some steps, what came out of the first, facts of sharding."""
    way, _ = WAYS[name]
    create, step = way()
    mesh = mesh_of(shape)
    shardings = state_sharding(jax.eval_shape(create), mesh, **OPTIONS)
    if name == "treex":
        state = shard_state(create(), mesh, **OPTIONS)
    else:  # no device has ever had all of it
        state = jax.jit(create, out_shardings=shardings)()
    x, y = jax.device_put(batch(), NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    first = state
    state, found = compiled(state, x, y)
    given_up = all(leaf.is_deleted() for leaf in jax.tree.leaves(first) if leaf.ndim)
    for _ in range(STEPS - 1):
        state, _ = compiled(state, x, y)
    is_kept = same_sharding(state, shardings)
    return state, found, {"kept": is_kept, "given_up": given_up}


def restored_everywhere(state: Any, folder: Path) -> dict[str, Any]:
    """Save a divided state; restore it whole and on other meshes; save these too."""
    store, facts = CheckpointStore(folder / "store"), {}
    expected = jax.tree.map(np.asarray, state)
    template = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, device=None), expected)
    placed = {
        "8": lambda tree: shard_state(tree, mesh_of((8, 1)), **OPTIONS),
        "2 x 2": lambda tree: shard_state(tree, mesh_of((2, 2)), **OPTIONS),
        "whole": lambda tree: jax.tree.map(jnp.asarray, tree),
    }
    saved = [state, *(place(expected) for place in placed.values())]
    for step, before in enumerate(saved):
        store.save(step, to_state_dict(before), {})
        stored = store.open(step).restore(to_state_dict(template))
        for name, place in placed.items():
            after = place(from_state_dict(template, stored))
            facts[f"store {step} {name}"] = same_bits(after, expected)
    return facts | by_flax_names(state, expected, placed, folder)


def by_flax_names(
    state: Any, expected: Any, placed: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Do the same by `save_checkpoint` and `restore_checkpoint`."""
    facts = {}
    for kind in ("orbax", "msgpack"):
        place = folder / kind
        with config.temp_flip_flag("use_orbax_checkpointing", kind == "orbax"):
            checkpoints.save_checkpoint(place, state, step=1)
            for name in placed:
                target = placed[name](jax.tree.map(np.zeros_like, expected))
                after = checkpoints.restore_checkpoint(place, target, strict=True)
                facts[f"{kind} {name}"] = same_bits(after, expected)
                if kind == "orbax":  # which puts arrays where those of the target are
                    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
                    facts[f"{kind} {name} there"] = same_sharding(after, shardings)
                else:
                    again = placed[name](after)
                    facts[f"{kind} {name} again"] = same_bits(again, expected)
    return facts


def same_bits(tree: Any, expected: Any) -> bool:
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), b), tree, expected)
    return all(jax.tree.leaves(same))


def main(target: str, name: str) -> None:
    """Train one of `WAYS` on one device, and divided."""
    results: dict[str, Any] = {}
    for way, shape in (("one", (1, 1)), ("divided", WAYS[name][1])):
        state, found, facts = train(name, shape)
        if (name, way) == ("boxes", "divided"):
            with tempfile.TemporaryDirectory() as folder:
                facts["restored"] = restored_everywhere(state, Path(folder))
        results |= {f"{way}/value/{k}": v for k, v in flat(found).items()}
        results |= {f"{way}/value/state/{k}": v for k, v in flat(state).items()}
        results |= {f"{way}/fact/{k}": v for k, v in flat(facts).items()}
        results |= {f"{way}/spec/{k}": v for k, v in specs(state).items()}
    np.savez(target, **{name: np.asarray(value) for name, value in results.items()})


def main_of_two(target: str, port: str, rank: str) -> None:
    """Train in two processes, each with its part of the state and of the batch."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
    create, step = WAYS["rule"][0]()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    state = create()  # the same in each process
    shardings = state_sharding(state, mesh, **OPTIONS)
    state = shard_state({"state": state, "noise": jax.random.key(3)}, mesh, **OPTIONS)
    assert jax.random.key_data(state["noise"]).tolist() == [0, 3]
    split = NamedSharding(mesh, PartitionSpec("data"))
    rows = slice(16 * int(rank), 16 * int(rank) + 16)
    x, y = (jax.make_array_from_process_local_data(split, v[rows]) for v in batch())
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    state = state["state"]
    for _ in range(STEPS):
        state, _ = compiled(state, x, y)
    assert same_sharding(state, shardings)
    again = shard_state(state, mesh, **OPTIONS)
    found = jax.jit(
        lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec())
    )(again)
    if rank == "0":
        np.savez(target, **{k: np.asarray(v) for k, v in flat(found).items()})


if __name__ == "__main__":
    (main if len(sys.argv) == 3 else main_of_two)(*sys.argv[1:])
