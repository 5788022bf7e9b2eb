"""Machine code of the kernels: compiled once, kept on disk, registered with XLA.

numba takes seconds to compile, and a second just to be imported. Therefore the code of
each module of kernels is kept as one object file, which LLVM can load without numba.
The file depends only on the C library, and its name contains a digest of its origin:
the source of this package, the processor and the compiler. Files stay until they are
deleted by hand.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import jax
import llvmlite
from llvmlite import binding

from linsey.ops.cpu.codegen.interface import check_interface

MODULES = {
    "channels": (
        "linsey_channel_moments",
        "linsey_channel_products",
        "linsey_channel_combine",
    ),
    "convolution": (
        "linsey_convolution",
        "linsey_biased_convolution",
        "linsey_kernel_gradient",
    ),
    "examples": ("linsey_example_norm", "linsey_example_cotangents"),
    "placing": ("linsey_place",),
}
DIGEST = hashlib.sha256().digest_size


def load(module: str) -> None:
    """Register the kernels of a module as targets of custom calls on a CPU.

    Args:
        module: One of `MODULES`.

    Raises:
        UnsupportedError: The interface of the installed jaxlib is not known.
    """
    check_interface()
    code = _read(module)
    if code is None:
        code = _compile(module)
        _keep(module, code)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ALIVE.append(engine)
    for target in MODULES[module]:
        _register(target, engine.get_function_address(_handler(target)))


def _handler(target: str) -> str:
    """Return the name of the function that XLA calls for a target."""
    return f"{target}_handle"


def _compile(module: str) -> bytes:
    """Compile a module to an object file, by numba."""
    from linsey.ops.cpu.codegen import vectors, xla

    _machine()  # LLVM knows the processor from here on
    kernels = importlib.import_module(f"{__package__}.{module}").KERNELS
    texts = [str(vectors.write_loops())]
    texts += [xla.write(kernel, _handler(kernel.target)) for kernel in kernels]
    whole, *others = map(binding.parse_assembly, texts)
    for other in others:
        whole.link_in(other)
    return _machine().emit_object(whole)


@cache
def _machine() -> binding.TargetMachine:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )


def _register(target: str, address: int) -> None:
    capsule_type = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
    )
    new_capsule = capsule_type(("PyCapsule_New", ctypes.pythonapi))
    capsule = new_capsule(address, None, None)
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")


_ALIVE: list[object] = []  # objects whose addresses XLA holds


# --- on disk --------------------------------------------------------------------------


def _read(module: str) -> bytes | None:
    """Read the object file of a module; return `None` if there is no intact one."""
    for folder in _folders():
        with suppress(OSError):
            content = (folder / _file_name(module)).read_bytes()
            digest, code = content[:DIGEST], content[DIGEST:]
            if hashlib.sha256(code).digest() == digest:
                return code
    return None


def _keep(module: str, code: bytes) -> None:
    """Write an object file, preceded by its digest, to a folder that allows it."""
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=folder)
            with os.fdopen(number, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            Path(name).chmod(0o644)  # for all users, like compiled Python files
            Path(name).replace(folder / _file_name(module))
            return


def _folders() -> Iterator[Path]:
    """List the folders of compiled Python: a shared one first, then the user's own."""
    yield Path(importlib.util.cache_from_source(__file__)).parent
    with suppress(RuntimeError):  # there is no home directory
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        yield Path(caches, "linsey")


def _file_name(module: str) -> str:
    return f"{module}-{_origin()}.o"


@cache
def _origin() -> str:
    """Return a digest of everything that the machine code depends on."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    facts: Sequence[bytes] = [
        llvmlite.__version__.encode(),
        binding.get_host_cpu_name().encode(),
        binding.get_host_cpu_features().flatten().encode(),
        *(path.read_bytes() for path in sources),
    ]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]
