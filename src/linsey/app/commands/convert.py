"""`linsey convert`: copy weights into another format, and compare every array."""

from __future__ import annotations

from collections.abc import Sequence

from linsey.app.config import ConvertConfig
from linsey.app.options import parse
from linsey.app.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey convert`.

    Returns:
        0.
    """
    config = parse(ConvertConfig, "convert", arguments)

    from linsey.app.checkpoint_choice import refuse_special

    refuse_special(config.source)

    from linsey.app.weights_conversion import convert_weights, tree_kind
    from linsey.training.conversion import convert

    if to := tree_kind(config):
        done = convert(config.source, config.target, to, step=config.step)
        count = f"{done.leaves} entries"
    else:
        done = convert_weights(config)
        count = f"{done.count} arrays"
    before, after = done.kinds
    number = "" if done.step is None else f", step {done.step}"
    say(f"read {done.source} ({before})")
    say(f"wrote {config.target} ({after}{number})")
    say(f"read it back: {count}, {done.size:,} bytes, all hashes equal")
    for note in done.notes:
        say(f"note: {note}")
    return 0
