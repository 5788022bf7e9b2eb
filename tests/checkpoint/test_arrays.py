"""Arrays and their files: every dtype and layout, as safetensors reads them too."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import deserialize

from linsey.checkpoint import (
    CheckpointStore,
    dtypes,
    durable,
    manifest,
    pieces,
    tensors,
)
from linsey.errors import ArgumentTypeError, InputError, UnsupportedError
from tests.checkpoint.steps import DATA, assert_same_bits

NATIVE = [name for name in dtypes.CODES]
BITS = [name for name in dtypes._BITS if dtypes.storage(name)]
LAYOUTS = {
    "C": lambda a: a,
    "Fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": lambda a: a.T.copy().T,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "no axes": lambda a: a[0, 0].reshape(()),
    "empty": lambda a: a[:, :0],
    "one axis of one": lambda a: a[:1],
}


def sample(name: str) -> np.ndarray:
    dtype = dtypes._DTYPES[name]
    values = np.random.default_rng(0).integers(0, 2, (3, 4))
    if name.startswith("float") or name.startswith("complex"):
        values = np.random.default_rng(0).standard_normal((3, 4))
    return values.astype(dtype)


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


def saved(store: CheckpointStore, tree: dict) -> dict:
    store.save(0, tree, {}, replace=True)
    return store.newest().restore(tree)


def test_every_dtype_in_every_layout_returns_with_its_bits(store):
    tree = {
        name: {kind: make(sample(name)) for kind, make in LAYOUTS.items()}
        for name in [*NATIVE, *BITS]
    }
    found = saved(store, tree)
    expected = jax.tree.map(lambda a: np.asarray(a, order="C"), tree)
    assert_same_bits(found, expected)
    assert not found["float32"]["C"].flags.writeable


def test_safetensors_reads_our_files(store):
    tree = {n: {k: make(sample(n)) for k, make in LAYOUTS.items()} for n in NATIVE}
    saved(store, tree)
    content = (store.path(0) / DATA).read_bytes()
    found = {name: entry for name, entry in deserialize(content)}
    assert len(found) == len(NATIVE) * len(LAYOUTS)
    for name, entry in found.items():
        dtype, kind = name.split("/")
        array = tree[dtype][kind]
        assert (entry["dtype"], tuple(entry["shape"])) == (
            dtypes.CODES[dtype],
            array.shape,
        )
        assert bytes(entry["data"]) == array.tobytes()


def test_files_of_safetensors_are_parsed():
    arrays = {name: sample(name) for name in NATIVE if hasattr(np, name)}
    content = safetensors.numpy.save(arrays, metadata={"format": "np"})
    found, start = tensors.parse_header(content, Path("a"))
    assert found.keys() == arrays.keys()
    for name, tensor in found.items():
        first, last = (start + offset for offset in tensor.data_offsets)
        assert tensor.shape == arrays[name].shape
        assert content[first:last] == arrays[name].tobytes()


def test_numbers_of_the_other_byte_order(store):
    numbers = np.arange(5, dtype=">f8")
    found = saved(store, {"a": numbers})["a"]
    np.testing.assert_array_equal(found, numbers)
    assert found.dtype == np.dtype("<f8")


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_random_keys(store, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 4)
    found = saved(store, {"keys": keys, "one": keys[0]})
    assert found["keys"].dtype == keys.dtype
    assert (jax.random.key_data(found["keys"]) == jax.random.key_data(keys)).all()
    assert (jax.random.bits(found["one"]) == jax.random.bits(keys[0])).all()
    other = {"keys": keys, "one": jax.random.key_data(keys[0])}
    with pytest.raises(InputError, match="`one` is key<.*, not uint32"):
        store.newest().restore(other)


def test_arrays_of_jax_and_python_numbers(store):
    tree = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": 3, "c": True, "d": 1.5}
    found = saved(store, tree)
    assert found["a"].dtype == ml_dtypes.bfloat16
    assert (found["b"], found["c"], found["d"]) == (3, True, 1.5)


@pytest.mark.parametrize("leaf", [
    None, "text", [1, 2], np.array("text"), np.array([None]), object(),
    np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")]), b"bytes",
])  # fmt: skip
def test_what_is_no_array_is_refused_by_its_path(store, leaf):
    with pytest.raises(ArgumentTypeError, match="`a/b` is of .*cannot hold"):
        store.save(0, {"a": {"b": leaf}}, {})
    assert store.steps() == []


def test_an_array_of_several_processes_is_not_sealed_without_its_parts(store):
    class Part(np.ndarray):
        is_fully_addressable = False

    with pytest.raises(UnsupportedError, match="`a` is spread over several processes"):
        store.save(0, {"a": np.zeros(2).view(Part)}, {})
    assert store.steps() == []


def test_a_manifest_that_would_not_be_read_is_not_written(store, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(UnsupportedError, match="of 1 arrays has 1,... bytes"):
        store.save(0, {"a": np.zeros(2)}, {"text": 1000 * "a"})


def test_keys_with_separators_do_not_collide(store):
    tree = {
        "a/b": np.int32(1),
        "a": {"b": np.int32(2), "": np.int32(3), "/": {"~1": np.int32(4)}},
        "a~1b": np.int32(5),
        "é\n[0:1]": np.int32(6),
        "": {"": {"": np.int32(7)}},
    }
    assert_same_bits(saved(store, tree), tree)
    assert_same_bits(store.newest().read(), tree)
    assert "a~1b" in store.newest().arrays


@pytest.mark.parametrize(("tree", "told"), [
    ({0: np.int32(0)}, "is not text"),
    ({"__metadata__": np.int32(0)}, "safetensors use that name"),
    ({"a\0": np.int32(0)}, "without null bytes"),
    ({"\ud800": np.int32(0)}, "Unicode"),
])  # fmt: skip
def test_keys_that_cannot_be_stored_are_refused(store, tree, told):
    with pytest.raises((ArgumentTypeError, InputError), match=told):
        store.save(0, tree, {})
    assert store.steps() == []


def test_a_tree_that_contains_itself_is_refused(store):
    tree: dict = {"a": np.zeros(1)}
    tree["b"] = tree
    with pytest.raises(ArgumentTypeError, match="`b/b/b/...` has more than 100 keys"):
        store.save(0, tree, {})


@pytest.mark.parametrize(("metadata", "told"), [
    ({"a": np.float32(1)}, r"holds np.float32\(1.0\), of type float32"),
    ({"a": float("nan")}, "not a finite number"),
    ({"a": "\ud800"}, "Unicode"),
])  # fmt: skip
def test_metadata_that_cannot_be_read_again_is_refused(store, metadata, told):
    with pytest.raises((ArgumentTypeError, InputError), match=told):
        store.save(0, {"a": np.zeros(1)}, metadata)
    assert store.steps() == []


def test_empty_dictionaries_are_kept(store):
    tree = {"a": {}, "b": {"c": {}, "d": np.zeros(2)}}
    store.save(0, tree, {})
    assert_same_bits(store.newest().read(), tree)
    assert store.newest().read()["b"]["c"] == {}
    store.save(1, {}, {})
    assert store.newest().read() == {}


# --- arrays in pieces ---------------------------------------------------------------

WHOLE = np.arange(24, dtype=np.complex64).reshape(4, 6)


def write_pieces(folder: Path, slices: list[tuple]) -> None:
    """Write a step whose one array is in pieces, each in a file of its own."""
    folder.mkdir()
    files, parts = {}, []
    for index, bounds in enumerate(slices):
        file = manifest.file_name(index, len(slices))
        part = WHOLE[tuple(slice(*bound) for bound in bounds)]
        name = manifest.Piece(file, bounds, "").name("w", WHOLE.shape)
        chunks, share = pieces.pack({name: part}, file)
        durable.write_new(folder / file, chunks)
        files[file], (piece,) = share.file, share.arrays[name].pieces
        parts.append(dataclasses.replace(piece, slice=bounds))
    entry = manifest.ArrayEntry(WHOLE.shape, "complex64", "U8", tuple(parts))
    record = manifest.Manifest(2, 5, 0, {}, files, {"w": entry})
    durable.write_new(folder / manifest.NAME, [manifest.encode(record)])


@pytest.mark.parametrize("slices", [
    [((0, 2), (0, 6)), ((2, 4), (0, 6))],
    [((0, 4), (3, 6)), ((0, 4), (0, 3))],
    [((0, 2), (0, 3)), ((0, 2), (3, 6)), ((2, 4), (0, 1)), ((2, 4), (1, 6))],
])  # fmt: skip
def test_an_array_is_put_together_from_pieces_in_several_files(store, slices):
    write_pieces(store.folder / "step_00000005", slices)
    found = store.newest().restore({"w": WHOLE})["w"]
    assert_same_bits({"w": found}, {"w": WHOLE})
    assert not found.flags.writeable


@pytest.mark.parametrize(("slices", "told"), [
    ([((0, 2), (0, 6)), ((3, 4), (0, 6))], "gaps or overlaps"),
    ([((0, 2), (0, 6)), ((1, 4), (0, 6))], "gaps or overlaps"),
    ([((0, 2), (0, 6)), ((1, 3), (0, 6))], "gaps or overlaps"),
    ([((0, 2), (0, 6)), ((0, 2), (0, 6))], "gaps or overlaps"),
    ([((0, 2), (0, 6))], "gaps or overlaps"),
])  # fmt: skip
def test_pieces_with_gaps_or_overlaps_are_refused(store, slices, told):
    write_pieces(store.folder / "step_00000005", slices)
    with pytest.raises(InputError, match=f"w: pieces with {told}"):
        store.newest()


def test_a_damaged_piece_is_named(store):
    folder = store.folder / "step_00000005"
    write_pieces(folder, [((0, 2), (0, 6)), ((2, 4), (0, 6))])
    file = folder / manifest.file_name(1, 2)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{file}: w: the array is not the one"):
        store.newest()


HEADERS = {
    "": "longer than the file",
    "\xff" * 8: "longer than the file",
    "\x02\0\0\0\0\0\0\0[]": "a table",
    "\x02\0\0\0\0\0\0\0{]": "not JSON",
}


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_are_none_are_refused(header):
    with pytest.raises(InputError, match=HEADERS[header]):
        tensors.parse_header(header.encode("latin1"), Path("a"))


@pytest.mark.parametrize(("entry", "told"), [
    ({"dtype": "F33"}, "an unknown dtype"),
    ({"shape": [2, 2**62]}, "not where it has to be"),
    ({"shape": [-1]}, "out of range"),
    ({"data_offsets": [4, 12]}, "not where it has to be"),
    ({"data_offsets": [0, 4]}, "not where it has to be"),
    ({"data_offsets": [0, 2**63]}, "out of range"),
    ({"shape": [1], "data_offsets": [0, 4]}, "do not end where the file ends"),
])  # fmt: skip
def test_entries_that_do_not_fit_are_refused(entry, told):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    with pytest.raises(InputError, match=told):
        tensors.parse_header(content, Path("a"))
