"""Folders that `save_to_disk` of Hugging Face `datasets` wrote.

Most tests need the package; the others stand in for it where it is not installed.
"""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from linsey.app.config import DataOptions, LoadingOptions
from linsey.app.dataset import Known
from linsey.app.readers import load
from linsey.errors import InputError
from linsey.extras import MissingPackageError


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(MissingPackageError) as caught:
        load(DataOptions(data=str(tmp_path)))
    assert "`datasets`, which is not installed" in str(caught.value)
    assert "Write `pip install datasets`." in str(caught.value)


class Saved:
    """What is used of `datasets.Dataset`."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __getitem__(self, rows):
        if isinstance(rows, int):
            return {name: values[rows] for name, values in self.columns.items()}
        return {name: Column(values[rows]) for name, values in self.columns.items()}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def cast_column(self, name, feature):
        assert not feature.decode
        return self

    def select_columns(self, names):
        return Saved({name: self.columns[name] for name in names}, self.features)

    def with_format(self, kind):
        assert kind == "arrow"
        return self


class Column:
    """What is used of `pyarrow.ChunkedArray`."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


class ClassLabel:
    names = ["cat", "dog"]


def stand_in(monkeypatch, saved):
    package = type(sys)("datasets")
    package.load_from_disk = lambda path: saved
    monkeypatch.setitem(sys.modules, "datasets", package)


def test_columns_of_numbers_are_read_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "dataset_dict.json").write_text("{}")
    columns = {"a": np.arange(8.0), "b": np.arange(8) % 3, "label": np.arange(8) % 2}
    features = {"a": None, "b": None, "label": ClassLabel()}
    part = Saved(columns, features)
    stand_in(monkeypatch, {"train": part, "validation": part})
    data = load(DataOptions(data=str(tmp_path)))
    assert data.class_names == ("cat", "dog") and data.feature_names == ("a", "b")
    np.testing.assert_array_equal(data.x_test[:, 1], columns["b"])
    known = Known(("cat", "dog"), ("b", "a"))
    turned = load(DataOptions(data=str(tmp_path)), known)
    np.testing.assert_array_equal(turned.x_test, data.x_test[:, ::-1])
    with pytest.raises(InputError, match="other columns .*: expected c, found a, b"):
        load(DataOptions(data=str(tmp_path)), Known(("cat", "dog"), ("c",)))
    with pytest.raises(InputError, match="no column of labels: expected kind, found a"):
        load(DataOptions(data=str(tmp_path), target="kind"))
    assert len(load(DataOptions(data=str(tmp_path), target="b")).class_names) == 3


class Image_:
    """What is used of `datasets.Image`."""

    def __init__(self, decode=True):
        self.decode = decode


Image_.__name__ = "Image"


