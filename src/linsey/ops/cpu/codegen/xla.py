"""How XLA calls a kernel that numba compiled, and how the kernel uses XLA's threads.

XLA calls a *handler* with the address of a call frame, a structure of
`xla/ffi/api/c_api.h`. From it the handler makes a *job*, an array of 64-bit words that
the threads share:

    words 0 to 7    the next piece, how many are done, and so on
    words 8 to 15   addresses of the inputs
    words 16 to 19  addresses of the outputs
    words 20 to 25  for the kernel itself
    words 26 to 31  the arguments of a call into XLA
    words 32 to 63  the plan: numbers known when the program was compiled

A handler divides its work into pieces, which threads take one by one. The thread on
which XLA calls the handler takes pieces too, and waits only for those that others have
begun, so it returns even if no other thread is free.

**How a kernel is kept inside the memory that it was given.** No function below trusts
its caller; each check refuses errors that the previous ones let through.

1. `interface.check_interface`, before anything is loaded: the header that jaxlib
   ships has one of the `VERSIONS` whose structures were compared with the offsets
   below. A test compares them with the installed header. Otherwise XLA computes
   without kernels.
2. `_answer_version`, when XLA registers a handler: the library that is running has one
   of these versions too. Otherwise the registration fails, and XLA computes without
   kernels. (Programs are lowered after JAX has started its backend; before that, it
   only records the handlers.)
3. `_find_problem`, at each call: the frame has as many inputs, outputs and numbers of
   the plan as the kernel declares, the plan is the only attribute and an array of
   int64, and every array is float32.
4. `is_valid` of the kernel and `_have_shapes`, at each call: the plan is one that the
   loops can follow (as defined in `channels.py`, `examples.py` and `convolution.py`),
   and every array has the shape that the plan implies. All addresses are computed from
   the plan.
5. `start` of the kernel: memory for intermediate results could be allocated.

If one of the last three checks fails, the call ends with an error of XLA before an
array is read or written.

A `Handler` has neither threads nor a plan: it takes everything from the frame, and
checks the frame itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core.typing import Signature
from numba.extending import intrinsic

from linsey.ops.cpu.codegen.interface import VERSIONS

NEXT, DONE, HOLDERS, PIECES, WORKERS, THREADS = range(6)
INPUT, OUTPUT, OWN, CALL, PLAN, JOB = 8, 16, 20, 26, 32, 64

HUGE_PAGE, ADVISE_HUGE = 1 << 21, 14
FLOAT, DOUBLE = 4, 8  # bytes

# Offsets, in words, of the fields in c_api.h that are used here.
FRAME_EXTENSION, FRAME_API, FRAME_CONTEXT, FRAME_WORDS = 1, 2, 3, 21
FRAME_INPUT_COUNT, FRAME_INPUTS, FRAME_OUTPUT_COUNT, FRAME_OUTPUTS = 7, 9, 12, 14
FRAME_ATTRIBUTE_COUNT, FRAME_ATTRIBUTE_TYPES, FRAME_ATTRIBUTES = 17, 18, 20
BUFFER_DTYPE, BUFFER_DATA, BUFFER_RANK, BUFFER_SHAPE, BUFFER_WORDS = 2, 3, 4, 5, 6
ARRAY_DTYPE, ARRAY_SIZE, ARRAY_DATA, ARRAY_WORDS = 0, 1, 2, 3
EXTENSION_METADATA, METADATA_VERSION = 3, 3
API_VERSION, API_CREATE_ERROR, API_SCHEDULE, API_THREADS = 4, 6, 17, 18
ARRAY_ATTRIBUTE, INVALID_ARGUMENT = 1, 3
DTYPE_INT32, DTYPE_INT64 = 4, 5
DTYPE_FLOAT16, DTYPE_FLOAT32, DTYPE_FLOAT64, DTYPE_BFLOAT16 = 10, 11, 12, 16

# The versions as XLA stores them: two 32-bit numbers in one word.
_VERSION_WORDS = tuple(major | minor << 32 for major, minor in VERSIONS)
_LOW_HALF = (1 << 32) - 1

# Problems that a handler can find.
FINE, COUNTS, DTYPES, SHAPES, MEMORY, ONE_DTYPE, PLACES = range(7)
_MESSAGES = np.zeros((7, 128), np.uint8)
for _problem, _message in (
    (COUNTS, b"linsey kernel: another number of arrays or of attributes is needed"),
    (DTYPES, b"linsey kernel: arrays have to be of float32 and the plan of int64"),
    (SHAPES, b"linsey kernel: the arrays do not have the shapes that the plan implies"),
    (MEMORY, b"linsey kernel: no memory is left for intermediate results"),
    (ONE_DTYPE, b"linsey kernel: rows and arrays have to be of one dtype of floats"),
    (PLACES, b"linsey kernel: rows need a number, two axes, and arrays to write to"),
):
    _MESSAGES[_problem, : len(_message)] = bytearray(_message)

_WORD = ir.IntType(64)
_word = types.int64
_WORD_TO_WORD = _word(_word)

# Functions that only compiled ones call need no wrapper for calls from Python.
_OPTIONS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled = njit(error_model="numpy", **_OPTIONS)

allocate = types.ExternalFunction("malloc", _word(_word))
free = types.ExternalFunction("free", types.void(_word))
copy = types.ExternalFunction("memcpy", _word(_word, _word, _word))
_advise = types.ExternalFunction("madvise", types.int32(_word, _word, types.int32))
_yield = types.ExternalFunction("sched_yield", types.int32())


# --- instructions that numba does not have -------------------------------------------


def _instruction(
    signature: Signature, emit: Callable[[ir.IRBuilder, Sequence[ir.Value]], ir.Value]
) -> Callable[..., Any]:
    """Make a function of at most two arguments whose LLVM code `emit` writes."""

    def generate(
        context: object,
        builder: ir.IRBuilder,
        signature: Signature,
        values: Sequence[ir.Value],
    ) -> ir.Value:
        return emit(builder, values)

    typings = (
        lambda context: (signature, generate),
        lambda context, first: (signature, generate),
        lambda context, first, second: (signature, generate),
    )
    return intrinsic(typings[len(signature.args)])


def _pointer(target: types.Type, element: ir.Type) -> Callable[..., Any]:
    return _instruction(
        types.CPointer(target)(_word),
        lambda builder, values: builder.inttoptr(values[0], element.as_pointer()),
    )


_word_pointer = _pointer(_word, _WORD)
_half_pointer = _pointer(types.int32, ir.IntType(32))
_float_pointer = _pointer(types.float32, ir.FloatType())
_double_pointer = _pointer(types.float64, ir.DoubleType())


def symbol(name: str) -> Callable[[], int]:
    """Make a function that returns the address of a symbol of the same module."""
    # numba links each function that it compiles, although none runs in its process.
    binding.add_symbol(name, 1)

    def emit(builder: ir.IRBuilder, values: Sequence[ir.Value]) -> ir.Value:
        found = builder.module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(builder.module, _WORD, name)
        return builder.ptrtoint(found, _WORD)

    return _instruction(_word(), emit)


def caller(count: int) -> Callable[[int, tuple[int, ...]], int]:
    """Make a function that calls, by its address, a function of `count` words."""
    kind = ir.FunctionType(_WORD, [_WORD] * count).as_pointer()

    def emit(builder: ir.IRBuilder, values: Sequence[ir.Value]) -> ir.Value:
        function, words = values
        words = [builder.extract_value(words, i) for i in range(count)]
        return builder.call(builder.inttoptr(function, kind), words)

    return _instruction(_word(_word, types.UniTuple(_word, count)), emit)


def _emit_addition(builder: ir.IRBuilder, values: Sequence[ir.Value]) -> ir.Value:
    """Add to a word in memory, and return its old value."""
    pointer = builder.inttoptr(values[0], _WORD.as_pointer())
    return builder.atomic_rmw("add", pointer, values[1], "seq_cst")


_add_atomically = _instruction(_word(_word, _word), _emit_addition)
_call = caller(1)


# --- what kernels are written with ----------------------------------------------------


@compiled
def words(address, count):
    """Return the words at an address, as an array."""
    return carray(_word_pointer(address), count)


@compiled
def floats(address, shape):
    """Return the floats at an address, as an array."""
    return carray(_float_pointer(address), shape)


@compiled
def doubles(address, shape):
    """Return the 64-bit floats at an address, as an array."""
    return carray(_double_pointer(address), shape)


@compiled
def halves(address, count):
    """Return the 32-bit integers at an address, as an array."""
    return carray(_half_pointer(address), count)


@compiled
def use_huge_pages(address, size):
    """Ask for pages of 2 MiB before memory is first written: one fault, not 512."""
    first = (address + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    last = (address + size) // HUGE_PAGE * HUGE_PAGE
    if last > first:
        _advise(first, last - first, ADVISE_HUGE)


# --- handlers and tasks ---------------------------------------------------------------


class Kernel(NamedTuple):
    """The functions of a job that XLA calls by one name, compiled by `compiled`.

    Attributes:
        target: The name.
        inputs: Number of arrays that it reads.
        plan: Number of words of the plan.
        is_valid: `is_valid(job)` returns whether the loops can follow the plan.
        shapes: `shapes(job)` returns the shape of each input, and of each output, that
            a valid plan implies. All have the same length: the first number is the
            product of all axes before the others.
        start: `start(job)` makes preparations and returns the number of pieces, or 0 if
            there is no memory.
        work: `work(job, piece, worker)` does one piece. The `worker` is the number of
            the thread, less than the number of threads.
        finish: `finish(job)` combines the results of the pieces.
        outputs: Number of arrays that it writes.
    """

    target: str
    inputs: int
    plan: int
    is_valid: Callable[..., bool]
    shapes: Callable[..., tuple[tuple[int, ...], ...]]
    start: Callable[..., int]
    work: Callable[..., None]
    finish: Callable[..., None]
    outputs: int = 1


class Handler(NamedTuple):
    """A function that XLA calls by a name, without threads and a plan.

    Attributes:
        target: The name.
        do: `do(frame)` does what a call frame asks for and returns `FINE`. If the frame
            is wrong, it returns the problem before it has written anything.
    """

    target: str
    do: Callable[..., int]


def _unset(*arguments: object) -> Any:
    raise NotImplementedError


# Placeholders in the templates `_handle_alone`, `_handle` and `_run`; see `_fill`.
_inputs, _outputs, _plan_words = 0, 0, 0
_is_valid = _shapes = _start = _work = _finish = _task = _do = _unset


def _handle_alone(pointer):
    """Do what XLA asks for in a call frame; return an error of XLA, or 0."""
    frame = words(pointer, FRAME_WORDS)
    if frame[FRAME_EXTENSION] != 0:
        return _answer_version(frame)
    problem = _do(frame)
    return 0 if problem == FINE else _create_error(frame, problem)


def _handle(pointer):
    """Do what XLA asks for in a call frame; return an error of XLA, or 0."""
    frame = words(pointer, FRAME_WORDS)
    if frame[FRAME_EXTENSION] != 0:
        return _answer_version(frame)
    problem = _find_problem(frame, _inputs, _outputs, _plan_words)
    if problem != FINE:
        return _create_error(frame, problem)
    address = _open_job(frame)
    if address == 0:
        return _create_error(frame, MEMORY)
    job = words(address, JOB)
    if not (_is_valid(job) and _have_shapes(frame, _shapes(job))):
        free(address)
        return _create_error(frame, SHAPES)
    pieces = _start(job)
    if pieces == 0:
        free(address)
        return _create_error(frame, MEMORY)
    _share(frame, address, pieces, _task())
    _finish(job)
    return _leave(address)


def _run(address):
    """Take and do pieces of a job until none are left."""
    job, worker = words(address, JOB), _add_atomically(address + 8 * WORKERS, 1)
    piece = _add_atomically(address + 8 * NEXT, 1)
    while piece < job[PIECES]:
        _work(job, piece, worker)
        _add_atomically(address + 8 * DONE, 1)
        piece = _add_atomically(address + 8 * NEXT, 1)
    return _leave(address)


@compiled
def _answer_version(frame):
    """Tell XLA that this handler is for its version, if that has been checked."""
    metadata = words(frame[FRAME_EXTENSION], EXTENSION_METADATA + 1)[EXTENSION_METADATA]
    version = words(frame[FRAME_API], API_VERSION + 1)[API_VERSION]
    answer = words(metadata, METADATA_VERSION + 1)
    answer[METADATA_VERSION] = version if version in _VERSION_WORDS else -1
    return 0


@compiled
def _find_problem(frame, inputs, outputs, plan_words):
    """Check everything that does not depend on what the kernel computes."""
    if (
        frame[FRAME_INPUT_COUNT] != inputs
        or frame[FRAME_OUTPUT_COUNT] != outputs
        or frame[FRAME_ATTRIBUTE_COUNT] != 1
    ):
        return COUNTS
    if halves(frame[FRAME_ATTRIBUTE_TYPES], 1)[0] != ARRAY_ATTRIBUTE:
        return COUNTS
    plan = words(words(frame[FRAME_ATTRIBUTES], 1)[0], ARRAY_WORDS)
    if plan[ARRAY_DTYPE] & _LOW_HALF != DTYPE_INT64:
        return DTYPES
    if plan[ARRAY_SIZE] != plan_words:
        return COUNTS
    for index in range(inputs + outputs):
        if dtype_of(buffer(frame, index)) != DTYPE_FLOAT32:
            return DTYPES
    return FINE


@compiled
def dtype_of(buffer):
    """Return XLA's number for the dtype of an array."""
    return buffer[BUFFER_DTYPE] & _LOW_HALF


