"""The results of `linsey eval` as JSON, for programs.

`SCHEMA` names the format of the record. Its number changes if an entry changes its
meaning or is removed, but not if one is added. NaN and infinite numbers are `null`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from linsey.app.run_folder import CHECKPOINTS, RunFolder
from linsey.app.scores import Calibration, ClassScores
from linsey.app.steps import Evaluation
from linsey.checkpoint import durable
from linsey.checkpoint.step import VerifiedCheckpoint

SCHEMA = "linsey.eval/1"
MOST_CONFUSED = 20
MAX_MATRIX = 1000
"""The largest number of classes for which the record has a confusion matrix."""
_LONGEST_NAME = 40


def evaluation_record(
    result: Evaluation,
    class_names: tuple[str, ...],
    checkpoint: VerifiedCheckpoint,
    data: str,
) -> dict[str, Any]:
    """Return an evaluation as JSON values.

    Args:
        result: the evaluation.
        class_names: one for each class.
        checkpoint: the checkpoint that was evaluated.
        data: the name of the data.

    Returns:
        `schema`, `checkpoint`, `step`, `data`, `examples`, `correct`, `loss` (mean
        cross entropy in nats), `accuracy`, `top5_accuracy` (`null` with five classes or
        fewer), `macro_average` and `weighted_average`, `classes` (with `precision`,
        `recall`, `f1`, `support` and `predicted`), `confusion_matrix` (rows are true
        classes, columns predicted ones; `null` with more than 1,000), `most_confused`,
        and `calibration` (with `expected_calibration_error`, `mean_confidence` and
        `bins`).
    """
    answers = result.answers
    scores = ClassScores.of(result.confusion)
    columns = (scores.precision, scores.recall, scores.f1, scores.support,
               scores.predicted)  # fmt: skip
    keys = ("class", "precision", "recall", "f1", "support", "predicted")
    rows = zip(class_names, *(c.tolist() for c in columns), strict=True)
    has_matrix = len(class_names) <= MAX_MATRIX
    calibration = Calibration.of(answers.confidence, answers.is_right)
    confused = answers.most_confused(MOST_CONFUSED)
    return {
        "schema": SCHEMA,
        "checkpoint": str(checkpoint.folder),
        "step": checkpoint.step,
        "data": data,
        "examples": result.count,
        "correct": result.correct,
        "loss": _finite(result.loss),
        "accuracy": result.accuracy,
        "top5_accuracy": answers.top_accuracy(),
        "macro_average": dict(vars(scores.macro())),
        "weighted_average": dict(vars(scores.weighted())),
        "classes": [dict(zip(keys, row, strict=True)) for row in rows],
        "confusion_matrix": result.confusion.tolist() if has_matrix else None,
        "most_confused": [
            {"true": class_names[true], "predicted": class_names[said], "count": count}
            for true, said, count in confused
        ],
        "calibration": {
            "expected_calibration_error": _finite(calibration.error),
            "mean_confidence": _finite(calibration.confidence),
            "bins": [dict(vars(one)) for one in calibration.bins],
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_json(record: dict[str, Any]) -> str:
    """Return a record as text, with one line for each entry."""
    entries = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in record.items())
    return "{\n" + ",\n".join(entries) + "\n}"


def place_of(checkpoint: VerifiedCheckpoint, other_data: str | None) -> Path | None:
    """Return the path for the record of an evaluation in the folder of its run.

    Args:
        checkpoint: the checkpoint that was evaluated.
        other_data: the data, if they are not those of the run.

    Returns:
        The path; `None` for a checkpoint that is not in the folder of a run.
    """
    folder = RunFolder(checkpoint.folder.parent.parent)
    if checkpoint.folder.parent.name != CHECKPOINTS or not folder.config.is_file():
        return None
    name = f"eval_{checkpoint.folder.name}"
    if other_data is not None:
        name += "_on_" + re.sub(r"[^\w.-]", "_", Path(other_data).stem)[:_LONGEST_NAME]
    return folder.path / f"{name}.json"


def save(path: Path, record: dict[str, Any]) -> None:
    """Write a record in place of that of an earlier evaluation, if there is one.

    Raises:
        DiskError: a file cannot be read or written.
    """
    durable.write_file(path, (to_json(record) + "\n").encode())
