"""Low-rank adaptation against `W + (alpha / rank) A B`, and merging."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
from linsey.errors import MismatchError, OptionError, UnsupportedError, UsageError
from linsey.fine_tuning import freeze, lora, merge, replace, trainable
from tests.fine_tuning.models import EVAL, KEY, Network, Scanned, made, x_of

LAYERS = {
    "dense": (nn.Dense(5), (2, 4)),
    "dense without bias": (nn.Dense(5, use_bias=False), (4,)),
    "several axes": (nn.DenseGeneral((3, 2), axis=(-1, 1)), (2, 3, 4, 5)),
    "conv": (nn.Conv(5, (3, 2), strides=2, kernel_dilation=2), (2, 7, 6, 3)),
    "circular": (nn.Conv(4, 3, padding="CIRCULAR"), (5, 2)),
}


class Normalized(nn.Module):
    """A layer whose kernel is normalized, and which is no child of what does it."""

    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(nn.Dense(2))(x)


def with_factors(variables, seed=1):
    """Variables whose factors are not zero."""
    keys = iter(jax.random.split(jax.random.key(seed), 99))

    def drawn(path, leaf):
        is_b = path[-1].key == "b"
        return jax.random.normal(next(keys), leaf.shape, leaf.dtype) if is_b else leaf

    return jax.tree_util.tree_map_with_path(drawn, variables)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n != "conv" else n for n in LAYERS],
)
def test_it_is_the_layer_with_w_plus_the_product(name):
    layer, shape = LAYERS[name]
    with jax.enable_x64(True):
        layer = layer.clone(param_dtype=jnp.float64)
        x = jax.random.normal(jax.random.key(5), shape, jnp.float64)
        given = made(layer, x)
        model, variables = lora(layer, given, "*", x, rngs=KEY, rank=2, alpha=3.0)
        np.testing.assert_array_equal(model.apply(variables, x), layer.apply(given, x))

        variables = with_factors(variables)
        params = dict(variables["params"])
        factors = params.pop("lora")
        change = np.tensordot(factors["a"], factors["b"], 1) * (3.0 / 2)
        kernel = params["kernel"] + change
        assert np.abs(change).max() > 0.1
        explicit = {"params": {**params, "kernel": kernel}}
        expected = layer.apply(explicit, x)
        np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-12)

        merged, plain = merge(model, variables)
        assert merged == layer
        np.testing.assert_allclose(plain["params"]["kernel"], kernel, rtol=1e-14)
        np.testing.assert_allclose(merged.apply(plain, x), expected, rtol=1e-12)


def test_only_factors_are_trained_and_merged_the_model_is_the_same():
    model, x = Network(), x_of(6, 3)
    given = made(model, x, train=False)
    model, variables = lora(model, given, "backbone", x, rank=2, **EVAL)
    assert set(variables["params"]["backbone"]["Dense_0"]) == {"kernel", "bias", "lora"}
    where = nn.DenyList(["*/lora", "head"])
    model = freeze(model, where)
    mask = trainable(variables["params"], where)
    tx = optax.multi_transform(
        {True: optax.adam(0.1), False: optax.set_to_zero()}, mask
    )

    @jax.jit
    def step(variables, opt):
        def loss(params):
            y, updates = model.apply(
                {**variables, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": KEY},
            )
            return jnp.square(y - 1).mean(), updates

        grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
        moves, opt = tx.update(grads, opt, variables["params"])
        params = optax.apply_updates(variables["params"], moves)
        return {**variables, **updates, "params": params}, opt

    trained, opt = variables, tx.init(variables["params"])
    for _ in range(3):
        trained, opt = step(trained, opt)
    block, old = trained["params"]["backbone"], given["params"]["backbone"]
    np.testing.assert_array_equal(block["Dense_0"]["kernel"], old["Dense_0"]["kernel"])
    assert (block["Dense_0"]["lora"]["b"] != 0).all()
    jax.tree.map(
        np.testing.assert_array_equal, trained["batch_stats"], given["batch_stats"]
    )
    merged, plain = merge(model, trained)
    assert jax.tree.structure(plain) == jax.tree.structure(given)
    np.testing.assert_allclose(
        merged.apply(plain, x, train=False),
        model.apply(trained, x, train=False),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_each_step_of_a_scan_has_its_factors():
    model, x = Scanned(), x_of(2, 3)
    given = made(model, x)
    model, variables = lora(model, given, "*", x, rngs=KEY, rank=2)
    factors = variables["params"]["steps"]["inner"]["lora"]
    assert factors["a"].shape == (3, 3, 2) and factors["b"].shape == (3, 2, 3)
    assert (factors["a"][0] != factors["a"][1]).any()
    variables = with_factors(variables)
    merged, plain = merge(model, variables)
    np.testing.assert_allclose(
        merged.apply(plain, x), model.apply(variables, x), rtol=1e-4
    )
    assert jax.tree.structure(plain) == jax.tree.structure(given)


@pytest.mark.slow
def test_attention_and_half_precision():
    model = nn.MultiHeadDotProductAttention(2, dtype=jnp.bfloat16, deterministic=True)
    x = x_of(2, 3, 4)
    given = made(model, x)
    model, variables = lora(model, given, ["query", "value"], x, rngs=KEY, rank=1)
    assert set(variables["params"]["query"]) == {"kernel", "bias", "lora"}
    assert set(variables["params"]["key"]) == {"kernel", "bias"}
    assert variables["params"]["query"]["lora"]["a"].dtype == jnp.float32
    assert model.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_convolution_after_a_deferred_norm_has_gradients():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False, save_memory=True)(x)
            return nn.Conv(3, 3)(x)

    x = x_of(2, 5, 2)
    model, variables = lora(Model(), made(Model(), x), "*", x, rngs=KEY, rank=1)

    def loss(params):
        whole = {**variables, "params": params}
        return jnp.square(model.apply(whole, x, mutable=["batch_stats"])[0]).sum()

    grads = jax.grad(loss)(variables["params"])["Conv_0"]["lora"]
    assert (grads["a"] == 0).all() and (grads["b"] != 0).all()


def test_a_layer_that_is_replaced_later_has_no_factors():
    model, x = Network(), x_of(6, 3)
    given = made(model, x, train=False)
    changed = lora(model, given, "*", x, **EVAL)
    model, variables = replace(*changed, {"head": nn.Dense(2)}, x, **EVAL)
    assert set(variables["params"]["head"]) == {"kernel", "bias"}
    merged, plain = merge(model, variables)
    assert jax.tree.structure(plain) == jax.tree.structure(given)
    assert merged.apply(plain, x, train=False).shape == (6, 2)


def test_what_can_have_no_factors_is_named():
    model, x = nn.Sequential([nn.Conv(4, 3, feature_group_count=2)]), x_of(2, 5, 2)
    variables = made(model, x)
    with pytest.raises(UnsupportedError) as caught:
        lora(model, variables, "*", x, rngs=KEY)
    assert str(caught.value) == (
        'The layer at "layers_0" has feature_group_count=2.\n'
        "What is added would be no product of two matrices beside its kernel.\n"
        'Leave it out: `nn.DenyList("layers_0")` is all but this one.'
    )
    for layer, reason in (
        (nn.Conv(4, 3, mask=jnp.ones((3, 2, 4))), "has a `mask`"),
        (nn.DenseGeneral(2, batch_dims=(0,)), r"has batch_dims=\(0,\)"),
        (nn.WeightNorm(nn.Dense(2)), "has a kernel that `WeightNorm` or"),
        (Normalized(), "has a kernel that `WeightNorm` or"),
        (nn.Dense(2, dot_general=jax.lax.dot_general), "has a product of its own"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            lora(layer, made(layer, x), "*", x, rngs=KEY)
    twice = lora(nn.Dense(2), made(nn.Dense(2), x), "*", x, rngs=KEY)
    with pytest.raises(UnsupportedError, match="has a product of its own"):
        lora(*twice, "*", x, rngs=KEY)


def test_mistakes_in_the_call_are_told():
    model, x = nn.Sequential([nn.Dense(2), nn.LayerNorm()]), x_of(2, 5)
    variables = made(model, x)
    with pytest.raises(OptionError, match="No layer among layers_1 can have factors"):
        lora(model, variables, "layers_1", x, rngs=KEY)
    with pytest.raises(OptionError, match='The nearest: "layers_0", "layers_1"'):
        lora(model, variables, "layer_0", x, rngs=KEY)
    with pytest.raises(OptionError, match="`rank` is 0"):
        lora(model, variables, "*", x, rngs=KEY, rank=0)
    with pytest.raises(UsageError, match="`Sequential` has no factors"):
        merge(model, variables)
    changed, _ = lora(model, variables, "*", x, rngs=KEY)
    with pytest.raises(MismatchError, match='hold no factors for "layers_0"'):
        merge(changed, variables)