@compiled
def buffer(frame, index):
    """Return the structure of an array; outputs are numbered after the inputs."""
    inputs = frame[FRAME_INPUT_COUNT]
    first, index = (
        (frame[FRAME_INPUTS], index)
        if index < inputs
        else (frame[FRAME_OUTPUTS], index - inputs)
    )
    return words(words(first, index + 1)[index], BUFFER_WORDS)


@compiled
def _have_shapes(frame, shapes):
    """Return whether all arrays have the shapes that the plan implies."""
    for index in range(len(shapes)):
        array, shape = buffer(frame, index), shapes[index]
        rank, last = array[BUFFER_RANK], len(shape) - 1
        if rank < last:
            return False
        found, count = words(array[BUFFER_SHAPE], rank), 1
        for axis in range(rank - last):
            count *= found[axis]
        if count != shape[0]:
            return False
        for axis in range(last):
            if found[rank - last + axis] != shape[axis + 1]:
                return False
    return True


@compiled
def _open_job(frame):
    """Make a job from a call frame; return its address, or 0 if there is no memory."""
    address = allocate(8 * JOB)
    if address == 0:
        return address
    job = words(address, JOB)
    for i in range(JOB):
        job[i] = 0
    inputs = frame[FRAME_INPUT_COUNT]
    for index in range(inputs):
        job[INPUT + index] = buffer(frame, index)[BUFFER_DATA]
    for index in range(frame[FRAME_OUTPUT_COUNT]):
        job[OUTPUT + index] = buffer(frame, inputs + index)[BUFFER_DATA]
    plan = words(words(frame[FRAME_ATTRIBUTES], 1)[0], ARRAY_WORDS)
    numbers = words(plan[ARRAY_DATA], plan[ARRAY_SIZE])
    for i in range(plan[ARRAY_SIZE]):
        job[PLAN + i] = numbers[i]
    _ask(frame, address + 8 * CALL, API_THREADS, address + 8 * THREADS, 0)
    job[THREADS] = max(job[THREADS], 1)
    return address


