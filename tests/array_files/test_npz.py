"""Archives are read as NumPy reads them, or not at all."""

import io
import zipfile

import numpy as np
import pytest

from linsey._array_files.array_file import MAX_UNPACKED, read_npy
from linsey._array_files.npz import read_npz
from linsey.errors import DiskError, InputError

DTYPES = "?,i1,u1,<i2,>i2,<u4,>u8,<i8,<f2,<f4,>f4,<f8,<c8,<c16".split(",")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_those_that_numpy_reads(tmp_path, save, dtype):
    values = np.random.default_rng(0).integers(0, 100, 24).astype(dtype)
    arrays = {
        "c": values.reshape(2, 3, 4),
        "f": np.asfortranarray(values.reshape(4, 6)),
        "strided": values[::3],
        "scalar": values[5],
        "empty": values[:0].reshape(0, 7),
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz", tuple)
    with np.load(tmp_path / "a.npz") as expected:
        for name in arrays:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].flags.f_contiguous == expected[name].flags.f_contiguous


def test_the_header_of_any_writer_is_read(tmp_path):
    """Of format 2 and 3, with other spaces and order, with the numbers of Python 2."""
    headers = [
        b"\1\0\x4d\0{'shape': (2L, 3L), 'fortran_order': False, 'descr': '<f4'}",
        b"\2\0\x4d\0\0\0{'descr':\"<f4\",'fortran_order':False,'shape':(2,3)}",
        b"\3\0\x4d\0\0\0{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3,),}",
    ]
    values = np.arange(6, dtype="<f4")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, header in enumerate(headers):
            size = 4 if header[0] == 1 else 6
            padded = b"\x93NUMPY" + header.ljust(0x4D + size - 1) + b"\n"
            archive.writestr(f"{name}.npy", padded + values.tobytes())
    for array in read_npz(tmp_path / "a.npz", tuple).values():
        np.testing.assert_array_equal(array, values.reshape(2, 3))


def test_only_the_arrays_that_are_chosen_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
        archive.writestr("x.npy", npy(np.ones(3)))
    found = read_npz(tmp_path / "a.npz", lambda names: ("x",))
    assert list(found) == ["x"]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["<U3", ">U3", "S9"])
def test_text_is_read_where_labels_may_be(tmp_path, dtype):
    text = np.array(["cat", "dog"] * 3, dtype).reshape(2, 3)
    np.savez(tmp_path / "a.npz", x=np.ones(2), y=text)
    found = read_npz(tmp_path / "a.npz", tuple, lambda key: key == "y")
    np.testing.assert_array_equal(found["y"], text)
    np.save(tmp_path / "y.npy", text)
    np.testing.assert_array_equal(read_npy(tmp_path / "y.npy", True), text)
    with pytest.raises(InputError, match="y: not numbers: expected real numbers, fo"):
        read_npz(tmp_path / "a.npz", tuple)


@pytest.mark.parametrize(
    ("dtype", "most"), [("U256", "255 characters"), ("S1021", "1,020 bytes")]
)
def test_long_labels_are_refused_before_they_are_read(tmp_path, dtype, most):
    np.savez(tmp_path / "a.npz", y=np.zeros(3, dtype))
    with pytest.raises(
        InputError, match=f"y: labels too long: expected at most {most}"
    ):
        read_npz(tmp_path / "a.npz", tuple, lambda key: True)


def test_what_is_no_array_is_told_in_a_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", "import os")
    with pytest.raises(InputError) as caught:
        read_npz(tmp_path / "a.npz", tuple)
    assert str(caught.value) == (
        f"{tmp_path}/a.npz: x: not an array of NumPy: found 'import os' (numpy.save "
        "and numpy.savez write arrays)"
    )
    np.savez(tmp_path / "a.npz", x=np.ones(2))  # what the hint says
    assert list(read_npz(tmp_path / "a.npz", tuple)) == ["x"]


def test_what_is_packed_too_well_can_be_saved_without_packing(tmp_path):
    zeros = np.zeros(MAX_UNPACKED + 1, np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=zeros)
    with pytest.raises(InputError, match="numpy.savez, which does not compress"):
        read_npz(tmp_path / "a.npz", tuple)
    np.savez(tmp_path / "a.npz", x=zeros)
    assert read_npz(tmp_path / "a.npz", tuple)["x"].nbytes == zeros.nbytes


def test_a_disk_that_refuses_is_no_damage(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.ones(2))

    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(DiskError, match="EIO"):
        read_npz(tmp_path / "a.npz", tuple)
