"""Bytes of trees in the format of Flax: a reader that believes nothing, a checksum.

MessagePack with three extensions: arrays, complex numbers, scalars of NumPy. The reader
is our own: it names the path of whatever is wrong, sets nothing aside that is not
there, and lets no other exception out.

The *seal* is a SHA-256 of the bytes, which other readers do not see. Nothing may follow
a MessagePack object, and an entry of its own would be part of the tree. But a key may
stand in a dictionary twice, and then the last value counts: so the first key of the
outermost dictionary is written twice, at first with the seal as its value. The seal
begins with a byte that MessagePack never uses and that is in no text: whoever is led
astray by a changed length runs into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import struct
from collections.abc import Hashable
from typing import Any, NoReturn

import numpy as np

from linsey.errors.trees import MalformedBytesError
from linsey.files import MAX_BYTES, PathLike

ARRAY, COMPLEX, SCALAR = 1, 2, 3
"""The codes of values that MessagePack does not know."""
CHUNKED = "__msgpack_chunked_array__"
"""Marks a dictionary that stands for one array in pieces."""
MAX_DEPTH = 100
"""How deep values may be nested."""
MAX_RANK = 64
"""The limit of NumPy."""
MARK = b"\xc1linsey sha256 "
_SEAL = bytes((0xC4, len(MARK) + 32)) + MARK  # of a value of type `bin`
_DTYPE = re.compile(r"[a-z][a-z0-9_]*(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")

# What follows a leading byte: the format of a number, or the size of a length.
_NUMBERS = {
    0xCA + index: struct.Struct(form)
    for index, form in enumerate(">f >d >B >H >I >Q >b >h >i >q".split())
}
_LENGTHS = {
    0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4),
    0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("dict", 2), 0xDF: ("dict", 4),
}  # fmt: skip


# -- the seal ------------------------------------------------------------------------


def seal(body: bytes) -> bytes:
    """Add a checksum, if the outermost value is a dictionary with a text as first key.

    Example:
        >>> import msgpack
        >>> sealed = seal(msgpack.packb({"a": 1, "b": 2}))
        >>> msgpack.unpackb(sealed), read(sealed)
        ({'a': 1, 'b': 2}, {'a': 1, 'b': 2})
    """
    count, start, key = _first_key(body)
    if not key:
        return body
    first = key + _SEAL + hashlib.sha256(body).digest()
    return b"".join([_header(count + 1), first, memoryview(body)[start:]])


def _unseal(reader: Reader) -> tuple[str, int] | None:
    """Check the seal, if there is one, and go on to what comes after it.

    Returns:
        The header of the outermost dictionary as it was before it was sealed.
    """
    count, start, key = _first_key(reader.data)
    mark = start + len(key) + 2
    end = start + len(key) + len(_SEAL) + 32
    if not key or reader.data[mark : end - 32] != MARK:
        return None
    digest = hashlib.sha256(_header(count - 1))
    digest.update(reader.data[end:])
    found = reader.data[:start], reader.data[mark - 2 : end]
    again = reader.data[end : end + len(key)]
    if found != (_header(count), _SEAL + digest.digest()) or again != key:
        reader.refuse("they are not those that were written: the checksum differs")
    reader.position = end
    return "dict", count - 1


def _first_key(data: bytes | memoryview) -> tuple[int, int, bytes]:
    """Size of the outermost dictionary, where its entries begin, its first key's bytes.

    The key is empty where there is none, or where it is no text.
    """
    reader = Reader(memoryview(data))
    try:
        kind, count = reader.header()
        start = reader.position
        if kind == "dict" and count:
            kind, size = reader.header()
            if kind == "str":
                reader.take(size)
                return count, start, bytes(data[start : reader.position])
    except MalformedBytesError:
        pass
    return 0, 0, b""


def _header(count: int) -> bytes:
    """The first bytes of a dictionary, as the writer of MessagePack has them."""
    if count < 16:
        return bytes((0x80 + count,))
    return struct.pack(
        ">BH" if count < 2**16 else ">BI", 0xDE + (count >= 2**16), count
    )


# -- the reader ----------------------------------------------------------------------


def read(data: bytes, file: PathLike | None = None) -> Any:
    """Read a tree.

    Args:
        data: what a writer of this format, here or in Flax, wrote.
        file: where it came from, for messages.

    Returns:
        Nested dictionaries and lists; arrays are NumPy's, read-only.

    Raises:
        MalformedBytesError: the bytes are incomplete, changed, or not such a tree; it
            names the path of what is wrong.

    Example:
        >>> read(bytes((0x81, 0xA1, 0x61, 0xC1)))
        Traceback (most recent call last):
        linsey.errors.trees.MalformedBytesError: a: The 4 bytes given are not a
        serialized tree: a byte that MessagePack does not use: found 0xc1 (pass the
        whole content of a file that `to_bytes` wrote)
    """
    reader = Reader(memoryview(data).cast("B"), file)
    try:
        tree = reader.value(_unseal(reader))
    except RecursionError:
        del reader.path[8:]
        reader.refuse("nested too deeply")
    except MemoryError:
        reader.refuse("more memory is needed than there is")
    if left := reader.left():
        reader.refuse("more bytes follow", expected="none", found=left)
    return tree


class Reader:
    """A position in bytes, and what can be read from there.

    Args:
        data: the bytes.
        file: where they came from, for messages.
        whole: the reader of the bytes that these are a part of.
    """

    def __init__(
        self,
        data: memoryview,
        file: PathLike | None = None,
        whole: Reader | None = None,
    ) -> None:
        self.data, self.position = data, 0
        self.file = whole.file if whole else file
        self.size: int = whole.size if whole else len(data)
        self.path: list[object] = [*whole.path] if whole else []

    def refuse(
        self, cause: str, expected: object = None, found: object = None
    ) -> NoReturn:
        """Raise the error that names the path of the value that is read."""
        key = "/".join(f"{name!s:.80}" for name in self.path)[:400] or None
        stated: dict[str, Any] = {"key": key, "expected": expected, "found": found}
        raise MalformedBytesError(self.size, cause, file=self.file, **stated)

    def left(self) -> int:
        """The number of bytes that were not read."""
        return len(self.data) - self.position

    def take(self, count: int) -> memoryview:
        """Read some bytes, without a copy."""
        start = self.position
        self.position = start + count
        if self.position > len(self.data):
            expected, found = f"{count:,} bytes more", f"{len(self.data) - start:,}"
            self.refuse("incomplete input", expected, found)
        return self.data[start : self.position]

    def header(self) -> tuple[str | None, Any]:
        """Read what comes first: a kind and the length of what follows, or a value."""
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return None, first if first < 0x80 else first - 0x100
        if first < 0xC0:
            kinds = ("dict", 15), ("list", 15), ("str", 31), ("str", 31)
            kind, mask = kinds[(first - 0x80) >> 4]
            return kind, first & mask
        if first in _NUMBERS:
            form = _NUMBERS[first]
            return None, form.unpack(self.take(form.size))[0]
        if first in _LENGTHS:
            kind, size = _LENGTHS[first]
            return kind, int.from_bytes(self.take(size), "big")
        if 0xD4 <= first <= 0xD8:
            return "ext", 1 << (first - 0xD4)
        if first == 0xC1:
            self.refuse("a byte that MessagePack does not use", found="0xc1")
        return None, {0xC0: None, 0xC2: False, 0xC3: True}[first]

    def value(self, header: tuple[str | None, Any] | None = None) -> Any:
        """Read whatever comes next."""
        kind, content = header or self.header()
        if kind is None:
            return content
        if kind == "bin":
            return bytes(self.take(content))
        if kind == "str":
            return self.text(content)
        if kind == "ext":
            code = int.from_bytes(self.take(1), signed=True)
            return self.extension(code, self.take(content))
        if len(self.path) >= MAX_DEPTH:
            del self.path[8:]
            self.refuse("nested too deeply", f"at most {MAX_DEPTH} levels")
        if content * (1 + (kind == "dict")) > self.left():
            entries = f"{content:,} entries"
            self.refuse("incomplete input", entries, f"{self.left():,} bytes")
        values: list[Any] = []
        tree: dict[Any, Any] = {}
        self.path.append("a key")
        for index in range(content):
            if kind == "list":
                self.path[-1] = index
                values.append(self.value())
                continue
            self.path[-1] = "a key"
            key = self.value()
            if not isinstance(key, Hashable):
                self.refuse("a key that cannot be one", found=type(key).__name__)
            self.path[-1] = key
            if key in tree:
                self.refuse("a key is there twice")
            tree[key] = self.value()
        self.path.pop()
        if kind == "list":
            return values
        return self.joined(tree) if CHUNKED in tree else tree

    def text(self, size: int) -> str:
        """Read a text."""
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            self.refuse("a text that is no UTF-8")

    def extension(self, code: int, content: memoryview) -> object:
        """Make the value of an extension."""
        if code not in (ARRAY, COMPLEX, SCALAR):
            if code < 0:
                self.refuse("an extension that no tree has", found=code)
            import msgpack

            return msgpack.ExtType(code, bytes(content))
        reader = Reader(content, whole=self)
        parts = reader.value()
        if not isinstance(parts, list) or reader.left():
            self.refuse("not the parts of a value", "a list")
        if code == COMPLEX:
            if [type(part) for part in parts] != [float, float]:
                self.refuse("not a complex number", "two numbers")
            return complex(*parts)
        array = self.array(parts)
        if code == SCALAR and array.ndim:
            self.refuse("a scalar with axes", found=array.shape)
        return array[()] if code == SCALAR else array

    def array(self, parts: list[Any]) -> np.ndarray:
        """Make an array of its shape, the name of its dtype, and its bytes."""
        if [type(part) for part in parts] not in (
            [list, str, bytes],
            [list, bytes, bytes],
        ):
            self.refuse("not an array", "shape, name of a dtype, and bytes")
        shape, name, buffer = parts
        self.check_shape(shape)
        dtype = self.dtype(name)
        extent = math.prod(n for n in shape if n) * dtype.itemsize
        if extent > MAX_BYTES:
            limit = f"at most {MAX_BYTES:,} bytes"
            self.refuse("an array that is too large", limit, f"shape {shape}")
        needed = math.prod(shape) * dtype.itemsize
        if needed != len(buffer):
            expected = f"{needed:,} for {dtype.name}{shape}"
            self.refuse("bytes of another array", expected, f"{len(buffer):,}")
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)

    def check_shape(self, shape: list[Any]) -> None:
        """Refuse what is no shape."""
        if len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
            expected = f"at most {MAX_RANK} lengths, none below 0"
            self.refuse("not a shape", expected, f"{str(shape):.60}")

    def dtype(self, name: str | bytes) -> np.dtype:
        """Find the dtype of a name."""
        text = name if isinstance(name, str) else name.decode("ascii", "replace")
        dtype = None
        # NumPy's own parser takes lists of fields, and evaluates some texts.
        if _DTYPE.fullmatch(text):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                dtype = np.dtype(text)
        is_plain = dtype is not None and dtype.name == text and dtype.itemsize
        if dtype is None or not is_plain or dtype.hasobject or dtype.fields:
            self.refuse("not the name of a dtype", found=f"{text:.40}")
        return dtype

    def joined(self, tree: dict[Any, Any]) -> np.ndarray:
        """Join an array that was written in pieces."""
        shape, pieces = (_in_order(tree.get(name)) for name in ("shape", "chunks"))
        if shape is None or not pieces or len(tree) != 3:
            self.refuse("not an array in pieces", "`shape` and `chunks`")
        self.check_shape(shape)
        kinds = {getattr(piece, "dtype", None) for piece in pieces}
        is_flat = all(isinstance(p, np.ndarray) and p.ndim == 1 for p in pieces)
        if len(kinds) > 1 or not is_flat:
            self.refuse("pieces of several kinds", "arrays with one axis")
        found = sum(piece.size for piece in pieces)
        if found != math.prod(shape):
            expected = f"{math.prod(shape):,} values for {shape}"
            self.refuse("pieces of another size", expected, f"{found:,}")
        return np.concatenate(pieces).reshape(shape)


def _in_order(entries: object) -> list[Any] | None:
    """The values of the keys "0", "1", ..., if there are no others."""
    if not isinstance(entries, dict):
        return None
    names = [str(index) for index in range(len(entries))]
    return [entries[name] for name in names] if entries.keys() == set(names) else None
