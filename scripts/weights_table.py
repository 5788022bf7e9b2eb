"""Measure the differences from PyTorch, and write them into the guide on weights.

The tests of the layers and of the architectures print the differences; this script
runs them and writes the figures into the tables of the guide. It needs PyTorch,
torchvision and timm. Run it with `python -m scripts.weights_table`, and with the name
of a table behind it, `layers` or `models`, for this table alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs/guides/bringing_weights_along.md"
_FIGURE = re.compile(
    r"^\.*(\w+ \w+|`[^:\n]*): (?:single precision )?(\d\.\de[+-]\d\d)$", re.M
)
_ROW = re.compile(r"^(\| (`.*?) \| .* \| )\S+ \|$", re.M)
# The tests of each table, between comments `<!-- NAME: ... -->` and `<!-- end -->`.
TABLES = {
    "layers": ("tests/weights/test_torch.py", "computes_what_pytorch"),
    "models": ("tests/models/test_torch.py", "test_single_precision_is_near"),
}


def measure(table: str) -> dict[str, str]:
    """Run the tests of a table.

    Returns:
        The printed difference, by the name of the layer or model.

    Raises:
        SystemExit: a test failed, or PyTorch is not installed.
    """
    tests, name = TABLES[table]
    options = ["-q", "-s", "-p", "no:cacheprovider", "-k", name]
    command = [sys.executable, "-m", "pytest", *options, str(ROOT / tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {_name(name): figure for name, figure in _FIGURE.findall(done.stdout)}
    if done.returncode or not found:
        raise SystemExit(f"nothing was written:\n{done.stdout}{done.stderr}")
    return found


def _name(printed: str) -> str:
    """Return the name in the guide: of an architecture, `resnet18` of torchvision."""
    library, *model = printed.split(" ")
    is_layer = printed.startswith("`")
    return printed if is_layer else f"`{model[0]}` of {library}"


def part(text: str, table: str) -> str:
    """Return the part of the guide that holds a table."""
    start = text.index(f"<!-- {table}:")
    return text[start : text.index("<!-- end -->", start)]


def rows(text: str, table: str) -> set[str]:
    """Return the names in the first column of a table of the guide."""
    return {name for _, name in _ROW.findall(part(text, table))}


def write(text: str, table: str, found: dict[str, str]) -> str:
    """Return the guide with other figures in a table.

    Raises:
        SystemExit: the table has other rows.
    """
    if different := rows(text, table) ^ found.keys():
        raise SystemExit(f"rows and tests of {table} differ: {sorted(different)}")
    old = part(text, table)
    new = _ROW.sub(lambda row: f"{row[1]}{found[row[2]]} |", old)
    return text.replace(old, new)


def main(*tables: str) -> None:
    """Write the figures of some tables, or of all, one for each row."""
    for table in tables or TABLES:
        found = measure(table)
        GUIDE.write_text(write(GUIDE.read_text(), table, found))
        print(f"{len(found)} figures of {table} in {GUIDE.relative_to(ROOT)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
