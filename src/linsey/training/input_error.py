"""One error for everything that can be wrong with what a user hands in.

Files, options, arrays and checkpoints are judged where they enter. What is wrong
with them is told in one line: which file, which key in it, what was expected, what
was found, and what to do. The command line prints that line and exits with code 2.
"""

from __future__ import annotations

import os

from linsey.errors import LinseyError


class InputError(LinseyError):
    """Says what is wrong with an input, and where, in one line.

    Args:
        problem: what is wrong, as a short clause.
        file: the file or folder that holds it.
        key: the option, array, field or row inside that file.
        expected: what would have been right.
        found: what was there.
        hint: what the user can do, as an imperative.

    Example:
        >>> print(InputError("label out of range", file="a.npz", key="y[7]",
        ...                  expected="0 to 9", found=12, hint="see --classes"))
        a.npz: y[7]: label out of range: expected 0 to 9, found 12 (see --classes)
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        key: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else os.fspath(file)
        self.key = key
        self.expected = None if expected is None else str(expected)
        # `found` is what the base class calls the whole first sentence.
        self.actual = None if found is None else str(found)
        self.hint = hint
        super().__init__(" ".join(self._line().split()))

    def _line(self) -> str:
        where = [part for part in (self.file, self.key) if part]
        line = ": ".join([*where, self.problem])
        facts = []
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        if self.actual is not None:
            facts.append(f"found {self.actual}")
        if facts:
            line += ": " + ", ".join(facts)
        return f"{line} ({self.hint})" if self.hint else line
