"""`linsey predict`: its answers are those of `linsey eval`, its tables read back."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linsey.app.config import TrainConfig
from linsey.app.dataset import Known
from linsey.app.examples.sources import batches, read_examples
from linsey.app.examples.table_rows import read_table
from linsey.app.examples.terms import Terms
from linsey.errors import InputError
from tests.app.served import COLUMNS, SPECIES, pixels, table_rows, write_table

PLAIN = ["file", "row", "class", "probability"]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def without(column: str, rows):
    return [{k: v for k, v in row.items() if k != column} for row in rows]


def test_answers_are_those_of_eval(linsey, table_run, tmp_path):
    rows = table_rows(41, seed=3)
    write_table(tmp_path / "new.csv", rows)
    record = json.loads(linsey("eval", table_run, "--data", "new.csv", "--json").out)
    result = linsey("predict", table_run, "new.csv", "--probabilities")
    assert (result.code, result.err) == (0, "")
    found = table(result.out)
    right = [row["class"] == true["species"]
             for row, true in zip(found, rows, strict=True)]  # fmt: skip
    assert sum(right) == record["correct"]
    confidence = np.mean([float(row["probability"]) for row in found])
    expected = record["calibration"]["mean_confidence"]
    assert confidence == pytest.approx(expected, abs=1e-6)
    own = [float(row[f"p_{true['species']}"])
           for row, true in zip(found, rows, strict=True)]  # fmt: skip
    assert -np.log(own).mean() == pytest.approx(record["loss"], abs=1e-5)


def test_labels_order_of_columns_and_batches_change_no_answer(
    linsey, table_run, tmp_path
):
    rows = table_rows(11, seed=4)
    write_table(tmp_path / "all.csv", rows)
    turned = [dict(reversed(row.items())) for row in without("species", rows)]
    write_table(tmp_path / "less.csv", turned)
    options = ("--probabilities", "--batch-size")
    first = table(linsey("predict", table_run, "all.csv", *options, 4).out)
    second = table(linsey("predict", table_run, "less.csv", *options, 64).out)
    assert len(first) == 11
    for one, other in zip(first, second, strict=True):
        assert one["row"] == other["row"]
        for name in SPECIES:
            chance = float(other[f"p_{name}"])
            assert float(one[f"p_{name}"]) == pytest.approx(chance, abs=1e-6)


def test_the_hint_on_missing_values_fills_them(linsey, table_run, tmp_path):
    write_table(tmp_path / "new.csv", table_rows(9))
    refused = linsey("predict", table_run, "new.csv", "--missing", "refuse")
    assert refused.code == 2 and "line 2, column `size`" in refused.error
    assert "(--missing mean fills in" in refused.error
    assert linsey("predict", table_run, "new.csv", "--missing", "mean").code == 0


def test_columns_that_the_model_does_not_know_are_told(linsey, table_run, tmp_path):
    rows = [{"name": f"n{i}", **row} for i, row in enumerate(table_rows(5))]
    write_table(tmp_path / "new.csv", rows)
    result = linsey("predict", table_run, "new.csv")
    assert result.code == 0
    assert result.err == (
        "linsey: warning: new.csv: not used, since the model does not know it: name\n"
    )
    write_table(tmp_path / "short.csv", without("year", rows))
    refused = linsey("predict", table_run, "short.csv")
    assert refused.code == 2
    assert "columns are missing that the model was trained on: expected year" in (
        refused.err
    )


def test_an_unknown_text_is_refused_with_its_place(linsey, table_run, tmp_path):
    rows = table_rows(5)
    rows[3][COLUMNS[2]] = "green"
    write_table(tmp_path / "new.csv", rows)
    error = linsey("predict", table_run, "new.csv", "--out", "o.csv").error
    assert "line 5, column `color, or none`" in error and "found green" in error
    assert sorted(os.listdir()) == ["new.csv"]


def test_ranks_and_json_tell_the_same(linsey, table_run, tmp_path):
    write_table(tmp_path / "new.csv", table_rows(6))
    options = ("predict", table_run, "new.csv", "--top", 5, "--probabilities")
    rows = table(linsey(*options).out)
    names = [f"p_{name}" for name in SPECIES]
    assert list(rows[0]) == [*PLAIN, "class_2", "probability_2", *names]
    records = [json.loads(line) for line in linsey(*options, "--json").out.splitlines()]
    for number, (row, record) in enumerate(zip(rows, records, strict=True)):
        assert (record["file"], record["row"]) == ("new.csv", number)
        ranked = [(row["class"], float(row["probability"])),
                  (row["class_2"], float(row["probability_2"]))]  # fmt: skip
        assert [(one["class"], one["probability"]) for one in record["top"]] == ranked
        assert ranked[0] == (record["class"], record["probability"])
        assert ranked[0][1] >= ranked[1][1]
        assert record["probabilities"] == {
            name: float(row[f"p_{name}"]) for name in SPECIES
        }


ODD = ["a,b.png", 'say "hi".png', "two\nlines.png", "caf\u00e9.png", b"\xff.png"]


def test_odd_names_of_files_read_back(linsey, image_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [os.fsdecode(name) for name in ODD]
    for name in names:
        Image.fromarray(pixels(0, 1)).save(folder / name, "PNG")
    assert linsey("predict", image_run, folder, "--out", "o.csv").code == 0
    with open("o.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {str(folder / name) for name in names}
    assert {row["row"] for row in rows} == {""}
    printed = linsey("predict", image_run, folder, "--json").out
    assert {json.loads(line)["file"] for line in printed.splitlines()} == {
        str(folder / name) for name in names
    }


def test_images_of_the_run_get_the_answers_of_arrays(linsey, image_run, tmp_path):
    images = np.stack([pixels(kind % 2, 50 + kind) for kind in range(7)])
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    np.savez(tmp_path / "new.npz", x=images)
    np.save(tmp_path / "new.npy", images)
    files = [f"{number}.png" for number in range(7)]
    answers = [
        [(row["class"], row["probability"]) for row in table(found.out)]
        for found in (
            linsey("predict", image_run, *files),
            linsey("predict", image_run, "new.npz"),
            linsey("predict", image_run, "new.npy"),
        )
    ]
    assert len(answers[0]) == 7
    assert answers[0] == answers[1] == answers[2]


def test_broken_images_are_refused_or_listed(linsey, image_run, tmp_path):
    Image.fromarray(pixels(1, 3)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    files = ("bad.png", "good.png")
    refused = linsey("predict", image_run, *files, "--out", "o.csv")
    assert refused.code == 2 and refused.error.startswith("bad.png: not a readable")
    assert "--skip-broken leaves such images out" in refused.error
    assert not os.path.lexists("o.csv")
    result = linsey("predict", image_run, *files, "--out", "o.csv", "--skip-broken")
    assert result.code == 0 and "1 broken image left out" in result.out
    assert result.err.startswith("linsey: warning: left out: bad.png: not a readable")
    with open("o.csv") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["good.png"]
    assert (
        "no example is left"
        in linsey("predict", image_run, "bad.png", "--skip-broken").err
    )


def test_a_grey_image_is_taken_by_a_model_of_colors(linsey, image_run, tmp_path):
    grey = np.repeat(pixels(0, 2)[..., :1], 3, -1)
    Image.fromarray(grey).save(tmp_path / "color.png")
    Image.fromarray(grey[..., 0]).save(tmp_path / "grey.png")
    rows = table(linsey("predict", image_run, "color.png", "grey.png").out)
    assert rows[0]["probability"] == rows[1]["probability"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["no.png"], "no.png: no such file or folder"),
        (["notes.txt"], "notes.txt: a file of an unknown kind"),
        (["empty"], "empty: no images"),
        (["flat.npz"], "flat.npz: x: examples of another shape"),
        (["one.npy"], "(one example is x[None])"),
        (["table.csv"], "a table, and the model takes images"),
        (["two.npz"], "two.npz: no array of examples"),
        ([], "FILES"),
    ],
)
def test_refusals_leave_nothing(linsey, image_run, tmp_path, files, words):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "flat.npz", x=np.ones((4, 6)))
    np.save(tmp_path / "one.npy", pixels(0, 0))
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    write_table(tmp_path / "table.csv", table_rows(3))
    before = sorted(os.listdir())
    result = linsey("predict", image_run, *files, "--out", "o.csv")
    assert result.code == 2 and words in result.error
    assert sorted(os.listdir()) == before


def test_nothing_is_overwritten(linsey, image_run, tmp_path):
    np.save(tmp_path / "new.npy", pixels(0, 0)[None])
    (tmp_path / "o.csv").write_text("mine")
    error = linsey("predict", image_run, "new.npy", "--out", "o.csv").error
    assert "is there already (name another one" in error
    assert (tmp_path / "o.csv").read_text() == "mine"
    error = linsey("predict", image_run, "new.npy", "--out", "no/such/o.csv").error
    assert "(mkdir -p no/such)" in error
    os.makedirs("no/such")
    assert linsey("predict", image_run, "new.npy", "--out", "no/such/o.csv").code == 0


def test_values_that_overflow_are_named(linsey, table_run, tmp_path):
    rows = table_rows(3)
    rows[1]["size"] = "1e300"
    write_table(tmp_path / "new.csv", rows)
    error = linsey("predict", table_run, "new.csv", "--out", "o.csv").error
    assert error.startswith("new.csv: row 1: the values are too large")
    assert not os.path.lexists("o.csv")


def test_another_step_answers_if_it_is_asked_for(linsey, table_run, tmp_path):
    write_table(tmp_path / "new.csv", table_rows(5))
    steps = sorted((table_run / "checkpoints").iterdir())
    outs = []
    for options in ((steps[0],), (table_run, "--step", int(steps[0].name[-8:])),
                    (table_run,)):  # fmt: skip
        outs.append(linsey("predict", options[0], "new.csv", *options[1:]).out)
    assert outs[0] == outs[1] != outs[2]


def test_files_are_read_when_they_are_needed(tmp_path):
    """Any number of files takes the memory of a batch."""
    for number in range(3):
        Image.fromarray(pixels(0, number)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_text("no image")
    config, known = TrainConfig(data="images"), Known(("a", "b"))
    terms = Terms(config, (8, 8, 3), known, "uint8", "refuse")
    found = batches(read_examples([tmp_path], terms, print), 2)
    assert [Path(one.file).name for one in next(found)] == ["0.png", "1.png"]
    with pytest.raises(InputError, match="3.png: not a readable image"):
        next(found)


@pytest.mark.parametrize(
    ("shape", "dtype", "data", "words"),
    [
        ((4,), "uint8", "a.npz", "the model takes no square images"),
        ((8, 6, 3), "uint8", "a.npz", "the model takes no square images"),
        ((8, 8, 1), "float64", "a.npz", "pixels would have another scale"),
        ((8, 8, 1), "", "digits", "pixels would have another scale"),
        ((8, 8, 1), "uint8", "a.npz", None),
        ((8, 8, 3), "float32", "folder", None),
        ((8, 8, 3), "", "folder", None),
    ],
)
def test_images_are_for_models_that_learned_from_pixels(shape, dtype, data, words):
    known = Known(("a", "b"))
    terms = Terms(TrainConfig(data=data), shape, known, dtype, "refuse")
    if words is None:
        terms.refuse_images(Path("a.png"))
        return
    with pytest.raises(InputError, match=words):
        terms.refuse_images(Path("a.png"))


def headless(tmp_path, names, lines, **options):
    """Rows that a table without a line of names gives to a model."""
    (tmp_path / "t.csv").write_text("".join(f"{line}\n" for line in lines))
    known = Known(("a", "b"), names, (0.5,) * max(len(names), 2))
    config = TrainConfig(data="t.csv", **options)
    terms = Terms(config, (max(len(names), 2),), known, "float64", "mean")
    told = []
    rows = list(read_table(tmp_path / "t.csv", terms, told.append))
    return [row.x.tolist() for row in rows], told


def test_columns_without_names_are_found_by_their_order(tmp_path):
    names = ("column 2", "column 3=red", "column 3=blue")
    lines = ["1,red", "2,blue", ",red"]
    expected = [[1, 1, 0], [2, 0, 1], [0.5, 1, 0]]
    assert headless(tmp_path, names, lines) == (expected, [])
    labelled = [f"a,{line}" for line in lines]
    found = headless(tmp_path, names, labelled, target="column 1")
    assert found == (expected, [])


def test_columns_of_a_model_of_arrays_are_taken_in_their_order(tmp_path):
    assert headless(tmp_path, (), ["1,2", "3,4"])[0] == [[1, 2], [3, 4]]
    labelled = ["p,label,q", "1,a,2", "3,b,4"]
    assert headless(tmp_path, (), labelled)[0] == [[1, 2], [3, 4]]
    with pytest.raises(InputError, match="another number of columns"):
        headless(tmp_path, (), ["1,2,3", "4,5,6"])
