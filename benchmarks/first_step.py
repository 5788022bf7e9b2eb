"""What a user waits for: from the start of a process to the end of the first step.

ResNet-50 (batch 8, 64 x 64), a transformer of 24 layers and a perceptron, float32,
gradient descent, each in new processes that take turns: import, `jax.jit(model.init)`,
trace, lowering, compilation, first step, and a later step; and `model.init` of the
ResNet outside of a trace. PyTorch has no program to compile.
Run with `python -m benchmarks.first_step`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import harness

RIVALS = ("flax", "linsey", "raw", "torch")
IMPORTS = {"linsey": "linsey.linen", "flax": "flax.linen", "raw": "jax"}
GOALS = {
    "resnet, import to first step": "<= 0.55",
    "resnet, init": "<= 0.25",
    "resnet, init outside of a trace": "<= 0.25",
}
UNTIL_FIRST = "import to first step"
STARTED = "BENCHMARK_STARTED"
LATER = 7


def run(rounds: int) -> list[harness.Row]:
    """Time all models by all rivals, interleaved."""
    rows = []
    for name in ("resnet", "resnet eager", "transformer", "mlp"):
        times: dict[str, list[dict[str, float]]] = {}
        rivals = installed(RIVALS[:2] if name == "resnet eager" else RIVALS)
        for round_ in range(rounds + 1):  # the first fills the caches of files
            turn = round_ % len(rivals)
            for rival in rivals[turn:] + rivals[:turn]:
                times.setdefault(rival, []).append(in_new_process(name, rival))
        rows += rows_of(name, {rival: found[1:] for rival, found in times.items()})
    return rows


def installed(rivals: Sequence[str]) -> list[str]:
    """Return the rivals that are installed; note the others, and leave them out."""
    found = []
    for rival in rivals:
        package = IMPORTS.get(rival, rival).partition(".")[0]
        if importlib.util.find_spec(package) is None:
            harness.missing(rival, ImportError(f"{package} is not installed"))
        else:
            found.append(rival)
    return found


def rows_of(name: str, times: dict[str, list[dict[str, float]]]) -> list[harness.Row]:
    """Return a row for each phase and rival that has it; ratios are to Flax."""
    rows = []
    for phase in dict.fromkeys(p for found in times.values() for p in found[0]):
        task = f"{name.removesuffix(' eager')}, {phase}"
        base = [one[phase] for one in times.get("flax", [])]
        for rival, found in times.items():
            if phase in found[0]:
                seconds = [one[phase] for one in found]
                goal = GOALS.get(task) if rival == "linsey" else None
                rows.append(harness.summarise(task, rival, seconds, base, goal))
    return rows


def in_new_process(name: str, rival: str) -> dict[str, float]:
    """Measure the seconds of each phase of a model, in a process that ends with it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_step", "--process", name, rival],
        capture_output=True,
        text=True,
        # An empty value lets Python keep its bytecode, as it does for users.
        env={
            **os.environ,
            STARTED: str(time.time()),
            "PYTHONDONTWRITEBYTECODE": "",
        },  # fmt: skip
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def process(name: str, rival: str) -> dict[str, float]:
    """Run a model in this process, and time its phases."""
    phases: dict[str, float] = {}
    start = float(os.environ[STARTED])

    def done(phase: str) -> None:
        nonlocal start
        phases[phase] = time.time() - start
        start = time.time()

    importlib.import_module(IMPORTS.get(rival, rival))
    done("import")

    # What is common to all rivals is not counted.
    import jax
    import jax.numpy as jnp

    from benchmarks.models import large, raw_large

    model_name = name.removesuffix(" eager")
    sizes = {
        "resnet": large.Sizes(batch=8, side=64),
        "transformer": large.Sizes(
            depth=24, width=256, heads=4, length=64, sequences=8, words=1000
        ),
        "mlp": large.Sizes(batch=256, side=16, depth=3, width=1024),
    }[model_name]
    x, labels = large.inputs(model_name, sizes)
    start = time.time()
    if rival == "torch":
        call = large.step(model_name, rival, sizes, jnp.float32)[1]
        done("init")
    else:
        model = (
            getattr(raw_large, model_name)(sizes)
            if rival == "raw"
            else large.MODELS[model_name](rival, sizes, None)
        )
        key = jax.random.key(0)
        if name != model_name:
            jax.block_until_ready(model.init(key, x))
            done("init outside of a trace")
            return phases
        state = jax.block_until_ready(jax.jit(model.init)(key, x))
        done("init")
        params = state.pop("params")
        traced = jax.jit(large.update(model)).trace(params, state, x, labels)
        done("trace")
        lowered = traced.lower()
        done("lowering")
        compiled = lowered.compile()
        done("compilation")

        def call():
            jax.block_until_ready(compiled(params, state, x, labels))

    call()
    done("first step")
    phases[UNTIL_FIRST] = sum(phases.values())
    later = []
    for _ in range(LATER):
        start = time.time()
        call()
        later.append(time.time() - start)
    phases["later step"] = statistics.median(later)
    return phases


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        print(json.dumps(process(*sys.argv[2:])))
    else:
        title = "from the start of a process to the first step"
        harness.main("first_step", title, run, rounds=5)
