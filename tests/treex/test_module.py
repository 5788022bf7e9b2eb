"""Modules: initialization, keys, modes."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors import (
    ArgumentTypeError,
)
from linsey.errors.treex import (
    MissingVariableError,
    NoKeyError,
    NotInitializedError,
)
from tests.treex.modules import Compact, Dense, Two, X, stream


def test_flags_and_name_of_a_new_module():
    module = tx.Module()
    assert (module.initialized, module.training, module.frozen) == (False, True, False)
    assert module.name == "module" and tx.Module(name="q").name == "q"
    assert not callable(module)

    @dataclasses.dataclass
    class Empty(tx.Module):
        pass

    assert Empty()._initialized is False and Empty().name == "empty"


@pytest.mark.parametrize(
    ("cls", "snake"),
    [("MyMLP", "my_mlp"), ("GRU", "gru"), ("HTTPServer", "httpserver"),
     ("Conv2D", "conv2_d"), ("KeySeq", "key_seq"), ("L1L2", "l1_l2")],
)  # fmt: skip
def test_names_are_classes_in_snake_case(cls, snake):
    assert type(tx.Module)(cls, (tx.Module,), {})().name == snake


def test_keys_are_given_in_the_order_of_calls():
    two = Two().init(42, X)
    first, second = stream(jax.random.PRNGKey(42), 2)
    np.testing.assert_array_equal(two.b.w, jax.random.normal(first, (2, 4)))
    np.testing.assert_array_equal(two.a.w, jax.random.normal(second, (4, 3)))


def test_in_compact_methods_constructors_take_keys_as_well():
    model = Compact().init(42, X)
    keys = stream(jax.random.PRNGKey(42), 4)
    for layer, key, x in (
        (model.linear, keys[1], X),
        (model.linear2, keys[3], jnp.ones((5, 4))),
    ):
        expected = layer.module.init(key, x)["params"]["kernel"]
        np.testing.assert_array_equal(layer.kernel, expected)


@pytest.mark.parametrize("key", [
    42, np.int64(42), jnp.array(42), jax.random.PRNGKey(42), np.array([0, 42], "u4")
], ids=["int", "numpy", "jax", "key", "numpy key"])  # fmt: skip
def test_seeds_and_keys(key):
    np.testing.assert_array_equal(Two().init(key, X).a.w, Two().init(42, X).a.w)


def test_typed_keys():
    typed = Compact().init(jax.random.key(42), X)
    np.testing.assert_array_equal(typed.linear.kernel,
                                  Compact().init(42, X).linear.kernel)  # fmt: skip
    with pytest.raises(ArgumentTypeError):
        Two().init("seed", X)


def test_init_returns_a_copy_unless_told_otherwise():
    module = Two()
    done = module.init(0, X)
    assert done.initialized and done.a.initialized and not module.initialized
    assert module.init(0, X, inplace=True) is module and module.a.initialized


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (tx.Inputs(1, b=2), (1,), {"b": 2}),
        ((1, 2), (1, 2), {}),
        ({"a": 1}, (), {"a": 1}),
        ([1], ([1],), {}),
        (None, (None,), {}),
    ],
)
def test_inputs_become_arguments(inputs, args, kwargs):
    seen = []

    class Spy(tx.Module):
        def call_me(self, *args, **kwargs):
            seen.append((args, kwargs))

    Spy().init(0, inputs, "call_me")
    assert seen == [(args, kwargs)]
    with pytest.raises(AttributeError):
        Spy().init(0, 1, "absent")


def test_initializers_and_rng_init_run_once():
    runs = []

    class Noisy(tx.Module):
        b: Any = tx.Parameter.node()
        a: Any = tx.Parameter.node()
        inner: Any = tx.node(None)

        def __init__(self, inner=None):
            self.a = tx.Initializer(lambda key: key)
            self.b = [tx.Initializer(lambda key: key)]
            self.inner = inner

        def rng_init(self):
            runs.append(self.name)
            self.drawn = tx.next_key()

    module = Noisy(Noisy())
    module.name = "outer"
    assert isinstance(jax.jit(lambda m: m)(module).a, tx.Initializer)
    done = module.init(42)
    keys = stream(jax.random.PRNGKey(42), 6)
    np.testing.assert_array_equal(done.a, keys[0])
    np.testing.assert_array_equal(done.b[0], keys[1])
    np.testing.assert_array_equal(done.inner.a, keys[2])
    np.testing.assert_array_equal(done.drawn, keys[5])
    assert runs == ["noisy", "outer"]
    np.testing.assert_array_equal(done.init(7).a, done.a)
    assert len(runs) == 2


def test_init_again_keeps_parameters_and_calls():
    two = Two().init(0, X)
    again = two.init(1, X)
    np.testing.assert_array_equal(two.a.w, again.a.w)
    assert (int(two.a.calls), int(again.a.calls)) == (1, 2)


def test_pretrained_children_keep_parameters_and_modes():
    model = Two()
    model.a = Dense(3).init(7, jnp.ones((1, 4))).freeze().eval()
    done = model.init(0, X)
    np.testing.assert_array_equal(done.a.w, model.a.w)
    assert done.a.frozen and not done.a.training and done.b.initialized


def test_init_works_inside_transformations():
    shapes = jax.eval_shape(lambda: Two().init(0, X))
    assert shapes.a.w.shape == (4, 3)
    assert jax.jit(lambda k: Two().init(k, X))(jax.random.PRNGKey(0)).initialized
    many = jax.vmap(lambda k: Two().init(k, X))(jax.random.split(jax.random.key(0), 3))
    assert many.b.w.shape == (3, 2, 4) and not jnp.all(many.b.w[0] == many.b.w[1])


def test_children_made_while_initializing():
    class Lazy(tx.Module):
        def __call__(self, x):
            if self.initializing():
                self.inner = tx.Linear(x.shape[-1])
                self.done = tx.Linear(3).init(tx.next_key(), x)
            return self.done(self.inner(x))

    lazy = Lazy().init(0, X)
    assert lazy.inner.initialized and lazy(X).shape == (5, 3)


def test_calling_before_init_is_named():
    with pytest.raises(RuntimeError) as caught:
        Two()(X)
    assert isinstance(caught.value, NotInitializedError)
    with tx.rng_key(0), pytest.raises(NotInitializedError):
        tx.Linear(3)(X)


@pytest.mark.parametrize("layer", [tx.Linear(3), tx.BatchNorm(), tx.LayerNorm(),
                                   tx.Embed(2, 2), tx.nn.GRU(2)])  # fmt: skip
def test_init_without_inputs_is_named_at_the_call(layer):
    done = layer.init(0)
    assert done.initialized
    with pytest.raises(MissingVariableError, match="no inputs"):
        done(jnp.ones((1, 2, 2)))


def test_next_key_needs_a_stream():
    with pytest.raises(NoKeyError):
        tx.next_key()
    with tx.rng_key(0):
        outer = tx.next_key()
        with tx.rng_key(0):
            np.testing.assert_array_equal(tx.next_key(), outer)
        assert not jnp.all(tx.next_key() == outer)
    keys = jax.vmap(lambda _: _with_key(), axis_name="i")(jnp.arange(2))
    assert not jnp.all(keys[0] == keys[1])


def _with_key():
    with tx.rng_key(0):
        return tx.next_key(axis_name="i")


def test_init_is_safe_in_threads():
    found = {}

    def work(seed):
        found[seed] = Compact().init(seed, X).linear.kernel

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        expected = Compact().init(seed, X).linear.kernel
        np.testing.assert_array_equal(found[seed], expected)


def test_modes_reach_everything_inside():
    model = Two()
    assert not model.eval().a.training and model.a.training
    frozen = model.freeze(inplace=True)
    assert frozen is model and model.a.frozen
    assert not model.unfreeze().a.frozen and not model.train(False).training
    assert model.train(inplace=True).training


def test_frozen_modules_have_no_trainable_parameters():
    model = Two().init(0, X)
    model.a.freeze(inplace=True)
    assert len(jax.tree.leaves(model.trainable_parameters())) == 1
    assert len(jax.tree.leaves(model.parameters())) == 2

    class Plain(tx.Tree):  # cannot be frozen
        w: Any = tx.Parameter.node(1)

    model.extra = Plain()
    assert len(jax.tree.leaves(model.trainable_parameters())) == 2


def test_compact_children_have_the_modes_of_their_parent():
    model = Compact().eval().freeze().init(0, X)
    assert not model.linear.training and model.linear2.frozen


def test_compact_children_need_a_key():
    with pytest.raises(NoKeyError, match="`Linear`"):
        Compact()(X)


def test_compact_module():
    @tx.compact_module
    def block(x, units=3):
        x = tx.Linear(4)(x)
        return tx.Linear(units)(x)

    @tx.compact_module
    def model(x):
        return block()(block()(x))

    done = model(name="other").init(0, (X,))
    assert model.__name__ == "model" and done.name == "other"
    # The outer constructor of a nested expression runs first.
    assert (done.block2.linear.kernel.shape, done(X).shape) == ((2, 4), (5, 3))
    assert done._subtrees == ("block", "block2") and done(X).shape == (5, 3)


def test_preserve_state():
    class Heads(tx.Module):
        @tx.preserve_state(jax.vmap, axis_name="head")
        @tx.compact
        def __call__(self, x):
            """Documented."""
            return tx.Linear(4, axis_name="head")(x)

    assert Heads.__call__.__doc__ == "Documented."
    heads = Heads().init(0, jnp.ones((3, 5, 2)))
    assert heads.linear.kernel.shape == (3, 2, 4)
    assert heads.linear.bias.shape == (3, 4)
    assert not jnp.all(heads.linear.kernel[0] == heads.linear.kernel[1])
    assert heads(jnp.ones((3, 5, 2))).shape == (3, 5, 4)


def test_preserve_state_keeps_changes():
    class Counter(tx.Module):
        n: Any = tx.State.node()

        def __init__(self):
            self.n = jnp.array(0)

        @tx.preserve_state(jax.jit)
        def __call__(self):
            self.n = self.n + 1
            return self.n

    counter = Counter()
    assert [int(counter()) for _ in range(3)] == [1, 2, 3] and int(counter.n) == 3
    step = jax.jit(lambda m: (m(), m))
    _, after = step(counter)
    assert (int(counter.n), int(after.n)) == (3, 4)


def test_a_merge_in_place_after_vmap():
    class Heads(tx.Linear):
        def __call__(self, x):
            def call(module, x):
                y = tx.Linear.__call__(module, x)
                return module, y

            module, y = jax.vmap(call, axis_name="head")(self, x)
            self.merge(module, inplace=True)
            return y

    heads = Heads(4, axis_name="head").init(0, jnp.ones((3, 5, 2)))
    assert heads.kernel.shape == (3, 2, 4)
    assert heads(jnp.ones((3, 5, 2))).shape == (3, 5, 4)


def test_a_method_can_be_compiled():
    class Counter(tx.Module):
        n: Any = tx.State.node(0)

        @jax.jit
        def step(self):
            self.n += 1
            return self

    counter = Counter().step().step()
    assert int(counter.n) == 2 and counter.step._cache_size() <= 2
