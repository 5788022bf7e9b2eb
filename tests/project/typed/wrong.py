"""What no user means: each type checker must find an error in each marked line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import optax

import linsey
from linsey import core, errors, optim, struct, typing
from linsey import linen as nn
from linsey.training.train_state import TrainState


class Block(nn.Module):
    features: int


@struct.dataclass
class Point:
    x: float
    y: float = 0.0


class Average(struct.PyTreeNode):
    total: float
    count: int = 0


class State(TrainState):
    batch_stats: Any


class Clipped(optim.Adam):
    pass


def names() -> None:
    nn.Dens  # error
    nn.initializers.one  # error
    linsey.linnen  # error
    errors.ScopeParamShapeEror  # error
    core.FrozenDct  # error
    typing.Dtyp  # error


def modules() -> None:
    nn.Dense(features=3)
    nn.Dense(feature=3)  # error
    nn.Dense()  # error
    nn.BatchNorm(momentun=0.9)  # error
    Block(features=3, name="block", parent=None)
    Block(feature=3)  # error
    Block(features="3")  # error
    nn.vmap(nn.Dense, in_axis=0)  # error


def dataclasses(point: Point, average: Average) -> None:
    Point(x=1.0)
    Point(z=1.0)  # error
    Average(count=3)  # error
    point.x = 3.0  # error
    replace(point, x=3.0).z  # error
    average.replace(count=3).cuont  # error


def training(state: State) -> None:
    state.apply_gradient(grads={})  # error
    state.replace(batch_stats={}).batch_statistics  # error
    State.create(apply_fn=None, params={}, tx=optax.sgd(0.1)).batch_stat  # error


def optimizers() -> None:
    optim.Adam(learning_rate=1e-3)
    optim.Adam(learning_rat=1e-3)  # error
    Clipped(beta="0.1")  # error
    optim.Momentum(nesterov="yes")  # error
    optim.Adan(1e-3)  # error
    optim.Adam(1e-3).create({"w": jnp.ones(3)}).targets  # error
