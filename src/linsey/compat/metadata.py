"""What `importlib.metadata` reports about the packages that linsey stands for."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

from linsey.compat.packages import PACKAGES

_LINSEY = Path(__file__).parents[1]


def distributions(name: str | None) -> list[importlib.metadata.Distribution]:
    """List the distributions with a given name; if it is `None`, all of them."""
    wanted = None if name is None else re.sub(r"[-_.]+", "-", name).lower()
    return [Distribution(n) for n in PACKAGES if wanted in (None, n)]


class Distribution(importlib.metadata.Distribution):
    """The source of `version`, `metadata`, `requires` and `files`.

    The version is that of the package; the files and requirements are linsey's.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._folder = _LINSEY.joinpath(*PACKAGES[package].own.split(".")[1:])

    def read_text(self, filename: str) -> str | None:
        """Return the text of a metadata file, or `None` if there is no such file."""
        if filename == "METADATA":
            return self._metadata()
        if filename == "RECORD":
            files = sorted(self._folder.rglob("*.py"))
            paths = [file.relative_to(self._folder).as_posix() for file in files]
            return "".join(f"{self._package}/{path},,\n" for path in paths)
        if filename == "top_level.txt":
            return f"{self._package}\n"
        return None

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """Return the path of a package file, which lies in linsey."""
        parts = Path(path).parts
        inside = bool(parts) and parts[0] == self._package
        return self._folder.joinpath(*parts[1:]) if inside else _LINSEY.parent / path

    def _metadata(self) -> str:
        package = PACKAGES[self._package]
        fields = [
            ("Metadata-Version", "2.1"),
            ("Name", self._package),
            ("Version", package.version),
            ("Summary", package.summary),
            ("Requires-Python", ">=3.11"),
            ("License", "Apache-2.0"),
            *(("Requires-Dist", line) for line in _requirements()),
        ]
        return "".join(f"{name}: {value}\n" for name, value in fields)


def _requirements() -> list[str]:
    """List the requirements of linsey itself, without extras."""
    try:
        lines = importlib.metadata.requires("linsey") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        lines = ["jax", "numpy", "msgpack"]
    return [line for line in lines if "extra ==" not in line]
