"""The wheel holds what an installed linsey needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
