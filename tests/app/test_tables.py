"""Tables in CSV: what is found in them, and what is refused with hints that work."""

import numpy as np
import pytest

from linsey.app.config import DataOptions
from linsey.app.dataset import Known
from linsey.app.readers import load
from linsey.errors import InputError

HEADER = "length,width,kind"
ROWS = [f"{i}.5,{i % 3 - 1},{'ab'[i % 2]}" for i in range(20)]


def loaded(tmp_path, lines, known=None, name="t.csv", **options):
    text = lines if isinstance(lines, bytes) else "\n".join([*lines, ""]).encode()
    (tmp_path / name).write_bytes(text)
    return load(DataOptions(data=str(tmp_path / name), **options), known)


def rows(data) -> np.ndarray:
    """Features and class of each row, in the order of the first feature."""
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    table = np.column_stack([x, y])
    return table[np.argsort(table[:, 0])]


def test_numbers_are_features_and_the_last_column_is_the_class(tmp_path):
    data = loaded(tmp_path, [HEADER, *ROWS])
    assert data.class_names == ("a", "b") and data.notes == ()
    assert data.feature_names == ("length", "width")
    assert rows(data)[:4].tolist() == [
        [0.5, -1, 0], [1.5, 0, 1], [2.5, 1, 0], [3.5, -1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("mark", ";\t|")
def test_the_mark_between_cells_is_found(tmp_path, mark):
    lines = [line.replace(",", mark) for line in [HEADER, *ROWS]]
    expected = rows(loaded(tmp_path, [HEADER, *ROWS]))
    np.testing.assert_array_equal(rows(loaded(tmp_path, lines)), expected)
    if mark == ";":
        lines = [line.replace(".", ",") for line in lines]
        np.testing.assert_array_equal(rows(loaded(tmp_path, lines)), expected)


def test_what_programs_write_around_a_table_is_taken(tmp_path):
    expected = rows(loaded(tmp_path, [HEADER, *ROWS]))
    lines = [f'"{HEADER}"'.replace(",", '","'), *ROWS[:9], "", *ROWS[9:]]
    text = "\r\n".join(lines).encode("utf-8-sig")
    np.testing.assert_array_equal(rows(loaded(tmp_path, text)), expected)
    text = ("\t".join(HEADER.split(",")) + "\n").encode()
    text += "\n".join(row.replace(",", "\t") for row in ROWS).encode()
    np.testing.assert_array_equal(rows(loaded(tmp_path, text, name="t.tsv")), expected)


def test_a_table_without_a_header_loses_no_row(tmp_path):
    data = loaded(tmp_path, ROWS)
    assert data.feature_names == ("column 1", "column 2")
    np.testing.assert_array_equal(rows(data), rows(loaded(tmp_path, [HEADER, *ROWS])))
    assert (
        len(rows(loaded(tmp_path, ["p,x,x", "e,y,y", *["p,x,y", "e,y,x"] * 9]))) == 20
    )


def test_numbers_in_the_place_of_names_are_a_header(tmp_path):
    lines = [f"{i},{i},{i},{'ab'[i % 2]}" for i in range(10)]
    assert len(rows(loaded(tmp_path, ["0,1,2,target", *lines]))) == 10
    assert len(rows(loaded(tmp_path, lines))) == 10


def test_the_column_that_numbers_the_rows_is_left_out(tmp_path):
    lines = [f"{i + 7},{row}" for i, row in enumerate(ROWS)]
    data = loaded(tmp_path, [f",{HEADER}", *lines])
    assert data.feature_names == ("length", "width")
    assert data.notes == (
        "the first column of t.csv only numbers the rows: it is left out",
    )


@pytest.mark.parametrize("name", ["label", "Target", "CLASS", "y"])
def test_the_column_of_classes_is_found_by_its_name(tmp_path, name):
    lines = [f"{i},{'uv'[i % 2]},{i * 1.5}" for i in range(10)]
    data = loaded(tmp_path, [f"a,{name},b", *lines])
    assert data.class_names == ("u", "v") and data.feature_names == ("a", "b")


def test_the_column_of_classes_can_be_named(tmp_path):
    data = loaded(tmp_path, [HEADER, *ROWS], target="width")
    assert data.class_names == ("-1", "0", "1")
    assert data.feature_names == ("length", "kind=a", "kind=b")
    assert rows(data)[:2].tolist() == [[0.5, 1, 0, 0], [1.5, 0, 1, 1]]
    with pytest.raises(
        InputError, match="--target: no such column: expected one of leng"
    ):
        loaded(tmp_path, [HEADER, *ROWS], target="size")


def test_measurements_are_refused_with_a_hint_that_works(tmp_path):
    lines = ["kind,size", *[f"{'ab'[i % 2]},{i}.25" for i in range(10)]]
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, lines)
    assert str(caught.value) == (
        f"{tmp_path}/t.csv: column `size`[0]: labels are measurements and not classes, "
        "and regression is not offered: expected whole numbers or text, found 0.25 "
        "(--target NAME names the column of classes)"
    )
    assert loaded(tmp_path, lines, target="kind").class_names == ("a", "b")


def test_names_are_refused_with_a_hint_that_works(tmp_path):
    lines = ["kind,name", *[f"{'ab'[i % 2]},name {i}" for i in range(30)]]
    with pytest.raises(InputError, match="a label of its own") as caught:
        loaded(tmp_path, lines)
    assert caught.value.hint == "--target NAME names the column of classes"
    assert loaded(tmp_path, lines, target="kind").class_names == ("a", "b")


def test_missing_values_are_refused_with_a_hint_that_works(tmp_path):
    lines = [HEADER, *ROWS, "NA,55,a", "77,,b"]
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, lines)
    assert str(caught.value) == (
        f"{tmp_path}/t.csv: line 22, column `length`: a value is missing (--missing "
        "mean fills in the mean of the column)"
    )
    data = loaded(tmp_path, lines, missing="mean")
    assert len(rows(data)) == 22
    assert_filled(data, 0, lambda row: row[1] == 55)
    assert_filled(data, 1, lambda row: row[0] == 77)


