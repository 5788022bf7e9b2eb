"""Programs of other people's packages, unedited: the same numbers as on Flax.

Each program beside this file uses models of a package from the registry, with random
weights. It runs twice, by `python` on Flax and by `linsey run`, in processes of their
own. Where the package cannot be imported the test is skipped; `make test-all` has all.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAMS = {
    "brax_networks": "brax",
    "flaxmodels_zoo": "flaxmodels",
    "jax_models_zoo": "jax_models",
    "jax_resnet_step": "jax_resnet",
    "numpyro_net": "numpyro",
    "transformers_models": "transformers",
}


def run(launcher: list[str], program: str, result: Path) -> dict[str, np.ndarray]:
    script = Path(__file__).with_name(f"{program}.py")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(result)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(result))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_gives_the_numbers_it_gives_on_flax(program, tmp_path):
    if importlib.util.find_spec(PROGRAMS[program]) is None:
        pytest.skip(f"{PROGRAMS[program]} is not installed")
    flax = run([], program, tmp_path / "flax.npz")
    linsey = run(["-m", "linsey", "run"], program, tmp_path / "linsey.npz")
    assert flax.keys() == linsey.keys()
    assert len(flax) > 5
    for name, expected in flax.items():
        found = linsey[name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        # Initial values have the same bits; what is computed differs by rounding.
        initial = name.partition("[")[0].endswith(("init", "variables", "params"))
        tolerance = 0.0 if initial or expected.dtype.kind != "f" else 1e-5
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=tolerance * scale, err_msg=name
        )
