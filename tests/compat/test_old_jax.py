"""Names that JAX has removed, given back to old programs."""

from __future__ import annotations

import importlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.compat import old_jax, old_jax_functions

X = np.arange(3.0)


@pytest.fixture
def told():
    """The names announced, with the old names in place."""
    names: dict[str, str] = {}
    old_jax.used.clear()
    old_jax.restore(announce=names.__setitem__)
    yield names
    old_jax.remove()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # there, and going
def test_every_name_of_the_table_is_there(told):
    private = "jax._src"  # may move with any version of JAX
    for module, names in old_jax.NAMES.items():
        for name, target in names.items():
            if private not in target:
                getattr(importlib.import_module(module), name)
    for module in old_jax.ELSEWHERE:
        importlib.import_module(module)
    assert told["jax.tree_map"] == "jax.tree.map"
    written = {t[1:] for ns in old_jax.NAMES.values() for t in ns.values() if "!" in t}
    assert written == old_jax_functions.NOW.keys()


def test_each_is_announced_once_and_gone_afterwards():
    names: list[str] = []
    old_jax.used.clear()
    old_jax.restore(announce=lambda name, now: names.append(name))
    old_jax.restore()
    from jax import tree_map
    from jax.config import config
    from jax.experimental import optimizers

    assert tree_map is jax.tree_map is jax.tree.map
    assert config is jax.config
    assert optimizers.adam(0.1)
    assert sorted(names) == [
        "jax.config.config", "jax.experimental.optimizers.adam", "jax.tree_map",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="'jax' has no attribute 'never'"):
        jax.never  # noqa: B018
    old_jax.remove()
    assert not hasattr(jax, "tree_map")
    assert not hasattr(jax.experimental, "optimizers")
    with pytest.raises(ImportError):
        importlib.import_module("jax.config")


def test_functions_do_what_they_did(told):
    index = jax.ops.index
    np.testing.assert_array_equal(jax.ops.index_update(X, index[1], 5), [0, 5, 2])
    np.testing.assert_array_equal(jax.ops.index_add(X, index[1:], 5), [0, 6, 7])
    np.testing.assert_array_equal(jax.ops.index_mul(X, index[2], 5), [0, 1, 10])
    np.testing.assert_array_equal(jax.ops.index_min(X, 2, 1), [0, 1, 1])
    np.testing.assert_array_equal(jax.ops.index_max(X, 0, 1), [1, 1, 2])
    np.testing.assert_array_equal(jnp.in1d(X[None], X[1]), [False, True, False])
    np.testing.assert_array_equal(jnp.msort(X[::-1]), X)
    assert jnp.asscalar(jnp.ones(())) == 1
    assert jnp.alltrue(X >= 0) and not jnp.sometrue(X < 0)
    assert float(jnp.trapz(X)) == 2 and jnp.NINF == -np.inf
    assert jax.lax.tie_in(1, 2) == 2
    devices = jax.local_devices()
    assert jax.device_put_replicated(X, devices).shape == (len(devices), 3)
    assert jax.device_put_sharded([X] * len(devices), devices).shape[0] == len(devices)
    assert "HloModule" in jax.xla_computation(lambda x: x + 1)(X).as_hlo_text()
    with jax.experimental.enable_x64():
        assert jnp.ones(1, "float64").dtype == "float64"
    with jax.spmd_mode("allow_all"):
        assert jax.core.raise_to_shaped(jax.core.get_aval(1.0)) is not None


def test_host_callbacks(told, capfd):
    from jax.experimental import host_callback as hcb

    seen = []

    def run(x):
        x = hcb.id_print(x, what="x")
        x = hcb.id_tap(lambda value, _: seen.append(value.sum()), x)
        hcb.call(lambda value: seen.append(value[0]), x)
        return hcb.call(lambda value: value * 2, x, result_shape=x)

    np.testing.assert_array_equal(jax.jit(run)(X), 2 * X)
    jax.effects_barrier()
    assert sorted(map(float, seen)) == [0, 3]
    assert "x [0. 1. 2.]" in capfd.readouterr().out


def test_jax_may_be_imported_later():
    program = (
        "import sys\nfrom linsey.compat import old_jax\nold_jax.restore()\n"
        "assert 'jax' not in sys.modules\n"
        "import jax, jax.linear_util\nfrom jax.abstract_arrays import ShapedArray\n"
        "print(jax.tree_map(abs, [-1]), jax.linear_util.wrap_init.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout.split() == ["[1]", "wrap_init"], done.stderr
    assert done.stderr.count("JAX has removed") == 3
