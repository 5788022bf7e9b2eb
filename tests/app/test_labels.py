"""Labels of any usual form become the right classes, or are refused with true words."""

import re

import numpy as np
import pytest

from linsey.app.config import DataOptions
from linsey.app.dataset import Known
from linsey.app.readers import load
from linsey.errors import InputError

X = np.arange(60.0).reshape(30, 2)
Y = np.arange(30) % 3


def loaded(tmp_path, known=None, classes=None, **arrays):
    path = tmp_path / "a.npz"
    np.savez(path, **{"x": X, **arrays} if "x_train" not in arrays else arrays)
    return load(DataOptions(data=str(path), classes=classes), known)


def all_labels(data) -> list[str]:
    """The names of the labels, in the order of the examples."""
    x = np.concatenate([data.x_train, data.x_test])[:, 0]
    y = np.concatenate([data.y_train, data.y_test])
    return [data.class_names[label] for label in y[np.argsort(x)]]


def parts(y_train, y_test):
    return {
        "x_train": X[: len(y_train)], "y_train": np.asarray(y_train),
        "x_test": X[: len(y_test)], "y_test": np.asarray(y_test),
    }  # fmt: skip


TEXT = np.array(["ant", "bee", "cow"])


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (Y, "0 1 2"),
        (Y[:, None], "0 1 2"),
        (Y.astype(np.uint8), "0 1 2"),
        (Y.astype(np.float32), "0 1 2"),
        (Y.astype(np.float64)[:, None], "0 1 2"),
        (np.eye(3)[Y], "0 1 2"),
        (np.eye(3, dtype=bool)[Y], "0 1 2"),
        (Y + 1, "1 2 3"),
        (np.array([0, 5, 900])[Y], "0 5 900"),
        (np.array([-1, 0, 2**40])[Y], f"-1 0 {2**40}"),
        (np.array([-1.0, 1.0, 3.0])[Y], "-1 1 3"),
        (TEXT[Y], "ant bee cow"),
        (TEXT[Y].astype(">U7"), "ant bee cow"),
        (TEXT[Y].astype("S"), "ant bee cow"),
        (TEXT[Y][:, None], "ant bee cow"),
        (np.char.encode(np.array(["b\xe4r", "eule", "\u72ac"])[Y], "utf-8"),
         "b\xe4r eule \u72ac"),
    ],
)  # fmt: skip
def test_labels_keep_their_meaning(tmp_path, y, names):
    data = loaded(tmp_path, y=y)
    assert data.class_names == tuple(names.split())
    assert data.y_train.dtype == np.int32
    assert all_labels(data) == [data.class_names[label] for label in Y]


def test_booleans_are_two_classes(tmp_path):
    data = loaded(tmp_path, y=Y == 1)
    assert all_labels(data) == [str(int(label == 1)) for label in Y]


def test_labels_that_are_no_class_numbers_are_told_of(tmp_path):
    assert loaded(tmp_path, y=Y).notes == ()
    assert loaded(tmp_path, y=TEXT[Y]).notes == ()
    (note,) = loaded(tmp_path, y=Y + 1).notes
    assert note == (
        "y: the labels 1, 2, 3 are taken as 3 classes (--classes 4 takes them as class "
        "numbers)"
    )
    data = loaded(tmp_path, y=Y + 1, classes=4)  # what it says
    assert data.class_names == ("0", "1", "2", "3")
    assert data.notes == () and all_labels(data) == list(map(str, Y + 1))
    (note,) = loaded(tmp_path, y=Y - 1).notes
    assert note == "y: the labels -1, 0, 1 are taken as 3 classes"


def test_train_and_test_parts_agree_on_the_classes(tmp_path):
    data = loaded(tmp_path, **parts([900, 5, 0] * 4, [5, 900]))
    assert data.y_test.tolist() == [1, 2]
    data = loaded(tmp_path, **parts(["b", "c", "a"] * 4, ["c"]))
    assert data.y_test.tolist() == [2]
    data = loaded(tmp_path, **parts(np.eye(3)[[0, 1, 2]], np.array([2, 0])))
    assert data.y_test.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("train", "test", "error"),
    [
        ([1, 2] * 4, [1, 3], r"y_test\[1\]: a label that does not occur in the train"
         "ing part: expected one of 1, 2, found 3"),
        (["a", "b"], ["b", "zoo"], r"y_test\[1\]: a label .*one of a, b, found zoo"),
        ([0, 1] * 4, [0, 0, 5], r"y_test\[2\]: label out of range: expected 0 to 1, "
         r"found 5 \(--classes 6 makes room for it\)"),
        ([0, 1] * 4, [0, -1], r"found -1$"),
        ([0, 1] * 4, [0, 2**30], r"found 1073741824$"),
        ([0, 1] * 4, ["zoo"], "one of 0, 1, found zoo"),
    ],
)  # fmt: skip
def test_labels_that_only_the_test_part_has_are_named(tmp_path, train, test, error):
    with pytest.raises(InputError, match=error):
        loaded(tmp_path, **parts(train, test))


