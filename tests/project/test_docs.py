"""Every page of the documentation is reachable, and the tests it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPATIBILITY = ROOT / "docs" / "compatibility.md"


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
    assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
