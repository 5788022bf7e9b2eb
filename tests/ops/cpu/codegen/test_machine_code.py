"""Machine code on disk: what it is found by, and what is never loaded."""

from __future__ import annotations

import importlib
from pathlib import Path

import jax.numpy as jnp
import pytest

from linsey.ops.cpu import channel_kernels, dispatch
from tests.ops.cpu.kernels import in_new_process

if not dispatch.kernels_usable():
    pytest.skip("needs numba and Linux", allow_module_level=True)

from linsey.ops.cpu.codegen import machine_code

CODE = b"object code"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders for machine code, of which the first comes first."""
    found = [tmp_path / "package", tmp_path / "home"]
    monkeypatch.setattr(machine_code, "_folders", lambda: iter(found))
    return found


def test_modules_lists_the_kernels_of_each():
    for module, targets in machine_code.MODULES.items():
        kernels = importlib.import_module(f"linsey.ops.cpu.codegen.{module}").KERNELS
        assert tuple(kernel.target for kernel in kernels) == targets


def test_what_is_kept_is_read_again(folders):
    assert machine_code._read("channels") is None
    machine_code._keep("channels", CODE)
    assert machine_code._read("channels") == CODE
    assert machine_code._read("convolution") is None
    assert [path.parent for path in folders[0].parent.glob("*/*")] == [folders[0]]


def test_a_folder_that_takes_no_files_is_left_for_the_next(folders):
    folders[0].write_bytes(b"a file")
    machine_code._keep("channels", CODE)
    assert machine_code._read("channels") == CODE and [*folders[1].iterdir()]
    folders[1] = folders[0] / "below a file"
    machine_code._keep("channels", CODE)  # nowhere: not kept, and no error
    assert machine_code._read("channels") is None


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_not_loaded(folders, damage):
    machine_code._keep("channels", CODE)
    (path,) = folders[0].iterdir()
    whole = path.read_bytes()
    changed = bytes([*whole[:-1], whole[-1] ^ 1])
    path.write_bytes({"cut": whole[:-1], "changed": changed, "empty": b""}[damage])
    assert machine_code._read("channels") is None
    machine_code._keep("channels", CODE)
    assert machine_code._read("channels") == CODE


@pytest.mark.parametrize(
    "owner, name, other",
    [
        (machine_code.llvmlite, "__version__", "9.9"),
        (machine_code.binding, "get_host_cpu_name", lambda: "another"),
        (machine_code.Path, "read_bytes", lambda path: b"another source"),
    ],
)
def test_code_of_another_origin_has_another_name(monkeypatch, owner, name, other):
    here = machine_code._origin.__wrapped__()
    assert here == machine_code._origin.__wrapped__()
    monkeypatch.setattr(owner, name, other)
    assert machine_code._origin.__wrapped__() != here


PROGRAM = """
import sys
import jax.numpy as jnp
from linsey.ops.cpu import channel_kernels as channels, dispatch
assert dispatch._load("channels")
x = jnp.arange(2**17, dtype="float32").reshape(-1, 64) % 7
print(*(float(v.sum()) for v in channels.channel_moments(x, x[0])))
print("numba" in sys.modules)
"""


def test_machine_code_that_is_kept_needs_no_numba():
    assert dispatch._load("channels")  # and it is kept from now on
    sums, numba = in_new_process(PROGRAM)
    x = jnp.arange(2**17, dtype="float32").reshape(-1, 64) % 7
    first, second = channel_kernels._moments(x, x[0], jnp.ones(64))
    assert sums == f"{float(first.sum())} {float(second.sum())}"
    assert numba == "False"


@pytest.mark.slow
def test_a_new_folder_is_filled_once(tmp_path):
    folders = dict.fromkeys(("PYTHONPYCACHEPREFIX", "XDG_CACHE_HOME"), str(tmp_path))
    results = [in_new_process(PROGRAM, **folders) for _ in range(2)]
    assert results[0][0] == results[1][0]
    assert [result[1] for result in results] == ["True", "False"]
    (kept,) = Path(tmp_path).rglob("channels-*.o")
    assert kept.stat().st_mode & 0o777 == 0o644
