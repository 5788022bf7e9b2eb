"""Networks of `evosax`: policies, and strategies whose update a network has learned."""

import jax
import jax.numpy as jnp
import report
from evosax.learned_evolution.lga_tools import (
    MutationAttention,
    SamplingAttention,
    SelectionAttention,
)
from evosax.problems import networks

key = jax.random.PRNGKey(1)
x = jax.random.normal(key, (6, 5))
image = jax.random.normal(key, (2, 12, 12, 1))
report.model("mlp", networks.MLP((8, 3), layer_norm=True), x, key)
report.model(
    "cnn",
    networks.CNN(
        num_filters=(4, 4), kernel_sizes=(3, 3), strides=(1, 2), mlp_layer_sizes=(8, 2)
    ),
    image,
    key,
)
report.model("sampling", SamplingAttention(2, 4), x)
report.model("selection", SelectionAttention(2, 4), key, x, x)
report.model("mutation", MutationAttention(2, 4), jnp.ones((6, 1)), x)
report.save()
