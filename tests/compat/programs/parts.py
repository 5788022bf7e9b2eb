"""Functions that several statements use: interceptors, filters, options of lifting."""

from __future__ import annotations

from tests.compat.programs.bodies import COLLECTIONS, STREAMS, Book
from tests.compat.programs.syntax import Draw


def interceptor(book: Book) -> str:
    """A function that sees the calls of methods and perhaps changes them."""
    name = "context.module.name"
    kind = "type(context.module).__name__"
    call = "method(*args, **kwargs)"
    body = book.draw.pick(
        [f"seen.append(({kind}, {name}, context.method_name))", f"return {call}"],
        [f"y = {call}", f"return y * 2 if {kind} == 'Dense' else y"],
        [f"if {name} is None:", f"    return {call}", f"return {call}"],
        [f"if {kind} == 'Dense':", "    args = (args[0] * 3,)", f"return {call}"],
        ["seen.append(context.module.path)", f"return {call}"],
        [f"if {kind} == 'LayerNorm':", "    return args[0]", f"return {call}"],
    )
    return book.define("intercept", "method, args, kwargs, context", *body)


def capture(book: Book) -> str:
    """A filter for `capture_intermediates`."""
    return book.draw.pick(
        "True",
        "True",
        "lambda module, name: name == '__call__'",
        "lambda module, name: isinstance(module, nn.Dense)",
        "lambda module, name: module.name is not None and 'a' in module.name",
    )


def mutable(draw: Draw) -> str:
    """A filter of collections that may change."""
    return draw.pick(
        "True",
        "True",
        "['state', 'batch_stats', 'intermediates', 'cache', 'losses']",
        "['state', 'batch_stats', 'intermediates', 'cache', 'losses']",
        "'state'",
        "nn.DenyList('params')",
        "nn.DenyList(['intermediates', 'params'])",
        "['intermediates']",
        "{'state', 'batch_stats', 'cache', 'losses', 'intermediates'}",
        "False",
        "[]",
    )


def axes(draw: Draw, own: bool = True) -> str:
    """`variable_axes`: an axis for every collection, or not quite."""
    if draw.chance(0.15):
        return draw.pick(
            "{'params': 0}",
            "{'params': None, 'state': 0, 'batch_stats': 0}",
            "{True: 0}",
            "{nn.DenyList('params'): 0, 'params': None}",
            "{'params': 0, nn.DenyList('params'): 0}",
            "{'params': 1, 'state': 0}",
            "{('params', 'state'): 0}",
            "{}",
        )
    axis = "0" if own else draw.pick("0", "None")
    others = draw.pick("'losses': 0, 'cache': 0", "'losses': 0", "'cache': 0")
    pairs = [f"{c!r}: {axis if c == 'params' else 0}" for c in COLLECTIONS]
    return f"{{{', '.join([*pairs, others])}}}"


def splits(draw: Draw, params: bool = True) -> str:
    """`split_rngs`: which streams differ; `params`, whether that one should."""
    if draw.chance(0.1):
        return draw.pick("{}", "{True: True}", "{'params': True}", "{'noise': False}")
    pairs = [f"{s!r}: {draw.chance(0.75)}" for s in STREAMS if s != "params"]
    pairs.insert(0, f"'params': {params if draw.chance(0.9) else not params}")
    return f"{{{', '.join(pairs)}}}"


def scanned(draw: Draw) -> str:
    """Keyword arguments of `scan` and `remat_scan` about variables."""
    style = draw.pick("axes", "axes", "broadcast", "carry", "mixed")
    if style == "broadcast":
        return (
            "variable_broadcast='params', variable_axes={'intermediates': 0, "
            "'losses': 0}, variable_carry=['state', 'batch_stats', 'cache'], "
            f"split_rngs={{'params': False, 'noise': {draw.chance(0.5)}}}"
        )
    if style == "carry":
        return (
            "variable_carry=['state', 'batch_stats'], variable_axes={'params': 0, "
            "'intermediates': 0, 'losses': 0}, split_rngs={'params': True, "
            f"'dropout': {draw.chance(0.5)}, 'noise': {draw.chance(0.5)}}}"
        )
    if style == "mixed":
        return f"variable_broadcast='params', split_rngs={splits(draw, False)}"
    return f"variable_axes={axes(draw)}, split_rngs={splits(draw)}"
