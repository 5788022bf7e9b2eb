"""Diagnosis of why two models differ, from their options and arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linsey.weights.layers import Layer
from linsey.weights.matching import owner_of
from linsey.weights.plan import Plan
from linsey.weights.proof import Cause, Difference, Proof
from linsey.weights.recording import Record, calls_of, weights_of

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """The evidence in which causes are searched for.

    Attributes:
        mine: the record of our model.
        other: the record of their model.
        plan: the links between the arrays.
        pairs: their path of each layer by our path.
        found: the differences.
    """

    mine: Record
    other: Arrays
    plan: Plan
    pairs: Mapping[str, str]
    found: Proof

    @cached_property
    def expected(self) -> Record:
        """The arrays that ours should equal, by path: theirs in our layout."""
        theirs, arrays = weights_of(self.other), {}
        for link in self.plan.links:
            turned = link.turn.to_ours([theirs[name] for name in link.theirs])
            arrays |= zip(link.ours, turned, strict=True)
        return arrays

    @cached_property
    def actual(self) -> Record:
        """Our arrays by path."""
        return weights_of(self.mine)

    def options(self, record: Arrays, path: str) -> dict[str, float]:
        """Return the options of a layer."""
        prefix = f"options/{path}/"
        return {
            key.removeprefix(prefix): float(value)
            for key, value in record.items()
            if key.startswith(prefix)
        }


def causes_of(evidence: Evidence) -> list[Cause]:
    """Return the probable causes, the likeliest first.

    Different options always count. Arrays are compared only if results differ, because
    different arrays may still be right, for example if units are in another order.
    """
    causes = list(_options(evidence))
    parting = evidence.found.first
    if parting is not None:
        if weights_of(evidence.other):
            causes = [*_arrays(evidence), *_unmatched(evidence.plan), *causes]
        in_training = ("momentum inverted", "momentum", "unbiased variance")
        evaluates = parting.mode == "evaluation"
        if not any(not evaluates or c.kind not in in_training for c in causes):
            causes.append(_computation(evidence, parting))
    return causes


def _options(evidence: Evidence) -> Iterator[Cause]:
    for match in evidence.plan.matches:
        ours = match.layer.path
        mine = evidence.options(evidence.mine, ours)
        other = evidence.options(evidence.other, match.group.path)
        for option in mine.keys() & other.keys():
            a, b = mine[option], other[option]
            if abs(a - b) > 1e-6 * max(abs(a), abs(b)):
                yield _option(option, ours or "the module", a, b)


def _option(option: str, path: str, ours: float, theirs: float) -> Cause:
    if option == "unbiased_variance":
        text = (
            f"the running variance of `{path}` is "
            f"{'un' if ours else ''}biased, theirs is {'un' if theirs else ''}biased; "
            f"write `unbiased_variance={bool(theirs)}`"
        )
        return Cause("unbiased variance", path, text)
    text = f"`{path}` has {option} {ours:g}, theirs {theirs:g}"
    if option == "momentum" and abs(ours - (1 - theirs)) < 1e-6:
        text += (
            " as ours counts it, the fraction of the old average that is kept; PyTorch "
            f"counts the other way round; write `momentum={theirs:g}`"
        )
        return Cause("momentum inverted", path, text)
    return Cause(option, path, f"{text}; write `{option}={theirs:g}`")


def _arrays(evidence: Evidence) -> Iterator[Cause]:
    """Compare our arrays with the expected ones."""
    expected, actual = evidence.expected, evidence.actual
    for match in evidence.plan.matches:
        layer = match.layer
        wrong = [
            path
            for path in layer.arrays.values()
            if path in expected and not _same(actual[path], expected[path])
        ]
        if wrong:
            yield _wrong_layer(layer, wrong, evidence)


def _wrong_layer(layer: Layer, wrong: list[str], evidence: Evidence) -> Cause:
    expected, actual, path = evidence.expected, evidence.actual, layer.path
    statistics = [layer.arrays.get("mean"), layer.arrays.get("var")]
    if None not in statistics and set(wrong) == set(statistics):
        mean, var = (str(name) for name in statistics)
        if _same(actual[mean], expected[var]) and _same(actual[var], expected[mean]):
            text = f"the running mean of `{path}` is their variance, and the reverse"
            return Cause("mean and variance exchanged", path, text)
    turned = {name: _turned(actual[name], expected[name]) for name in wrong}
    if all(turned.values()):
        text = "; ".join(f"`{name}` is theirs {how}" for name, how in turned.items())
        return Cause("transposed kernel", path, text)
    for other, array in expected.items():
        name = wrong[0]
        if other != name and array.size > 1 and _same(actual[name], array):
            text = f"`{name}` holds what `{other}` should hold"
            return Cause("layers exchanged", path, text)
    names = ", ".join(f"`{name}`" for name in wrong)
    text = f"{names} hold other values than theirs; were they left at initial ones?"
    return Cause("forgotten layer", path, text)


def _turned(array: np.ndarray, expected: np.ndarray) -> str:
    """Say how the axes of an array were transposed or reversed; empty if not."""
    if not 2 <= expected.ndim <= 5:
        return ""
    axes = range(expected.ndim)
    for order in itertools.permutations(axes):
        if _same(array, expected.transpose(order)):
            return f"transposed by {order}"
    for count in range(1, expected.ndim + 1):
        for reverse in itertools.combinations(axes, count):
            if _same(array, np.flip(expected, reverse)):
                return f"with the axes {reverse} reversed"
    return ""


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether arrays are equal up to rounding in float32, or in half precision."""
    if a.shape != b.shape:
        return False
    half = min(a.dtype.itemsize, b.dtype.itemsize) < 4
    return np.allclose(
        a.astype(np.float64), b.astype(np.float64), rtol=1e-2 if half else 1e-6, atol=0
    )


