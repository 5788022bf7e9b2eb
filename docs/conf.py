"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import importlib.metadata

project = "linsey"
author = "The linsey maintainers"
copyright = "2026, The linsey maintainers"
release = importlib.metadata.version("linsey")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Docstrings use single backquotes for code, as Markdown does.
default_role = "code"

html_theme = "furo"
html_title = f"linsey {release}"