@compiled
def _share(frame, address, pieces, task):
    """Do all pieces of a job, helped by threads of XLA that run the task."""
    job = words(address, JOB)
    helpers = max(min(job[THREADS], pieces) - 1, 0)
    job[PIECES], job[HOLDERS] = pieces, 2 + helpers
    for _ in range(helpers):
        _ask(frame, address + 8 * CALL, API_SCHEDULE, task, address)
    _call(task, (address,))
    while _add_atomically(address + 8 * DONE, 0) < pieces:
        _yield()


@compiled
def _leave(address):
    """Release a job, and free its memory if no other thread holds it."""
    if _add_atomically(address + 8 * HOLDERS, -1) == 1:
        free(address)
    return 0


@compiled
def _ask(frame, address, function, first, second):
    """Call a function of XLA with two fields of a structure, written at an address."""
    question = words(address, 5)
    question[0] = 40 if second else 32  # size in bytes
    question[1] = 0
    question[2] = frame[FRAME_CONTEXT]
    question[3] = first
    question[4] = second
    _call(words(frame[FRAME_API], function + 1)[function], (address,))


@compiled
def _create_error(frame, problem):
    """Create an error, which XLA owns and raises; return its address."""
    address = allocate(32)
    arguments = words(address, 4)
    arguments[0], arguments[1] = 32, 0
    arguments[2] = _MESSAGES[problem].ctypes.data
    arguments[3] = INVALID_ARGUMENT
    create = words(frame[FRAME_API], API_CREATE_ERROR + 1)[API_CREATE_ERROR]
    error = _call(create, (address,))
    free(address)
    return error


