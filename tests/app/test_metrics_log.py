import json

import pytest

from linsey.app.metrics_log import MetricsLog, read
from linsey.errors import InputError

MORE = {"accuracy": 0.5, "epoch": 1.0}


def steps(records):
    return [(record["kind"], record["step"]) for record in records]


def test_read_gives_the_history_of_one_run(tmp_path):
    log = MetricsLog(tmp_path / "log")
    log.write("start", 0)
    for step in (2, 4, 6):
        log.write("train", step, loss=float(step), **MORE)
    log.close()
    log = MetricsLog(tmp_path / "log")  # killed after 6, its checkpoint was at 2
    log.write("resume", 2)
    log.write("train", 4, loss=-4.0, **MORE)
    log.close()
    records = read(tmp_path / "log")
    assert steps(records) == [("start", 0), ("train", 2), ("train", 4)]
    assert [record.get("loss") for record in records] == [None, 2.0, -4.0]
    assert len((tmp_path / "log").read_bytes().splitlines()) == 6  # nothing was removed


def test_torn_line_is_left_out_and_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"kind": "start", "step": 0}\n{"kind": "tra')
    log = MetricsLog(path)
    log.write("resume", 0)
    log.write("train", 1, loss=1.0, **MORE)
    log.close()
    assert steps(read(path)) == [("start", 0), ("train", 1)]


START = '{"kind": "start", "step": 0}'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["3"], "line 1: not a record"),
        ([START, "[]"], "line 2: not a record"),
        ([START, '{"kind": "other", "step": 0}'], r"line 2.kind: .* expected one of"),
        ([START, '{"kind": "resume"}'], "line 2.step: an entry is missing"),
        ([START, '{"kind": "resume", "step": -1}'], "line 2.step: out of range"),
        ([START, '{"kind": "eval", "step": 2}'], "line 2.loss: an entry is missing"),
        ([START, "{", '{"kind": "skip", "step": 2}'], "line 2: not JSON"),
        ([START, "}", START], "line 2: not JSON"),
        ([START, "\\xff"], "line 2: not JSON"),
        ([START, '{"kind": "skip", "step": 2, "x": {}}'], "line 2.x"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, lines, told):
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=told):
        read(tmp_path / "log")
    with pytest.raises(InputError, match=told):
        MetricsLog(tmp_path / "log")


@pytest.mark.parametrize(
    "torn", ["{", '{"kind": "eval", "st', "\0" * 9, '{"ki\n{"kind": "r']
)
def test_lines_that_a_kill_cut_short_are_left_out(tmp_path, torn):
    log = tmp_path / "log"
    log.write_text(f"{START}\n{torn}")
    assert steps(read(log)) == [("start", 0)]
    log.write_text(f'{START}\n{torn}\n{{"kind": "resume", "step": 0}}\n')
    assert steps(read(log)) == [("start", 0)]


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    log = MetricsLog(tmp_path / "log")
    log.write("eval", 1, loss=float("nan"))
    log.close()
    assert json.loads((tmp_path / "log").read_text())["loss"] is None
