"""Runs the source of a program on both libraries and compares what it leaves behind.

An outcome is what a run shows: the values kept in `out`, the facts in `seen`, and the
error that ended it. Abstractly, under `jax.eval_shape`, arrays are shapes, dtypes and
weak types; in numbers they are compared too.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np

import linsey.linen
from tests.compat.agreement import builtin_of, first_sentence
from tests.compat.programs.syntax import Shape

# Rounding allowed for outputs and gradients, in units of the dtype's precision at the
# largest value. Programs are several layers deep.
ULPS = 64


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


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where two outcomes part.

    Attributes:
        cause: what programs with the same defect have in common.
        detail: where, and the two values.
        path: where in `out`.
    """

    cause: str
    detail: str
    path: tuple[Any, ...] = ()


def run(
    source: str, nn: ModuleType, shape: Shape, numeric: bool, nudge: float = 0.0
) -> Outcome:
    """Executes a program with one library.

    Args:
        source: the program.
        nn: the library.
        shape: shape of the input.
        numeric: whether arrays have values.
        nudge: fraction by which the input is changed, to see how results move.
    """
    names: dict[str, Any] = {"nn": nn, "__name__": "program"}
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
            key = jax.random.key(0)
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
    theirs = run(source, flax.linen, shape, numeric)
    return theirs, run(source, linsey.linen, shape, numeric)


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


def compare(theirs: Outcome, ours: Outcome, numeric: bool) -> Iterator[Difference]:
    """All differences: of errors, values, facts, and the order of keys."""
    yield from compare_errors(theirs.error, ours.error)
    a, b = in_order(theirs.out), in_order(ours.out)
    if theirs.error is None and ours.error is None:
        yield from compare_values(a, b, numeric)
        yield from compare_facts(theirs.seen, ours.seen)
    elif type(theirs.error) is type(ours.error):
        both = [name for name in a if name in b]
        yield from compare_values(
            {name: a[name] for name in both}, {name: b[name] for name in both}, numeric
        )
    if a == b:  # all but the order
        yield from compare_values(theirs.out, ours.out, False)


def in_order(tree: Any) -> Any:
    """The same structure with sorted dictionaries."""
    if isinstance(tree, dict):
        return {k: in_order(tree[k]) for k in sorted(tree, key=str)}
    if isinstance(tree, list | tuple):
        return type(tree)([in_order(one) for one in tree])
    return tree


def first_line(error: BaseException) -> str:
    return (str(error).strip() or "-").split("\n")[0][:300]


def general(sentence: str) -> str:
    """A message without what is particular to one program."""
    sentence = re.sub(r"\(https://\S*\)", "", sentence)
    sentence = re.sub(r"\b(M|Wrap|Base|Step|[a-z]+)\d+(_\d+)?\b", r"\1#", sentence)
    sentence = re.sub(r"[\"'`]?/[^\"'`, ]*[\"'`]?", "PATH", sentence)
    sentence = re.sub(r"^(\S+) needs PRNG", "NAME needs PRNG", sentence)
    sentence = re.sub(r"\([\d, ]*\)|\[[\d, ]*\]", "()", sentence)
    return re.sub(r"\d+", "#", sentence)[:140]


def label(error: BaseException | None) -> str:
    if error is None:
        return "passes"
    return f"{type(error).__name__}: {general(first_line(error))}"


def compare_errors(
    theirs: BaseException | None, ours: BaseException | None
) -> Iterator[Difference]:
    """The same class with the same first sentence, or the same class of Python."""
    if theirs is None and ours is None:
        return
    detail = f"Flax: {theirs!r:.500}\nlinsey: {ours!r:.500}"
    cause = f"Flax {label(theirs)} | linsey {label(ours)}"
    if theirs is None or ours is None:
        yield Difference(cause, detail)
    elif isinstance(theirs, flax.errors.FlaxError):
        if type(theirs).__name__ != type(ours).__name__:
            yield Difference(cause, detail)
        elif not worded(ours).startswith(worded(theirs)):
            yield Difference(f"words: {cause}", detail)
    elif not isinstance(ours, builtin_of(theirs)):
        yield Difference(cause, detail)


def worded(error: BaseException) -> str:
    """The first sentence, with paths as if no transform were there."""
    sentence, before = first_sentence(error), ""
    while sentence != before:
        before = sentence
        sentence = re.sub(r"\w+\(((?:\w|/)*)\)(?=[/\")])", r"\1", sentence)
    return re.sub(r"/+", "/", sentence).replace('/"', '"')


