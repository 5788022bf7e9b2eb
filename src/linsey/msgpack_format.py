"""Trees as bytes in the format of Flax, with a checksum and fully checked when read.

The format is MessagePack with three extensions: arrays, complex numbers and NumPy
scalars. The library `msgpack` reads the bytes. The result is then checked value by
value, so that any error is reported with its path, and `read` raises no other
exception.

The *seal* is a SHA-256 of the bytes, which other readers do not see. Nothing may follow
a MessagePack object, and a separate entry would be part of the tree. But a dictionary
may contain a key twice, in which case the last value counts. The first key of the
outermost dictionary is therefore written twice, the first time with the seal as its
value. A seal in any other place is a sign that the bytes were changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import re
from typing import Any, NamedTuple, NoReturn

import numpy as np

from linsey.errors.trees import MalformedBytesError
from linsey.files import MAX_BYTES, PathLike

ARRAY, COMPLEX, SCALAR = 1, 2, 3
"""The codes of the extensions of MessagePack."""
CHUNKED = "__msgpack_chunked_array__"
"""Marks a dictionary that represents one array in pieces."""
MAX_DEPTH = 100
"""The maximum depth of nested values."""
MAX_RANK = 64
"""The limit in NumPy."""
MAX_KEY_BYTES = 2**16
"""The maximum length of a first key; with a longer key, bytes get no seal."""
MARK = b"\xc1linsey sha256 "
_SEAL = bytes((0xC4, len(MARK) + 32)) + MARK  # of a value of type `bin`
_DTYPE = re.compile(r"[a-z][a-z0-9_]*(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")


class Extension(NamedTuple):
    """A value of an extension type that has not been decoded yet."""

    code: int
    content: bytes


class _Twice(NamedTuple):
    """A placeholder for a dictionary that contains a key twice."""

    key: object


# -- the seal ------------------------------------------------------------------------


class _Start(NamedTuple):
    """The beginning of the outermost dictionary: its size and first key, as bytes."""

    count: int
    header: bytes
    key: bytes

    @property
    def size(self) -> int:
        return len(self.header) + len(self.key)


def _start(data: bytes | memoryview) -> _Start | None:
    """Read the beginning of a dictionary; return `None` if it cannot be sealed."""
    import msgpack

    begin = bytes(data[:MAX_KEY_BYTES])
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(begin)
    try:
        count = unpacker.read_map_header()
        start = unpacker.tell()
        key = unpacker.unpack() if count else None
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    if not isinstance(key, str):
        return None
    return _Start(count, begin[:start], begin[start : unpacker.tell()])


def _header(count: int) -> bytes:
    import msgpack

    header = msgpack.Packer().pack_map_header(count)
    assert header is not None  # with `autoreset`, a packer returns the packed bytes
    return header


def seal(body: bytes) -> bytes:
    """Add a checksum if the outermost value is a dictionary whose first key is text.

    Example:
        >>> import msgpack
        >>> sealed = seal(msgpack.packb({"a": 1, "b": 2}))
        >>> msgpack.unpackb(sealed), read(sealed)
        ({'a': 1, 'b': 2}, {'a': 1, 'b': 2})
    """
    start = _start(body)
    if start is None:
        return body
    first = start.key + _SEAL + hashlib.sha256(body).digest()
    rest = memoryview(body)[len(start.header) :]
    return b"".join([_header(start.count + 1), first, rest])


def _verified_seal(reader: Reader, data: memoryview) -> bytes | None:
    """Return the seal, if there is one, after comparing it with the bytes."""
    start = _start(data)
    if start is None:
        return None
    end = start.size + len(_SEAL) + 32
    found = bytes(data[start.size : end])
    if found[2 : 2 + len(MARK)] != MARK:
        return None
    digest = hashlib.sha256(_header(start.count - 1))
    digest.update(data[end:])
    again = bytes(data[end : end + len(start.key)])
    right = (_header(start.count), start.key, _SEAL + digest.digest())
    if (start.header, again, found) != right:
        reader.refuse((), "they are not those that were written: the checksum differs")
    return found[2:]


# -- the reader ----------------------------------------------------------------------


def read(data: bytes, file: PathLike | None = None) -> Any:
    """Read a tree.

    Args:
        data: bytes in this format, written by linsey or Flax.
        file: where they came from, for messages.

    Returns:
        Nested dictionaries and lists, with read-only NumPy arrays.

    Raises:
        MalformedBytesError: the bytes are incomplete, changed, or not such a tree; it
            names the path of the error.

    Example:
        >>> read(bytes((0x81, 0xA1, 0x61, 0x91, 0xC7, 0x00, 0x09)))
        {'a': [ExtType(code=9, data=b'')]}
        >>> read(bytes((0x81, 0xA1, 0x61, 0x91, 0xC7, 0x00, 0x01)))
        Traceback (most recent call last):
        linsey.errors.trees.MalformedBytesError: a/0: The 7 bytes given are not a
        serialized tree: not the parts of a value: expected a list (pass the whole
        content of a file that `to_bytes` wrote)
    """
    view = memoryview(data).cast("B")
    reader = Reader(len(view), file)
    found = reader.parse(view, _verified_seal(reader, view))
    try:
        return reader.value(found, ())
    except RecursionError:  # the stack of the caller was already deep
        reader.refuse((), "nested too deeply")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A converter of MessagePack values to the values that they represent.

    Attributes:
        size: number of bytes, for messages.
        file: where they came from, for messages.
    """

    size: int = 0
    file: PathLike | None = None

    def refuse(
        self,
        path: tuple[object, ...],
        cause: str,
        expected: object = None,
        found: object = None,
    ) -> NoReturn:
        """Raise an error with the path of the value that is being read."""
        key = "/".join(f"{name!s:.80}" for name in path)[:400] or None
        stated: dict[str, Any] = {"key": key, "expected": expected, "found": found}
        raise MalformedBytesError(self.size, cause, file=self.file, **stated)

    def parse(
        self,
        data: bytes | memoryview,
        verified: bytes | None = None,
        path: tuple[object, ...] = (),
    ) -> Any:
        """Read MessagePack; extensions and duplicate keys are left to `value`.

        Args:
            data: the bytes.
            verified: the verified seal, which is not part of a dictionary.
            path: where in the tree the bytes are, for messages.
        """
        import msgpack

        def table(pairs: list[tuple[Any, Any]]) -> object:
            if verified is not None and pairs and pairs[0][1] == verified:
                del pairs[0]
            found = dict(pairs)
            if len(found) < len(pairs):
                keys = [key for key, _ in pairs]
                return _Twice(next(key for key in keys if keys.count(key) > 1))
            return found

        try:
            return msgpack.unpackb(
                data,
                object_pairs_hook=table,
                ext_hook=Extension,
                strict_map_key=False,
            )
        except msgpack.ExtraData as error:
            self.refuse(path, "more bytes follow", "none", len(error.extra))
        except msgpack.StackError:
            self.refuse(path, "nested too deeply", f"at most {MAX_DEPTH} levels")
        except (RecursionError, MemoryError) as error:
            self.refuse(path, type(error).__name__)
        # Incomplete bytes, an unused byte code, text that is not UTF-8, a length beyond
        # the end, or an invalid key.
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            self.refuse(path, str(error) or type(error).__name__)

    def value(self, found: Any, path: tuple[object, ...]) -> Any:
        """Check a parsed value, and convert extensions to arrays and numbers."""
        if len(path) > MAX_DEPTH:
            self.refuse(path, "nested too deeply", f"at most {MAX_DEPTH} levels")
        if isinstance(found, dict):
            # Loops, not comprehensions: they need only one Python frame per level.
            for key, item in found.items():
                if isinstance(key, Extension | _Twice):
                    self.refuse(path, "a key that cannot be one")
                found[key] = self.value(item, (*path, key))
            return self.joined(found, path) if CHUNKED in found else found
        if isinstance(found, list):
            for index, item in enumerate(found):
                found[index] = self.value(item, (*path, index))
            return found
        if isinstance(found, Extension):
            return self.extension(found.code, found.content, path)
        if isinstance(found, _Twice):
            self.refuse((*path, found.key), "a key is there twice")
        if isinstance(found, bytes) and found.startswith(MARK):
            self.refuse(path, "a checksum where none belongs: bytes were changed")
        if found is None or isinstance(found, bytes | str | int | float):
            return found
        self.refuse(path, "a value that no tree has", found=type(found).__name__)

    def extension(self, code: int, content: bytes, path: tuple[object, ...]) -> object:
        """Decode the value of an extension."""
        if code not in (ARRAY, COMPLEX, SCALAR):
            import msgpack

            if code < 0:
                self.refuse(path, "an extension that no tree has", found=code)
            return msgpack.ExtType(code, content)
        parts = self.parse(content, path=path) if content else None
        if not isinstance(parts, list):
            self.refuse(path, "not the parts of a value", "a list")
        if code == COMPLEX:
            if [type(part) for part in parts] != [float, float]:
                self.refuse(path, "not a complex number", "two numbers")
            return complex(*parts)
        array = self.array(parts, path)
        if code == SCALAR and array.ndim:
            self.refuse(path, "a scalar with axes", found=array.shape)
        return array[()] if code == SCALAR else array

    def array(self, parts: list[Any], path: tuple[object, ...] = ()) -> np.ndarray:
        """Make an array from its shape, the name of its dtype, and its bytes."""
        kinds = [type(part) for part in parts]
        if kinds not in ([list, str, bytes], [list, bytes, bytes]):
            self.refuse(path, "not an array", "shape, name of a dtype, and bytes")
        shape, name, buffer = parts
        self.check_shape(shape, path)
        dtype = self.dtype(name, path)
        extent = math.prod(n for n in shape if n) * dtype.itemsize
        if extent > MAX_BYTES:
            limit = f"at most {MAX_BYTES:,} bytes"
            self.refuse(path, "an array that is too large", limit, f"shape {shape}")
        needed = math.prod(shape) * dtype.itemsize
        if needed != len(buffer):
            expected = f"{needed:,} for {dtype.name}{shape}"
            self.refuse(path, "bytes of another array", expected, f"{len(buffer):,}")
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)

    def check_shape(self, shape: list[Any], path: tuple[object, ...]) -> None:
        """Refuse an invalid shape."""
        if len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
            expected = f"at most {MAX_RANK} lengths, none below 0"
            self.refuse(path, "not a shape", expected, f"{str(shape):.60}")

    def dtype(self, name: str | bytes, path: tuple[object, ...] = ()) -> np.dtype:
        """Find the dtype with a name."""
        text = name if isinstance(name, str) else name.decode("ascii", "replace")
        dtype = None
        # NumPy's own parser accepts lists of fields, and evaluates some texts.
        if _DTYPE.fullmatch(text):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                dtype = np.dtype(text)
        is_plain = dtype is not None and dtype.name == text and dtype.itemsize
        if dtype is None or not is_plain or dtype.hasobject or dtype.fields:
            self.refuse(path, "not the name of a dtype", found=f"{text:.40}")
        return dtype

    def joined(self, tree: dict[Any, Any], path: tuple[object, ...] = ()) -> np.ndarray:
        """Join an array that was written in pieces."""
        shape, pieces = (_in_order(tree.get(name)) for name in ("shape", "chunks"))
        if shape is None or not pieces or len(tree) != 3:
            self.refuse(path, "not an array in pieces", "`shape` and `chunks`")
        self.check_shape(shape, path)
        kinds = {getattr(piece, "dtype", None) for piece in pieces}
        is_flat = all(isinstance(p, np.ndarray) and p.ndim == 1 for p in pieces)
        if len(kinds) > 1 or not is_flat:
            self.refuse(path, "pieces of several kinds", "arrays with one axis")
        found = sum(piece.size for piece in pieces)
        if found != math.prod(shape):
            expected = f"{math.prod(shape):,} values for {shape}"
            self.refuse(path, "pieces of another size", expected, f"{found:,}")
        return np.concatenate(pieces).reshape(shape)


def _in_order(entries: object) -> list[Any] | None:
    """Return the values of the keys "0", "1", ..., if there are no others."""
    if not isinstance(entries, dict):
        return None
    names = [str(index) for index in range(len(entries))]
    return [entries[name] for name in names] if entries.keys() == set(names) else None
