"""Variational autoencoders of `scvi-tools` on JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import report
from scvi.external.mrvi_jax import _components as parts
from scvi.external.mrvi_jax._module import EncoderXU
from scvi.module._jaxvae import FlaxDecoder, FlaxEncoder

key = jax.random.PRNGKey(1)
x = jnp.asarray(np.random.RandomState(0).poisson(2.0, (6, 10)), jnp.float32)
u = jax.random.normal(key, (6, 4))
sample = jnp.array([[0], [1], [2], [0], [1], [2]])

report.model("encoder", FlaxEncoder(10, 3, 8, 0.1), x, training=True)
report.model("decoder", FlaxDecoder(10, 0.1, 8), u, sample[:, 0] * 1.0, training=True)
report.model("mlp", parts.MLP(5, n_hidden=8, n_layers=2), x, training=True)
report.model(
    "normalization",
    parts.ConditionalNormalization(10, 3, normalization_type="batch"),
    x,
    sample[:, 0],
    training=True,
)
report.model("encoder_xu", EncoderXU(4, 3, 8, 1), x, sample[:, 0], training=True)
report.save()
