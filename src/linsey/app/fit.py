"""`linsey.fit`: what `linsey train` does, for a program or a notebook."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linsey.app import exit_codes
from linsey.app.commands.train import plan, set_threads
from linsey.app.config import ARRAYS, TrainConfig, resolve, validate
from linsey.app.dataset import Dataset
from linsey.app.given_data import given_data
from linsey.app.model_name import is_of_linsey
from linsey.app.named_values import argument_texts
from linsey.app.one_process import refuse_several_processes
from linsey.app.options import (
    CONFIG_FILE,
    load_options,
    options_of,
    refuse_other_options,
)
from linsey.app.outcome import Outcome, Trained
from linsey.app.own_model import OwnModel, given_model
from linsey.app.progress import busy
from linsey.app.readers import load
from linsey.app.recorded_model import warn_of_other_file
from linsey.app.recorded_run import train_run
from linsey.app.run_folder import claim, default_out
from linsey.app.steps import TrainState
from linsey.app.stopping import Stopped, StopRequest
from linsey.app.terminal import say, warn
from linsey.errors import InputError

# Options that only the command has.
_NOT_HERE = ("config", "compare", "coordinator", "processes", "rank", "step_timeout")


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A trained model.

    Attributes:
        folder: the folder of the run, with report, history and checkpoints.
        outcome: scores, history, and the result of an audit of the running statistics.
        config: the options.
        class_names: the names of the model's outputs.
    """

    folder: Path
    outcome: Outcome
    config: TrainConfig
    class_names: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The fraction of correct answers on the test part, at the end."""
        return self.outcome.final.accuracy

    @property
    def loss(self) -> float:
        """The mean cross entropy on the test part, at the end."""
        return self.outcome.final.loss

    @property
    def state(self) -> TrainState:
        """Parameters, statistics and optimizer state at the end."""
        return self._trained.state

    @property
    def variables(self) -> dict[str, Any]:
        """The variables by collection."""
        return self.state.variables

    @property
    def apply(self) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
        """A function from variables and standardized inputs (batch, ...) to logits."""
        return self.state.network.evaluate

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Map raw examples, shape (batch, ...), to inputs of `apply`."""
        return self._trained.standardize(np.asarray(x))

    def __call__(self, x: np.ndarray) -> jax.Array:
        """Compute the logits of raw examples.

        Args:
            x: (batch, ...) as in the data.

        Returns:
            Logits (batch, classes).
        """
        return _apply(self.state, self.standardize(x))

    @property
    def _trained(self) -> Trained:
        assert self.outcome.trained is not None
        return self.outcome.trained


@jax.jit
def _apply(state: TrainState, x: jax.Array) -> jax.Array:
    return state.network.evaluate(state.variables, x)


def fit(
    model: object,
    data: object,
    config: TrainConfig | Mapping[str, object] | None = None,
    **options: object,
) -> FitResult:
    """Train a classifier and record the run in a folder, as `linsey train` does.

    With the same options the results equal those of the command, bit for bit, and each
    of the two resumes runs of the other: `out="runs/mine", resume=True`.

    Args:
        model: `"mlp"`, `"cnn"`, `"resnet"`, an architecture of `linsey.models`
            by its name; a Linen module of linsey or Flax, an object of
            `linsey.treex`, a class or function that makes one, or a function
            `(variables, x, train, mutable)` with an attribute `init(key, x)`; or a
            string that names one, `"FILE.py:NAME"` or `"package.module:NAME"`.
        data: a path or a name, as for `--data`; `(x, y)`, `(x_train, y_train, x_test,
            y_test)`, or a dictionary of arrays with such names.
        config: options of `linsey train` by name.
        **options: further options, which take precedence over `config`: `epochs=5`,
            `lr=0.1`, `model_arg={"width": 64}`. Without `out` the run gets a new folder
            under `runs/`.

    Returns:
        The trained model with its scores.

    Raises:
        InputError: the options, the model, the data or the folder cannot be used; the
            error says which.
        DiskError: a file cannot be read or written.
        NotFiniteError: too many steps of the run were NaN or infinite.
        KeyboardInterrupt: the run was interrupted, and saved; `resume=True` continues
            it.

    Example:
        >>> import contextlib, io, tempfile, numpy as np, linsey
        >>> x = np.repeat(np.eye(3, dtype="float32"), 20, axis=0)
        >>> small = {"width": 2, "depth": 1, "epochs": 1}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        ...         out = f"{folder}/run"
        ...         result = linsey.fit("mlp", (x, x.argmax(1)), small, out=out)
        >>> result(x[:2]).shape, result.outcome.step
        ((2, 3), 1)
    """
    refuse_several_processes()
    given = _options(model, data, config, options)
    saved = _saved(given)
    own = None
    if not (isinstance(model, str) and is_of_linsey(model)):
        own = given_model(model, given.get("model_arg", saved.get("model_arg", ())))
        given |= {"model": own.name, "model_arg": own.arguments}
    chosen = TrainConfig(**{**saved, **given})
    validate(chosen)
    chosen = resolve(chosen)
    refuse_other_options(chosen, saved)
    set_threads(chosen.threads)
    return _fit(chosen, data, own)


def _options(
    model: object,
    data: object,
    config: TrainConfig | Mapping[str, object] | None,
    options: Mapping[str, object],
) -> dict[str, Any]:
    """Return the options that are given, checked, by field of `TrainConfig`."""
    if isinstance(config, TrainConfig):
        defaults = vars(TrainConfig())
        config = {k: v for k, v in vars(config).items() if v != defaults[k]}
    given = {**(config or {}), **options}
    given["data"] = str(data) if isinstance(data, str | Path) else ARRAYS
    given["model"] = model if isinstance(model, str) else TrainConfig().model
    if isinstance(arguments := given.get("model_arg"), Mapping):
        given["model_arg"] = argument_texts(arguments)
    found = options_of(given.items(), None)
    for name in _NOT_HERE:
        if found.pop(name, None):
            hint = "linsey train has it"
            raise InputError("not an option of `linsey.fit`", key=name, hint=hint)
    return found


def _saved(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved options of the run that is resumed, if one is."""
    if not given.get("resume"):
        return {}
    if given.get("out") is None:
        raise InputError(
            "which run?", key="resume", hint="name its folder with out=..."
        )
    path = given["out"] / CONFIG_FILE
    return load_options(path) if path.exists() else {}


def _fit(config: TrainConfig, data: object, own: OwnModel | None) -> FitResult:
    """Train as the options say."""
    path = config.out or default_out(config)
    say(plan(config, path))
    with claim(path, config) as folder:
        dataset = _read(config, data)
        for warning in dataset.warnings():
            warn(warning)
        if own is not None:
            warn_of_other_file(config, own)
        with _interruptible() as stop:
            outcome = train_run(config, dataset, folder, stop, own=own)
    for warning in outcome.warnings():
        warn(warning)
    say(outcome.headline())
    return FitResult(path, outcome, config, dataset.class_names)


def _read(config: TrainConfig, data: object) -> Dataset:
    with busy(f"reading {config.data}"):
        return load(config) if config.data != ARRAYS else given_data(data, config)


@contextlib.contextmanager
def _interruptible() -> Iterator[StopRequest]:
    """Let a signal act as in any other program, once the run has been saved."""
    try:
        with StopRequest() as stop:
            yield stop
    except Stopped as name:
        if str(name) == "SIGINT":
            raise KeyboardInterrupt from None
        raise SystemExit(exit_codes.STOPPED) from None
