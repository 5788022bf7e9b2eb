"""Runs the source of a program on a library: what it leaves behind.

An outcome is what a run shows: the values kept in `out`, the facts in `seen`, and the
error that ended it. Abstractly, under `jax.eval_shape`, arrays are shapes, dtypes and
weak types; in numbers they have values too.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen
import flax.serialization
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

import linsey.core
import linsey.linen
import linsey.serialization
import linsey.struct
from tests.compat.programs.syntax import Shape

# What a program sees of a library, by name.
Library = Mapping[str, Any]
FLAX: Library = {
    "nn": flax.linen,
    "core": flax.core,
    "struct": flax.struct,
    "serialization": flax.serialization,
}
LINSEY: Library = {
    "nn": linsey.linen,
    "core": linsey.core,
    "struct": linsey.struct,
    "serialization": linsey.serialization,
}


@dataclasses.dataclass(frozen=True)
class Array:
    """An array as it is compared."""

    shape: Shape
    dtype: str
    weak: bool
    values: Any = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass
class Outcome:
    """What a run of a program shows.

    Attributes:
        out: values by name, as plain structures of `Array`.
        seen: facts, each once.
        error: the error that ended the run.
    """

    out: dict[str, Any]
    seen: list[str]
    error: BaseException | None = None

    def __str__(self) -> str:
        lines = [f"  {name} = {value}" for name, value in self.out.items()]
        lines += [f"  seen {fact}" for fact in self.seen]
        if self.error is not None:
            lines.append(f"  {type(self.error).__name__}: {first_line(self.error)}")
        return "\n".join(lines)


def run(
    source: str,
    library: Library,
    shape: Shape,
    numeric: bool,
    *,
    nudge: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Executes a program with one library.

    Args:
        source: the program.
        library: the library.
        shape: shape of the input.
        numeric: whether arrays have values.
        nudge: fraction by which the input is changed, to see how results move.
        seed: seed of the key.
    """
    names: dict[str, Any] = {**library, "__name__": "program"}
    kept: dict[str, Any] = {}
    outcome = Outcome({}, [])

    def program(key: Any, x: Any) -> None:
        try:
            names["program"](kept, key, x)
        finally:
            for name, value in kept.items():
                outcome.out[name] = describe(value, numeric)
            facts = [text(describe(fact, False)) for fact in names["seen"]]
            outcome.seen = list(dict.fromkeys(facts))

    x = np.linspace(-1.0, 1.3, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compiled(source), names)
            key = jax.random.key(seed)
            if numeric:
                program(key, jnp.asarray(x * np.float32(1 + nudge)))
            else:
                jax.eval_shape(program, key, x)
        except Exception as error:  # noqa: BLE001
            outcome.error = error
    return outcome


@functools.lru_cache(maxsize=4)
def compiled(source: str) -> Any:
    return compile(source, "<program>", "exec", dont_inherit=True)


def outcomes(source: str, shape: Shape, numeric: bool) -> tuple[Outcome, Outcome]:
    """What Flax does, and what linsey does."""
    theirs = run(source, FLAX, shape, numeric)
    return theirs, run(source, LINSEY, shape, numeric)


def describe(value: Any, numeric: bool) -> Any:
    """A value as a plain structure that two libraries can have in common."""
    more = functools.partial(describe, numeric=numeric)
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        values = None
        if numeric and isinstance(value, jax.Array) and not is_tracer(value):
            key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
            values = np.asarray(jax.random.key_data(value) if key else value)
        weak = bool(getattr(value, "weak_type", False))
        return Array(tuple(value.shape), str(value.dtype), weak, values)
    if isinstance(value, Mapping):
        return (type(value).__name__, {k: more(v) for k, v in value.items()})
    if isinstance(value, list | tuple) and not isinstance(value, jax.P):
        return (type(value).__name__, [more(v) for v in value])
    if is_module(value) or isinstance(value, jax.P):
        return text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = {
            f.name: more(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
        return (type(value).__name__, pairs)
    if isinstance(value, type) or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return value if isinstance(value, str | int | float | None) else text(value)


def is_tracer(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def is_module(value: Any) -> bool:
    return isinstance(value, flax.linen.Module | linsey.linen.Module)


def text(value: Any) -> str:
    """The text of a value without addresses and names of libraries."""
    plain = re.sub(r" at 0x[0-9a-f]+", "", str(value))
    plain = re.sub(r"\b(flax|linsey)\.[\w.]*", "", plain)
    return re.sub(r"JitTracer<|~?float32\[|Traced<", "", plain)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or "-").split("\n")[0][:300]
