"""Startup file that Python runs, before another `sitecustomize` that this one hides.

It only does what `linsey run` asked for, and nothing if linsey is not installed: the
process may belong to another environment.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_HERE = os.path.dirname(os.path.abspath(__file__))


def _run_hidden() -> None:
    paths = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]
    spec = PathFinder.find_spec("sitecustomize", paths)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_run_hidden()

try:
    from linsey.compat.children import begin
except ImportError:
    pass
else:
    begin()
