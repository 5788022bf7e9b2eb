"""`linsey summary`: show the layers of a model with shapes and sizes."""

from __future__ import annotations

from collections.abc import Sequence

from linsey.app.config import SummaryConfig
from linsey.app.options import parse
from linsey.app.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: what follows `linsey summary`.

    Returns:
        0.
    """
    config = parse(SummaryConfig, "summary", arguments)

    from linsey.app.models import make_model, summarize, summary_text

    model = make_model(config, config.shape, config.classes)
    say(summary_text(summarize(model, config.shape, config.batch_size)))
    return 0
