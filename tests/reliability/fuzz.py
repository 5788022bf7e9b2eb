"""Fuzzers of all readers: whatever they are given, they return or refuse.

`python -m tests.reliability.fuzz --reader NAME --count N --seed S` runs one for long,
with a limit on memory; `test_fuzz.py` runs all of them for a moment. The same seed
gives the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import struct
import sys
import tempfile
import time
import traceback
import types
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest import mock

import msgpack
import numpy as np
from PIL import Image

from linsey import serialization, weights
from linsey.app import images, metrics_log
from linsey.app.config import DataOptions, TrainConfig
from linsey.app.metadata import run_metadata
from linsey.app.options import load_options, save_config
from linsey.app.readers import load
from linsey.app.standardizer import Standardizer
from linsey.checkpoint import format_1, manifest
from linsey.checkpoint.step import open_checkpoint, write_checkpoint
from linsey.errors import DiskError, InputError
from linsey.schema import parse_json
from tests.reliability.mutations import LITERALS, NAMES, NUMBERS, scrambled, shaken

LIMIT_SECONDS = 2.0
MEMORY = 256 * 2**20
"""What a reader may need beside a small input."""


class Fuzzer(NamedTuple):
    """Makes an input from a random generator, and reads it."""

    make: Callable[[Random], bytes]
    read: Callable[[bytes], object]


# -- a step of a checkpoint ----------------------------------------------------------

METADATA = {
    "config": TrainConfig().identity,
    "config_sha256": "0" * 64,
    "environment": {"jax": "0.10", "threads": 2},
    "cursor": {"evaluated_at": 3, "accuracy": 0.5, "best_step": 3},
    "data": {
        "name": "digits",
        "sha256": "f" * 64,
        "shape": [8, 8, 1],
        "class_names": ["a", "b"],
        "standardizer": Standardizer(np.ones(1), np.ones(1)).to_json(),
    },
}  # fmt: skip
TREE = {
    "params": {"Dense_0": {"kernel": np.ones((3, 4), "f4"), "bias": np.zeros(4, "f4")}},
    "step": np.int32(3),
    "complex": np.ones(2, "c8"),
}


def sealed(body: str) -> bytes:
    """A manifest with any body that ends an object, and with the right hash."""
    content = body.encode(errors="surrogatepass").rstrip().removesuffix(b"}")
    digest = hashlib.sha256(content).hexdigest().encode()
    return content + manifest._SEAL + digest + manifest._END


def fuzz_manifest(folder: Path) -> Fuzzer:
    step = folder / "step_00000003"
    write_checkpoint(step, 3, TREE, METADATA)
    file = step / manifest.NAME
    good = file.read_bytes()
    record = json.loads(good)
    record.pop("sha256")

    def make(rng: Random) -> bytes:
        return (
            scrambled(rng, good) if rng.random() < 0.2 else sealed(shaken(rng, record))
        )

    def read(content: bytes) -> None:
        file.write_bytes(content)
        open_checkpoint(step)

    return Fuzzer(make, read)


def fuzz_first_manifest(folder: Path) -> Fuzzer:
    """The manifest of format 1; its arrays, which Orbax reads, are taken as good."""
    step = folder / "step_00000003"
    step.mkdir()
    (step / "data").write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    record = {
        "format": 1,
        "step": 3,
        "metadata": METADATA,
        "arrays": {"params/w": {"shape": [2, 3], "dtype": "float32"}},
        "files": {"data": {"bytes": 3, "sha256": digest}},
    }
    tree = {"params": {"w": np.zeros((2, 3), "f4")}}

    def read(content: bytes) -> None:
        (step / manifest.NAME).write_bytes(content)
        with mock.patch.object(format_1, "_read", lambda folder: tree):
            open_checkpoint(step)

    return Fuzzer(lambda rng: sealed(shaken(rng, record)), read)


def fuzz_step(folder: Path) -> Fuzzer:
    step = folder / "step_00000003"
    write_checkpoint(step, 3, TREE, METADATA)
    good = (step / manifest.NAME).read_bytes()
    record = json.loads(good)
    record.pop("sha256")
    (name,) = record["files"]
    file = step / name
    tensors = file.read_bytes()
    size = int.from_bytes(tensors[:8], "little")
    header, data = json.loads(tensors[8 : 8 + size]), tensors[8 + size :]

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return scrambled(rng, tensors)
        text = shaken(rng, header).encode(errors="surrogatepass")
        length = len(text) if rng.random() < 0.9 else rng.choice(NUMBERS)
        return struct.pack("<Q", length) + text + data

    def read(content: bytes) -> None:
        file.write_bytes(content)
        # A manifest that vouches for the file, so that the file itself is parsed.
        digest = hashlib.sha256(content).hexdigest()
        record["files"][name] = {"bytes": len(content), "sha256": digest}
        (step / manifest.NAME).write_bytes(sealed(json.dumps(record)))
        open_checkpoint(step)

    return Fuzzer(make, read)


def fuzz_metadata(folder: Path) -> Fuzzer:
    def read(content: bytes) -> None:
        record = parse_json(content, folder)
        found = types.SimpleNamespace(
            metadata=record, step=3, folder=folder, arrays=range(9)
        )
        run_metadata(found)

    def make(rng: Random) -> bytes:
        return shaken(rng, METADATA).encode(errors="surrogatepass")

    return Fuzzer(make, read)


def fuzz_msgpack(folder: Path) -> Fuzzer:
    tree = {**TREE, "tuple": {"0": 1, "1": np.float16(2)}, "text": "a", "key": 2.5}
    trees = tree, {"w": np.arange(3)}, {"l": [1, [None, b"x", 1 + 2j]], "d": {"0": {}}}
    sealed = [serialization.msgpack_serialize(each) for each in trees]
    # Without the checksum nothing protects the parser.
    bare = [msgpack.packb(e, default=serialization._pack_unknown) for e in trees]

    def make(rng: Random) -> bytes:
        return scrambled(rng, *sealed, *bare, *bare)

    return Fuzzer(make, serialization.msgpack_restore)


def fuzz_pt(folder: Path) -> Fuzzer:
    """Members of an archive of PyTorch, most of all the pickle; checksums are right."""
    path = folder / "weights.pt"
    arrays = {"a.weight": np.ones((2, 3), "f4"), "b": np.arange(3), "c": np.array(True)}
    weights.write(path, {**arrays, "d": np.ones(2, "u2"), "e": arrays["b"]})
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))

    def make(rng: Random) -> bytes:
        if rng.random() < 0.2:
            return scrambled(rng, good)
        name = pickled if rng.random() < 0.9 else rng.choice(list(members))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for other, content in members.items():
                content = scrambled(rng, content) if other == name else content
                archive.writestr(zipfile.ZipInfo(other), content)
        return buffer.getvalue()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        weights.read(path)

    return Fuzzer(make, read)


# -- data ----------------------------------------------------------------------------

_DESCRS = ["<f4", ">f8", "|u1", "|O", "<i8", "|V3", "<U3", "|b1", "<c8", "<f16", "f4",
           "<M8[s]", "[('a', '<f4')]", "<f4, <i8", "(2,)<f4", "=f4"]  # fmt: skip
_FIELDS = "CRC file_size compress_size flag_bits header_offset compress_type".split()
_SHAPES = ["(8, 2)", "(8,)", "()", "(0, 100000000000000)", "(-8, 2)", "(9" * 9 + ")",
           "(99999999999999999999,)", "(8,2", "(True,)", "(8L, 2L)", "[8, 2]", "(" * 99,
           "(4, 2, 2)", "(1000000000000,)", "(" + "1, " * 65 + ")"]  # fmt: skip


def array_file(descr: str, order: str, shape: str, data: bytes, extra="") -> bytes:
    """A NumPy file with any header."""
    quoted = descr if descr.startswith("[") else repr(descr)
    entries = f"'descr': {quoted}, 'fortran_order': {order}, 'shape': {shape}, "
    header = f"{{{entries}{extra}}}\n".encode("latin-1", "replace")
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) & 0xFFFF) + header + data


def fuzz_npz(folder: Path) -> Fuzzer:
    x, y = np.arange(16.0).reshape(8, 2), np.arange(8) % 2
    seeds = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=x.astype("f4"), y=y)
        seeds.append(buffer.getvalue())
    path = folder / "data.npz"

    def member(rng: Random, good: np.ndarray) -> bytes:
        descr, order, shape = good.dtype.str, "False", str(good.shape)
        kind = rng.randrange(6)
        descr = rng.choice(_DESCRS) if kind == 0 else descr
        shape = rng.choice(_SHAPES) if kind == 1 else shape
        order = rng.choice(("True", "1", "[]", "None")) if kind == 2 else order
        extra = rng.choice(("'a': 1", "'descr': '<f4'", "}", "#")) if kind == 3 else ""
        content = array_file(descr, order, shape, good.tobytes(), extra)
        return scrambled(rng, content) if kind == 4 else content

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return scrambled(rng, *seeds)
        buffer = io.BytesIO()
        method = rng.choice((0, 0, 8, 8, 12, 14))
        with zipfile.ZipFile(buffer, "w", method) as archive:
            names = rng.choice((("x", "y"), ("x", "y"), ("x_train", "y_train")))
            for name, good in zip(names, (x, y), strict=True):
                archive.writestr(f"{name}.npy", member(rng, good))
            for info in archive.infolist():
                if rng.random() < 0.1:
                    field = rng.choice(_FIELDS)
                    setattr(info, field, rng.choice(NUMBERS) % 2**16)
        return buffer.getvalue()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load(DataOptions(data=str(path)))

    return Fuzzer(make, read)


def fuzz_image(folder: Path) -> Fuzzer:
    seeds: list[tuple[str, bytes]] = []
    for suffix, mode in [("png", "RGB"), ("png", "L"), ("png", "P"), ("png", "I;16"),
                         ("ppm", "RGB"), ("pgm", "L"), ("bmp", "RGB"), ("gif", "P"),
                         ("jpeg", "RGB"), ("tiff", "L"), ("webp", "RGB")]:  # fmt: skip
        buffer = io.BytesIO()
        name = "PPM" if suffix in ("ppm", "pgm") else suffix
        Image.new(mode, (6, 5), 3).save(buffer, name)
        seeds.append((suffix, buffer.getvalue()))

    def make(rng: Random) -> bytes:
        suffix, seed = rng.choice(seeds)
        if suffix == "png" and rng.random() < 0.5:
            fields = [6, 5, 8, rng.choice((0, 2, 3, 4, 6)), 0, 0, 0]
            fields[rng.randrange(7)] = rng.choice(NUMBERS)
            sizes = [field % 2**32 for field in fields[:2]]
            chunk = b"IHDR" + struct.pack(
                ">II5B", *sizes, *(f % 256 for f in fields[2:])
            )
            seed = seed[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + seed[33:]
        elif suffix in ("ppm", "pgm") and rng.random() < 0.5:
            number = str(rng.choice((*NUMBERS, -1, 10**20))).encode()
            seed = seed.replace(rng.choice((b"6", b"5", b"255")), number, 1)
        else:
            seed = scrambled(rng, seed, rng.choice(seeds)[1])
        return suffix.encode() + b"\n" + seed

    def read(content: bytes) -> None:
        suffix, _, content = content.partition(b"\n")
        path = folder / f"image.{suffix.decode()}"
        path.write_bytes(content)
        images.read_image(path, 4)

    return Fuzzer(make, read)


def fuzz_labels(folder: Path) -> Fuzzer:
    """Labels of text and of each kind of numbers, with any bytes in them."""
    kinds = ["<U3", ">U2", "|S5", "<f4", "<f8", "|b1", "<i8", ">u8", "|i1", "<u2"]
    x, path = np.arange(24.0).reshape(12, 2), folder / "data.npz"

    def make(rng: Random) -> bytes:
        dtype = np.dtype(rng.choice(kinds))
        shape = rng.choice(((12,), (12, 1), (12, 3), (3, 4)))
        y = np.arange(np.prod(shape)).reshape(shape) % 2
        raw = bytearray(y.astype(dtype).tobytes())
        for _ in range(rng.choice((0, 1, 1, 4))):
            number = rng.choice(NUMBERS).to_bytes(8, rng.choice(("little", "big")))
            place = rng.randrange(len(raw))
            raw[place : place + 8] = number[: len(raw) - place]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            content = array_file(x.dtype.str, "False", str(x.shape), x.tobytes())
            archive.writestr("x.npy", content)
            content = array_file(dtype.str, "False", str(shape), bytes(raw))
            archive.writestr("y.npy", content)
        return buffer.getvalue()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load(DataOptions(data=str(path)))

    return Fuzzer(make, read)


def fuzz_table(folder: Path) -> Fuzzer:
    path = folder / "table.csv"
    rows = [f"{i}.5,{'uv'[i % 2]},{i},{'ab'[i // 2 % 2]}" for i in range(12)]
    seeds = ["\n".join([*head, *rows]).encode() for head in ([], ["n,t,m,label"])]
    cells = (*LITERALS, "nan", "inf", "-0", "1_0", '"', '""', "'", "\0", "\r", "é",
             "1e400", "x" * 300, ",", ",,", "\t", ";", "\ud800")  # fmt: skip

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return scrambled(rng, *seeds)
        table = [line.split(",") for line in rng.choice(seeds).decode().split("\n")]
        for _ in range(rng.choice((1, 1, 2, 6))):
            row = rng.choice(table)
            row[rng.randrange(len(row))] = rng.choice(cells)
        return "\n".join(map(",".join, table)).encode(errors="surrogatepass")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        data = load(DataOptions(data=str(path), missing="mean"))
        data.warnings()

    return Fuzzer(make, read)


# -- what a run writes ---------------------------------------------------------------


def fuzz_config(folder: Path) -> Fuzzer:
    path = folder / "config.toml"
    save_config(path, TrainConfig(threads=2))
    good = path.read_text()
    lines = good.splitlines()

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return scrambled(rng, good.encode())
        text = list(lines)
        for _ in range(rng.choice((1, 1, 2, 5))):
            index = rng.randrange(1, len(text))
            name, _, value = text[index].partition(" = ")
            kind = rng.randrange(5)
            if kind <= 1:
                more = ("1979-05-27", "inf", "0x" + "f" * 300, "'''", "[" * 9000,
                        "{a = 1}", "1_0", '"\\U0010FFFF"', "1e400")  # fmt: skip
                value = rng.choice((*LITERALS, *more))
            elif kind == 2:
                name = rng.choice((*NAMES, "a.b.c", ".".join("a" * 5000), '"x"', "[a]"))
            elif kind == 3:
                text.append(text[index])
            else:
                text.insert(
                    index, rng.choice(("[a]", "[[a]]", "[a.b]", "=", "\0", "#"))
                )
                continue
            text[index] = f"{name} = {value}"
        return "\n".join(text).encode(errors="surrogatepass")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load_options(path)

    return Fuzzer(make, read)


def fuzz_log(folder: Path) -> Fuzzer:
    path = folder / "metrics.jsonl"
    scores = {"loss": 0.5, "accuracy": 0.25, "epoch": 1.0}
    records = [
        {"kind": "start", "step": 0, "jax": "0.10", "devices": 1},
        {"kind": "train", "step": 2, "learning_rate": 0.1, "skipped": 0, **scores},
        {"kind": "eval", "step": 2, **scores},
        {"kind": "skip", "step": 3, "part": "loss", "examples": [1, 2]},
        {"kind": "resume", "step": 2},
        {"kind": "final", "step": 4, "loss": None, "accuracy": 0.5, "skipped": 0},
    ]
    good = "\n".join(map(json.dumps, records)) + "\n"

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return scrambled(rng, good.encode())
        lines = [json.dumps(record) for record in records]
        index = rng.randrange(len(lines))
        lines[index] = shaken(rng, records[index])
        return "\n".join(lines).encode(errors="surrogatepass")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        metrics_log.read(path)

    return Fuzzer(make, read)


FUZZERS: dict[str, Callable[[Path], Fuzzer]] = {
    "manifest": fuzz_manifest,
    "first manifest": fuzz_first_manifest,
    "step": fuzz_step,
    "metadata": fuzz_metadata,
    "msgpack": fuzz_msgpack,
    "pt": fuzz_pt,
    "npz": fuzz_npz,
    "image": fuzz_image,
    "labels": fuzz_labels,
    "table": fuzz_table,
    "config": fuzz_config,
    "log": fuzz_log,
}


# -- running -------------------------------------------------------------------------


class Report(NamedTuple):
    """What became of the inputs."""

    accepted: int
    refused: int
    slowest: float
    failures: list[tuple[bytes, str]]


def made(fuzzer: Fuzzer, rng: Random) -> bytes:
    """An input that is not too large for the memory in which it is made."""
    while True:
        with contextlib.suppress(MemoryError):
            return fuzzer.make(rng)


def run(name: str, count: int, seed: int, folder: Path) -> Report:
    """Read that many inputs; a failure is any other error, or too long a time."""
    fuzzer, rng = FUZZERS[name](folder), Random(f"{name} {seed}")
    accepted, slowest = 0, 0.0
    failures = []
    for _ in range(count):
        content = made(fuzzer, rng)
        start = time.process_time()
        try:
            fuzzer.read(content)
            accepted += 1
        except (InputError, DiskError) as error:
            if not str(error).isprintable() or len(str(error)) > 10_000:
                failures.append((content, f"not a line: {str(error)[:200]!r}"))
        except Exception:
            failures.append((content, traceback.format_exc()))
        spent = time.process_time() - start
        slowest = max(slowest, spent)
        if spent > LIMIT_SECONDS:
            failures.append((content, f"took {spent:.1f} s"))
        if len(failures) >= 20:
            break
    return Report(accepted, count - accepted - len(failures), slowest, failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=FUZZERS, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        run(
            options.reader, 100, 1000, Path(folder, ".")
        )  # imports what is imported late
    with tempfile.TemporaryDirectory(dir=place) as folder:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        report = run(options.reader, options.count, options.seed, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{options.reader}: {options.count:,} inputs, {report.accepted:,} accepted, "
        f"{report.refused:,} refused, {len(report.failures)} failures, slowest "
        f"{report.slowest:.2f} s, peak {peak} MiB"
    )
    for content, told in report.failures:
        print(repr(content[:300]), told, sep="\n", file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
