"""What is written is read again bit by bit, and what is damaged is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from random import Random

import flax.serialization
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from linsey.checkpoint import CheckpointStore
from linsey.errors import (
    ArgumentTypeError,
    DiskError,
    InputError,
    LinseyError,
    OptionError,
)
from linsey.weights import read, write
from linsey.weights.formats import writing
from tests.reliability.mutations import scrambled

FILES = ["safetensors", "pt", "msgpack", "npz"]
FORMATS = [*FILES, "orbax"]
ARRAYS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv1.bias": np.ones(2, np.float16),
    "bn/mean": np.array([1.5, np.nan, -0.0, np.inf]),
    "count": np.array(7),
    "mask": np.array([True, False]),
}
OF_NUMPY = ["bool", "int8", "uint16", "int32", "uint64", "float16", "float64"]
DTYPES = {
    "safetensors": [*OF_NUMPY, "bfloat16", "float8_e4m3fn", "complex64"],
    "pt": [*OF_NUMPY, "bfloat16", "float8_e5m2", "complex64", "complex128"],
    "msgpack": [*OF_NUMPY, "bfloat16", "float8_e4m3b11fnuz", "int4", "complex128"],
    "npz": [*OF_NUMPY, "complex64", "complex128"],
}


def same(found, expected) -> None:
    """The same names, dtypes, shapes and bits, in any order of the names."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


# -- there and back ------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_bit_by_bit(format, tmp_path):
    write(tmp_path / f"w.{format}", ARRAYS)
    found = read(tmp_path / f"w.{format}")
    same(found, ARRAYS)
    assert not any(array.flags.writeable for array in found.values())


KEY = st.text("ab.:-_ \\\n\u00e9\u2603\U0001f600", max_size=9)


@st.composite
def arrays(draw, format: str):
    """A few arrays; in trees no name goes on where another one ends."""
    names = draw(st.lists(KEY, min_size=1, max_size=4, unique=True))
    rng, found = np.random.default_rng(draw(st.integers(0, 99))), {}
    for name in names:
        path = [name, *draw(st.lists(KEY, max_size=2))]
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        values = rng.integers(0, 2, [*shape, 16], np.uint8)
        dtype = dtype_of(draw(st.sampled_from(DTYPES[format])))
        raw = np.ascontiguousarray(values[..., : dtype.itemsize])
        found["/".join(path)] = raw.view(dtype).reshape(shape)
    return found


