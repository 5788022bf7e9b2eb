from pathlib import Path

import numpy as np
import pytest

from linsey.app.config import DataOptions
from linsey.app.readers import load
from linsey.errors import InputError


def save(path: Path, **arrays) -> DataOptions:
    np.savez(path, **arrays)
    return DataOptions(data=str(path))


def test_npz_with_parts_keeps_them(tmp_path):
    x, y = np.arange(24.0).reshape(12, 2), np.arange(12) % 3
    options = save(
        tmp_path / "a.npz", x_train=x[:9], y_train=y[:9], x_test=x[9:], y_test=y[9:]
    )
    data = load(options)
    np.testing.assert_array_equal(data.x_test, x[9:])
    np.testing.assert_array_equal(data.y_train, y[:9])
    assert data.class_names == ("0", "1", "2")
    assert data.y_train.dtype == np.int32


def test_npz_without_parts_is_split(tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    data = load(save(tmp_path / "a.npz", x=x, y=y))
    assert len(data.y_train) == 16
    assert np.bincount(data.y_test).tolist() == [2, 2]
    rows = {tuple(row) for row in np.concatenate([data.x_train, data.x_test])}
    assert len(rows) == 20


def test_grey_images_get_a_channel(tmp_path):
    x = np.zeros((10, 4, 5), np.uint8)
    assert load(save(tmp_path / "a.npz", x=x, y=np.arange(10) % 2)).shape == (4, 5, 1)


def test_split_of_digits_is_the_same_for_ever_and_another_for_another_seed():
    digest = load(DataOptions()).digest()
    assert digest == load(DataOptions(classes=10)).digest()
    assert digest.startswith("985d0c36")
    assert digest != load(DataOptions(split_seed=1)).digest()


X, Y = np.zeros((10, 3), np.float32), np.arange(10) % 2


def broken(array: np.ndarray, index: object, value: object) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"a": X}, "arrays are missing: expected x, y or x_train, .*, found a"),
        ({"x": broken(X, (3, 1), np.nan), "y": Y}, r"x\[3, 1\]: not a finite .*nan"),
        ({"x": broken(X, (0, 2), np.inf), "y": Y}, r"x\[0, 2\]: not a finite .*inf"),
        ({"x": X.astype(complex), "y": Y}, "x: not numbers: .*complex128"),
        ({"x": X[:, 0], "y": Y}, r"x: wrong shape: expected \(examples, features\)"),
        ({"x": np.zeros((10, 0)), "y": Y}, "x: wrong shape"),
        ({"X": np.zeros((10, 3, 9, 9)), "y": Y}, r"X: channels .*X.transpose\(0, 2,"),
        ({"x": X, "y": Y[:9]}, "y: as many labels .* expected 10 labels, found 9"),
        ({"x": X, "y": Y * 0}, "y: only one class"),
        ({"x": X[:2], "y": Y[:2]}, "no examples to test on: found 2 to train on"),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": broken(Y, 7, 5)},
            r"y_test\[7\]: label out of range: expected 0 to 1, found 5",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y},
            r"x_test: examples of another shape: expected \(3,\), found \(2,\)",
        ),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(tmp_path, arrays, error):
    options = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=error) as caught:
        load(options)
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a readable npz file"):
        load(DataOptions(data=str(path)))
    np.savez(path, x=np.array([{}, {}]), y=np.arange(2))  # pickled objects
    with pytest.raises(InputError, match="x: the array holds Python objects"):
        load(DataOptions(data=str(path)))
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not a readable npz file"):
        load(DataOptions(data=str(path)))
    with pytest.raises(InputError, match="data of an unknown kind"):
        (tmp_path / "a.txt").write_text("1,2")
        load(DataOptions(data=str(tmp_path / "a.txt")))


NAMES = ["x y", "X Y", "data target", "images labels", "x labels"]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("form", ["{}", "{}_train {}_test", "train_{} test_{}",
                                  "{}_train {}_val", "{}_train {}_valid"])  # fmt: skip
def test_arrays_have_their_usual_names(tmp_path, names, form):
    x, y = np.arange(60.0).reshape(20, 3), np.arange(20) % 2
    arrays = {}
    for name, array in zip(names.split(), (x, y), strict=True):
        for part, key in enumerate(form.format(name, name).split()):
            arrays[key] = array[:12] if part == 0 and " " in form else array[-8:]
            if " " not in form:
                arrays[key] = array
    data = load(save(tmp_path / "a.npz", **arrays))
    if " " in form:
        np.testing.assert_array_equal(data.x_train, x[:12])
        np.testing.assert_array_equal(data.y_test, y[-8:])
    else:
        assert len(data.x_train) == 16 and np.bincount(data.y_test).tolist() == [2, 2]


def test_a_validation_part_beside_a_test_part_chooses_the_best_step(tmp_path):
    parts = {f"x_{part}": X + i for i, part in enumerate(("train", "val", "test"))}
    parts |= {f"y_{part}": Y for part in ("train", "val", "test")}
    data = load(save(tmp_path / "a.npz", **parts))
    assert data.x_test[0, 0] == 2
    assert data.validation is not None
    assert data.validation[0][0, 0] == 1 and data.watched == "validation"
    assert data.notes == ()


