import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app.config import ModelOptions, OptimizerOptions
from linsey.app.data.standardizer import Standardizer
from linsey.app.models import make_model
from linsey.app.optimizers import make_optimizer, make_schedule

SHAPES = {"mlp": (5,), "cnn": (4, 4, 2), "resnet": (4, 4, 2)}
NORMS = ("batch", "none", "layer", "group")


def small(model: str, norm: str) -> ModelOptions:
    return ModelOptions(model=model, norm=norm, width=4, depth=1, dropout=0.5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", SHAPES)
def test_structure_of_every_model(model, norm):
    module = make_model(small(model, norm), SHAPES[model], 3)
    x = jax.ShapeDtypeStruct((2, *SHAPES[model]), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: module.init(key, x, False), jax.random.key(0), x
    )
    assert ("batch_stats" in variables) == (norm == "batch")
    names = [jax.tree_util.keystr(path)
             for path, _ in jax.tree_util.tree_leaves_with_path(variables)]  # fmt: skip
    kinds = {"batch": "BatchNorm", "layer": "LayerNorm", "group": "GroupNorm"}
    for kind, name in kinds.items():
        assert any(name in path for path in names) == (kind == norm)

    def call(variables, x):
        return module.apply(variables, x, True, rngs={"dropout": jax.random.key(1)},
                            mutable=["batch_stats"])  # fmt: skip

    logits, updates = jax.eval_shape(call, variables, x)
    assert logits.shape == (2, 3)
    stats = variables.get("batch_stats", {})
    assert jax.tree.structure(updates.get("batch_stats", {})) == jax.tree.structure(
        stats
    )


@pytest.mark.parametrize("norm", ["layer", "group", "none"])
def test_only_batch_normalization_mixes_examples(norm):
    module = make_model(small("mlp", norm), (5,), 3)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    variables = module.init(jax.random.key(1), x, False)
    whole = module.apply(variables, x, False)
    alone = jnp.concatenate([module.apply(variables, row[None], False) for row in x])
    np.testing.assert_allclose(whole, alone, rtol=1e-5, atol=1e-6)


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


def test_standardizer_does_not_overflow_on_large_integers():
    x = np.full((4, 2), 2**62, np.int64)
    x[0] = 0
    assert np.isfinite(Standardizer.fit(x)(x)).all()
