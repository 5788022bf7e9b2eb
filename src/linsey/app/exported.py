"""A model as one program of StableHLO: standardization, weights, logits, probabilities.

The program needs neither the code of the model nor linsey: `jax.export.deserialize`
reads it. It does not contain linsey's compiled kernels, but the definitions in JAX of
what they compute. Before anybody gets the program, its bytes are read back and compared
with the model, on inputs from the data if these are available.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
from jax import numpy as jnp

from linsey.app.predictor import Predictor
from linsey.app.standardizer import Standardizer
from linsey.batch_stats import Report, fold
from linsey.batch_stats.statistics import Variables
from linsey.errors import InputError
from linsey.extras import require
from linsey.ops.cpu.dispatch import plain_convolutions

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
TOLERANCE = 1e-5
"""The largest difference from the model, relative to the largest logit."""
_EXAMPLE = 2  # examples in the batch on which folding is measured
_ENOUGH = 1e-7  # of a standard deviation: float32 has such errors anyway
# Errors of jax if a program would depend on the batch size.
_REFUSALS = (
    jax.errors.InconclusiveDimensionOperation,
    TypeError,
    ValueError,
    NotImplementedError,
)

Logits = Callable[[Variables, jax.Array], jax.Array]
Program = Callable[[jax.Array], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ProgramDifference:
    """The numerical difference between an exported program and its model.

    Attributes:
        logits: `max |program - model| / max |model|`.
        probabilities: `max |program - model|`.
    """

    logits: float
    probabilities: float


def chosen_platforms(text: str) -> tuple[str, ...]:
    """Read a list of platforms.

    Args:
        text: names, separated by commas.

    Returns:
        The platforms.

    Raises:
        InputError: a platform is unknown, or this machine has no device of any of
            them, so that the program could not be compared with the model.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PLATFORMS:
            raise InputError("no such platform", key="--platforms", found=name or text,
                             expected=", ".join(PLATFORMS))  # fmt: skip
    if not any(map(_devices, names)):
        raise InputError(
            "the program could not be compared with the model here", key="--platforms",
            expected="a platform of this machine among them", found=", ".join(names),
            hint=f"--platforms {','.join(('cpu', *names))}",
        )  # fmt: skip
    return names


def _devices(platform: str) -> list[jax.Device]:
    try:
        return jax.local_devices(backend=platform)
    except RuntimeError:
        return []


