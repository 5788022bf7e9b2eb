"""What one device has to send and to keep, where there are 1 to 512 of them.

ResNet-50, a transformer and a perceptron in training, forward and a whole step, lowered
and compiled for simulated devices, each number of devices in a process of its own.
Nothing is executed: the figures are those of the program that XLA makes. The batch of a
device stays the same, whatever their number.

Three ways to use many devices: `jit` with a batch that is sharded, `shard_map` with an
`axis_name` for batch norms, and `divided`, where parameters are sharded as well, by
`linsey.training.state_sharding` for all rivals. Run with `python -m benchmarks.scale`,
or in small with `--small --devices 1 4`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import harness, hlo

RIVALS = ("linsey", "flax")
MODELS = ("resnet", "transformer", "mlp")
WAYS = ("jit", "shard_map", "divided")
PASSES = ("forward", "step")
DEVICES = (1, 8, 64, 512)
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"


@dataclasses.dataclass(frozen=True)
class Row:
    """One program, for one device of many.

    Attributes:
        task: model and pass.
        rival: whose model.
        way: how the devices are used.
        devices: how many there are.
        collectives: on the usual path.
        sent: bytes of these.
        at_most: collectives, if of each conditional the other branch is taken.
        temporary: bytes beside arguments and results.
        arguments: bytes of parameters, statistics and the batch.
    """

    task: str
    rival: str
    way: str
    devices: int
    collectives: int
    sent: int
    at_most: int
    temporary: int
    arguments: int


def run(counts: list[int], models: list[str], small: bool) -> list[Row]:
    """All numbers of devices, one process after the other."""
    rows = []
    for count in counts:
        print(f"{count} devices", file=sys.stderr, flush=True)
        rows += in_new_process(count, models, small)
    order = {name: i for i, name in enumerate((*MODELS, *PASSES, *WAYS, *RIVALS))}
    names = lambda row: (*row.task.split(", "), row.way, row.rival)  # noqa: E731
    return sorted(rows, key=lambda row: [*map(order.get, names(row)), row.devices])


def in_new_process(count: int, models: list[str], small: bool) -> list[Row]:
    """The rows of one number of devices, which jax takes from its environment."""
    flags = f"--xla_force_host_platform_device_count={count} {FLAGS}"
    command = [sys.executable, "-m", "benchmarks.scale", "--process"]
    command += ["--small"] * small + ["--devices", str(count), "--models", *models]
    # Without kernels for one CPU: the program is then that of any device.
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "LINSEY_KERNELS": "0"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | environment,
    )  # fmt: skip
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def process(count: int, models: list[str], small: bool) -> list[Row]:
    """The rows of this process."""
    rows = []
    for model in models:
        for way in WAYS:
            for rival in RIVALS:
                try:
                    programs = compiled(model, rival, way, count, small)
                except ImportError as error:
                    harness.missing(rival, error)
                    continue
                for name, program in programs.items():
                    task = f"{model}, {name}"
                    rows.append(
                        measured(Row(task, rival, way, count, *[0] * 5), program)
                    )
    return rows


def measured(row: Row, program: Any) -> Row:
    """A row with the figures of a compiled program."""
    text, memory = program.as_text(), program.memory_analysis()
    usual = hlo.traffic(text)
    return dataclasses.replace(
        row,
        collectives=usual.count,
        sent=usual.bytes,
        at_most=hlo.traffic(text, max).count,
        temporary=memory.temp_size_in_bytes,
        arguments=memory.argument_size_in_bytes,
    )


def compiled(
    name: str, rival: str, way: str, count: int, small: bool
) -> dict[str, Any]:
    """The programs of a model, by pass."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from benchmarks.models import large
    from linsey.training import state_sharding

    sizes = large.SMALL if small else large.Sizes(batch=8, sequences=8, length=128)
    axis_name = "data" if way == "shard_map" else None
    options = {"axis_name": axis_name} if name == "resnet" else {}
    model = large.MODELS[name](rival, sizes, None, **options)
    x, labels = large.inputs(name, sizes)
    unnamed = large.MODELS[name](rival, sizes, None)
    state = jax.eval_shape(unnamed.init, jax.random.key(0), x)
    state = {"params": state["params"], "batch_stats": state.get("batch_stats", {})}

    mesh = Mesh(jax.devices(), ("data",))
    whole, split = PartitionSpec(), PartitionSpec("data")
    if way == "divided":
        where = state_sharding(state, mesh)
    else:
        where = jax.tree.map(lambda _: NamedSharding(mesh, whole), state)
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        state,
        where,
    )
    x, labels = (
        jax.ShapeDtypeStruct(
            (count * len(v), *v.shape[1:]), jax.dtypes.canonicalize_dtype(v.dtype),
            sharding=NamedSharding(mesh, split),
        )
        for v in (x, labels)
    )  # fmt: skip
    functions: dict[str, Callable[..., Any]] = {
        "forward": forward(model, axis_name), "step": step(model, axis_name)
    }  # fmt: skip
    programs = {}
    for pass_name, function in functions.items():
        out = (where, None)
        if way == "shard_map":
            function = jax.shard_map(
                function, mesh=mesh, in_specs=(whole, split, split),
                out_specs=(whole, whole),
            )  # fmt: skip
        jitted = jax.jit(function, donate_argnums=0, out_shardings=out)
        programs[pass_name] = jitted.lower(shapes, x, labels).compile()
    return programs


def forward(model: Any, axis_name: str | None) -> Callable[..., Any]:
    """`f(state, x, labels) -> (state, loss)` with new statistics."""
    import jax
    import jax.numpy as jnp

    def apply(state, x, labels):
        y, updated = model.apply(state, x, mutable=["batch_stats"])
        scores = jax.nn.log_softmax(y)
        loss = -jnp.take_along_axis(scores, labels[..., None], -1).mean()
        loss = jax.lax.pmean(loss, axis_name) if axis_name else loss
        return {"params": state["params"], "batch_stats": {}, **updated}, loss

    return apply


def step(model: Any, axis_name: str | None) -> Callable[..., Any]:
    """`f(state, x, labels) -> (state, loss)` after a step of gradient descent."""
    import jax

    apply = forward(model, axis_name)

    def update(state, x, labels):
        def loss(params):
            new, value = apply({**state, "params": params}, x, labels)
            return value, new

        params = state["params"]
        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
        return {**new, "params": moved}, value

    return update


def show(rows: list[Row]) -> None:
    """Prints the rows of each task below each other."""
    form = "{:20} {:10} {:7} {:>7} {:>11} {:>10} {:>12} {:>12}"
    print(form.format("task", "way", "rival", "devices", "collectives", "kB each",
                      "temp. MiB", "arg. MiB"))  # fmt: skip
    for row in rows:
        number = str(row.collectives)
        number += f" ({row.at_most})" if row.at_most != row.collectives else ""
        print(form.format(
            row.task, row.way, row.rival, row.devices, number, f"{row.sent / 1e3:.1f}",
            f"{row.temporary / 2**20:.1f}", f"{row.arguments / 2**20:.1f}",
        ))  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=list(DEVICES))
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--small", action="store_true", help="tiny models, to try it")
    parser.add_argument("--rounds", type=int, help="ignored: nothing is timed")
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        rows = process(options.devices[0], options.models, options.small)
        print(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    rows = run(options.devices, options.models, options.small)
    show(rows)
    print(f"written to {harness.write_json('scale', 1, rows)}")


if __name__ == "__main__":
    main()
