"""Compares what two libraries did with a program."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.errors
import jax.numpy as jnp
import numpy as np

from tests.compat.agreement import builtin_of, first_sentence
from tests.compat.programs.outcome import Array, Outcome, first_line

# Rounding allowed for outputs and gradients, in units of the dtype's precision at the
# largest value of what was kept together: a gradient that cancels is as exact as its
# neighbours. Programs are several layers deep.
ULPS = 64
SMALLEST = 1e-3  # below, sums that cancel leave nothing but rounding


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


def compare(theirs: Outcome, ours: Outcome, numeric: bool) -> Iterator[Difference]:
    """All differences: of errors, values, facts, and the order of keys."""
    yield from compare_errors(theirs.error, ours.error)
    a, b = in_order(theirs.out), in_order(ours.out)
    sizes = {name: size(name, value) for name, value in a.items()} if numeric else None
    if theirs.error is None and ours.error is None:
        yield from compare_values(a, b, sizes)
        yield from compare_facts(theirs.seen, ours.seen)
    elif type(theirs.error) is type(ours.error):
        both = [name for name in a if name in b]
        yield from compare_values(
            {name: a[name] for name in both}, {name: b[name] for name in both}, sizes
        )
    if a == b:  # all but the order
        yield from compare_values(theirs.out, ours.out, None)


def size(name: str, tree: Any) -> float:
    """To what size of numbers the values kept under a name are exact, at least."""
    if not name.startswith("grad"):
        return SMALLEST
    return max([SMALLEST, *(largest(one.values) for one in arrays(tree))])


def arrays(tree: Any) -> Iterator[Array]:
    if isinstance(tree, Array):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays(one)


def largest(values: Any) -> float:
    """The largest finite absolute value."""
    if values is None or not jnp.issubdtype(values.dtype, jnp.inexact):
        return 0.0
    sizes = np.abs(wide(values))
    return float(np.max(sizes[np.isfinite(sizes)], initial=0.0))


def in_order(tree: Any) -> Any:
    """The same structure with sorted dictionaries."""
    if isinstance(tree, dict):
        return {k: in_order(tree[k]) for k in sorted(tree, key=str)}
    if isinstance(tree, list | tuple):
        return type(tree)([in_order(one) for one in tree])
    return tree


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


TRACER = r"(?:Traced<|\w*Tracer\()(\w+\[[\w,]*\])(?::\w+>|>|\)|\w+=\S*>)"


def worded(error: BaseException) -> str:
    """The first sentence, with paths as if no transform were there, and any tracer."""
    sentence, before = re.sub(TRACER, r"Tracer(\1)", first_sentence(error)), ""
    while sentence != before:
        before = sentence
        sentence = re.sub(r"\w+\(((?:\w|/)*)\)(?=[/\")])", r"\1", sentence)
    sentence = sentence.replace("linsey.linen.module.base.", "flax.linen.module.")
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
    theirs: Any, ours: Any, sizes: dict[str, float] | None, path: tuple[Any, ...] = ()
) -> Iterator[Difference]:
    """Structures, and numbers where there are `sizes` to which they are exact."""
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
        if sizes is not None:
            yield from compare_numbers(theirs, ours, path, sizes[path[0]])
        return
    else:
        if theirs != ours:
            yield differ("values", path, theirs, ours)
        return
    for key, a, b in pairs:
        yield from compare_values(a, b, sizes, (*path, key))


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
    theirs: Array, ours: Array, path: tuple[Any, ...], size: float
) -> Iterator[Difference]:
    """Initial parameters to the bit; others to the rounding of their dtype."""
    a, b = theirs.values, ours.values
    if a is None or b is None or np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return
    initial = str(path[0]).startswith("init") and "params" in path
    if initial or not jnp.issubdtype(a.dtype, jnp.inexact):
        yield differ("bits", path, a, b)
        return
    a, b = wide(a), wide(b)
    ok = np.isfinite(a)
    if not np.array_equal(ok, np.isfinite(b)):
        yield differ("finite numbers", path, a, b)
    elif largest(a[ok] - b[ok]) > ULPS * precision(theirs) * max(size, largest(a)):
        yield differ("numbers", path, a, b)


def precision(array: Array) -> float:
    return float(jnp.finfo(array.dtype).eps)


def within_noise(
    flax_run: Callable[[float], Outcome],
    our_run: Callable[[float], Outcome],
    case: Any,
    path: tuple[Any, ...],
) -> bool:
    """Whether a little change of the input moves a result as far as they differ.

    Gradients that cancel to zero, and statistics of two values, are such results. The
    change is one of the coarsest dtype in the program. Where zero is exact in Flax
    alone, the result of linsey may be the rounding of numbers of size 1.
    """
    coarse = 8e-3 if case.has("bfloat16") else 1e-3 if case.has("float16") else 1e-6
    a, b = (find(one.out, path) for one in (case.theirs, case.ours))
    apart = largest(wide(a.values) - wide(b.values))

    def moves(run: Callable[[float], Outcome], array: Array) -> float:
        allowed = 0.0
        for nudge in (coarse, -coarse, 3 * coarse):
            moved = find(run(nudge).out, path)
            if isinstance(moved, Array) and moved.shape == array.shape:
                change = wide(moved.values) - wide(array.values)
                allowed = max(allowed, largest(change))
        return 30 * allowed

    if apart <= moves(flax_run, a):
        return True
    exact = not np.any(a.values) and apart <= ULPS * precision(a)
    return bool(exact) and apart <= moves(our_run, b)


def wide(values: Any) -> Any:
    """Numbers in double precision."""
    return values.astype(np.result_type(values.dtype, np.float64))


def find(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
