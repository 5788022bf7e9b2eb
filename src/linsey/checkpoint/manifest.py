"""A manifest: the size and SHA-256 of every file of a folder, and its own hash last.

One flipped bit in a checkpoint loads as silently wrong weights in most cases, so a
folder is compared with its manifest before anything in it is parsed. The manifest
is JSON; its last entry is the hash of every byte before that entry, so each bit of
the folder is covered, those of the manifest included.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linsey.errors import InputError

NAME = "manifest.json"
"""The name of the manifest in its folder."""
FORMAT = 1
MAX_FILES = 1_000_000
MAX_MANIFEST_BYTES = 256 * 2**20
_SEAL = b',\n "sha256": "'
_END = b'"\n}\n'

Fingerprint = dict[str, int | str]  # `bytes` and `sha256`, as in the file


def write_manifest(folder: Path, header: Mapping[str, object]) -> None:
    """Write the manifest of a folder into it.

    Args:
        folder: holds regular files and folders only, and no manifest yet.
        header: JSON values to record beside the files.
    """
    files = {name: _fingerprint(folder / name) for name in _list_files(folder)}
    record = {"format": FORMAT, **header, "files": files}
    body = json.dumps(record, indent=1).encode().removesuffix(b"\n}")
    (folder / NAME).write_bytes(body + _SEAL + _hash(body) + _END)


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Compare a folder with its manifest, byte for byte.

    Args:
        folder: a folder written by `write_manifest`.

    Returns:
        The manifest, without its own hash.

    Raises:
        InputError: something is missing, added, or changed; it names the file.
    """
    record = _read(folder / NAME)
    present = _list_files(folder)
    for name in sorted(present - record["files"].keys()):
        raise InputError("a file that is not in the manifest", file=folder / name)
    for name, expected in record["files"].items():
        if name not in present:
            raise InputError("a file of the manifest is missing", file=folder / name)
        found = _fingerprint(folder / name, expected["bytes"])
        if found != expected:
            problem = "the file is not the one that was written"
            stated = {"expected": _described(expected), "found": _described(found)}
            raise InputError(problem, file=folder / name, **stated)
    return record


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.is_symlink():
        raise InputError("no manifest, so not a finished checkpoint", file=path)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise InputError("the manifest is too large to be one", file=path)
    body, separator, tail = path.read_bytes().rpartition(_SEAL)
    if not separator or tail != _hash(body) + _END:
        raise InputError("the manifest does not match its own hash", file=path)
    record = json.loads(body + b"\n}")
    if (found := record["format"]) != FORMAT:
        problem = "written in another format"
        hint = "use the version of linsey that wrote it"
        raise InputError(problem, file=path, expected=FORMAT, found=found, hint=hint)
    return record


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _list_files(folder: Path) -> set[str]:
    """Names of all files below a folder, refusing whatever is not a plain file."""
    names = set()
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                names.add(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(mode):
                raise InputError("not a regular file or folder", file=path)
        if len(names) > MAX_FILES:
            raise InputError(f"more than {MAX_FILES} files", file=folder)
    return names - {NAME}


def _fingerprint(path: Path, expected_bytes: int | None = None) -> Fingerprint:
    """Size and hash of a file; a file of the wrong size is not read."""
    size = path.stat().st_size
    if expected_bytes is not None and size != expected_bytes:
        return {"bytes": size, "sha256": "not computed"}
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": size, "sha256": sha256}


def _described(fingerprint: Fingerprint) -> str:
    return f"{fingerprint['bytes']} bytes, SHA-256 {str(fingerprint['sha256'])[:12]}"
