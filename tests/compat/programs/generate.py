"""The program of a seed and an index."""

from __future__ import annotations

from tests.compat.programs.acts import script
from tests.compat.programs.bodies import Book
from tests.compat.programs.mistakes import plant
from tests.compat.programs.modules import module
from tests.compat.programs.syntax import Draw, Program

SHAPES = ((2, 3), (2, 3), (2, 4), (3,), (2, 3, 4), (2, 3, 2))
MISTAKES = 1 / 6


def program(seed: int, index: int) -> Program:
    """Program `index` of a seed: the same each time."""
    draw = Draw(f"{seed}/{index}")
    book = Book(draw)
    unit = module(book, draw.pick(*SHAPES), draw.pick(0, 1, 1, 2), top=True)
    script(book, unit)
    if draw.chance(MISTAKES):
        plant(draw, book.program)
    return book.program
