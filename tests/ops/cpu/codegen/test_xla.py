"""The interface to XLA: its offsets, its versions, and the calls that are refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.errors import UnsupportedError
from linsey.extras import install_hint
from linsey.ops.cpu import channel_kernels, dispatch
from linsey.ops.cpu import conv_kernels as convs

if not dispatch.kernels_usable():
    pytest.skip("needs numba and Linux", allow_module_level=True)

from linsey.ops.cpu.codegen import interface, xla

# --- the offsets ----------------------------------------------------------------------


def structures(header):
    """The fields of each structure of a C header: name, size in bytes and alignment."""
    text = re.sub(r"//.*|/\*(.|\n)*?\*/|^#.*(\\\n.*)*", "", header, flags=re.M)
    text = re.sub(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\);", r"void* \1;", text)
    layouts, found = {"int": (4, 4), "int32_t": (4, 4), "uint32_t": (4, 4)}, {}
    layouts |= {"int64_t": (8, 8), "size_t": (8, 8), "XLA_FFI_Handler_Traits": (4, 4)}
    layouts |= {name: (4, 4) for name in re.findall(r"enum \{[^}]*\} (\w+);", text)}
    for name, body in re.findall(r"struct (\w+) \{([^}]*)\}", text):
        offset, alignment, fields = 0, 1, {}
        for field in filter(None, map(str.strip, body.split(";"))):
            declared = re.search(r"\(\*(\w+)\)", field) or re.search(r"(\w+)$", field)
            kind = field.removeprefix("const ").split()[0]
            size, align = (8, 8) if "*" in field else layouts[kind]
            offset += -offset % align
            fields[declared[1]] = offset
            offset, alignment = offset + size, max(alignment, align)
        layouts[name] = offset + -offset % alignment, alignment
        found[name] = fields | {"": layouts[name][0]}
    return found


CALL_FRAME = {
    "FRAME_EXTENSION": "extension_start",
    "FRAME_API": "api",
    "FRAME_CONTEXT": "ctx",
    "FRAME_INPUT_COUNT": "args XLA_FFI_Args.size",
    "FRAME_INPUTS": "args XLA_FFI_Args.args",
    "FRAME_OUTPUT_COUNT": "rets XLA_FFI_Rets.size",
    "FRAME_OUTPUTS": "rets XLA_FFI_Rets.rets",
    "FRAME_ATTRIBUTE_COUNT": "attrs XLA_FFI_Attrs.size",
    "FRAME_ATTRIBUTE_TYPES": "attrs XLA_FFI_Attrs.types",
    "FRAME_ATTRIBUTES": "attrs XLA_FFI_Attrs.attrs",
    "FRAME_WORDS": "attrs XLA_FFI_Attrs.",
}
OTHERS = {
    "BUFFER_DTYPE": "XLA_FFI_Buffer.dtype",
    "BUFFER_DATA": "XLA_FFI_Buffer.data",
    "BUFFER_RANK": "XLA_FFI_Buffer.rank",
    "BUFFER_SHAPE": "XLA_FFI_Buffer.dims",
    "BUFFER_WORDS": "XLA_FFI_Buffer.",
    "ARRAY_DTYPE": "XLA_FFI_Array.dtype",
    "ARRAY_SIZE": "XLA_FFI_Array.size",
    "ARRAY_DATA": "XLA_FFI_Array.data",
    "ARRAY_WORDS": "XLA_FFI_Array.",
    "EXTENSION_METADATA": "XLA_FFI_Metadata_Extension.metadata",
    "METADATA_VERSION": "XLA_FFI_Metadata.api_version "
    "XLA_FFI_Api_Version.major_version",
    "API_VERSION": "XLA_FFI_Api.api_version XLA_FFI_Api_Version.major_version",
    "API_CREATE_ERROR": "XLA_FFI_Api.XLA_FFI_Error_Create",
    "API_SCHEDULE": "XLA_FFI_Api.XLA_FFI_ThreadPool_Schedule",
    "API_THREADS": "XLA_FFI_Api.XLA_FFI_ThreadPool_NumThreads",
}
OFFSETS = {k: f"XLA_FFI_CallFrame.{v}" for k, v in CALL_FRAME.items()} | OTHERS
VALUES = {
    "ARRAY_ATTRIBUTE": "XLA_FFI_AttrType_ARRAY",
    "DTYPE_BFLOAT16": "XLA_FFI_DataType_BF16",
    "DTYPE_FLOAT16": "XLA_FFI_DataType_F16",
    "DTYPE_FLOAT32": "XLA_FFI_DataType_F32",
    "DTYPE_FLOAT64": "XLA_FFI_DataType_F64",
    "DTYPE_INT32": "XLA_FFI_DataType_S32",
    "DTYPE_INT64": "XLA_FFI_DataType_S64",
    "INVALID_ARGUMENT": "XLA_FFI_Error_Code_INVALID_ARGUMENT",
}
# What a handler gives to functions of XLA: offsets and size, in words.
QUESTIONS = {
    "XLA_FFI_ThreadPool_Schedule_Args": {"ctx": 2, "task": 3, "data": 4, "": 5},
    "XLA_FFI_ThreadPool_NumThreads_Args": {"ctx": 2, "num_threads": 3, "": 4},
    "XLA_FFI_Error_Create_Args": {"message": 2, "errc": 3, "": 4},
}


def header():
    return Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()


@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_are_those_of_the_header_that_jaxlib_ships(name):
    found = structures(header())
    steps = (step.partition(".") for step in OFFSETS[name].split())
    bytes_ = sum(found[structure][field] for structure, _, field in steps)
    assert getattr(xla, name) * 8 == bytes_


def test_every_offset_is_compared_with_the_header():
    prefixes = ("FRAME_", "BUFFER_", "ARRAY_", "EXTENSION_", "METADATA_", "API_")
    names = {name for name in vars(xla) if name.startswith(prefixes)}
    assert names == OFFSETS.keys() | {"ARRAY_ATTRIBUTE"}
    assert {n for n in vars(xla) if n.startswith("DTYPE_")} < VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_the_header(name):
    value = re.search(rf"\b{VALUES[name]} = (\d+)", header())[1]
    assert getattr(xla, name) == int(value)


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_xla_is_asked_has_the_layout_of_the_header(name):
    fields = structures(header())[name]
    expected = {"struct_size": 0, "extension_start": 1, **QUESTIONS[name]}
    assert fields == {field: 8 * word for field, word in expected.items()}


def test_offsets_found_in_a_header_are_those_of_a_compiler():
    found = structures(
        "typedef enum { A = 1, } Kind;\n"
        "struct Inner { int32_t a; size_t b; Kind c; };  // 24 bytes\n"
        "typedef struct Outer {\n"
        "  Kind kind;\n  const Inner* next;\n  void (*f)(int x);\n"
        "  Kind other;\n  Inner inner;\n} Outer;\n"
    )
    assert found["Inner"] == {"a": 0, "b": 8, "c": 16, "": 24}
    outer = {"kind": 0, "next": 8, "f": 16, "other": 24, "inner": 32, "": 56}
    assert found["Outer"] == outer


# --- versions -------------------------------------------------------------------------


def test_the_installed_version_is_a_checked_one():
    interface.check_interface()
    parts = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header())
    assert tuple(map(int, parts)) in interface.VERSIONS


def test_a_version_that_was_not_checked_is_left_to_xla_with_one_warning(monkeypatch):
    monkeypatch.setattr(interface, "VERSIONS", ((7, 1),))
    for name in "_load", "_warn":  # as in a process that has loaded no kernel
        anew = cache(getattr(dispatch, name).__wrapped__)
        monkeypatch.setattr(dispatch, name, anew)
    jax.clear_caches()
    x, kernel = jnp.ones((8, 64, 64, 16)), jnp.ones((3, 3, 16, 32))
    window = convs.Window((3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1)

    def both(x, kernel):
        moments = channel_kernels.channel_moments(x, x[0, 0, 0])
        return convs.convolve(x, kernel, window), moments

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y, (first, _) = jax.jit(both)(x, kernel)
    jax.clear_caches()
    assert float(y[0, 0, 0, 0]) == 9 * 16 and float(first[0]) == 0
    (warning,) = caught
    assert warning.category is dispatch.KernelsUnavailableWarning
    assert "that were checked for 7.1 only" in str(warning.message)


def test_an_unknown_version_says_what_to_install(monkeypatch):
    advice = f"Write `{install_hint('cpu')}`, which chooses a jaxlib that has one."
    text = "#define XLA_FFI_API_MAJOR 1\n#define XLA_FFI_API_MINOR 2\n"
    monkeypatch.setattr(interface.Path, "read_text", lambda path: text)
    monkeypatch.setattr(interface.jaxlib, "__version__", "9.9")
    with pytest.raises(UnsupportedError) as caught:
        interface.check_interface()
    assert str(caught.value).splitlines() == [
        "jaxlib 9.9 has version 1.2 of XLA's interface for custom calls.",
        "The kernels read the structures of this interface by offsets that were "
        "checked for 0.3, 0.4, 0.5 only.",
        advice,
    ]


def in_new_process(program, cache=None):
    names = ("PYTHONPYCACHEPREFIX", "XDG_CACHE_HOME") if cache else ()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **dict.fromkeys(names, str(cache))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_running_library_is_asked_for_its_version_too(tmp_path):
    program = """
