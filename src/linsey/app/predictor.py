"""A trained model, ready to be called: `linsey.load` finds it in the folder of a run.

The model is a pure function, `apply`, of variables and inputs. Around it, `preprocess`
turns raw examples into inputs, and `predict` returns classes with their probabilities.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from linsey.app.checkpoint_choice import choose
from linsey.app.config import InspectConfig, Missing, Shape, TrainConfig, validate
from linsey.app.devices import Devices
from linsey.app.examples.sources import read_examples, refuse_unknown
from linsey.app.examples.terms import Terms
from linsey.app.metadata import run_metadata
from linsey.app.network import Network
from linsey.app.standardizer import Standardizer
from linsey.app.terminal import warn
from linsey.app.trained_model import load_model
from linsey.batch_stats.statistics import Variables
from linsey.checkpoint.step import VerifiedCheckpoint
from linsey.errors import InputError

BATCH = 256
PathLike = str | os.PathLike[str]
Raw = np.ndarray | jax.Array | PathLike | Sequence[PathLike]
"""Raw examples, or files that hold some."""

Place = Callable[[int], tuple[str | None, str | None]]
"""A function from an example's number in the batch to its file and its place there."""


def _by_number(number: int) -> tuple[None, str]:
    return None, f"example {number}"


class Predictions(NamedTuple):
    """The answers of a model to examples.

    Attributes:
        class_names: the name of the most probable class of each example.
        probabilities: (examples, classes) float32, the softmax of the logits.
        logits: (examples, classes) float32, the outputs of the model.
    """

    class_names: list[str]
    probabilities: np.ndarray
    logits: np.ndarray


