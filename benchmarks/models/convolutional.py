"""Batch normalization and conv networks, as users of each rival would write them.

Each function takes a rival's name and returns a call that computes and waits; it
raises ImportError where the rival is not installed. `compiled` gives the program of a
rival that runs on XLA.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (32, 32, 64, 64, 128, 128)
MOMENTUM, EPSILON, CLASSES = 0.99, 1e-5, 10
XLA = ("linsey", "flax", "haiku", "equinox")
RIVALS = (*XLA, "torch")

Call = Callable[[], Any]

# On a busy machine wall time says little: with NPROC=1, which XLA obeys, everything
# runs in one thread and is timed by the processor time of the process.
ONE_THREAD = os.environ.get("NPROC") == "1"
CLOCK = time.process_time if ONE_THREAD else time.perf_counter


def import_torch() -> Any:
    """PyTorch, with one thread if XLA has one."""
    torch = importlib.import_module("torch")
    if ONE_THREAD:
        torch.set_num_threads(1)
    return torch


def numbers(*shape: int, loc: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Fixed random numbers."""
    drawn = np.random.default_rng(0).standard_normal(shape) * scale + loc
    return drawn.astype(np.float32)


def compiled(function: Callable, *arguments: Any) -> tuple[Any, Call]:
    """Return the program of a function, and the call of it."""
    arguments = jax.tree.map(jnp.asarray, arguments)
    program = jax.jit(function).lower(*arguments).compile()
    return program, lambda: jax.block_until_ready(program(*arguments))


CALLS = 20


def repeated(call: Call) -> Callable[[], Call]:
    """Return how to prepare a case that makes `CALLS` calls in a turn, as in training.

    A first call after a pause wakes threads, fills caches and may take memory anew,
    which can last longer than the work of one layer.
    """

    def run():
        for _ in range(CALLS):
            call()

    return lambda: run


# One layer of batch normalization.


def norm_function(rival: str, shape: tuple[int, ...]) -> tuple[Callable, Any, Any]:
    """Return `f(params, state, x) -> (y, state)`, training, with params and state."""
    if rival in ("linsey", "flax"):
        nn = importlib.import_module(f"{rival}.linen")
        layer = nn.BatchNorm(False, momentum=MOMENTUM, epsilon=EPSILON)
        variables = layer.init(jax.random.key(0), jnp.ones(shape))

        def apply(params, state, x):
            return layer.apply({"params": params, **state}, x, mutable=["batch_stats"])

        params = variables.pop("params")
        return apply, params, variables
    if rival == "haiku":
        hk = importlib.import_module("haiku")
        model = hk.without_apply_rng(
            hk.transform_with_state(
                lambda x: hk.BatchNorm(True, True, MOMENTUM, EPSILON)(x, True)
            )
        )
        return model.apply, *model.init(jax.random.key(0), jnp.ones(shape))
    eqx = importlib.import_module("equinox")
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        shape[-1], "batch", eps=EPSILON, momentum=MOMENTUM, mode="batch"
    )
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def channels_first(params, state, x):
        layer = eqx.combine(params, static)
        return jax.vmap(
            layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )(x, state)

    return channels_first, params, state


def norm_gradient(rival: str, shape: tuple[int, ...]) -> Call:
    """Forward and backward pass of one layer in training mode."""
    x, cotangent = numbers(*shape), numbers(*shape[::-1]).T.copy()
    if rival == "torch":
        return _torch_norm(x, cotangent)
    function, params, state = norm_function(rival, shape)
    if rival == "equinox":
        x, cotangent = (np.moveaxis(v, -1, 1).copy() for v in (x, cotangent))

    def both(params, state, x, cotangent):
        y, pull, updated = jax.vjp(
            lambda params, x: function(params, state, x), params, x, has_aux=True
        )
        return y, updated, pull(cotangent)

    return compiled(both, params, state, x, cotangent)[1]


