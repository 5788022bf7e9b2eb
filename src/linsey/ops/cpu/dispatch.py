"""Which processor computes, and what it computes differently from XLA.

Every choice that depends on the processor is made here, from facts that are known when
a program is traced or lowered:

- `on_cpu`: whether a CPU computes. Convolutions and pooling are then written so that
  XLA is fast there.
- `is_divided`: whether the compiler may divide arrays over devices.
- `is_whole`: whether arrays are on one device. Otherwise a kernel, or a loop over parts
  of the batch, would not see the rest.
- `kernels_usable`: whether a single CPU computes, and kernels are installed and not
  switched off.
- `takes_channels`, `takes_examples`, `takes_combination`, `takes_convolution`: whether
  the kernel for these arrays exists and is worth a call.
- `loads_kernel`: whether the program that is being lowered may call kernels, and
  whether they could be compiled; `calls_kernel`: whether also the dtypes are right.

The kernels are compiled by numba, on Linux if it is installed (the extra `cpu`), and
kept on disk. They compute sufficiently large arrays of float32 on a single device. In
all other cases, and in exported programs, XLA computes the same from definitions in
`jax.lax`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from linsey._contexts import BY_DEFINITION, assigned
from linsey.extras import install_hint
from linsey.ops.cpu.memory import keep_memory
from linsey.typing import Dtype

# Environment variable: 0 leaves everything to XLA, `all` uses kernels where possible.
SWITCH = "LINSEY_KERNELS"
# Amounts of work above which a kernel saves more than its call costs: entries that it
# sums, entries that it normalizes, entries that it writes (to new memory, whose pages
# are expensive), and multiplications.
LARGE_SUMS, LARGE_EXAMPLES, LARGE_COMBINATION, LARGE_CONVOLUTION = (
    (0, 0, 0, 0) if os.environ.get(SWITCH) == "all" else (2**16, 2**14, 2**20, 2**21)
)

Shape = tuple[int, ...]


# --- the processor ------------------------------------------------------------------


def on_cpu() -> bool:
    """Return whether computations run on a CPU."""
    return jax.default_backend() == "cpu"


def is_whole() -> bool:
    """Return whether the arrays traced now lie on one device, without a mesh."""
    return jax.device_count() == 1 and jax.sharding.get_abstract_mesh().empty


def is_divided() -> bool:
    """Return whether the compiler may divide the arrays that are traced now.

    If so, each sum over the batch may be a sum over devices. Inside `jax.shard_map`,
    every device has arrays of its own.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() > 1
    return mesh.size > 1 and len(mesh.manual_axes) < len(mesh.axis_names)


@cache
def threads() -> int:
    """Return the number of threads of XLA: `NPROC`, or the number of cores."""
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return int(os.environ.get("NPROC", 0)) or len(cores)


# While true, convolutions are traced as the operation of `jax.lax`, for readers of the
# program. It is a context of JAX, because it belongs to the cache key of `jax.jit`.
plain_convolutions = jax.make_user_context(False)


def rewrites_convolutions() -> bool:
    """Return whether convolutions are rewritten into forms that are fast on a CPU.

    Example:
        >>> with plain_convolutions(True):
        ...     rewrites_convolutions()
        False
    """
    return on_cpu() and not plain_convolutions.value


# --- kernels ------------------------------------------------------------------------


def kernels_usable() -> bool:
    """Return whether kernels can be used in the program that is traced now."""
    return _installed() and on_cpu() and is_whole()


@cache
def _installed() -> bool:
    on_linux = sys.platform == "linux"  # the kernels use its system calls
    found = importlib.util.find_spec("numba") is not None
    return on_linux and found and os.environ.get(SWITCH, "1") != "0"


def takes_channels(x: jax.Array, axes: Shape) -> bool:
    """Return whether a kernel should sum an array over `axes`, for each channel.

    Example:
        >>> takes_channels(jnp.ones((8, 3)), (0,))  # too small
        False
    """
    return (
        x.dtype == jnp.float32
        and axes == tuple(range(x.ndim - 1))
        and has_static_shape(x)
        and math.prod(x.shape) >= LARGE_SUMS
        and kernels_usable()
        and channel_lanes(x.shape) is not None
    )


def takes_examples(x: jax.Array, depth: int) -> bool:
    """Return whether a kernel should normalize examples with groups of a depth.

    Example:
        >>> takes_examples(jnp.ones((8, 3)), 3)  # too small
        False
    """
    return (
        x.dtype == jnp.float32
        and has_static_shape(x)
        and math.prod(x.shape) >= max(LARGE_EXAMPLES, 1)
        and kernels_usable()
        and norm_lanes(depth) is not None
    )


