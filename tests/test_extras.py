"""What a hint tells people to install is what the extra installs."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from linsey import extras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in listed}
    for name, listed in PROJECT["optional-dependencies"].items()
    if name != "all"  # names the others
}


@pytest.fixture(autouse=True)
def fresh():
    extras.install_hint.cache_clear()
    yield
    extras.install_hint.cache_clear()


@pytest.mark.parametrize("extra", EXTRAS)
def test_hint_names_the_packages_of_the_extra(extra):
    pip, install, *packages = shlex.split(extras.install_hint(extra))
    assert (pip, install) == ("pip", "install")
    names = {re.match(r"[\w.-]+", package)[0].lower() for package in packages}
    assert names == EXTRAS[extra]


def test_hint_says_an_upper_bound(monkeypatch):
    requirement = "jaxlib<0.13,>=0.10; (sys_platform == 'linux') and extra == 'cpu'"
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [requirement])
    assert extras.install_hint("cpu") == "pip install 'jaxlib<0.13,>=0.10'"


@pytest.mark.parametrize("missing", [None, "package"])
def test_without_metadata_the_hint_is_for_a_clone(monkeypatch, missing):
    def requires(name):
        if missing:
            raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert extras.install_hint("train") == "pip install '.[train]'"


def test_a_missing_package_is_named_with_what_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(extras.MissingPackageError) as caught:
        extras.require("matplotlib", "plot", "A plot")
    assert str(caught.value) == (
        "A plot needs `matplotlib`, which is not installed.\n"
        "It comes with the packages of linsey's extra `plot`.\n"
        "Write `pip install matplotlib`."
    )
    assert caught.value.name == "matplotlib"
    assert isinstance(caught.value, ModuleNotFoundError)


def test_a_package_that_is_there_is_imported():
    assert extras.require("numpy.linalg", "train", "A test").__name__ == "numpy.linalg"


def test_nothing_says_to_install_linsey_from_an_index():
    """No index has it: whoever follows the advice would get nothing, or a stranger."""
    for folder, pattern in (("src", "*.py"), ("docs", "*.md"), ("examples", "*.*")):
        for path in (ROOT / folder).rglob(pattern):
            if "_build" not in path.parts:
                text = path.read_text()
                assert not re.search(r"pip install ['\"]?linsey", text), path
