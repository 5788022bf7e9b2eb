"""Bytes of trees: a checksum that Flax does not see, a reader that believes nothing."""

from __future__ import annotations

import gc
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.serialization
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest

from linsey import config, msgpack_format, serialization
from linsey.errors import InputError, MalformedBytesError, StateDictMismatchError
from linsey.serialization import msgpack_restore, msgpack_serialize
from linsey.training import checkpoints
from linsey.training.formats import describe
from tests.reliability.figures import record

pytestmark = pytest.mark.filterwarnings("ignore")  # of Orbax and its threads

TREES = {
    "params": {"w": np.arange(3.0), "b": {"c": np.ones(2, np.float16), "n": 3}},
    "an array": np.arange(3, dtype=np.int8),
    "a scalar": np.zeros(()),
    "a long key": {"k" * 40: [1, 2.5, None], "z": "ü"},
    "many keys": {str(i): i for i in range(20)},
}

BITS: dict[str, int] = {}


def flipped(data: bytes) -> Iterator[bytes]:
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            yield bytes(changed)


def text(tree: Any) -> str:
    return repr(jax.tree_util.tree_leaves_with_path(tree))


# -- the checksum --------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_flax_does_not_see_the_checksum(name):
    tree = TREES[name]
    data = msgpack_serialize(tree)
    assert msgpack_format.MARK in data
    assert text(flax.serialization.msgpack_restore(data)) == text(tree)
    assert text(msgpack_restore(data)) == text(tree)
    # Readers of any other kind take the last of two values too.
    unpacked = msgpack.unpackb(data, strict_map_key=False)
    assert msgpack_format.MARK not in msgpack.packb(unpacked)
    # What Flax writes has none, and is read.
    theirs = flax.serialization.msgpack_serialize(tree)
    assert text(msgpack_restore(theirs)) == text(tree)


@pytest.mark.parametrize("name", TREES)
def test_every_flipped_bit_is_refused(name):
    data = msgpack_serialize(TREES[name])
    for changed in flipped(data):
        with pytest.raises(MalformedBytesError):
            msgpack_restore(changed)
    BITS[name] = 8 * len(data)
    record("every bit of a msgpack file", f"{sum(BITS.values()):,} of as many")


def test_every_changed_byte_of_a_file_is_refused_by_name(tmp_path):
    with config.temp_flip_flag("use_orbax_checkpointing", False):
        path = Path(checkpoints.save_checkpoint(tmp_path, TREES["params"], 1))
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(InputError) as caught:
            checkpoints.restore_checkpoint(tmp_path, TREES["params"])
        assert caught.value.file == str(path)
        assert str(path) in str(caught.value)


def test_other_damage_is_refused_too():
    data = msgpack_serialize(TREES["params"])
    other = msgpack_serialize({**TREES["params"], "b": 1})
    damaged = [data[:n] for n in range(len(data))]
    damaged += [data + b"\0", other[:-20] + data[-20:], data[:40] + other[40:]]
    for changed in damaged:
        with pytest.raises(MalformedBytesError):
            msgpack_restore(changed)


def test_what_could_not_be_read_is_not_written():
    tree: Any = 1
    for _ in range(msgpack_format.MAX_DEPTH):
        tree = {"a": tree}
    assert msgpack_restore(msgpack_serialize(tree)) == tree
    with pytest.raises(ValueError, match="more than 100 levels"):
        msgpack_serialize({"a": tree})


def test_bytes_in_bytes_are_only_bytes():
    inner = msgpack_serialize(TREES["params"])
    for writer in (msgpack_serialize, flax.serialization.msgpack_serialize):
        assert msgpack_restore(writer({"a": inner, "b": [inner]}))["a"] == inner


# -- what is hostile -----------------------------------------------------------------


def array(shape: Any, dtype: Any, buffer: Any, code: int = 1) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb((shape, dtype, buffer))))


def at_w(value: bytes) -> bytes:
    """A dictionary with the value at `p/w`."""
    return b"\x81\xa1p\x81\xa1w" + value


def chunked(**entries: Any) -> bytes:
    tree = {"__msgpack_chunked_array__": True, **entries}
    return msgpack.packb(tree, default=serialization._pack_unknown)


