"""One model on eight devices, with batch normalization over all of them.

The devices are simulated on the CPU, and each gets an eighth of the batch. Statistics
and gradients are averaged, so every device makes the same update as a single device
with the whole batch.

`python examples/treex/data_parallel.py [--steps N]`
"""

from __future__ import annotations

import argparse
import os

DEVICES = 8
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:  # must be set before jax is imported
    os.environ["XLA_FLAGS"] = (
        f"{flags} --xla_force_host_platform_device_count={DEVICES}"
    )

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import linsey.treex as tx  # noqa: E402
from linsey import datasets  # noqa: E402


def network(axis_name: str | None) -> tx.Module:
    """Return a perceptron with batch normalization over a mapped axis."""
    return tx.Sequential(
        tx.Linear(64),
        tx.BatchNorm(momentum=0.9, axis_name=axis_name),
        jax.nn.relu,
        tx.Linear(10),
    )


def train_step(model, optimizer, x, y, axis_name=None):
    """Make one update, on a single device or on one of several."""

    def loss_fn(params, model):
        model = model.merge(params)
        loss = tx.losses.Crossentropy()(target=y, preds=model(x))
        if axis_name is not None:
            loss = jax.lax.pmean(loss, axis_name)
        return loss, model

    params = model.parameters()
    (loss, model), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, model)
    params = optimizer.update(grads, params)
    return model.merge(params), optimizer, loss


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train on all devices and on a single one.

    Returns:
        The test accuracy, and the largest difference between the two models.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args(arguments).steps

    x_train, y_train, x_test, y_test = datasets.split(*datasets.digits())
    x_train, x_test = (x.reshape(-1, 64) / np.float32(16) for x in (x_train, x_test))
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    many_step = jax.jit(
        jax.shard_map(
            lambda *state: train_step(*state, axis_name="data"),
            mesh=mesh,
            in_specs=(P(), P(), P("data"), P("data")),
            out_specs=P(),
        )
    )
    one_step = jax.jit(train_step)
    # Initialization needs no named axis, because it does not compute statistics.
    many, one = (network(axis).init(42, x_train[:1]) for axis in ("data", None))
    optimizers = [
        tx.Optimizer(optax.sgd(0.1)).init(model.parameters()) for model in (many, one)
    ]
    order = np.random.default_rng(0)
    for step in range(steps):
        rows = order.choice(len(x_train), 128, replace=False)
        x, y = x_train[rows], y_train[rows]
        many, optimizers[0], loss = many_step(many, optimizers[0], x, y)
        one, optimizers[1], _ = one_step(one, optimizers[1], x, y)
        if step % max(steps // 5, 1) == 0:
            print(f"step {step:4}  loss {loss:.3f}")
    pairs = zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True)
    difference = max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)
    accuracy = float((many.eval()(x_test).argmax(-1) == y_test).mean())
    print(f"{mesh.size} devices: test accuracy {accuracy:.3f}, "
          f"{difference:.1e} away from one device")  # fmt: skip
    return accuracy, difference


if __name__ == "__main__":
    main()
