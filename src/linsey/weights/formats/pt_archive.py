"""Files of `torch.save`: zip archives with a pickle, and a member for each storage.

torch is not needed, and the pickle is not executed: `pt_pickle` reads it as data. Names
are only used to find members of the archive, and never as names of files.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

from linsey._array_files.archive import Archive, open_archive
from linsey._array_files.array_file import fill
from linsey.errors import InputError
from linsey.files import parsing
from linsey.weights.formats import names, pt_pickle
from linsey.weights.formats.kinds import AGAIN
from linsey.weights.formats.pt_pickle import Rebuilt
from linsey.weights.formats.pt_tensors import Tensor, tensor_of

PICKLE = "data.pkl"
MAX_PICKLE = 16 * 2**20
"""The largest size of the pickle in bytes, enough for about 60,000 tensors."""
_PROBLEM = "not a readable file of `torch.save`"


def read_pt(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a file of `torch.save`.

    Args:
        path: the file, written by PyTorch 1.6 or later.

    Returns:
        Read-only arrays by name. Tensors that share a storage share memory.

    Raises:
        InputError: the file has another format, is damaged, or holds something else.
        DiskError: a disk operation failed.
    """
    with open_archive(path, _PROBLEM) as archive:
        reader = _Reader(archive)
        content = reader.member(reader.root + PICKLE, MAX_PICKLE).tobytes()
        chosen = _chosen(pt_pickle.parse(content, path, PICKLE), path)
        tensors = {name: tensor_of(each, path, name) for name, each in chosen.items()}
        hint = "save tensors that do not repeat their items: `tensor.clone()`"
        archive.check_total(sum(each.nbytes for each in tensors.values()), hint)
        return {name: reader.array(name, each) for name, each in tensors.items()}


def _chosen(found: object, path: Path) -> dict[str, Rebuilt]:
    """Return the tensors by name; of a checkpoint, only those of its state dict.

    A checkpoint here is a dictionary with exactly one state dict, and no other tensors
    except single numbers.
    """
    if not isinstance(found, dict):
        hint = 'save a dictionary of tensors, such as `{"weight": tensor}`'
        kind = "a tensor" if _is_tensor(found) else type(found).__name__
        raise InputError(
            "not a dictionary of tensors", file=path, found=kind, hint=hint
        )
    # Look at each object only once, as the same one may occur very often.
    values = {id(value): value for value in found.values()}.values()
    inner = [value for value in values if _is_state_dict(value)]
    beside = [value for value in values if isinstance(value, Rebuilt)]
    if len(inner) == 1 and not any(map(_has_items, beside)):
        found = inner[0]
    # The names in a flat file are not escaped.
    spelled = str if _is_state_dict(found) else names.escape
    return names.flat(found, _is_tensor, path, spelled)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Rebuilt)


def _is_state_dict(value: object) -> bool:
    """Tell whether a value is a dictionary with tensors and without containers."""
    values = value.values() if isinstance(value, dict) else ()
    return any(map(_is_tensor, values)) and not any(
        isinstance(each, dict | list | tuple) for each in values
    )


def _has_items(rebuilt: Rebuilt) -> bool:
    """Tell whether a tensor is more than a number, such as the best accuracy."""
    shape = rebuilt.arguments[2] if len(rebuilt.arguments) > 2 else None
    return not (isinstance(shape, tuple) and all(n == 1 for n in shape))


class _Reader:
    """Reads whole members of an archive, which must have the expected size."""

    def __init__(self, archive: Archive) -> None:
        self.archive, self.path = archive, archive.path
        self.storages: dict[tuple[str, int], np.ndarray] = {}
        self.root = self._only_folder()
        self.swaps = self._has_other_byte_order()

    def _only_folder(self) -> str:
        """Check the list of members; return the folder that contains all of them."""
        for name in self.archive.members:
            if "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
                raise self.wrong("not the name of a member", name)
        total = sum(info.compress_size for info in self.archive.members.values())
        if total > self.archive.size:
            expected = f"at most {self.archive.size:,} bytes"
            raise self.wrong("members that overlap", None, expected, f"{total:,}")
        roots = {name.partition("/")[0] for name in self.archive.members}
        root = f"{roots.pop()}/" if len(roots) == 1 else ""
        if root + PICKLE not in self.archive.members:
            expected = f"one folder with `{PICKLE}` in it"
            raise self.wrong("not an archive of `torch.save`", None, expected)
        return root

    def _has_other_byte_order(self) -> bool:
        name = f"{self.root}byteorder"
        if name not in self.archive.members:
            return False
        order = self.member(name, 6).tobytes()
        if order not in (b"little", b"big"):
            raise self.wrong("not a byte order", name, "little or big", order)
        return order.decode() != sys.byteorder

    def wrong(
        self,
        problem: str,
        key: str | None,
        expected: object = None,
        found: object = None,
        hint: str = AGAIN,
    ) -> InputError:
        """Return an error about a member or an array."""
        return InputError(
            problem, file=self.path, key=key, expected=expected, found=found, hint=hint
        )

    def member(self, name: str, most: int) -> np.ndarray:
        """Return the bytes of a member, of which there may be at most `most`."""
        info = self.archive.members.get(name)
        if info is None:
            raise self.wrong("the member is missing", name)
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED:
            hint = "save it with `torch.save`, which does not compress"
            raise self.wrong("packed as PyTorch does not pack", name, hint=hint)
        size = info.file_size
        if size > most or size != info.compress_size:
            expected = f"at most {min(most, info.compress_size):,} bytes"
            raise self.wrong("the member is too large", name, expected, f"{size:,}")
        raw = np.empty(size, np.uint8)
        with parsing(self.path, "the member cannot be read", name):
            with self.archive.file.open(info) as file:
                if not fill(raw, file):
                    raise self.wrong("the member ends early", name)
        return raw

    def array(self, name: str, tensor: Tensor) -> np.ndarray:
        """Return the array of a tensor."""
        # Bytes are swapped in each number, and a complex number has two.
        parts = 2 if tensor.dtype.kind == "c" else 1
        width = tensor.dtype.itemsize // parts if self.swaps else 1
        member = f"{self.root}data/{tensor.storage}"
        key = tensor.storage, width
        if key not in self.storages:
            raw = self.member(member, self.archive.size)
            if width > 1:
                with parsing(self.path, "not whole numbers of bytes", member):
                    raw = raw.reshape(-1, width)[:, ::-1].reshape(-1)
            self.storages[key] = raw
        if (size := self.storages[key].size) != tensor.stored:
            problem = f"its storage `{member}` has another size"
            expected = f"{tensor.stored:,} bytes"
            raise self.wrong(problem, name, expected, f"{size:,}")
        return tensor.of(self.storages[key])
