"""Small tools around JAX: copies on all devices, loops over axes, prefetching.

Most are meant for data parallelism with `jax.pmap`; programs that place arrays with
`jax.sharding` rarely need them.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from linsey.core.partial_eval import evaluate_known
from linsey.errors import LazyInitError, ShapeError

T = TypeVar("T")
C = TypeVar("C")


def _over_devices(
    devices: Sequence[jax.Device] | None, axis_name: str
) -> NamedSharding:
    """Return the sharding that gives each device one entry of the leading axis."""
    chosen = jax.local_devices() if devices is None else devices
    return NamedSharding(Mesh(np.array(chosen), (axis_name,)), PartitionSpec(axis_name))


def replicate(
    tree: T,
    devices: Sequence[jax.Device] | None = None,
    axis_name: str = "_device_put_sharded",
) -> T:
    """Copy arrays to devices.

    Args:
        tree: a tree of arrays and numbers.
        devices: the devices. If `None`, all devices of this process.
        axis_name: name of the mesh axis.

    Returns:
        A tree of arrays with a leading axis; each device holds one entry of it.

    Example:
        >>> tree = replicate({"x": jnp.arange(3)}, jax.local_devices()[:1])
        >>> tree["x"].tolist()
        [[0, 1, 2]]
    """
    sharding = _over_devices(devices, axis_name)

    def copy(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        copies = jnp.broadcast_to(x, (sharding.mesh.size, *x.shape))
        return jax.device_put(copies, sharding)

    return jax.tree.map(copy, tree)


def unreplicate(tree: T) -> T:
    """Return the first of the copies that `replicate` has made.

    Example:
        >>> unreplicate({"x": jnp.array([[0, 1], [0, 1]])})["x"].tolist()
        [0, 1]
    """
    return jax.tree.map(lambda x: x[0], tree)


def pmean(xs: T, axis_name: str) -> T:
    """Average a tree of arrays over a mapped axis; see `jax.lax.pmean`.

    Example:
        >>> jax.vmap(lambda x: pmean(x, "i"), axis_name="i")(jnp.arange(3.0)).tolist()
        [1.0, 1.0, 1.0]
    """
    return lax.pmean(xs, axis_name)


def partial_eval_by_shape(
    fn: Callable[..., T], input_spec: Sequence[Any], *args: object, **kwargs: object
) -> T:
    """Evaluate the results of a function that do not depend on its input arrays.

    Args:
        fn: the function, called with arrays for `input_spec` and then `args`.
        input_spec: for each array its shape, or a pair of shape and dtype.
        *args: further arguments.
        **kwargs: keyword arguments.

    Returns:
        The results of the function, with a `jax.ShapeDtypeStruct` for each array that
        depends on the inputs.

    Example:
        >>> fn = lambda x: {"y": 2 * x, "scale": jnp.ones(x.shape[-1])}
        >>> found = partial_eval_by_shape(fn, [((5, 2), jnp.float32)])
        >>> found["scale"].tolist(), found["y"].shape
        ([1.0, 1.0], (5, 2))
    """
    inputs = [_abstract(spec) for spec in input_spec]

    def run(*arrays: jax.Array) -> T:
        return fn(*arrays, *args, **kwargs)

    leaves, structure = jax.tree.flatten(jax.eval_shape(run, *inputs))

    def leaf(index: int) -> jax.Array | jax.ShapeDtypeStruct:
        def one(*arrays: jax.Array) -> jax.Array:
            return jax.tree.leaves(run(*arrays))[index]

        try:
            return evaluate_known(one)(*inputs)
        except LazyInitError:
            return leaves[index]

    return jax.tree.unflatten(structure, [leaf(i) for i in range(len(leaves))])


def _abstract(spec: Any) -> jax.ShapeDtypeStruct:
    if len(spec) == 2 and not isinstance(spec[0], int):
        return jax.ShapeDtypeStruct(tuple(spec[0]), spec[1])
    return jax.ShapeDtypeStruct(tuple(spec), jnp.float32)


def prefetch_to_device(
    iterator: Iterable[T],
    size: int,
    devices: Sequence[jax.Device] | None = None,
    axis_name: str = "_device_put_sharded",
) -> Iterator[T]:
    """Put batches on devices before they are needed.

    Args:
        iterator: trees of arrays whose leading axis is that of the devices.
        size: number of batches to keep ready; 2 is enough on most devices.
        devices: the devices. If `None`, all devices of this process.
        axis_name: name of the mesh axis.

    Yields:
        The trees, on the devices.

    Example:
        >>> device = jax.local_devices()[:1]
        >>> batches = prefetch_to_device(iter([np.ones((1, 2))] * 3), 2, device)
        >>> [batch.shape for batch in batches]
        [(1, 2), (1, 2), (1, 2)]
    """
    sharding = _over_devices(devices, axis_name)
    source = iter(iterator)
    ready: collections.deque[T] = collections.deque()

    def fill(count: int) -> None:
        for batch in itertools.islice(source, count):
            ready.append(jax.device_put(batch, sharding))

    fill(size)
    while ready:
        yield ready.popleft()
        fill(1)


def scan_in_dim(
    body_fn: Callable[[C, Any], tuple[C, T]],
    init: C,
    xs: object,
    axis: int | Sequence[int] = (0,),
    unroll: int | Sequence[int] = (1,),
    keepdims: bool = False,
) -> tuple[C, T]:
    """Scan over any axes, with the first one outermost; see `jax.lax.scan`.

    Args:
        body_fn: maps a carry and an element to a carry and a result.
        init: the first carry.
        xs: a tree of arrays.
        axis: the axis, or axes, to scan over.
        unroll: steps in one iteration of the compiled loop, for each axis.
        keepdims: whether elements and results keep the axes, with size 1.

    Returns:
        The last carry, and the results with the axes in their original places.

    Example:
        >>> x = jnp.arange(6.0).reshape(2, 3)
        >>> total, doubled = scan_in_dim(lambda c, x: (c + x, 2 * x), 0.0, x, (0, 1))
        >>> total.item(), doubled.shape
        (15.0, (2, 3))
    """
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    steps = (unroll,) * len(axes) if isinstance(unroll, int) else tuple(unroll)
    steps += (1,) * (len(axes) - len(steps))

    def to_front(x: ArrayLike) -> jax.Array:
        return jnp.moveaxis(x, axes, range(len(axes)))

    def from_front(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, range(len(axes)), axes)

    def body(carry: C, x: object) -> tuple[C, T]:
        if not keepdims:
            return body_fn(carry, x)
        kept = tuple(sorted(axes))
        x = jax.tree.map(lambda x: jnp.expand_dims(x, kept), x)
        carry, y = body_fn(carry, x)
        return carry, jax.tree.map(lambda y: jnp.squeeze(y, kept), y)

    nested = body
    for count in reversed(steps):
        nested = functools.partial(lax.scan, nested, unroll=count)
    carry, ys = nested(init, jax.tree.map(to_front, xs))
    return carry, jax.tree.map(from_front, ys)


def pad_shard_unpad(
    wrapped: Callable[..., T],
    static_argnums: Sequence[int] = (0,),
    static_argnames: Sequence[str] = (),
    static_return: bool = False,
) -> Callable[..., T]:
    """Let a function that is mapped over all devices take batches of any size.

    Batches are padded with zeros to a multiple of the number of devices, and get a
    leading axis for the devices.

    Args:
        wrapped: the function, for example one made by `jax.pmap`.
        static_argnums: indices of arguments that are not batches, such as parameters.
        static_argnames: names of such keyword arguments.
        static_return: whether to return the result unchanged, with its padding.

    Returns:
        A function like `wrapped`, with the additional keyword argument
        `min_device_batch`, the minimum size of a batch on one device.

    Example:
        >>> double = pad_shard_unpad(lambda params, x: params * x)
        >>> double(2.0, np.arange(3.0)).tolist()
        [0.0, 2.0, 4.0]
    """

    def call(*args: object, min_device_batch: int | None = None, **kwargs: object) -> T:
        devices = jax.local_device_count()
        batches = [x for i, x in enumerate(args) if i not in static_argnums]
        batches += [x for k, x in kwargs.items() if k not in static_argnames]
        sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batches)}
        if len(sizes) != 1:
            raise ShapeError(
                f"Inconsistent batch-sizes: {sizes}",
                "All batches are split over the devices in the same way.",
                "Pass arrays with one first axis, and name what is not a batch in "
                "`static_argnums` or `static_argnames`.",
            )
        (size,) = sizes
        each = max(-(-size // devices), min_device_batch or 0)

        def shard(x: Any) -> np.ndarray | jax.Array:
            x = np.asarray(x) if not isinstance(x, jax.Array) else x
            padding = [(0, devices * each - size)] + [(0, 0)] * (x.ndim - 1)
            pad = jnp.pad if isinstance(x, jax.Array) else np.pad
            return pad(x, padding).reshape(devices, each, *x.shape[1:])

        def unshard(x: Any) -> np.ndarray:
            x = jax.device_get(x)
            return x.reshape(devices * each, *x.shape[2:])[:size]

        args = tuple(
            x if i in static_argnums else jax.tree.map(shard, x)
            for i, x in enumerate(args)
        )
        for name, x in kwargs.items():
            if name not in static_argnames:
                kwargs[name] = jax.tree.map(shard, x)
        y = wrapped(*args, **kwargs)
        return y if static_return else jax.tree.map(unshard, y)

    return call