def _torch_norm(x: np.ndarray, cotangent: np.ndarray) -> Call:
    torch = import_torch()
    inputs, given = map(torch.from_numpy, (x, cotangent))
    kind = torch.nn.BatchNorm1d
    if x.ndim == 4:
        inputs, given = (v.permute(0, 3, 1, 2) for v in (inputs, given))
        kind = torch.nn.BatchNorm2d
    inputs.requires_grad_()
    layer = kind(x.shape[-1])

    def call():
        inputs.grad = None
        layer(inputs).backward(given)

    return call


# Networks.


def linen_network(rival: str, widths: tuple[int, ...], pools: bool) -> Any:
    """Convolution, batch normalization and relu, once for each width."""
    library, _, option = rival.partition(" ")
    nn = importlib.import_module(f"{library}.linen")

    def normalize(x):
        if option:
            return nn.BatchNorm(
                False, momentum=MOMENTUM, activation="relu", save_memory=True
            )(x)
        return nn.relu(nn.BatchNorm(False, momentum=MOMENTUM)(x))

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, width in enumerate(widths):
                x = nn.Conv(width, (3, 3), use_bias=False)(x)
                x = normalize(x)
                if pools and i % 2:
                    x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Dense(CLASSES)(x.mean((1, 2)))

    return Network()


def haiku_network(widths: tuple[int, ...], pools: bool) -> Any:
    """Return the same in Haiku."""
    hk = importlib.import_module("haiku")

    def network(x):
        for i, width in enumerate(widths):
            x = hk.Conv2D(width, 3, with_bias=False)(x)
            x = jax.nn.relu(hk.BatchNorm(True, True, MOMENTUM)(x, True))
            if pools and i % 2:
                x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return hk.Linear(CLASSES)(x.mean((1, 2)))

    return hk.without_apply_rng(hk.transform_with_state(network))


def network_gradient(
    rival: str, widths: tuple[int, ...], x: np.ndarray, pools: bool
) -> tuple[Any, Call]:
    """Program and call of a step of gradient descent on the cross entropy."""
    labels = np.arange(len(x)) % CLASSES
    if rival == "haiku":
        model = haiku_network(widths, pools)
        params, state = model.init(jax.random.key(0), x)
        apply = model.apply
    else:
        model = linen_network(rival, widths, pools)
        state = jax.jit(model.init)(jax.random.key(0), x)
        params = state.pop("params")

        def apply(params, state, x):
            return model.apply({"params": params, **state}, x, mutable=["batch_stats"])

    def step(params, state, x, labels):
        def loss(params):
            y, updated = apply(params, state, x)
            picked = jnp.take_along_axis(jax.nn.log_softmax(y), labels[:, None], 1)
            return -picked.mean(), updated

        gradients, updated = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), updated

    return compiled(step, params, state, x, labels)


def training_step(rival: str) -> Call:
    """Return a training step of six convolutions with pooling, batch 64, 32 x 32."""
    x = numbers(64, 32, 32, 3)
    if rival == "torch":
        return _torch_step(x)
    return network_gradient(rival, WIDTHS, x, pools=True)[1]


def scan_gradient(rival: str) -> Call:
    """Return the gradient of four residual convolutions stacked by a scan."""
    nn = importlib.import_module(f"{rival}.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.relu(nn.Conv(32, (3, 3))(x)), None

    blocks = nn.scan(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4
    )()
    x = numbers(16, 16, 16, 32)
    variables = jax.jit(blocks.init)(jax.random.key(0), x, None)

    def loss(variables, x):
        return jnp.square(blocks.apply(variables, x, None)[0]).mean()

    return compiled(jax.grad(loss), variables, x)[1]


def _torch_step(x: np.ndarray) -> Call:
    torch = import_torch()
    layers, channels = [], x.shape[-1]
    for i, width in enumerate(WIDTHS):
        convolution = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)] * (i % 2)
        channels = width
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(channels, CLASSES))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = torch.from_numpy(x).permute(0, 3, 1, 2)
    labels = torch.arange(len(x)) % CLASSES

    def call():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return call
