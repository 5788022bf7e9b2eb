"""How a kernel that numba compiles is called by XLA, and how it uses XLA's threads.

XLA calls a *handler* with the address of a call frame. The structures behind it, of
`xla/ffi/api/c_api.h`, consist of 64-bit words, and are read as arrays of such. Of them
a handler makes a *job*, an array of words too, which threads share:

    words 0 to 7    the next piece, how many are done, and so on
    words 8 to 15   addresses of the inputs
    words 16 to 19  addresses of the outputs
    words 20 to 25  for the kernel itself
    words 26 to 31  a question for XLA
    words 32 to 63  the plan: numbers known when the program was compiled

A handler divides its work into pieces, which threads take one by one. The thread that
XLA calls in takes pieces too and waits for those alone that others have begun: it
returns even where no other thread is free.

numba keeps what it compiled on disk. It notices changes of the file of a kernel, not of
this one: touch the former after changing the latter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
from llvmlite import binding, ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from linsey.ops.compiled.vectors import compile_loops

NEXT, DONE, HOLDERS, PIECES, WORKERS, THREADS = range(6)
INPUT, OUTPUT, OWN, QUESTION, PLAN, JOB = 8, 16, 20, 26, 32, 64

HUGE_PAGE, ADVISE_HUGE = 1 << 21, 14

# Offsets, in words, of what is used of the structures in c_api.h.
_FRAME_EXTENSION, _FRAME_API, _FRAME_CONTEXT, _FRAME = 1, 2, 3, 21
_FRAME_INPUTS, _FRAME_OUTPUTS, _FRAME_ATTRIBUTES = 9, 14, 20
_BUFFER_DATA, _ARRAY_SIZE, _ARRAY_DATA = 3, 1, 2
_EXTENSION_METADATA, _METADATA_VERSION = 3, 3
_API_VERSION, _API_SCHEDULE, _API_THREADS = 4, 17, 18

_WORD = ir.IntType(64)
_word = types.int64
HANDLER = _word(types.CPointer(_word))
TASK = _word(_word)

# Functions that only compiled ones call need no way in from Python.
_OPTIONS: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled = njit(error_model="numpy", **_OPTIONS)

allocate = types.ExternalFunction("malloc", _word(_word))
free = types.ExternalFunction("free", types.void(_word))
_advise = types.ExternalFunction("madvise", types.int32(_word, _word, types.int32))
_yield = types.ExternalFunction("sched_yield", types.int32())


def _pointer(target: Any, element: ir.Type) -> Any:
    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], element.as_pointer())

        return types.CPointer(target)(_word), generate

    return pointer


_word_pointer = _pointer(_word, _WORD)
_float_pointer = _pointer(types.float32, ir.FloatType())
_double_pointer = _pointer(types.float64, ir.DoubleType())


def symbol(name: str) -> Any:
    """Makes a function that returns the address of a symbol of the process."""

    @intrinsic
    def address(context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.module.globals.get(name)
            if place is None:
                place = ir.GlobalVariable(builder.module, _WORD, name)
            return builder.ptrtoint(place, _WORD)

        return _word(), generate

    return address


def caller(count: int) -> Any:
    """Makes a function that calls one of `count` words by its address."""
    kind = ir.FunctionType(_WORD, [_WORD] * count).as_pointer()

    @intrinsic
    def call(context: Any, function: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            function, words = values
            words = [builder.extract_value(words, i) for i in range(count)]
            return builder.call(builder.inttoptr(function, kind), words)

        return _word(_word, types.UniTuple(_word, count)), generate

    return call


_call = caller(1)


def _atomic_addition(context: Any, address: Any, value: Any) -> Any:
    """Adds to a word in memory, and returns what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return _word(_word, _word), generate


_add_atomically: Any = intrinsic(_atomic_addition)


@compiled
def words(address, count):
    """The words at an address, as an array."""
    return carray(_word_pointer(address), count)


@compiled
def floats(address, shape):
    """The floats at an address, as an array."""
    return carray(_float_pointer(address), shape)


@compiled
def doubles(address, shape):
    """The floats of 64 bits at an address, as an array."""
    return carray(_double_pointer(address), shape)


