"""A user's own model as a network: find out how to call it, and check its outputs.

Nothing is computed: errors are found from the shapes alone, before a run begins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from jax import numpy as jnp

from linsey.app.architectures import make_architecture, refuse_options
from linsey.app.config import ModelOptions, Precision, Shape
from linsey.app.model_name import is_architecture, is_own, not_given
from linsey.app.models import dtypes_of, make_model
from linsey.app.named_values import parse_arguments
from linsey.app.network import BuiltIn, Called, Network, Rngs
from linsey.app.object_network import object_network
from linsey.app.own_model import CLASSES, OwnModel, is_made
from linsey.batch_stats.calls import find_call, find_initializer, is_linen
from linsey.batch_stats.objects import Variables, is_object
from linsey.batch_stats.subject import plain
from linsey.errors import InputError, OptionError

if TYPE_CHECKING:
    from linsey.treex import Module

_EXAMPLES = 2  # in the batch whose shapes are checked
_FLAG_HINT = "--model-flag NAME, or --model-flag 'not NAME'"


def make_network(
    options: ModelOptions, shape: Shape, classes: int, own: OwnModel | None = None
) -> Network:
    """Make the network that a run trains.

    Args:
        options: the model options.
        shape: the shape of one example.
        classes: number of classes.
        own: the user's own model that the options name; `None` for one of linsey.

    Returns:
        The network; its outputs are known to be (batch, classes).

    Raises:
        InputError: the model cannot be called on such examples, or its outputs have
            another shape; or the options name a user's own model that is not given.
    """
    if own is None:
        if is_own(options.model):
            raise not_given(options.model, None)
        if is_architecture(options.model):
            return BuiltIn(make_architecture(options, shape, classes))
        return BuiltIn(make_model(options, shape, classes))
    refuse_options(options, own.parameters())
    own = _in_precision(own, options.precision)
    x = jax.ShapeDtypeStruct((_EXAMPLES, *shape), jnp.float32)
    network, outputs = _network(own, x, classes, options.model_flag)
    for mode, found in outputs.items():
        if not _is_right(found, classes):
            raise own.wrong(
                f"outputs of the wrong shape in {mode}", found=_shown(found),
                expected=f"logits (batch, {classes})",
                hint=_fix(own, found, options, x, classes),
            )  # fmt: skip
    return network


def _in_precision(own: OwnModel, precision: Precision) -> OwnModel:
    """Pass the dtypes of a precision to the model, under the names that layers use."""
    dtypes, taken = dict(dtypes_of(precision)), own.parameters()
    if missing := [name for name in dtypes if name not in taken]:
        fields = " and ".join(f"`{name}`" for name in missing)
        hint = f"let the model take {fields}, and pass them on to its layers"
        if is_made(own.target):
            made_with = ", ".join(f"{n}=jax.numpy.bfloat16" for n in dtypes)
            hint = f"make the model with {made_with}, and leave it out"
        raise own.wrong(
            f"has no argument {fields}", key=f"--precision {precision}", hint=hint
        )
    return dataclasses.replace(own, filled=dtypes)


def _network(
    own: OwnModel, x: jax.ShapeDtypeStruct, classes: int, flag: str | None
) -> tuple[Network, dict[str, object]]:
    """Return the model as a network, and the shapes of its results in both modes."""
    model = own.make(classes)
    problem = f"cannot be called on a batch of {x.shape}"
    try:
        if is_object(model):
            return _of_object(model, x)
        return _of_module(model, own, x, flag)
    except InputError:
        raise
    except OptionError as error:
        hint = None if flag else f"if its flag for training is to blame: {_FLAG_HINT}"
        raise own.wrong(f"{problem}: {error.why.rstrip('.')}", hint=hint) from error
    except Exception as error:  # of any kind: it comes from the model
        told = f"{type(error).__name__}: {error}"
        raise own.wrong(f"{problem}: {told}") from error


def _of_object(
    model: Module, x: jax.ShapeDtypeStruct
) -> tuple[Network, dict[str, object]]:
    network = object_network(model, x)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    return network, jax.eval_shape(network.outputs, variables, x)


def _of_module(
    model: object, own: OwnModel, x: jax.ShapeDtypeStruct, flag: str | None
) -> tuple[Network, dict[str, object]]:
    if is_linen(model):
        initialize = find_initializer(model, x, flag=flag)
        variables = initialize.shapes
    else:
        initialize, key = _initializer(model, own), jax.random.key(0)
        variables = jax.eval_shape(initialize, {"params": key}, x)
    variables = plain(variables)
    call = find_call(model, variables, x, flag=flag)

    def both(variables: Variables, x: jax.Array) -> tuple[Any, Any, Variables]:
        trained, changed = call.train(variables, x)
        return call.evaluate(variables, x), trained, plain(changed)

    evaluated, trained, changed = jax.eval_shape(both, variables, x)
    kept = _kept(changed, variables)
    if not kept.get("params"):
        raise own.wrong("has no parameters to train")
    mutable = tuple(name for name in kept if name != "params")
    network = Called(dataclasses.replace(call, mutable=mutable), initialize)
    return network, {"evaluation": evaluated, "training": trained}


def _initializer(model: Any, own: OwnModel) -> Any:
    """Return the `init` of a function as a function of random streams and a batch."""
    if not callable(getattr(model, "init", None)):
        name = getattr(model, "__name__", "model")
        raise own.wrong(
            "a function of variables that cannot make them",
            hint=f"add a function init(key, x) to it, as `{name}.init = init`",
        )  # fmt: skip

    def initialize(rngs: Rngs, x: jax.Array) -> Variables:
        return model.init(rngs["params"], x)

    return initialize


def _kept(changed: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the collections that are state.

    Collections that only pass values on to others, such as sown values, grow from call
    to call; they are left out.
    """
    return {
        name: tree
        for name, tree in variables.items()
        if name not in changed or _is_alike(tree, changed[name])
    }


