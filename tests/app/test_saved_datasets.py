"""Folders that `save_to_disk` of Hugging Face `datasets` wrote.

Most tests need the package; the others stand in for it where it is not installed.
"""

import sys

import numpy as np
import pytest
from PIL import Image

from linsey.app.config import DataOptions
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
        return {name: np.asarray(values)[rows] for name, values in self.columns.items()}

    def __iter__(self):
        for row in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, row, strict=True))

    def select_columns(self, names):
        return Saved({name: self.columns[name] for name in names}, self.features)

    def with_format(self, kind):
        assert kind == "numpy"
        return self


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


def test_images_are_read_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    images = [Image.new("L", (6, 5), 10 * i) for i in range(10)]
    image = type("Image", (), {})()
    part = Saved({"image": images, "label": np.arange(10) % 2}, {"image": image,
                 "label": ClassLabel()})  # fmt: skip
    part.select_columns = lambda names: Saved({"label": part.columns["label"]}, {})
    stand_in(monkeypatch, part)
    data = load(DataOptions(data=str(tmp_path), image_size=4))
    assert data.shape == (4, 4, 1) and len(data.x_train) == 8
    assert sorted(data.x_train[:, 0, 0, 0])[-1] == 90


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
    data = load(DataOptions(data=str(tmp_path / "two"), image_size=4))
    assert data.x_test[:, 0, 0, 0].tolist() == [25 * i for i in range(10)]
    assert data.y_test.tolist() == [0, 1] * 5


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


def test_saved_arrays_are_read(tmp_path, datasets):
    columns = {"x": np.arange(40.0).reshape(10, 4).tolist(), "label": [0, 1] * 5}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path)
    data = load(DataOptions(data=str(tmp_path)))
    assert data.shape == (4,) and len(data.x_train) == 8
