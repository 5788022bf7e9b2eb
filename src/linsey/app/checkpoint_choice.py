"""Which checkpoint a path means, and the model that belongs to it."""

from __future__ import annotations

import dataclasses

import jax

from linsey import serialization
from linsey.app.config import InspectConfig, Shape, TrainConfig
from linsey.app.dataset import Standardizer
from linsey.app.devices import Devices
from linsey.app.models import make_model
from linsey.app.run_folder import CHECKPOINTS, newest_checkpoint
from linsey.app.steps import TrainState, create_state
from linsey.checkpoint import CheckpointStore, manifest
from linsey.checkpoint.step import VerifiedCheckpoint, open_checkpoint
from linsey.errors import InputError


def choose(config: InspectConfig) -> VerifiedCheckpoint:
    """Find and verify the checkpoint that options name.

    Args:
        config: a run, its folder of checkpoints, or one of them; and which.

    Returns:
        The verified checkpoint.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = config.checkpoint
    if not path.is_dir():
        raise InputError("no such folder", file=path)
    if (path / manifest.NAME).exists():
        if config.best or config.step is not None:
            problem = "one step already; --step and --best need a run"
            raise InputError(problem, file=path)
        return open_checkpoint(path)
    folder = path / CHECKPOINTS
    store = CheckpointStore(folder if folder.is_dir() else path)
    if not store.steps():
        raise InputError("no checkpoint in this folder", file=path)
    if config.step is not None:
        return store.open(config.step)
    newest = newest_checkpoint(store)
    assert newest is not None  # there are steps
    best = newest.metadata.get("cursor", {}).get("best_step", -1)
    return store.open(best) if config.best else newest


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A state ready to be evaluated, and what its inputs must be.

    Attributes:
        config: the options it was trained with.
        state: on all devices.
        standardize: maps raw examples to inputs.
        shape: of one example.
        class_names: the meaning of its outputs.
    """

    config: TrainConfig
    state: TrainState
    standardize: Standardizer
    shape: Shape
    class_names: tuple[str, ...]


def load_model(checkpoint: VerifiedCheckpoint, devices: Devices) -> TrainedModel:
    """Build the model of a checkpoint and restore its state.

    Args:
        checkpoint: written by `linsey train`.
        devices: where the state goes.

    Returns:
        The model.

    Raises:
        InputError: `linsey train` did not write it, or its arrays are not those of
            the model.
    """
    try:
        config = TrainConfig(**checkpoint.metadata["config"])
    except (KeyError, TypeError) as error:
        problem = f"not a checkpoint of this version of linsey train: {error}"
        raise InputError(problem, file=checkpoint.folder) from error
    data = checkpoint.metadata["data"]
    shape, names = tuple(data["shape"]), tuple(data["class_names"])
    model = make_model(config, shape, len(names))
    # Only the structure: the values come from the checkpoint.
    abstract = jax.eval_shape(lambda: create_state(config, model, shape, 1))
    restored = checkpoint.restore(serialization.to_state_dict(abstract))
    state = devices.replicate(serialization.from_state_dict(abstract, restored))
    standardize = Standardizer.from_json(data["standardizer"])
    return TrainedModel(config, state, standardize, shape, names)
