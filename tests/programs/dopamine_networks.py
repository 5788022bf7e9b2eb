"""Networks of `dopamine-rl`: Rainbow with noise, implicit quantiles, an actor."""

import jax
import jax.numpy as jnp
import old_jax
import report

assert old_jax
from dopamine.jax import continuous_networks, networks  # noqa: E402

key = jax.random.PRNGKey(1)
image = jax.random.uniform(key, (84, 84, 4))
state = jax.random.normal(key, (6, 1))
support = jnp.linspace(-1, 1, 5)
report.model("nature", networks.NatureDQNNetwork(3), image, grads=False)
report.model("impala", networks.ImpalaDQNNetwork(3), image, grads=False)
report.model(
    "quantiles", networks.ImplicitQuantileNetwork(3, 4), image, 5, key, grads=False
)
report.model(
    "rainbow",
    networks.FullRainbowNetwork(3, 5),
    image,
    support,
    False,
    key,
    grads=False,
)
report.model("classic", networks.ClassicControlDQNNetwork(2, hidden_units=8), state)
fourier = networks.JaxFourierDQNNetwork(2, (-1.0,) * 6, (1.0,) * 6, 1)
report.model("fourier", fourier, state)
report.model(
    "actor_critic",
    continuous_networks.ActorCriticNetwork((2,), hidden_units=8),
    state[:, 0],
    key,
    grads=False,
)
report.save()
