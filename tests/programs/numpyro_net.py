"""A Linen module with BatchNorm inside a probabilistic program of `numpyro`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import report
from numpyro import handlers
from numpyro.contrib.module import flax_module, random_flax_module
from numpyro.infer import SVI, Trace_ELBO, autoguide


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4, use_bias=False)(x))
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(nn.tanh(x)))


def model(x, y=None, train=True):
    net = flax_module(
        "net", Net(), x, True, apply_rng=["dropout"], mutable=["batch_stats"]
    )
    mean = net(x, train, rngs={"dropout": numpyro.prng_key()})
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean[:, 0], 0.1), obs=y)


def random_model(x, y=None):
    net = random_flax_module("net", nn.Dense(1), dist.Normal(), input_shape=(3, 2))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 0.1), obs=y)


x = jax.random.normal(jax.random.PRNGKey(1), (8, 2))
y = jnp.sin(x[:, 0])
svi = SVI(model, lambda x, y: None, numpyro.optim.Adam(0.01), Trace_ELBO())
result = svi.run(jax.random.PRNGKey(0), 5, x, y, progress_bar=False)
guide = autoguide.AutoNormal(random_model)
random = SVI(random_model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
random_result = random.run(jax.random.PRNGKey(0), 5, x, y, progress_bar=False)
trace = handlers.trace(handlers.seed(random_model, 3)).get_trace(x, y)
report.save(
    result=result.params,
    losses=result.losses,
    random_result=random_result.params,
    trace={
        name: site["value"] for name, site in trace.items() if site["type"] == "sample"
    },
)