# --- the text for LLVM ----------------------------------------------------------------

# A function from a word to a word, around one that numba compiled. The latter returns
# whether it raised, which none of ours can, and writes its result to an address.
_AROUND = """
declare i32 @"{inner}"(ptr, ptr, i64)
define i64 @{name}(i64 %argument) {{
  %result = alloca i64
  %raised = alloca ptr
  call i32 @"{inner}"(ptr %result, ptr %raised, i64 %argument)
  %value = load i64, ptr %result
  ret i64 %value
}}
define linkonce_odr void @NRT_MemInfo_call_dtor(ptr %array) {{
  ret void ; arrays that numba owns have it called, and there are none
}}
"""


def write(kernel: Kernel | Handler, handler: str) -> str:
    """Write the handler of a kernel, and its task, as LLVM code.

    Args:
        kernel: The kernel.
        handler: Name of the function for XLA to call.
    """
    if isinstance(kernel, Handler):
        return _compile(_fill(_handle_alone, kernel, _do=kernel.do), handler)
    task = f"{kernel.target}_run"
    run = _fill(_run, kernel, _work=kernel.work)
    handle = _fill(
        _handle,
        kernel,
        _inputs=kernel.inputs,
        _outputs=kernel.outputs,
        _plan_words=kernel.plan,
        _is_valid=kernel.is_valid,
        _shapes=kernel.shapes,
        _start=kernel.start,
        _finish=kernel.finish,
        _task=symbol(task),
    )
    whole = binding.parse_assembly(_compile(run, task))
    whole.link_in(binding.parse_assembly(_compile(handle, handler)))
    return str(whole)


def _fill(
    template: FunctionType, kernel: Kernel | Handler, **names: object
) -> FunctionType:
    """Make a function from a template, with other values for global names."""
    function = FunctionType(template.__code__, {**template.__globals__, **names})
    function.__qualname__ = f"{kernel.target}{template.__name__}"
    return function


def _compile(function: FunctionType, name: str) -> str:
    """Compile a function from a word to a word to a module that has it by a name."""
    dispatcher = compiled(function)
    dispatcher.compile(_WORD_TO_WORD)
    (result,) = dispatcher.overloads.values()
    whole = binding.parse_assembly(result.library.get_llvm_str())
    around = _AROUND.format(inner=result.fndesc.llvm_func_name, name=name)
    whole.link_in(binding.parse_assembly(around))
    return str(whole)
