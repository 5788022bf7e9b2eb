"""How CONTRIBUTING says that we write, as far as a program can tell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "examples", "scripts", "benchmarks")
PROGRAMS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    if not path.is_relative_to(ROOT / "docs" / "_build")
}
# What a description begins with, where a docstring should say what the function does.
DESCRIPTIONS = set(
    "a all an at each how its nothing of one the their these this those what when "
    "where whether which why".split()
)
# Private words, and the terms of the field to write instead.
PRIVATE = {
    r"[Nn]one means|or none\b": "If `None`, ...",
    r"for none\b": "what the function does then",
    r"\bmargins?\b": "padding",
    r"\bholes?\b": "lhs_dilation",
    r"\banchors?\b": "shift",
    r"\babsent\b": "masked, missing",
    r"inverse deviations?\b": "reciprocal standard deviation",
    r"\bweighs?\b": "weight",
    r"_tame\b": "what the function does",
}
EXCEPTIONS = {
    ("scripts/check_site.py", "anchor"): "an HTML anchor",
    ("scripts/check_site.py", "anchors"): "HTML anchors",
    ("benchmarks/claims.py", "margins"): "the name of a method in Matplotlib",
    ("src/linsey/ops/fp8.py", "margin"): "the name of an argument in Flax",
    ("src/linsey/app/page.py", "margin"): "a property of CSS",
}


def functions(name: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(PROGRAMS[name])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            text = ast.get_docstring(node, clean=False)
            if text and not re.search(r"property|\.setter", decorators):
                yield f"{name}:{node.lineno} {node.name}", text


def is_command(text: str) -> bool:
    """Tell whether a text begins like "Return", as far as its first word shows."""
    first = re.match(r"[A-Za-z]+\b", text)
    return (
        first is not None
        and first[0].lower() not in DESCRIPTIONS
        and not re.search("[^s]s$", first[0])
    )


def test_docstrings_of_functions_are_commands():
    found = [each for name in PROGRAMS for each in functions(name)]
    assert len(found) > len(PROGRAMS)
    assert [where for where, text in found if not is_command(text)] == []


def test_the_terms_are_those_of_the_field():
    found = []
    pattern = re.compile("|".join(PRIVATE))
    for name, text in (PROGRAMS | PAGES).items():
        for word in pattern.finditer(text):
            if (name, word[0]) not in EXCEPTIONS:
                better = next(b for p, b in PRIVATE.items() if re.fullmatch(p, word[0]))
                line = text.count("\n", 0, word.start()) + 1
                found.append(f"{name}:{line}: {word[0]}; better: {better}")
    assert found == []


@pytest.mark.parametrize("first", ["Returns the mean.", "The mean.", "Whether it is."])
def test_descriptions_are_recognised(first):
    assert not is_command(first)


@pytest.mark.parametrize("first", ["Return the mean.", "Pass it on.", "Tell whether."])
def test_commands_are_recognised(first):
    assert is_command(first)
