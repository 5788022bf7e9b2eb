"""Copies in other formats hold the same arrays, or are refused; nothing is guessed."""

from __future__ import annotations

import dataclasses
import os
import tarfile
from pathlib import Path

import flax.serialization
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy

from linsey import serialization
from linsey.app import cli
from linsey.checkpoint import open_checkpoint, write_checkpoint
from linsey.errors import InputError
from linsey.training import checkpoints, conversion
from linsey.training.conversion import convert
from linsey.training.formats import describe, kind_of
from linsey.training.train_state import TrainState

pytestmark = pytest.mark.filterwarnings("ignore")  # of Orbax and its threads

GOLDEN = Path(__file__).parents[1] / "checkpoint" / "golden_run.tar.gz"
NAMES = {"step": "step_00000005", "orbax": "x.orbax", "msgpack": "x.msgpack"}


def make_state(value: float = 1.0) -> TrainState:
    params = {"k": jnp.full((2, 3), value), "b": jnp.full(3, value, jnp.bfloat16)}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    return state.replace(step=jnp.int32(value))


@pytest.fixture
def sources(tmp_path) -> dict[str, Path]:
    """The same state, in each format."""
    state = make_state(5.0)
    paths = {kind: tmp_path / "sources" / name for kind, name in NAMES.items()}
    (tmp_path / "sources").mkdir()
    write_checkpoint(paths["step"], 5, serialization.to_state_dict(state), {"a": 1})
    folder = flax.training.checkpoints.save_checkpoint(tmp_path / "flax", state, 5)
    paths["orbax"] = Path(folder)
    content = flax.serialization.msgpack_serialize(serialization.to_state_dict(state))
    paths["msgpack"].write_bytes(content)
    return paths