@compiled
def use_huge_pages(address, size):
    """Asks for pages of 2 MiB before memory is first written: one fault, not 512."""
    first = (address + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    last = (address + size) // HUGE_PAGE * HUGE_PAGE
    if last > first:
        _advise(first, last - first, ADVISE_HUGE)


@compiled
def open_job(pointer, inputs, outputs):
    """Makes a job of a call frame; of none, if XLA asks for something else.

    Args:
        pointer: the call frame.
        inputs: number of arrays to read.
        outputs: number of arrays to write.

    Returns:
        The address of the job, and the job; address zero for none.
    """
    frame = carray(pointer, _FRAME)
    if frame[_FRAME_EXTENSION] != 0:  # asks for the version of the interface
        metadata = words(frame[_FRAME_EXTENSION], 4)[_EXTENSION_METADATA]
        api = words(frame[_FRAME_API], _API_VERSION + 1)
        # Its own, if it offers what is used here; later versions only add to it.
        known = api[0] > 8 * _API_THREADS
        words(metadata, 4)[_METADATA_VERSION] = api[_API_VERSION] if known else -1
        return 0, frame
    address = allocate(8 * JOB)
    job = words(address, JOB)
    for i in range(PLAN):
        job[i] = 0
    _copy_addresses(job, INPUT, frame[_FRAME_INPUTS], inputs)
    _copy_addresses(job, OUTPUT, frame[_FRAME_OUTPUTS], outputs)
    plan = words(words(frame[_FRAME_ATTRIBUTES], 1)[0], 3)
    numbers = words(plan[_ARRAY_DATA], plan[_ARRAY_SIZE])
    for i in range(plan[_ARRAY_SIZE]):
        job[PLAN + i] = numbers[i]
    threads = words(frame[_FRAME_API], _API_THREADS + 1)[_API_THREADS]
    _ask(address, threads, frame[_FRAME_CONTEXT], address + 8 * THREADS, 0)
    job[THREADS] = max(job[THREADS], 1)
    return address, job


@compiled
def share(pointer, address, pieces, task):
    """Does all pieces of a job with the help of XLA's threads.

    Args:
        pointer: the call frame.
        address: address of the job.
        pieces: their number.
        task: address of a function that calls `next_piece` until there is none.
    """
    frame, job = carray(pointer, _FRAME), words(address, JOB)
    schedule = words(frame[_FRAME_API], _API_SCHEDULE + 1)[_API_SCHEDULE]
    helpers = max(min(job[THREADS], pieces) - 1, 0)
    job[PIECES], job[HOLDERS] = pieces, 2 + helpers
    for _ in range(helpers):
        _ask(address, schedule, frame[_FRAME_CONTEXT], task, address)
    _call(task, (address,))
    while _add_atomically(address + 8 * DONE, 0) < pieces:
        _yield()


@compiled
def join(address):
    """Begins the part that a thread takes in a job.

    Returns:
        The job, the number of the thread, and the first piece.
    """
    worker = _add_atomically(address + 8 * WORKERS, 1)
    return words(address, JOB), worker, _add_atomically(address + 8 * NEXT, 1)


@compiled
def next_piece(address):
    """Says that a piece is done, and returns the next one."""
    _add_atomically(address + 8 * DONE, 1)
    return _add_atomically(address + 8 * NEXT, 1)


@compiled
def leave(address):
    """Frees a job where nobody else holds it."""
    if _add_atomically(address + 8 * HOLDERS, -1) == 1:
        free(address)
    return 0


@compiled
def _copy_addresses(job, first, table, count):
    buffers = words(table, count)
    for i in range(count):
        job[first + i] = words(buffers[i], _BUFFER_DATA + 1)[_BUFFER_DATA]


@compiled
def _ask(address, function, context, first, second):
    """Calls a function of XLA with a structure of two fields of its own."""
    address += 8 * QUESTION
    question = words(address, 5)
    question[0] = 40 if second else 32  # size in bytes
    question[1] = 0
    question[2] = context
    question[3] = first
    question[4] = second
    _call(function, (address,))


def entry(signature: Any) -> Callable[[Any], Any]:
    """Compiles a function that C calls, and keeps it on disk where it may."""

    def compile_entry(function: Any) -> Any:
        try:
            return cfunc(signature, cache=True)(function)
        except RuntimeError:  # numba found no folder that it may write to
            return cfunc(signature)(function)

    return compile_entry


@cache
def load_loops() -> None:
    """Compiles the innermost loops."""
    _ALIVE.append(compile_loops())


def add_task(name: str, task: Any) -> None:
    """Makes the compiled task of a kernel a symbol, which its handler refers to."""
    binding.add_symbol(task_symbol(name), task.address)
    _ALIVE.append(task)


def register(name: str, handler: Any) -> None:
    """Makes a compiled handler a target of custom calls on a CPU."""
    new: Any = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(handler.address, None, None)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    _ALIVE.append(handler)


def task_symbol(name: str) -> str:
    """The symbol of the task of a kernel."""
    return f"{name}_task"


_ALIVE: list[Any] = []  # what XLA holds addresses of
