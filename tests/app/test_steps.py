import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app.config import OptimizerOptions
from linsey.app.steps import make_optimizer, make_schedule


@pytest.mark.parametrize("name", ["cosine", "constant", "step"])
def test_schedules_rise_to_the_peak_and_fall(name):
    options = OptimizerOptions(schedule=name, lr=0.8, epochs=10, warmup_epochs=2)
    schedule = make_schedule(options, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in range(40)]
    assert 0 < rates[0] < rates[3] < rates[7] < rates[8] == pytest.approx(0.8)
    assert max(rates) == pytest.approx(0.8)
    last = {"cosine": 0.002, "constant": 0.8, "step": 0.008}[name]
    assert rates[-1] == pytest.approx(last, rel=0.5 if name == "cosine" else 1e-5)


def test_warm_up_is_shorter_than_the_run():
    options = OptimizerOptions(epochs=1, warmup_epochs=50, lr=1.0)
    assert float(make_schedule(options, 10)(9)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_decay_kernels_only_and_clip(name):
    options = OptimizerOptions(optimizer=name, lr=0.1, warmup_epochs=0, clip_norm=1.0,
                               weight_decay=0.5, schedule="constant")  # fmt: skip
    optimizer = make_optimizer(options, make_schedule(options, 1))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decays = name != "adam"
    assert (np.asarray(updates["kernel"]) < 0).all() == decays
    assert not np.asarray(updates["bias"]).any()
    huge = jax.tree.map(lambda p: 1e6 * jnp.ones_like(p), params)
    updates, _ = optimizer.update(huge, optimizer.init(params), params)
    assert max(float(abs(u).max()) for u in jax.tree.leaves(updates)) < 0.2
