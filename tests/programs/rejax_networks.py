"""Networks of `rejax`: policies that draw actions, Q functions, quantiles."""

import flax.linen as nn
import jax
import report
from rejax import networks

key = jax.random.PRNGKey(1)
x = jax.random.normal(key, (5, 6))
shape = dict(hidden_layer_sizes=(8, 8), activation=nn.swish)
report.model("discrete", networks.DiscretePolicy(3, **shape), x, key)
action_range = (-1.0, 1.0)
report.model("gaussian", networks.GaussianPolicy(2, action_range, **shape), x, key)
report.model(
    "squashed",
    networks.SquashedGaussianPolicy(2, action_range, log_std_range=(-5, 2), **shape),
    x,
    key,
)
report.model("q", networks.QNetwork(**shape), x, x[:, :2])
report.model("dueling", networks.DuelingQNetwork(action_dim=3, **shape), x)
report.model(
    "quantiles", networks.ImplicitQuantileNetwork(action_dim=3, **shape), x[0], key
)
report.save()
