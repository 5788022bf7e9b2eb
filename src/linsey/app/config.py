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
import os
import typing
from pathlib import Path
from typing import Annotated, Literal

from linsey.app.job_options import JobOptions
from linsey.app.model_name import checked_name, is_architecture, is_own, short_name
from linsey.app.named_values import in_one_form
from linsey.app.training_options import TrainingOptions
from linsey.errors import InputError
from linsey.schema import Between, Matching, conform

MAX_CLASSES = 1_000_000
# Upper bounds are far above what anyone needs, and far below what would keep a machine
# busy forever before anybody notices.
_LARGEST = math.nextafter(math.inf, 0)
_Text = Annotated[str, Between(1, 4096)]
_Sha256 = Annotated[str, Matching("[0-9a-f]{64}", "64 hexadecimal digits")]
_Count = Annotated[int, Between(1, 10**9)]
_Interval = Annotated[int, Between(0, 10**12)]
_Classes = Annotated[int, Between(2, MAX_CLASSES)]
_Batch = Annotated[int, Between(1, 2**24)]
_NotNegative = Annotated[float, Between(0.0, 1e9)]
Positive = Annotated[float, Between(5e-324, _LARGEST, "a positive number")]
_Arguments = Annotated[tuple[Annotated[str, Between(1, 400)], ...], Between(0, 100)]
_Factors = Annotated[tuple[Positive, ...], Between(1, 100)]
_Fraction = Annotated[
    float, Between(5e-324, math.nextafter(1, 0), "a number between 0 and 1")
]
_Rate = Annotated[float, Between(0.0, math.nextafter(1, 0), "a number in [0, 1)")]
_Threads = Annotated[int, Between(1, max(256, 4 * (os.cpu_count() or 1)))]

