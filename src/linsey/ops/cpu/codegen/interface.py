"""The versions of XLA's interface for custom calls that the kernels know."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jaxlib

from linsey.errors.base import UnsupportedError
from linsey.extras import install_hint

VERSIONS = ((0, 3), (0, 4), (0, 5))  # jaxlib 0.10.0 to 0.12.0.1


def check_interface() -> None:
    """Refuse a jaxlib for whose interface the offsets have not been checked.

    Raises:
        UnsupportedError: The header that jaxlib ships has another version.
    """
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    parts = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header)
    if tuple(map(int, parts)) not in VERSIONS:
        raise UnsupportedError(
            f"jaxlib {jaxlib.__version__} has version {'.'.join(parts)} of XLA's "
            "interface for custom calls.",
            "The kernels read the structures of this interface by offsets that were "
            f"checked for {', '.join(f'{a}.{b}' for a, b in VERSIONS)} only.",
            f"Write `{install_hint('cpu')}`, which chooses a jaxlib that has one.",
        )
