import json

import pytest

from linsey.checkpoint import manifest
from linsey.errors import InputError
from tests.checkpoint.steps import DATA, reseal


def test_missing_added_and_strange_files_are_refused(store):
    folder = store.path(7)
    victim = folder / DATA
    content = victim.read_bytes()
    victim.unlink()
    with pytest.raises(InputError, match="is missing"):
        store.open(7)
    victim.write_bytes(content[:-1])
    with pytest.raises(InputError, match="not the one that was written"):
        store.open(7)
    victim.write_bytes(content)
    extra = folder / "extra"
    extra.write_bytes(b"")
    with pytest.raises(InputError, match="not in the manifest"):
        store.open(7)
    extra.unlink()
    victim.rename(store.folder / "elsewhere")
    victim.symlink_to(store.folder / "elsewhere")
    with pytest.raises(InputError, match="links are not followed"):
        store.open(7)
    (folder / manifest.NAME).unlink()
    with pytest.raises(InputError, match="no manifest"):
        store.open(7)


def test_manifest_of_another_format_is_refused(store):
    reseal(store.path(7), lambda record: record | {"format": 99})
    with pytest.raises(InputError, match="another format: expected 1 or 2, found 99"):
        store.open(7)


def change(record: dict, path: str, **entries: object) -> dict:
    record["arrays"][path] |= entries
    return record


def with_piece(record: dict, **entries: object) -> dict:
    record["arrays"]["noise"]["pieces"][0] |= entries
    return record


CHANGES = {
    "step -1": (lambda r: r | {"step": -1}, "step: out of range"),
    "no step": (lambda r: {k: v for k, v in r.items() if k != "step"}, "is missing"),
    "unknown": (lambda r: r | {"x": 1}, "x: an unknown entry"),
    "file outside": (
        lambda r: r | {"files": {"../x": next(iter(r["files"].values()))}},
        "not the name of a file",
    ),
    "hash": (lambda r: with_piece(r, sha256="0" * 63), "a SHA-256"),
    "other file": (lambda r: with_piece(r, file="/etc/passwd"), "belongs nowhere"),
    "out of range": (lambda r: with_piece(r, slice=[[0, 3]]), "belongs nowhere"),
    "backwards": (lambda r: with_piece(r, slice=[[2, 0]]), "belongs nowhere"),
    "rank": (lambda r: with_piece(r, slice=[]), "belongs nowhere"),
    "gap": (lambda r: with_piece(r, slice=[[0, 1]]), "gaps or overlaps"),
    "no piece": (lambda r: change(r, "noise", pieces=[]), "pieces: out of range"),
    "33 axes": (lambda r: change(r, "noise", shape=[1] * 33), "shape: out of range"),
    "huge": (lambda r: change(r, "noise", shape=[2**40, 2]), "too large"),
    "huge, empty": (lambda r: change(r, "noise", shape=[0, 2**40, 2]), "too large"),
    "dtype": (lambda r: change(r, "noise", dtype="object"), "not known here"),
    "stored": (lambda r: change(r, "noise", stored="F32"), "not known here"),
    "other dtype": (
        lambda r: change(r, "noise", dtype="int32", stored="I32"), "do not agree",
    ),
    "path below an array": (
        lambda r: r | {"arrays": r["arrays"] | {"noise/x": r["arrays"]["noise"]}},
        "noise/x: a path that excludes another",
    ),
    "array gone": (
        lambda r: r | {"arrays": r["arrays"].pop("noise") and r["arrays"]},
        "noise: the file and the manifest hold other arrays",
    ),
    "escape": (
        lambda r: r | {"arrays": r["arrays"] | {"a~b": r["arrays"]["noise"]}},
        "a~b: not a path of keys",
    ),
    "deep": (
        lambda r: r | {"arrays": r["arrays"] | {"a/" * 200: r["arrays"]["noise"]}},
        "too long",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_sealed_manifest_says_is_not_believed(store, name):
    change, told = CHANGES[name]
    reseal(store.path(7), change)
    with pytest.raises(InputError, match=told):
        store.open(7)


def test_the_manifest_is_json(store):
    record = json.loads((store.path(7) / manifest.NAME).read_bytes())
    assert record["format"] == 2
    assert record["arrays"]["params/half"]["stored"] == "BF16"
