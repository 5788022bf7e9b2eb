"""Records of what a model computes, layer by layer, as arrays with names.

A *record* is a flat dictionary, so it can be written to a file and compared on a
machine where the library that made it is not installed:

* `weights/NAME`: parameters and statistics before the calls;
* `evaluation/layers/INDEX/CLASS/PATH`: the output of a call of a layer, in the order of
  the calls;
* `evaluation/output`: the result;
* `training/...`: the same in training mode, without dropout;
* `training/weights/NAME`: statistics after one call in training mode;
* `options/PATH/OPTION`: `epsilon`, `momentum` (the fraction that is kept) and
  `unbiased_variance`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard

import jax
import numpy as np

from linsey.batch_stats.calls import Call, arguments, find_call, is_linen
from linsey.batch_stats.observe import is_dropout
from linsey.checkpoint import flatten
from linsey.core import meta
from linsey.errors import ArgumentTypeError
from linsey.weights.batch_norm import kept_fraction
from linsey.weights.reparametrized import joined

Record = dict[str, np.ndarray]
Turn = Callable[[Any], Any]
MODES = ("evaluation", "training")
OUTPUTS = "layer_outputs"
_DROPS = ("Dropout", "DropPath", "StochasticDepth", "DropBlock")


def record(model: Any, example: Any, *, turn: Turn | None = None) -> Record:
    """Run a model in evaluation and in training mode, and record its layers' outputs.

    Dropout is disabled. The model is not modified.

    Args:
        model: a `torch.nn.Module`, or a pair of a Linen module (of linsey or Flax) and
            its variables.
        example: input of the model: an array, a tuple of several arguments, or a
            dictionary of keyword arguments. Images have their channels last.
        turn: function from the example to the inputs of a `torch.nn.Module`. If `None`,
            the channels of arrays with 4 or 5 axes are moved to the second axis.

    Returns:
        Arrays by the names that `linsey.weights.recording` lists.

    Raises:
        ArgumentTypeError: `model` is not such a model.
        OptionError: no way was found to call a Linen module in both modes.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model, x = nn.Sequential([nn.Dense(4), nn.relu]), jnp.ones((1, 3))
        >>> found = record((model, model.init(jax.random.key(0), x)), x)
        >>> [name for name in found if name.startswith("evaluation")]
        ['evaluation/layers/0000/Dense/layers_0', 'evaluation/output']
    """
    if is_torch_module(model):
        return _record_torch(model, example, turn or channels_second)
    if isinstance(model, tuple) and len(model) == 2 and is_linen(model[0]):
        call = find_call(*model, example, inputs=_whole)
        return record_linen(call, model[1], example)
    raise ArgumentTypeError(
        f"A model of type `{type(model).__name__}` was given.",
        "What can be run is a `torch.nn.Module`, where torch is imported, or a pair of "
        "a Linen module and its variables.",
        "Write `(module, variables)`.",
    )


def is_torch_module(model: object) -> TypeGuard[Any]:
    """Tell whether a value is a PyTorch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def channels_second(example: Any) -> Any:
    """Move the channels of images from the last axis to the second one."""

    def moved(x: Any) -> np.ndarray:
        return np.moveaxis(x, -1, 1) if np.ndim(x) in (4, 5) else np.asarray(x)

    return jax.tree.map(moved, example)


def first_array(value: Any) -> Any:
    """Return the first array in the output of a layer."""
    if hasattr(value, "shape"):
        return value
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | tuple | list):
        found = (first_array(each) for each in inner)
        return next((each for each in found if each is not None), None)
    return None


def _whole(example: Any) -> Any:
    return example


# -- Linen ---------------------------------------------------------------------------


def record_linen(call: Call, variables: Mapping[str, Any], example: Any) -> Record:
    """Run and record a Linen module; see `record`.

    Args:
        call: how to call the module.
        variables: its variables.
        example: its input.
    """
    plain = meta.unbox(variables)
    found = {f"weights/{path}": np.asarray(a) for path, a in flatten(plain).items()}
    for mode in MODES:
        order: list[tuple[str, str]] = []
        watch = _Watch(mode == "training", order, found)
        mutable = (*(call.mutable if mode == "training" else ()), OUTPUTS)
        with call.intercept(watch), jax.default_matmul_precision("highest"):
            y, changed = call.apply(variables, example, watch.train, mutable, call.rngs)
        outputs = flatten(meta.unbox(changed.get(OUTPUTS, {})))
        calls: dict[str, int] = {}
        for index, (path, kind) in enumerate(order):
            place = calls[path] = calls.get(path, -1) + 1
            kept = outputs.get(f"{path}/output", ())
            if place < len(kept):  # otherwise it was called inside a loop
                found[_key(mode, index, kind, path)] = np.asarray(kept[place])
        found[f"{mode}/output"] = np.asarray(first_array(y))
        if watch.train:
            rest = {name: tree for name, tree in changed.items() if name != OUTPUTS}
            for path, array in flatten(meta.unbox(rest)).items():
                found[f"training/weights/{path}"] = np.asarray(array)
    return found


