"""The user's own model that a run recorded, and the model that is given for it now.

Code that only the run names is never imported: it may be somebody else's run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linsey.app.config import TrainConfig
from linsey.app.metadata import RunMetadata
from linsey.app.model_name import not_given
from linsey.app.own_model import OwnModel, given_model
from linsey.app.terminal import warn
from linsey.errors import InputError


def model_again(
    metadata: RunMetadata,
    model: object,
    folder: Path,
    arguments: Sequence[str] = (),
) -> OwnModel | None:
    """Return the model of a run, as the user gives it again.

    Args:
        metadata: the metadata of the run.
        model: a text for `--model` or an object; `None` if nothing is given.
        folder: the folder of the checkpoint, for messages.
        arguments: `NAME=VALUE`. If empty, those of the run.

    Returns:
        The model; `None` if the run trained a model of linsey.

    Raises:
        InputError: the run trained a user's own model and none is given, or the other
            way round; or the given model cannot be imported.
    """
    if metadata.model is None:
        if model is not None:
            problem = f"the run trained a {metadata.config.model} of linsey"
            hint = "leave --model out"
            raise InputError(problem, file=folder, key="--model", hint=hint)
        return None
    if model is None:
        raise not_given(metadata.model.name, folder)
    own = given_model(model, arguments)
    if not arguments:
        own = own.with_arguments(metadata.config.model_arg)
    warn_of_other_source(own, metadata)
    return own


def warn_of_other_source(own: OwnModel, metadata: RunMetadata) -> None:
    """Warn if the source of a model differs from what a checkpoint recorded."""
    before = metadata.model.sha256 if metadata.model else None
    if before != own.sha256:
        warn(_changed(own, before, "the checkpoint was written"))


def warn_of_other_file(config: TrainConfig, own: OwnModel) -> None:
    """Warn if the source of a model differs from what saved options say."""
    # A run that is resumed has a checkpoint, which is more reliable.
    if config.model_sha256 not in (None, own.sha256) and not config.resume:
        warn(_changed(own, config.model_sha256, "the options were saved"))


def _changed(own: OwnModel, before: str | None, when: str) -> str:
    return (
        f"the source of {own.name} is not what it was when {when} (SHA-256 "
        f"{_short(own.sha256)}, before {_short(before)})"
    )


def _short(sha256: str | None) -> str:
    return "unknown" if sha256 is None else f"{sha256[:12]}..."
