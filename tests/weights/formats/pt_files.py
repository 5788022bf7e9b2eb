"""Files of `torch.save` made by hand: what PyTorch writes, and what it never would."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

ITEMS = np.arange(12, dtype=np.float32)


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def row(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def numbers(values: Iterable[int]) -> bytes:
    return row(*map(number, values))


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + row(*arguments) + b"R"


def table(entries: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(k) + v for k, v in entries.items()) + b"u"


HOOKS = call(name("collections", "OrderedDict"))
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
FLOATS = name("torch", "FloatStorage")


def storage(
    kind: bytes = FLOATS, key: bytes = text("0"), count: bytes = number(12)
) -> bytes:
    return row(text("storage"), kind, key, text("cpu"), count) + b"Q"


def tensor(
    stored: bytes | None = None,
    offset: int = 0,
    shape: Iterable[int] = (3, 4),
    strides: Iterable[int] = (4, 1),
    more: Iterable[bytes] = (),
    function: bytes = REBUILD,
) -> bytes:
    arguments = (
        storage() if stored is None else stored,
        number(offset),
        numbers(shape),
        numbers(strides),
        b"\x89",
        HOOKS,
        *more,
    )
    return call(function, *arguments)


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def save(
    path: Path,
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    root: str = "archive",
    order: bytes | None = b"little",
    more: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> None:
    """An archive with that pickle, and by default with one storage of twelve floats."""
    storages = {"0": ITEMS.tobytes()} if storages is None else storages
    members = {f"{root}/data.pkl": pickle}
    if order is not None:
        members[f"{root}/byteorder"] = order
    members |= {f"{root}/data/{key}": content for key, content in storages.items()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in {**members, **(more or {})}.items():
            archive.writestr(zipfile.ZipInfo(member), content, method)


def save_value(path: Path, value: bytes, **options) -> None:
    """An archive whose pickle is a dictionary with one entry."""
    save(path, program(table({"w": value})), **options)
