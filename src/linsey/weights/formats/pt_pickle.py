"""The pickle in a PyTorch file, read as data.

A pickle is a program for a stack machine, which may name any function and call it. The
machine here knows only the few operations and names that occur in a state dict. Names
are only text: nothing is imported, looked up or called. The machine creates
dictionaries, lists, tuples, numbers, text, and two kinds of *records*: a `Storage`
stands for bytes elsewhere in the file, and a `Rebuilt` for a call of a function that
makes a tensor. Any other operation or name raises an error.

The operations are described in `pickletools` of the standard library.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from linsey.errors import InputError
from linsey.weights.formats.kinds import AGAIN

FIX = "load it with torch, and save `model.state_dict()` with `torch.save`"
"""The advice for a file that holds more than arrays."""
MAX_OPERATIONS = 2**21
"""The largest number of operations; a tensor takes about forty."""
_MAX_KEY = 64
_MAX_NAME = 256

STORAGES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}
"""The dtypes of typed storages."""
UNTYPED = "UntypedStorage"
"""The kind of storages that know only their number of bytes."""
LATER_DTYPES = (
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
"""Newer dtypes of PyTorch, whose storages are untyped."""
DTYPES = (*STORAGES.values(), *LATER_DTYPES)
REBUILD = "torch._utils._rebuild_tensor_v2"
REBUILD_LATER = "torch._utils._rebuild_tensor_v3"
PARAMETER = "torch._utils._rebuild_parameter"
_CALLED = {
    "collections.OrderedDict",
    "collections.Counter",
    "torch.Size",
    REBUILD,
    REBUILD_LATER,
    PARAMETER,
}
_NAMES = {
    *_CALLED,
    f"torch.{UNTYPED}",
    f"torch.storage.{UNTYPED}",
    *(f"torch.{name}" for name in (*STORAGES, *DTYPES)),
}
_REFUSED = {
    "i": "INST", "o": "OBJ", "P": "PERSID", "F": "FLOAT", "I": "INT", "L": "LONG",
    "S": "STRING", "U": "SHORT_BINSTRING", "V": "UNICODE", "\x81": "NEWOBJ",
    "\x82": "EXT1", "\x83": "EXT2", "\x84": "EXT4", "\x8b": "LONG4",
    "\x8c": "SHORT_BINUNICODE", "\x92": "NEWOBJ_EX", "\x93": "STACK_GLOBAL",
    "\x94": "MEMOIZE", "\x95": "FRAME", "\x97": "NEXT_BUFFER",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Name:
    """The name of a class, a function or a dtype."""

    text: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Bytes in another member of the archive.

    Attributes:
        kind: the name of its class.
        key: the name of the member.
        count: the number of its items.
    """

    kind: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """A tensor: the name of the function that makes it, and its arguments."""

    function: str
    arguments: tuple[object, ...]


def parse(content: bytes, file: Path, key: str) -> object:
    r"""Run the program of a pickle.

    Args:
        content: bytes of the pickle.
        file: the archive that contains it, for messages.
        key: the member of the archive, for messages.

    Returns:
        The value that the program leaves on the stack.

    Raises:
        InputError: the pickle is truncated or malformed, or has an operation, a name or
            a call that no state dict needs.

    Example:
        >>> parse(b"\x80\x02}X\1\0\0\0aK\7s.", Path("a.pt"), "data.pkl")
        {'a': 7}
        >>> parse(b"\x80\x02cos\nsystem\n.", Path("a.pt"), "data.pkl")
        Traceback (most recent call last):
        linsey.errors.files.InputError: a.pt: data.pkl, byte 2: a name that no state
        dict has, and nothing is imported: found os.system (load it with torch, and save
        `model.state_dict()` with `torch.save`)
    """
    return _Machine(content, file, key).run()


