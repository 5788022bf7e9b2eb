"""Modules across pickles, processes' boundaries, threads and tasks."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.config import config
from tests.compat.agreement import KEY, X


def cube(x):
    """An activation that can be pickled, as functions compiled by jax cannot."""
    return x**3


class MLP(nn.Module):
    """A compact module with a field that is a function."""

    width: int = 3
    activation: Callable[..., Any] = cube

    @nn.compact
    def __call__(self, x):
        """Two layers."""
        return nn.Dense(2)(self.activation(nn.Dense(self.width)(x)))


class Coder(nn.Module):
    """A module with `setup`, a field that holds modules, and state."""

    parts: Any

    def setup(self):
        """Makes one more layer."""
        self.last = nn.Dense(2)

    def __call__(self, x):
        """Applies all of them."""
        return self.last(self.parts[1]["a"](self.parts[0](x)))


def coder():
    """A coder whose fields can all be pickled."""
    zeros = nn.initializers.zeros
    norm = nn.BatchNorm(use_running_average=False)
    return Coder((nn.Dense(3, kernel_init=zeros), {"a": norm}))


VmapMLP = nn.vmap(MLP, variable_axes={"params": 0}, split_rngs={"params": True})
MODULES = [
    MLP(),
    MLP(4, jax.lax.tanh, name="named"),
    coder(),
    VmapMLP(),
    nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)]),
    nn.Conv(2, (3,), kernel_init=nn.initializers.normal()),
]


def data(module):
    return jnp.stack([X, X]) if isinstance(module, VmapMLP) else X


def assert_same_model(ours, theirs):
    x = data(ours)
    variables = ours.init(KEY, x)
    found = theirs.init(KEY, x)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    outputs = [
        m.apply(variables, x, mutable=["batch_stats"])[0] for m in (ours, theirs)
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("module", MODULES[:3], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickles_of_a_module_are_the_module(module, protocol):
    again = pickle.loads(pickle.dumps(module, protocol))
    assert again == module
    assert repr(again) == repr(module)
    assert_same_model(module, again)


def test_the_state_in_pickles_of_older_versions_is_a_module():
    state = {"parent": None, "name": None, "width": 4, "activation": cube, "_phase": 1}
    again = object.__new__(MLP)
    again.__setstate__(state)
    assert vars(again) == vars(MLP(4))
    assert_same_model(MLP(4), again)


def test_a_copy_of_a_bound_module_is_set_up_by_itself():
    model = coder()
    variables = model.init(KEY, X)
    bound = model.bind(variables, mutable=["batch_stats"])
    y = copy.copy(bound)(X)
    np.testing.assert_array_equal(
        y, model.apply(variables, X, mutable=["batch_stats"])[0]
    )
    assert "last" not in vars(bound)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_cloudpickles_of_a_module_are_the_module(module):
    again = cloudpickle.loads(cloudpickle.dumps(module))
    assert_same_model(module, again)


def test_copies_of_a_module_are_the_module():
    for again in (copy.copy(MODULES[2]), copy.deepcopy(MODULES[2])):
        assert again == MODULES[2]
        assert_same_model(MODULES[2], again)


def test_a_class_that_exists_only_in_a_function_travels_by_value():
    def make():
        class Local(nn.Module):
            scale: float = 2.0

            @nn.compact
            def __call__(self, x):
                return super_scale(self) * nn.Dense(2)(x)

            @property
            def doubled(self):
                return 2 * self.scale

        def super_scale(module):
            return module.doubled

        return Local

    Local = make()
    again = cloudpickle.loads(cloudpickle.dumps(Local))
    assert again.__name__ == "Local"
    assert_same_model(Local(3.0), again(3.0))
    assert_same_model(Local(3.0), cloudpickle.loads(cloudpickle.dumps(Local(3.0))))


def test_copies_of_a_bound_module_are_bound():
    model = MLP()
    bound = model.bind(model.init(KEY, X))
    for again in (copy.copy(bound), copy.deepcopy(bound)):
        np.testing.assert_array_equal(again(X), bound(X))


def test_a_bound_module_travels_as_its_description():
    model = MLP(4)
    variables = model.init(KEY, X)
    again = pickle.loads(pickle.dumps(model.bind(variables)))
    assert again == model
    np.testing.assert_array_equal(again.apply(variables, X), model.apply(variables, X))


def test_a_class_that_travels_by_value_uses_the_state_of_this_process():
    class Local(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    again = cloudpickle.loads(cloudpickle.dumps(Local))
    seen = []

    def note(next_fun, args, kwargs, context):
        seen.append(context.module.name)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        again().init(KEY, X)
    assert seen == [None, "Dense_0"]
    assert cloudpickle.loads(cloudpickle.dumps(config)) is config


def test_methods_travel():
    model = MLP()
    variables = model.init(KEY, X)
    apply = cloudpickle.loads(cloudpickle.dumps(model.apply))
    np.testing.assert_array_equal(apply(variables, X), model.apply(variables, X))


def test_threads_run_their_own_models():
    """Names, scopes and interceptors of one thread are unknown to the others."""
    start = threading.Barrier(4)
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        model = nn.Sequential([nn.Dense(i + 1), MLP(i + 2)])

        def count(next_fun, args, kwargs, context):
            seen.append(context.module.path)
            return next_fun(*args, **kwargs)

        start.wait()
        for _ in range(5):
            seen: list[Any] = []
            with nn.intercept_methods(count):
                variables = model.init(jax.random.key(i), X)
        results[i] = (variables, len(seen))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        variables, calls = results[i]
        model = nn.Sequential([nn.Dense(i + 1), MLP(i + 2)])
        expected = model.init(jax.random.key(i), X)
        assert list(variables["params"]) == ["layers_0", "layers_1"]
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
        assert calls == 5


def test_one_module_object_in_several_threads():
    model = coder()
    expected = model.init(KEY, X)
    results = []

    def work() -> None:
        for _ in range(5):
            results.append(model.init(KEY, X))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for found in results:
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_tasks_that_take_turns():
    """An interceptor of one task that waits is unknown to the other."""
    seen: dict[int, list[Any]] = {2: [], 3: []}

    async def initialise(width):
        def note(next_fun, args, kwargs, context):
            seen[width].append(context.module.width)
            return next_fun(*args, **kwargs)

        only_dense = MLP(width, name="outer")
        with nn.intercept_methods(_of(MLP, note)):
            await asyncio.sleep(0)
            variables = only_dense.init(KEY, X)
            await asyncio.sleep(0)
            return variables

    async def both():
        return await asyncio.gather(initialise(2), initialise(3))

    for width, variables in zip((2, 3), asyncio.run(both()), strict=True):
        assert seen[width] == [width]
        assert variables["params"]["Dense_1"]["bias"].shape == (width,)


def _of(cls, interceptor):
    """Restricts an interceptor to modules of a class."""

    def restricted(next_fun, args, kwargs, context):
        if not isinstance(context.module, cls):
            return next_fun(*args, **kwargs)
        return interceptor(next_fun, args, kwargs, context)

    return restricted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("linen.attention.dot_product", "dot_product_attention"),
        ("linen.attention.multi_head", "MultiHeadDotProductAttention"),
        ("linen.linear.einsum", "Einsum"),
        ("linen.linear.embed", "Embed"),
        ("linen.recurrent.bidirectional", "Bidirectional"),
        ("linen.recurrent.gated", "GRUCell"),
        ("linen.recurrent.lstm", "LSTMCell"),
    ],
)
def test_pickles_that_name_the_files_of_older_versions_can_be_read(file, name):
    """In a process that has imported nothing, as the one that reads them may be."""
    program = f"import pickle; print(pickle.loads({pickled(file, name)!r}).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == name


def pickled(file, name):
    """What `pickle.dumps` wrote for a class or function of that file."""
    return f"clinsey.{file}\n{name}\n.".encode()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dense(2),
        nn.Conv(2, (3,), name="named"),
        nn.RNN(nn.LSTMCell(3)),
        nn.Sequential([nn.Dense(2), nn.Embed(3, 2)]),
        nn.WeightNorm(nn.MultiHeadAttention(2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_with_default_initializers_can_be_pickled_and_copied(layer):
    for again in pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer):
        assert again == layer
        assert vars(again).keys() == vars(layer).keys()


def test_methods_of_a_bound_layer_can_be_pickled():
    dense = nn.Dense(2)
    variables = {"params": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    again = pickle.loads(pickle.dumps(dense.bind(variables)))
    assert again == dense
    apply = pickle.loads(pickle.dumps(dense.apply))
    np.testing.assert_array_equal(apply(variables, X), dense.apply(variables, X))


def test_a_field_that_was_changed_is_in_the_pickle():
    dense = nn.Dense(2, kernel_init=cube, bias_init=nn.initializers.ones)
    again = pickle.loads(pickle.dumps(dense))
    assert again.kernel_init is cube
    assert again.bias_init is nn.initializers.ones
