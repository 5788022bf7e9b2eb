"""The types of the metadata that a run saves in a checkpoint, beside its arrays.

The types are the schema: the metadata of a checkpoint are checked against them before
anything is built from it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from linsey.app.config import Identity, Shape, TrainConfig
from linsey.app.dataset import ClassNames, Known
from linsey.app.standardizer import StandardizerRecord
from linsey.app.window import RECENT, Window
from linsey.checkpoint.step import VerifiedCheckpoint
from linsey.errors import InputError
from linsey.schema import Between, Matching, conform

MAX_VALUES = 2**28
"""The largest number of values in one example."""
_Step = Annotated[int, Between(-1, 2**53)]
_Count = Annotated[int, Between(0, 2**53)]
_Accuracy = Annotated[float, Between(-1.0, 1.0)]
_Sha256 = Annotated[str, Matching("[0-9a-f]{64}", "64 hexadecimal digits")]
_Word = Annotated[str, Between(0, 1000)]


@dataclasses.dataclass
class Scores:
    """The scores of a run, which each checkpoint holds beside the state.

    Attributes:
        evaluated_at: the last step that was evaluated.
        accuracy: the accuracy at that step, on the validation part or, without one, on
            the test part.
        best_step: the first step with the best accuracy.
        best_accuracy: its accuracy.
        since_best: number of evaluations after it.
        window: the steps since the last record of training.
        skipped_at: the skipped ones among the most recent steps.
    """

    evaluated_at: _Step = -1
    accuracy: _Accuracy = -1.0
    best_step: _Step = -1
    best_accuracy: _Accuracy = -1.0
    since_best: _Count = 0
    window: Window = Window()
    skipped_at: Annotated[tuple[_Step, ...], Between(0, RECENT)] = ()

    def evaluated(self, step: int, accuracy: float) -> None:
        """Record an evaluation."""
        self.evaluated_at, self.accuracy = step, accuracy
        self.since_best += 1
        if accuracy > self.best_accuracy:
            self.best_step, self.best_accuracy, self.since_best = step, accuracy, 0


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """A record of the training data.

    Attributes:
        name: the file, the folder or `digits`.
        sha256: the SHA-256 of all arrays.
        shape: the shape of one example.
        class_names: one for each class.
        standardizer: mean and standard deviation of the training part.
        feature_names: the names of the inputs, if they are the columns of a table.
        dtype: the dtype of the raw examples; empty in records of older versions.
    """

    name: Annotated[str, Between(1, 4096)]
    sha256: _Sha256
    shape: Shape
    class_names: ClassNames
    standardizer: StandardizerRecord
    feature_names: Annotated[tuple[_Word, ...], Between(0, MAX_VALUES)] = ()
    dtype: Annotated[str, Between(0, 100)] = ""

    @property
    def known(self) -> Known:
        """The facts that other data are read by."""
        return Known(self.class_names, self.feature_names, self.standardizer.mean)


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """The origin of a user's own model.

    Attributes:
        name: the value of `--model`.
        sha256: the SHA-256 of its source; `None` if there was no source.
    """

    name: Annotated[str, Between(1, 4096)]
    sha256: _Sha256 | None


@dataclasses.dataclass(frozen=True)
class RunMetadata:
    """The metadata of a checkpoint that `linsey train` wrote.

    Attributes:
        config: the options that decide the numbers.
        config_sha256: their digest.
        environment: what the exact results depend on besides these options.
        cursor: the scores so far.
        data: the training data.
        model: the origin of the model; `None` for models of linsey.
    """

    config: Identity
    config_sha256: _Sha256
    environment: Annotated[dict[str, _Word | int], Between(0, 100)]
    cursor: Scores
    data: DataRecord
    model: ModelRecord | None = None

    @property
    def train_config(self) -> TrainConfig:
        """The options, with those of where and how it is recorded at their defaults."""
        return TrainConfig(**vars(self.config))


def run_metadata(checkpoint: VerifiedCheckpoint) -> RunMetadata:
    """Check the metadata that a run saved in a checkpoint.

    Args:
        checkpoint: any verified checkpoint.

    Returns:
        Its metadata.

    Raises:
        InputError: `linsey train` did not write it; the error names the wrong entry.
    """
    folder, step = checkpoint.folder, checkpoint.step
    metadata = conform(checkpoint.metadata, RunMetadata, file=folder, key="metadata")
    data, cursor = metadata.data, metadata.cursor
    facts = [
        ("data.shape", math.prod(data.shape), 1, MAX_VALUES),
        ("data.standardizer.mean", len(data.standardizer.mean), *[data.shape[-1]] * 2),
        ("data.standardizer.std", len(data.standardizer.std), *[data.shape[-1]] * 2),
        ("cursor.best_step", cursor.best_step, -1, step),
        ("cursor.evaluated_at", cursor.evaluated_at, -1, step),
        # Each stage has arrays of its own: a forged depth must not build a huge model.
        ("config.depth", metadata.config.depth, 1, max(1, len(checkpoint.arrays))),
    ]
    for key, found, low, high in facts:
        if not low <= found <= high:
            raise InputError(
                "does not fit the rest of the checkpoint", file=folder,
                key=f"metadata.{key}", expected=Between(low, high), found=found,
            )  # fmt: skip
    return metadata
