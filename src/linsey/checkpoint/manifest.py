"""The manifest: the content of a step, hashes of everything in it, and its own hash.

A single flipped bit in a checkpoint usually results in silently wrong weights. Each
array therefore has a SHA-256, which is computed in memory before anything is written,
and compared after everything is read. Each file has one as well, which covers the bytes
around the arrays. The manifest is JSON. Its last entry is the hash of all bytes before
this entry, so the hashes cover each bit of a step, including those of the manifest.

An array is stored in pieces. Each piece has a file, a position in the array, and its
own hash. Each process writes the pieces that it has into its own file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from linsey.checkpoint import dtypes, trees
from linsey.errors import ArgumentTypeError, InputError, UnsupportedError
from linsey.files import read_regular
from linsey.schema import Between, Matching, conform, parse_json
from linsey.specs import MAX_ELEMENTS, Shape

NAME = "manifest.json"
"""The name of the manifest in the folder of a step."""
FORMAT = 2
"""The number of the format that is written; format 1 can be read as well."""
MAX_MANIFEST_BYTES = 64 * 2**20
_SEAL = b',\n "sha256": "'
_END = b'"\n}\n'

Count = Annotated[int, Between(0, 2**62)]
Hash = Annotated[str, Matching("[0-9a-f]{64}", "a SHA-256 in hexadecimal")]


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """Size and hash of a file."""

    bytes: Count
    sha256: Hash

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes, SHA-256 {self.sha256[:12]}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of an array, or a whole array.

    Attributes:
        file: name of the file that holds the piece.
        slice: start and stop along each axis of the array.
        sha256: hash of its bytes in the file.
    """

    file: str
    slice: tuple[tuple[Count, Count], ...]
    sha256: Hash

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the piece."""
        return tuple(stop - start for start, stop in self.slice)

    def name(self, path: str, shape: tuple[int, ...]) -> str:
        """Return the name of the piece in its file.

        Example:
            >>> Piece("", ((0, 2), (4, 8)), "").name("params/kernel", (2, 8))
            'params/kernel[0:2,4:8]'
            >>> Piece("", ((0, 2), (0, 8)), "").name("params/kernel", (2, 8))
            'params/kernel'
        """
        if self.shape == shape:
            return path
        return f"{path}[{','.join(f'{start}:{stop}' for start, stop in self.slice)}]"


@dataclasses.dataclass(frozen=True)
class ArrayEntry:
    """The description of an array and of its pieces.

    Attributes:
        shape: shape of the array.
        dtype: name of its dtype in NumPy or JAX.
        stored: dtype in the files, as safetensors names it. Dtypes that safetensors
            does not have are stored as bits, `U8`.
        pieces: the pieces, which cover each element of the array exactly once.
    """

    shape: Shape
    dtype: str
    stored: str
    pieces: Annotated[tuple[Piece, ...], Between(1)]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a manifest, without its own hash.

    Attributes:
        format: the number of the format.
        step: the training step.
        revision: how often the step was replaced.
        metadata: JSON values recorded with it.
        files: the files by name.
        arrays: the arrays by path.
        empty: paths of empty dictionaries.
    """

    format: Literal[2]
    step: Count
    revision: Count
    metadata: dict[str, Any]
    files: dict[str, FileEntry]
    arrays: dict[str, ArrayEntry]
    empty: tuple[str, ...] = ()


