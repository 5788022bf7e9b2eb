"""JSON that may come from elsewhere, checked against a type.

A type is the schema: `conform` traverses a value and a type hint together. It returns
the value, converted to dataclasses and tuples, or reports the entry that does not
conform. All contents of a file pass through it before any other code reads them::

    @dataclasses.dataclass(frozen=True)
    class Cursor:
        step: Annotated[int, Between(0, 2**62)]
        names: tuple[str, ...]

    cursor = read_json(path, Cursor, limit=2**20)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from linsey.errors import InputError
from linsey.files import PathLike, read_regular

T = TypeVar("T")
MAX_DEPTH = 100
"""The maximum depth of nested values."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Inclusive bounds on a number, or on the length of any other value.

    Attributes:
        low: the lower bound.
        high: the upper bound.
        words: what they mean, for messages, if the numbers alone are not clear.
    """

    low: float = -math.inf
    high: float = math.inf
    words: str = ""

    def __str__(self) -> str:
        if self.words:
            return self.words
        if self.high == math.inf:
            return f"at least {self.low:,}"
        return f"{self.low:,} to {self.high:,}"


@dataclasses.dataclass(frozen=True)
class Matching:
    """A regular expression that a whole text has to match.

    Attributes:
        pattern: the expression.
        words: what it means, for messages.
    """

    pattern: str
    words: str

    def __str__(self) -> str:
        return self.words


def read_json(path: PathLike, hint: Any, *, limit: int) -> Any:
    """Read a JSON file and check its contents against a type.

    Args:
        path: a regular file; see `linsey.files.open_regular`.
        hint: the type; see `conform`.
        limit: the largest size that is accepted, in bytes.

    Returns:
        The value.

    Raises:
        InputError: it is not such a file, not JSON, or not of that type.
    """
    return conform(parse_json(read_regular(path, limit=limit), path), hint, file=path)


def parse_json(content: bytes, file: PathLike) -> Any:
    """Parse JSON, strictly: no duplicate keys, no NaN, no infinity.

    Args:
        content: UTF-8.
        file: where it came from, for messages.

    Raises:
        InputError: it is not JSON.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError("a key is there twice", file=file, key=twice)
        return found

    def no_constant(name: str) -> object:
        raise InputError("not a finite number", file=file, found=name)

    try:
        text = content.decode()
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except InputError:
        raise
    except RecursionError:
        raise InputError("nested too deeply", file=file) from None
    except MemoryError:
        raise InputError("larger than the memory", file=file) from None
    except ValueError as error:  # not UTF-8, not JSON, or a number that is too long
        raise InputError(f"not JSON: {error}", file=file) from None


def conform(value: object, hint: Any, *, file: PathLike | None, key: str = "") -> Any:
    """Convert a value to a type, or raise if it does not conform.

    Args:
        value: a value from JSON or TOML.
        hint: `int`, `float` (finite; integers are accepted), `str`, `bool`, `None`,
            `Path` (from text), `list[T]`, `tuple[T, ...]`, `tuple[A, B]`,
            `dict[str, T]`, `Literal`, unions, `Annotated` with `Between` or `Matching`,
            dataclasses (exactly their fields; those with a default may be missing), or
            `Any` (any JSON value).
        file: where it came from, for messages.
        key: the entry in that file, for messages.

    Returns:
        The value, or a new one if the type requires it.

    Raises:
        InputError: it names the entry, what was expected and what was found.

    Example:
        >>> conform([1, 2], tuple[int, ...], file="a.json")
        (1, 2)
        >>> conform({"lr": [0.1, "a"]}, dict[str, list[float]], file="a.json")
        Traceback (most recent call last):
        linsey.errors.files.InputError: a.json: lr[1]: value of another type: expected
        a number, found 'a'
    """
    try:
        return _Checker(file).check(value, hint, key, 0)
    except MemoryError:
        raise InputError("larger than the memory", file=file, key=key) from None


