"""Networks of `brax` for reinforcement learning, one with spectral normalization."""

import jax
import report
from brax.training import networks
from brax.training.agents.ppo import networks as ppo

found = {}
x = jax.random.normal(jax.random.PRNGKey(1), (5, 6))
agent = ppo.make_ppo_networks(6, 3)
params = agent.policy_network.init(jax.random.PRNGKey(0))
found["policy_params"] = params
found["policy"] = agent.policy_network.apply(None, params, x)
params = agent.value_network.init(jax.random.PRNGKey(0))
found["value"] = agent.value_network.apply(None, params, x)

q = networks.make_q_network(6, 3, hidden_layer_sizes=(8, 8))
params = q.init(jax.random.PRNGKey(0))
found["q"] = q.apply(None, params, x, x[:, :3])
found["q_grads"] = jax.grad(lambda p: q.apply(None, p, x, x[:, :3]).sum())(params)

model = networks.SNMLP(layer_sizes=(8, 4))
variables = model.init(
    {"params": jax.random.PRNGKey(0), "sing_vec": jax.random.PRNGKey(2)}, x
)
found["sn_variables"] = variables
found["sn"] = model.apply(
    variables, x, mutable=["sing_vec"], rngs={"sing_vec": jax.random.PRNGKey(3)}
)
report.save(**found)
