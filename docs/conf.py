"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

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
templates_path = ["_templates"]
autosummary_generate = True

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses are documented once

html_theme = "furo"
html_title = f"linsey {release}"


def read_given_signatures() -> None:
    """Takes signatures that functions were given as they are.

    `autodoc_preserve_defaults` looks for the text of defaults in the source, where
    those of a signature that was set afterwards are not, and fails.
    """
    from sphinx.ext.autodoc._dynamic import _signatures

    read = _signatures.update_default_value

    def update_default_value(obj: Any, bound_method: bool) -> None:
        if "__signature__" not in getattr(obj, "__dict__", {}):
            read(obj, bound_method)

    _signatures.update_default_value = update_default_value


def markdown_to_rst(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Lets docstrings be read as people write them.

    Single backquotes mean code, as in Markdown, and stars mean themselves, as in
    (*batch, features). Paragraphs with doctests are left alone, and so are the
    docstrings of functions that come from jax.
    """
    if str(getattr(obj, "__module__", "linsey")).split(".")[0] == "jax":
        return
    paragraphs = "\n".join(lines).split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if ">>>" not in paragraph and "::" not in paragraph:
            parts = re.split(r"(?<!`)`([^`]+)`(?!`)", paragraph)
            text, code = parts[::2], parts[1::2]
            text = [
                re.sub(r"(?<!^)(?<!\n)[*|]|[*|](?=\S)", r"\\\g<0>", part)
                for part in text
            ]
            joined = text[0]
            for span, after in zip(code, text[1:], strict=True):
                joined += f"``{span}``" + ("\\ " if after[:1].isalnum() else "") + after
            paragraphs[i] = joined
    lines[:] = "\n\n".join(paragraphs).split("\n")


def setup(app: Any) -> None:
    """Runs the conversion before napoleon sees the docstring."""
    read_given_signatures()
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
