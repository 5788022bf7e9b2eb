"""The input of `audit`, `recalibrate` and `fold`: a state, its model, and data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linsey import datasets
from linsey.app.averaging import evaluated_contents, without_average
from linsey.app.checkpoint_choice import choose, has_steps, refuse_special
from linsey.app.config import DataOptions, InspectConfig, StateOptions
from linsey.app.dataset import Dataset
from linsey.app.loading import prepared
from linsey.app.metadata import RunMetadata, run_metadata
from linsey.app.own_model import named_model
from linsey.app.own_network import make_network
from linsey.app.readers import load
from linsey.app.recorded_model import model_again
from linsey.app.standardizer import Standardizer
from linsey.app.targets import refuse_occupied
from linsey.batch_stats.statistics import Variables
from linsey.batch_stats.subject import read_subject
from linsey.checkpoint import durable
from linsey.errors import ArgumentTypeError, InputError, OptionError
from linsey.training.contents import Contents, read_contents, write_contents
from linsey.training.formats import Kind, recognize


@dataclasses.dataclass(frozen=True)
class ModelState:
    """A state and what is known about it.

    Attributes:
        path: where it was read from; for a run, the folder of the step.
        kind: the kind of this file or folder.
        contents: everything in it.
        metadata: the metadata of `linsey train`; `None` if another program wrote it.
        model: the module or function; `None` if it is not known.
        batches: batches of examples of the training part; empty without data.
        test: a batch of the test part; `None` without data.
    """

    path: Path
    kind: Kind
    contents: Contents
    metadata: RunMetadata | None
    model: object
    batches: list[np.ndarray]
    test: np.ndarray | None

    @property
    def tree(self) -> dict[str, Any]:
        """The contents, with every collection at the outermost level."""
        tree = self.contents.tree
        if self.metadata is None or "collections" not in tree:
            return tree
        rest = {name: inner for name, inner in tree.items() if name != "collections"}
        return {**rest, **tree["collections"]}

    @property
    def variables(self) -> Variables:
        """The variables by collection."""
        return read_subject(self.tree).variables

    @property
    def updates(self) -> int | None:
        """The number of steps that changed the state; `None` if it is not recorded."""
        step = self.contents.tree.get("step")
        if step is None or np.shape(step) != ():
            return None
        return int(step) - int(self.contents.tree.get("skipped", 0))

    def write(self, target: Path, contents: Contents) -> None:
        """Write another state as the same kind of file or folder.

        Raises:
            InputError: the target exists already.
            DiskError: a file cannot be read or written.
        """
        refuse_occupied(target)
        durable.make_folder(target.parent)
        with durable.replacing(target) as temporary:
            write_contents(temporary, self.kind, contents)


@contextlib.contextmanager
def asking(path: Path) -> Iterator[None]:
    """Turn errors about the arguments of a tool into errors about a file.

    Raises:
        InputError: the tool cannot work on the contents of the file.
    """
    try:
        yield
    except (OptionError, ArgumentTypeError) as error:
        fix = error.fix.rstrip(".")
        raise InputError(f"{error.found} {error.why}", file=path, hint=fix) from error


def load_state(
    options: StateOptions, batches: int, *, needs_data: bool = False
) -> ModelState:
    """Read a state, its model, and batches of data.

    A run of `linsey train` names its model, if that is one of linsey, and its data. For
    other files `--model` and `--data` name them, and the data are passed to the model
    as they are.

    Args:
        options: what to read.
        batches: number of batches to take from the training part.
        needs_data: whether model and data are required.

    Raises:
        InputError: something cannot be read, or was not named.
        DiskError: a file cannot be read or written.
    """
    path, kind, contents = read_path(options)
    metadata = _metadata(options, path) if kind == "step" else None
    if metadata is not None and metadata.config.ema:
        contents, metadata = without_average(contents, metadata)
    model = _model(options, path, contents, metadata)
    if model is None and needs_data:
        raise InputError(
            "the file does not say which model it is of", file=path, key="--model",
            hint="name it with --model FILE.py:NAME",
        )  # fmt: skip
    chosen, test = [], None
    if model is not None and batches:
        chosen, test = _batches(options, batches, metadata)
    if needs_data and not chosen:
        hint = "name them with --data"
        raise InputError("no data to measure", file=path, key="--data", hint=hint)
    return ModelState(path, kind, contents, metadata, model, chosen, test)


def _model(
    options: StateOptions, path: Path, contents: Contents, metadata: RunMetadata | None
) -> object:
    """Return the named model, or that of a run; `None` if there is neither."""
    if metadata is None or (metadata.model is None and options.model is not None):
        if options.model is None:
            return None
        classes = len(metadata.data.class_names) if metadata else None
        return named_model(options.model, options.model_arg).make(classes)
    own = model_again(metadata, options.model, path, options.model_arg)
    config, data = metadata.train_config, metadata.data
    network = make_network(config, data.shape, len(data.class_names), own)
    state = ModelState(path, "step", contents, metadata, None, [], None)
    return network.model_with(state.variables)


def read_path(options: InspectConfig) -> tuple[Path, Kind, Contents]:
    """Read a run, one of its steps, or a file or folder of another kind."""
    path = options.checkpoint
    refuse_special(path)
    if has_steps(path):
        checkpoint = choose(options)
        metadata = checkpoint.metadata
        read = Contents(checkpoint.read(), checkpoint.step, metadata)
        return checkpoint.folder, "step", read
    if options.best or options.step is not None:
        raise InputError("--step and --best need a run", file=path)
    kind = recognize(path)
    contents = read_contents(path, kind)
    if not isinstance(contents.tree, dict):
        raise InputError("its outermost value is not a dictionary", file=path)
    return path, kind, contents


def read_previous(options: StateOptions, path: Path | None) -> Variables | None:
    """Read the variables of an earlier state, if one is named."""
    if path is None:
        return None
    earlier = dataclasses.replace(options, checkpoint=path, step=None, best=False)
    return read_subject(evaluated_contents(read_path(earlier)[2]).tree).variables


def _metadata(options: StateOptions, path: Path) -> RunMetadata | None:
    """Return the record of `linsey train`; `None` if another program wrote the step."""
    checkpoint = choose(options)
    if {"config", "data"} <= checkpoint.metadata.keys():
        return run_metadata(checkpoint)
    return None


def _batches(
    options: StateOptions, most: int, metadata: RunMetadata | None
) -> tuple[list[np.ndarray], np.ndarray | None]:
    dataset, standardize = _data(options, metadata)
    if dataset is None:
        return [], None
    x = dataset.x_train
    size, order = options.batch_size, datasets.permutation(len(x), 0, 0)
    count = min(most, -(-len(x) // size))
    chosen = [order[i * size : (i + 1) * size] for i in range(count)]
    # One example alone has no variance.
    chosen = [one for one in chosen if len(one) > 1]
    prepare = standardize or (lambda x: x.astype(np.float32))
    return list(prepared(x, prepare, chosen)), prepare(dataset.x_test[:size])


def _data(
    options: StateOptions, metadata: RunMetadata | None
) -> tuple[Dataset | None, Standardizer | None]:
    if metadata is None:
        if options.data is None:
            return None, None
        return load(DataOptions(data=options.data)), None
    config = metadata.train_config
    known = None
    if options.data is not None:
        config = dataclasses.replace(config, data=options.data, validation_fraction=0.0)
        known = metadata.data.known
    dataset = load(config, known)
    if dataset.shape != metadata.data.shape:
        problem = "examples of another shape than the model was trained on"
        wrong = {"expected": metadata.data.shape, "found": dataset.shape}
        raise InputError(problem, file=dataset.name, **wrong)
    return dataset, Standardizer.from_record(metadata.data.standardizer)
