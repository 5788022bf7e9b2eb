"""The benchmarks measure what they say and run to their end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness, hlo, scale

ROOT = Path(__file__).parents[2]


def test_ratio_is_the_median_of_paired_ratios():
    # The second round hit a slow moment: paired ratios do not see it.
    row = harness.summarise("task", "rival", [2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert row.ratio == 2.0
    assert (row.low, row.median, row.high) == (2.0, 2.0, 20.0)


@pytest.mark.slow
def test_rivals_take_turns_and_the_order_rotates():
    calls = []
    cases = [
        harness.Case(name, lambda name=name: lambda: calls.append(name))
        for name in ("a", "b", "c")
    ]
    rows = harness.measure("task", cases, rounds=3, baseline="a")
    warm_up, rounds = calls[:3], calls[3:]
    assert warm_up == ["a", "b", "c"]
    assert rounds == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [row.rival for row in rows] == ["a", "b", "c"]


def test_a_missing_rival_is_named_and_left_out(capsys):
    def absent():
        raise ImportError("No module named 'absent'")

    cases = harness.available({"here": lambda: lambda: lambda: None, "absent": absent})
    assert [case.rival for case in cases] == ["here"]
    assert "skipped absent: No module named 'absent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (1.5, "s", "1.5 s"),
        (0.0124, "s", "12.4 ms"),
        (3e-7, "s", "300 ns"),
        (5_310_000_000, "B", "5310 MB"),
        (84, "B", "84 B"),
        (0, "B", "0 B"),
        (1234.5, "/s", "1234 /s"),
        (2.5e-8, "", "2.5e-08"),
        (0, "", "0"),
    ],
)
def test_values_carry_the_unit_that_suits_them(value, unit, words):
    assert harness.in_words(value, unit) == words


PROGRAM = """\
HloModule jit_f, num_partitions=4

%rare (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  ROOT %sum = f32[64]{0} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add
}

%usual (q: f32[64]) -> f32[64] {
  ROOT %q = f32[64]{0} parameter(0)
}

%body (c: (s32[], f32[64])) -> (s32[], f32[64]) {
  %c = (s32[], f32[64]{0}) parameter(0)
  %v = f32[64]{0} get-tuple-element(%c), index=1
  %moved = f32[64]{0} collective-permute(%v), source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[], f32[64]{0}) tuple(%i, %moved)
}

ENTRY %main (x: f32[64], y: bf16[2,8]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  %two = (f32[64]{0}, bf16[2,8]{1,0}) all-reduce(%x, %y), replica_groups={{0,1,2,3}}
  %begun = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(%y), dimensions={0}
  %done = bf16[8,8]{1,0} all-gather-done(%begun)
  %part = f32[16]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  %either = f32[64]{0} conditional(%i, %x, %x), branch_computations={%usual, %rare}
  ROOT %loop = (s32[], f32[64]{0}) while(%t), condition=%less, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_collectives_are_counted_on_the_usual_path():
    # all-reduce of two, all-gather, reduce-scatter, and five times round the loop
    sent = (256 + 32) + 128 + 4 * 64 + 5 * 256
    assert hlo.traffic(PROGRAM) == hlo.Traffic(3 + 5, sent)
    assert hlo.traffic(PROGRAM, max) == hlo.Traffic(3 + 5 + 1, sent + 256)


@pytest.mark.slow
def test_scale_shows_what_a_batch_norm_sends():
    options = "--small --models resnet --ways jit --passes forward".split()
    linsey, flax = scale.in_new_process(4, options)
    assert (linsey.rival, flax.rival, flax.task) == (
        "linsey",
        "flax",
        "resnet, forward",
    )
    # Of 704 channels the mean and the mean of squares, and the loss.
    assert flax.sent == 2 * 4 * (3 * 64 + 2 * 256) + 4
    assert flax.at_most == flax.collectives == 5
    assert 0 < linsey.collectives <= linsey.at_most
    assert linsey.arguments == flax.arguments > 0 < linsey.temporary


def recorded(name, folder, options=()):
    """What one round of a benchmark writes, beside the results that are committed."""
    subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "1", *options],
        check=True,
        cwd=ROOT,
        env=os.environ | {"BENCHMARK_RESULTS": str(folder)},
        capture_output=True,
    )
    return json.loads((folder / f"{name}.json").read_text())


