"""Kernels for a CPU, compiled by numba: what XLA has no fast way to compute there.

They are used on Linux where numba is installed (the extra `cpu`), for large
enough arrays of float32 on a single device. Everywhere else, and in programs that are
exported, XLA computes the same from definitions in `jax.lax`.
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
from contextvars import ContextVar
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

SWITCH = "LINSEY_KERNELS"  # environment variable; 0 leaves everything to XLA
LARGE_SUMS = 2**16  # entries; less is not worth a call


def usable() -> bool:
    """Says whether kernels can be used in what is traced now.

    Arrays on several devices, or on a mesh, are in parts that a kernel does not see.
    """
    return (
        _installed()
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
        and jax.sharding.get_abstract_mesh().empty
    )


@contextmanager
def by_definition() -> Iterator[None]:
    """Compiles what is compiled meanwhile without kernels, as an exported program is.

    XLA counts no operations of a kernel; of the definitions it does.

    Example:
        >>> with by_definition():
        ...     text = jax.jit(jnp.sin).lower(1.0).as_text()
    """
    token = _definitions.set(True)
    try:
        yield
    finally:
        _definitions.reset(token)


def wanted(context: Any) -> bool:
    """Says whether the program that jax is lowering may call kernels.

    Args:
        context: what `jax.interpreters.mlir` calls a lowering rule with.
    """
    exported = context.module_context.lowering_parameters.for_export
    return usable() and not (exported or _definitions.get())


_definitions: ContextVar[bool] = ContextVar("definitions", default=False)


@cache
def _installed() -> bool:
    wanted = os.environ.get(SWITCH, "1") != "0"
    on_linux = sys.platform == "linux"  # whose system calls the kernels make
    return wanted and on_linux and importlib.util.find_spec("numba") is not None


def takes_channels(x: Any, axes: tuple[int, ...]) -> bool:
    """Says whether sums over axes of an array are best taken by `channel_sums`.

    Example:
        >>> takes_channels(jnp.ones((8, 3)), (0,))  # too small
        False
    """
    return (
        x.dtype == jnp.float32
        and axes == tuple(range(x.ndim - 1))
        and all(isinstance(size, int) for size in x.shape)  # none symbolic
        and math.prod(x.shape) >= LARGE_SUMS
        and usable()
        and channel_lanes(x.shape[-1]) is not None
    )


@cache
def channel_lanes(channels: int) -> int | None:
    """Chooses how many channels are summed at once: an index, none if nothing fits."""
    from linsey.ops.compiled.vectors import SUM_LANES

    fitting = (i for i, lanes in enumerate(SUM_LANES) if channels % lanes == 0)
    return next(fitting, None)


@cache
def load(module: str) -> bool:
    """Compiles the kernels of a module of this package and gives them to XLA.

    Args:
        module: `channels` or `convolution`.

    Returns:
        Whether that went well; if not, a warning tells why, and XLA computes instead.
    """
    try:
        importlib.import_module(f"{__name__}.{module}").load()
    except Exception as error:  # whatever numba, LLVM or XLA raise
        warnings.warn(KernelsUnavailableWarning(error), stacklevel=2)
        return False
    return True


class KernelsUnavailableWarning(UserWarning):
    """The kernels could not be compiled: results are right, and slower."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"linsey's kernels for CPUs could not be compiled, XLA computes instead: "
            f"{type(error).__name__}: {error}. Install a version of numba for this "
            f"Python, or set {SWITCH}=0 to do without them."
        )
