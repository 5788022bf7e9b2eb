"""A variational autoencoder for handwritten digits; a layer logs a part of the loss.

`python examples/treex/vae.py [--steps N]`

References:
    Kingma, Welling 2013, https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linsey.treex as tx
from linsey import datasets


class Encoder(tx.Module):
    """Draws a code for each image, and logs the divergence from the prior."""

    next_key: tx.KeySeq
    kl_loss: jax.Array = tx.LossLog.node()

    def __init__(self, size: int):
        self.size = size
        self.next_key = tx.KeySeq()
        self.kl_loss = jnp.array(0.0)

    @tx.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute codes (batch, size) from images (batch, 64)."""
        x = jax.nn.relu(tx.Linear(64)(x))
        mean = tx.Linear(self.size, name="mean")(x)
        log_std = tx.Linear(self.size, name="log_std")(x)
        variance = jnp.exp(2 * log_std)
        divergence = 0.5 * (mean**2 + variance - 1 - 2 * log_std).sum(axis=-1)
        self.kl_loss = 0.1 * divergence.mean()
        return mean + jnp.exp(log_std) * jax.random.normal(self.next_key(), mean.shape)


class VAE(tx.Module):
    """An encoder, and a decoder that computes logits for the pixels."""

    encoder: Encoder
    decoder: tx.MLP

    def __init__(self, size: int = 4):
        self.encoder = Encoder(size)
        self.decoder = tx.MLP([64, 64])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits (batch, 64) from images (batch, 64)."""
        return self.decoder(self.encoder(x))


@jax.jit
def train_step(model, optimizer, x):
    """Make one update; also return the reconstruction loss and the divergence."""

    def loss_fn(params, model):
        model = model.merge(params)
        pixels = tx.losses.crossentropy(x, model(x), binary=True).mean() * x.shape[-1]
        divergence = sum(jax.tree.leaves(model.loss_logs()))
        return pixels + divergence, (model, pixels, divergence)

    params = model.parameters()
    grads, (model, *losses) = jax.grad(loss_fn, has_aux=True)(params, model)
    params = optimizer.update(grads, params)
    return model.merge(params), optimizer, losses


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train the model; return the first and the last loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args(arguments).steps

    images, *_ = datasets.split(*datasets.digits())
    images = images.reshape(-1, 64) / np.float32(16)
    model = VAE().init(42, images[:1])
    optimizer = tx.Optimizer(optax.adam(3e-3)).init(model.parameters())
    order = np.random.default_rng(0)
    totals = []
    for step in range(steps):
        rows = order.choice(len(images), 64, replace=False)
        model, optimizer, losses = train_step(model, optimizer, images[rows])
        totals.append(float(sum(losses)))
        if step % max(steps // 8, 1) == 0:
            pixels, divergence = losses
            print(f"step {step:4}  pixels {pixels:.2f}  divergence {divergence:.3f}")
    with np.printoptions(precision=1, suppress=True, linewidth=120):
        codes = jax.random.normal(jax.random.key(0), (1, model.encoder.size))
        print("a digit that nobody wrote:")
        print(np.asarray(jax.nn.sigmoid(model.decoder(codes)).reshape(8, 8)))
    return totals[0], totals[-1]


if __name__ == "__main__":
    main()
