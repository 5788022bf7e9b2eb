"""Files of `torch.save` are read as torch reads them, and written so that it does."""

from __future__ import annotations

import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from linsey.errors import InputError
from linsey.weights import read, write
from tests.weights.formats.pt_files import (
    HOOKS,
    ITEMS,
    call,
    name,
    number,
    program,
    row,
    save,
    save_value,
    storage,
    table,
    tensor,
    text,
)

PARAMETER = name("torch._utils", "_rebuild_parameter")
LATER = name("torch._utils", "_rebuild_tensor_v3")
GRID = ITEMS.reshape(3, 4)


def read_one(path: Path, value: bytes, **options) -> np.ndarray:
    save_value(path / "a.pt", value, **options)
    return read(path / "a.pt")["w"]


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (3, 4), (4, 1), GRID),
        (0, (4, 3), (1, 4), GRID.T),
        (5, (2, 2), (4, 2), GRID[1:, 1::2]),
        (2, (5, 3), (0, 4), np.broadcast_to(GRID[:, 2], (5, 3))),
        (3, (4, 3), (2, 1), np.array([ITEMS[i : i + 3] for i in (3, 5, 7, 9)])),
        (11, (), (), ITEMS[11]),
        (0, (0, 3), (3, 1), np.zeros((0, 3), "f4")),
        (11, (1, 1), (2**62, 7), ITEMS[11:].reshape(1, 1)),
    ],
    ids="whole transposed slice expanded overlapping scalar empty stride".split(),
)
def test_strides_are_those_of_the_file(tmp_path, offset, shape, strides, expected):
    found = read_one(tmp_path, tensor(None, offset, shape, strides))
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Double", "f8"), ("Half", "f2"), ("Long", "i8"), ("Int", "i4"), ("Short", "i2"),
     ("Char", "i1"), ("Byte", "u1"), ("Bool", "?"), ("BFloat16", ml_dtypes.bfloat16),
     ("ComplexFloat", "c8"), ("ComplexDouble", "c16")],
)  # fmt: skip
@pytest.mark.parametrize("order", [b"little", b"big"])
def test_dtypes_of_storages_in_both_byte_orders(tmp_path, kind, dtype, order):
    expected = np.arange(12).astype(dtype)
    items = expected if order == b"little" else expected.byteswap()
    value = tensor(storage(name("torch", f"{kind}Storage")))
    found = read_one(tmp_path, value, storages={"0": items.tobytes()}, order=order)
    assert found.dtype == expected.dtype and found.dtype.isnative
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
)
def test_dtypes_that_torch_got_later(tmp_path, dtype):
    expected = np.arange(12).astype(getattr(ml_dtypes, dtype, dtype))
    untyped = storage(
        name("torch.storage", "UntypedStorage"), count=number(expected.nbytes)
    )
    value = tensor(untyped, more=[name("torch", dtype)], function=LATER)
    found = read_one(tmp_path, value, storages={"0": expected.tobytes()})
    assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def test_tied_weights_share_memory(tmp_path):
    pairs = b"}(" + text("a") + tensor() + b"q\0" + text("b") + b"h\0"
    save(
        tmp_path / "a.pt",
        program(pairs + text("c") + tensor(offset=4, shape=(2, 4)) + b"u"),
    )
    found = read(tmp_path / "a.pt")
    assert np.shares_memory(found["a"], found["b"])
    assert np.shares_memory(found["a"], found["c"])
    write(tmp_path / "b.pt", found)
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        stored = [n for n in archive.namelist() if "/data/" in n]
    assert stored == ["archive/data/0", "archive/data/1"]


def test_the_versions_of_modules_are_passed_over(tmp_path):
    versions = HOOKS + b"(" + text("") + table({"version": number(1)}) + b"u"
    value = HOOKS + b"(" + text("w") + tensor() + b"u" + table({"_metadata": versions})
    save(tmp_path / "a.pt", program(value + b"b"))
    assert list(read(tmp_path / "a.pt")) == ["w"]


