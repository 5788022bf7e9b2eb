"""Between arrays in memory and files of pieces.

What leaves memory is hashed there; what comes from a file is compared with that hash
before anybody sees it. Each file is read once, so what was compared is what is used.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linsey.checkpoint import dtypes, tensors
from linsey.checkpoint.manifest import ArrayEntry, FileEntry, Manifest, Piece
from linsey.errors import ArgumentTypeError, InputError, UnsupportedError
from linsey.files import open_regular, reporting

_OTHER_ARRAY = "the array is not the one that was written"


def pack(
    arrays: Mapping[str, Any], file: str
) -> tuple[list[bytes | memoryview], FileEntry, dict[str, ArrayEntry]]:
    """Lay out whole arrays as the content of one file.

    Args:
        arrays: by path.
        file: its name.

    Returns:
        The content in chunks, what the manifest says of the file, and of each array.

    Raises:
        ArgumentTypeError: something is no array that can be stored.
        UnsupportedError: an array is spread over several processes.
    """
    if tensors.RESERVED in arrays:
        raise ArgumentTypeError(
            f"An array has the path `{tensors.RESERVED}`.",
            "Files of safetensors use that name for something else.",
            "Give the array another name.",
        )
    for path, array in arrays.items():
        if not getattr(array, "is_fully_addressable", True):
            raise UnsupportedError(
                f"`{path}` is spread over several processes.",
                "A step is written by one process, which has only a part of it.",
                "Gather it with `jax.experimental.multihost_utils.process_allgather`.",
            )
        if hasattr(array, "copy_to_host_async"):
            array.copy_to_host_async()  # all on their way before the first is awaited
    stored = {path: dtypes.to_stored(array, path) for path, array in arrays.items()}
    # Items of decreasing size, so that each array is aligned.
    order = sorted(stored, key=lambda path: (-stored[path][1].itemsize, path))
    entries = {}
    for path in order:
        dtype, array = stored[path]
        found = dtypes.storage(dtype)
        assert found is not None
        shape = array.shape[: array.ndim - len(found.axes)]
        piece = Piece(file, tuple((0, size) for size in shape), _sha256(array))
        entries[path] = ArrayEntry(shape, dtype, found.code, (piece,))
    laid_out = {path: stored[path][1] for path in order}
    codes = {path: entry.stored for path, entry in entries.items()}
    header = tensors.encode_header(laid_out, codes)
    chunks = [header, *map(dtypes.raw, laid_out.values())]
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    size = sum(len(chunk) for chunk in chunks)
    return chunks, FileEntry(size, sha256.hexdigest()), entries


def unpack(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Read the files of a step, and compare everything with the manifest.

    Args:
        folder: holds the files of the manifest and nothing else.
        manifest: from `linsey.checkpoint.manifest.check`.

    Returns:
        The arrays by path. They cannot be written to.

    Raises:
        InputError: a file or an array is not the one that was written; it names both.
        DiskError: the disk refused.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    contents = {n: read_file(folder / n, e) for n, e in manifest.files.items()}
    expected: dict[str, dict[str, tuple[str, ArrayEntry, Piece]]]
    expected = {name: {} for name in manifest.files}
    for path, entry in manifest.arrays.items():
        for piece in entry.pieces:
            name = piece.name(path, entry.shape)
            if name in expected[piece.file]:
                problem = "two pieces of one name"
                raise InputError(problem, file=folder / piece.file, key=name)
            expected[piece.file][name] = (path, entry, piece)
    for name, content in contents.items():
        path, entry = folder / name, manifest.files[name]
        is_as = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        # Where all arrays are right, the change is in what lies before them.
        refused = None if is_as == entry else changed(path, entry, is_as, "header")
        try:
            found[name] = _unpack_file(path, content, expected[name])
        except InputError as error:
            if refused is None or error.problem == _OTHER_ARRAY:
                raise
        if refused:
            raise refused
    return {
        path: _assemble(path, entry, found, folder)
        for path, entry in manifest.arrays.items()
    }


def read_file(path: Path, entry: FileEntry) -> bytes:
    """Read a file that has the size that the manifest says.

    Raises:
        InputError: there is no such file, or it has another size.
        DiskError: the disk refused.
    """
    with open_regular(path) as file, reporting(path, "read"):
        size = os.fstat(file.fileno()).st_size
        try:
            content = file.read(entry.bytes + 1) if size == entry.bytes else b""
        except MemoryError:
            raise InputError("too large for the memory", file=path) from None
    if size != entry.bytes or len(content) != entry.bytes:
        found = f"{size if size != entry.bytes else len(content):,} bytes"
        raise changed(path, f"{entry.bytes:,} bytes", found)
    return content


def changed(
    path: Path, expected: object, found: object, key: str | None = None
) -> InputError:
    """Return the error for a file that was changed."""
    problem = "the file is not the one that was written"
    return InputError(problem, file=path, key=key, expected=expected, found=found)


def _unpack_file(
    path: Path, content: bytes, expected: Mapping[str, tuple[str, ArrayEntry, Piece]]
) -> dict[str, np.ndarray]:
    header, start = tensors.parse_header(content, path)
    if names := sorted(header.keys() ^ expected.keys()):
        problem = "the file and the manifest hold other arrays"
        raise InputError(problem, file=path, key=names[0])
    arrays = {}
    for name, (key, entry, piece) in expected.items():
        refused = functools.partial(InputError, file=path, key=key)
        storage = dtypes.storage(entry.dtype)
        assert storage is not None
        is_as = (header[name].dtype, header[name].shape)
        has_to_be = (storage.code, piece.shape + storage.axes)
        if is_as != has_to_be:
            problem = "the file and the manifest do not agree"
            raise refused(problem, expected=has_to_be, found=is_as)
        begin, end = (start + offset for offset in header[name].data_offsets)
        array = np.frombuffer(memoryview(content)[begin:end], storage.dtype)
        if (sha256 := _sha256(array)) != piece.sha256:
            stated = f"SHA-256 {piece.sha256[:12]}", f"SHA-256 {sha256[:12]}"
            raise refused(_OTHER_ARRAY, expected=stated[0], found=stated[1])
        arrays[name] = array.reshape(has_to_be[1])
    return arrays


def _assemble(
    path: str, entry: ArrayEntry, found: Mapping[str, Mapping[str, np.ndarray]],
    folder: Path,
) -> Any:  # fmt: skip
    pieces = [
        (piece.slice, found[piece.file][piece.name(path, entry.shape)])
        for piece in entry.pieces
    ]
    whole = pieces[0][1]
    if len(pieces) > 1:
        storage = dtypes.storage(entry.dtype)
        assert storage is not None
        # The sizes of all pieces add up: so, if none overlap, there are no gaps.
        is_set = np.zeros(entry.shape, bool)
        whole = np.empty(entry.shape + storage.axes, storage.dtype)
        for bounds, piece in pieces:
            place = tuple(slice(start, stop) for start, stop in bounds)
            if is_set[place].any():
                problem = "pieces with gaps or overlaps"
                raise InputError(problem, file=folder, key=path)
            is_set[place], whole[place] = True, piece
        whole.flags.writeable = False
    return dtypes.from_stored(whole, entry.dtype)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(dtypes.raw(array)).hexdigest()
