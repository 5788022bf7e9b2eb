"""Networks of `brax`: policies, critics, images, one with spectral normalization."""

import jax
import report
from brax.training import networks
from brax.training.agents.ppo import networks as ppo
from brax.training.agents.sac import networks as sac

found = report.found
x = jax.random.normal(jax.random.PRNGKey(1), (5, 6))
key = jax.random.PRNGKey(0)
agent = ppo.make_ppo_networks(6, 3)
params = agent.policy_network.init(key)
found["policy_params"] = params
found["policy"] = agent.policy_network.apply(None, params, x)
params = agent.value_network.init(key)
found["value"] = agent.value_network.apply(None, params, x)

agent = sac.make_sac_networks(6, 3, hidden_layer_sizes=(8, 8))
params = agent.policy_network.init(key)
found["sac_params"] = params
policy = sac.make_inference_fn(agent)((None, params))
found["sac_actions"] = policy(x, jax.random.PRNGKey(3))[0]

q = networks.make_q_network(6, 3, hidden_layer_sizes=(8, 8), layer_norm=True)
params = q.init(key)
found["q_params"] = params
found["q"] = q.apply(None, params, x, x[:, :3])
found["q_grads"] = jax.grad(lambda p: q.apply(None, p, x, x[:, :3]).sum())(params)

for kind in ("scalar", "log"):
    network = networks.make_policy_network(
        4, 6, hidden_layer_sizes=(8,), distribution_type="normal", noise_std_type=kind
    )
    params = network.init(key)
    found[f"normal_{kind}_params"] = params
    found[f"normal_{kind}"] = network.apply(None, params, x)
network = networks.make_value_network(
    6, hidden_layer_sizes=(8,), use_distributional_critic=True, num_quantiles=4
)
params = network.init(key)
found["quantiles_params"] = params
found["quantiles"] = network.apply(None, params, x)

images = {
    "pixels/one": jax.random.normal(key, (2, 16, 16, 3)),
    "pixels/two": jax.random.normal(key, (2, 16, 16, 1)),
    "state": x[:2],
}
vision = networks.VisionMLP(
    layer_sizes=(8, 4), layer_norm=True, normalise_channels=True, state_obs_key="state"
)
report.model("vision", vision, images, grads=False)

model = networks.SNMLP(layer_sizes=(8, 4))
keys = ("params", "sing_vec")
report.model("sn", model, x, keys=keys)
report.save()
