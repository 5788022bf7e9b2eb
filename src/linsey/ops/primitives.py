"""Operations that have a definition in `jax.lax` and a kernel of our own on a CPU.

The definition is what counts: from it come the derivatives, batching by `vmap`, and the
program for every other device. The kernel computes the same in less time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from linsey.ops.compiled import load, wanted

Function = Callable[..., Sequence[Array]]


def define(
    name: str,
    definition: Function,
    kernel: Function,
    module: str,
    shapes: Callable[..., Sequence[tuple[int, ...]]],
    transpose: Callable[..., Sequence[Any]],
    multilinear: Sequence[int] = (),
    static: Sequence[str] = (),
) -> Function:
    """Makes an operation of a definition and a kernel.

    Args:
        name: name of the operation.
        definition: function of arrays and keyword arguments to a list of arrays.
        kernel: the same function, for a single CPU.
        module: module of `linsey.ops.compiled` that has the kernel.
        shapes: function of the same arguments to the shapes of the results, which have
            the dtype of the first argument.
        transpose: rule for the arguments that the function is linear in, as
            `jax.interpreters.ad` wants it.
        multilinear: the arguments in each of which the function is linear, if the
            others are fixed: derivatives by these are the operation itself.
        static: names of the keyword arguments, which are hashable.

    Returns:
        The operation, with the arguments of the definition.

    Example:
        >>> def twice(x):
        ...     return [x + x]
        >>> operation = define(
        ...     "twice", twice, twice, "channels", lambda x: [x.shape],
        ...     lambda cotangents, x: [2 * cotangents[0]], multilinear=[0],
        ... )
        >>> jax.grad(lambda x: operation(x)[0])(1.0).item()
        2.0
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def abstract(*arguments: Any, **options: Any) -> Any:
        dtype = arguments[0].dtype
        return [ShapedArray(shape, dtype) for shape in shapes(*arguments, **options)]

    def differentiate(primals: Any, tangents: Any, **options: Any) -> Any:
        results = primitive.bind(*primals, **options)
        terms = []
        for place, tangent in enumerate(tangents):
            if isinstance(tangent, ad.Zero):
                continue

            def changed(value: Any, place: int = place) -> Any:
                arguments = (*primals[:place], value, *primals[place + 1 :])
                evaluate = primitive.bind if place in multilinear else definition
                return evaluate(*arguments, **options)

            if place in multilinear:
                terms.append(changed(tangent))
            else:
                terms.append(jax.jvp(changed, [primals[place]], [tangent])[1])
        return results, [reduce(lax.add, column) for column in zip(*terms, strict=True)]

    def batch(arguments: Any, axes: Any, **options: Any) -> Any:
        results = jax.vmap(partial(definition, **options), axes)(*arguments)
        return results, [0] * len(results)

    by_xla = mlir.lower_fun(definition, multiple_results=True)
    by_kernel = mlir.lower_fun(kernel, multiple_results=True)

    def lower(context: Any, *arguments: Any, **options: Any) -> Any:
        rule = by_kernel if wanted(context) and load(module) else by_xla
        return rule(context, *arguments, **options)

    operation = primitive.bind
    primitive.def_impl(jax.jit(operation, static_argnames=static))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = differentiate
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, by_xla)
    mlir.register_lowering(primitive, lower, platform="cpu")
    return operation


def call_kernel(
    target: str, results: Sequence[Any], arguments: Sequence[Array], plan: Any
) -> list[Array]:
    """Calls a kernel of `linsey.ops.compiled` by its name.

    Args:
        target: the name.
        results: shape and dtype of each result.
        arguments: arrays.
        plan: numbers for the kernel.

    Returns:
        The results.

    Example:
        >>> x, origin = jax.numpy.ones((4, 64)), jax.numpy.zeros(64)
        >>> result = jax.ShapeDtypeStruct((2, 64), x.dtype)
        >>> name = "linsey_channel_moments"
        >>> call = lambda *args: call_kernel(name, [result], args, (4, 64, 0))
        >>> jax.eval_shape(call, x, origin)[0].shape
        (2, 64)
    """
    call = jax.ffi.ffi_call(target, list(results))
    return list(call(*arguments, plan=np.array(plan, np.int64)))
