"""The compilation of the programs of a run: early, and some of them in less time.

XLA's newer fusion emitters for CPUs make loops over large arrays faster, but take about
twice as long to compile, and 150 MB of memory. A program that runs once or a few times,
or a step on examples that are rows of a table, does not win that back: see
`benchmarks/table.py` and `benchmarks/training_memory.py`. Results may differ in the
last bits, so what a run uses depends only on its options and data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import jax

Result = TypeVar("Result")

# Without fusion emitters XLA compiles faster (`benchmarks/table.py`). Later versions
# of jax have no other emitters, and XLA refuses options that it does not know.
_QUICKLY: dict[str, Any] = (
    {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
)
_ONCE = {**_QUICKLY, "xla_backend_optimization_level": 1}


def run_once(function: Callable[[], Result], shardings: Any, platform: str) -> Result:
    """Compile a function quickly and call it.

    Args:
        function: a function that returns arrays.
        shardings: the shardings of these arrays.
        platform: the platform of the devices.
    """
    options = _ONCE if platform == "cpu" else None
    compiled = jax.jit(function, out_shardings=shardings, compiler_options=options)
    return compiled()


class Step(Generic[Result]):
    """A compiled function of a state, examples and labels.

    Args:
        function: the function to compile.
        is_brief: tells by the state whether the function is called only a few times.
        **options: options of `jax.jit`.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        is_brief: Callable[[Any], bool] = lambda state: False,
        **options: Any,
    ) -> None:
        self.__wrapped__, self.__doc__ = function, function.__doc__
        self._is_brief = is_brief
        self._quick = jax.jit(function, compiler_options=_QUICKLY, **options)
        self._thorough = jax.jit(function, **options)

    def __call__(self, state: Any, x: jax.Array, y: jax.Array) -> Result:
        """Call the function, compiled for these shapes."""
        return self._compiled_for(state, x)(state, x, y)

    def compile(self, state: Any, x: Any, y: Any) -> Future[Any] | None:
        """Compile the function in the background; only tracing is done at once.

        Args:
            state: shapes and shardings of the state.
            x: those of the examples.
            y: those of the labels.

        Returns:
            A future of the compiled function; `None` if tracing it failed.
        """
        with contextlib.suppress(Exception):  # the call itself will say what is wrong
            lowered = self._compiled_for(state, x).lower(state, x, y)
            pool = ThreadPoolExecutor(1, "compiling")
            compiling = pool.submit(lowered.compile)
            pool.shutdown(wait=False)
            return compiling
        return None

    def _compiled_for(self, state: Any, x: Any) -> Any:
        is_quick = x.ndim == 2 or self._is_brief(state)
        is_quick = is_quick and jax.default_backend() == "cpu"
        return self._quick if is_quick else self._thorough