# The shape of one example, channels last.
Shape = Annotated[tuple[Annotated[int, Between(1, 2**24)], ...], Between(1, 3)]
Norm = Literal["batch", "none", "layer", "group"]
BUILT_IN = frozenset(("sgd", "adam", "adamw", "cosine", "constant", "step"))
"""Optimizers and schedules that are not looked up in optax."""
# Whether optax has a function of this name is checked where optax is imported.
_Name = Between(1, 100)
OptimizerName = Annotated[str, _Name]
Schedule = Annotated[str, _Name]
Precision = Literal["float32", "bfloat16", "mixed"]
OnNonfinite = Literal["skip", "stop", "raise"]
Loader = Literal["threads", "processes"]
Missing = Literal["refuse", "mean"]
ARRAYS = "(arrays)"
"""The value of `data` in a run that got its arrays from a program."""
BATCH_SIZE = 64
"""Examples per step if `--batch-size` is not given and there are that many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of the data to learn from."""

    data: _Text = "digits"
    """Data to learn from: `digits` (ships with linsey); FILE.npz or a folder of npy
    files with x and y or x_train, y_train, x_test, y_test; FILE.npy with its labels
    beside it; FILE.csv; a folder with a folder of images per class (or with train/ and
    test/ or val/ folders of those); or a folder that save_to_disk of Hugging Face
    datasets wrote."""
    test_fraction: _Fraction = 0.2
    """Fraction of each class held out for testing if the data have no test part."""
    validation_fraction: _Rate = 0.0
    """Fraction of each class of the training part held out to choose the best step by;
    the test part is then evaluated once, at the end."""
    split_seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    """Decides which examples are held out."""
    image_size: Annotated[int, Between(1, 4096)] = 32
    """Images from a folder are resized to squares of this many pixels."""
    classes: _Classes | None = None
    """Number of classes, if labels are class numbers from 0. Defaults to the labels
    that occur in the training part."""
    target: _Text | None = None
    """Column of a table that holds the classes. Defaults to the one called label,
    target, class or y, or else to the last one."""
    missing: Missing = "refuse"
    """Missing values of a table: refuse them, or fill in the mean of the column in the
    training part."""
    skip_broken: bool = False
    """Leave images out that cannot be read, instead of refusing the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of the model to train."""

    model: _Text = "cnn"
    """`mlp` (perceptron), `cnn` (convolutional network) or `resnet` (residual network);
    an architecture of linsey.models, such as resnet18 or vit_s_16; or your own, as
    FILE.py:NAME or package.module:NAME: a module of linsey, Flax or treex, a class or
    function that makes one, or a function of variables."""
    model_arg: _Arguments = ()
    """Arguments of the model, as NAME=VALUE. The models of linsey take momentum,
    group_size, renorm and save_memory for their batch normalization; architectures also
    take epsilon and, where they have them, dropout, drop_path, attention_dropout and
    patch_size."""
    model_flag: _Text | None = None
    """Argument or field of your own model that is true in training, or `not NAME`.
    Defaults to the first of the usual names that it has."""
    norm: Norm = "batch"
    """Normalization after each dense layer and convolution."""
    width: Annotated[int, Between(1, 2**16)] = 32
    """Features of the first stage; layers of an mlp have 4 times as many units."""
    depth: Annotated[int, Between(1, 1000)] = 2
    """Stages of a cnn or resnet, hidden layers of an mlp."""
    dropout: _Rate = 0.2
    """Fraction of the last hidden units dropped in training, in [0, 1)."""
    precision: Precision = "float32"
    """float32; mixed computes in bfloat16 and keeps parameters and statistics in
    float32; bfloat16 keeps parameters and the optimizer state in bfloat16 as well."""

    @property
    def described(self) -> str:
        """The model in a few words."""
        if is_own(self.model):
            return short_name(self.model)
        if is_architecture(self.model):
            return self.model
        norm = "without" if self.norm == "none" else f"with {self.norm}"
        return f"{self.model} {norm} normalization"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options of the training."""

    optimizer: OptimizerName = "sgd"
    """sgd (with Nesterov momentum), adam, adamw, or optax:NAME, such as optax:lion."""
    optimizer_arg: _Arguments = ()
    """Arguments of optax:NAME, such as b1=0.9; the option may be repeated."""
    lr: Positive = 0.05
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """Learning rate: cosine (to 0), constant, step (divided by 10 at 1/2 and 3/4), or
    optax:NAME, such as optax:exponential_decay."""
    schedule_arg: _Arguments = ()
    """Arguments of the schedule optax:NAME, such as decay_rate=0.1."""
    warmup_epochs: _NotNegative = 1.0
    """Epochs over which the learning rate rises to its peak."""
    momentum: _Rate = 0.9
    """Momentum of sgd, in [0, 1)."""
    weight_decay: _NotNegative = 1e-4
    """Weight decay of kernels, not of biases and scales; for sgd and adamw."""
    clip_norm: _NotNegative = 0.0
    """Largest global norm of the gradient; 0 disables clipping."""
    epochs: Annotated[int, Between(1, 10**6)] = 30
    """Passes over the training data."""
    batch_size: _Batch | None = None
    """Examples per step, over all devices. Defaults to 64, or to the size of the
    training part if that is smaller."""
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    """Decides initial parameters, order of the data, and noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """Options of loading examples; they do not influence the results."""

    image_memory: Annotated[int, Between(0, 2**24)] = 128
    """MiB for decoded images of a folder. If they need more, they are decoded again in
    each epoch, while the devices compute."""
    workers: Annotated[int, Between(0, 1024)] | None = None
    """Threads that decode images, or processes; 0 decodes between the steps. Defaults
    to the number of cores, at most 16."""
    loader: Loader = "threads"
    """What the workers are. Processes need the package grain; they do not share
    Python's lock, which helps with many cores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(LoadingOptions, JobOptions):
    """Options of where and how a run is recorded."""

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
    compare_factors: _Factors = (
        0.1,
        1.0,
        10.0,
    )
    """--compare trains at --lr times each of these."""
    eval_every: _Interval = 0
    """Steps between evaluations; 0 is once an epoch (--compare: four times)."""
    checkpoint_every: _Interval = 0
    """Steps between checkpoints; 0 is once an epoch."""
    keep: _Count = 2
    """Newest checkpoints to keep, in addition to the best one."""
    on_nonfinite: OnNonfinite = "skip"
    """What to do about a step with NaN or infinite numbers: skip it, so that it changes
    nothing, unless more than half of the last 50 were skipped; stop the run before it;
    or raise an error with its traceback."""
    early_stopping: _Interval = 0
    """Evaluations in a row without a better accuracy after which the run ends; 0
    disables it."""
    log_every: _Count = 10
    """Steps between records of the training loss."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    plain: bool = False
    """Print plain lines instead of live progress, as when output is not a terminal."""
    model_sha256: _Sha256 | None = None
    """SHA-256 of the source of your own model; the run records it and warns if the
    source has changed."""
    weights_sha256: _Sha256 | None = None
    """SHA-256 of the arrays of --weights; recorded in the same way."""
    threads: _Threads | None = None
    """Number of threads to compute with; the same number gives the same bits."""
    shard_params: bool = False
    """Divide large parameters and their optimizer state over the devices, for models
    that do not fit on one device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity(TrainingOptions, OptimizerOptions, ModelOptions, DataOptions):
    """The options that decide the numbers of a run."""


# The options that decided the numbers of a run in the first version.
_FIRST = frozenset("""
    data test_fraction split_seed image_size classes model norm width depth dropout
    optimizer lr schedule warmup_epochs momentum weight_decay clip_norm epochs
    batch_size seed