import jax
from linsey.ops.cpu.codegen import machine_code, xla
jax.devices()  # without a backend, jax only notes the handler
xla._VERSION_WORDS = (7 << 32,)
try:
    machine_code.load("channels")
except Exception as error:
    print("incompatible" in str(error))
"""
    assert in_new_process(program, tmp_path) == ["True"]


# --- calls that are refused ---------------------------------------------------------


def plan_of(x, y, window, gradient=False):
    return convs._plan(x, y, window, gradient)


X, KERNEL, Y = (2, 5, 6, 4), (3, 2, 2, 32), (2, 3, 5, 32)
WINDOW = convs.Window((3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 2)
ROWS, CHANNEL = (3, 10, 64), (64,)
EXAMPLES, FEATURES, ONE = (2, 3, 4, 32), (1, 1, 4, 32), (1, 1, 1, 1)
MODULES = "channels", "convolution", "examples"
# For each kernel the shapes of its inputs and of its outputs, and a plan for them.
CALLS = {
    "linsey_example_norm": (
        [EXAMPLES, FEATURES, FEATURES, ONE],
        [EXAMPLES],
        (*EXAMPLES, 1, 0),
    ),
    "linsey_example_cotangents": (
        [EXAMPLES, EXAMPLES, FEATURES, ONE],
        [EXAMPLES, FEATURES, FEATURES],
        (*EXAMPLES, 0, 0),
    ),
    "linsey_channel_moments": ([ROWS, *[CHANNEL] * 2], [(2, 64)], (30, 64, 0)),
    "linsey_channel_products": (
        [ROWS, *[CHANNEL] * 2, ROWS],
        [(2, 64)],
        (30, 64, 0),
    ),
    "linsey_channel_combine": ([ROWS] * 2 + [CHANNEL] * 5, [ROWS], (30, 64, 0)),
    "linsey_convolution": ([X, KERNEL], [Y], plan_of(X, Y, WINDOW)),
    "linsey_biased_convolution": (
        [X, KERNEL, (1, 1, 1, 32)],
        [Y],
        plan_of(X, Y, WINDOW),
    ),
    "linsey_kernel_gradient": ([X, Y], [KERNEL], plan_of(X, Y, WINDOW, True)),
}
COUNTS, DTYPES, SHAPES = "another number of", "of float32", "the plan implies"


def floats(shapes):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def changed(values, index, value):
    return [*values[:index], value, *values[index + 1 :]]


def call(name, operands=None, result=None, plan=None, dtype=None, **attributes):
    """Calls a kernel as XLA does, without any check in Python."""
    for module in MODULES:
        assert dispatch._load(module)
    shapes, outputs, numbers = CALLS[name]
    operands = [jnp.ones(s) for s in shapes] if operands is None else operands
    result = floats(outputs) if result is None else result
    plan = np.array(numbers if plan is None else plan, dtype or np.int64)
    run = jax.ffi.ffi_call(name, result)
    return jax.block_until_ready(
        jax.jit(lambda *v: run(*v, plan=plan, **attributes))(*operands)
    )


def refused(name, message, **changes):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        call(name, **changes)


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_fit_are_computed(name):
    assert all(np.all(np.isfinite(result)) for result in call(name))


@pytest.mark.parametrize("name", CALLS)
def test_another_number_of_arrays_is_refused(name):
    shapes, outputs, _ = CALLS[name]
    operands = [jnp.ones(shape) for shape in shapes]
    refused(name, COUNTS, operands=operands[:-1])
    refused(name, COUNTS, operands=[*operands, operands[-1]])
    refused(name, COUNTS, result=floats(outputs[:1] * (len(outputs) + 1)))
    if len(outputs) > 1:
        refused(name, COUNTS, result=floats(outputs[1:]))


@pytest.mark.thinned(8)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.int8])
def test_arrays_of_another_dtype_are_refused(name, dtype):
    shapes, outputs, _ = CALLS[name]
    for index in range(len(shapes)):
        operands = [jnp.ones(shape) for shape in shapes]
        operands[index] = operands[index].astype(dtype)
        refused(name, DTYPES, operands=operands)
    for index, output in enumerate(outputs):
        other = jax.ShapeDtypeStruct(output, dtype)
        refused(name, DTYPES, result=changed(floats(outputs), index, other))


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_another_shape_are_refused(name):
    shapes, outputs, _ = CALLS[name]
    for index, shape in enumerate(shapes):
        others = [shape[-1:], (*shape[:-1], shape[-1] - 1), (1, *shape, 2)]
        for other in {s for s in others if s != shape} | {()}:
            operands = [jnp.ones(s) for s in shapes]
            operands[index] = jnp.ones(other)
            refused(name, SHAPES, operands=operands)
    for index, output in enumerate(outputs):
        others = [(*output[:-1], output[-1] - 1), (2, *output)]
        for other in [*others, output[1:]] if output[0] > 1 else others:
            refused(name, SHAPES, result=floats(changed(outputs, index, other)))


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", CALLS)
def test_another_plan_is_refused(name):
    plan = list(CALLS[name][2])
    refused(name, COUNTS, plan=plan[:-1])
    refused(name, COUNTS, plan=[*plan, 1])
    refused(name, COUNTS, plan=[])
    refused(name, COUNTS, more=np.ones(3))
    refused(name, DTYPES, plan=np.float32(plan), dtype=np.float32)
    refused(name, DTYPES, plan=plan, dtype=np.int32)
    for numbers in ([0] * len(plan), [2**62] * len(plan), [-1] * len(plan)):
        refused(name, SHAPES, plan=numbers)
    last = len(plan) - 1
    refused(name, SHAPES, plan=[*plan[:last], 2**31])
    free = range(11, 13) if len(plan) > 6 else ()  # padding
    for index in set(range(last)) - set(free):
        for number in {0, -1, 2**62}:
            if (len(plan), index, number) != (6, 4, 0):  # not centred
                refused(name, SHAPES, plan=changed(plan, index, number))


def test_an_attribute_that_is_no_array_is_refused():
    for module in MODULES:
        assert dispatch._load(module)
    for name, (shapes, outputs, _) in CALLS.items():
        run = jax.ffi.ffi_call(name, floats(outputs))
        for plan in np.int64(3), "plan":
            with pytest.raises(jax.errors.JaxRuntimeError, match=COUNTS):
                run(*map(jnp.ones, shapes), plan=plan)


def test_memory_that_cannot_be_had_is_an_error():
    program = """
