"""Counts lines of code without docstrings, comments and blank lines.

`python scripts/count_code.py [--files] [FOLDER]` prints one line for each package of
`src/linsey` (or of the folder), the number of its files, their median and longest, and
with `--files` one line for each file too.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "linsey"
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_lines(tree: ast.Module) -> set[int]:
    """The line numbers that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def count_code(text: str) -> int:
    r"""The number of lines that hold code and are no part of a docstring.

    >>> count_code('"About."\n\nx = 1  # one\n# nothing\n')
    1
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(ast.parse(text)))


def count_folder(folder: Path) -> dict[Path, int]:
    """Lines of code of every Python file under the folder."""
    files = sorted(folder.rglob("*.py"))
    return {path.relative_to(folder): count_code(path.read_text()) for path in files}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SOURCE)
    parser.add_argument("--files", action="store_true", help="one line a file too")
    arguments = parser.parse_args()

    packages: dict[str, dict[Path, int]] = defaultdict(dict)
    for path, lines in count_folder(arguments.folder).items():
        packages[path.parts[0] if len(path.parts) > 1 else "."][path] = lines
    layout = "{:<24} {:>6} {:>6} {:>7} {:>8}"
    print(layout.format("package", "lines", "files", "median", "longest"))
    everything: list[int] = []
    for package, counts in sorted(packages.items()):
        lines = list(counts.values())
        everything += lines
        print(summary(layout, package, lines))
        if arguments.files:
            for path, count in sorted(counts.items(), key=lambda item: -item[1]):
                print(f"    {path!s:<20} {count:>6}")
    print(summary(layout, "all", everything))


def summary(layout: str, name: str, lines: list[int]) -> str:
    """One row of the table."""
    median = f"{statistics.median(lines):.0f}" if lines else "0"
    return layout.format(name, sum(lines), len(lines), median, max(lines, default=0))


if __name__ == "__main__":
    main()
