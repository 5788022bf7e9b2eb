"""The setup of Python processes that are started by a program under `linsey run`.

`linsey run` puts this folder on `PYTHONPATH`, so that Python runs `sitecustomize.py` in
every process: pools of workers, data loaders, `subprocess.run([sys.executable, ...])`.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "LINSEY_RUN"
"""The environment variable that holds the options, separated by spaces."""


def announce(old_jax: bool) -> None:
    """Make child processes of this one import linsey in place of Flax, too."""
    os.environ[VARIABLE] = "old-jax" if old_jax else "on"
    folder = str(Path(__file__).parent)
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *paths])


def begin() -> None:
    """Apply the options of `linsey run` to this process."""
    options = os.environ.get(VARIABLE, "").split()
    if not options:
        return
    from linsey import compat

    compat.install()
    if "old-jax" in options:
        from linsey.compat import old_jax

        old_jax.restore()
