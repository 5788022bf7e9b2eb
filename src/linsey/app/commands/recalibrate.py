"""`linsey recalibrate`: replace running statistics by those of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from linsey.app import exit_codes
from linsey.app.config import RecalibrateConfig
from linsey.app.options import parse
from linsey.app.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey recalibrate`.

    Returns:
        0.
    """
    config = parse(RecalibrateConfig, "recalibrate", arguments)

    from linsey.app.checkpoint_choice import refuse_special

    refuse_special(config.checkpoint)  # before jax is imported

    from linsey.app.model_state import asking, load_state, refuse_occupied
    from linsey.batch_stats import recalibrate
    from linsey.batch_stats.foreign import as_linen
    from linsey.batch_stats.statistics import find_statistics

    refuse_occupied(config.target)
    state = load_state(config, config.batches, needs_data=True)
    with asking(state.path):
        new = recalibrate(state.model, state.variables, state.batches)
    tree = {**state.contents.tree, "batch_stats": new["batch_stats"]}
    state.write(config.target, dataclasses.replace(state.contents, tree=tree))
    layers, examples = len(find_statistics(as_linen(new))), sum(map(len, state.batches))
    say(f"read {state.path} ({state.kind})")
    say(f"recalibrated {layers} batch norms on {examples} examples")
    say(f"wrote {config.target}")
    return exit_codes.DONE
