"""Predictions as text: a CSV table, or one JSON record per line.

A table holds file, row, class and probability of each example, then classes and
probabilities of further ranks (`class_2`, `probability_2`, ...), then the probability
of each class in a column `p_NAME`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

import numpy as np

from linsey.app.examples.terms import Example

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """The format of the text.

    Attributes:
        class_names: one for each class.
        top: how many of the most probable classes are given.
        probabilities: whether the probability of each class is given, too.
        as_json: whether to write lines of JSON instead of CSV.

    Example:
        >>> table = PredictionTable(("cat", "dog"), 1, True, False)
        >>> x = np.zeros((8, 8, 1))
        >>> logits = np.array([[0, 1]], np.float32)
        >>> chances = np.array([[0.25, 0.75]], np.float32)
        >>> print(table.header() + table.lines([Example("a.png", None, x)],
        ...                                    logits, chances), end="")
        file,row,class,probability,p_cat,p_dog
        a.png,,dog,0.75,0.25,0.75
    """

    class_names: tuple[str, ...]
    top: int = 1
    probabilities: bool = False
    as_json: bool = False

    @property
    def ranks(self) -> int:
        """The number of most probable classes that are given."""
        return min(self.top, len(self.class_names))

    def header(self) -> str:
        """Return the line with the names of the columns; empty for JSON."""
        if self.as_json:
            return ""
        names = ["file", "row", "class", "probability"]
        for rank in range(2, self.ranks + 1):
            names += [f"class_{rank}", f"probability_{rank}"]
        if self.probabilities:
            names += [f"p_{name}" for name in self.class_names]
        return _csv([names])

    def lines(
        self, examples: Sequence[Example], logits: np.ndarray, chances: np.ndarray
    ) -> str:
        """Return the lines of some examples.

        Args:
            examples: the examples, whose files and rows are given.
            logits: (examples, classes), which decide the order.
            chances: (examples, classes) probabilities.
        """
        # The first of equal logits counts, as in argmax.
        order = np.argsort(-logits, axis=1, kind="stable")[:, : self.ranks]
        rows = zip(examples, order.tolist(), chances, strict=True)
        if self.as_json:
            return "".join(self._record(*row) for row in rows)
        return _csv([self._cells(*row) for row in rows])

    def _cells(
        self, example: Example, order: list[int], chances: np.ndarray
    ) -> list[Cell]:
        cells: list[Cell] = [example.file, example.row]
        for place in order:
            cells += [self.class_names[place], _short(chances[place])]
        return cells + (list(map(_short, chances)) if self.probabilities else [])

    def _record(self, example: Example, order: list[int], chances: np.ndarray) -> str:
        ranked = [
            {"class": self.class_names[place], "probability": _short(chances[place])}
            for place in order
        ]
        record: dict[str, object] = {"file": example.file, "row": example.row}
        record |= ranked[0]
        if self.top > 1:
            record["top"] = ranked
        if self.probabilities:
            every = map(_short, chances)
            record["probabilities"] = dict(zip(self.class_names, every, strict=True))
        return json.dumps(record) + "\n"


def _short(value: np.float32) -> float:
    """Return the shortest decimal number that rounds to this one in float32."""
    return float(str(value))


def _csv(rows: Sequence[Sequence[Cell]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
