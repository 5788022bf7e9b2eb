"""The record beside an exported program: how to call it, and where it comes from.

`SCHEMA` names the format of the record. Its number changes if an entry changes its
meaning or is removed, but not if one is added.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jaxlib

from linsey.app.config import ExportConfig
from linsey.app.exported import TOLERANCE, Exporter, ProgramDifference
from linsey.version import __version__

SCHEMA = "linsey.export/1"
PROGRAM, RECORD = "program.bin", "program.json"
"""The names of the two files."""


def export_record(
    exporter: Exporter,
    config: ExportConfig,
    program: bytes,
    difference: ProgramDifference,
    compared: tuple[str, int],
) -> dict[str, Any]:
    """Describe an exported program as JSON values.

    Args:
        exporter: the exporter that made the program.
        config: the options.
        program: the bytes of the program.
        difference: its difference from the model.
        compared: the inputs of the comparison, in words, and the number of examples.

    Returns:
        `schema`, `program` and `program_sha256`, `class_names`, `input` (with `shape`,
        `dtype`, `kind`, `feature_names`, and `mean` and `std` of the standardization),
        `outputs`, `platforms`, `is_folded`, `run` (with `model`, `data`, `step`),
        `check` (with `inputs`, `examples`, `logits`, `probabilities` and `tolerance`),
        and `versions`.
    """
    model, batch = exporter.model, exporter.batch_size or "batch"
    count = len(model.class_names)
    where, examples = compared
    return {
        "schema": SCHEMA,
        "program": PROGRAM,
        "program_sha256": hashlib.sha256(program).hexdigest(),
        "class_names": list(model.class_names),
        "input": {
            "shape": [batch, *model.shape],
            "dtype": str(exporter.dtype),
            "kind": config.inputs,
            "feature_names": list(model.feature_names),
            **model.standardizer.to_json(),
        },
        "outputs": {
            "logits": {"shape": [batch, count], "dtype": "float32"},
            "probabilities": {"shape": [batch, count], "dtype": "float32"},
        },
        "platforms": list(exporter.platforms),
        "is_folded": config.fold,
        "run": {
            "model": model.config.model,
            "data": model.metadata.data.name,
            "step": model.step,
        },
        "check": {
            "inputs": where,
            "examples": examples,
            **vars(difference),
            "tolerance": TOLERANCE,
        },
        "versions": {
            "linsey": __version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
    }
