"""Runs a batch of programs and prints what the libraries disagree in.

    python -m tests.compat.programs --seed 1 --from 0 --count 2000 [--numeric]

A batch may be stopped at any time: with `--log FILE`, a file outside of the repository,
the same command goes on where it was. `--show 17` prints one program and what both do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402

from tests.compat.programs.check import check, shortest  # noqa: E402
from tests.compat.programs.generate import program  # noqa: E402
from tests.compat.programs.outcome import outcomes  # noqa: E402

CLEAR_EVERY = 50  # programs; most of what is compiled for one is not used again


CACHE = f"{tempfile.gettempdir()}/linsey-programs-{jax.__version__}"


def compile_once(folder: str) -> None:
    """Keeps what XLA compiles, for later programs, batches and the other library."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def logged(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Records of programs that were run, those in the log first."""
    done = logged(options.log)
    yield from done
    begin = max([options.begin, *(r["index"] + 1 for r in done)])
    log = options.log.open("a") if options.log else None
    for index in range(begin, options.begin + options.count):
        result = check(options.seed, index, options.numeric)
        record = {"index": index, **result.record()}
        if log:
            log.write(json.dumps(record) + "\n")
            log.flush()
        if index % CLEAR_EVERY == 0:
            jax.clear_caches()
            print(f"next: --from {index + 1}", file=sys.stderr)
        yield record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="begin")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--numeric", action="store_true")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--show", type=int, help="print one program and its outcomes")
    parser.add_argument("--reduce", action="store_true", help="shorten each cause")
    parser.add_argument("--cache", default=CACHE, help="folder of compiled programs")
    options = parser.parse_args()
    compile_once(options.cache)
    if options.show is not None:
        show(options.seed, options.show, options.numeric, options.reduce)
        return
    kinds: Counter[str] = Counter()
    causes: dict[str, list[int]] = {}
    for record in batch(options):
        kinds[record["kind"]] += 1
        if record["kind"] == "disagrees":
            causes.setdefault(record["cause"], []).append(record["index"])
    for cause, found in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(found)} programs, {found[:6]}: {cause}")
        if options.reduce:
            show(options.seed, found[0], options.numeric, True)
    print(f"\n{sum(kinds.values())} programs: {dict(kinds)}; {len(causes)} causes")


def show(seed: int, index: int, numeric: bool, short: bool) -> None:
    one = program(seed, index)
    source = one.source()
    if short:
        source = shortest(source, one.shape, numeric)
    theirs, ours = outcomes(source, one.shape, numeric)
    print(f"# seed {seed}, program {index}, x of shape {one.shape}\n{source}")
    print(f"Flax:\n{theirs}\nlinsey:\n{ours}")


if __name__ == "__main__":
    main()
