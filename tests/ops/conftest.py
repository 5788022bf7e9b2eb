"""Checks the shapes and dtypes that signatures promise, wherever a test calls the face.

`linsey.ops` imports neither jaxtyping nor beartype. While the test files of this folder
are imported, and while their tests run, its names are functions that check each call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

import pytest

from linsey import ops
from tests.ops.signatures import checked

FUNCTIONS = {
    name: value
    for name in ops.__all__
    if not inspect.isclass(value := getattr(ops, name))
}
CHECKED = {name: checked(function) for name, function in FUNCTIONS.items()}


@contextlib.contextmanager
def checked_face() -> Iterator[None]:
    """Replaces the functions of the face by those that check."""
    for name, function in CHECKED.items():
        setattr(ops, name, function)
    try:
        yield
    finally:
        for name, function in FUNCTIONS.items():
            setattr(ops, name, function)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Gives the test files the checked functions when they import them."""
    with checked_face():
        return (yield)


@pytest.fixture(autouse=True)
def _checked_face() -> Iterator[None]:
    with checked_face():
        yield