def takes_combination(shape: Shape) -> bool:
    """Return whether a kernel should write a combination of arrays of this shape."""
    large = math.prod(shape) >= LARGE_COMBINATION
    return large and channel_lanes(shape) is not None


def takes_convolution(
    dtype: Dtype, x: Shape, kernel: Shape, y: Shape, groups: int
) -> bool:
    """Return whether a kernel should compute a convolution over two spatial axes.

    Args:
        dtype: Dtype of both operands.
        x: Shape of the inputs, (batch, rows, columns, channels).
        kernel: Shape of the weights, (rows, columns, channels // groups, features).
        y: Rows and columns of the output.
        groups: Number of groups of channels that do not mix.

    Example:
        >>> shapes = (1, 8, 8, 1), (3, 3, 1, 16), (8, 8)
        >>> takes_convolution(jnp.float32, *shapes, groups=1)  # too small
        False
    """
    return (
        dtype == jnp.float32
        and min(*x, *kernel, *y) > 0
        and x[0] * math.prod(y) * math.prod(kernel) >= LARGE_CONVOLUTION
        and kernels_usable()
        and fills_vectors(kernel[-1], groups)
    )


def has_static_shape(x: jax.Array) -> bool:
    """Return whether no size is symbolic, as sizes may be in exported programs."""
    return {int}.issuperset(map(type, x.shape))


def channel_lanes(shape: Shape) -> int | None:
    """Return the index in `SUM_LANES` of how many channels a kernel sums at once.

    It is `None` if none of them divides the channels, or if the array is empty.
    """
    return _lanes_of(shape[-1]) if all(shape) else None


@cache
def _lanes_of(channels: int) -> int | None:
    from linsey.ops.cpu.codegen.vectors import SUM_LANES

    fitting = (i for i, lanes in enumerate(SUM_LANES) if channels % lanes == 0)
    return next(fitting, None)


@cache
def norm_lanes(depth: int) -> int | None:
    """Return the index in `NORM_LANES` of how many values a kernel takes at once.

    It is `None` if none of them divides the depth.
    """
    from linsey.ops.cpu.codegen.vectors import NORM_LANES

    fitting = (i for i, lanes in enumerate(NORM_LANES) if depth % lanes == 0)
    return next(fitting, None)


@cache
def fills_vectors(features: int, groups: int) -> bool:
    """Return whether the features of each group fill vectors, as kernels need."""
    from linsey.ops.cpu.codegen.vectors import LANES

    return features % (groups * (LANES // 2)) == 0


def calls_kernel(context: mlir.LoweringRuleContext, module: str) -> bool:
    """Return whether an operation that is being lowered calls its kernel.

    Args:
        context: The context that JAX passes to a lowering rule.
        module: Name of the module in `codegen` that has the kernel.
    """
    of_float = (getattr(a, "dtype", None) == jnp.float32 for a in context.avals_in)
    return all(of_float) and loads_kernel(context, module)


def loads_kernel(context: mlir.LoweringRuleContext, module: str) -> bool:
    """Return whether the program being lowered may call the kernels of a module."""
    parameters = context.module_context.lowering_parameters
    is_exported = parameters.for_export or BY_DEFINITION.get()
    return kernels_usable() and not is_exported and _load(module)


@contextmanager
def by_definition() -> Iterator[None]:
    """Compile programs without kernels inside this context, as for export.

    XLA can count the operations of a definition, but not those of a kernel.

    Example:
        >>> with by_definition():
        ...     text = jax.jit(jnp.sin).lower(1.0).as_text()
    """
    with assigned(BY_DEFINITION, True):
        yield


@cache
def _load(module: str) -> bool:
    """Load the kernels of a module; return whether that succeeded."""
    try:
        from linsey.ops.cpu.codegen import machine_code

        machine_code.load(module)
        keep_memory()
    except Exception as error:  # whatever numba, LLVM or XLA raise
        _warn(f"{type(error).__name__}: {error}")
        return False
    return True


@cache
def _warn(reason: str) -> None:
    """Warn once per reason, which may be the same for all modules of kernels."""
    warnings.warn(KernelsUnavailableWarning(reason), stacklevel=3)


class KernelsUnavailableWarning(UserWarning):
    """The kernels cannot be used: results are correct, but slower."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "linsey's kernels for CPUs cannot be used, XLA computes instead: "
            f"{reason.rstrip('.')}. Install the versions that the kernels know, "
            f"`{install_hint('cpu')}`, or set {SWITCH}=0 to do without kernels."
        )