def _is_alike(one: object, other: object) -> bool:
    structures = jax.tree.structure(one), jax.tree.structure(other)
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=False)
    return structures[0] == structures[1] and all(a.shape == b.shape for a, b in leaves)


# -- outputs -------------------------------------------------------------------------


def _is_right(outputs: Any, classes: int) -> bool:
    is_array = isinstance(outputs, jax.ShapeDtypeStruct)
    return (
        is_array
        and outputs.shape == (_EXAMPLES, classes)
        and jnp.issubdtype(outputs.dtype, jnp.floating)
    )


def _shown(outputs: object) -> str:
    """Write shapes as text, with `batch` as the size of the first axis."""
    if isinstance(outputs, jax.ShapeDtypeStruct):
        shape = [*map(str, outputs.shape)]
        if outputs.shape[:1] == (_EXAMPLES,):
            shape[0] = "batch"
        is_float = jnp.issubdtype(outputs.dtype, jnp.floating)
        return f"({', '.join(shape)})" + ("" if is_float else f" of {outputs.dtype}")
    inner = ", ".join(map(_shown, jax.tree.leaves(outputs)))
    return f"a {type(outputs).__name__} of {inner}"


def _fix(
    own: OwnModel,
    outputs: Any,
    options: ModelOptions,
    x: jax.ShapeDtypeStruct,
    classes: int,
) -> str:
    """Suggest a fix; an argument is named only if it makes the outputs right."""
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        return "return the logits alone"
    for name in _candidates(own, outputs):
        texts = {**parse_arguments(own.arguments), name: classes}
        arguments = tuple(f"{key}={value}" for key, value in texts.items())
        other = own.with_arguments(arguments)
        try:
            _, found = _network(other, x, classes, options.model_flag)
            if all(_is_right(one, classes) for one in found.values()):
                return f"give --model-arg {name}={classes}"
        except InputError:
            continue
    if len(outputs.shape) == 2:
        return f"end the model with a layer of {classes} units, one for each class"
    if outputs.shape[-1:] == (classes,):
        axes = ", ".join(map(str, range(1, len(outputs.shape) - 1)))
        return f"return the mean over the axes in between, y.mean(({axes},))"
    return f"return one logit for each of the {classes} classes"


def _candidates(own: OwnModel, outputs: jax.ShapeDtypeStruct) -> list[str]:
    """Return the arguments that may set the number of outputs."""
    taken = own.parameters()
    named = [name for name in CLASSES if name in taken]
    given = parse_arguments(own.arguments)
    last = outputs.shape[-1] if outputs.shape else None
    values = {name: given.get(name, taken[name].default) for name in taken}
    return [*named, *(n for n, v in values.items() if v == last and n not in named)]
