"""Conversion between arrays in memory and files of pieces.

Data are hashed in memory before they are written. Data from a file are compared with
this hash before they are returned. Each file is read only once, so the data that are
used are the data that were compared.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linsey.checkpoint import dtypes, tensors
from linsey.checkpoint.group import ALONE, Group
from linsey.checkpoint.manifest import ArrayEntry, FileEntry, Manifest, Piece
from linsey.errors import ArgumentTypeError, InputError, UnsupportedError
from linsey.files import open_regular, reporting

Bounds = tuple[tuple[int, int], ...]
"""Start and stop of each axis."""
_OTHER_ARRAY = "the array is not the one that was written"


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of a checkpoint that one process writes.

    Attributes:
        file: size and hash of its file.
        arrays: the arrays by path, with their pieces in this file.
    """

    file: FileEntry
    arrays: dict[str, ArrayEntry]


def pack(
    arrays: Mapping[str, Any], file: str, group: Group = ALONE
) -> tuple[list[bytes | memoryview], Share]:
    """Lay out this process's share of arrays as the content of one file.

    If an array is spread over several processes, each process writes its pieces. All
    other arrays are written by the first process.

    Args:
        arrays: arrays by path.
        file: name of the file.
        group: the processes that write the checkpoint.

    Returns:
        The content in chunks, and its entries for the manifest.

    Raises:
        ArgumentTypeError: a leaf is not an array that can be stored.
        UnsupportedError: an array is spread over several processes, but only one
            writes.
    """
    if tensors.RESERVED in arrays:
        raise ArgumentTypeError(
            f"An array has the path `{tensors.RESERVED}`.",
            "Files of safetensors use that name for something else.",
            "Give the array another name.",
        )
    parts = [
        (path, part)
        for path, array in arrays.items()
        for part in _own_parts(path, array, group)
    ]
    for _, part in parts:
        if hasattr(part.array, "copy_to_host_async"):
            part.array.copy_to_host_async()  # start all copies before awaiting one
    packed = [_packed(path, part, file) for path, part in parts]
    # Sort by decreasing item size, so that each array is aligned.
    packed.sort(key=lambda each: (-each.content.itemsize, each.name))
    entries: dict[str, ArrayEntry] = {}
    for each in packed:
        _add(entries, each.path, each.entry)
    laid_out = {each.name: each.content for each in packed}
    codes = {each.name: each.entry.stored for each in packed}
    header = tensors.encode_header(laid_out, codes)
    chunks = [header, *map(dtypes.raw, laid_out.values())]
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    size = sum(len(chunk) for chunk in chunks)
    return chunks, Share(FileEntry(size, sha256.hexdigest()), entries)


class _Part(NamedTuple):
    """A part of an array on one device, or a whole array (`bounds` is `None`)."""

    array: Any
    shape: tuple[int, ...] = ()
    bounds: Bounds | None = None


class _Packed(NamedTuple):
    """A piece in the form in which it is stored in a file."""

    name: str
    path: str
    entry: ArrayEntry
    content: np.ndarray


def _packed(path: str, part: _Part, file: str) -> _Packed:
    dtype, content = dtypes.to_stored(part.array, path)
    found = dtypes.storage(dtype)
    assert found is not None
    shape = content.shape[: content.ndim - len(found.axes)]
    bounds, whole = part.bounds, part.shape
    if bounds is None:
        bounds, whole = tuple((0, size) for size in shape), shape
    piece = Piece(file, bounds, _sha256(content))
    entry = ArrayEntry(whole, dtype, found.code, (piece,))
    return _Packed(piece.name(path, whole), path, entry, content)


def _add(entries: dict[str, ArrayEntry], path: str, entry: ArrayEntry) -> None:
    """Add the pieces of an array to the known ones."""
    known = entries.get(path, dataclasses.replace(entry, pieces=()))
    if known != dataclasses.replace(entry, pieces=known.pieces):
        problem = "not the same array in all processes"
        raise InputError(problem, file=None, key=path)
    pieces = known.pieces + entry.pieces
    entries[path] = dataclasses.replace(entry, pieces=pieces)


def _own_parts(path: str, array: Any, group: Group) -> list[_Part]:
    """Return the parts of an array that this process writes."""
    if getattr(array, "is_fully_addressable", True):
        return [] if group.index else [_Part(array)]
    if group.count == 1:
        raise UnsupportedError(
            f"`{path}` is spread over several processes.",
            "The step is written by one process, which has only a part of it.",
            "Save it in all of them, by `CheckpointStore(folder, Processes())`.",
        )
    # If several devices hold copies of a shard, only one copy is written.
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return [
        _Part(shard.data, array.shape, _bounds(shard.index, array.shape))
        for shard in shards
    ]


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    found = (part.indices(size) for part, size in zip(index, shape, strict=True))
    return tuple((start, stop) for start, stop, _ in found)


def merged(shares: Sequence[Share], paths: Collection[str]) -> dict[str, ArrayEntry]:
    """Merge the shares of all processes.

    Whether the pieces cover each array is checked with the manifest.

    Args:
        shares: the share of each process.
        paths: the paths of all arrays.

    Raises:
        InputError: an array is in no share, or processes have different arrays.
    """
    arrays: dict[str, ArrayEntry] = {}
    for share in shares:
        for path, entry in share.arrays.items():
            _add(arrays, path, entry)
    if other := sorted(arrays.keys() ^ set(paths)):
        problem = "an array that not all processes have"
        raise InputError(problem, file=None, key=other[0])
    return arrays


def unpack(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Read the files of a step, and compare everything with the manifest.

    Args:
        folder: the folder, which holds only the files in the manifest.
        manifest: from `linsey.checkpoint.manifest.check`.

    Returns:
        The arrays by path. They are read-only.

    Raises:
        InputError: a file or an array differs from what was written. The message names
            both.
        DiskError: a disk operation failed.
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
        # If all arrays are right, the change must be in the header.
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
    """Read a file, whose size must be that in the manifest.

    Raises:
        InputError: there is no such file, or it has another size.
        DiskError: a disk operation failed.
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
        # The sizes of all pieces add up, so there are no gaps unless pieces overlap.
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
