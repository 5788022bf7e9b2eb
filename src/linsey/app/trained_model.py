"""The model that belongs to a checkpoint, ready to be evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from linsey import serialization
from linsey.app.config import Shape, TrainConfig
from linsey.app.dataset import Known
from linsey.app.devices import Devices
from linsey.app.metadata import run_metadata
from linsey.app.optimizers import long_epoch
from linsey.app.own_network import make_network
from linsey.app.recorded_model import model_again
from linsey.app.standardizer import Standardizer
from linsey.app.steps import TrainState, create_state
from linsey.checkpoint.step import VerifiedCheckpoint


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A state ready to be evaluated, and what is known about its inputs.

    Attributes:
        config: the options it was trained with.
        state: the state, on all devices.
        standardize: maps raw examples to inputs.
        shape: the shape of one example.
        class_names: the names of the model's outputs.
        known: facts about the training data, so that other data are read the same way.
    """

    config: TrainConfig
    state: TrainState
    standardize: Standardizer
    shape: Shape
    class_names: tuple[str, ...]
    known: Known


def load_model(
    checkpoint: VerifiedCheckpoint,
    devices: Devices,
    model: object = None,
    arguments: Sequence[str] = (),
) -> TrainedModel:
    """Build the model of a checkpoint and restore its state.

    Args:
        checkpoint: a checkpoint written by `linsey train`.
        devices: the devices for the state.
        model: if the run trained a user's own model, that model again, as an object or
            as the text that `--model` takes. Code that a run names is never imported
            unless it is given here. If `None`, a model of linsey.
        arguments: arguments of that model, `NAME=VALUE`. If empty, those of the run.

    Returns:
        The model.

    Raises:
        InputError: `linsey train` did not write the checkpoint, or its arrays are not
            those of the model.
    """
    metadata = run_metadata(checkpoint)
    config, data = metadata.train_config, metadata.data
    own = model_again(metadata, model, checkpoint.folder, arguments)
    if own is not None and own.arguments:
        config = dataclasses.replace(config, model_arg=own.arguments)
    network = make_network(config, data.shape, len(data.class_names), own)
    # Only the structure: the values come from the checkpoint.
    epoch = long_epoch(config)
    abstract = jax.eval_shape(lambda: create_state(config, network, data.shape, epoch))
    restored = checkpoint.restore(serialization.to_state_dict(abstract))
    state = devices.replicate(serialization.from_state_dict(abstract, restored))
    standardize = Standardizer.from_record(data.standardizer)
    return TrainedModel(
        config, state, standardize, data.shape, data.class_names, data.known
    )
