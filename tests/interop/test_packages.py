"""Without the other libraries linsey is imported, and says what to install."""

from __future__ import annotations

import sys

import pytest

import linsey.linen as nn
from linsey import interop
from linsey.extras import MissingPackageError, install_hint

CALLS = {
    "equinox": [
        lambda: interop.from_equinox(lambda key: None),
        lambda: interop.to_equinox(nn.Dense(1), {}),
    ],
    "haiku": [lambda: interop.from_haiku(lambda x: x)],
}


@pytest.mark.parametrize("package", CALLS)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    interop.equinox_layer._layer_class.cache_clear()
    for call in CALLS[package]:
        with pytest.raises(MissingPackageError) as caught:
            call()
        found, why, fix = str(caught.value).splitlines()
        assert found.endswith(f"needs `{package}`, which is not installed.")
        assert why == f"It comes with the packages of linsey's extra `{package}`."
        assert fix == f"Write `{install_hint(package)}`."


def test_import_brings_neither():
    import subprocess

    program = (
        "import sys, linsey.interop\n"
        "print({'equinox', 'haiku', 'flax'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"
