"""The Linen module of a network, and how it is called in evaluation."""

from __future__ import annotations

import inspect
from typing import Any

from linsey.app.network import BuiltIn, Called, Network
from linsey.batch_stats.calls import is_linen
from linsey.errors import InputError


def linen_module(network: Network) -> tuple[Any, dict[str, bool]]:
    """Return the module, and keyword arguments that it takes in evaluation.

    Raises:
        InputError: the network is not a Linen module.
    """
    if isinstance(network, BuiltIn):
        return network.module, {"train": False}
    module: Any = network.call.model if isinstance(network, Called) else None
    if not isinstance(network, Called) or not is_linen(module):
        problem = "weights are brought into Linen modules alone"
        raise InputError(problem, key="--model", hint="write it as a Linen module")
    flags = {name: value is False for name, value in network.call.flags.items()}
    taken = inspect.signature(type(module).__call__).parameters
    fields = {name: value for name, value in flags.items() if name not in taken}
    module = module.clone(**fields) if fields else module
    return module, {name: flags[name] for name in flags if name in taken}
