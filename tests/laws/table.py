"""The table of all modules: how to make each, and what to call it with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linsey.linen as nn

KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
MUTABLE = ["batch_stats", "cache"]
ABSTRACT = {"Module", "RNNCellBase"}
# No layers: they stand for the product inside one, and are tested there.
PRODUCTS = {
    "Fp8DirectDotGeneralOp",
    "Fp8DotGeneral",
    "Fp8DotGeneralOp",
    "Fp8Einsum",
    "NANOOFp8DotGeneralOp",
}


def normal(*shape: int) -> jax.Array:
    """Fixed random numbers of a shape."""
    numbers = np.random.default_rng(sum(shape)).standard_normal(shape)
    return jnp.asarray(numbers, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """One module.

    Attributes:
        make: makes it; takes `dtype` and `param_dtype` where the module has them.
        args: arguments of its call.
        kwargs: constant keyword arguments of its call.
    """

    make: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def init(self) -> Any:
        """The variables."""
        return self.make().init(KEYS, *self.args, **self.kwargs)

    def apply(
        self, variables: Any, *args: Any, module: Any = None, method: Any = None
    ) -> Any:
        """The result and the collections that may have changed."""
        module = self.make() if module is None else module
        kwargs = self.kwargs if method is None else {}
        rngs = {"dropout": KEYS["dropout"]}
        return module.apply(
            variables, *args, **kwargs, rngs=rngs, mutable=MUTABLE, method=method
        )


def cell(cls: Any, *fields: Any, shape: tuple[int, ...] = (2, 3)) -> Case:
    """A recurrent cell with the carry it begins with."""
    carry = cls(*fields).initialize_carry(jax.random.key(2), shape)
    return Case(functools.partial(cls, *fields), (carry, normal(*shape)))


def rnn(**options: Any) -> Any:
    """A scanned cell."""
    return nn.RNN(nn.SimpleCell(2, **options))


IMAGES, SEQUENCES, ROWS = normal(2, 5, 3), normal(2, 4, 6), normal(4, 3)
CASES = {
    "BatchNorm": Case(functools.partial(nn.BatchNorm, False), (ROWS,)),
    "Bidirectional": Case(
        lambda **o: nn.Bidirectional(rnn(**o), rnn(**o)), (SEQUENCES,)
    ),
    "Conv": Case(functools.partial(nn.Conv, 2, (3,)), (IMAGES,)),
    "ConvLSTMCell": cell(nn.ConvLSTMCell, 2, (2,), shape=(2, 4, 3)),
    "ConvLocal": Case(functools.partial(nn.ConvLocal, 2, (2,)), (IMAGES,)),
    "ConvTranspose": Case(functools.partial(nn.ConvTranspose, 2, (2,)), (IMAGES,)),
    "Dense": Case(functools.partial(nn.Dense, 2), (ROWS,)),
    "DenseGeneral": Case(
        functools.partial(nn.DenseGeneral, (2, 2), axis=(-2, -1)), (IMAGES,)
    ),
    "Dropout": Case(lambda **_: nn.Dropout(0.5, deterministic=False), (ROWS,)),
    "Einsum": Case(functools.partial(nn.Einsum, (3, 2), "...a,ab->...b"), (ROWS,)),
    "Embed": Case(functools.partial(nn.Embed, 5, 3), (jnp.array([[0, 4], [2, 2]]),)),
    "GRUCell": cell(nn.GRUCell, 2),
    "GroupNorm": Case(functools.partial(nn.GroupNorm, 2), (SEQUENCES,)),
    "InstanceNorm": Case(nn.InstanceNorm, (IMAGES,)),
    "LSTMCell": cell(nn.LSTMCell, 2),
    "LayerNorm": Case(nn.LayerNorm, (ROWS,)),
    "MGUCell": cell(nn.MGUCell, 2),
    "MultiHeadAttention": Case(
        functools.partial(nn.MultiHeadAttention, 2), (SEQUENCES,)
    ),
    "MultiHeadDotProductAttention": Case(
        functools.partial(nn.MultiHeadDotProductAttention, 2, dropout_rate=0.5),
        (SEQUENCES, SEQUENCES + 1),
        {"deterministic": False},
    ),
    "OptimizedLSTMCell": cell(nn.OptimizedLSTMCell, 2),
    "PReLU": Case(lambda **o: nn.PReLU(o.get("param_dtype", jnp.float32)), (ROWS,)),
    "RMSNorm": Case(nn.RMSNorm, (ROWS,)),
    "RNN": Case(rnn, (SEQUENCES,)),
    "SelfAttention": Case(functools.partial(nn.SelfAttention, 2), (SEQUENCES,)),
    "Sequential": Case(
        lambda **o: nn.Sequential([nn.Dense(3, **o), jnp.tanh, nn.Dense(2, **o)]),
        (ROWS,),
    ),
    "SimpleCell": cell(nn.SimpleCell, 2),
    "SpectralNorm": Case(
        lambda **o: nn.SpectralNorm(nn.Dense(2, **o)), (ROWS,), {"update_stats": True}
    ),
    "WeightNorm": Case(lambda **o: nn.WeightNorm(nn.Dense(2, **o)), (ROWS,)),
}


def module_names() -> set[str]:
    """The names of all module classes of `linsey.linen`."""
    values = {name: getattr(nn, name) for name in dir(nn)}
    found = {
        name
        for name, value in values.items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    return found - ABSTRACT - PRODUCTS


@functools.cache
def outcome(name: str) -> tuple[Any, Any, Any]:
    """The variables of a module, its result and what changed, computed plainly."""
    case = CASES[name]
    variables = case.init()
    return (variables, *case.apply(variables, *case.args))


def tolerance(dtype: Any) -> float:
    """What a few hundred roundings of numbers near one may add up to."""
    return 64 * float(jnp.finfo(dtype).eps)


def assert_close(found: Any, expected: Any, atol: float) -> None:
    """Trees agree in structure, shapes and dtypes, and in values up to `atol`."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        one, other = (np.asarray(x).astype(np.float64) for x in (a, b))
        np.testing.assert_allclose(one, other, rtol=atol, atol=atol)


def with_floats(args: Any, dtype: Any) -> Any:
    """The arguments with their floating arrays in another dtype."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, args
    )
