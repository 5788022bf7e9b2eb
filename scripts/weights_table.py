"""Measure the differences from PyTorch, and write them into the guide on weights.

The tests of the layers print the differences; this script runs them and writes the
figures into the table of `docs/guides/bringing_weights_along.md`. It needs PyTorch.
Run it with `python -m scripts.weights_table`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs/guides/bringing_weights_along.md"
TESTS = ROOT / "tests/weights/test_torch.py"
_ROW = re.compile(r"^(\| (`.*?) \| .* \| )\S+ \|$", re.M)
_FIGURE = re.compile(r"(`[^:\n]*): (\d\.\de[+-]\d\d)$", re.M)


def measure() -> dict[str, str]:
    """Run the tests of single layers.

    Returns:
        The printed difference, by the name of the layer.

    Raises:
        SystemExit: a test failed, or PyTorch is not installed.
    """
    options = ["-q", "-s", "-p", "no:cacheprovider", "-k", "computes_what_pytorch"]
    command = [sys.executable, "-m", "pytest", *options, str(TESTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = dict(_FIGURE.findall(done.stdout))
    if done.returncode or not found:
        raise SystemExit(f"nothing was written:\n{done.stdout}{done.stderr}")
    return found


def main() -> None:
    """Write the figures, one for each row."""
    found = measure()
    text = GUIDE.read_text()
    rows = {name for _, name in _ROW.findall(text)}
    if rows != found.keys():
        raise SystemExit(f"rows and tests differ: {sorted(rows ^ found.keys())}")
    GUIDE.write_text(_ROW.sub(lambda row: f"{row[1]}{found[row[2]]} |", text))
    print(f"{len(found)} figures in {GUIDE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