class _Machine:
    """The stack, the marks in it, and the memo of stored values."""

    def __init__(self, content: bytes, file: Path, key: str) -> None:
        self.content, self.file, self.key = content, file, key
        self.start = self.place = 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def refuse(
        self,
        problem: str,
        expected: object = None,
        found: object = None,
        hint: str = FIX,
    ) -> NoReturn:
        """Raise an error that says where the operation is."""
        key = f"{self.key}, byte {self.start}"
        raise InputError(
            problem, file=self.file, key=key, expected=expected, found=found, hint=hint
        )

    def run(self) -> object:
        """Run all operations."""
        if (start := self.take(2)) != b"\x80\x02":
            found = f"{start[0]:#04x} {start[1]:#04x}"
            hint = "save it with `torch.save`, and leave `pickle_protocol` out"
            self.refuse("not a pickle of protocol 2", "0x80 0x02", found, hint)
        for _ in range(MAX_OPERATIONS):
            self.start = self.place
            code = self.take(1)
            if code == b".":
                return self.end()
            operation = _OPERATIONS.get(code)
            if operation is None:
                found = _REFUSED.get(code.decode("latin-1"), f"{code[0]:#04x}")
                self.refuse("an operation that no state dict needs", None, found)
            operation(self)
        self.refuse("too many operations", f"at most {MAX_OPERATIONS:,}")

    def end(self) -> object:
        """Return the last value, if it is the only one and nothing follows."""
        value = self.pop()
        if self.stack or self.marks or self.place != len(self.content):
            self.refuse("more follows, or was left, at the end")
        return value

    # -- bytes -----------------------------------------------------------------------

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        end = self.place + size
        if end > len(self.content):
            found = f"{len(self.content) - self.place:,}"
            self.refuse("the pickle ends early", f"{size:,} bytes", found, AGAIN)
        taken, self.place = self.content[self.place : end], end
        return taken

    def number(self, size: int) -> int:
        """Read an unsigned integer."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """Read a name, which extends to the end of the line."""
        end = self.content.find(b"\n", self.place, self.place + _MAX_NAME)
        if end < 0:
            self.refuse("a name without an end, or too long")
        text = self.take(end - self.place).decode("ascii", "backslashreplace")
        self.place += 1
        return text

    # -- the stack -------------------------------------------------------------------

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        """Pop a value above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("a value is missing")
        return self.stack.pop()

    def pop_marked(self) -> list[object]:
        """Pop the last mark and all values above it."""
        if not self.marks:
            self.refuse("a mark is missing")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    # -- containers ------------------------------------------------------------------

    def extend(self, values: list[object]) -> None:
        """Add items to the list below them."""
        items = self.pop()
        if not isinstance(items, list):
            self.refuse(
                "items for a value that is not a list", found=type(items).__name__
            )
        items += values
        self.push(items)

    def update(self, values: list[object]) -> None:
        """Add keys and values to the dictionary below them."""
        table = self.pop()
        if not isinstance(table, dict) or len(values) % 2:
            self.refuse("entries of what is no dictionary", found=type(table).__name__)
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Compare the exact type first: hashing a tuple may take forever.
            if type(key) not in (str, int):
                expected = "text or a whole number"
                self.refuse("a key that no array has", expected, type(key).__name__)
            if key in table:
                self.refuse("a key is there twice", found=repr(key))
            table[key] = value
        self.push(table)

    # -- memo ------------------------------------------------------------------------

    def store(self, index: int) -> None:
        """Store the value on top of the stack in the memo, without popping it."""
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.refuse("a value that was not put aside", found=index)
        self.push(self.memo[index])

    # -- names and calls -------------------------------------------------------------

    def name(self) -> None:
        """Read the name of a class or function, which must be one in state dicts."""
        text = f"{self.line()}.{self.line()}"
        if text not in _NAMES:
            problem = "a name that no state dict has, and nothing is imported"
            self.refuse(problem, found=text)
        self.push(Name(text))

    def storage(self) -> None:
        """Make a record of bytes that are elsewhere in the file."""
        match found := self.pop():
            case ("storage", Name(text=text), str(key), str(), int(count)):
                kind = text.removeprefix("torch.").removeprefix("storage.")
            case _:
                self.refuse("not a reference to a storage", found=type(found).__name__)
        if kind not in STORAGES and kind != UNTYPED:
            self.refuse("not a kind of storage", found=text)
        # The key is never used as the name of a file, but must be a number anyway.
        if not (key.isascii() and key.isdecimal() and len(key) <= _MAX_KEY):
            self.refuse("not the key of a storage", "digits", key)
        if count < 0:
            self.refuse("a storage with a size below 0", found=count)
        self.push(Storage(kind, key, count))

    def call(self) -> None:
        """Make the result of a call that is allowed in state dicts."""
        arguments, function = self.pop(), self.pop()
        text = function.text if isinstance(function, Name) else type(function).__name__
        if text not in _CALLED or not isinstance(arguments, tuple):
            self.refuse("a call that no state dict needs", found=text)
        content = arguments[0] if len(arguments) == 1 else None
        if text.startswith("torch._utils."):
            self.push(Rebuilt(text, arguments))
        elif text == "torch.Size" and isinstance(content, tuple):
            self.push(content)
        elif text.startswith("collections.") and isinstance(content, dict):
            self.push(content)  # no copy, as there could be very many
        elif text.startswith("collections.") and not arguments:
            self.push(OrderedDict())
        else:
            self.refuse("a call with other arguments", found=text)

    def build(self) -> None:
        """Ignore the attributes of a dictionary, which are versions of modules."""
        state, target = self.pop(), self.pop()
        if type(target) is not OrderedDict or not isinstance(state, dict):
            found = type(target).__name__
            self.refuse("attributes of what is no dictionary", found=found)
        self.push(target)


def _text(machine: _Machine) -> None:
    content = machine.take(machine.number(4))
    try:
        machine.push(content.decode())
    except UnicodeDecodeError:
        machine.refuse("a text that is not valid UTF-8")


def _long(machine: _Machine) -> None:
    content = machine.take(machine.number(1))
    machine.push(int.from_bytes(content, "little", signed=True))


_OPERATIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"\x8a": _long,
    b"X": _text,
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"t": lambda m: m.push(tuple(m.pop_marked())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_marked()),
    b"s": lambda m: m.update([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.update(m.pop_marked()),
    b"q": lambda m: m.store(m.number(1)),
    b"r": lambda m: m.store(m.number(4)),
    b"h": lambda m: m.recall(m.number(1)),
    b"j": lambda m: m.recall(m.number(4)),
    b"c": _Machine.name,
    b"Q": _Machine.storage,
    b"R": _Machine.call,
    b"b": _Machine.build,
}
"""The operations by their codes; `.` ends the program."""
