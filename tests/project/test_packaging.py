"""The wheel holds what an installed linsey needs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_check_dist():
    spec = importlib.util.spec_from_file_location(
        "check_dist", ROOT / "scripts" / "check_dist.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


check_dist = load_check_dist()


def built_metadata() -> str:
    """The metadata that a build of this source gives to an index."""
    program = (
        "from hatchling.metadata.core import ProjectMetadata\n"
        "from hatchling.metadata.spec import get_core_metadata_constructors\n"
        "from hatchling.plugin.manager import PluginManager\n"
        "metadata = ProjectMetadata('.', PluginManager())\n"
        "print(get_core_metadata_constructors()['2.4'](metadata))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_an_index_can_show_the_metadata():
    assert check_dist.faults_of_metadata(built_metadata()) == []


def test_links_and_addresses_that_an_index_cannot_follow_are_found():
    metadata = (
        "Metadata-Version: 2.4\nName: linsey\nVersion: 0.1\n"
        "Description-Content-Type: text/markdown\n\nSee [this](docs/a.md).\n"
    )
    assert check_dist.faults_of_metadata(metadata) == [
        "no project URL: Changelog, Documentation, Homepage, Issues, Source",
        "the link docs/a.md leads nowhere on an index page",
    ]


def test_what_the_readme_says_to_install_suffices_for_its_example():
    """Each package that the example imports is one that its line for pip brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = check_dist.extra_of_readme().strip("[]").split(",")
    wanted = [*project["dependencies"], "linsey"]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in wanted}
    imported = re.findall(
        r"^(?:import|from) (\w+)", check_dist.readme_example(), re.MULTILINE
    )
    assert {"linsey", "jax", "optax"} <= set(imported) <= names


@pytest.mark.slow
def test_wheel_holds_code_types_licence_and_command(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "linsey = linsey.app.cli:main" in archive.read(entry_points).decode()
    assert "linsey/py.typed" in names
    assert "linsey/linen/__init__.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any("digits" in name and not name.endswith(".py") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_every_python_that_the_metadata_promises_is_in_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements" / "train.txt").read_text()
    assert project["requires-python"] == ">=3.11"
    for requirement in project["dependencies"]:
        name = requirement.partition(">=")[0]
        assert f"\n{name}==" in lock
