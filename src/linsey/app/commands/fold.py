"""`linsey fold`: fold batch norms into the layers around them, for evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from linsey.app import exit_codes
from linsey.app.config import FoldConfig
from linsey.app.model_name import is_architecture
from linsey.app.options import parse
from linsey.app.terminal import say

if TYPE_CHECKING:
    from linsey.app.model_state import ModelState
    from linsey.training.contents import Contents


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey fold`.

    Returns:
        0.
    """
    config = parse(FoldConfig, "fold", arguments)

    from linsey.app.checkpoint_choice import refuse_special

    refuse_special(config.checkpoint)  # before jax is imported

    from linsey.app.model_state import asking, load_state, refuse_occupied
    from linsey.batch_stats import fold

    refuse_occupied(config.target)
    state = load_state(config, 1, needs_data=True)
    with asking(state.path):
        _, folded, report = fold(state.model, state.variables, state.batches[0])
    state.write(config.target, _contents(state, folded))
    say(report.to_json() if config.json else f"{report}\nwrote {config.target}")
    return exit_codes.DONE


def _contents(state: ModelState, folded: dict[str, object]) -> Contents:
    """Return the folded variables, or, for a run, the state of its folded model."""
    contents = dataclasses.replace(state.contents, tree=folded, metadata={})
    if state.metadata is None or state.metadata.model is not None:
        return contents
    if is_architecture(state.metadata.config.model):
        return contents  # architectures have no variant without normalization
    import jax
    import numpy as np

    from linsey import serialization
    from linsey.app.optimizers import long_epoch
    from linsey.app.own_network import make_network
    from linsey.app.steps import create_state

    data = state.metadata.data
    options = dataclasses.replace(
        state.metadata.train_config, norm="none", model_arg=()
    )
    network = make_network(options, data.shape, len(data.class_names))
    fresh = create_state(options, network, data.shape, long_epoch(options))
    params = serialization.to_state_dict(folded["params"])
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, fresh.params):
        return contents  # a norm is left, so it is not the model without norms
    step = np.asarray(state.contents.step, np.int32)
    tree = serialization.to_state_dict(fresh.replace(params=params, step=step))
    recorded = {"config": options.identity, "config_sha256": options.digest}
    metadata = {**state.contents.metadata, **recorded}
    return dataclasses.replace(contents, tree=tree, metadata=metadata)
