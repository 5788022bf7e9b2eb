"""Small classifiers of digits, of linsey and of Flax, and their training."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax

from linsey import datasets
from linsey.app.config import ModelOptions
from linsey.app.models import make_model

KEY = jax.random.key(0)


class Foreign(flax.linen.Module):
    """A network as others write it: submodules in `setup`, its own name of the flag."""

    momentum: float = 0.9

    def setup(self) -> None:
        nn = flax.linen
        self.entry = nn.BatchNorm(momentum=self.momentum)
        self.conv1 = nn.Conv(8, (3, 3), use_bias=False)
        self.bn1 = nn.BatchNorm(momentum=self.momentum)
        self.conv2 = nn.Conv(8, (3, 3), strides=2, use_bias=False)
        self.bn2 = nn.BatchNorm(
            momentum=self.momentum, scale_init=nn.initializers.zeros
        )
        self.skip = nn.Conv(8, (1, 1), strides=2)
        self.head = nn.Dense(10)

    def __call__(self, x, is_training: bool):
        use = not is_training
        x = self.entry(x, use_running_average=use)
        x = flax.linen.relu(self.bn1(self.conv1(x), use_running_average=use))
        y = self.bn2(self.conv2(x), use_running_average=use)
        x = flax.linen.relu(self.skip(x) + y)
        return self.head(x.mean((1, 2)))


DEPTHS = {"mlp": 2, "cnn": 1, "resnet": 1}


def models() -> dict[str, Any]:
    """The classifiers by name."""
    return {**{name: _classifier(name) for name in DEPTHS}, "flax": Foreign()}


def _classifier(model: str, **options: Any) -> Any:
    given = ModelOptions(model=model, width=4, depth=DEPTHS[model], **options)
    return make_model(given, (8, 8, 1), 10)


def with_momentum(name: str, momentum: float) -> Any:
    """Return a classifier with another momentum, or another norm."""
    if name == "flax":
        return Foreign(momentum)
    if name in ("layer", "none"):
        return _classifier("cnn", norm=name)
    return _classifier(name, model_arg=(f"momentum={momentum}",))


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """Digits, shuffled, with values from 0 to 1."""
    x, y = datasets.digits()
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype(np.float32) / 16, y[order]


def batches(count: int = 3, size: int = 128) -> list[np.ndarray]:
    """Batches of examples."""
    x, _ = data()
    return [x[i * size : (i + 1) * size] for i in range(count)]


@dataclasses.dataclass
class Trained:
    """A model after training.

    Attributes:
        model: the module.
        variables: of the last step.
        average: exponential averages of them.
        opt_state: of the optimizer.
        steps: how many.
        early: the variables of an earlier step.
    """

    model: Any
    variables: Any
    average: Any
    opt_state: Any
    steps: int
    early: Any


def flag_of(model: Any) -> str:
    """The name of the flag that is True in training."""
    return "is_training" if isinstance(model, Foreign) else "train"


def train(
    model: Any, steps: int = 60, size: int = 64, lr: float = 0.02, seed: int = 0
) -> Trained:
    """Train with Adam."""
    x, y = data()
    tx = optax.adam(lr)
    flag = flag_of(model)
    step = _step(model, flag, lr)
    keys = jax.random.split(jax.random.key(seed))
    variables = init(model)(keys[0])
    average = variables
    state, early = tx.init(variables["params"]), variables
    random = np.random.default_rng(seed)
    for number in range(steps):
        chosen = random.integers(len(x), size=size)
        key = jax.random.fold_in(keys[1], number)
        variables, average, state = step(
            variables, average, state, x[chosen], y[chosen], key
        )
        if number == steps // 2:
            early = variables
    return Trained(model, variables, average, state, steps, early)


@functools.cache
def init(model: Any) -> Any:
    """Return the function that initialises a model, compiled."""
    flags = {flag_of(model): False}
    return jax.jit(lambda key: model.init(key, jnp.ones((2, 8, 8, 1)), **flags))


@functools.cache
def _step(model: Any, flag: str, lr: float) -> Any:
    tx = optax.adam(lr)

    @jax.jit
    def step(variables, average, state, x, y, key):
        def loss_fn(params):
            logits, updates = model.apply(
                {**variables, "params": params}, x, **{flag: True},
                mutable=["batch_stats"], rngs={"dropout": key},
            )  # fmt: skip
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), updates

        grads, updates = jax.grad(loss_fn, has_aux=True)(variables["params"])
        moves, state = tx.update(grads, state, variables["params"])
        new = {"params": optax.apply_updates(variables["params"], moves), **updates}
        average = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, average, new)
        return new, average, state

    return step
