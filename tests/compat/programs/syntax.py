"""What a program is made of, and how it prints."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
Shape = tuple[int, ...]
SIZES = (2, 3, 4)  # few, so that compiled primitives are used again

HEAD = """\
import abc
import dataclasses
import functools
import re
from typing import Any, Callable, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")
seen = []


def cells(table):
    rows = [re.split("[┃│]", row)[1:-1] for row in table.split("\\n")]
    columns = zip(*(row for row in rows if row))  # collections in any order
    return sorted([" ".join(cell.split()) for cell in one] for one in columns)
"""


@dataclass
class Block:
    """A statement with statements inside: `if`, `for`, `with`, `def`."""

    head: str
    body: list[Statement]


Statement = str | Block


@dataclass
class Function:
    """A function of the program or a method of a class."""

    name: str
    parameters: str
    body: list[Statement] = field(default_factory=list)
    decorators: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        head = f"def {self.name}({self.parameters}):"
        return [f"@{text}" for text in self.decorators] + [head] + indent(self.body)


@dataclass
class Class:
    """A class of modules: fields, then methods."""

    name: str
    bases: str = "nn.Module"
    fields: list[str] = field(default_factory=list)
    methods: list[Function] = field(default_factory=list)
    decorators: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        inside: list[Statement] = [*self.fields]
        for method in self.methods:
            inside += method.lines()
        marks = [f"@{text}" for text in self.decorators]
        bases = f"({self.bases})" if self.bases else ""
        return [*marks, f"class {self.name}{bases}:"] + indent(inside)


@dataclass
class Program:
    """Definitions, and a script: the body of a function of `out`, `key` and `x`."""

    definitions: list[Class | Function] = field(default_factory=list)
    script: list[Statement] = field(default_factory=list)
    shape: Shape = (2, 3)

    def source(self) -> str:
        parts = [HEAD.rstrip()]
        parts += ["\n".join(one.lines()) for one in self.definitions]
        parts.append("\n".join(Function("program", "out, key, x", self.script).lines()))
        return "\n\n\n".join(parts) + "\n"


def indent(body: Sequence[Statement]) -> list[str]:
    """The lines of a body, four spaces further in."""
    lines = []
    for one in body or ["pass"]:
        text = [one.head, *indent(one.body)] if isinstance(one, Block) else [one]
        lines += textwrap.indent("\n".join(text), "    ").split("\n")
    return lines


class Draw(random.Random):
    """Choices of one program."""

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, *options: T) -> T:
        return options[self.randrange(len(options))]

    def size(self) -> int:
        return self.pick(*SIZES)

    def some(self, options: Sequence[str], probability: float) -> list[str]:
        """Each of the options with this probability, in a random order."""
        chosen = [one for one in options if self.chance(probability)]
        self.shuffle(chosen)
        return chosen

    def arguments(self, options: Sequence[str], probability: float = 0.2) -> str:
        """Keyword arguments that follow others."""
        return "".join(f", {one}" for one in self.some(options, probability))