def assert_filled(data, column, is_filled):
    """Assert that the row has the mean of the others of the training part."""
    others = [row[column] for row in data.x_train if not is_filled(row)]
    (filled,) = (row[column] for row in rows(data) if is_filled(row))
    np.testing.assert_allclose(filled, np.mean(others), rtol=1e-15)


def test_the_mean_is_of_the_training_part(tmp_path):
    lines = [f"{2.0**i},{'ab'[i % 2]}" for i in range(20)] + [",a", ",b"]
    data = loaded(tmp_path, ["n,k", *lines], missing="mean", test_fraction=0.5)
    given = 2.0 ** np.arange(20)
    mean = np.mean([n for n in data.x_train[:, 0] if n in given])
    filled = [n for n in rows(data)[:, 0] if n not in given]
    assert len(filled) == 2
    np.testing.assert_allclose(filled, mean, rtol=1e-15)


def test_missing_texts_are_filled_with_how_often_each_occurs(tmp_path):
    lines = [f"{i},{'xxxy'[i % 4]},{'ab'[i % 2]}" for i in range(16)]
    data = loaded(tmp_path, ["n,t,k", *lines, "99,?,a"], missing="mean")
    assert_filled(data, 1, lambda row: row[0] == 99)
    assert_filled(data, 2, lambda row: row[0] == 99)


def test_a_column_without_a_value_to_learn_from_is_refused(tmp_path):
    lines = ["n,m,k", *[f"{i},{'7' if i == 5 else ''},{'ab'[i % 2]}" for i in range(9)]]
    found = []
    for seed in range(20):
        try:
            found.append(loaded(tmp_path, lines, missing="mean", split_seed=seed))
        except InputError as error:
            assert "column `m`: a column without values in the training" in str(error)
            assert "--split-seed" in error.hint
    assert 0 < len(found) < 20
    assert all((data.x_train[:, 1] == 7).all() for data in found)


def test_a_missing_label_is_refused_with_hints_that_work(tmp_path):
    with pytest.raises(
        InputError, match="line 22, column `kind`: a label is miss"
    ) as err:
        loaded(tmp_path, [HEADER, *ROWS, "1,1,"], missing="mean")
    assert err.value.hint == "remove the line, or give it a label"
    assert len(rows(loaded(tmp_path, [HEADER, *ROWS]))) == 20
    assert len(rows(loaded(tmp_path, [HEADER, *ROWS, "1,1,a"]))) == 21