@dataclasses.dataclass(frozen=True)
class _Checker:
    file: PathLike | None

    def check(self, value: Any, hint: Any, key: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise InputError("nested too deeply", file=self.file, key=key)
        origin, args, is_record = _parts(hint)
        if origin is None and hint is not Any and not is_record:
            return self._scalar(value, hint, key)
        deeper = functools.partial(self.check, depth=depth + 1)
        if origin is typing.Annotated:
            return self._bounded(deeper(value, args[0], key), args[1:], key)
        if origin in (typing.Union, types.UnionType):
            return self._any_of(value, args, key, depth)
        if origin is typing.Literal:
            if type(value) in {type(arg) for arg in args} and value in args:
                return value
            raise self._wrong(key, "one of " + ", ".join(map(str, args)), value)
        if origin is dict or (hint is Any and isinstance(value, dict)):
            if not isinstance(value, dict):
                raise self._wrong(key, "a table", value)
            item = args[1] if args else Any
            names = (deeper(name, str, key) for name in value)
            return {n: deeper(value[n], item, _joined(key, n)) for n in names}
        if origin in (list, tuple) or (hint is Any and isinstance(value, list)):
            return self._sequence(value, origin or list, args or (Any,), key, depth)
        if is_record:
            return self._record(value, hint, key, depth)
        return self._scalar(value, hint, key)

    def _wrong(
        self,
        key: str,
        expected: object,
        value: object,
        problem: str = "value of another type",
    ) -> InputError:
        found = _shown(value)
        return InputError(
            problem, file=self.file, key=key, expected=expected, found=found
        )

    def _any_of(self, value: object, hints: tuple[Any, ...], key: str, depth: int):
        errors = []
        # The type of the value is tried first, because errors are expensive to make.
        for hint in sorted(hints, key=lambda hint: hint is not type(value)):
            try:
                return self.check(value, hint, key, depth + 1)
            except InputError as error:
                errors.append(error)
        # The most specific error is the one about the deepest entry.
        raise max(errors, key=lambda error: len(error.key or ""))

    def _sequence(
        self, value: Any, kind: type, hints: tuple[Any, ...], key: str, depth: int
    ) -> Any:
        if not isinstance(value, list | tuple):
            raise self._wrong(key, "a list", value)
        fixed = kind is tuple and hints[-1] is not Ellipsis
        if fixed and len(hints) != len(value):
            raise self._wrong(key, f"a list of {len(hints)}", value)
        each = hints if fixed else (hints[0],) * len(value)
        return kind(
            self.check(item, hint, f"{key}[{index}]", depth + 1)
            for index, (item, hint) in enumerate(zip(value, each, strict=True))
        )

    def _record(self, value: object, cls: Any, key: str, depth: int) -> Any:
        if not isinstance(value, Mapping):
            raise self._wrong(key, "a table", value)
        hints = _hints(cls)
        for name in value:
            if name not in hints:
                expected = ", ".join(hints)
                problem, at = "an unknown entry", _joined(key, str(name))
                raise InputError(problem, file=self.file, key=at, expected=expected)
        entries = {}
        for field in dataclasses.fields(cls):
            if field.name in value:
                at = _joined(key, field.name)
                found = self.check(value[field.name], hints[field.name], at, depth + 1)
                entries[field.name] = found
            elif (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            ):
                at = _joined(key, field.name)
                raise InputError("an entry is missing", file=self.file, key=at)
        return cls(**entries)

    def _scalar(self, value: Any, hint: Any, key: str) -> Any:
        if hint in (None, types.NoneType) and value is None:
            return None
        if hint is float and type(value) in (int, float):
            # An integer may be too large for a float.
            if abs(value) <= 1.7976931348623157e308:
                return float(value)
            raise self._wrong(key, "a finite number", value, "out of range")
        if hint is Path:
            text = str(value) if isinstance(value, Path) else value
            return Path(self._scalar(text, str, key))
        if hint is Any or type(value) is hint:
            if isinstance(value, str) and not _is_text(value):
                raise self._wrong(key, "text in Unicode, without null bytes", value)
            if isinstance(value, float) and not math.isfinite(value):
                raise self._wrong(key, "a finite number", value, "out of range")
            return value
        raise self._wrong(key, _WORDS.get(hint, getattr(hint, "__name__", hint)), value)

    def _bounded(self, value: Any, limits: tuple[Any, ...], key: str) -> Any:
        for limit in limits:
            if isinstance(limit, Between):
                is_number = isinstance(value, int | float)
                measured = value if is_number else len(value)
                if limit.low <= measured <= limit.high:
                    continue
                found = _shown(value) if is_number else f"a length of {measured:,}"
            elif re.fullmatch(limit.pattern, value):
                continue
            else:
                found = _shown(value)
            raise InputError(
                "out of range", file=self.file, key=key, expected=limit, found=found
            )
        return value


_WORDS = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    None: "null",
    types.NoneType: "null",
    Path: "text",
}


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    is_record = dataclasses.is_dataclass(hint)
    return typing.get_origin(hint), typing.get_args(hint), is_record


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: object) -> str:
    for kind, name in ((dict, "a table"), (list, "a list"), (types.NoneType, "null")):
        if isinstance(value, kind):
            return name
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in value
