"""The documentation names what is there, and everything public is documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest

import linsey.linen as nn

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "api"
COMPATIBILITY = ROOT / "docs" / "compatibility.md"


def listed_names() -> set[str]:
    """The names that the API pages list in their summaries."""
    text = "\n".join(page.read_text() for page in PAGES.glob("*.md"))
    return set(re.findall(r"^   (?:\w+\.)*(\w+)$", text, re.MULTILINE))


def test_every_public_name_of_linen_has_its_place_in_the_reference():
    public = {
        name
        for name in nn.__all__
        if not isinstance(getattr(nn, name), ModuleType)
        and name not in ("PARTITION_NAME", "broadcast")  # constants, not callables
    }
    assert not public - listed_names()


def test_every_page_is_reachable():
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name == "index.md" or "_build" in page.parts:
            continue
        folder = page.parent if (page.parent / "index.md").exists() else page.parents[1]
        name = page.relative_to(folder).with_suffix("").as_posix()
        assert f"\n{name}\n" in (folder / "index.md").read_text(), page


def named_tests() -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py::\w+)`", COMPATIBILITY.read_text())


@pytest.mark.parametrize("reference", named_tests())
def test_every_difference_names_a_test_that_exists(reference):
    file, _, name = reference.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
