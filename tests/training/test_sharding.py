"""Divided states: where their arrays are, and that they are trained as whole ones."""

from __future__ import annotations

import functools
import math
import os
import socket
import subprocess
import sys
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

import linsey.linen as nn
import linsey.treex as tx
from benchmarks.models import large
from linsey.errors import OptionError, ShapeError
from linsey.training import state_sharding
from tests.training import sharded_states

EIGHT = AbstractMesh((8,), ("data",))
GRID = AbstractMesh((4, 2), ("data", "model"))


def spec_of(shape: tuple[int, ...], mesh: Any = EIGHT, **options: Any) -> Any:
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    return state_sharding(leaf, mesh, **{"min_size": 64, **options}).spec


# -- the rule --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 16), (None, "data")),
        ((24, 16), ("data",)),
        ((16, 16), (None, "data")),  # of equal ones the last
        ((8, 1001), ("data",)),  # the longest does not divide
        ((3, 3, 16, 8), (None, None, "data")),
        ((64,), ("data",)),
        ((7, 3, 11), ()),  # none divides
        ((56,), ()),  # too small
        ((0, 8), ()),
        ((), ()),
    ],
)
def test_the_longest_axis_that_divides_is_divided(shape, spec):
    assert spec_of(shape) == PartitionSpec(*spec)


def test_axis_and_size_can_be_chosen():
    assert spec_of((8, 16), GRID) == PartitionSpec(None, "data")
    assert spec_of((8, 16), GRID, axis="model") == PartitionSpec(None, "model")
    both = ("data", "model")
    assert spec_of((8, 12), GRID, axis=both) == PartitionSpec(both)
    assert spec_of((2, 4), GRID, min_size=8) == PartitionSpec(None, "data")
    assert spec_of((8, 16), GRID, min_size=129) == PartitionSpec()


def test_numbers_keys_and_statistics_stay_whole():
    state = {
        "step": 3,
        "noise": jax.random.key(0),
        "batch_stats": {"BatchNorm_0": {"mean": jnp.ones(64)}},
        "average": {"batch_stats": {"var": jnp.ones(64)}, "params": jnp.ones(64)},
        "none": None,
    }
    found = state_sharding(state, EIGHT, min_size=1)
    assert found.pop("none") is None
    assert found["average"].pop("params").spec == PartitionSpec("data")
    layer = state_sharding({"mean": {"kernel": jnp.ones(64)}}, EIGHT, min_size=1)
    assert layer["mean"]["kernel"].spec == PartitionSpec("data")
    assert all(s.is_fully_replicated for s in jax.tree.leaves(found))
    other = state_sharding(state, EIGHT, min_size=1, whole=["params"])
    assert other["average"]["batch_stats"]["var"].spec == PartitionSpec("data")


@pytest.mark.parametrize("optimizer", [optax.adam, optax.lamb, optax.adabelief])
def test_what_an_optimizer_remembers_is_divided_as_the_parameter(optimizer):
    params = {"w": jnp.ones((8, 16)), "b": jnp.ones(16)}
    mean = optimizer(0.1).init(params)[0]
    found = state_sharding((params, mean), EIGHT, min_size=64)
    assert found[0]["w"].spec == PartitionSpec(None, "data")
    assert found[1].mu == found[1].nu == found[0]


def test_a_state_of_resnet_50_takes_an_eighth_of_the_memory_of_eight_devices():
    model, optimizer = large.resnet("linsey", large.Sizes(), None), optax.adam(0.1)

    def create():
        variables = model.init(jax.random.key(0), jnp.ones((1, 64, 64, 3)))
        return variables, optimizer.init(variables["params"])

    variables, opt_state = jax.eval_shape(create)
    shardings = state_sharding((variables, opt_state), EIGHT)
    whole, part = 0, 0
    kept = variables["params"], opt_state
    where = shardings[0]["params"], shardings[1]
    for leaf, sharding in zip(*map(jax.tree.leaves, (kept, where)), strict=True):
        whole += leaf.size
        part += math.prod(sharding.shard_shape(leaf.shape))
    assert whole > 3 * 25e6
    assert part <= 1.05 * whole / 8
    statistics = jax.tree.leaves(shardings[0]["batch_stats"])
    assert all(s.is_fully_replicated for s in statistics)


# -- names in boxes --------------------------------------------------------------------


def boxed(library: Any, names: Any, wrap: str = "with_partitioning") -> Any:
    """The shapes of parameters whose kernel has names."""
    init = getattr(library, wrap)(library.initializers.ones, names)
    layer = library.Dense(16, kernel_init=init)
    return jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8)))["params"]


