"""What one convolution or maximum over windows costs in training.

Forward and backward pass on float32, compiled, for the kinds of windows that `linsey`
computes on a CPU in another way than XLA does for Flax: a window for each channel,
groups, a window of one, a small output, the body of a loop, and the gradient of a
maximum. Run with `python -m benchmarks.conv`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.models import convolutional as models

RIVALS = ("linsey", "flax", "torch")


class Task(NamedTuple):
    """A convolution, or a maximum if there are no features.

    Attributes:
        shape: of the input, (batch, height, width, channels).
        features: channels of the output.
        window: edge of the window.
        stride: of the window.
        groups: of the channels.
        times: how often a loop applies it to its own result; 0 without a loop.
    """

    shape: tuple[int, int, int, int]
    features: int = 0
    window: int = 3
    stride: int = 1
    groups: int = 1
    times: int = 0

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.window // 2


TASKS = {
    "3x3": Task((16, 28, 28, 64), 64),
    "3x3 in a loop": Task((16, 14, 14, 32), 32, times=2),
    "3x3 for each channel": Task((16, 28, 28, 64), 64, groups=64),
    "3x3 in 8 groups": Task((16, 14, 14, 64), 64, groups=8),
    "1x1": Task((16, 28, 28, 64), 128, window=1),
    "3x3 with an output of 2x2": Task((4, 4, 4, 512), 512, stride=2),
    "maximum of 2x2": Task((16, 28, 28, 64), window=2, stride=2),
}


def run(rounds: int) -> list[harness.Row]:
    """Time all kinds by all rivals."""
    rows = []
    for name, task in TASKS.items():
        cases = harness.available(
            {rival: partial(_prepare, rival, task) for rival in RIVALS}, models.CALLS
        )
        rows += harness.measure(name, cases, rounds, "flax", {}, models.CLOCK)
    return rows


def _prepare(rival: str, task: Task) -> Callable[[], models.Call]:
    call = (_torch if rival == "torch" else partial(_linen, rival))(task)
    return models.repeated(call)


def _linen(rival: str, task: Task) -> models.Call:
    nn = importlib.import_module(f"{rival}.linen")
    x, window = models.numbers(*task.shape), (task.window,) * 2
    strides, padding = (task.stride,) * 2, ((task.padding,) * 2,) * 2
    if not task.features:
        pool = partial(nn.max_pool, window_shape=window, strides=strides)
        return _both(lambda params, x: pool(x), {}, x)
    conv = nn.Conv(
        task.features, window, strides, padding, feature_group_count=task.groups
    )
    params = conv.init(jax.random.key(0), jnp.ones(task.shape))

    def loop(params: Any, x: jax.Array) -> jax.Array:
        def again(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return conv.apply(params, x), None

        return jax.lax.scan(again, x, length=task.times)[0]

    return _both(loop if task.times else conv.apply, params, x)


def _both(apply: Callable[..., jax.Array], params: Any, x: Any) -> models.Call:
    def both(params: Any, x: jax.Array, cotangent: jax.Array) -> Any:
        y, pull = jax.vjp(apply, params, x)
        return y, pull(cotangent)

    shape = jax.eval_shape(apply, params, x).shape
    return models.compiled(both, params, x, models.numbers(*shape))[1]


def _torch(task: Task) -> models.Call:
    torch = models.import_torch()
    channels, options = task.shape[-1], {"stride": task.stride}
    x = torch.from_numpy(models.numbers(*task.shape)).permute(0, 3, 1, 2)
    x.requires_grad_()
    if task.features:
        options |= {"padding": task.padding, "groups": task.groups}
        layer = torch.nn.Conv2d(channels, task.features, task.window, **options)
    else:
        layer = torch.nn.MaxPool2d(task.window, **options)
    times = max(task.times, 1)

    def forward() -> Any:
        y = x
        for _ in range(times):
            y = layer(y)
        return y

    cotangent = torch.ones_like(forward())

    def call() -> None:
        x.grad = None
        forward().backward(cotangent)

    return call


if __name__ == "__main__":
    title = "one convolution or maximum over windows in training"
    harness.main("conv", title, run, rounds=5)
