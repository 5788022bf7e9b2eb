"""Memory that is kept from step to step."""

from __future__ import annotations

import sys

import pytest

from tests.ops.cpu.kernels import in_new_process

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

PROGRAM = """
import ctypes, resource
from linsey.ops.cpu.memory import keep_memory
print(keep_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size, faults = 2**26, []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(size)
    ctypes.memset(piece, 1, size)
    libc.free(ctypes.c_void_p(piece))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1] < faults[0] / 10)
"""


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    "environment, kept",
    [
        ({}, True),
        ({"LINSEY_KEEP_MEMORY": "0"}, False),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, False),
    ],
)
def test_freed_memory_is_kept_unless_somebody_says_otherwise(environment, kept):
    assert in_new_process(PROGRAM, **environment) == [str(kept)] * 2
