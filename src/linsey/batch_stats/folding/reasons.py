"""Explanations why a batch norm could not be folded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from linsey.batch_stats.folding.axes import moved_axes
from linsey.batch_stats.folding.chains import as_link, input_of
from linsey.batch_stats.folding.folds import Fold
from linsey.batch_stats.folding.graph import Graph, Leaves, Step, Value
from linsey.batch_stats.folding.products import Product, as_product

Namer = Callable[[Graph, Product], str]
_BODIES = {"scan", "while", "cond", "shard_map", "custom_jvp_call", "custom_vjp_call"}


def why_not(
    graph: Graph, folds: Sequence[Fold], leaves: Leaves, name: Namer
) -> str | None:
    """Return the reason why a norm was not folded, or `None` if it was.

    Args:
        graph: the program.
        folds: the folds in the program.
        leaves: positions of the statistics of the norm.
        name: function that names the layer of a product.
    """
    folded = {link.step for f in folds for c in f.chains() for link in c.links}
    sites = where_read(graph, leaves)
    if not sites:
        return "evaluation does not read its statistics"
    left = [step for step in sites if step not in folded]
    return _reason(graph, left[0], name) if left else None


def where_read(graph: Graph, leaves: Leaves) -> list[Step]:
    """Return, in order, the steps that combine leaves with values from the inputs."""
    return [step for step in graph.steps if _meets(graph, step, leaves)]


def _meets(graph: Graph, step: Step, leaves: Leaves) -> bool:
    if all(map(graph.is_constant, step.operands)) and not step.eqn.effects:
        return False
    constants = [v for v in step.operands if graph.is_constant(v)]
    return any(graph.leaves_of(v) & leaves for v in constants)


def _reason(graph: Graph, site: Step, name: Namer) -> str:
    if site.name in _BODIES:
        return f"it is in the body of `{site.name}`, which is left as it is"
    x = input_of(graph, site)
    if x is None or site.name not in ("add", "sub", "mul", "div", "add_any"):
        return f"its statistics and the input meet in `{site.name}`"
    origin, count = _origin(graph, x)
    maker = graph.makers.get(origin)
    product = None if maker is None else as_product(graph, maker)
    if product is not None and count > 1:
        return f"what `{name(graph, product)}` gives is used {count} times"
    if product is not None:
        layer = name(graph, product)
        return f"it is not one affine map for each channel of `{layer}`"
    before = "an input" if maker is None else f"the result of `{maker.name}`"
    return f"it gets {before}, not of a layer; {_ahead(graph, site, name)}"


def _origin(graph: Graph, x: Value) -> tuple[Value, int]:
    """Return the start of the chain that leads to a value, and its number of uses."""
    count = len(graph.users[x])
    while (step := graph.makers.get(x)) is not None:
        source = input_of(graph, step)
        if source is None:
            break
        axes = tuple(range(len(graph.shape(source))))
        moves = moved_axes(step.eqn) is not None
        if not moves and as_link(graph, step, source, axes) is None:
            break
        x = source
        count = max(count, len(graph.users[x]))
    return x, count


def _ahead(graph: Graph, site: Step, name: Namer) -> str:
    """Return the reason why a norm cannot be folded into the layer after it."""
    value, step = site.results[0], graph.sole_user(site.results[0])
    while step is not None:
        product = as_product(graph, step)
        if product is not None:
            layer = name(graph, product)
            if product.pads:
                return f"`{layer}` after it pads with zeros"
            return f"it is not one affine map for each channel that `{layer}` gets"
        axes = tuple(range(len(graph.shape(value))))
        if as_link(graph, step, value, axes) is None:
            return f"what it gives goes to `{step.name}`"
        value = step.results[0]
        step = graph.sole_user(value)
    count = len(graph.users[value])
    if count == 1:
        return "what it gives is the result"
    return f"its output is used {count} times"
