"""Figure 1 of the paper on batch normalization, at small scale.

A perceptron of three sigmoid layers learns handwritten digits with and without batch
normalization. The figure shows the test accuracy, and the distribution of the input of
one unit of the last hidden layer, over the training steps.
`python examples/batch_norm_2015/train.py --out figure.svg` draws it with matplotlib:
`pip install '.[train,plot]'`.

S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift, 2015, section 4.1, https://arxiv.org/abs/1502.03167
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linsey.linen as nn
from linsey import datasets
from linsey.training import train_state

QUANTILES = (0.15, 0.5, 0.85)  # as in the paper
BLUE, RED = "#2f81f7", "#e5534b"  # visible on white and on black


class Perceptron(nn.Module):
    """Three hidden layers of 100 sigmoid units."""

    normalize: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits (batch, 10) from images (batch, 64)."""
        small = nn.initializers.normal(0.1)
        for layer in range(3):
            x = nn.Dense(100, use_bias=not self.normalize, kernel_init=small)(x)
            if self.normalize:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            if layer == 2:
                self.sow("intermediates", "input", x)
            x = nn.sigmoid(x)
        return nn.Dense(10, kernel_init=small)(x)


class TrainState(train_state.TrainState):
    """Parameters, optimizer and running statistics."""

    batch_stats: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The variables for `apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@jax.jit
def train_step(
    state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[TrainState, jax.Array]:
    """Make one update; return the state and the last sigmoid inputs (batch, 100)."""

    def loss_fn(params):
        logits, changed = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            x,
            train=True,
            mutable=["batch_stats", "intermediates"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), changed

    grads, changed = jax.grad(loss_fn, has_aux=True)(state.params)
    (inputs,) = changed["intermediates"]["input"]
    state = state.apply_gradients(grads=grads)
    return state.replace(batch_stats=changed.get("batch_stats", {})), inputs


@jax.jit
def accuracy(state: TrainState, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the fraction of correct predictions, using running statistics."""
    logits = state.apply_fn(state.variables, x, train=False)
    return jnp.mean(logits.argmax(-1) == y)


@dataclasses.dataclass
class Curves:
    """The curves to draw: accuracy and quantiles of one unit, at each of `steps`."""

    steps: list[int] = dataclasses.field(default_factory=list)
    accuracy: list[float] = dataclasses.field(default_factory=list)
    quantiles: list[np.ndarray] = dataclasses.field(default_factory=list)


def train(normalize: bool, steps: int, every: int) -> Curves:
    """Train one network, and evaluate it every `every` steps."""
    images, labels = datasets.digits()
    x_train, y_train, x_test, y_test = datasets.split(images, labels)
    x_train, x_test = (
        (x.reshape(len(x), 64) / 16).astype(np.float32) for x in (x_train, x_test)
    )
    model = Perceptron(normalize)
    variables = model.init(jax.random.key(0), x_train[:1], train=False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        tx=optax.sgd(0.1),
    )
    curves, order = Curves(), np.random.default_rng(0)
    for step in range(1, steps + 1):
        rows = order.choice(len(y_train), 60, replace=False)  # the paper's batch
        state, inputs = train_step(state, x_train[rows], y_train[rows])
        if step % every == 0:
            curves.steps.append(step)
            curves.accuracy.append(float(accuracy(state, x_test, y_test)))
            curves.quantiles.append(np.quantile(inputs[:, 0], QUANTILES))
    return curves


def draw(curves: dict[bool, Curves], path: Path) -> None:
    """Draw both accuracies in one panel, and the unit of each network in its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    gray = "#808080"
    settings = {
        "axes.edgecolor": gray, "axes.labelcolor": gray, "axes.titlecolor": gray,
        "xtick.color": gray, "ytick.color": gray, "text.color": gray,
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
        "svg.hashsalt": "linsey",
    }  # fmt: skip
    with plt.rc_context(settings):
        figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
        for normalize, color in ((True, BLUE), (False, RED)):
            found, name = curves[normalize], "with" if normalize else "without"
            axes[0].plot(found.steps, found.accuracy, color=color, label=f"{name} BN")
            panel = axes[1 if normalize else 2]
            low, middle, high = np.array(found.quantiles).T
            panel.fill_between(found.steps, low, high, color=color, alpha=0.3, lw=0)
            panel.plot(found.steps, middle, color=color)
            panel.set(title=f"input of a sigmoid, {name} BN", xlabel="step")
        axes[0].set(title="test accuracy", xlabel="step", ylim=(0, 1.02))
        axes[0].legend(frameon=False)
        limits = [panel.get_ylim() for panel in axes[1:]]
        for panel in axes[1:]:
            panel.set_ylim(min(map(min, limits)), max(map(max, limits)))
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date, the same curves give the same bytes.
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def main(arguments: list[str] | None = None) -> dict[bool, Curves]:
    """Train both networks, print their accuracies, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument(
        "--every", type=int, default=100, help="steps between evaluations"
    )
    parser.add_argument("--out", type=Path, help="file of the picture, such as a.svg")
    given = parser.parse_args(arguments)
    curves = {n: train(n, given.steps, given.every) for n in (True, False)}
    for normalize, found in curves.items():
        name = "with" if normalize else "without"
        best = max(found.accuracy)
        reached = found.steps[int(np.argmax(np.array(found.accuracy) >= 0.9))]
        when = f"0.9 at step {reached}" if best >= 0.9 else "0.9 never"
        print(f"{name:<8}batch normalization: best test accuracy {best:.3f}, {when}")
    if given.out is not None:
        draw(curves, given.out)
        print(f"wrote {given.out}")
    return curves


if __name__ == "__main__":
    main()
