"""`linsey export`: plain JAX runs what is written, and gets what the model computes."""

import hashlib
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest

import linsey as package
from linsey.app import exported, image_array
from linsey.app.images import decode
from tests.app.served import pixels


def read(folder):
    record = json.loads((folder / "program.json").read_text())
    program = (folder / record["program"]).read_bytes()
    assert hashlib.sha256(program).hexdigest() == record["program_sha256"]
    return jax.export.deserialize(bytearray(program)), record


@pytest.fixture(scope="module")
def model(image_run):
    return package.load(image_run)


@pytest.fixture(scope="module")
def plain(image_run, tmp_path_factory):
    from linsey.app import cli

    target, read = tmp_path_factory.mktemp("export") / "served", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            image_array, "decode", lambda *args: read.append(args) or decode(*args)
        )
        assert cli.main(["export", str(image_run), str(target)]) == 0
    assert len(read) == 4  # only what is compared, not the images it was trained on
    return target


@pytest.mark.parametrize("count", [1, 3, 7])
def test_batches_of_any_size_are_what_the_model_computes(plain, model, count):
    program, record = read(plain)
    images = np.stack([pixels(i % 2, 30 + i) for i in range(count)])
    assert record["input"]["dtype"] == "uint8"
    answer, right = program.call(images), model.predict(images)
    assert answer["logits"].shape == (count, 2)
    scale = np.abs(right.logits).max()
    np.testing.assert_allclose(answer["logits"], right.logits, atol=1e-5 * scale)
    np.testing.assert_allclose(answer["probabilities"], right.probabilities, atol=1e-5)


def test_the_record_tells_how_to_call_it_and_how_it_was_checked(plain, model):
    _, record = read(plain)
    assert list(record) == [
        "schema", "program", "program_sha256", "class_names", "input", "outputs",
        "platforms", "is_folded", "run", "check", "versions",
    ]  # fmt: skip
    assert record["class_names"] == ["left, dark", "right"]
    assert record["input"]["shape"] == ["batch", 8, 8, 3]
    assert record["platforms"] == ["cpu"] and not record["is_folded"]
    assert record["run"] == {
        "model": "cnn", "data": model.metadata.data.name, "step": model.step,
    }  # fmt: skip
    check = record["check"]
    assert check["inputs"] == "the test part" and check["examples"] == 4
    assert max(check["logits"], check["probabilities"]) <= check["tolerance"] == 1e-5
    assert record["versions"]["jax"] == jax.__version__


def test_no_kernel_is_called(plain):
    """What is exported has to run where there is no linsey."""
    program, _ = read(plain)
    calls = [line for line in program.mlir_module().splitlines()
             if "custom_call" in line and "shape_assertion" not in line]  # fmt: skip
    assert not calls


@pytest.mark.slow
def test_batch_norms_are_folded_and_other_platforms_served(
    linsey, image_run, model, tmp_path
):
    options = ("--fold", "--platforms", "cpu,cuda,tpu", "--json")
    result = linsey("export", image_run, "out", *options)
    assert (result.code, result.err) == (0, "")
    program, record = read(tmp_path / "out")
    assert json.loads(result.out) == record
    assert record["is_folded"] and program.platforms == ("cpu", "cuda", "tpu")
    assert "rsqrt" not in program.mlir_module()
    images = np.stack([pixels(0, 1), pixels(1, 2)])
    right = model.predict(images).logits
    found = program.call(images)["logits"]
    np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())


@pytest.mark.slow
def test_a_table_of_years_is_standardized_in_the_program(linsey, table_run, tmp_path):
    """Rounded to float32, a mean of 2,019 would shift years by 1e-4 / 2.6."""
    result = linsey("export", table_run, "raw")
    assert result.code == 0
    program, record = read(tmp_path / "raw")
    table = package.load(table_run)
    assert record["input"]["feature_names"] == list(table.feature_names)
    x = np.array([[2015, -1.5, 0, 1], [2023, 4, 1, 0], [2019, 0, 0, 0]])
    right = table.predict(x).logits
    found = program.call(x.astype("f4"))["logits"]
    np.testing.assert_allclose(found, right, atol=1e-6 * np.abs(right).max())
    assert linsey("export", table_run, "std", "--inputs", "standardized").code == 0
    program, record = read(tmp_path / "std")
    assert record["input"]["kind"] == "standardized"
    found = program.call(table.preprocess(x))["logits"]
    np.testing.assert_allclose(found, right, atol=1e-6 * np.abs(right).max())


def test_one_size_of_batches_can_be_exported(linsey, table_run, tmp_path):
    assert linsey("export", table_run, "out", "--batch-size", 20).code == 0
    program, record = read(tmp_path / "out")
    assert record["input"]["shape"] == [20, 4] and record["check"]["examples"] == 20
    assert program.call(np.ones((20, 4), "f4"))["logits"].shape == (20, 2)
    with pytest.raises(ValueError, match="shape"):
        program.call(np.ones((3, 4), "f4"))


def test_without_the_data_random_numbers_are_compared_and_said(
    linsey, image_run, tmp_path
):
    shutil.copytree(image_run, tmp_path / "run")
    elsewhere = image_run.parent / "images"
    moved = image_run.parent / "moved"
    elsewhere.rename(moved)
    try:
        result = linsey("export", "run", "out")
    finally:
        moved.rename(elsewhere)
    assert result.code == 0
    assert "compared on random numbers, since the data cannot be read" in result.err
    assert read(tmp_path / "out")[1]["check"]["inputs"] == "random numbers"


@pytest.mark.slow
def test_a_program_that_differs_is_refused(linsey, image_run, tmp_path, monkeypatch):
    def wrong(standardizer):
        return lambda x: (
            (x.astype("f4") - 1.001 * standardizer.mean.astype("f4"))
            / (standardizer.std.astype("f4"))
        )

    monkeypatch.setattr(exported, "_standardization", wrong)
    error = linsey("export", image_run, "out").err
    assert "out: the program does not compute what the model does" in error
    assert "(--inputs standardized leaves standardization to you)" in error
    assert os.listdir() == []
    assert linsey("export", image_run, "out", "--inputs", "standardized").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--platforms", "cuda"], "(--platforms cpu,cuda)"),
        (["--platforms", "abacus"], "expected cpu, cuda, rocm, tpu, found abacus"),
        (["--step", "999"], "999"),
    ],
)
def test_refusals_leave_nothing(linsey, image_run, options, words):
    result = linsey("export", image_run, "out", *options)
    assert result.code == 2 and words in result.err.splitlines()[-1]
    assert os.listdir() == []


def test_nothing_is_overwritten(linsey, image_run, tmp_path):
    (tmp_path / "out").mkdir()
    assert "is there already" in linsey("export", image_run, "out").error
    assert "(mkdir -p no)" in linsey("export", image_run, "no/out").error
    assert os.listdir() == ["out"] and os.listdir("out") == []


def test_a_missing_package_is_named(linsey, image_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    error = linsey("export", image_run, "out").err.splitlines()[-1]
    assert "An exported program needs `flatbuffers`" in error
    assert os.listdir() == []
