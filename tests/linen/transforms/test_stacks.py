"""Deep stacks as they are written in practice: attention, caches, axis metadata."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.compat.agreement import KEY, X, agrees

X3 = jnp.linspace(-1.0, 1.0, 18).reshape(3, 2, 3)
TOKENS = jnp.linspace(-1.0, 1.0, 48).reshape(2, 4, 6)
KEYS = {"params": KEY, "dropout": jax.random.key(2)}
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}

# Little is computed here: fast compilation matters more than fast code.
quickly = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def boxed(nn, box):
    """A layer whose parameters carry the names of their axes."""

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            kernel = box(nn.initializers.lecun_normal(), ("in", "out"))
            bias = box(nn.initializers.zeros, ("out",))
            return nn.Dense(3, kernel_init=kernel, bias_init=bias)(x), None

    return Boxed


@pytest.mark.slow
@agrees(ulps=256)  # Flax's own variance is that far from the exact one
def test_a_transformer_with_dropout(nn):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, mask, deterministic):
            y = nn.LayerNorm()(x)
            attention = nn.MultiHeadDotProductAttention(
                2, dropout_rate=0.1, use_bias=False
            )
            y = attention(y, y, mask=mask, deterministic=deterministic)
            x = x + nn.Dropout(0.1)(y, deterministic=deterministic)
            return x + nn.Dense(6)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x)))), None

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic):
            stack = nn.scan(
                nn.remat(Layer, static_argnums=(3,), prevent_cse=False),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast),
                length=2,
            )
            mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
            return stack(name="layers")(x, mask, deterministic)[0]

    model = Transformer()
    variables = quickly(model.init, static_argnums=2)(KEYS, TOKENS, True)

    @quickly
    @jax.grad
    def gradient(variables):
        y = model.apply(variables, TOKENS, False, rngs={"dropout": KEY})
        return jnp.sum(y**2)

    return variables, gradient(variables)


@pytest.mark.slow
@agrees(ulps=16)
def test_caches_of_all_layers(nn):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.MultiHeadDotProductAttention(2, decode=True)(x, x), None

    axes = {"params": 0, "cache": 0}
    model = nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=2)()
    variables = model.init(KEY, TOKENS, None)
    outputs = []
    for i in range(2):
        token = TOKENS[:, i : i + 1]
        y, changed = model.apply(variables, token, None, mutable=["cache"])
        variables = {**variables, **changed}
        outputs.append(y)
    return variables, outputs


@agrees(ulps=8)
def test_names_of_axes_through_two_levels(nn):
    layer = boxed(nn, nn.with_partitioning)
    many = nn.vmap(
        layer, metadata_params={nn.PARTITION_NAME: "many"}, out_axes=(0, None), **OWN
    )
    names = {nn.PARTITION_NAME: "layers"}
    model = nn.scan(many, length=2, metadata_params=names, **OWN)()
    variables = model.init(KEY, X3, None)
    found = model.apply(variables, X3, None)
    return variables, found, nn.get_partition_spec(variables)


@agrees(ulps=8)
def test_logical_names_of_axes_under_remat(nn):
    layer = nn.remat(boxed(nn, nn.with_logical_partitioning))
    names = {nn.PARTITION_NAME: "layers"}
    model = nn.scan(layer, length=2, metadata_params=names, **OWN)()
    variables = model.init(KEY, X, None)
    loss = lambda v: jnp.sum(model.apply(v, X, None)[0] ** 2)  # noqa: E731
    gradient = jax.grad(loss)(variables)
    return variables, gradient, nn.get_partition_spec(variables)


@agrees(ulps=8)
def test_boxes_that_are_shared_mapped_and_differentiated(nn):
    layer = boxed(nn, nn.with_partitioning)
    shared = nn.scan(
        layer,
        variable_broadcast="params",
        split_rngs={"params": False},
        length=2,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )()
    tanh = functools.partial(jax.tree.map, jnp.tanh)
    mapped = nn.map_variables(layer, "params", tanh, init=True)()

    class Backward(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = layer()
            if self.is_initializing():
                return inner(x)
            y, backward = nn.vjp(lambda inner, x: inner(x)[0], inner, x)
            return backward(y)

    results = []
    for model, args in ((shared, (X, None)), (mapped, (X,)), (Backward(), (X,))):
        variables = model.init(KEY, *args)
        results.append((variables, model.apply(variables, *args)))
    return results


@agrees(ulps=8)
def test_a_box_that_is_carried_keeps_its_names(nn):
    class Count(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            zeros = lambda: nn.Partitioned(jnp.zeros(3), ("x",))  # noqa: E731
            state = self.variable("state", "count", zeros)
            state.value = state.value + 1
            return carry + state.value, None

    given = {"state": {"count": nn.Partitioned(jnp.zeros(3), ("x",))}}
    model = nn.scan(Count, variable_carry="state", length=2)()
    return model.apply(given, jnp.zeros(3), None, mutable=["state"])


@agrees(ulps=8)
def test_an_axis_is_named_for_a_function(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            named = nn.add_metadata_axis(
                lambda layer, x: layer(x)[0],
                variable_axes={"params": 0},
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return named(boxed(nn, nn.with_partitioning)(), x)

    return Net().init(KEY, X)