def file_name(index: int, count: int) -> str:
    """Return the name of the file that a process writes.

    Example:
        >>> file_name(0, 1)
        'state-00000-of-00001.safetensors'
    """
    return f"state-{index:05d}-of-{count:05d}.safetensors"


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest, with its own hash at the end.

    Raises:
        ArgumentTypeError: the metadata is not JSON.
        UnsupportedError: the manifest would be longer than the limit for reading.
    """
    body = as_json(vars(manifest)).removesuffix(b"}")
    if len(body) > MAX_MANIFEST_BYTES - 100:
        raise UnsupportedError(
            f"The manifest of {len(manifest.arrays):,} arrays has {len(body):,} bytes.",
            f"No more than {MAX_MANIFEST_BYTES:,} are read.",
            "Save less metadata, or stack arrays of one kind.",
        )
    return body + _SEAL + _hash(body) + _END


def as_json(content: Mapping[str, object]) -> bytes:
    """Return entries of a manifest as JSON.

    Raises:
        ArgumentTypeError: a value in the metadata cannot be stored as JSON.
    """

    def plain(value: object) -> object:
        if isinstance(value, FileEntry | ArrayEntry | Piece):
            return vars(value)
        raise ArgumentTypeError(
            f"The metadata holds {value!r}, of type {type(value).__name__}.",
            "It is stored as JSON.",
            "Convert it to text, numbers, lists and dictionaries.",
        )

    return json.dumps(content, default=plain).encode()


def decode(content: bytes, file: Path) -> dict[str, Any]:
    """Compare a manifest with its own hash and parse it.

    Args:
        content: the bytes.
        file: path of the manifest, for messages.

    Returns:
        The JSON values, whose types are not checked yet.

    Raises:
        InputError: the hash does not match, or the content is not a JSON object.
    """
    body, separator, tail = content.rpartition(_SEAL)
    if not separator or tail != _hash(body) + _END:
        raise InputError("the manifest does not match its own hash", file=file)
    record = parse_json(body + b"}", file)
    if not isinstance(record, dict):
        raise InputError("not a table", file=file)
    return record


def read(folder: Path) -> bytes:
    """Read the manifest of a folder.

    Raises:
        InputError: there is no manifest, or it is not a regular file.
        DiskError: a disk operation failed.
    """
    path = folder / NAME
    try:
        return read_regular(path, limit=MAX_MANIFEST_BYTES)
    except InputError as error:
        if error.problem != "no such file":
            raise
        problem = "no manifest, so not a finished checkpoint"
        raise InputError(problem, file=path) from None


def check(record: Mapping[str, Any], file: Path) -> Manifest:
    """Check everything in a manifest that can be checked without the files.

    Args:
        record: from `decode`.
        file: the path of the manifest, for messages.

    Raises:
        InputError: an entry is not valid. The message names it.
    """
    manifest: Manifest = conform(dict(record), Manifest, file=file)
    expected = {file_name(i, len(manifest.files)) for i in range(len(manifest.files))}
    for name in manifest.files.keys() - expected:
        raise InputError("not the name of a file of a step", file=file, key=name)
    try:
        trees.nest(manifest.arrays, manifest.empty)
    except ValueError as error:
        problem = "a path that excludes another, or is too long"
        raise InputError(problem, file=file, key=str(error)) from None
    for path, entry in manifest.arrays.items():
        _check_array(path, entry, manifest.files, file)
    return manifest


def _check_array(
    path: str, entry: ArrayEntry, files: Mapping[str, FileEntry], file: Path
) -> None:
    refused = functools.partial(InputError, file=file, key=path)
    if path != "/".join(map(trees.escape, trees.keys_of(path))):
        raise refused("not a path of keys")
    if (storage := dtypes.storage(entry.dtype)) is None or storage.code != entry.stored:
        found = f"{entry.dtype} as {entry.stored}"
        raise refused("dtypes that are not known here", found=found)
    # An array with an axis of length 0 is empty, but its other axes may be huge.
    if math.prod(max(size, 1) for size in entry.shape) > MAX_ELEMENTS:
        raise refused("an array that is too large", found=entry.shape)
    for piece in entry.pieces:
        fits = len(piece.slice) == len(entry.shape) and all(
            start <= stop <= size
            for (start, stop), size in zip(piece.slice, entry.shape, strict=True)
        )
        if not fits or piece.file not in files:
            found = f"{piece.slice} of {entry.shape} in {piece.file}"
            raise refused("a piece that belongs nowhere", found=found)
    if sum(math.prod(piece.shape) for piece in entry.pieces) != math.prod(entry.shape):
        raise refused("pieces with gaps or overlaps")


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
