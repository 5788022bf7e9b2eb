"""Counts the lines of code, the uses of `Any`, and silenced type checks.

`python scripts/count_code.py [--files] [FOLDER]` prints one line for each package of
`src/linsey` (or of the folder): its lines of code, without docstrings, comments and
blank lines, the number of its files, and their median and largest size. With `--files`
it also prints one line for each file. Below the table are the size of the core with the
module system and the transforms, the number of uses of `Any` (including names to which
`Any` is assigned, alone or in a union), and the number of comments that silence a type
checker.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
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
    """Return the line numbers of docstrings."""
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
    r"""Return the number of lines that contain code, without docstrings.

    >>> count_code('"About."\n\nx = 1  # one\n# nothing\n')
    1
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(ast.parse(text)))


def count_folder(folder: Path) -> dict[Path, int]:
    """Return the lines of code of every Python file under a folder."""
    files = sorted(folder.rglob("*.py"))
    return {path.relative_to(folder): count_code(path.read_text()) for path in files}


# The state core, the module system and the transforms, on which everything is built.
HEART = ("core/", "linen/module/", "linen/transforms/")
NOT_HEART = ("core/nn",)
IGNORE = re.compile(r"#\s*(type|pyrefly|pyright|mypy):\s*ignore")


def count_heart(counts: dict[Path, int]) -> int:
    """Return the lines of code of the core, the module system and the transforms."""
    return sum(
        lines
        for path, lines in counts.items()
        if path.as_posix().startswith(HEART)
        and not path.as_posix().startswith(NOT_HEART)
    )


def means_any(node: ast.AST, names: set[str]) -> bool:
    """Tell whether an expression is one of the names, or a union with one of them."""
    match node:
        case ast.Name(id=name):
            return name in names
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return means_any(left, names) or means_any(right, names)
        case ast.Subscript(value=ast.Name(id="Union" | "Optional"), slice=parts):
            elements = parts.elts if isinstance(parts, ast.Tuple) else [parts]
            return any(means_any(element, names) for element in elements)
    return False


def count_any(folder: Path) -> int:
    """Return the number of uses of `Any` under a folder, with aliases and imports."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}
    aliases: dict[str, set[str]] = {}
    for path, tree in trees.items():
        parts = path.relative_to(folder.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        aliases[module] = {
            node.targets[0].id
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and means_any(node.value, {"Any"})
        }
        aliases[str(path)] = aliases[module]
    total = 0
    for path, tree in trees.items():
        names = {"Any", *aliases[str(path)]}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                known = {"Any"} if node.module == "typing" else set()
                known |= aliases.get(node.module or "", set())
                found = [alias for alias in node.names if alias.name in known]
                total += len(found)
                names.update(alias.asname or alias.name for alias in found)
        total += sum(
            isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree)
        )
    return total


def count_ignores(folder: Path) -> int:
    """Return the number of comments that silence a type checker."""
    return sum(len(IGNORE.findall(p.read_text())) for p in folder.rglob("*.py"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SOURCE)
    parser.add_argument(
        "--files", action="store_true", help="also print one line for each file"
    )
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
    if arguments.folder == SOURCE:
        print(f"core + module + transforms {count_heart(count_folder(SOURCE)):>5}")
    print(f"Any {count_any(arguments.folder):>28}")
    print(f"ignores {count_ignores(arguments.folder):>24}")


def summary(layout: str, name: str, lines: list[int]) -> str:
    """Format one row of the table."""
    median = f"{statistics.median(lines):.0f}" if lines else "0"
    return layout.format(name, sum(lines), len(lines), median, max(lines, default=0))


if __name__ == "__main__":
    main()
