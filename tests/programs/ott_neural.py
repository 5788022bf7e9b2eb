"""Networks of `ott-jax`: convex potentials, and a few steps of neural duals."""

import jax
import jax.numpy as jnp
import optax
import report
from ott.neural.networks import icnn, potentials
from ott.neural.networks.layers import posdef

x = jax.random.normal(jax.random.PRNGKey(1), (8, 3))
maps = icnn.ICNN(3, (8,), pos_weights=True, ranks=2, gaussian_map_samples=(x, 2 * x))
report.model("icnn", icnn.ICNN(dim_data=3, dim_hidden=(8, 8)), x[0])
report.model("icnn_gaussian", maps, x[0])
report.model("mlp", potentials.PotentialMLP(dim_hidden=[8, 8]), x[0])
report.model("slope", potentials.PotentialMLP([8, 8], is_potential=False), x[0])
report.model("positive", posdef.PositiveDense(4), x)
report.model("posdef", posdef.PosDefPotentials(num_potentials=2, rank=1), x[0])

for name, model in [
    ("icnn_state", icnn.ICNN(dim_data=3, dim_hidden=(8,))),
    ("mlp_state", potentials.PotentialMLP(dim_hidden=[8], is_potential=False)),
]:
    state = model.create_train_state(jax.random.PRNGKey(0), optax.adam(0.01), 3)
    slope = state.potential_gradient_fn(state.params)
    report.found[name] = (state.params, slope(x))
    grads = jax.grad(lambda p, s=state: jnp.sum(s.potential_gradient_fn(p)(x)))
    report.found[name + "_step"] = state.apply_gradients(
        grads=grads(state.params)
    ).params
report.save()
