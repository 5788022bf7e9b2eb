"""Operations that have a definition in `jax.lax` and a kernel of our own on a CPU.

The definition gives the derivatives, the batching by `vmap`, and the program for every
other device. The kernel computes the same in less time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial, reduce

import jax
import numpy as np
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from linsey._contexts import BY_DEFINITION
from linsey.ops.cpu.dispatch import Shape, calls_kernel

Function = Callable[..., Sequence[Array]]
Linear = Array | ad.UndefinedPrimal  # an operand, or its placeholder in a transpose
Cotangents = Sequence[Array | ad.Zero]


def define(
    name: str,
    definition: Function,
    kernel: Function,
    module: str,
    shapes: Callable[..., Sequence[Shape]],
    transpose: Callable[..., Sequence[Array | None]],
    multilinear: Sequence[int] = (),
    examples: Sequence[int] = (),
    static: Sequence[str] = (),
) -> Function:
    """Make an operation from a definition and a kernel.

    Args:
        name: Name of the operation.
        definition: Function of arrays and keyword arguments to a list of arrays.
        kernel: The same function for a single CPU, if all operands are float32.
        module: Module of `linsey.ops.cpu.codegen` that contains the kernel.
        shapes: Function of the same arguments to the shapes of the results, which have
            the dtype of the first argument. It refuses operands that do not fit.
        transpose: Rule for the arguments in which the function is linear, as
            `jax.interpreters.ad` expects it.
        multilinear: The arguments in each of which the function is linear if the
            others are fixed: derivatives for these are the operation itself.
        examples: The arguments whose first axis, like that of the results, consists of
            examples that are computed independently. If only these arguments are
            batched, the operation is called with more examples.
        static: Names of the keyword arguments, which are hashable.

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

    def abstract(*operands: ShapedArray, **options: Hashable) -> list[ShapedArray]:
        dtype = operands[0].dtype
        return [ShapedArray(shape, dtype) for shape in shapes(*operands, **options)]

    def differentiate(
        primals: Sequence[Array], tangents: Cotangents, **options: Hashable
    ) -> tuple[Sequence[Array], list[Array]]:
        results = primitive.bind(*primals, **options)
        terms = []
        for index, tangent in enumerate(tangents):
            if isinstance(tangent, ad.Zero):
                continue

            def changed(value: Array, index: int = index) -> Sequence[Array]:
                operands = (*primals[:index], value, *primals[index + 1 :])
                evaluate = primitive.bind if index in multilinear else definition
                return evaluate(*operands, **options)

            if index in multilinear:
                terms.append(changed(tangent))
            else:
                terms.append(jax.jvp(changed, [primals[index]], [tangent])[1])
        return results, [reduce(lax.add, column) for column in zip(*terms, strict=True)]

    def batch(
        operands: Sequence[Array], axes: Sequence[int | None], **options: Hashable
    ) -> tuple[Sequence[Array], list[int]]:
        if {i for i, axis in enumerate(axes) if axis is not None} <= set(examples):
            results = _with_more_examples(
                partial(primitive.bind, **options), operands, axes, examples
            )
        else:
            results = jax.vmap(partial(definition, **options), axes)(*operands)
        return results, [0] * len(results)

    by_xla = mlir.lower_fun(definition, multiple_results=True)
    by_kernel = mlir.lower_fun(kernel, multiple_results=True)

    def lower(
        context: mlir.LoweringRuleContext, *operands: mlir.Value, **options: Hashable
    ) -> Sequence[mlir.Value]:
        rule = by_kernel if calls_kernel(context, module) else by_xla
        return rule(context, *operands, **options)

    operation = primitive.bind
    compiled = jax.jit(operation, static_argnames=static)
    compiled_by_definition = jax.jit(definition, static_argnames=static)

    def run(*operands: Array, **options: Hashable) -> Sequence[Array]:
        chosen = compiled_by_definition if BY_DEFINITION.get() else compiled
        return chosen(*operands, **options)

    primitive.def_impl(run)
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = differentiate
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, by_xla)
    mlir.register_lowering(primitive, lower, platform="cpu")
    return operation


def _with_more_examples(
    function: Function,
    operands: Sequence[Array],
    axes: Sequence[int | None],
    examples: Sequence[int],
) -> list[Array]:
    """Batch a function by calling it once with the examples of the whole batch."""
    given = ((v, a) for v, a in zip(operands, axes, strict=True) if a is not None)
    size = next(operand.shape[axis] for operand, axis in given)
    merged, count = list(operands), 0
    for i in examples:
        axis, operand = axes[i], operands[i]
        if axis is None:
            operand = lax.broadcast(operand, (size,))
        else:
            operand = jax.numpy.moveaxis(operand, axis, 0)
        count = operand.shape[1]
        merged[i] = lax.reshape(operand, (size * count, *operand.shape[2:]))
    return [lax.reshape(v, (size, count, *v.shape[1:])) for v in function(*merged)]


def kept(results: Sequence[Array], operands: Sequence[Linear]) -> list[Array | None]:
    """Keep the cotangents of the operands for which a function is transposed.

    Example:
        >>> kept([1.0], [2.0])
        [None]
    """
    return [
        result if ad.is_undefined_primal(operand) else None
        for result, operand in zip(results, operands, strict=True)
    ]


def refuse_transposition(*_: object, **__: object) -> list[Array | None]:
    """Refuse to transpose an operation that is not linear in any of its arguments."""
    raise NotImplementedError("the operation is linear in none of its arguments")


def call_kernel(
    target: str,
    results: Sequence[Shape],
    operands: Sequence[Array],
    plan: Sequence[int],
) -> list[Array]:
    """Call a kernel of `linsey.ops.cpu.codegen`, whose operands are float32.

    Args:
        target: Name of the kernel.
        results: Shapes of the results.
        operands: Arrays.
        plan: Numbers for the kernel.

    Returns:
        The results, in float32.

    Example:
        >>> x, shift = jax.numpy.ones((4, 64)), jax.numpy.zeros(64)
        >>> name, plan = "linsey_channel_moments", (4, 64, 0)
        >>> call = lambda *operands: call_kernel(name, [(2, 64)], operands, plan)
        >>> jax.eval_shape(call, x, shift, shift)[0].shape
        (2, 64)
    """
    made = [jax.ShapeDtypeStruct(shape, np.float32) for shape in results]
    call = jax.ffi.ffi_call(target, made)
    return list(call(*operands, plan=np.array(plan, np.int64)))