def test_there_is_room_for_a_label_of_the_test_part(tmp_path):
    data = loaded(tmp_path, classes=6, **parts([0, 1] * 4, [0, 0, 5]))
    assert len(data.class_names) == 6 and data.y_test.tolist() == [0, 0, 5]


SOFT = np.eye(3)[Y] * 0.8 + 0.1
REFUSED = [
    (Y + 0.5, r"y\[0\]: labels are measurements and not classes, and regression is not "
     "offered: expected whole numbers or text, found 0.5"),
    (np.where(Y == 1, np.nan, 0), r"y\[1\]: not a finite number: found nan"),
    (SOFT, r"y\[0\]: labels are rows that are not one-hot, .*found \[0.9, 0.1, 0.1\]"),
    (np.ones((30, 3), int), r"y\[0\]: one class for each example is needed: expected a "
     r"row with one 1, found 3 in \[1, 1, 1\]"),
    (np.zeros((30, 3)), r"y\[0\]: one class .*found 0 in \[0, 0, 0\]"),
    (np.zeros((30, 2, 2), int), r"y: wrong shape: expected \(examples,\), found \(30,"),
    (TEXT[Y].reshape(15, 2), r"y: wrong shape"),
    (Y.astype(complex), "y: labels are not classes: .*found complex128"),
    (Y.astype(np.uint64) + 2**63, r"y\[2\]: label out of range: expected less than"),
    (np.where(Y == 1, 1e300, 0), r"y\[1\]: label out of range: expected 2\^53 at most"),
    (np.where(Y == 1, b"\xff", b"a"), "y: labels are not text in UTF-8"),
    (np.arange(30) * 7, "y: almost every label is another number: these are measur"),
    (np.arange(30).astype(str), "y: almost every example has a label of its own"),
    (Y * 0, "y: only one class"),
    (np.full(30, "a"), "y: only one class"),
    (Y[:29], "y: as many labels as examples are needed: expected 30 labels, found 29"),
]  # fmt: skip


@pytest.mark.parametrize(("y", "error"), REFUSED)
def test_labels_that_are_no_classes_are_refused(tmp_path, y, error):
    with pytest.raises(InputError, match=error):
        loaded(tmp_path, y=y)


def test_one_row_of_labels_is_refused_with_a_hint_that_works(tmp_path):
    with pytest.raises(InputError, match=r"y: wrong shape: .*\(save y.ravel\(\)\)"):
        loaded(tmp_path, y=Y[None])
    assert all_labels(loaded(tmp_path, y=Y[None].ravel())) == list(map(str, Y))


def test_many_numbers_are_classes_if_that_is_said(tmp_path):
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, y=np.arange(30) * 7)
    (count,) = re.findall(r"--classes (\d+) takes them", caught.value.hint)
    options = {"classes": int(count), **parts(np.arange(30) * 7, np.arange(30) * 7)}
    assert len(loaded(tmp_path, **options).class_names) == int(count)


def test_one_example_of_a_class_is_enough_beside_a_test_part(tmp_path):
    names = [f"class {i}" for i in range(25)]
    assert len(loaded(tmp_path, **parts(names, names[:3])).class_names) == 25


def test_an_empty_label_is_refused_with_hints_that_work(tmp_path):
    y = TEXT[Y]
    y[4] = ""
    with pytest.raises(InputError, match=r"y\[4\]: an empty label \(leave the example"):
        loaded(tmp_path, y=y)
    keep = np.arange(30) != 4
    assert all_labels(loaded(tmp_path, x=X[keep], y=y[keep])) == y[keep].tolist()
    y[4] = "emu"
    assert "emu" in loaded(tmp_path, y=y).class_names


def test_text_needs_no_number_of_classes(tmp_path):
    with pytest.raises(InputError, match=r"expected 5 labels.*\(leave --classes out\)"):
        loaded(tmp_path, y=TEXT[Y], classes=5)
    assert loaded(tmp_path, y=TEXT[Y], classes=3).class_names == tuple(TEXT)


def test_what_is_no_character_is_refused(tmp_path):
    y = np.zeros(30, "<U1")
    y.view(np.uint32)[:] = 2**31
    y[0] = "a"
    with pytest.raises(InputError, match="a.npz: y: labels are not text"):
        loaded(tmp_path, y=y)
    y.view(np.uint32)[:] = 0xD800  # half of a pair
    y[0] = "a"
    with pytest.raises(InputError, match="a.npz: classes"):
        loaded(tmp_path, y=y)


def test_the_classes_of_a_model_are_those_of_other_data(tmp_path):
    known = Known(("0", "5", "900"))
    y = np.array([900, 5] * 15)
    assert all_labels(loaded(tmp_path, known, y=y)) == list(map(str, y))
    with pytest.raises(InputError, match="one of 0, 5, 900, found 7"):
        loaded(tmp_path, known, y=y * 0 + 7)
    named = Known(("ant", "bee", "cow"))
    assert (
        all_labels(loaded(tmp_path, named, y=TEXT[Y][::-1])) == TEXT[Y][::-1].tolist()
    )
    assert all_labels(loaded(tmp_path, named, y=Y)) == TEXT[Y].tolist()  # class numbers
