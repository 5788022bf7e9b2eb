"""Division of a batch into microbatches, and combination of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.tree_util import KeyEntry

from linsey.batch_stats.microbatches.flat_program import (
    Function,
    trace,
    without_loops,
)
from linsey.batch_stats.microbatches.synchronize import STATS
from linsey.errors import (
    ArgumentTypeError,
    ShapeError,
    UnsynchronizedStatisticsError,
)

PyTree = Any
LossFn = Callable[..., tuple[Array, PyTree]]
Path = tuple[KeyEntry, ...]


class DividedCall:
    """The arguments of one call, and the loss as a function of arrays.

    Args:
        loss_fn: `loss_fn(params, *others, batch) -> (loss, aux)`.
        k: number of microbatches.
        context: makes a context in which batch norms see the axis of the given name.
        weight: function from a microbatch to the weight of its loss.
        axis: the name of the axis.
        args: the arguments, parameters first and the batch last.

    Attributes:
        shared: the arrays that are the same for all microbatches, parameters first.
        stacked: the arrays with one row per microbatch.
        count: number of parameter arrays.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        k: int,
        context: Callable[[str], AbstractContextManager[None]],
        weight: Callable[[PyTree], Array] | None,
        axis: str,
        args: tuple[PyTree, ...],
    ) -> None:
        self.loss_fn, self.k, self.context = loss_fn, k, context
        self.weight, self.axis = weight, axis
        params, *others, batch = args
        self.examples = _count_examples(batch, k)
        batch = jax.tree.map(self._divide, batch)
        leaves, self.args_def = jax.tree.flatten((params, others, batch))
        self.count, rows = len(jax.tree.leaves(params)), len(jax.tree.leaves(batch))
        self.params_def = jax.tree.structure(params)
        self.kinds = [_kind(leaf) for leaf in leaves]
        self.kinds[: self.count] = ["shared"] * self.count
        self.kinds[len(leaves) - rows :] = ["row"] * rows
        self.leaves = leaves
        pairs = list(zip(leaves, self.kinds, strict=True))
        self.shared = [leaf for leaf, kind in pairs if kind == "shared"]
        self.stacked = [
            jax.random.split(leaf, k) if kind == "key" else leaf
            for leaf, kind in pairs
            if kind in ("key", "row")
        ]
        self.aux_def = jax.tree.structure(None)

    def _divide(self, x: Array) -> Array:
        shape = jnp.shape(x)
        return jnp.reshape(x, (self.k, shape[0] // self.k, *shape[1:]))

    def derive(self) -> Function:
        """Return the function of a microbatch that computes share, loss, aux and grads.

        The share is the microbatch's part of the total weight.
        """
        rows = [jax.eval_shape(lambda x: x[0], x) for x in self.stacked]
        loss = without_loops(self._loss, self.axis, self.k, [*self.shared, *rows])

        def of_parameters(
            params: Sequence[Array], rest: Sequence[Array]
        ) -> tuple[Array, list[Array]]:
            outputs = loss(*params, *rest)
            share, value = map(jnp.asarray, outputs[:2])
            return value * share.astype(value.dtype), outputs

        def step(*arrays: Array) -> list[Array]:
            params, rest = arrays[: self.count], arrays[self.count :]
            grads, outputs = jax.grad(of_parameters, has_aux=True)(params, rest)
            return [*outputs, *(lax.psum(grad, self.axis) for grad in grads)]

        return step

    def _loss(self, *arrays: Array) -> list[Array]:
        """Compute the share of the total weight, the loss and the leaves of aux."""
        shared = iter(arrays[: len(self.shared)])
        stacked = iter(arrays[len(self.shared) :])
        leaves = [
            leaf if kind == "static" else next(shared if kind == "shared" else stacked)
            for leaf, kind in zip(self.leaves, self.kinds, strict=True)
        ]
        params, others, batch = jax.tree.unflatten(self.args_def, leaves)
        with self.context(self.axis):
            loss, aux = self.loss_fn(params, *others, batch)
        if jnp.shape(loss):
            raise ShapeError(
                f"The loss has shape {jnp.shape(loss)}.",
                "A gradient is taken of it, the mean over the examples of a batch.",
                "Return `loss.mean(), aux`.",
            )
        share = jnp.asarray(1 / self.k)
        if self.weight is not None:
            own = jnp.asarray(self.weight(batch), share.dtype)
            share = own / lax.psum(own, self.axis)
        aux_leaves, self.aux_def = jax.tree.flatten(aux)
        return [share, jnp.asarray(loss), *map(jnp.asarray, aux_leaves)]

    # --- results ----------------------------------------------------------------------

    def put_together(
        self, values: list[Array], is_stacked: list[bool]
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        """Combine results into the loss, aux and gradient of the whole batch."""
        end = len(values) - self.count
        share = jnp.broadcast_to(values[0], (self.k,))
        loss = self._average(values[1], share) if is_stacked[1] else values[1]
        parts = zip(values[2:end], is_stacked[2:end], strict=True)
        # Only arrays with as many rows as a microbatch can have one row per example.
        rows = self.examples // self.k
        if any(flag and x.shape[1:2] == (rows,) for x, flag in parts):
            shapes = self._whole_shapes()
        else:
            shapes = [()] * (end - 2)
        indices = jax.tree.unflatten(self.aux_def, range(2, end))
        aux = jax.tree.map_with_path(
            lambda path, n: (
                self._join(path, values[n], share, shapes[n - 2])
                if is_stacked[n]
                else values[n]
            ),
            indices,
        )
        return (loss, aux), jax.tree.unflatten(self.params_def, values[end:])

    def _whole_shapes(self) -> list[tuple[int, ...]]:
        """Find the shapes of the leaves of aux for the undivided batch."""
        whole = [
            leaf.reshape(-1, *leaf.shape[2:]) if kind == "row" else leaf
            for leaf, kind in zip(self.leaves, self.kinds, strict=True)
        ]
        pairs = list(zip(whole, self.kinds, strict=True))
        stacked = [leaf for leaf, kind in pairs if kind in ("key", "row")]
        program = trace(self._loss, self.axis, self.k, [*self.shared, *stacked])
        return [aval.shape for aval in program.out_avals[2:]]

    def _join(
        self, path: Path, x: Array, share: Array, whole: tuple[int, ...]
    ) -> Array:
        """Combine a leaf of aux that differs between microbatches."""
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if STATS in name.split("/"):
            raise UnsynchronizedStatisticsError(name, self.axis)
        if x.shape[1:] != whole and whole[:1] == (self.examples,):
            return x.reshape(-1, *x.shape[2:])
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.sum(x, 0, dtype=x.dtype)
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return self._average(x, share)
        raise ArgumentTypeError(
            f"The auxiliary output `{name}` has dtype {x.dtype} and differs between "
            "microbatches.",
            "Floating-point numbers are averaged and whole numbers added; this is "
            "neither, nor has it a value for each example.",
            "Leave it out, or return it as a number.",
        )

    def _average(self, x: Array, share: Array) -> Array:
        share = share.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.sum(x * share, 0)


def _kind(leaf: object) -> str:
    """Tell whether a leaf of the other arguments is static, shared, or a random key."""
    dtype, shape = (getattr(leaf, name, None) for name in ("dtype", "shape"))
    if dtype is None:
        return "static"
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return "key"
    return "key" if dtype == jnp.uint32 and shape == (2,) else "shared"


def _count_examples(batch: PyTree, k: int) -> int:
    """Count the examples of a batch.

    Raises:
        ArgumentTypeError: the batch has no arrays.
        ShapeError: the arrays differ in this number, or `k` does not divide it.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes:
        raise ArgumentTypeError(
            "The last argument, the batch, has no arrays.",
            "It is divided into microbatches.",
            "Pass the batch last: `step(params, batch_stats, batch)`.",
        )
    sizes = {shape[0] if shape else None for shape in shapes}
    size = shapes[0][0] if len(sizes) == 1 and shapes[0] else None
    if size is None:
        raise ShapeError(
            f"The arrays of the batch have shapes {', '.join(map(str, shapes))}.",
            "The first axis of each counts the examples, which are divided.",
            "Pass arrays of equally many examples, and what is the same for all of "
            "them as an argument before the batch.",
        )
    if size % k:
        advice = f"Make the symbolic dimension a multiple, such as `{k}*n`."
        if isinstance(size, int):
            divisors = [n for n in range(1, size + 1) if size % n == 0]
            nearest = min(divisors, key=lambda n: (abs(n - k), n), default=1)
            advice = (
                f"Write `k={nearest}`, or leave out {size % k} examples: `batch = "
                f"jax.tree.map(lambda x: x[:{size - size % k}], batch)`."
            )
        raise ShapeError(
            f"A batch of {size} examples cannot be divided into {k} microbatches of "
            "one size.",
            "Each is run by the same program, and counts the same in the mean.",
            advice,
        )
    return size
