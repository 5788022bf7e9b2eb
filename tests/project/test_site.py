"""`scripts/check_site.py` finds what is wrong with built pages, and only that."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_site.py"
spec = importlib.util.spec_from_file_location("check_site", SCRIPT)
check_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_site)

GOOD = """
<link rel="stylesheet" href="style.css?v=1"><h1 id="top">Title</h1>
<a href="#top">up</a> <a href="other.html#there">there</a>
<a href="https://arxiv.org/abs/1502.03167">paper</a>
"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "style.css").write_text("a { background: url(data:image/png;base64,) }")
    (tmp_path / "other.html").write_text('<p id="there">here</p>')
    (tmp_path / "page.html").write_text(GOOD)
    return tmp_path


def test_good_pages_have_no_faults(site):
    assert check_site.find_faults(site) == []


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ('<script src="https://cdn.example/a.js"></script>', "loads https://cdn"),
        ('<script src="//cdn.example/a.js"></script>', "loads //cdn"),
        ('<link rel="preconnect" href="https://fonts.example">', "loads https://fonts"),
        ('<img src="gone.png">', "gone.png: no such file"),
        ('<a href="gone.html">x</a>', "gone.html: no such file"),
        ('<a href="other.html#gone">x</a>', "other.html#gone: no such anchor"),
        ('<a href="#gone">x</a>', "#gone: no such anchor"),
        ('<a href="http://example.org">x</a>', "not a well-formed https address"),
        ('<a href="https://nowhere">x</a>', "not a well-formed https address"),
    ],
)
def test_a_fault_is_named(site, added, fault):
    (site / "page.html").write_text(GOOD + added)
    assert any(fault in line for line in check_site.find_faults(site))


def test_styles_that_load_from_another_site_are_named(site):
    (site / "style.css").write_text("@import 'https://fonts.example/a.css';")
    assert "fonts.example" in check_site.find_faults(site)[0]


def test_an_empty_folder_is_no_site(tmp_path):
    assert "make docs" in check_site.find_faults(tmp_path)[0]