def is_inside(path: str, other: str) -> bool:
    """Tell whether a layer is inside another one."""
    return path.startswith((f"{other}.", f"{other}/"))


def _unmatched(plan: Plan) -> Iterator[Cause]:
    """Report layers that only one side has."""
    paths: dict[tuple[str, bool], list[str]] = {}
    for rest in plan.leftovers:
        owner = owner_of(rest.name)
        paths.setdefault((owner, rest.is_ours), []).append(rest.name)
    for (owner, is_ours), names in paths.items():
        who = "nothing of theirs" if is_ours else "nothing of ours"
        listed = ", ".join(f"`{name}`" for name in names)
        yield Cause("forgotten layer", owner, f"{who} corresponds to {listed}")


def _computation(evidence: Evidence, parting: Difference) -> Cause:
    """Report a difference in the computation, if arrays and options agree."""
    mode = parting.mode if parting.mode != "statistics" else "training"
    calls = [(path, kind) for _, kind, path in calls_of(evidence.other, mode)]
    theirs = [path for path, _ in calls]
    right = {
        d.theirs
        for d in evidence.found.differences
        if d.mode == mode and not evidence.found.counts(d)
    }
    end = theirs.index(parting.theirs) if parting.theirs in theirs else len(theirs)
    start = max((i for i, path in enumerate(theirs[:end]) if path in right), default=-1)
    # Name only innermost modules: the others consist of these.
    inner = {path for path in theirs if not any(is_inside(o, path) for o in theirs)}
    inner -= set(evidence.pairs.values())
    between = [
        f"`{path}` ({kind})" for path, kind in calls[start + 1 : end] if path in inner
    ]
    text = f"no array and no option says why results differ from `{parting.ours}` on"
    if between:
        text += f"; before it theirs calls {', '.join(between)}: is that in ours too?"
        return Cause("forgotten layer", parting.ours, text)
    text += (
        "; compare activations, padding, and the order of axes where an image is made "
        "flat: PyTorch has the channels first"
    )
    return Cause("computation", parting.ours, text)