import re, resource
import jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from linsey.ops.cpu import conv_kernels, dispatch
dispatch.kernels_usable(), dispatch._load("convolution")
x, kernel, y = (1, 1, 1, 2), (1, 2, 2, 16), (1, 1, 1, 16)
window = conv_kernels.Window((1, 2), (1, 1), ((0, 0), (0, 1)), (1, 1), (1, 1), 1)
run = jax.ffi.ffi_call("linsey_convolution", jax.ShapeDtypeStruct(y, jnp.float32))
size = re.search(r"VmSize:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
limit = int(size) * 1024 + 2**28
for dilation in 1, 2**27:  # of the columns of the window: a band of 1 GiB
    plan = np.array(conv_kernels._plan(x, y, window, False))
    plan[16] = dilation
    if dilation > 1:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        print(run(jnp.ones(x), jnp.ones(kernel), plan=plan)[0, 0, 0, 0])
    except jax.errors.JaxRuntimeError as error:
        print("no memory is left" in str(error))
"""
    assert in_new_process(program) == ["2.0", "True"]


@hypothesis.given(st.sampled_from(sorted(CALLS)), st.data())
@hypothesis.settings(max_examples=80, deadline=None)
def test_no_plan_makes_a_kernel_leave_its_memory(name, data):
    """It computes something of its own arrays, or refuses; a fault ends the process."""
    plan = list(CALLS[name][2])
    numbers = st.sampled_from([-1, 0, 1, 2, 3, 5, 32, 2**30, 2**31, -(2**62), 2**62])
    for index in data.draw(st.lists(st.sampled_from(range(len(plan))), max_size=4)):
        plan[index] = data.draw(numbers)
    try:
        call(name, plan=plan)
    except jax.errors.JaxRuntimeError as error:
        assert SHAPES in str(error)