class Predictor:
    """A trained model with its preprocessing and class names; `linsey.load` makes it.

    Args:
        checkpoint: a step of a run.
        model: if the run trained a user's own model, that model again.
        arguments: arguments of that model, `NAME=VALUE`. If empty, those of the run.

    Attributes:
        config: the options of the run.
        step: the step in the run.
        class_names: one for each logit.
        feature_names: the names of the inputs, if they are the columns of a table.
        shape: the shape of one example.
        variables: the variables to evaluate with, by collection.

    Raises:
        InputError: `linsey train` did not write the step.
    """

    config: TrainConfig
    step: int
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    shape: Shape
    variables: Variables

    def __init__(
        self,
        checkpoint: VerifiedCheckpoint,
        model: object = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self._devices = Devices()
        trained = load_model(checkpoint, self._devices, model, arguments)
        self.metadata = run_metadata(checkpoint)
        self.config, self.step = trained.config, checkpoint.step
        self.class_names, self.shape = trained.class_names, trained.shape
        self.feature_names = trained.known.feature_names
        self.standardizer: Standardizer = trained.standardize
        self.variables = trained.state.evaluated
        self.network: Network = trained.state.network

    def __repr__(self) -> str:
        return (
            f"<{self.config.model} of step {self.step}: examples {self.shape} to "
            f"{len(self.class_names)} classes>"
        )

    def apply(self, variables: Variables, x: jax.Array) -> jax.Array:
        """Compute logits in evaluation, as a pure function.

        Args:
            variables: `self.variables`, or others of the same structure.
            x: inputs as `preprocess` returns them, (batch, *shape) float32.

        Returns:
            Logits of shape (batch, classes).
        """
        return self.network.evaluate(variables, x)

    def preprocess(self, x: Raw, missing: Missing | None = None) -> np.ndarray:
        """Turn raw examples into inputs of the model.

        Args:
            x: raw examples as in the training data, (examples, *shape); or files and
                folders of them, as `linsey predict` takes them.
            missing: how missing values of a table are treated. If `None`, as in the
                run.

        Returns:
            Standardized inputs, (examples, *shape) float32.

        Raises:
            InputError: the examples do not fit the model, or a file cannot be read.
        """
        terms = Terms.of(self.metadata, missing)
        if isinstance(x, str | os.PathLike):
            x = [x]
        if isinstance(x, np.ndarray | jax.Array):
            raw = terms.checked(np.asarray(x), None, "x")
        elif x and all(isinstance(path, str | os.PathLike) for path in x):
            paths = [Path(path) for path in x]
            refuse_unknown(paths)
            raw = np.stack([one.x for one in read_examples(paths, terms, warn)])
        else:
            raw = terms.checked(np.asarray(x), None, "x")
        return self.standardized(raw)

    def standardized(self, raw: np.ndarray, place: Place = _by_number) -> np.ndarray:
        """Standardize raw examples of the shape and dtype that the model takes.

        Args:
            raw: (examples, *shape).
            place: names the file and the place of an example, for messages.

        Raises:
            InputError: standardized values overflow.
        """
        inputs = self.standardizer(raw)
        problem = "the values are too large: standardized they overflow"
        _refuse_not_finite(inputs, place, problem, "rescale them")
        return inputs

    def predict(
        self, x: Raw, *, batch_size: int = BATCH, missing: Missing | None = None
    ) -> Predictions:
        """Classify raw examples.

        Args:
            x: as in `preprocess`.
            batch_size: number of examples that are computed at once.
            missing: as in `preprocess`.

        Returns:
            The class of each example, probabilities and logits.

        Raises:
            InputError: as in `preprocess`; or outputs of the model are not finite.
        """
        inputs = self.preprocess(x, missing)
        return self.classify(inputs, self.fitting_size(len(inputs), batch_size))

    def fitting_size(self, count: int, most: int) -> int:
        """Choose the batch size for a number of examples.

        There are only a few sizes, powers of two, so that few programs are compiled.

        Args:
            count: number of examples.
            most: the largest size.
        """
        size = min(most, 1 << max(0, count - 1).bit_length())
        return -(-size // self._devices.count) * self._devices.count

    def classify(
        self, inputs: np.ndarray, size: int, place: Place = _by_number
    ) -> Predictions:
        """Classify inputs, in batches of one size.

        Args:
            inputs: (examples, *shape) float32, standardized.
            size: as `fitting_size` returns it; the last batch is filled with zeros.
            place: names the file and the place of an example, for messages.

        Raises:
            InputError: outputs of the model are not finite.
        """
        found = [self._answers(inputs[i : i + size], size)
                 for i in range(0, len(inputs), size)]  # fmt: skip
        empty = np.zeros((0, len(self.class_names)), np.float32)
        logits, chances = (
            np.concatenate([empty, *arrays])
            for arrays in (zip(*found, strict=True) if found else ((), ()))
        )
        problem = "what the model computes is not finite"
        hint = "linsey eval RUN --step N tells whether another step is better"
        _refuse_not_finite(logits, place, problem, hint)
        names = [self.class_names[index] for index in logits.argmax(-1)]
        return Predictions(names, chances, logits)

    def _answers(self, x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((size, *x.shape[1:]), x.dtype)
        padded[: len(x)] = x
        (batch,) = self._devices.put_batch(padded)
        logits, chances = self._program(self.variables, batch)
        # Rounding in float32 may raise a probability above 1.
        return np.asarray(logits)[: len(x)], np.minimum(chances, 1)[: len(x)]

    @functools.cached_property
    def _program(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def answer(variables: Variables, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self.apply(variables, x).astype(jnp.float32)
            return logits, jax.nn.softmax(logits)

        return jax.jit(answer)


def _refuse_not_finite(
    values: np.ndarray, place: Place, problem: str, hint: str
) -> None:
    is_finite = np.isfinite(values).all(tuple(range(1, values.ndim)))
    if not is_finite.all():
        file, key = place(int(is_finite.argmin()))
        raise InputError(problem, file=file, key=key, hint=hint)


def load(
    run: PathLike, *, step: int | None = None, best: bool = False, model: object = None
) -> Predictor:
    """Load a model that `linsey train` trained, ready to be used.

    Every byte is verified first, as `linsey eval` does, and code that the folder names
    is not imported.

    Args:
        run: the folder of the run, or of one step in it.
        step: the step of the run. If `None`, the newest.
        best: whether to use the step with the best accuracy.
        model: if the run trained a user's own model (`--model FILE.py:NAME`), that
            model again, as an object or as this text.

    Returns:
        The model with its variables, its preprocessing and its class names.

    Raises:
        InputError: there is no such run or step, or it is damaged.

    Example:
        >>> import contextlib, io, tempfile
        >>> import jax, linsey
        >>> from linsey import datasets
        >>> from linsey.app.cli import main  # the command, in this process
        >>> run = tempfile.mkdtemp() + "/run"
        >>> options = "--model mlp --width 4 --depth 1 --epochs 2 --out"
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     _ = main(["train", *options.split(), run])
        >>> model = linsey.load(run)
        >>> model
        <mlp of step 44: examples (8, 8, 1) to 10 classes>
        >>> images, labels = datasets.digits()
        >>> found = model.predict(images[:3])
        >>> len(found.class_names), found.probabilities.shape
        (3, (3, 10))

        As a function to compile, to differentiate, or to build on:

        >>> x = model.preprocess(images[:3])
        >>> logits = jax.jit(model.apply)(model.variables, x)
        >>> [model.class_names[i] for i in logits.argmax(-1)] == found.class_names
        True
    """
    choice = InspectConfig(checkpoint=Path(run), step=step, best=best)
    validate(choice)
    return Predictor(choose(choice), model)