@dataclasses.dataclass(frozen=True)
class Exporter:
    """The export of a model as a program.

    Args:
        model: the model.
        is_raw: whether the program standardizes its inputs.
        dtype: the dtype of its inputs.
        platforms: the platforms that it runs on.
        batch_size: examples in a batch. If `None`, any number.
    """

    model: Predictor
    is_raw: bool
    dtype: np.dtype
    platforms: tuple[str, ...]
    batch_size: int | None = None

    def folded(self, raw: np.ndarray) -> tuple[Logits, Variables, Report]:
        """Fold batch norms into the layers around them by `linsey.batch_stats.fold`.

        Args:
            raw: raw examples.
        """
        network = self.model.network

        def model(
            variables: Variables, x: jax.Array, train: bool, mutable: object
        ) -> jax.Array | tuple[jax.Array, Variables]:
            if not mutable:
                return network.evaluate(variables, x)
            return network.train(variables, x, {"dropout": jax.random.key(0)})

        example = self.model.standardized(raw[:_EXAMPLE])
        return fold(model, self.model.variables, example)

    def export(self, apply: Logits, variables: Variables) -> bytes:
        """Export a function that computes logits of standardized inputs.

        Args:
            apply: the function of variables and inputs.
            variables: the variables, which become constants of the program.

        Returns:
            The program, as `jax.export.Exported.serialize` writes it.

        Raises:
            InputError: the model does not take batches of any size.
            MissingPackageError: `flatbuffers`, with which jax writes programs, is not
                installed.
        """
        require("flatbuffers", "train", "An exported program")
        program = self._program(apply, jax.device_get(variables))
        size = self.batch_size or jax.export.symbolic_shape("batch")[0]
        x = jax.ShapeDtypeStruct((size, *self.model.shape), self.dtype)
        # Convolutions in a form that suits a CPU are slow elsewhere.
        is_elsewhere = self.platforms != ("cpu",)
        try:
            with plain_convolutions(is_elsewhere):
                exporting = jax.export.export(
                    jax.jit(program), platforms=self.platforms
                )
                exported = exporting(x)
        except _REFUSALS as error:
            cause = " ".join(str(error).split())[:200]
            hint = None if self.batch_size else "--batch-size N exports it for N alone"
            problem = f"the model cannot be exported: {cause}"
            raise InputError(problem, hint=hint) from error
        return bytes(exported.serialize())

    def _program(self, apply: Logits, variables: Variables) -> Program:
        scaled = _standardization(self.model.standardizer) if self.is_raw else None

        def program(x: jax.Array) -> dict[str, jax.Array]:
            inputs = x if scaled is None else scaled(x)
            logits = apply(variables, inputs).astype(jnp.float32)
            return {"logits": logits, "probabilities": jax.nn.softmax(logits)}

        return program

    def compare(self, program: bytes, raw: np.ndarray) -> ProgramDifference:
        """Compare a program with its model.

        Args:
            program: the bytes that `export` returned.
            raw: raw examples, in the dtype of the data.

        Returns:
            The largest difference over batches of 1, 3, and all of the examples.
        """
        exported = jax.export.deserialize(bytearray(program))
        device = next(d for name in self.platforms for d in _devices(name))
        sizes = (
            {self.batch_size} if self.batch_size else {1, min(3, len(raw)), len(raw)}
        )
        inputs = self.model.standardized(raw)
        given = raw.astype(self.dtype) if self.is_raw else inputs
        found = []
        with jax.default_device(device):
            variables = jax.device_put(jax.device_get(self.model.variables), device)
            for size in sorted(sizes):
                right = jax.jit(self.model.apply)(variables, jnp.asarray(inputs[:size]))
                answer = exported.call(jnp.asarray(given[:size]))
                answers = cast(dict[str, jax.Array], answer)
                found.append(_difference(answers, right.astype(jnp.float32)))
        return ProgramDifference(
            max(one.logits for one in found), max(one.probabilities for one in found)
        )


def _difference(answer: dict[str, jax.Array], right: jax.Array) -> ProgramDifference:
    gap = jnp.abs(answer["logits"] - right).max()
    chances = jnp.abs(answer["probabilities"] - jax.nn.softmax(right)).max()
    size = jnp.maximum(jnp.abs(right).max(), jnp.finfo(jnp.float32).tiny)
    return ProgramDifference(float(gap / size), float(chances))


def _standardization(standardizer: Standardizer) -> Callable[[jax.Array], jax.Array]:
    """Return the function `(x - mean) / std` in float32, nearly as exact as in float64.

    If the mean is much larger than the standard deviation (calendar years, for
    example), rounding it to float32 would shift all inputs, so the rounding error is
    subtracted as well.
    """
    mean, std = standardizer.mean, standardizer.std
    near = mean.astype(np.float32)
    rest = (mean - near).astype(np.float32)
    scale = std.astype(np.float32)

    def standardize(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32) - near
        if (np.abs(rest) / std > _ENOUGH).any():
            # Otherwise XLA adds both constants before it subtracts them, and the sum is
            # rounded (test_a_table_of_years_is_standardized_in_the_program).
            x = jax.lax.optimization_barrier(x) - rest
        return x / scale

    return standardize


def exported_dtype(model: Predictor) -> np.dtype:
    """Return the dtype of raw examples of a model: uint8 or float32."""
    return np.dtype(np.uint8 if model.metadata.data.dtype == "uint8" else np.float32)


def random_examples(model: Predictor, count: int) -> np.ndarray:
    """Draw raw examples with the mean and standard deviation of the training data."""
    random, standardizer = np.random.default_rng(0), model.standardizer
    x = random.normal(standardizer.mean, standardizer.std, (count, *model.shape))
    dtype = exported_dtype(model)
    if dtype == np.uint8:
        return x.round().clip(0, 255).astype(dtype)
    return x.astype(dtype)