""".split())  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(RunOptions, Identity):
    """Train a classifier and record the run in a folder."""

    @property
    def identity(self) -> dict[str, object]:
        """The options that decide the numbers of the run.

        Files with a model or weights count by name, so that they may be moved.
        """
        names = [field.name for field in dataclasses.fields(Identity)]
        options = {name: getattr(self, name) for name in names}
        weights = self.weights and Path(self.weights).name
        return {**options, "model": short_name(self.model), "weights": weights}

    @property
    def digest(self) -> str:
        """SHA-256 of the identity.

        Options that were added later count only if they are not at their defaults, so
        that the digests of older runs stay the same.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(Identity)}
        hashed = {
            name: value
            for name, value in self.identity.items()
            if name in _FIRST or value != defaults[name]
        }
        text = json.dumps(hashed, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """List what a checkpoint holds, after verifying every byte of it.

    For checkpoints of Orbax, and files of msgpack or safetensors, names, shapes and
    dtypes are listed.
    """

    checkpoint: Path
    """Folder of a run, or of one step in it."""
    step: _Interval | None = None
    """Step in the folder of a run. Defaults to the newest."""
    best: bool = False
    """Use the step with the best test accuracy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateOptions(InspectConfig):
    """A state, its model and data, for the tools for running statistics.

    The state is that of a run, a checkpoint of Orbax, or a file of msgpack or
    safetensors. Runs of `linsey train` know their model and their data.
    """

    model: _Text | None = None
    """The model of a state that `linsey train` did not write, or your own model that a
    run trained, as FILE.py:NAME or package.module:NAME. The code that a run names is
    not imported unless it is given here."""
    model_arg: _Arguments = ()
    """Arguments of the model, as NAME=VALUE. Defaults to those of the run."""
    data: _Text | None = None
    """Data, as for `linsey train`. Defaults to those of the run. For a state that no
    run wrote they are used as they are, without standardization."""
    batch_size: _Batch = 64
    """Examples in a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(StateOptions):
    """Evaluate a checkpoint with its running statistics.

    The scores are printed, and saved as JSON in the folder of the run. With
    --compare-modes, compare training and evaluation on the same data instead, layer by
    layer. Only that works on files that no run of `linsey train` wrote.
    """

    data: _Text | None = None
    """Other data to evaluate on: their test part, or all of them if they have none."""
    compare_modes: bool = False
    """Show where training and evaluation differ, by how much, and why."""
    previous: Path | None = None
    """An earlier state of the training, which can tell the cause."""
    batch_size: _Batch = 256
    """Examples on which the modes are compared."""
    json: bool = False
    """Print the scores, or the comparison, as JSON and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig(StateOptions):
    """Find out what is wrong with running statistics, in which layer, by how much.

    Exits with code 3 if there is an error, so that it can guard a pipeline.
    """

    previous: Path | None = None
    """An earlier state of the same training: its statistics should differ."""
    momentum: _Rate | None = None
    """Momentum of the layers, if no model is given that has it."""
    batches: _Interval = 8
    """Batches of the training part to look at; 0 audits without data."""
    json: bool = False
    """Print the report as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecalibrateConfig(StateOptions):
    """Replace running statistics by those of the data, for the weights as they are.

    The new state is written beside the old one, as the same kind of file or folder.
    """

    target: Path
    """The file or folder to write; nothing is overwritten."""
    batches: _Count = 10**9
    """Batches of the training part to use. Defaults to all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConfig(StateOptions):
    """Fold batch norms into the layers around them, for evaluation.

    The parameters of the same model without these norms are written. For a run of
    `linsey train` they form a step of the model with `--norm none`, for `linsey eval`.
    """

    target: Path
    """The file or folder to write; nothing is overwritten."""
    json: bool = False
    """Print the report as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ModelGiven(InspectConfig):
    """A step of a run, and the code of its model if that is the user's own."""

    model: _Text | None = None
    """Your own model, if the run trained one, as it was given to `linsey train`. The
    code that a run names is not imported unless it is given here."""
    model_arg: _Arguments = ()
    """Arguments of the model, as NAME=VALUE. Defaults to those of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(_ModelGiven):
    """Predict the classes of examples: a table of answers, as CSV or lines of JSON.

    The newest step answers, as with `linsey eval`, unless --best or --step names
    another one.
    """

    files: tuple[Path, ...]
    """Images and folders of them, FILE.csv, FILE.npz, FILE.npy or folders of these;
    labels in them are not needed, and not read."""
    out: Path | None = None
    """File to write; nothing is overwritten. Defaults to the standard output."""
    json: bool = False
    """Write a JSON record a line, not CSV."""
    top: _Count = 1
    """How many of the most probable classes are given."""
    probabilities: bool = False
    """Also give the probability of each class."""
    batch_size: _Batch = 256
    """Examples that are read and computed at once."""
    missing: Missing | None = None
    """Missing values of a table: refuse them, or fill in the mean of the training part.
    Defaults to what the run did."""
    skip_broken: bool = False
    """Leave images out that cannot be read, and list them on standard error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(_ModelGiven):
    """Export a model as a program of StableHLO, which plain JAX runs.

    Standardization is part of the program, and so are the weights. It is read back and
    compared with the model before the folder gets its name.
    """

    target: Path
    """The folder to write; nothing is overwritten."""
    fold: bool = False
    """Fold batch norms into the layers around them."""
    platforms: _Text = "cpu"
    """What it can run on, with commas between: cpu, cuda, rocm, tpu."""
    inputs: Literal["raw", "standardized"] = "raw"
    """Whether it takes raw examples, or what `linsey.load(RUN).preprocess` returns."""
    batch_size: _Batch | None = None
    """Examples in a batch. Defaults to any number of them."""
    json: bool = False
    """Print the description of the program as JSON and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Copy weights or a checkpoint into another format, and compare every array.

    What is read is recognized: a run of linsey or a step of it, of any version; a
    checkpoint of Orbax; a file of msgpack bytes, as Flax writes it; safetensors; a
    state dict of PyTorch; npz. With a model, the weights of PyTorch or of another Linen
    module become those of the model, and back. Nothing is overwritten.
    """

    source: Path
    """The file or folder to read."""
    target: Path
    """The file or folder to write; its name may say the format: `step_00000042`,
    `NAME.orbax`, `NAME.msgpack`, `NAME.safetensors`, `NAME.pt`, `NAME.npz`."""
    to: Literal["step", "orbax", "msgpack", "safetensors", "pt", "npz"] | None = None
    """Format to write."""
    step: _Interval | None = None
    """Number of the step to write. Defaults to that of the source."""
    model: _Text | None = None
    """Model whose weights these become: an architecture of linsey.models, such as
    resnet18, or your own, as FILE.py:NAME or package.module:NAME."""
    model_arg: _Arguments = ()
    """Arguments of the model, as NAME=VALUE."""
    shape: Shape = (224, 224, 3)
    """Shape of one example of the model, channels last."""
    classes: _Classes = 1000
    """Number of classes of the model."""
    names: Literal["linen", "torchvision", "timm"] = "linen"
    """Names and layouts to write: those of the model's variables, or of a state dict
    of PyTorch."""
    like: Path | None = None
    """File whose names, shapes, dtypes and order to write, instead of --names; its
    values are not used."""
    map: tuple[str, ...] = ()
    """Names that differ, as THEIRS=OURS: whole names or their beginnings; nothing after
    the sign leaves the array out."""
    strict: bool = True
    """Refuse weights of either side that have no counterpart; otherwise list them and
    keep the model's initial values there."""
    prove: bool = True
    """Run both models, layer by layer, if torchvision or timm has theirs."""
    activations: Path | None = None
    """File that `linsey.weights.record` wrote for their model, to compare with."""
    example: Path | None = None
    """The input it was recorded with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewConfig:
    """Write a file with a model to change, and with how it is trained."""

    file: Path
    """The Python file to write; nothing is overwritten."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummaryConfig(ModelOptions):
    """Show the layers of a model with shapes and sizes."""

    shape: Shape = (8, 8, 1)
    """Shape of one example, channels last."""
    classes: _Classes = 10
    """Number of classes."""
    batch_size: _Batch = 64
    """Examples in the batch that is shown."""


def resolve(config: TrainConfig) -> TrainConfig:
    """Make the paths of data and model independent of the current folder.

    A data file that is a symbolic link is not resolved, so that its reader refuses it.

    Raises:
        InputError: the model or its arguments are not in a known form.
    """
    model, arguments = checked_name(config.model), in_one_form(config.model_arg)
    config = dataclasses.replace(config, model=model, model_arg=arguments)
    if config.weights is not None:
        weights = str(Path(config.weights).expanduser().absolute())
        config = dataclasses.replace(config, weights=weights)
    if config.data in ("digits", ARRAYS):
        return config
    path = Path(config.data).expanduser()
    path = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    return dataclasses.replace(config, data=str(path))


def validate(config: object) -> None:
    """Refuse options that are out of their range.

    Raises:
        InputError: an option is out of range; the error names it and the range.
    """
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        try:
            conform(getattr(config, name), hint, file=None, key=name)
        except InputError as error:
            key = "--" + name.replace("_", "-")
            raise InputError(
                error.problem, key=key, expected=error.expected, found=error.actual
            ) from None