def encoded(color: int) -> dict[str, object]:
    file = io.BytesIO()
    Image.new("L", (6, 5), color).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The columns of a data set of images, which is read instead of the folder."""
    (tmp_path / "dataset_info.json").write_text("{}")
    columns = {"image": [encoded(10 * i) for i in range(10)],
               "label": np.arange(10) % 2}  # fmt: skip
    features = {"image": Image_(), "label": ClassLabel()}
    stand_in(monkeypatch, Saved(columns, features))
    return columns["image"]


def loaded(folder, memory=1, **options):
    loading = LoadingOptions(image_memory=memory)
    return load(DataOptions(data=str(folder), image_size=4, **options), loading=loading)


def test_images_are_read_without_the_package(tmp_path, images):
    data = loaded(tmp_path)
    assert data.shape == (4, 4, 1) and len(data.x_train) == 8
    assert sorted(data.x_train[:][:, 0, 0, 0])[-1] == 90


def test_images_are_streamed_where_memory_is_short(tmp_path, images):
    held, streamed = loaded(tmp_path), loaded(tmp_path, 0)
    assert held.x_train.is_held and not streamed.x_train.is_held
    assert held.x_train[:].tobytes() == streamed.x_train[:].tobytes()
    assert held.digest() == streamed.digest()
    assert held.standardizer.to_json() == streamed.standardizer.to_json()
    images[:] = [encoded(7)] * 10
    with pytest.raises(InputError, match=r": image\[\d\]: not the image that it was"):
        streamed.x_train[:]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"bytes": b"P", "path": None}, r": image\[3\]: not a readable image"),
        (None, r": image\[3\]: no image in this row"),
        ({"bytes": None, "path": "/a.png"}, "other files are not opened: found /a.png"),
    ],
)
def test_broken_images_are_named_and_left_out(tmp_path, images, broken, message):
    images[3] = broken
    with pytest.raises(InputError, match=f"{message}.*--skip-broken leaves such"):
        loaded(tmp_path)
    data = loaded(tmp_path, skip_broken=True)
    assert data.notes == ("1 broken image is left out: image[3]",)
    rows = (
        np.concatenate([data.x_train[:][:, 0, 0, 0], data.x_test[:][:, 0, 0, 0]]) // 10
    )
    labels = np.concatenate([data.y_train, data.y_test])
    assert sorted(rows) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert (labels == rows % 2).all()


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def test_saved_images_are_read(tmp_path, datasets):
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    images = [Image.new("RGB", (6, 5), (25 * i, 0, 0)) for i in range(10)]
    part = datasets.Dataset.from_dict(
        {"image": images, "label": [i % 2 for i in range(10)]}, features
    )
    part.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "two")
    data = load(DataOptions(data=str(tmp_path / "one"), image_size=4))
    assert data.shape == (4, 4, 3) and data.class_names == ("cat", "dog")
    data = loaded(tmp_path / "two", 0)
    assert not data.x_test.is_held
    assert data.x_test[:][:, 0, 0, 0].tolist() == [25 * i for i in range(10)]
    assert data.y_test.tolist() == [0, 1] * 5


def test_images_of_other_files_are_saved_with_the_data(tmp_path, datasets):
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    for i, file in enumerate(files):
        Image.new("L", (6, 5), 25 * i).save(file)
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    columns = {"image": files, "label": [0, 1] * 2}
    part = datasets.Dataset.from_dict(columns, features)
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "data")
    for file in files:
        (tmp_path / file).unlink()
    data = loaded(tmp_path / "data", 0)
    assert data.x_test[:][:, 0, 0, 0].tolist() == [0, 25, 50, 75]


def test_saved_numbers_are_read(tmp_path, datasets):
    columns = {"a": np.arange(12.0), "b": [3, 5, 7] * 4, "kind": ["u", "v", "w"] * 4}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path)
    with pytest.raises(InputError, match="--target NAME names the column of classes"):
        load(DataOptions(data=str(tmp_path)))
    data = load(DataOptions(data=str(tmp_path), target="kind"))
    assert data.class_names == ("u", "v", "w") and data.feature_names == ("a", "b")
    with pytest.raises(InputError, match="kind: a column of neither") as caught:
        load(DataOptions(data=str(tmp_path), target="b"))
    saved = datasets.load_from_disk(tmp_path).remove_columns("kind")
    assert 'dataset.remove_columns("kind")' in caught.value.hint
    saved.save_to_disk(tmp_path / "less")
    data = load(DataOptions(data=str(tmp_path / "less"), target="b"))
    assert data.class_names == ("3", "5", "7") and data.feature_names == ("a",)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_saved_arrays_are_read_in_their_dtype(tmp_path, datasets, dtype):
    x, labels = np.arange(120).astype(dtype).reshape(10, 4, 3), [0, 1] * 5
    one = datasets.Dataset.from_dict({"x": x, "label": labels})
    features = datasets.Features(
        x=datasets.Array2D((4, 3), dtype), label=one.features["label"]
    )
    fixed = datasets.Dataset.from_dict({"x": x, "label": labels}, features)
    for part in (one, fixed):
        folder = tmp_path / part.features["x"].__class__.__name__
        datasets.DatasetDict(train=part, test=part).save_to_disk(folder)
        data = load(DataOptions(data=str(folder)))
        assert data.x_test.dtype == dtype
        np.testing.assert_array_equal(data.x_test, x[..., None])


def test_arrays_of_several_shapes_are_refused(tmp_path, datasets):
    columns = {"x": [[0.0] * (1 + i % 2) for i in range(8)], "label": [0, 1] * 4}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path)
    with pytest.raises(InputError, match="x: a column of neither images nor numbers"):
        load(DataOptions(data=str(tmp_path)))


def test_a_missing_number_is_named(tmp_path, datasets):
    columns = {"a": [1.0, None] + [2.0] * 6, "b": [1.0] * 8, "label": [0, 1] * 4}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path)
    with pytest.raises(InputError, match="not a finite number"):
        load(DataOptions(data=str(tmp_path)))
