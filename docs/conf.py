"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import jax.typing
import sphinx.util.typing

import linsey.typing

project = "linsey"
author = "The linsey maintainers"
copyright = "2026, The linsey maintainers"
release = importlib.metadata.version("linsey")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
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
# Signatures show these names, not what they stand for.
autodoc_type_aliases = {
    **{
        name: f"linsey.typing.{name}"
        for name in linsey.typing.__all__
        if name not in ("Path", "Sharding") and name[0].isupper()
    },  # other modules mean pathlib's Path and JAX's Sharding
    "ArrayLike": "jax.typing.ArrayLike",
    "DTypeLike": "jax.typing.DTypeLike",
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses are documented once
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"linsey {release}"
html_math_renderer = "mathml"  # browsers set it without scripts, fonts or a network


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


# What remains of the alias in others that are made of it.
WRITTEN_OUT = sphinx.util.typing.stringify_annotation(jax.typing.ArrayLike, "smart")


def shorten_defaults(
    app: Any, what: str, name: str, obj: Any, options: Any, given: str, returned: str
) -> tuple[str | None, str | None]:
    """Writes `zeros` for a default that is `<function zeros at 0x7f..>`.

    Sphinx shortens the types of a signature only if all of it can be parsed, so other
    defaults of such a form are left out as `...`.
    """
    shown = r"<(?:function|class) '?(?:[\w<>]+\.)*(\w+)'?(?: at 0x\w+)?>"
    for pattern, short in [
        (shown, r"\1"),
        (r"= <[^<>]+>", "= ..."),
        (r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1"),  # as Sphinx writes it in unions
        (re.escape(WRITTEN_OUT), "jax.typing.ArrayLike"),
    ]:
        given = given and re.sub(pattern, short, given)
    return given, returned


def shorten_type(app: Any, env: Any, node: Any, shown: Any) -> Any:
    """Writes `Array` for the type `jax.Array` of a signature: it has no page here."""
    import docutils.nodes
    import sphinx.addnodes

    if node and isinstance(node[0], sphinx.addnodes.pending_xref_condition):
        return docutils.nodes.Text(node["reftarget"].rsplit(".", 1)[-1])
    return None


def drop_links_from_source(
    app: Any, name: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Leaves out the links of source pages that viewcode derives from private paths.

    They lead to the name under which an object is defined, and an object has its page
    under its public name. The index also lists `builtins`, which has no source.
    """
    if name.startswith("_modules/"):
        links = r'<a class="viewcode-back".*?</a>|<li><a href="builtins.html">.*?</li>'
        context["body"] = re.sub(links, "", context["body"], flags=re.DOTALL)


def render_inline_math(writer: Any, node: Any) -> None:
    """Writes a formula in a line of text as MathML."""
    import docutils.nodes
    import latex2mathml.converter

    writer.body.append(latex2mathml.converter.convert(node.astext()))
    raise docutils.nodes.SkipNode


def render_block_math(writer: Any, node: Any) -> None:
    """Writes a formula that stands alone; a wide one scrolls in a box of its own."""
    import docutils.nodes
    import latex2mathml.converter

    formula = latex2mathml.converter.convert(node.astext(), display="block")
    writer.body.append(f'<div class="math" style="overflow-x: auto">{formula}</div>')
    raise docutils.nodes.SkipNode


def escape_stars(text: str) -> str:
    """Writes stars and bars for themselves, except around *words* and in lists."""
    parts = re.split(r"(?<![\w*(])(\*[A-Za-z][^*,]*[A-Za-z]\*)(?![\w*])", text)
    parts[::2] = [
        re.sub(r"(?<!^)(?<!\n)[*|]|[*|](?=\S)", r"\\\g<0>", part) for part in parts[::2]
    ]
    return "".join(parts)


def markdown_to_rst(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Lets docstrings be read as people write them.

    Single backquotes mean code, as in Markdown, and stars mean themselves, as in
    (*batch, features), unless they are around *words*. Paragraphs with doctests are
    left alone, and so are the docstrings of functions that come from jax.
    """
    if str(getattr(obj, "__module__", "linsey")).split(".")[0] == "jax":
        return
    paragraphs = "\n".join(lines).split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if ">>>" not in paragraph and "::" not in paragraph:
            parts = re.split(r"(?<!`)`([^`]+)`(?!`)", paragraph)
            text, code = parts[::2], parts[1::2]
            text = [escape_stars(part) for part in text]
            joined = text[0]
            for span, after in zip(code, text[1:], strict=True):
                joined += f"``{span}``" + ("\\ " if after[:1].isalnum() else "") + after
            paragraphs[i] = joined
    lines[:] = "\n\n".join(paragraphs).split("\n")


def setup(app: Any) -> None:
    """Connects the above; docstrings are converted before napoleon sees them."""
    read_given_signatures()
    app.add_html_math_renderer(
        "mathml", (render_inline_math, None), (render_block_math, None)
    )
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("missing-reference", shorten_type)
    app.connect("html-page-context", drop_links_from_source)
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
