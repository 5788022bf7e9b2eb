"""`linsey summary`: show the layers of a model with shapes and sizes."""

from __future__ import annotations

from collections.abc import Sequence

from linsey.app.config import SummaryConfig
from linsey.app.model_name import checked_name, is_own
from linsey.app.options import parse
from linsey.app.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey summary`.

    Returns:
        0.
    """
    config = parse(SummaryConfig, "summary", arguments)
    text = checked_name(config.model)

    from linsey.app.models import summary_text
    from linsey.app.own_layers import layers_of
    from linsey.app.own_model import named_model
    from linsey.app.own_network import make_network

    own = named_model(text, config.model_arg) if is_own(text) else None
    network = make_network(config, config.shape, config.classes, own)
    say(summary_text(layers_of(network, config.shape, config.batch_size)))
    return 0
