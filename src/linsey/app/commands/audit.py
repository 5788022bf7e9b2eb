"""`linsey audit`: find out what is wrong with running statistics."""

from __future__ import annotations

from collections.abc import Sequence

from linsey.app import exit_codes
from linsey.app.config import AuditConfig
from linsey.app.options import parse
from linsey.app.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey audit`.

    Returns:
        0, or 3 if an error was found.
    """
    config = parse(AuditConfig, "audit", arguments)

    from linsey.app.checkpoint_choice import refuse_special

    refuse_special(config.checkpoint)  # before jax is imported

    from linsey.app.model_state import asking, load_state, read_previous
    from linsey.batch_stats import audit

    state = load_state(config, config.batches)
    previous = read_previous(config, config.previous)
    with asking(state.path):
        report = audit(
            state.tree,
            state.model,
            state.batches,
            previous=previous,
            step=state.updates,
            momentum=config.momentum,
        )
    say(report.to_json() if config.json else f"{state.path}\n{report}")
    return exit_codes.AUDIT if report.errors else exit_codes.DONE
