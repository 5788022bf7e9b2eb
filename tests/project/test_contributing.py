"""What CONTRIBUTING says about the source is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
ROWS = re.findall(r"^\| .+ \| `(src/[\w/]+\.py)`, `(\w+)` \|$", PAGE, re.MULTILINE)
FILES = re.findall(r"`((?:src|tests|docs|benchmarks|scripts)/[\w/]+(?:\.\w+|/))`", PAGE)


def test_five_things_are_located():
    assert len(ROWS) == 5


@pytest.mark.parametrize(("file", "name"), ROWS)
def test_what_the_table_names_is_defined_there(file, name):
    tree = ast.parse((ROOT / file).read_text())
    defined = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    defined |= {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert name in defined


@pytest.mark.parametrize("path", sorted(set(FILES)))
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()
