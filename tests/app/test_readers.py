from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
        ({"x": np.zeros((10, 3, 9, 9)), "y": Y}, r"x: channels come last: found"),
        ({"x": X, "y": Y[:9]}, "y: as many labels .* expected 10 labels, found 9"),
        ({"x": X, "y": np.eye(10)}, r"y: wrong shape: .*save y.argmax\(-1\)"),
        ({"x": X, "y": Y / 1}, r"y: labels are not class numbers: .*found float64"),
        ({"x": X, "y": broken(Y, 4, -1)}, r"y\[4\]: label out of range: .*found -1"),
        ({"x": X, "y": broken(Y, 4, 2**40)}, r"y\[4\]: label out of range"),
        ({"x": X, "y": Y * 5000}, r"y\[1\]: more classes than examples: .*found 5000"),
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


def test_labels_beyond_the_number_of_classes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    assert len(load(DataOptions(data=str(tmp_path / "a.npz"), classes=5)).class_names)
    y = broken(Y, 2, 6)
    np.savez(tmp_path / "a.npz", x=X, y=y)
    with pytest.raises(
        InputError, match=r"y\[2\]: label out of range: expected 0 to 4"
    ):
        load(DataOptions(data=str(tmp_path / "a.npz"), classes=5))


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
        (tmp_path / "a.csv").write_text("1,2")
        load(DataOptions(data=str(tmp_path / "a.csv")))


def make_images(root: Path, classes=("cat", "dog"), count=5, mode="L") -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            color = 50 * number + index
            value = color if mode == "L" else (color, 0, 255 - color)
            Image.new(mode, (12, 9), value).save(root / name / f"{index}.png")


def test_image_folder_is_split_by_class(tmp_path):
    make_images(tmp_path / "data")
    (tmp_path / "data" / ".hidden").mkdir()
    (tmp_path / "data" / "cat" / "notes.txt").write_text("not an image")
    data = load(DataOptions(data=str(tmp_path / "data"), image_size=4))
    assert data.class_names == ("cat", "dog")
    assert (data.x_train.shape, data.x_test.shape) == ((8, 4, 4, 1), (2, 4, 4, 1))
    assert all(data.x_train[data.y_train == 1].min(axis=(1, 2, 3)) >= 50)


def test_image_folder_with_parts_and_color(tmp_path):
    make_images(tmp_path / "train", mode="RGB")
    make_images(tmp_path / "test", count=2, mode="L")
    data = load(DataOptions(data=str(tmp_path), image_size=3))
    assert (data.x_train.shape, data.x_test.shape) == ((10, 3, 3, 3), (4, 3, 3, 3))
    np.testing.assert_array_equal(data.x_train[7, 0, 0], [52, 0, 203])


def test_bad_image_folders_are_named(tmp_path):
    root = tmp_path / "data"
    options = DataOptions(data=str(root))
    root.mkdir()
    with pytest.raises(InputError, match="no classes: .* found 0 folders"):
        load(options)
    make_images(root)
    (root / "cow").mkdir()
    with pytest.raises(InputError, match="cow: a class without images"):
        load(options)
    (root / "cow" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="cow/0.jpg: not a readable image"):
        load(options)


def write_images(root, make, mode_suffix="png"):
    for label, name in enumerate(("a", "b")):
        (root / name).mkdir()
        for i in range(5):
            make(label, i).save(root / name / f"{i}.{mode_suffix}")
        (root / name / "._0.png").write_bytes(b"left by a system")
        (root / name / "Thumbs.db").write_bytes(b"and this")
    (root / "__MACOSX").mkdir()


@pytest.mark.parametrize(
    ("dtype", "suffix", "scale"),
    [(np.uint16, "png", 255 / 65535), (np.int32, "tif", 1), (np.float32, "tif", 1)],
)
def test_images_of_more_than_8_bits_keep_their_values(tmp_path, dtype, suffix, scale):
    ramp = np.arange(64, dtype=dtype).reshape(8, 8)

    def make(label, i):
        return Image.fromarray((ramp * 400 + 20000 * label + i).astype(dtype))

    write_images(tmp_path, make, suffix)
    data = load(DataOptions(data=str(tmp_path), image_size=8))
    assert data.x_train.dtype == np.float32 and data.shape == (8, 8, 1)
    assert data.class_names == ("a", "b")
    first = data.x_train[data.y_train == 1][0, ..., 0] / np.float32(scale)
    np.testing.assert_allclose(first - first[0, 0], ramp * 400, rtol=1e-4, atol=0.1)
    assert 20000 <= round(float(first[0, 0])) < 20005


def test_deep_grey_images_may_stand_beside_colored_ones(tmp_path):
    def make(label, i):
        if label:
            return Image.new("RGB", (8, 8), (10 * i, 0, 0))
        return Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))

    write_images(tmp_path, make)
    data = load(DataOptions(data=str(tmp_path), image_size=4))
    assert data.shape == (4, 4, 3)
    np.testing.assert_allclose(data.x_train[data.y_train == 0], 100, rtol=1e-5)
