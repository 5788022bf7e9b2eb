"""What users may write: no type checker may find an error in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

import linsey
from linsey import config, errors, optim, struct, traverse_util
from linsey import linen as nn
from linsey.core import FrozenDict, freeze, unfreeze
from linsey.serialization import from_bytes, to_bytes
from linsey.training.train_state import TrainState
from linsey.typing import Dtype, FrozenVariableDict


class Block(nn.Module):
    features: int
    norm: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = True) -> jax.Array:
        x = nn.Dense(features=self.features, name="dense")(x)
        x = nn.Dense(self.features, kernel_init=nn.initializers.ones)(x)
        x = nn.Dense(self.features, bias_init=nn.initializers.zeros_init())(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, axis_name=None)(x)
        return nn.relu(x)


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = nn.vmap(
            nn.Dense,
            in_axes=0,
            out_axes=0,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        return dense(features=3)(x)


@struct.dataclass
class Point:
    x: jax.Array
    y: jax.Array
    name: str = struct.field(pytree_node=False, default="point")


class Average(struct.PyTreeNode):
    total: float
    count: int = 0


@struct.dataclass
class Extremes(Average):
    least: float = 0.0


class State(TrainState):
    batch_stats: Any


class Sign(optim.OptimizerDef):
    def init_param_state(self, param: jax.Array) -> tuple[()]:
        return ()

    def apply_param_gradient(
        self,
        step: jax.Array,
        hyper_params: Extremes,
        param: jax.Array,
        state: tuple[()],
        grad: jax.Array,
    ) -> tuple[jax.Array, tuple[()]]:
        return param - hyper_params.least * jnp.sign(grad), state


class Clipped(optim.Adam):
    pass


def modules(key: jax.Array) -> jax.Array:
    model = Block(features=3, name="block", parent=None)
    Block(3, norm=False, name="other")
    variables = model.init(key, jnp.ones((2, 3)))
    out = model.apply(variables, jnp.ones((2, 3)), train=False)
    y, updates = model.apply(variables, jnp.ones((2, 3)), mutable=["batch_stats"])
    clone = model.clone(features=4)
    assert isinstance(clone, Block) and clone.features == 4
    Ensemble().init(key, jnp.ones((2, 3, 4)))
    nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    nn.LSTMCell(features=3)
    nn.Sequential([nn.Dense(3), nn.relu])
    nn.remat(nn.Dense)(features=3)
    nn.initializers.lecun_normal()
    return jnp.asarray(out) + jnp.asarray(y)


def dataclasses(point: Point, average: Average) -> tuple[jax.Array, str, float]:
    moved = replace(point, x=point.x + 1)
    more = average.replace(count=average.count + 1)
    Extremes(total=3.0).replace(least=1.0).total.is_integer()
    Point(x=jnp.ones(1), y=jnp.ones(1))
    Average(total=3.0)
    return moved.x, moved.name, more.total


def training(params: Any, grads: Any) -> State:
    state = State.create(
        apply_fn=nn.Dense(3).apply, params=params, tx=optax.sgd(0.1), batch_stats={}
    )
    state = state.apply_gradients(grads=grads)
    state = state.replace(batch_stats={"mean": jnp.zeros(3)})
    assert state.batch_stats["mean"].shape == (3,)
    return state


def optimizers(params: Any, grads: Any) -> optim.Optimizer:
    optimizer = optim.Adam(learning_rate=1e-3, beta1=0.8).create(params)
    optimizer = optimizer.apply_gradient(grads, learning_rate=1e-2)
    optimizer = optimizer.replace(target=params)
    Sign(Extremes(total=0.0)).create(params).apply_gradient(grads)
    Clipped(0.1, eps=1e-6).to_optax(learning_rate=optax.constant_schedule(0.1))
    optim.LAMB(0.1, 0.9)
    optim.Adafactor(0.1, dtype_momentum=jnp.bfloat16)
    return optimizer


def trees(frozen: FrozenVariableDict, data: bytes) -> None:
    flat = traverse_util.flatten_dict({"a": {"b": 1}}, sep="/")
    flat["a/b"].bit_length()
    traverse_util.flatten_dict({"a": {"b": 1}})[("a", "b")]
    unfreeze(freeze({"a": 1}))["a"]
    FrozenDict[str, int]({"a": 1}).copy({"a": 2})
    from_bytes({"a": 1}, to_bytes({"a": 1}))
    frozen["params"]


def modules_of_linsey() -> None:
    linsey.linen.Dense(3)
    linsey.optim.Adam(0.1)
    linsey.treex.Linear(3)
    c = linsey.cursor.cursor({"a": 1})
    c["a"] += 1
    c["b"]["c"] = 3 * c["a"]
    assert len(c) and 3 - c["a"] < 4 and "a" in c
    c.build()
    linsey.core.nn.dense  # noqa: B018
    linsey.config.config.update("profile", True)
    config.update("profile", False)
    errors.StateDictMismatchError  # noqa: B018