def assert_same(found, expected) -> None:
    found, expected = map(serialization.to_state_dict, (found, expected))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (np.asarray(a).dtype, np.shape(a)) == (np.asarray(b).dtype, np.shape(b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("before", NAMES)
@pytest.mark.parametrize("after", NAMES)
def test_every_format_becomes_every_other(before, after, sources, tmp_path):
    target = tmp_path / "new" / NAMES[after]
    done = convert(sources[before], target)
    assert done.kinds == (before, after) == (kind_of(sources[before]), kind_of(target))
    assert (done.step, done.leaves, done.size) == (
        5 if after == "step" else None,
        9,
        98,
    )
    is_lost = before == "step" != after
    assert any("metadata (a)" in note for note in done.notes) == is_lost
    if after == "step":
        found = open_checkpoint(target)
        assert found.metadata == ({"a": 1} if before == "step" else {})
        state = serialization.from_state_dict(make_state(), found.read(), strict=True)
        assert_same(state, make_state(5.0))
        return
    assert_same(
        checkpoints.restore_checkpoint(target, make_state(), strict=True),
        make_state(5.0),
    )
    expected = serialization.to_state_dict(make_state(5.0))
    if after == "msgpack":
        state = flax.serialization.msgpack_restore(target.read_bytes())
    else:
        state = flax.training.checkpoints.restore_checkpoint(target, expected)
    assert_same(state, expected)


def test_a_step_of_the_first_format_becomes_one_of_the_second(tmp_path):
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    old = tmp_path / "run" / "checkpoints" / "step_00000005"
    done = convert(old, tmp_path / "step_00000005")
    before, after = open_checkpoint(old), open_checkpoint(tmp_path / "step_00000005")
    assert (after.step, after.metadata) == (before.step, before.metadata)
    assert after.arrays == before.arrays and done.notes == ()
    assert_same(after.read(), before.read())
    assert not (tmp_path / "step_00000005" / "state").exists()


def test_nothing_is_overwritten(sources, tmp_path):
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(InputError, match="is there already"):
            convert(sources["step"], tmp_path / name, "msgpack")
    assert (tmp_path / "there").read_text() == "mine"


def test_what_was_written_otherwise_is_not_kept(sources, tmp_path, monkeypatch):
    write = conversion.write_contents

    def wrong(path, kind, contents):
        tree = {**contents.tree, "step": np.int32(6)}
        write(path, kind, dataclasses.replace(contents, tree=tree))

    monkeypatch.setattr(conversion, "write_contents", wrong)
    (tmp_path / "new").mkdir()
    for kind, name in NAMES.items():
        with pytest.raises(InputError, match="step: the value read back differs"):
            convert(sources["msgpack"], tmp_path / "new" / name, kind)
    assert os.listdir(tmp_path / "new") == []


def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path):
    tree = {
        "a": {"text": "x", "empty": np.ones((0, 2)), "raw": b"x"},
        "date": np.array(["2020-01-01"], "M8[D]"),
        "short": np.ones(2).astype(ml_dtypes.uint4),
    }
    source = tmp_path / "all.msgpack"
    source.write_bytes(serialization.to_bytes(tree))
    refused = {"step": "a/text a/raw date", "orbax": "a/empty a/raw date short"}
    for kind, names in refused.items():
        with pytest.raises(InputError) as caught:
            convert(source, tmp_path / "new", kind)
        assert [name in str(caught.value) for name in names.split()] == [True] * len(
            names.split()
        )
        assert str(caught.value).count("`") == 2 * len(names.split())
    assert convert(source, tmp_path / "new", "msgpack").leaves == 5


def test_what_changes_in_a_copy_is_noted(tmp_path):
    tree = {
        "step": 3,
        "rate": 0.5,
        "none": None,
        "key": np.uint8(3),
        "list": [np.ones(2), (np.zeros(1),)],
    }
    source = tmp_path / "a.msgpack"
    source.write_bytes(serialization.to_bytes(tree))
    done = convert(source, tmp_path / "a_step", "step")
    assert done.step == 0 and len(done.notes) == 2
    found = open_checkpoint(tmp_path / "a_step").read()
    assert (found["step"].dtype, found["rate"].dtype) == (np.int64, np.float64)
    assert found["none"] == {} and found["list"].keys() == {"0", "1"}


@pytest.mark.parametrize(
    ("source", "target", "options", "told"),
    [
        ("nothing", "a.msgpack", {}, "no such file or folder"),
        ("step_00000005", "a", {}, "the name does not say what to write"),
        ("step_00000005", "step_00000006", {}, "the name of another step"),
        ("x.msgpack", "step_00000006", {"step": 7}, "expected step 7"),
        (".", "a.msgpack", {}, "name one step of it: .*step_00000005"),
        ("a.safetensors", "a.msgpack", {}, "does not hold a tree"),
        ("broken.msgpack", "a.orbax", {}, "not a serialized tree"),
        ("twice.msgpack", "a.orbax", {}, "unique string representation"),
        ("list.msgpack", "a.orbax", {}, "its outermost value is not a dictionary"),
    ],
)
def test_what_cannot_be_converted_is_refused(source, target, options, told, sources):
    folder = sources["step"].parent
    safetensors.numpy.save_file({"x": np.ones(2)}, folder / "a.safetensors")
    (folder / "broken.msgpack").write_bytes(b"\x81")
    twice = serialization.msgpack_serialize({1: 1, "1": 1})
    (folder / "twice.msgpack").write_bytes(twice)
    (folder / "list.msgpack").write_bytes(serialization.msgpack_serialize(3))
    with pytest.raises(InputError, match=told):
        convert(folder / source, folder / target, **options)
    assert not (folder / target).exists()


# -- what is in a file ---------------------------------------------------------------


def test_every_kind_is_described_alike(sources):
    expected = describe(sources["step"])
    assert str(expected["params/b"]) == "bfloat16[3]" and len(expected) == 8
    for kind in ("orbax", "msgpack"):
        found = describe(sources[kind])
        # Empty containers are entries too.
        assert {k: v for k, v in found.items() if v != "nothing"} == expected


def test_files_of_safetensors_are_described(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"w": np.ones((2, 3), np.float16), "n": np.zeros((), np.int64)}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})
    assert {k: str(v) for k, v in describe(path).items()} == {
        "w": "float16[2,3]",
        "n": "int64[]",
    }
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    for header in (b'{"w": 3}', b'{"w": {}, "w": {}}', b"{" * 99,
                   good[8 : 8 + size].replace(b"20]", b"99]"),
                   good[8 : 8 + size].replace(b"[2,3]", b"[-2,3]")):  # fmt: skip
        path.write_bytes(len(header).to_bytes(8, "little") + header + good[8 + size :])
        with pytest.raises(InputError, match=r"a\.safetensors"):
            describe(path)


@pytest.mark.parametrize("make", ["mkfifo", "symlink"])
def test_what_is_no_regular_file_has_no_kind(make, tmp_path):
    path = tmp_path / "x"
    os.mkfifo(path) if make == "mkfifo" else path.symlink_to(GOLDEN)
    with pytest.raises(InputError, match="not a regular file|links are not followed"):
        kind_of(path)


# -- the commands --------------------------------------------------------------------


def test_the_command_says_what_it_did(sources, tmp_path, capsys):
    target = tmp_path / "out.msgpack"
    assert cli.main(["convert", str(sources["step"]), str(target)]) == 0
    assert capsys.readouterr().out == (
        f"read {sources['step']} (step)\n"
        f"wrote {target} (msgpack)\n"
        "read it back: 9 entries, 98 bytes, all hashes equal\n"
        "note: left out, since only a step holds it: metadata (a)\n"
    )
    assert cli.main(["convert", str(sources["step"]), str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
    command = ["convert", str(target), str(tmp_path / "x"), "--to", "step"]
    assert cli.main([*command, "--step", "9"]) == 0
    assert open_checkpoint(tmp_path / "x").step == 9


def test_inspect_lists_what_others_wrote(sources, capsys):
    for kind in ("orbax", "msgpack"):
        assert cli.main(["inspect", str(sources[kind])]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{sources[kind]}: {kind}, 9 entries"
        assert "  params/b  bfloat16[3]" in lines