STATE = table({"conv.weight": tensor(), "a/b": tensor()})
CHECKPOINTS = {
    "a state dict": (STATE, ["conv.weight", "a/b"]),
    "a state dict and numbers": (
        table({"state_dict": STATE, "epoch": number(3), "arch": text("resnet18")}),
        ["conv.weight", "a/b"],
    ),
    "the best accuracy beside": (
        table({"model": STATE, "best": tensor(shape=(1,), strides=(1,))}),
        ["conv.weight", "a/b"],
    ),
    "the state of an optimizer": (
        table(
            {
                "model": STATE,
                "optimizer": table(
                    {"state": b"}(" + number(0) + table({"mu": tensor()}) + b"u",
                     "param_groups": b"]" + table({"lr": b"G" + bytes(8)}) + b"a"}
                ),
            }
        ),
        ["conv.weight", "a/b"],
    ),
    "two state dicts": (
        table({"model": STATE, "ema": table({"w": tensor()})}),
        ["model/conv.weight", "model/a~1b", "ema/w"],
    ),
    "arrays beside": (
        table({"w": tensor(), "rest": table({"b": tensor()})}), ["w", "rest/b"],
    ),
    "lists": (
        table({"layers": b"](" + table({"w": tensor()}) + row(tensor()) + b"e"}),
        ["layers/0/w", "layers/1/0"],
    ),
    "parameters": (
        table({"w": call(PARAMETER, tensor(), b"\x88", HOOKS)}), ["w"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_names_in_a_checkpoint(case, tmp_path):
    value, expected = CHECKPOINTS[case]
    save(tmp_path / "a.pt", program(value))
    assert list(read(tmp_path / "a.pt")) == expected


def test_any_folder_in_the_archive_and_no_byte_order_will_do(tmp_path):
    save_value(tmp_path / "a.pt", tensor(), root="resnet18-f37072fd", order=None)
    np.testing.assert_array_equal(read(tmp_path / "a.pt")["w"], GRID)


def test_a_storage_that_is_missing_is_named(tmp_path):
    save_value(tmp_path / "a.pt", tensor(), storages={"1": b""})
    with pytest.raises(InputError, match=r"archive/data/0: the member is missing"):
        read(tmp_path / "a.pt")


# -- torch ---------------------------------------------------------------------------


def as_numpy(value) -> np.ndarray:
    """An array of a tensor of any dtype, bit by bit."""
    torch = pytest.importorskip("torch")
    value = value.detach()
    dtype = str(value.dtype).removeprefix("torch.")
    flat = value.contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    array = raw.view(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    return array.reshape(tuple(value.shape))


def flattened(value, above: str = ""):
    """Names and tensors as `read` gives them, where all dictionaries are kept."""
    torch = pytest.importorskip("torch")
    if isinstance(value, torch.Tensor):
        yield above, value
    elif isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from flattened(item, f"{above}/{key}" if above else str(key))


def torch_files() -> dict[str, object]:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    x = torch.randn(6, 8)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2),
        nn.LSTM(4, 3, 2), nn.MultiheadAttention(4, 2), nn.Embedding(5, 4),
    )  # fmt: skip
    tied = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})
    tied["decoder"].weight = tied["encoder"].weight
    optimizer = torch.optim.Adam(net.parameters())
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    plain = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
             torch.float16, torch.float32, torch.float64, torch.bfloat16,
             torch.complex64, torch.complex128]  # fmt: skip
    later = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz",
             "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]  # fmt: skip
    later = [getattr(torch, dtype) for dtype in later if hasattr(torch, dtype)]
    return {
        "modules": net.state_dict(),
        "tied": tied.state_dict(),
        "dtypes": {str(d): (x * 9).abs().to(d) for d in plain},
        "later dtypes": {str(d): (x * 9).abs().to(d) for d in later},
        "not finite": {"w": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])},
        "strided": {"t": x.T, "s": x[1::2, ::3], "e": x[:1].expand(5, 8), "w": x,
                    "u": x.flatten().unfold(0, 5, 2), "d": x.diagonal(),
                    "p": torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2)},
        "channels last": {"w": torch.randn(2, 3, 4, 5).to(
            memory_format=torch.channels_last)},
        "shapes": {"0": torch.tensor(3.5), "e": torch.zeros(0),
                   "f": torch.zeros(2, 0, 3), "o": torch.ones(1, 1, 1),
                   "n": torch.tensor(7)},
        "parameters": {"p": nn.Parameter(x),
                       "f": nn.Parameter(x[0], requires_grad=False)},
        "optimizer": {"model": net.state_dict(), "ema": net.state_dict(),
                      "optimizer": optimizer.state_dict(), "epoch": 3, "loss": 0.5,
                      "scheduler": scheduler.state_dict(), "name": "net", "best": None},
        "lists": {"groups": [{"w": x}, (x[0], {"b": x[1]})], "size": x.shape},
        "large numbers": {"w": x, "n": {"a": 2**40, "b": -1, "c": 2**70, "d": 300}},
    }  # fmt: skip


FILES = ("modules", "tied", "dtypes", "later dtypes", "not finite", "strided",
         "channels last", "shapes", "parameters", "optimizer", "lists",
         "large numbers")  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_read_as_torch_reads_it(case, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    torch.save(torch_files()[case], path)
    expected = dict(flattened(torch.load(path, weights_only=True)))
    found = read(path)
    assert list(found) == list(expected)
    for key, value in expected.items():
        array = as_numpy(value)
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
        assert found[key].tobytes() == array.tobytes(), key


def test_a_file_of_another_byte_order_is_read_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    items = np.arange(12, dtype=">f4").tobytes()
    save_value(path, tensor(), storages={"0": items}, order=b"big",
               more={"archive/version": b"3\n"})  # fmt: skip
    expected = torch.load(path, weights_only=True)["w"]
    np.testing.assert_array_equal(read(path)["w"], as_numpy(expected))


@pytest.mark.parametrize("case", FILES)
def test_torch_reads_what_is_written(case, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    torch.save(torch_files()[case], path)
    arrays = read(path)
    write(tmp_path / "b.pt", arrays)
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(again) == list(arrays)
    for key, array in arrays.items():
        found = as_numpy(again[key])
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


def test_torch_sees_tied_weights_in_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch_files()["tied"], tmp_path / "a.pt")
    write(tmp_path / "b.pt", read(tmp_path / "a.pt"))
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    assert found["encoder.weight"].data_ptr() == found["decoder.weight"].data_ptr()


def test_files_of_older_formats_say_how_to_save_them_anew(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"before 1.6.*torch.save\(model.state_dict"):
        read(path)
    torch.save(torch.load(path, weights_only=True), path)
    assert list(read(path)) == ["w"]


def test_a_whole_model_is_refused_by_its_name(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=r"found torch.nn.modules.linear.Linear \(load"
    ):
        read(tmp_path / "a.pt")
