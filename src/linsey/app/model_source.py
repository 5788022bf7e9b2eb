"""The hash of a model's source: of its file, and of files nearby that it imports.

A run records it, so that anyone who resumes or evaluates the run learns of changes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def source_sha256(module: ModuleType) -> str | None:
    """Return the SHA-256 of the source of a module.

    Files of the same folder or package are included if the module imports something
    from them, directly or through one another. For one file, the hash is what
    `sha256sum FILE` prints; for several, it is the SHA-256 of what `sha256sum FILES`
    prints in their folder, with the files in alphabetical order.

    Args:
        module: an imported module.

    Returns:
        Hexadecimal digits; `None` without a source, as in a notebook.
    """
    path = _file(module)
    if path is None:
        return None
    root = _root(module, path)
    files = sorted({path, *_nearby(module, root, set())})
    lines = [f"{_sha256(file)}  {file.relative_to(root).as_posix()}" for file in files]
    if len(lines) == 1:
        return lines[0].split()[0]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file(module: ModuleType) -> Path | None:
    name = getattr(module, "__file__", None)
    path = Path(name).resolve() if name else None
    return path if path and path.suffix == ".py" and path.is_file() else None


def _root(module: ModuleType, path: Path) -> Path:
    """Return the folder of the outermost package, or that of the file."""
    depth = module.__name__.count(".")
    if getattr(module, "__path__", None) is not None:
        depth += 1
    return path.parents[max(0, depth - 1)] if depth else path.parent


def _nearby(module: ModuleType, root: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files below a folder from which a module has imported something."""
    seen.add(module.__name__)
    for value in list(vars(module).values()):
        is_module = isinstance(value, ModuleType)
        name = value.__name__ if is_module else getattr(value, "__module__", "")
        other = sys.modules.get(name) if isinstance(name, str) else None
        if other is None or other.__name__ in seen:
            continue
        if other.__name__.split(".")[0] == "linsey":
            continue  # its version is recorded
        path = _file(other)
        if path is not None and _is_inside(path, root):
            yield path
            yield from _nearby(other, root, seen)


def _is_inside(path: Path, root: Path) -> bool:
    if not path.is_relative_to(root):
        return False
    # A virtual environment in the folder of a project holds packages of others.
    return "site-packages" not in path.relative_to(root).parts
