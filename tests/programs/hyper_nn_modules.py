"""Hypernetworks of `hyper-nn`: networks whose weights another network makes."""

import flax.linen as nn
import jax
import old_jax
import report
from hypernn.jax import dynamic_hypernet, linear_hypernet

assert old_jax  # gives back `jax.tree_map`


class Target(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(4)(x)))


x = jax.random.normal(jax.random.PRNGKey(1), (3, 5))
for name, kind, inputs in [
    ("linear", linear_hypernet.JaxLinearHyperNetwork, {}),
    ("dynamic", dynamic_hypernet.JaxDynamicHyperNetwork, {"input_dim": 5}),
]:
    model = kind.from_target(
        Target(),
        inputs=[x],
        embedding_dim=6,
        num_embeddings=3,
        **inputs,
    )
    extra = {"generate_params_kwargs": {"x": x[:1]}} if inputs else {}
    report.model(name, model, x, **extra)
report.save()