def run_gpu(path, *options):
    # What is compiled here is not timed: the sooner it is, the better.
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", "benchmarks.gpu", *options, "--output", str(path)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | flags, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_program_for_a_gpu_runs_on_a_cpu(tmp_path):
    path = tmp_path / "folder" / "gpu.json"
    done = run_gpu(path, "--platform", "cpu", "--small")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"written to {path}\n" and "resnet step" in done.stderr
    assert [file.name for file in path.parent.iterdir()] == ["gpu.json"]
    record = json.loads(path.read_text())
    assert record["finished"] and record["machine"]["platform"] == "cpu"
    parts = record["parts"]
    assert list(parts) == "correctness norm resnet transformer tracing init".split()
    assert all(part["rows"] and not part["errors"] for part in parts.values())
    assert all(row["right"] for row in parts["correctness"]["rows"])
    for name in "norm", "resnet", "transformer":
        assert any(row["rival"] == "linsey" for row in parts[name]["rows"])
        ours = (r for r in parts[name]["rows"] if "torch" not in r["rival"])
        assert all(row["memory"]["temp"] > 0 for row in ours)


def test_what_there_was_no_time_for_is_named_and_the_rest_is_kept(tmp_path):
    from benchmarks.gpu import Report

    path = tmp_path / "gpu.json"
    report = Report(path, seconds=1000)

    def measured(report):
        assert report.tries("first", lambda: 1) == 1
        report.add({"task": "first"})

    def broken(report):
        assert report.tries("absent", lambda: __import__("no_such_package")) is None
        assert report.tries("wrong", lambda: 1 / 0) is None
        raise RuntimeError("the part itself")

    def late(report):
        report.deadline = report.start
        assert report.tries("last", lambda: 1) is None

    for name, part in {"norm": measured, "resnet": broken, "init": late}.items():
        report.run(name, part)
        assert name in json.loads(path.read_text())["parts"]  # as it goes along
    record = json.loads(path.read_text())
    parts = record["parts"]
    assert not record["finished"] and parts["norm"]["rows"] == [{"task": "first"}]
    assert parts["resnet"]["skipped"] == ["absent: No module named 'no_such_package'"]
    errors = [error["error"] for error in parts["resnet"]["errors"]]
    assert errors[0] == "ZeroDivisionError: division by zero"
    assert "RuntimeError: the part itself" in errors[1]
    assert parts["init"]["skipped"] == ["last: the time for this part is spent"]


def test_without_a_gpu_it_says_how_to_run(tmp_path):
    done = run_gpu(tmp_path / "gpu.json", "--minutes", "0")
    assert done.returncode == 2 and "--platform cpu --small" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("images", "--images 400 --width 40 --height 30 --side 8 --batch 16 --epochs 2 "
                   "--channels 16 --workers 1"),
        ("table", "--examples 2000 --epochs 2"),
        ("training_memory", "--scale 0.01"),
        ("scale", "--small --devices 1 4"),
    ],
)  # fmt: skip
@pytest.mark.timeout(900)
def test_benchmark_of_the_command_runs_in_small(name, options, tmp_path):
    record = recorded(name, tmp_path, options.split())
    assert any(row["rival"].startswith("linsey") for row in record["rows"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "trace",
        "dispatch",
        "import_time",
        "optim",
        "batch_norm",
        "step",
        "objects",
        # ResNet-50 six times, with what it takes to initialise and to compile it.
        pytest.param("fold", marks=pytest.mark.timeout(900)),
    ],
)
def test_benchmark_runs_and_writes_its_figures(name, tmp_path):
    record = recorded(name, tmp_path)
    assert record["rounds"] == 1
    assert any(row["rival"].startswith("linsey") for row in record["rows"])
    # Errors may be zero, and are not a number where a rival gets it wrong.
    assert all(row["median"] > 0 for row in record["rows"] if row["unit"])
