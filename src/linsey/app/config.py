"""The options of the commands, as typed dataclasses.

A field is an option of the command line, a key of a TOML file, and a line of the
configuration saved with a run. `TrainConfig` is a data part, a model part, an
optimizer part (these three decide the numbers of a run) and a run part, which may
change when a run is resumed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from linsey.errors import InputError

Model = Literal["mlp", "cnn", "resnet"]
Shape = tuple[int, ...]  # of one example, channels last
Norm = Literal["batch", "none", "layer", "group"]
OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["cosine", "constant", "step"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is learned from."""

    data: str = "digits"
    """Data to learn from: `digits` (ships with linsey), FILE.npz with arrays x and y or
    x_train, y_train, x_test, y_test, or a folder with a folder of images per class (or
    with train/ and test/ folders of those)."""
    test_fraction: float = 0.2
    """Fraction of each class held out for testing if the data have no test part."""
    split_seed: int = 0
    """Decides which examples are held out."""
    image_size: int = 32
    """Images from a folder are resized to squares of this many pixels."""
    classes: int | None = None
    """Number of classes. Defaults to the largest training label plus one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is trained."""

    model: Model = "cnn"
    """Perceptron, convolutional network, or residual network."""
    norm: Norm = "batch"
    """Normalization after each dense layer and convolution."""
    width: int = 32
    """Features of the first stage; layers of an mlp have 4 times as many units."""
    depth: int = 2
    """Stages of a cnn or resnet, hidden layers of an mlp."""
    dropout: float = 0.2
    """Fraction of the last hidden units dropped in training, in [0, 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How it is trained."""

    optimizer: OptimizerName = "sgd"
    """Gradient descent with Nesterov momentum, Adam, or AdamW."""
    lr: float = 0.05
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """Learning rate: cosine to 0, constant, or tenfold less at 1/2 and 3/4."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises to its peak."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    weight_decay: float = 1e-4
    """Weight decay of kernels, not of biases and scales; for sgd and adamw."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient; 0 does not clip."""
    epochs: int = 30
    """Passes over the training data."""
    batch_size: int = 64
    """Examples per step, over all devices."""
    seed: int = 0
    """Decides initial parameters, order of the data, and noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where it is recorded."""

    out: Path | None = None
    """Folder of the run. Defaults to a new one under runs/."""
    config: Path | None = None
    """TOML file with any of these options; the command line wins over it."""
    resume: bool = False
    """Continue the run in --out, bit for bit; start it if there is no checkpoint."""
    fallback: bool = False
    """With --resume: put damaged checkpoints aside and use the newest intact one."""
    compare: bool = False
    """Train with and without normalization, side by side."""
    compare_factors: tuple[float, ...] = (0.1, 1.0, 10.0)
    """--compare trains at --lr times each of these."""
    eval_every: int = 0
    """Steps between evaluations; 0 is once an epoch (--compare: four times)."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 is once an epoch."""
    keep: int = 2
    """Newest checkpoints that are kept, beside the best one."""
    log_every: int = 10
    """Steps between records of the training loss."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    plain: bool = False
    """Print plain lines instead of live progress, as when output is no terminal."""
    threads: int | None = None
    """Number of threads to compute with; the same number gives the same bits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(RunOptions, OptimizerOptions, ModelOptions, DataOptions):
    """Train a classifier and record the run in a folder."""

    @property
    def identity(self) -> dict[str, object]:
        """The options that decide the numbers of the run."""
        parts = (DataOptions, ModelOptions, OptimizerOptions)
        names = [field.name for part in parts for field in dataclasses.fields(part)]
        return {name: getattr(self, name) for name in names}

    @property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """List what a checkpoint holds, after verifying every byte of it.

    Of a checkpoint of Orbax, a file of msgpack bytes, or one of safetensors, names,
    shapes and dtypes are listed.
    """

    checkpoint: Path
    """Folder of a run, or of one step in it."""
    step: int | None = None
    """Step in the folder of a run. Defaults to the newest."""
    best: bool = False
    """Use the step with the best test accuracy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(InspectConfig):
    """Evaluate a checkpoint with its running statistics."""

    data: str | None = None
    """Other data than it was trained on; all of them, if they have no test part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Copy a checkpoint into another format, and compare every array.

    What is read is recognized: a step of linsey, of any version; a checkpoint of Orbax;
    a file of msgpack bytes, as Flax writes it. Nothing is overwritten.
    """

    source: Path
    """The checkpoint to read."""
    target: Path
    """The file or folder to write; its name may say the format: `step_00000042`,
    `NAME.orbax`, `NAME.msgpack`."""
    to: Literal["step", "orbax", "msgpack"] | None = None
    """Format to write."""
    step: int | None = None
    """Number of the step to write. Defaults to that of the source."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummaryConfig(ModelOptions):
    """Show the layers of a model with shapes and sizes."""

    shape: Shape = (8, 8, 1)
    """Shape of one example, channels last."""
    classes: int = 10
    """Number of classes."""
    batch_size: int = 64
    """Examples in the batch that is shown."""


def resolve(config: TrainConfig) -> TrainConfig:
    """Make the path of the data independent of the current folder."""
    if config.data == "digits":
        return config
    path = Path(config.data).expanduser().resolve()
    return dataclasses.replace(config, data=str(path))


def validate(config: object) -> None:
    """Refuse options that are out of their range.

    Raises:
        InputError: it names the option and its range.
    """
    for is_valid, expected, names in _RANGES:
        for name in names.split():
            value = getattr(config, name, None)
            if value is not None and not is_valid(value):
                option = "--" + name.replace("_", "-")
                raise InputError(
                    "out of range", key=option, expected=expected, found=value
                )


def _all_positive(values: tuple[float, ...]) -> bool:
    return bool(values) and all(0 < value < math.inf for value in values)


_AT_LEAST_1 = "image_size width depth epochs batch_size keep log_every threads"
_AT_LEAST_0 = (
    "split_seed warmup_epochs weight_decay clip_norm eval_every checkpoint_every step"
)
# Whether a value is in the range, the range in words, and the options that have it.
_RANGES: tuple[tuple[Callable[..., bool], str, str], ...] = (
    (lambda value: 1 <= value < math.inf, "at least 1", _AT_LEAST_1),
    (lambda value: 0 <= value < math.inf, "at least 0", _AT_LEAST_0),
    (lambda value: value >= 2, "at least 2", "classes"),
    (lambda value: 0 < value < math.inf, "a positive number", "lr"),
    (lambda value: 0 < value < 1, "a number between 0 and 1", "test_fraction"),
    (lambda value: 0 <= value < 1, "a number in [0, 1)", "dropout momentum"),
    (lambda value: 0 <= value < 2**32, "a number from 0 to 4294967295", "seed"),
    (_all_positive, "positive numbers", "compare_factors shape"),
)
