import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app.config import ModelOptions
from linsey.app.models import _least_size, make_model
from linsey.errors import InputError

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


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("model", SHAPES)
def test_the_size_is_estimated_from_below(model, depth):
    options = ModelOptions(model=model, width=4, depth=depth, norm="none")
    shape = SHAPES[model]
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    module, key = make_model(options, shape, 3), jax.random.key(0)
    variables = jax.eval_shape(lambda key, x: module.init(key, x, False), key, x)
    size = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert 0.5 * size < _least_size(options, shape) + 100 < size + 100


@pytest.mark.parametrize(
    ("model", "width", "depth", "shape"),
    [
        ("mlp", 2**16, 1000, (5,)),
        ("mlp", 2**16, 1, (2**24, 1, 1)),
        ("cnn", 2**16, 2, (4, 4, 2)),
        ("resnet", 1, 1000, (4, 4, 2)),
    ],
)
def test_models_that_no_machine_can_hold_are_not_built(model, width, depth, shape):
    options = ModelOptions(model=model, width=width, depth=depth)
    with pytest.raises(InputError, match="a larger model than a machine can hold"):
        make_model(options, shape, 3)


@pytest.mark.parametrize("norm", ["layer", "group", "none"])
def test_only_batch_normalization_mixes_examples(norm):
    module = make_model(small("mlp", norm), (5,), 3)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    variables = module.init(jax.random.key(1), x, False)
    whole = module.apply(variables, x, False)
    alone = jnp.concatenate([module.apply(variables, row[None], False) for row in x])
    np.testing.assert_allclose(whole, alone, rtol=1e-5, atol=1e-6)
