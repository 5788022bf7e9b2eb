import pytest

from linsey.checkpoint import manifest
from linsey.errors import InputError


def test_missing_added_and_strange_files_are_refused(store):
    folder = store.path(7)
    victim = folder / "state" / "_METADATA"
    content = victim.read_bytes()
    victim.unlink()
    with pytest.raises(InputError, match="is missing"):
        store.open(7)
    victim.write_bytes(content[:-1])
    with pytest.raises(InputError, match="not the one that was written"):
        store.open(7)
    victim.write_bytes(content)
    extra = folder / "state" / "extra"
    extra.write_bytes(b"")
    with pytest.raises(InputError, match="not in the manifest"):
        store.open(7)
    extra.unlink()
    extra.symlink_to(victim)
    with pytest.raises(InputError, match="not a regular file"):
        store.open(7)
    extra.unlink()
    (folder / manifest.NAME).unlink()
    with pytest.raises(InputError, match="no manifest"):
        store.open(7)


def test_manifest_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 99)
    manifest.write_manifest(tmp_path, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="another format: expected 1, found 99"):
        manifest.verify_manifest(tmp_path)