def test_splitting_gives_the_rows_of_the_public_split(tmp_path, monkeypatch):
    from linsey import datasets
    from linsey.app import dataset

    monkeypatch.setattr(dataset, "_BLOCK", 40)  # bytes: several blocks
    random = np.random.default_rng(3)
    x, y = random.normal(size=(50, 2)), random.integers(0, 3, 50)
    expected = datasets.split(x.copy(), y, 0.3, 5)
    for array in (x.copy(), np.asfortranarray(x)):
        for one, other in zip(
            dataset.hold_out(array, y, 0.3, 5), expected, strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_a_pair_of_npy_files_is_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(30.0).reshape(10, 3))
    np.save(tmp_path / "y.npy", np.array(["b", "a"] * 5))
    for path in (tmp_path, tmp_path / "x.npy", tmp_path / "y.npy"):
        data = load(DataOptions(data=str(path)))
        assert data.class_names == ("a", "b")
        assert len(data.x_train) == 8


def test_npy_files_of_parts_stand_beside_a_pair(tmp_path):
    for name in ("x", "y", "X_train", "y_train", "x_test", "y_test", "other"):
        size = 6 if name.endswith("train") else 4 if name.endswith("test") else 10
        np.save(tmp_path / f"{name}.npy", X[:size] if name[0] in "xX" else Y[:size])
    data = load(DataOptions(data=str(tmp_path / "X_train.npy")))
    assert (len(data.x_train), len(data.x_test)) == (6, 4)
    assert len(load(DataOptions(data=str(tmp_path / "x.npy"))).x_train) == 8
    with pytest.raises(InputError, match="other.npy: no array with labels") as caught:
        load(DataOptions(data=str(tmp_path / "other.npy")))
    assert caught.value.hint == "name x.npy to learn from x.npy and y.npy"
    (tmp_path / "y.npy").unlink()
    with pytest.raises(InputError, match="x.npy: arrays are missing: expected x, y or"):
        load(DataOptions(data=str(tmp_path / "x.npy")))


def test_npy_files_are_trusted_no_more_than_archives(tmp_path):
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "x.npy", np.array([{}] * 10))
    options = DataOptions(data=str(tmp_path / "x.npy"))
    with pytest.raises(InputError, match="x.npy: the array holds Python objects"):
        load(options)
    np.save(tmp_path / "x.npy", X)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-1])
    with pytest.raises(InputError, match="x.npy: the data are not as large"):
        load(options)
    (tmp_path / "x.npy").unlink()
    (tmp_path / "x.npy").symlink_to(tmp_path / "y.npy")
    with pytest.raises(InputError, match="a link, and links are not followed"):
        load(options)


@pytest.mark.parametrize("fraction", [0.2, 0.9])
def test_data_that_cannot_be_split_so_are_refused_with_a_hint_that_works(
    tmp_path, fraction
):
    np.savez(tmp_path / "a.npz", x=X[:4], y=[0, 0, 1, 1])
    data = str(tmp_path / "a.npz")
    with pytest.raises(
        InputError, match="no examples to t(est|rain) on: found 4"
    ) as err:
        load(DataOptions(data=data, test_fraction=fraction))
    assert err.value.hint == "--test-fraction 0.5 holds out half of each class"
    assert len(load(DataOptions(data=data, test_fraction=0.5)).x_test) == 2
    np.savez(tmp_path / "a.npz", x=X[:2], y=Y[:2])
    with pytest.raises(InputError) as err:
        load(DataOptions(data=data, test_fraction=fraction))
    hint = "give examples to train and to test on, or more of each class"
    assert err.value.hint == hint
    np.savez(tmp_path / "a.npz", x_train=X[:2], y_train=Y[:2], x_test=X, y_test=Y)
    assert len(load(DataOptions(data=data)).x_train) == 2
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    assert len(load(DataOptions(data=data, test_fraction=0.5)).x_train) > 0


def test_hints_about_arrays_work(tmp_path):
    x = np.random.default_rng(0).normal(size=(10, 3, 9, 8))
    hint = refused(save(tmp_path / "a.npz", x=x, y=Y))
    assert hint == "save x.transpose(0, 2, 3, 1)"
    options = save(tmp_path / "a.npz", x=eval(hint.removeprefix("save ")), y=Y)
    assert load(options).shape == (9, 8, 3)
    x = X.astype(object)
    assert refused(save(tmp_path / "a.npz", x=x, y=Y)) == "save an array of numbers"
    assert load(save(tmp_path / "a.npz", x=x.astype(float), y=Y)).shape == (3,)
    y = np.array([{}, "b"] * 5)
    hint = refused(save(tmp_path / "a.npz", x=X, y=y))
    assert hint == "save an array of numbers or text"
    assert load(save(tmp_path / "a.npz", x=X, y=y.astype(str))).class_names[0] == "b"


def refused(options: DataOptions) -> str:
    with pytest.raises(InputError) as caught:
        load(options)
    assert caught.value.hint is not None
    return caught.value.hint