def compare_facts(theirs: list[str], ours: list[str]) -> Iterator[Difference]:
    if len(theirs) == len(ours) and sorted(theirs) != sorted(ours):
        for a, b in zip(theirs, ours, strict=True):
            if a != b:
                cause = f"facts: Flax {general(a)[:80]} | linsey {general(b)[:80]}"
                yield Difference(cause, f"Flax: {a}\nlinsey: {b}")
    elif theirs != ours:
        missing = [fact for fact in theirs if fact not in ours]
        added = [fact for fact in ours if fact not in theirs]
        detail = f"Flax: {missing}\nlinsey: {added}"
        kinds = f"Flax {[general(m)[:60] for m in missing[:2]]} | linsey "
        kinds += f"{[general(a)[:60] for a in added[:2]]}"
        kind = "facts" if missing or added else "order of facts"
        yield Difference(f"{kind}: {kinds}", detail)


def compare_values(
    theirs: Any, ours: Any, numeric: bool, path: tuple[Any, ...] = ()
) -> Iterator[Difference]:
    """Structures, and where `numeric` the numbers."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if list(theirs) != list(ours):
            same = sorted(map(str, theirs)) == sorted(map(str, ours))
            kind = "order of keys" if same else "keys"
            yield differ(kind, path, list(theirs), list(ours))
        pairs = [(k, theirs[k], ours[k]) for k in theirs if k in ours]
    elif isinstance(theirs, tuple | list) and type(theirs) is type(ours):
        if len(theirs) != len(ours):
            yield differ("lengths", path, len(theirs), len(ours))
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(theirs, ours, strict=False))]
    elif isinstance(theirs, Array) and theirs == ours:
        if numeric:
            yield from compare_numbers(theirs, ours, path)
        return
    else:
        if theirs != ours:
            yield differ("values", path, theirs, ours)
        return
    for key, a, b in pairs:
        yield from compare_values(a, b, numeric, (*path, key))


def differ(kind: str, path: tuple[Any, ...], theirs: Any, ours: Any) -> Difference:
    steps = [re.sub(r"\d+", "#", str(p)) for p in path if not isinstance(p, int)]
    steps = steps or ["out"]
    cause = f"{kind} at {steps[0]}..{'/'.join(steps[1:][-2:])}"
    if kind in ("values", "keys"):
        cause += (
            f": Flax {general(str(theirs))[:60]} | linsey {general(str(ours))[:60]}"
        )
    return Difference(cause, f"at {path}\nFlax: {theirs}\nlinsey: {ours}", path)


def compare_numbers(
    theirs: Array, ours: Array, path: tuple[Any, ...]
) -> Iterator[Difference]:
    """Initial parameters to the bit; others to the rounding of their dtype."""
    a, b = theirs.values, ours.values
    if a is None or b is None or np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return
    initial = str(path[0]).startswith("init") and "params" in path
    if initial or not jnp.issubdtype(a.dtype, jnp.inexact):
        yield differ("bits", path, a, b)
        return
    a, b = np.float64(a), np.float64(b)
    ok = np.isfinite(a)
    if not np.array_equal(ok, np.isfinite(b)):
        yield differ("finite numbers", path, a, b)
        return
    size = np.max(np.abs(a[ok]), initial=0.0)
    if np.max(np.abs(a[ok] - b[ok]), initial=0.0) > ULPS * precision(theirs) * size:
        yield differ("numbers", path, a, b)


def precision(array: Array) -> float:
    return float(jnp.finfo(array.dtype).eps)


def within_noise(
    source: str, shape: Shape, theirs: Outcome, ours: Outcome, path: tuple[Any, ...]
) -> bool:
    """Whether a little change of the input moves a result as far as they differ.

    Gradients that cancel to zero, and statistics of two values, are such results. The
    change is one of the coarsest dtype in the program.
    """
    coarse = 8e-3 if "bfloat16" in source else 1e-3 if "float16" in source else 1e-6
    a, b = (np.float64(find(one.out, path).values) for one in (theirs, ours))
    allowed = 0.0
    for nudge in (coarse, -coarse, 3 * coarse):
        moved = find(run(source, flax.linen, shape, True, nudge).out, path)
        if isinstance(moved, Array) and np.shape(moved.values) == a.shape:
            allowed = max(allowed, np.max(np.abs(np.float64(moved.values) - a)))
    return bool(np.max(np.abs(a - b)) <= 30 * allowed)


def find(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