def test_a_text_with_many_values_is_refused_with_hints_that_work(tmp_path):
    lines = [f"name{i},{i},{'ab'[i % 2]}" for i in range(40)]
    with pytest.raises(
        InputError, match="column `name`: a column of text with"
    ) as caught:
        loaded(tmp_path, ["name,n,k", *lines])
    assert caught.value.hint == "remove the column, or put numbers in it"
    without = [line.partition(",")[2] for line in ["name,n,k", *lines]]
    assert loaded(tmp_path, without).feature_names == ("n",)
    numbers = [line.replace("name", "") for line in lines]
    assert loaded(tmp_path, ["name,n,k", *numbers]).feature_names == ("name", "n")


def test_an_empty_column_is_refused_with_a_hint_that_works(tmp_path):
    lines = ["n,e,k", *[f"{i},,{'ab'[i % 2]}" for i in range(10)]]
    with pytest.raises(
        InputError, match=r"`e`: a column without values \(remove the c"
    ):
        loaded(tmp_path, lines, missing="mean")
    data = loaded(
        tmp_path, [line.replace(",,", ",").replace("e,", "") for line in lines]
    )
    assert data.feature_names == ("n",)


def test_columns_of_one_name_are_refused_with_a_hint_that_works(tmp_path):
    with pytest.raises(InputError, match=r"name: found a \(rename one of them\)"):
        loaded(tmp_path, ["a,a,k", *ROWS])
    assert loaded(tmp_path, ["a,b,k", *ROWS]).feature_names == ("a", "b")


def test_text_of_another_encoding_is_refused_with_a_hint_that_works(tmp_path):
    text = "\n".join(["größe,n,k", *ROWS])
    with pytest.raises(InputError, match=r"not text in UTF-8: .*\(save it in UTF-8\)"):
        loaded(tmp_path, text.encode("latin-1"))
    assert loaded(tmp_path, text.encode()).feature_names[0] == "größe"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], "a table of one column"),
        ([HEADER], "a table without rows"),
        (["a", "1", "2"], "a table of one column: expected cells with commas"),
        ([HEADER, *ROWS, "1,2"], "line 22: a broken row: expected 3 cells, found 2 ce"),
        ([HEADER, *ROWS, '1,"2'], "line 22: not a table: unexpected end of data"),
        ([HEADER, *ROWS, "inf,2,a"], "line 22, column `length`: not a finite number"),
        ([HEADER, *ROWS, "1e999,2,a"], "line 22, column `length`: not a finite number"),
        (["k,k2", *["a,b", "b,a"] * 5, "a," + "b" * 256], "line 12, .*label too long"),
        (["a" * 256 + ",b", "1,2"], "the name of a column is too long: .*found 256"),
        (["t,k", *["x,a", "x,b"] * 5, "y" * 256 + ",a"], "column `t`: a text too long"),
        (
            [",".join(map(str, range(10_001)))],
            "too many columns: expected at most 10,0",
        ),
        (["a,b", "1," + "x" * 2**21], "a line too long: expected at most 1,048,576"),
        (["a,b", "1," + "x" * 2**18], "line 2: not a table: field larger than"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, lines, error):
    with pytest.raises(InputError, match=f"t.csv: {error}"):
        loaded(tmp_path, lines)


def test_other_tables_are_read_in_the_terms_of_the_model(tmp_path):
    lines = [f"{i},{'xyz'[i % 3]},{'ab'[i % 2]}" for i in range(12)]
    first = loaded(tmp_path, ["n,t,k", *lines])
    means = tuple(first.standardizer.mean.tolist())
    known = Known(first.class_names, first.feature_names, means)
    other = ["n,t,k", "1,z,b", "2,z,b", "?,x,b"]
    data = loaded(tmp_path, other, known, test_fraction=1.0, missing="mean")
    assert data.feature_names == first.feature_names
    assert data.y_test.tolist() == [1, 1, 1]
    assert data.x_test.tolist() == [[1, 0, 0, 1], [2, 0, 0, 1], [means[0], 1, 0, 0]]
    turned = [",".join(line.split(",")[i] for i in (1, 0, 2)) for line in other]
    data = loaded(tmp_path, turned, known, test_fraction=1.0, missing="mean")
    assert data.x_test.tolist() == [[1, 0, 0, 1], [2, 0, 0, 1], [means[0], 1, 0, 0]]
    with pytest.raises(
        InputError, match="line 2, column `t`: a value that does not occ"
    ):
        loaded(tmp_path, ["n,t,k", "1,w,b"], known)
    with pytest.raises(InputError, match="other columns than .*n, t=x, .*found m, t=x"):
        loaded(tmp_path, ["m,t,k", "1,x,b"], known)