@pytest.mark.parametrize("format", FILES)
def test_any_arrays_come_back(format, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / f"w.{format}"

    @settings(max_examples=20)
    @given(arrays(format))
    def check(expected):
        write(path, expected)
        same(read(path), expected)

    check()


@pytest.mark.parametrize("format", FILES)
def test_the_same_arrays_give_the_same_bytes(format, tmp_path):
    turned = {k: np.asarray(v, order="F") for k, v in ARRAYS.items()}
    turned = {k: v.astype(v.dtype.newbyteorder(">")) for k, v in turned.items()}
    for name, values in (("a", ARRAYS), ("b", turned)):
        write(tmp_path / name, values, format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("format", ["pt", "msgpack", "npz"])
def test_names_keep_their_order(format, tmp_path):
    values = {name: ARRAYS["mask"] for name in "zaxb"}
    write(tmp_path / "w", values, format)
    assert list(read(tmp_path / "w")) == list(values)


@pytest.mark.parametrize("format", ["msgpack", "orbax"])
def test_trees_are_those_that_jax_programs_expect(format, tmp_path):
    write(tmp_path / f"w.{format}", {"params/a~1b/kernel": np.ones((2, 3), "f4")})
    if format == "msgpack":
        content = (tmp_path / "w.msgpack").read_bytes()
        tree = flax.serialization.msgpack_restore(content)
    else:
        path = str(tmp_path / "w.orbax")
        tree = flax.training.checkpoints.restore_checkpoint(path, None)
    assert jax.tree.map(np.shape, tree) == {"params": {"a/b": {"kernel": (2, 3)}}}


def test_arrays_of_jax_are_written(tmp_path):
    write(tmp_path / "w.pt", {"w": jnp.ones((2, 3), jnp.bfloat16)})
    found = read(tmp_path / "w.pt")["w"]
    assert found.dtype == ml_dtypes.bfloat16 and found.shape == (2, 3)


# -- what others wrote ---------------------------------------------------------------


def test_safetensors_of_the_library_are_read_and_back(tmp_path):
    path = tmp_path / "model.bin"  # the name does not matter
    safetensors.numpy.save_file(ARRAYS, path, {"format": "pt"})
    same(read(path), ARRAYS)
    write(path, ARRAYS, "safetensors")
    same(safetensors.numpy.load_file(path), ARRAYS)


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\0\1", b"PK", b"\xde\0\1"])
def test_the_length_of_a_header_is_not_taken_for_another_format(start, tmp_path):
    path = tmp_path / "w"
    write(path, ARRAYS, "safetensors")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    padded = int.from_bytes(start, "little")
    header = content[8 : 8 + size].ljust(padded)
    path.write_bytes(padded.to_bytes(8, "little") + header + content[8 + size :])
    same(read(path), ARRAYS)


def test_npz_of_numpy_is_read_and_back(tmp_path):
    path = tmp_path / "model"
    with path.open("wb") as file:
        np.savez_compressed(file, **ARRAYS, big=ARRAYS["bn/mean"].astype(">f8"))
    same(read(path), ARRAYS | {"big": ARRAYS["bn/mean"]})
    write(path, ARRAYS, "npz")
    with np.load(path, allow_pickle=False) as found:
        same(dict(found), ARRAYS)


def test_a_tree_of_flax_gives_its_arrays(tmp_path):
    tree = {"step": 3, "note": "a", "mu": [np.ones(2), {"a/b": np.float32(3)}],
            "params": {"w": jnp.ones((2, 3))}, "none": None}  # fmt: skip
    (tmp_path / "w").write_bytes(flax.serialization.to_bytes(tree))
    expected = {"mu/0": np.ones(2), "mu/1/a~1b": np.array(3, "f4"),
                "params/w": np.ones((2, 3), "f4")}  # fmt: skip
    same(read(tmp_path / "w"), expected)


def test_a_checkpoint_of_orbax_gives_what_is_stored(tmp_path):
    import orbax.checkpoint as ocp

    with jax.enable_x64(True):
        tree = {"a": [jnp.ones((2, 3), jnp.float64), np.arange(3)], "step": 5}
        ocp.PyTreeCheckpointer().save(tmp_path / "w", tree)
    same(read(tmp_path / "w"), {"a/0": np.ones((2, 3)), "a/1": np.arange(3)})


def test_a_run_gives_its_newest_step(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    for step in (1, 2):
        tree = {"params": {"w": np.full(2, step, np.float32)}, "rng": jax.random.key(0)}
        store.save(step, tree, {})
    expected = {"params/w": np.full(2, 2, "f4"), "rng": np.zeros(2, "u4")}
    for path in (tmp_path / "run", store.folder, store.path(2)):
        same(read(path), expected)
    assert read(store.path(1))["params/w"][0] == 1


# -- what is refused -----------------------------------------------------------------


def empty_folder(path: Path) -> None:
    path.mkdir()


def named_twice(path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    header = header[:-1] + b"," + header[1:]
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def save_npz(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, a=array)


REFUSED = {
    "not there": (lambda path: None, "w: no such file"),
    "a folder": (
        empty_folder,
        "w: a folder without weights: expected safetensors, a file of `torch.save`, "
        "MessagePack of Flax, npz, a checkpoint of Orbax, a run of linsey or a step of "
        "it",
    ),
    "an image": (
        lambda path: path.write_bytes(b"\xff\xd8\xff\xe0JFIF"),
        "w: weights of an unknown kind: expected safetensors, a file of `torch.save`, "
        "MessagePack of Flax, npz, a checkpoint of Orbax, a run of linsey or a step of "
        "it, found ff d8 ff e0 4a 46 49 46",
    ),
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps({"w": 1})),
        "w: a pickle, and no pickle is read (load it with torch, and save it anew: "
        "`torch.save(model.state_dict(), F)`)",
    ),
    "a name twice": (
        named_twice,
        "w: a: a key is there twice (copy or download it again)",
    ),
    "objects": (
        lambda path: save_npz(path, np.array([{}])),
        "w: a: the array holds Python objects, which are never unpickled (save an "
        "array of numbers)",
    ),
    "a dtype without its name": (
        lambda path: save_npz(path, np.ones(2, ml_dtypes.bfloat16)),
        "w: a: not numbers: expected real numbers, found '<V2' (save numbers that "
        "NumPy has, such as float32, or use safetensors)",
    ),
    "half an archive": (
        lambda path: path.write_bytes(b"PK\3\4" + bytes(99)),
        "w: not a readable zip archive: File is not a zip file (copy or download it "
        "again)",
    ),
    "no arrays": (
        lambda path: path.write_bytes(flax.serialization.to_bytes({"a": 1})),
        "w: no arrays in it",
    ),
    "one array": (
        lambda path: path.write_bytes(flax.serialization.to_bytes(np.array(1))),
        "w: weights of an unknown kind: expected safetensors, a file of `torch.save`, "
        "MessagePack of Flax, npz, a checkpoint of Orbax, a run of linsey or a step of "
        "it, found c7 12 01 93 90 a5 69 6e",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, told = REFUSED[case]
    make(Path("w"))
    with pytest.raises(InputError) as caught:
        read("w")
    assert str(caught.value) == told


@pytest.mark.parametrize("format", FILES)
def test_damage_is_refused_or_gives_arrays(format, tmp_path):
    path, rng = tmp_path / f"w.{format}", Random(0)
    write(path, ARRAYS)
    good = path.read_bytes()
    refused = 0
    for _ in range(150):
        path.write_bytes(scrambled(rng, good))
        try:
            found = read(path)
        except InputError as error:
            assert str(error).isprintable()
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
    assert refused > 20


@pytest.mark.parametrize("format", ["pt", "msgpack", "npz"])
def test_no_changed_bit_in_the_arrays_goes_unnoticed(format, tmp_path):
    """Archives have a checksum for each member, MessagePack one of linsey."""
    path = tmp_path / f"w.{format}"
    write(path, ARRAYS)
    good = path.read_bytes()
    start = good.index(ARRAYS["conv1.weight"].tobytes())
    for place in range(start, start + 96, 5):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read(path)


# -- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arrays", "kind", "told"),
    [
        (
            "w.bin", ARRAYS, OptionError,
            "`w.bin` does not say which format is meant.\n"
            "These are written: safetensors, pt, msgpack, orbax, npz.\n"
            'Write `write(path, arrays, format="safetensors")`.',
        ),
        (
            "w.pt", {}, OptionError,
            "There are no arrays to write.\n"
            "A file without arrays is most likely a mistake.\n"
            "Pass at least one array.",
        ),
        (
            "w.pt", {"a": [1.0]}, ArgumentTypeError,
            "`a` is of type list.\nA file of weights holds arrays.\n"
            "Pass `numpy.asarray(value)`, or leave it out.",
        ),
        (
            "w.npz", {"a": np.ones(2, ml_dtypes.bfloat16)}, ArgumentTypeError,
            "`a` is of dtype bfloat16, which npz cannot hold.\n"
            "It would be read as something else, or not at all.\n"
            "Convert it, such as by `array.astype(numpy.float32)`, leave it out, or "
            "write another format.",
        ),
        (
            "w.safetensors", {"__metadata__": np.ones(2)}, OptionError,
            "The name '__metadata__' cannot be one.\n"
            "Names are text of at most 1,024 characters of Unicode, without null "
            "bytes; `__metadata__` is taken.\n"
            "Rename the array.",
        ),
        (
            "w.msgpack", {"a~b": np.ones(2)}, OptionError,
            "The name `a~b` has a `~`, and no 0 or 1 after it.\n"
            "A name joins the keys of a tree, in which `~1` stands for `/`.\n"
            "Name the array `a~0b`.",
        ),
        (
            "w.orbax", {"a.b/c": np.ones(2), "a/b/c": np.ones(2)}, OptionError,
            "The names `a.b/c` and `a/b/c` are one to Orbax.\n"
            "It joins keys with a point, and one array would replace the other.\n"
            "Rename one of the two arrays, or write msgpack.",
        ),
        (
            "w.msgpack", {"a": np.ones(2), "a/b": np.ones(2)}, OptionError,
            "The name `a/b` goes on where another one ends, or has more than 100 keys."
            "\nNames are paths in a tree, and an array has nothing below it.\n"
            "Rename one of the two arrays.",
        ),
    ],
    ids="suffix empty list dtype reserved tilde point prefix".split(),
)  # fmt: skip
def test_what_cannot_be_written_is_named(name, arrays, kind, told, tmp_path):
    with pytest.raises(kind) as caught:
        write(tmp_path / name, arrays)
    assert str(caught.value) == told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "array",
    [np.array([{}]), np.array(["a"]), np.zeros(2, "M8[s]"), np.zeros(2, "i4,f4")],
    ids=["objects", "text", "dates", "records"],
)
@pytest.mark.parametrize("format", FORMATS)
def test_other_arrays_are_refused_in_all_formats(format, array, tmp_path):
    with pytest.raises(ArgumentTypeError, match="cannot hold"):
        write(tmp_path / "w", {"a": array}, format)


def test_orbax_refuses_what_it_would_lose(tmp_path):
    for array in (np.zeros((0, 2)), jax.random.key(0)):
        with pytest.raises(ArgumentTypeError, match="which orbax cannot hold"):
            write(tmp_path / "w.orbax", {"a": array})


def test_a_format_that_is_not_known_is_named(tmp_path):
    with pytest.raises(OptionError, match="`format='h5'` does not say"):
        write(tmp_path / "w", ARRAYS, "h5")


@pytest.mark.parametrize("format", FORMATS)
def test_a_write_that_fails_leaves_what_was_there(format, tmp_path, monkeypatch):
    path = tmp_path / "w"
    if format != "orbax":
        write(path, {"old": np.ones(2)}, format)

    def fails(temporary, arrays):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writing._WRITERS, format, fails)
    with pytest.raises(DiskError, match="No space left"):
        write(path, ARRAYS, format)
    left = [entry.name for entry in tmp_path.iterdir()]
    assert left == ([] if format == "orbax" else ["w"])
    if format != "orbax":
        assert list(read(path)) == ["old"]


def test_a_folder_is_not_replaced(tmp_path):
    write(tmp_path / "w.orbax", ARRAYS)
    with pytest.raises(LinseyError):
        write(tmp_path / "w.orbax", {"other": np.ones(2)})
    same(read(tmp_path / "w.orbax"), ARRAYS)
