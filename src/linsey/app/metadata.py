"""What a run records in a checkpoint beside its arrays, as types.

The types are the schema: what a checkpoint brings along is compared with them before
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
"""Values that one example may have."""
_Step = Annotated[int, Between(-1, 2**53)]
_Count = Annotated[int, Between(0, 2**53)]
_Accuracy = Annotated[float, Between(-1.0, 1.0)]
_Sha256 = Annotated[str, Matching("[0-9a-f]{64}", "64 hexadecimal digits")]
_Word = Annotated[str, Between(0, 1000)]


@dataclasses.dataclass
class Scores:
    """What a run remembers beside its state; saved with each checkpoint.

    Attributes:
        evaluated_at: the last step that was evaluated.
        accuracy: at that step, on the validation or else the test part.
        best_step: the step with the best accuracy, the first of equals.
        best_accuracy: its accuracy.
        since_best: evaluations after that one.
        window: the steps since the last record of training.
        skipped_at: those of the last steps that were not committed.
    """

    evaluated_at: _Step = -1
    accuracy: _Accuracy = -1.0
    best_step: _Step = -1
    best_accuracy: _Accuracy = -1.0
    since_best: _Count = 0
    window: Window = Window()
    skipped_at: Annotated[tuple[_Step, ...], Between(0, RECENT)] = ()

    def evaluated(self, step: int, accuracy: float) -> None:
        """Take in an evaluation."""
        self.evaluated_at, self.accuracy = step, accuracy
        self.since_best += 1
        if accuracy > self.best_accuracy:
            self.best_step, self.best_accuracy, self.since_best = step, accuracy, 0


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """What the data were.

    Attributes:
        name: the file, the folder or `digits`.
        sha256: of all arrays.
        shape: of one example.
        class_names: one for each class.
        standardizer: mean and deviation of the training part.
        feature_names: of the inputs, if they are the columns of a table.
        dtype: of the raw examples; empty in what an older linsey wrote.
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
        """The terms in which other data are read."""
        return Known(self.class_names, self.feature_names, self.standardizer.mean)


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """Where a model of one's own was.

    Attributes:
        name: what `--model` said.
        sha256: of its source; `None` if there was none.
    """

    name: Annotated[str, Between(1, 4096)]
    sha256: _Sha256 | None


@dataclasses.dataclass(frozen=True)
class RunMetadata:
    """The metadata of a checkpoint that `linsey train` wrote.

    Attributes:
        config: the options that decide the numbers.
        config_sha256: their digest.
        environment: what the bits depend on beside them.
        cursor: the scores so far.
        data: what was learned.
        model: where the model was; `None` for those of linsey.
    """

    config: Identity
    config_sha256: _Sha256
    environment: Annotated[dict[str, _Word | int], Between(0, 100)]
    cursor: Scores
    data: DataRecord
    model: ModelRecord | None = None

    @property
    def train_config(self) -> TrainConfig:
        """The options, those of the place and the course of the run left open."""
        return TrainConfig(**vars(self.config))


def run_metadata(checkpoint: VerifiedCheckpoint) -> RunMetadata:
    """Check what a run recorded in a checkpoint.

    Args:
        checkpoint: any verified one.

    Returns:
        Its metadata.

    Raises:
        InputError: `linsey train` did not write it; says which entry is wrong.
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
        # Each stage has arrays of its own: nobody builds a model for nothing.
        ("config.depth", metadata.config.depth, 1, max(1, len(checkpoint.arrays))),
    ]
    for key, found, low, high in facts:
        if not low <= found <= high:
            raise InputError(
                "does not fit the rest of the checkpoint", file=folder,
                key=f"metadata.{key}", expected=Between(low, high), found=found,
            )  # fmt: skip
    return metadata
