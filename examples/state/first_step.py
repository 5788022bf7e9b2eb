"""The time before the first step of a deep model: initialization and tracing.

A model of 200 layers is initialized without compiling its forward pass, and equal
blocks under `nn.jit` are traced once.
"""

from __future__ import annotations

import time

import jax

import linsey.linen as nn

TRACED = []


class Block(nn.Module):
    """A residual block that records each time it is traced."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map features (batch, 64) to the same shape."""
        TRACED.append(1)  # not `self.name`, which differs from block to block
        y = nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x))
        return x + nn.relu(y)


SharedBlock = nn.jit(Block, static_argnums=(2,))


class Deep(nn.Module):
    """Blocks in sequence, which share one compiled function if `shared`."""

    depth: int
    shared: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map features (batch, 64) to the same shape."""
        block = SharedBlock if self.shared else Block
        for i in range(self.depth):
            x = block(name=f"block_{i}")(x, train)
        return x


def main(depth: int = 100) -> dict[bool, int]:
    """Return how many blocks a forward pass traces, without and with sharing."""
    x, found = jax.numpy.ones((8, 64)), {}
    start = time.perf_counter()
    model = Deep(depth, shared=False)
    variables = jax.jit(lambda key: model.init(key, x, False))(jax.random.key(0))
    made = time.perf_counter() - start
    print(f"{depth} blocks initialized in {made:.2f} s, import of JAX not counted")
    for shared in (False, True):
        TRACED.clear()
        start = time.perf_counter()
        model = Deep(depth, shared)
        jax.jit(lambda v, m=model: m.apply(v, x, False)).lower(variables)
        seconds = time.perf_counter() - start
        found[shared] = len(TRACED)
        how = "with nn.jit" if shared else "plain"
        print(f"{how}: {len(TRACED)} traced, and all lowered in {seconds:.2f} s")
    return found


if __name__ == "__main__":
    main()
