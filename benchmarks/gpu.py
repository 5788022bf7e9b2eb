"""What linsey costs and whether it is right on a GPU: one run, one JSON file.

    python -m benchmarks.gpu [--minutes 8] [--output PATH]
    python -m benchmarks.gpu --platform cpu --small    # seconds, to see that it runs

Parts, in this order: whether every operation and norm layer agrees with a CPU, forward
and backward; one layer of batch normalization; a step and the evaluation of ResNet-50;
a step of a transformer; tracing; initialisation. With `save_memory` and without, in
float32 and bfloat16, against Flax and PyTorch where they are installed. What XLA plans
to need of memory stands beside each program.

Each part has a share of the time. What is left undone is named in the file, which is
written after each part: a run that is cut short leaves what it has measured. Nothing
is fetched from anywhere. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import importlib
import json
import os
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness

# Part of the time that each may take; what one leaves is for those after it.
SHARES = {
    "correctness": 0.2,
    "norm": 0.15,
    "resnet": 0.35,
    "transformer": 0.15,
    "tracing": 0.08,
    "init": 0.07,
}


class Report:
    """What was found so far; written to a file after each part."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self.start = path, seconds, time.monotonic()
        self.deadline = self.start
        self.parts: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, Any] = {}

    def elapsed(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self.start

    def run(self, name: str, part: Callable[[Report], None]) -> None:
        """Run a part until its share of the time is spent."""
        record: dict[str, Any] = {"rows": [], "skipped": [], "errors": []}
        self.parts[name] = record
        self.deadline += SHARES[name] * self.seconds
        begin = self.elapsed()
        try:
            part(self)
        except Exception:  # a part that fails must not take the others with it
            record["errors"].append({"task": name, "error": traceback.format_exc()})
        record["seconds"] = round(self.elapsed() - begin, 1)
        record["peak_bytes"] = peak_of_process()
        self.write(finished=False)

    def tries(self, task: str, work: Callable[[], Any]) -> Any:
        """Return the result of some work, `None` if there is no time or it fails."""
        record = list(self.parts.values())[-1]
        if time.monotonic() > self.deadline:
            record["skipped"].append(f"{task}: the time for this part is spent")
            return None
        print(f"{self.elapsed():6.1f} s  {task}", file=sys.stderr, flush=True)
        try:
            return work()
        except ImportError as error:
            record["skipped"].append(f"{task}: {error}")
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            record["errors"].append({"task": task, "error": message[:2000]})
        return None

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row to the part that runs."""
        list(self.parts.values())[-1]["rows"].append(dict(row))

    def write(self, finished: bool) -> None:
        """Write what there is, in a way that a reader never sees half of it."""
        record = {
            "benchmark": "gpu",
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "finished": finished,
            "seconds": round(self.elapsed(), 1),
            "machine": harness.machine() | self.facts,
            "parts": self.parts,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(self.path)


def peak_of_process() -> int | None:
    """Return the most bytes of a GPU that jax has had in use in this process."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def device_facts() -> dict[str, Any]:
    """Return what jax and PyTorch compute on."""
    import jax

    device = jax.devices()[0]
    facts = {"platform": device.platform, "device": device.device_kind}
    facts["devices"] = jax.device_count()
    facts["memory"] = (device.memory_stats() or {}).get("bytes_limit")
    try:
        torch = importlib.import_module("torch")
        facts["torch"] = {"version": torch.__version__, "cuda": torch.version.cuda}
    except ImportError:
        facts["torch"] = None
    return facts


# --- whether results are right ------------------------------------------------------


def find(name: str) -> Any:
    """Find a function of `linsey.ops`, in whichever of its modules it is."""
    ops = importlib.import_module("linsey.ops")
    paths = [info.name for info in pkgutil.iter_modules(ops.__path__, "linsey.ops.")]
    for module in (ops, *map(importlib.import_module, paths)):
        found = getattr(module, name, None)
        if callable(found) and str(found.__module__).startswith("linsey.ops"):
            return found
    raise ImportError(f"linsey.ops has no {name}")


def operations() -> dict[str, tuple[Callable[[], Callable], tuple[tuple, ...]]]:
    """For each operation a maker of a function, and the shapes of its arguments."""
    import jax
    import jax.numpy as jnp

    image, kernel, per = (4, 9, 10, 32), (3, 3, 32, 64), (32,)
    heads = (2, 6, 4, 8)
    indices = jnp.arange(12).reshape(3, 4) % 5

    def plain(name: str, *rest: Any, **options: Any) -> Callable[[], Callable]:
        return lambda: lambda *v: find(name)(*v, *rest, **options)

    return {
        "dense": (plain("dense"), ((8, 32), (32, 16), (16,))),
        "dense_general": (
            plain("dense_general", axes=(1, 2)),
            ((4, 3, 5), (3, 5, 7)),
        ),
        "lookup": (lambda: lambda table: find("lookup")(table, indices), ((5, 8),)),
        "attend": (plain("attend"), ((3, 8), (5, 8))),
        "conv": (plain("conv"), (image, kernel, (64,))),
        "conv, strides": (
            plain("conv", strides=2, padding="CIRCULAR"),
            (image, kernel),
        ),
        "conv, dilated": (
            plain("conv", kernel_dilation=2, input_dilation=2, padding=2),
            (image, kernel),
        ),
        "conv, groups": (plain("conv", feature_group_count=4), (image, (3, 3, 8, 64))),
        "conv, depthwise": (
            plain("conv", feature_group_count=32),
            (image, (3, 3, 1, 32)),
        ),
        "conv_local": (
            plain("conv_local", window=(2,)),
            ((2, 5, 3), (5, 6, 4)),
        ),
        "conv_transpose": (plain("conv_transpose", strides=2), (image, kernel)),
        "max_pool": (plain("max_pool", (2, 3), (2, 2), "SAME"), (image,)),
        "min_pool": (plain("min_pool", (3, 3), (1, 2)), (image,)),
        "avg_pool": (plain("avg_pool", (2, 2), (2, 2)), (image,)),
        "moments": (plain("moments", (0, 1, 2)), (image,)),
        "batch_norm": (plain("batch_norm"), (image, per, per)),
        "batch_norm, weights": (
            lambda: lambda x, w: find("batch_norm")(x, weights=jnp.abs(w) > 0.5),
            (image, (4, 9, 10, 1)),
        ),
        "normalize": (
            lambda: lambda x, m, v: find("normalize")(x, m, v * v + 1),
            (image, per, per),
        ),
        "renormalize": (
            lambda: (
                lambda *v: find("renormalize")(v[0], v[1] ** 2 + 1, *v[2:], 3.0, 5.0)
            ),
            ((32,), (32,), (32,), (32,)),
        ),
        "merge_moments": (
            lambda: lambda m, v: find("merge_moments")(m, v * v)[:2],
            ((6, 32), (6, 32)),
        ),
        "ema": (plain("ema", 0.9), (per, per)),
        "spectral_norm": (plain("spectral_norm", 2, 1e-5), ((6, 8), (1, 8))),
        "attention": (
            lambda: (
                lambda q, k, v: find("weighted_values")(
                    find("softmax")(find("attention_scores")(q, k)), v
                )
            ),
            (heads, heads, heads),
        ),
        "dropout": (
            lambda: lambda x: find("dropout")(x, jax.random.key(0), 0.3),
            (image,),
        ),
        "flip_sequences": (
            lambda: (
                lambda x: find("flip_sequences")(x, jnp.array([3, 5, 1, 9]), 1, False)
            ),
            ((4, 9, 8),),
        ),
    }


def norm_layers() -> dict[str, Callable[[Any], Any]]:
    """Make the norm layers from the layers of a library."""
    return {
        "BatchNorm": lambda nn: nn.BatchNorm(False),
        "BatchNorm, evaluation": lambda nn: nn.BatchNorm(True),
        "BatchNorm, relu": lambda nn: nn.BatchNorm(False, activation="relu"),
        "BatchNorm, save_memory": lambda nn: nn.BatchNorm(
            False, activation="relu", save_memory=True
        ),
        "BatchNorm, group_size": lambda nn: nn.BatchNorm(False, group_size=2),
        "LayerNorm": lambda nn: nn.LayerNorm(),
        "RMSNorm": lambda nn: nn.RMSNorm(),
        "GroupNorm": lambda nn: nn.GroupNorm(8),
        "InstanceNorm": lambda nn: nn.InstanceNorm(),
        "SpectralNorm": lambda nn: nn.SpectralNorm(nn.Conv(64, (3, 3))),
        "WeightNorm": lambda nn: nn.WeightNorm(nn.Conv(64, (3, 3))),
    }


def layer_function(make: Callable[[Any], Any]) -> tuple[Callable, tuple[Any, ...]]:
    """Return a layer as a function of params and inputs, and its arguments."""
    import jax
    import jax.numpy as jnp

    nn = importlib.import_module("linsey.linen")
    layer, shape = make(nn), (4, 9, 10, 32)
    options = {"update_stats": True} if isinstance(layer, nn.SpectralNorm) else {}
    variables = layer.init(jax.random.key(0), jnp.ones(shape), **options)
    params = variables.pop("params", {})

    def apply(params, x):
        y, updated = layer.apply(
            {"params": params, **variables}, x, mutable=["batch_stats"], **options
        )
        return jnp.asarray(y), updated

    return apply, (params, jnp.ones(shape))


def correctness(report: Report, small: bool) -> None:
    """Compare forward and backward passes with those of a CPU."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    generator = np.random.default_rng(0)
    makers: dict[str, Callable[[], tuple[Callable, Any]]] = {
        name: lambda make=make, shapes=shapes: (make(), [*map(jnp.empty, shapes)])
        for name, (make, shapes) in operations().items()
    }
    makers |= {
        f"layer {name}": lambda make=make: layer_function(make)
        for name, make in norm_layers().items()
    }

    def draw(arrays, dtype):
        return jax.tree.map(
            lambda v: jnp.asarray(generator.standard_normal(v.shape), dtype), arrays
        )

    def both(function):
        def run(*arguments):
            y, pull = jax.vjp(function, *arguments)
            cotangent = jax.tree.map(
                lambda v: (
                    jnp.cos(v).astype(v.dtype)
                    if jnp.issubdtype(v.dtype, jnp.floating)
                    else np.zeros(v.shape, jax.dtypes.float0)
                ),
                y,
            )
            return y, pull(cotangent)

        return jax.jit(run)

    def compare(make, dtype):
        function, arrays = make()
        arguments = draw(arrays, dtype)
        results = [
            both(function)(*jax.device_put(arguments, where)) for where in (device, cpu)
        ]
        errors = {"forward": 0.0, "gradient": 0.0}
        for kind, found, right in zip(errors, *results, strict=True):
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
            for a, b in pairs:
                a, b = (np.asarray(v, np.float64) for v in (a, b))
                size = max(1.0, float(np.max(np.abs(b), initial=0.0)))
                error = float(np.max(np.abs(a - b), initial=0.0)) / size
                errors[kind] = max(errors[kind], error if error == error else np.inf)
        return errors

    names = ["dense", "batch_norm", "layer LayerNorm"] if small else list(makers)
    # A rounding error is half of eps; sums of some hundred terms take some of them.
    allowed = [(jnp.float32, 512)] + ([] if small else [(jnp.bfloat16, 8)])
    for dtype, roundings in allowed:
        tolerance = roundings * float(jnp.finfo(dtype).eps)
        for name in names:
            task = f"{name}, {jnp.dtype(dtype).name}"
            with jax.default_matmul_precision("highest"):
                errors = report.tries(
                    task, lambda name=name, dtype=dtype: compare(makers[name], dtype)
                )
            if errors is not None:
                right = max(errors.values()) <= tolerance
                report.add(
                    {"task": task, **errors, "tolerance": tolerance, "right": right}
                )


# --- what it costs ------------------------------------------------------------------


def memory_of(program: Any) -> dict[str, int | None]:
    """Return the bytes that XLA plans for a program."""
    plan = program.memory_analysis()
    names = ("temp", "argument", "output")
    found = {name: getattr(plan, f"{name}_size_in_bytes", None) for name in names}
    return found | {"peak": getattr(plan, "peak_memory_in_bytes", None)}


def torch_peak(call: Callable[[], Any]) -> dict[str, int | None]:
    """Return the most bytes that PyTorch allocated during a call on a GPU."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return {"peak": None}
    torch.cuda.reset_peak_memory_stats()
    call()
    return {"peak": torch.cuda.max_memory_allocated()}


def compare_rivals(
    report: Report,
    task: str,
    prepare: Callable[[str], tuple[Any, Callable[[], Any]]],
    rivals: tuple[str, ...],
    rounds: int,
) -> None:
    """Compile a task of all rivals, time them in turns, and note their memory."""
    cases, memory, seconds = [], {}, {}
    for rival in rivals:
        begin = time.monotonic()
        found = report.tries(
            f"{task}, {rival}", lambda rival=rival: (*prepare(rival), None)
        )
        if found is None:
            continue
        program, call, _ = found
        if report.tries(f"{task}, {rival}, first call", lambda call=call: [call()]):
            seconds[rival] = round(time.monotonic() - begin, 2)
            cases.append(harness.Case(rival, lambda call=call: call))
            memory[rival] = memory_of(program) if program else torch_peak(call)
    if not cases:
        return
    rows = report.tries(
        f"{task}, timing", lambda: harness.measure(task, cases, rounds, "flax")
    )
    for row in rows or []:
        extra = {"memory": memory[row.rival], "compile_seconds": seconds[row.rival]}
        report.add(dataclasses.asdict(row) | extra)
    cases.clear()
    gc.collect()


def measure(report: Report, small: bool, rounds: int) -> None:
    """Run all parts that compare costs."""
    import jax
    import jax.numpy as jnp

    from benchmarks import trace
    from benchmarks.models import large

    sizes = large.SMALL if small else large.Sizes()
    shapes = [(2, 4, 4, 16)] if small else [(64, 56, 56, 64), (256, 32, 32, 64)]
    shapes += [] if small else [(64, 14, 14, 1024), (4096, 1, 1, 512)]
    dtypes = (jnp.float32,) if small else (jnp.float32, jnp.bfloat16)
    libraries = ("linsey",) if small else ("linsey", "flax")

    def norm(report: Report) -> None:
        for dtype in dtypes:
            for shape in shapes:
                task = f"BatchNorm {shape}, {jnp.dtype(dtype).name}"
                prepare = lambda rival, s=shape, d=dtype: large.norm(rival, s, d)  # noqa: E731
                rivals = large.RIVALS[:2] if small else large.RIVALS
                compare_rivals(report, task, prepare, rivals, rounds)

    def network(name: str) -> Callable[[Report], None]:
        rivals = [r for r in large.RIVALS if name == "resnet" or " " not in r]
        rivals = ["linsey", "torch"] if small else rivals

        def part(report: Report) -> None:
            for dtype in dtypes:
                kind = jnp.dtype(dtype).name
                compare_rivals(
                    report,
                    f"{name} step, {kind}",
                    lambda rival, d=dtype: large.step(name, rival, sizes, d),
                    tuple(rivals),
                    rounds,
                )
            for dtype in dtypes if name == "resnet" else ():
                compare_rivals(
                    report,
                    f"{name} evaluation, {jnp.dtype(dtype).name}",
                    lambda rival, d=dtype: large.evaluation(rival, sizes, d),
                    (*libraries, "torch"),
                    rounds,
                )

        return part

    def tracing(report: Report) -> None:
        tasks = [t for t in trace.TASKS if not small or t[1] == "dense_apply"]
        for task, name, kind, goal in tasks:
            cases = []
            for rival in libraries if small else (trace.RAW, *libraries):
                prepare = report.tries(
                    f"{task}, {rival}",
                    lambda r=rival, n=name, k=kind: trace.prepare(k, r, n),
                )
                cases += [harness.Case(rival, prepare)] if prepare else []
            rows = report.tries(
                task,
                lambda t=task, c=cases, g=goal: harness.measure(
                    t, c, rounds, trace.RAW, {"linsey": g}, time.thread_time
                ),
            )
            for row in rows or []:
                report.add(dataclasses.asdict(row))

    def init(report: Report) -> None:
        x, _ = large.inputs("resnet", sizes)
        for rival in libraries:

            def once(rival: str = rival, jit: bool = True) -> float:
                model = large.resnet(rival, sizes, jnp.float32)
                run = jax.jit(model.init) if jit else model.init
                begin = time.perf_counter()
                jax.block_until_ready(run(jax.random.key(0), x))
                return time.perf_counter() - begin

            ways = {"jit": True} if small else {"jit": True, "eager": False}
            for way, jit in ways.items():
                task = f"init of the ResNet, {way}"
                seconds = report.tries(f"{task}, {rival}", lambda j=jit: once(jit=j))
                if seconds is not None:
                    report.add({"task": task, "rival": rival, "seconds": seconds})

    report.run("norm", norm)
    report.run("resnet", network("resnet"))
    report.run("transformer", network("transformer"))
    report.run("tracing", tracing)
    report.run("init", init)


def main() -> int:
    """Run all parts; return 1 if an operation is wrong or something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--platform", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes, two rounds")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, help="default: 20, or 2 with --small")
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    parser.add_argument(
        "--output", type=Path, default=harness.RESULTS / f"gpu-{today}.json"
    )
    arguments = parser.parse_args()
    # jax would take three quarters of the memory, and leave PyTorch the rest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if arguments.platform == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif "cpu" not in os.environ.get(
        "JAX_PLATFORMS", "cpu"
    ):  # results are compared with those of a CPU
        os.environ["JAX_PLATFORMS"] += ",cpu"
    import jax

    # The shares are of nine tenths: what has begun when the time is over is finished.
    report = Report(arguments.output, arguments.minutes * 54)
    if arguments.platform == "gpu" and jax.default_backend() != "gpu":
        parser.error("jax finds no GPU; `--platform cpu --small` shows that this runs")
    report.facts = device_facts()
    rounds = arguments.rounds or (2 if arguments.small else 20)
    report.run("correctness", lambda report: correctness(report, arguments.small))
    measure(report, arguments.small, rounds)
    report.write(finished=True)
    wrong = [
        row["task"] for row in report.parts["correctness"]["rows"] if not row["right"]
    ]
    errors = [error for part in report.parts.values() for error in part["errors"]]
    for line in (*(f"wrong: {task}" for task in wrong), *map(str, errors)):
        print(line, file=sys.stderr)
    print(f"written to {arguments.output}")
    return 1 if wrong or errors else 0


if __name__ == "__main__":
    sys.exit(main())
