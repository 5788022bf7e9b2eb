"""The collectives of a compiled program, read from its text in XLA's language.

A program is a set of computations that call each other. A loop counts as often as it
runs, where the compiler knows that; of a conditional one branch counts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) (?:\(.*)?\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_EITHER = re.compile(r"\b(?:true|false)_computation=%?([\w.-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one device.

    Attributes:
        count: how many of them it takes part in.
        bytes: of their largest operand or result: an all-gather counts what arrives.
    """

    count: int = 0
    bytes: int = 0

    def plus(self, other: Traffic, times: int = 1) -> Traffic:
        """Both after each other, the other one several times."""
        return Traffic(
            self.count + times * other.count, self.bytes + times * other.bytes
        )


def traffic(text: str, branch: Callable[..., Traffic] = min) -> Traffic:
    """Return what a program sends in one run.

    Args:
        text: of the compiled program, `compiled.as_text()`.
        branch: which branch of a conditional counts; `min` is the usual path, on which
            nothing exceptional is computed, `max` the dearest.

    Example:
        >>> traffic('''
        ... ENTRY %main (x: f32[8]) -> f32[8] {
        ...   %x = f32[8]{0} parameter(0)
        ...   ROOT %y = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
        ... }
        ... ''')
        Traffic(count=1, bytes=32)
    """
    computations, entry = _computations(text)

    @functools.cache
    def of(name: str) -> Traffic:
        total = Traffic()
        for shape, operation, rest in computations.get(name, ()):
            total = total.plus(_own(shape, operation, rest))
            if branches := _branches(rest):
                key = lambda found: (found.count, found.bytes)  # noqa: E731
                total = total.plus(branch(map(of, branches), key=key))
            trips = _TRIPS.search(rest) if operation == "while" else None
            for called in _CALLED.findall(rest):
                total = total.plus(of(called), int(trips[1]) if trips else 1)
        return total

    return of(entry)


def _computations(text: str) -> tuple[dict[str, list[Sequence[str]]], str]:
    """Return the parsed lines of each computation, and the name of the first one."""
    found: dict[str, list[Sequence[str]]] = {}
    lines: list[Sequence[str]] = []
    entry = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = found[head[2]] = []
            entry = head[2] if head[1] else entry
        elif match := _LINE.match(line):
            lines.append(match.groups())
    return found, entry


def _own(shape: str, operation: str, rest: str) -> Traffic:
    """Return one collective, or `None`."""
    kind = operation.removesuffix("-start")
    if kind not in KINDS:
        return Traffic()
    sizes = list(_sizes(shape))
    # What is begun and awaited later has its operands in its result as well.
    size = sum(sizes) if kind == operation else max(sizes)
    groups = _GROUPS.search(rest)
    if kind == "reduce-scatter" and groups:
        parts = int(groups[1]) if groups[1] else groups[2].count(",") + 1
        size *= parts
    return Traffic(1, size)


def _sizes(shape: str) -> Iterator[int]:
    """Return bytes of each array of a type."""
    for dtype, dimensions in _SHAPE.findall(shape):
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype) or (int(digits[0]) if digits else 0)
        yield math.prod(map(int, filter(None, dimensions.split(",")))) * bits // 8


def _branches(rest: str) -> list[str]:
    if match := _BRANCHES.search(rest):
        return [name.strip().lstrip("%") for name in match[1].split(",")]
    return _EITHER.findall(rest)
