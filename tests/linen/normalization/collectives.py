"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
# The result of an operation, a shape or several, stands before its name.
OPERATION = re.compile(rf"= (.+?) ({KINDS})(?:-start)?\(")
SHAPE = re.compile(r"[a-z]+(\d+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One operation: its kind, and the bytes of its result on a device."""

    kind: str
    size: int


def collectives(text: str) -> list[Collective]:
    """List the collectives of a compiled program.

    Example:
        >>> collectives("%a = (f32[2,3]{1,0}, f32[]) all-reduce(%x, %y), channel_id=1")
        [Collective(kind='all-reduce', size=28)]
    """
    found = (OPERATION.search(line) for line in text.splitlines())
    return [Collective(m[2], _bytes(m[1])) for m in found if m]


def _bytes(shapes: str) -> int:
    sizes = ((int(bits) // 8, dims) for bits, dims in SHAPE.findall(shapes))
    return sum(n * math.prod(map(int, filter(None, d.split(",")))) for n, d in sizes)
