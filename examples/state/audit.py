"""An audit finds statistics that were never updated.

A training loop that drops the updates of `batch_stats` raises no error: the loss falls,
but evaluation is no better than chance. `audit` finds the cause from the statistics
alone.
"""

from __future__ import annotations

import jax
import optax

import linsey.linen as nn
from linsey.batch_stats import audit


class Model(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute values (batch,) from inputs (batch, features)."""
        x = nn.Dense(16)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(1)(x)[:, 0]


def main() -> list[str]:
    """Train without keeping the updates, and audit the resulting state."""
    model, tx = Model(), optax.sgd(0.05)
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (256, 8))
    y = x.mean(1)
    variables = model.init(jax.random.key(1), x, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": stats}
            # The mistake: `_` contains the updates, which are dropped.
            out, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return ((out - y) ** 2).mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(100):
        params, opt_state = step(params, opt_state)
    report = audit({"params": params, "batch_stats": stats}, model, [x], step=100)
    print(report)
    return [finding.kind for finding in report.errors]


if __name__ == "__main__":
    main()
