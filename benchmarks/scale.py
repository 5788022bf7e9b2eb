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
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
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


def run(options: argparse.Namespace) -> list[Row]:
    """Count for all numbers of devices, one process after the other."""
    rows = []
    chosen = ["--models", *options.models, "--ways", *options.ways]
    chosen += ["--passes", *options.passes, *["--small"] * options.small]
    for count in options.devices:
        print(f"{count} devices", file=sys.stderr, flush=True)
        rows += in_new_process(count, chosen)
    order = {name: i for i, name in enumerate((*MODELS, *PASSES, *WAYS, *RIVALS))}

    def place(row: Row) -> list[int]:
        names = (*row.task.split(", "), row.way, row.rival)
        return [*(order[name] for name in names), row.devices]

    return sorted(rows, key=place)


def in_new_process(count: int, options: Sequence[str]) -> list[Row]:
    """Return the rows of one number of devices, which the environment sets."""
    flags = f"--xla_force_host_platform_device_count={count} {FLAGS}"
    command = [sys.executable, "-m", "benchmarks.scale", "--process"]
    # Without kernels for one CPU: the program is then that of any device.
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "LINSEY_KERNELS": "0"}
    done = subprocess.run(
        [*command, "--devices", str(count), *options],
        stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment,
    )  # fmt: skip
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def process(options: argparse.Namespace) -> list[Row]:
    """Return the rows of this process, which has as many devices as it should."""
    rows, (count,) = [], options.devices
    cases = itertools.product(options.models, options.ways, RIVALS, options.passes)
    for model, way, rival, name in cases:
        try:
            program = compiled(model, rival, way, name, count, options.small)
        except ImportError as error:
            harness.missing(rival, error)
            continue
        row = Row(f"{model}, {name}", rival, way, count, *[0] * 5)
        rows.append(measured(row, program))
    return rows


def measured(row: Row, program: Any) -> Row:
    """Return a row with the figures of a compiled program."""
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
    name: str, rival: str, way: str, pass_name: str, count: int, small: bool
) -> Any:
    """Compile a pass of a model."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from benchmarks.models import large
    from linsey.training import state_sharding

    mesh = Mesh(jax.devices(), ("data",))
    whole, split = PartitionSpec(), PartitionSpec("data")
    sizes = large.SMALL if small else large.Sizes(batch=8, sequences=8, length=128)
    model = large.MODELS[name](rival, sizes, None)
    batch = large.inputs(name, sizes)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch[0])
    state = {"params": variables["params"]}
    state["batch_stats"] = variables.get("batch_stats", {})
    axis_name = None
    if way == "shard_map":
        axis_name = "data"
        if name == "resnet":
            model = large.resnet(rival, sizes, None, axis_name)
    function = {"forward": forward, "step": step}[pass_name](model, axis_name)
    if way == "shard_map":
        places = {"in_specs": (whole, split, split), "out_specs": (whole, whole)}
        function = jax.shard_map(function, mesh=mesh, **places)
    if way == "divided":
        where = state_sharding(state, mesh)
    else:
        where = jax.tree.map(lambda _: NamedSharding(mesh, whole), state)

    def placed(array: Any, sharding: Any, times: int = 1) -> Any:
        shape = (times * len(array), *array.shape[1:]) if times > 1 else array.shape
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    divided = NamedSharding(mesh, split)
    arguments = (placed(array, divided, count) for array in batch)
    jitted = jax.jit(function, donate_argnums=0, out_shardings=(where, None))
    return jitted.lower(jax.tree.map(placed, state, where), *arguments).compile()


def forward(model: Any, axis_name: str | None) -> Callable[..., Any]:
    """Return `f(state, x, labels) -> (state, loss)` with new statistics."""
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
    """Return `f(state, x, labels) -> (state, loss)`, a step of gradient descent."""
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
    """Print the rows of each task below each other."""
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


def figures(rows: list[Row]) -> list[harness.Row]:
    """Return the rows as other benchmarks have them."""
    kinds = {"collectives": "", "sent": "B", "temporary": "B", "arguments": "B"}
    return [
        harness.summarise(
            f"{row.task}, {row.way}, {row.devices} devices, {kind}",
            row.rival, [getattr(row, kind)], unit=unit,
        )
        for kind, unit in kinds.items()
        for row in rows
    ]  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=list(DEVICES))
    for name, all_of_them in {"models": MODELS, "ways": WAYS, "passes": PASSES}.items():
        parser.add_argument(
            f"--{name}", choices=all_of_them, nargs="+", default=list(all_of_them)
        )
    parser.add_argument("--small", action="store_true", help="tiny models, to try it")
    parser.add_argument("--rounds", type=int, help="ignored: nothing is timed")
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        print(json.dumps([dataclasses.asdict(row) for row in process(options)]))
        return
    rows = run(options)
    show(rows)
    print(f"written to {harness.write_json('scale', 1, figures(rows))}")


if __name__ == "__main__":
    main()