HOSTILE = {
    "dtype with fields": array([2], "f4,i4", b"0" * 16),
    "dtype that is evaluated": array([2], "[('a', 1+1)]", b"0" * 16),
    "dtype of objects": array([2], "O", b"0" * 16),
    "dtype of objects by name": array([2], "object", b"0" * 16),
    "dtype by code": array([2], "<f4", b"0" * 8),
    "dtype of text": array([2], "str96", b"0" * 24),
    "dtype without size": array([2], "str", b""),
    "dtype void": array([2], "void", b""),
    "dtype in parentheses": array([2], "(2,)f4", b"0" * 16),
    "dtype unknown": array([2], "float33", b"0" * 8),
    "dtype of a number": array([2], 3, b"0" * 8),
    "dtype no text": array([2], b"\xff\xfe", b"0" * 8),
    "dtype of units": array([1], "datetime64[99999999999s]", b"0" * 8),
    "shape below 0": array([-2, -1], "float32", b"0" * 8),
    "shape of -1": array([-1], "float32", b"0" * 8),
    "shape of truth": array([True, 2], "float32", b"0" * 8),
    "shape of a float": array([2.0], "float32", b"0" * 8),
    "shape of text": array("2", "float32", b"0" * 8),
    "shape empty and huge": array([0, 10**14], "float32", b""),
    "shape that overflows": array([2**63, 2**63, 0], "float32", b""),
    "shape of 65 axes": array([1] * 65, "float32", b"0" * 4),
    "too few bytes": array([3], "float32", b"0" * 8),
    "too many bytes": array([1], "float32", b"0" * 8),
    "bytes as text": array([2], "float32", "0" * 8),
    "two parts": msgpack.packb(msgpack.ExtType(1, msgpack.packb(([2], "f")))),
    "no parts": msgpack.packb(msgpack.ExtType(1, b"")),
    "more parts": msgpack.packb(msgpack.ExtType(1, msgpack.packb([1]) + b"\0")),
    "parts of a dictionary": msgpack.packb(msgpack.ExtType(1, msgpack.packb({1: 2}))),
    "array in an array": msgpack.packb(msgpack.ExtType(1, array([1], "int8", b"0"))),
    "scalar with axes": array([1], "float32", b"0" * 4, code=3),
    "complex of three": msgpack.packb(
        msgpack.ExtType(2, msgpack.packb((1.0, 2.0, 3.0)))
    ),
    "complex of text": msgpack.packb(msgpack.ExtType(2, msgpack.packb(("1", "2")))),
    "extension of dates": b"\xd6\xff\0\0\0\0",
    "extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "list of 4 G": b"\xdd\xff\xff\xff\xff",
    "dictionary of 4 G": b"\xdf\xff\xff\xff\xff",
    "lists of lists of 4 G": (b"\xdd\x00\x0f\xff\xff" * 500),
    "deep lists": b"\x91" * 100_000 + b"\0",
    "deep dictionaries": b"\x81\xa1a" * 100_000 + b"\0",
    "deep keys": b"\x81" * 100_000,
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a key of a list": b"\x81\x90\x01",
    "a key of an array": b"\x81" + array([1], "int8", b"0") + b"\x01",
    "text that is no UTF-8": b"\xa2\xff\xfe",
    "a byte of no meaning": b"\xc1",
    "pieces without shape": chunked(chunks={"0": np.ones(2)}),
    "pieces without chunks": chunked(shape={"0": 2}),
    "pieces of nothing": chunked(shape={"0": 0}, chunks={}),
    "pieces of another size": chunked(shape={"0": 2}, chunks={"0": np.ones(3)}),
    "pieces of several dtypes": chunked(
        shape={"0": 2}, chunks={"0": np.ones(1), "1": np.ones(1, np.int8)}
    ),
    "pieces with axes": chunked(shape={"0": 1}, chunks={"0": np.ones((1, 1))}),
    "pieces that are missing": chunked(shape={"0": 2}, chunks={"1": np.ones(2)}),
    "pieces of a huge shape": chunked(
        shape={"0": 2**40, "1": 2**40}, chunks={"0": np.ones(2)}
    ),
    "pieces of text": chunked(shape={"0": 1}, chunks={"0": "a"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused_by_path(name):
    data = at_w(HOSTILE[name])
    with pytest.raises(MalformedBytesError) as caught:
        msgpack_restore(data)
    assert caught.value.key is not None and caught.value.key.startswith("p/w")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    with pytest.raises(ValueError):  # the class that programs for Flax catch
        serialization.from_bytes({"p": {"w": 0}}, data)


@pytest.mark.parametrize("name", ["link", "fifo", "device", "folder"])
def test_what_is_no_regular_file_is_no_checkpoint(name, tmp_path):
    path = tmp_path / "checkpoint_1"
    if name == "link":
        (tmp_path / "other").write_bytes(msgpack_serialize(TREES["params"]))
        path.symlink_to(tmp_path / "other")
    elif name == "fifo":
        os.mkfifo(path)
    elif name == "device":
        path = Path("/dev/zero")
    else:
        path.mkdir()
    folder = path if name == "device" else tmp_path
    with pytest.raises(InputError) as caught:
        checkpoints.restore_checkpoint(folder, TREES["params"])
    assert str(path) in str(caught.value)


def test_names_from_a_file_do_not_command_the_terminal():
    data = b"\x81" + msgpack.packb("\x1b[31m\n\u202e") + b"\xc1"
    with pytest.raises(MalformedBytesError) as caught:
        msgpack_restore(data)
    assert str(caught.value).isprintable()


# -- all dtypes and layouts, in both directions --------------------------------------

NAMES = """
    bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64
    complex64 complex128 bfloat16 float8_e4m3fn float8_e5m2 int4 uint4
""".split()
LAYOUTS = {
    "C": lambda x: x,
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1, ::-1][::-1, ::-1],
    "0-d": lambda x: np.asarray(x[1, 1]),
    "empty": lambda x: x[:, :0],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
}


def arrays(without: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name in NAMES:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        whole = np.arange(6).reshape(2, 3).astype(dtype)
        for layout, change in LAYOUTS.items():
            # Only dtypes of NumPy have two byte orders.
            is_foreign = layout == "big-endian" and hasattr(ml_dtypes, name)
            if layout != without and not is_foreign:
                found[f"{name} {layout}"] = change(whole)
    return found


def assert_bits(found: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        native = array.astype(array.dtype.newbyteorder("="))
        is_as = np.asarray(found[name])
        assert (is_as.dtype, is_as.shape) == (native.dtype, native.shape), name
        assert is_as.tobytes() == native.tobytes(), name


def test_msgpack_holds_all_dtypes_and_layouts_in_both_directions():
    expected = arrays()
    data = msgpack_serialize(dict(expected))
    assert_bits(msgpack_restore(data), expected)
    assert_bits(flax.serialization.msgpack_restore(data), expected)
    # Flax writes the bytes of big-endian arrays as if they were not.
    theirs = arrays(without="big-endian")
    data = flax.serialization.msgpack_serialize(dict(theirs))
    assert_bits(msgpack_restore(data), theirs)


def test_orbax_holds_them_in_both_directions(tmp_path):
    expected = arrays(without="empty")
    expected = {k: x for k, x in expected.items() if x.dtype != ml_dtypes.uint4}
    libraries = {"ours": checkpoints, "theirs": flax.training.checkpoints}
    for name, writer in libraries.items():
        writer.save_checkpoint(tmp_path / name, expected, 1)
        for reader in libraries.values():
            found = reader.restore_checkpoint(tmp_path / name, expected)
            assert_bits(found, expected)
    empty, short = np.ones((2, 0)), np.ones(2).astype(ml_dtypes.uint4)
    for value, told in ((empty, "zero size"), (short, "uint4")):
        with pytest.raises(ValueError, match=told):
            checkpoints.save_checkpoint(tmp_path / told, {"x": value}, 1)


def test_what_text_and_objects_are_is_said():
    for value in (np.array(["a"]), np.array([None]), jax.random.key(0), object()):
        with pytest.raises((TypeError, ValueError)):
            msgpack_serialize({"a": value})


# -- the format so far ---------------------------------------------------------------


@pytest.fixture
def golden(tmp_path) -> Path:
    with tarfile.open(Path(__file__).with_name("golden_training.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("kind", ["msgpack", "orbax"])
def test_checkpoints_of_the_first_version_are_read(kind, golden):
    """`golden_training.tar.gz` is what `save_checkpoint` wrote before checksums."""
    tree = {
        "params": {
            "w": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.arange(3).astype(ml_dtypes.bfloat16),
        },
        "layers": [np.arange(2, dtype=np.int8), (np.float16(1.5),)],
        "step": 3,
    }
    target = jax.tree.map(lambda x: 0 if x is tree["step"] else jnp.zeros_like(x), tree)
    found = checkpoints.restore_checkpoint(golden / kind, target, strict=True)
    assert text(jax.tree.map(np.asarray, found)) == text(jax.tree.map(np.asarray, tree))


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d/x", "d/folder"])
@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_orbax_would_follow_or_wait_for_is_refused(name, kind, golden):
    path = golden / "orbax" / "checkpoint_3" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "fifo" else path.symlink_to(golden)
    for read in (
        lambda: checkpoints.restore_checkpoint(golden / "orbax", TREES["params"]),
        lambda: describe(golden / "orbax" / "checkpoint_3"),
    ):
        with pytest.raises(InputError) as caught:
            read()
        assert caught.value.file == str(path)


def test_a_damaged_checkpoint_of_orbax_raises_nothing_else(golden):
    """Orbax compares no hashes: what it does not notice it loads."""
    files = [path for path in (golden / "orbax").rglob("*") if path.is_file()]
    refused = 0
    for path in files:
        content = path.read_bytes()
        for changed in (content[: len(content) // 2], content[:-9] + b"\xff" * 9, b""):
            path.write_bytes(changed)
            for strict in (False, True):
                try:
                    target = {"params": {"w": jnp.zeros((2, 3))}}
                    checkpoints.restore_checkpoint(
                        golden / "orbax", target, strict=strict
                    )
                except (InputError, StateDictMismatchError):
                    refused += 1
        path.write_bytes(content)
    assert refused >= 3 * len(files)
    gc.collect()  # what Orbax leaves behind when it refuses