@pytest.mark.parametrize("library", [nn, flax.linen], ids=["linsey", "flax"])
class TestBoxes:
    """Those of linsey and of Flax."""

    def spec(self, params, mesh=GRID, **options):
        found = state_sharding(params, mesh, min_size=16, **options)
        assert jax.tree.structure(found) == jax.tree.structure(params)
        assert found["bias"].spec == PartitionSpec("data")  # by the rule
        return found["kernel"].value.spec

    def test_the_model_says_what_is_divided(self, library):
        params = boxed(library, ("model", None))
        assert self.spec(params) == PartitionSpec("model", None)
        whole = boxed(library, (None, None))
        assert self.spec(whole) == PartitionSpec(None, None)
        both = boxed(library, (None, ("data", "model")))
        assert self.spec(both) == PartitionSpec(None, ("data", "model"))

    def test_a_rule_takes_the_place_of_a_name(self, library):
        params = boxed(library, ("model", "data"))
        rules = [("model", None)]
        assert self.spec(params, EIGHT, rules=rules) == PartitionSpec(None, "data")

    def test_logical_names_become_axes_of_the_mesh(self, library):
        params = boxed(library, ("embed", "mlp"), "with_logical_partitioning")
        rules = (("mlp", "model"), ("embed", "data"))
        assert self.spec(params, rules=rules) == PartitionSpec("data", "model")
        assert self.spec(params, rules=rules[:1]) == PartitionSpec(None, "model")
        with nn.logical_axis_rules(rules):
            assert self.spec(params) == PartitionSpec("data", "model")

    def test_sums_that_an_optimizer_keeps_in_a_box_are_divided_by_the_rule(
        self, library
    ):
        params = boxed(library, ("model", "data"))
        factored = optax.scale_by_factored_rms(min_dim_size_to_factor=1)
        params = jax.tree.map(lambda x: jnp.ones(x.shape), params)
        state = factored.init(params)
        found = state_sharding(state, GRID, min_size=16)
        for sums in (state.v_row, state.v_col, state.v):
            shape = sums["kernel"].value.shape
            assert len(shape) == 1
        assert found.v_col["kernel"].value.spec == PartitionSpec("data")
        assert found.v_row["kernel"].value.is_fully_replicated

    def test_names_that_do_not_fit_are_refused(self, library):
        params = boxed(library, ("model", None))
        with pytest.raises(OptionError, match="kernel` names the mesh axis 'model'"):
            state_sharding(params, EIGHT)
        with pytest.raises(ShapeError, match=r"shape \(8, 16\), and axis 0 is divided"):
            state_sharding(params, AbstractMesh((3,), ("model",)))


def test_rules_of_a_box_are_those_of_its_model():
    init = nn.with_logical_partitioning(
        nn.initializers.ones, ("in", "out"), rules=(("out", "model"),)
    )
    box = init(jax.random.key(0), (8, 16), jnp.float32)
    assert state_sharding(box, GRID).value.spec == PartitionSpec(None, "model")


def test_modules_of_treex_keep_their_structure():
    net = tx.Sequential(tx.Linear(64), tx.BatchNorm()).init(1, jnp.ones((2, 16)))
    optimizer = tx.Optimizer(optax.adam(0.1)).init(net.parameters())
    found, of_optimizer = state_sharding((net, optimizer), EIGHT, min_size=64)
    linear, norm = found.layers
    assert isinstance(linear, tx.Linear) and isinstance(of_optimizer, tx.Optimizer)
    assert linear.kernel.spec == PartitionSpec(None, "data")
    assert norm.mean.spec == norm.var.spec == PartitionSpec()
    assert linear.kernel in of_optimizer.opt_state[0].mu


# -- training, and checkpoints ---------------------------------------------------------


def started(devices: int, *arguments: object) -> subprocess.Popen[bytes]:
    flags = f"--xla_force_host_platform_device_count={devices} "
    flags += "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
    command = [sys.executable, "-m", sharded_states.__name__, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "XLA_FLAGS": flags})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `sharded_states` writes of a way, from a process that has eight devices."""
    folder = tmp_path_factory.mktemp("sharded")

    @functools.cache
    def results(name: str) -> dict[str, Any]:
        target = folder / f"{name}.npz"
        assert started(8, target, name).wait() == 0
        with np.load(target) as found:
            return dict(found)

    return results


# The one with boxes has arrays that are divided by the rule as well.
each_way = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "boxes" else pytest.mark.slow)
        for name in sharded_states.WAYS
    ],
)


def under(results: dict[str, Any], prefix: str) -> dict[str, Any]:
    found = {
        k.removeprefix(prefix): v for k, v in results.items() if k.startswith(prefix)
    }
    assert found, prefix
    return found


@each_way
def test_a_divided_state_is_trained_as_a_whole_one(trained, name):
    expected = under(trained(name), "one/value/")
    found = under(trained(name), "divided/value/")
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        is_first = path.partition("/")[0] in ("outputs", "statistics")
        scale = max(np.abs(value).max(), 1e-30)
        np.testing.assert_allclose(
            found[path] / scale, value / scale, rtol=0,
            atol=1e-6 if is_first else 1e-5, err_msg=path,
        )  # fmt: skip


@each_way
def test_steps_keep_the_state_divided_and_reuse_its_memory(trained, name):
    facts = under(trained(name), "divided/fact/")
    assert facts["kept"] and facts["given_up"]
    specs = under(trained(name), "divided/spec/")
    kernels = {str(s) for path, s in specs.items() if path.endswith("0/kernel")}
    axis = "model" if name == "boxes" else "data"
    assert kernels == {str((None, axis))}
    statistics = [s for path, s in specs.items() if path.endswith(("mean", "var"))]
    assert statistics and set(map(str, statistics)) == {"()"}


def test_checkpoints_of_divided_and_whole_states_are_restored_on_any_mesh(trained):
    facts = under(trained("boxes"), "divided/fact/restored/")
    assert len(facts) == 4 * 3 + 2 * 3 * 2
    assert not [name for name, is_same in facts.items() if not is_same]


@pytest.mark.slow
def test_two_processes_train_one_divided_state(trained, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = tmp_path / "results.npz"
    processes = [started(2, target, port, rank) for rank in range(2)]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    expected = under(trained("rule"), "one/value/state/")
    with np.load(target) as found:
        assert set(found) == expected.keys()
        for path, value in expected.items():
            scale = max(np.abs(value).max(), 1e-30)
            np.testing.assert_allclose(
                found[path] / scale, value / scale, rtol=0, atol=1e-5, err_msg=path
            )
