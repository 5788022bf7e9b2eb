"""`nn.vjp`, `nn.jvp`, `nn.grad`, `nn.value_and_grad`, `nn.custom_vjp` against Flax."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen
from linsey import errors
from tests.compat.agreement import KEY, X, agrees, refuses


@agrees(ulps=8)
def test_vjp_by_parameters_and_inputs(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            layer = nn.Dense(2)
            out, backward = nn.vjp(lambda mdl, x, y: mdl(x) * y, layer, x, y)
            params, dx, dy = backward(jnp.ones_like(out))
            return out, params, dx, dy

    return Net().init_with_output(KEY, X, jnp.arange(2.0))


@agrees(ulps=8)
def test_vjp_of_the_module_itself(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def run(mdl, x):
                return nn.Dense(2)(nn.tanh(nn.Dense(3)(x)))

            out, backward = nn.vjp(run, self, x)
            return out, backward(jnp.ones_like(out))

    y, variables = Net().init_with_output(KEY, X)
    return y, variables, Net().apply(variables, X)


@agrees(ulps=8)
def test_vjp_with_more_to_return(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def run(mdl, x):
                y = mdl(x)
                return y, {"twice": 2 * y}

            y, backward, aux = nn.vjp(run, nn.Dense(2), x, has_aux=True)
            return y, aux, backward(jnp.ones_like(y))

    return Net().init_with_output(KEY, X)


@pytest.mark.parametrize("by", ["params", "state", False, True, ["params", "state"]])
@agrees(ulps=8)
def test_vjp_by_chosen_collections(nn, by):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = Scale()
            if self.is_initializing():
                return layer(x)
            y, backward = nn.vjp(lambda m, x: m(x), layer, x, vjp_variables=by)
            return y, backward(jnp.ones_like(y))

    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            factor = self.variable("state", "factor", lambda: jnp.full((), 2.0))
            return nn.Dense(2)(x) * factor.value

    variables = Net().init(KEY, X)
    return Net().apply(variables, X)


@pytest.mark.slow
@agrees(ulps=64)  # Flax's own variance is that far from the exact one
def test_vjp_writes_state_once(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = nn.BatchNorm(use_running_average=False, momentum=0.5)
            y, backward = nn.vjp(lambda norm, x: norm(x), norm, x)
            self.sow("intermediates", "y", y)
            return backward(jnp.arange(3.0) * jnp.ones_like(y))

    variables = Net().init(KEY, X)
    mutable = ["batch_stats", "intermediates"]
    return variables, Net().apply(variables, X, mutable=mutable)[1]


@refuses(wording=False)
def test_what_is_differentiated_cannot_be_written(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def run(mdl, x):
                mdl.put_variable("state", "x", x)
                return x

            y, _ = nn.vjp(run, self, x, vjp_variables="state")
            return y

    return Net().apply({"state": {"x": X}}, X, mutable=["params"])


@agrees(ulps=8)
def test_value_and_grad_and_grad(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2)
            loss = lambda mdl, x: jnp.sum(mdl(x) ** 2)  # noqa: E731
            with_aux = lambda mdl, x, y: (jnp.sum(mdl(x) * y), {"y": y})  # noqa: E731
            y = jnp.arange(2.0)
            return [
                nn.value_and_grad(loss, layer, x),
                nn.grad(loss, layer, x),
                nn.value_and_grad(with_aux, layer, x, y, has_aux=True),
                nn.grad(with_aux, layer, x, y, has_aux=True),
            ]

    return Net().init_with_output(KEY, X)


@agrees(ulps=8)
def test_grad_of_a_grad(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(1)
            inner = lambda mdl, x: jnp.sum(nn.tanh(mdl(x)))  # noqa: E731
            outer = lambda mdl, x: jnp.sum(nn.grad(inner, mdl, x)[0] ** 2)  # noqa: E731
            return nn.grad(outer, layer, x)

    y, variables = Net().init_with_output(KEY, X)
    by_params = jax.grad(lambda v: jnp.sum(Net().apply(v, X)[0]))(variables)
    return y, variables, by_params


@refuses(wording=False)
def test_grad_wants_a_scalar(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.grad(lambda mdl, x: mdl(x), nn.Dense(2), x)

    return Net().init(KEY, X)


@agrees(ulps=8)
def test_jvp_along_inputs_and_parameters(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2)
            if self.is_initializing():
                return layer(x)
            zeros = jax.tree.map(jnp.zeros_like, dict(layer.variables["params"]))
            ones = jax.tree.map(jnp.ones_like, dict(layer.variables["params"]))
            run = lambda mdl, x: nn.tanh(mdl(x))  # noqa: E731
            return [
                nn.jvp(run, layer, (x,), (jnp.ones_like(x),), {}),
                nn.jvp(run, layer, (x,), (jnp.ones_like(x),), {"params": {}}),
                nn.jvp(run, layer, (x,), (jnp.ones_like(x),), {"params": zeros}),
                nn.jvp(run, layer, (x,), (jnp.zeros_like(x),), {"params": ones}),
            ]

    variables = Net().init(KEY, X)
    return Net().apply(variables, X)


def test_jvp_of_a_module_that_holds_others():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            model = nn.Sequential([nn.Dense(2), nn.Dense(2)])
            along_x = nn.jvp(lambda mdl, x: mdl(x), model, (x,), (x,), {})
            return *along_x, model(x)

    y, dy, expected = Net().init_with_output(KEY, X)[0]
    assert (y == expected).all()
    assert jnp.allclose(y, dy)  # linear: the biases are zero


@agrees(ulps=8)
def test_derivatives_draw_the_keys_of_the_plain_call(nn):
    class Noise(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.sum(x * jax.random.uniform(self.make_rng("noise"), (3,)))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            noise = Noise()
            plain = noise(x)
            run = lambda mdl, x: mdl(x)  # noqa: E731
            value = nn.value_and_grad(run, noise, x)
            forward = nn.jvp(run, noise, (x,), (x,), {})
            y, backward = nn.vjp(run, noise, x)
            return plain, value, forward, y, backward(1.0), noise(x)

    return Net().apply({}, X, rngs={"noise": KEY})


def identity_with_signs(nn):
    """A layer whose backward pass gives the signs of the gradients."""

    def plain(mdl, x):
        return mdl(x)

    def forward(mdl, x):
        return nn.vjp(plain, mdl, x)

    def backward(back, cotangent):
        params, *inputs = back(cotangent)
        return (jax.tree.map(jnp.sign, params), *inputs)

    return nn.custom_vjp(plain, forward_fn=forward, backward_fn=backward)


@agrees(ulps=8)
def test_custom_vjp(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return identity_with_signs(nn)(nn.Dense(2), x)

    y, variables = Net().init_with_output(KEY, X)
    loss = lambda v, x: jnp.sum(Net().apply(v, x) ** 2)  # noqa: E731
    return y, variables, jax.grad(loss, (0, 1))(variables, X)


@agrees(ulps=8)
def test_custom_vjp_with_arguments_that_are_not_differentiated(nn):
    def plain(mdl, scale, x):
        return mdl(x) * scale

    def forward(mdl, scale, x):
        return nn.vjp(functools.partial(plain_of, scale), mdl, x)

    def plain_of(scale, mdl, x):
        return plain(mdl, scale, x)

    def backward(scale, back, cotangent):
        params, dx = back(cotangent)
        return jax.tree.map(lambda g: g / scale, params), dx

    run = nn.custom_vjp(
        plain, forward_fn=forward, backward_fn=backward, nondiff_argnums=(1,)
    )

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return run(nn.Dense(2), 3.0, x)

    y, variables = Net().init_with_output(KEY, X)
    loss = lambda v, x: jnp.sum(Net().apply(v, x))  # noqa: E731
    return y, variables, jax.grad(loss, (0, 1))(variables, X)


@agrees(ulps=64)
def test_custom_vjp_writes_state_once(nn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = nn.BatchNorm(use_running_average=False, momentum=0.5)
            return identity_with_signs(nn)(norm, x)

    variables = Net().init(KEY, X)
    return variables, Net().apply(variables, X, mutable=["batch_stats"])[1]


@agrees(ulps=8)
def test_a_bound_method_gives_its_function(nn):
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def __call__(self, x):
            y, backward = nn.vjp(self.layer.__call__, self.layer, x)
            return y, backward(y)

    return Net().init_with_output(KEY, X)


@pytest.mark.parametrize("name", ["vjp", "grad", "value_and_grad"])
@refuses(wording=False)
def test_a_class_cannot_be_differentiated(nn, name):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return getattr(nn, name)(nn.Dense, self, x)

    return Net().init(KEY, X)


@agrees(ulps=8)
def test_modules_that_are_held_but_live_elsewhere(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.inner(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.Dense(3)
            inner(x)
            wrap = Wrap(inner)
            if self.is_initializing():
                return wrap(x)
            run = lambda mdl, x: mdl(x)  # noqa: E731
            y, backward = nn.vjp(run, wrap, x, multi_scope=True)
            return backward(y)

    variables = Net().init(KEY, X)
    return variables, Net().apply(variables, X)


def test_several_modules_have_several_gradients():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = (nn.Dense(3), nn.Dense(2))
            run = lambda layers, x: layers[1](layers[0](x))  # noqa: E731
            y, backward = nn.vjp(run, layers, x)
            return backward(jnp.ones_like(y))

    variables = Net().init(KEY, X)
    (first, second), dx = Net().apply(variables, X)
    assert first["params"]["kernel"].shape == (3, 3)
    assert second["params"]["kernel"].shape == (3, 2)
    kernels = [variables["params"][f"Dense_{i}"]["kernel"] for i in range(2)]
    expected = jnp.ones((2, 2)) @ kernels[1].T @ kernels[0].T
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-5)


def test_a_tangent_cannot_escape_to_the_module_outside():
    nn = linsey.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def leak(mdl, x):
                self.put_variable("state", "x", x)
                return jnp.sum(x)

            return nn.grad(leak, self, x)

    with pytest.raises(errors.JaxTransformError):
        Net().apply({}, X, mutable=["state"])
