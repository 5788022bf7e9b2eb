"""A run keeps what classes and features mean, and reads other data in these terms."""

import numpy as np
import pytest

from linsey.app.metadata import run_metadata
from tests.app.runs import SMALL, final, make_blobs

CENTRES = {"ant": "short", "bee": "long", "cow": "long"}


def write_table(path, labels):
    random = np.random.default_rng(len(labels))
    lines = [
        f"{random.normal() + 9 * (label == 'cow'):.3f},{CENTRES[label]},{label}"
        for label in labels
    ]
    path.write_text("\n".join(["size,shape,kind", *lines]) + "\n")


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A run on a table, finished."""
    from linsey.app import cli

    folder = tmp_path_factory.mktemp("table")
    write_table(folder / "t.csv", ["cow", "ant", "bee"] * 40)
    data = ("--data", folder / "t.csv")
    options = ("train", *data, *SMALL, "--epochs", 20, "--out", folder / "run")
    assert cli.main([str(option) for option in options]) == 0
    return folder / "run"


def test_the_names_of_classes_and_features_are_recorded(table_run):
    data = run_metadata(final(table_run)).data
    assert data.class_names == ("ant", "bee", "cow")
    assert data.feature_names == ("size", "shape=long", "shape=short")


def test_tables_are_evaluated_in_the_terms_of_the_run(linsey, table_run, tmp_path):
    assert "test accuracy 1.0000 (24 of 24)" in linsey("eval", table_run).out
    # Two of three classes, one of two shapes: neither their numbers nor their columns
    # are those that this table alone would give.
    write_table(tmp_path / "cows.csv", ["cow"] * 9 + ["bee"])
    result = linsey("eval", table_run, "--data", "cows.csv")
    assert "test accuracy 1.0000 (10 of 10)" in result.out, result.err
    assert linsey("audit", table_run, "--data", "cows.csv").code in (0, 3)
    text = (tmp_path / "cows.csv").read_text().replace("cow\n", "yak\n")
    (tmp_path / "yaks.csv").write_text(text)
    assert linsey("eval", table_run, "--data", "yaks.csv").error == (
        "yaks.csv: column `kind`[0]: a label that does not occur in the training part: "
        "expected one of ant, bee, cow, found yak"
    )


@pytest.mark.slow
def test_labels_that_are_no_class_numbers_are_evaluated_by_name(linsey, tmp_path):
    x, y = make_blobs(classes=3)
    names = np.array([10, 500, 7])
    np.savez(tmp_path / "a.npz", x=x, y=names[y])
    options = ("--data", "a.npz", *SMALL, "--epochs", 6, "--out", "run")
    assert linsey("train", *options).code == 0
    assert run_metadata(final(tmp_path / "run")).data.class_names == ("7", "10", "500")
    right = linsey("eval", "run", "--data", "a.npz").out
    some = y != 2
    np.savez(tmp_path / "some.npz", x=x[some], y=names[y[some]].astype("f4"))
    result = linsey("eval", "run", "--data", "some.npz")
    assert result.code == 0
    for name in ("10", "500"):
        # The last one is that of the confusion matrix.
        found, expected = (
            [line.split() for line in text.splitlines() if line.split()[1:2] == [name]]
            for text in (result.out, right)
        )
        assert found[-1] == expected[-1]