class _Watch:
    """An interceptor that records the outputs of layers, and disables dropout.

    Args:
        train: whether the model is in training mode.
        order: list to which the path and class of each call are appended.
        found: record to which options are added.
    """

    def __init__(
        self, train: bool, order: list[tuple[str, str]], found: Record
    ) -> None:
        self.train, self.order, self.found = train, order, found

    def __call__(
        self, next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any
    ) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        if self.train and is_dropout(module):
            return args[0]
        if self.train and getattr(module, "dropout_rate", 0.0):
            if getattr(module, "deterministic", None) is None:
                kwargs = {**kwargs, "deterministic": True}
        y = next_fun(*args, **kwargs)
        path, array = "/".join(module.path), first_array(y)
        is_norm = hasattr(module, "use_running_average")
        is_activated = is_norm and getattr(module, "activation", None) is not None
        if path and array is not None and not is_activated:
            module.sow(OUTPUTS, "output", array)
            self.order.append((path, type(module).__name__))
        for option in ("epsilon", "momentum", "unbiased_variance"):
            # Flax has no such option, and its variance is biased.
            is_biased = option == "unbiased_variance" and is_norm
            value = getattr(module, option, False if is_biased else None)
            if isinstance(value, int | float):
                self.found[f"options/{path}/{option}"] = np.asarray(float(value))
        return y


# -- PyTorch -------------------------------------------------------------------------


def _record_torch(model: Any, example: Any, turn: Turn) -> Record:
    torch = sys.modules["torch"]
    model = copy.deepcopy(model)
    found = {f"weights/{name}": _array(a) for name, a in model.state_dict().items()}
    for path, layer in model.named_modules():
        found |= {
            f"options/{path}/{option}": np.asarray(value)
            for option, value in _options(layer)
        }
    parameter = next(iter(model.parameters()), torch.zeros(()))

    def tensor(x: Any) -> Any:
        value = torch.from_numpy(np.array(x)).to(parameter.device)
        return value.to(parameter.dtype) if value.is_floating_point() else value

    args, kwargs = jax.tree.map(tensor, arguments(turn(example)))
    for mode in MODES:
        calls: list[tuple[str, str, np.ndarray]] = []
        _set_mode(model, mode == "training")
        with _watching(model, calls), _slow_paths(torch), torch.no_grad():
            y = model(*args, **kwargs)
        for index, (path, kind, array) in enumerate(calls):
            found[_key(mode, index, kind, path)] = array
        found[f"{mode}/output"] = _array(first_array(y))
    for name, array in model.state_dict().items():
        after = _array(array)
        if not np.array_equal(after, found[f"weights/{name}"]):
            found[f"training/weights/{name}"] = after
    return found


def _options(layer: Any) -> Iterator[tuple[str, float]]:
    if isinstance(getattr(layer, "eps", None), float):
        yield "epsilon", layer.eps
    if getattr(layer, "running_mean", None) is not None:
        yield "unbiased_variance", 1.0
        kept = kept_fraction(layer)
        if kept is not None:
            yield "momentum", kept


def _set_mode(model: Any, train: bool) -> None:
    """Set the mode, and disable dropout in training."""
    model.train(train)
    for layer in model.modules():
        rate = getattr(layer, "dropout", 0.0)
        drops = type(layer).__name__.startswith(_DROPS)
        if drops or isinstance(rate, float) and rate > 0:
            layer.training = False


@contextmanager
def _watching(model: Any, calls: list[tuple[str, str, np.ndarray]]) -> Iterator[None]:
    """Record the outputs of layers."""
    handles = []
    for path, layer in model.named_modules():

        def keep(layer: Any, _: Any, y: Any, path: str = path) -> None:
            tensor = first_array(y)
            if tensor is not None:
                calls.append((path, type(layer).__name__, _array(tensor)))

        # timm's norms call `drop` and then an activation, which ours do not contain.
        inner = getattr(layer, "drop", None) if hasattr(layer, "running_mean") else None
        if path:
            handles.append((inner or layer).register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _slow_paths(torch: Any) -> Iterator[None]:
    """Disable the fast path of attention, which does not call its layers."""
    mha = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


def _array(tensor: Any) -> np.ndarray:
    """Copy a tensor to NumPy, as the next layer may modify it in place."""
    tensor = tensor.detach().cpu()
    half = str(tensor.dtype) == "torch.bfloat16"  # unknown to NumPy
    return np.array((tensor.float() if half else tensor).numpy())


# -- reading a record ----------------------------------------------------------------


def _key(mode: str, index: int, kind: str, path: str) -> str:
    return f"{mode}/layers/{index:04d}/{kind}/{path}"


def calls_of(record: Mapping[str, np.ndarray], mode: str) -> list[tuple[str, str, str]]:
    """Return the key, class and path of each call in a record, in order."""
    prefix = f"{mode}/layers/"
    keys = sorted(key for key in record if key.startswith(prefix))
    parts = [key.removeprefix(prefix).split("/", 2) for key in keys]
    return [(key, kind, path) for key, (_, kind, path) in zip(keys, parts, strict=True)]


def weights_of(record: Mapping[str, np.ndarray], mode: str = "") -> Record:
    """Return the weights before the calls, or with `training` the statistics after."""
    prefix = f"{mode}/weights/" if mode else "weights/"
    return joined(
        {
            key.removeprefix(prefix): np.asarray(array)
            for key, array in record.items()
            if key.startswith(prefix)
        }
    )
