"""Files that were made to harm, each with the way in which a user meets it.

`python -m tests.reliability.corpus FOLDER` makes them all, reads each as a user would,
and prints what happened as JSON, a line for each: exit code, message, time, and what
Python's audit hook saw meanwhile that reading a file has no need of.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import socket
import struct
import sys
import time
import types
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from linsey import serialization
from linsey.app import cli
from linsey.checkpoint import manifest
from linsey.checkpoint.step import write_checkpoint
from linsey.errors import DiskError, InputError
from linsey.training import checkpoints
from tests.reliability.fuzz import METADATA, TREE, array_file, sealed

X, Y = np.arange(16, dtype="f4").reshape(8, 2), np.arange(8) % 2
CODE = "__import__('os').system('touch harmed')"


class Payload:
    def __reduce__(self):
        return os.system, ("touch harmed",)


Make = Callable[[Path], object]
CORPUS: dict[str, tuple[str, Make]] = {}


def add(how: str, **items: Make) -> None:
    CORPUS.update({f"{how}: {name}": (how, make) for name, make in items.items()})


# -- archives: linsey train --data data.npz ------------------------------------------


def npz(path: Path, x: bytes | None = None, method: int = 0, **more: bytes) -> None:
    good = array_file("<f4", "False", "(8, 2)", X.tobytes())
    members = {"x": good if x is None else x}
    members["y"] = array_file("<i8", "False", "(8,)", Y.tobytes())
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {**members, **more}.items():
            archive.writestr(f"{name}.npy", content)


def npz_of(
    descr: str = "<f4", shape: str = "(8, 2)", order="False", data=b"", extra=""
):
    return lambda path: npz(path, array_file(descr, order, shape, data, extra))


def bomb(path: Path) -> None:
    head = array_file("|u1", "False", f"({160 * 2**20},)", b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w") as file:
            file.write(head)
            for _ in range(160):
                file.write(bytes(2**20))
        archive.writestr("y.npy", array_file("<i8", "False", "(8,)", Y.tobytes()))


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number:060}.npy", b"")


def members_named(*names: str) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), b"")

    return make


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x.npy", "z.npy", "y.npy"):
            archive.writestr(name, array_file("<f4", "False", "(8, 2)", X.tobytes()))
    path.write_bytes(path.read_bytes().replace(b"z.npy", b"x.npy"))


def directory_field(offset: int, value: bytes) -> Make:
    def make(path: Path) -> None:
        npz(path)
        content = bytearray(path.read_bytes())
        place = content.find(b"PK\1\2") + offset
        content[place : place + len(value)] = value
        path.write_bytes(content)

    return make


def link_to(target: str) -> Make:
    return lambda path: os.symlink(target, path)


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**41)


def objects(path: Path) -> None:
    np.savez(path, x=np.array([Payload()] * 8, object), y=Y)


SPECIAL: dict[str, Make] = {
    "FIFO": os.mkfifo,
    "socket": make_socket,
    "link to a device": link_to("/dev/zero"),
    "link to a file elsewhere": link_to("/etc/passwd"),
    "link to nothing": link_to("nowhere"),
    "link to itself": lambda path: os.symlink(path.name, path),
    "folder": os.mkdir,
    "two tebibytes": sparse,
    "nothing in it": lambda path: path.write_bytes(b""),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Payload())),
}
add("data", **SPECIAL)
add(
    "data",
    **{
        "zip bomb": bomb,
        "10.9 TiB": npz_of(shape="(3000000000000,)"),
        "object array with code": objects,
        "object dtype": npz_of("|O"),
        "records": npz_of("[('a', '<f4'), ('b', '|O')]"),
        "code as dtype": npz_of(CODE),
        "code as shape": npz_of(shape=CODE),
        "code as a further entry": npz_of(extra=f"'x': {CODE}"),
        "key twice": npz_of(extra="'descr': '<f8'", data=X.tobytes()),
        "nested shape": npz_of(shape="(" * 9000 + ")" * 9000),
        "negative shape": npz_of(shape="(-8, -2)", data=X.tobytes()),
        "hidden axis": npz_of(shape="(0, 100000000000000)"),
        "shape of 2^63": npz_of(shape="(9223372036854775808, 0)"),
        "1,000 axes": npz_of(shape="(" + "1, " * 1000 + ")", data=bytes(4)),
        "dates": npz_of("<M8[s]", "(8,)", data=bytes(64)),
        "text": npz_of("<U3", "(8,)", data=bytes(96)),
        "huge header": lambda p: npz(p, b"\x93NUMPY\2\0\xff\xff\xff\xff{"),
        "no header": lambda p: npz(p, b"\x93NUMPY"),
        "not an array": lambda p: npz(p, b"import os"),
        "fewer data than said": npz_of(data=X.tobytes()[:-1]),
        "more data than said": npz_of(data=X.tobytes() + b"0"),
        "array twice": twice,
        "encrypted": directory_field(8, b"\1\0"),
        "bzip2": lambda p: npz(p, method=zipfile.ZIP_BZIP2),
        "LZMA": lambda p: npz(p, method=zipfile.ZIP_LZMA),
        "unknown packing": directory_field(10, b"\x63\0"),
        "size too small": directory_field(24, struct.pack("<I", 90)),
        "size of 4 GiB": directory_field(20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
        "wrong checksum": directory_field(16, b"\0\0\0\0"),
        "member elsewhere": directory_field(42, b"\xff\xff\xff\0"),
        "20,000 members": many_members,
        "escapes in names": members_named("\x1b[2J\x1b]0;x\x07.npy", "[red]x.npy"),
        "names that climb": members_named("../../x.npy", "/etc/x.npy", "C:\\x.npy"),
        "directory cut off": lambda p: (npz(p), p.write_bytes(p.read_bytes()[:-30])),
        "no archive": lambda p: p.write_bytes(b"PK\5\6" + b"\xff" * 18),
    },
)  # fmt: skip


# -- folders of images: linsey train --data images -----------------------------------


def image_folder(name: str, make: Make) -> Make:
    def build(path: Path) -> None:
        for label in ("a", "b"):
            (path / label).mkdir(parents=True)
            for number in range(5):
                Image.new("L", (4, 4), number).save(path / label / f"{number}.png")
        make(path / name)

    return build


def png(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (chunk, data)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def written(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


IMAGES = {
    "PNG of 10^10 pixels": png(100_000, 100_000),
    "PNG of 80 million pixels": png(10_000, 8_000),
    "PPM of 10^18 pixels": b"P6 1000000000 1000000000 255\n",
    "GIF of 65535 x 65535": b"GIF89a" + b"\xff" * 4 + bytes(3) + b",\0\0\0\0\xff\xff",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%x) run",
    "vector graphics": b'<svg><image href="file:///etc/passwd"/></svg>',
    "TIFF that points to itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "PNG cut short": png(4, 4)[:40],
    "JPEG of nothing": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "pickle": pickle.dumps(Payload()),
    "nothing in it": b"",
}
add("images", **{k: image_folder("a/x.png", written(v)) for k, v in IMAGES.items()})
for _name in ("FIFO", "socket", "link to a device", "link to a file elsewhere",
              "link to nothing", "folder", "two tebibytes"):  # fmt: skip
    add("images", **{_name: image_folder("a/x.png", SPECIAL[_name])})
add("images", **{"class that is a link": image_folder("c", link_to("/etc"))})
add("images", **{"class without Unicode": image_folder("c\udcff", lambda path: (
    path.mkdir(), Image.new("L", (4, 4)).save(path / "0.png")))})  # fmt: skip


# -- options: linsey train --config options.toml -------------------------------------

OPTIONS = {
    "nested lists": "a = " + "[" * 20_000,
    "nested tables": "a = " + "{a = " * 9_000,
    "key of 30,000 parts": ".".join("a" * 30_000) + " = 1",
    "null byte": 'data = "a\\u0000b"',
    "raw null byte": "lr = 0.1\0",
    "not Unicode": "data = '\udcff'",
    "a billion threads": "threads = 1_000_000_000",
    "a billion layers": "depth = 1_000_000_000",
    "a model for no machine": "model = 'mlp'\ndepth = 1000\nwidth = 65536",
    "5,000 digits": "epochs = " + "9" * 5_000,
    "infinite": "lr = inf",
    "not a number": "lr = nan",
    "negative": "seed = -1",
    "date": "lr = 1979-05-27",
    "unknown choice": 'model = "rm -rf"',
    "twice": "lr = 1\nlr = 2",
    "twice in tables": "[a]\nlr = 1\n[b]\nlr = 2",
    "escapes in a key": '"\\u001b[2J\\u0007" = 1',
    "markup in a key": '"[/b]" = 1',
    "a key of 50,000 letters": "a" * 50_000 + " = 1",
    "place of the run": 'out = "/etc"',
    "path that climbs to a device": 'data = "/dev/../dev/zero"',
}
OPTION_BYTES = {k: text.encode(errors="surrogateescape") for k, text in OPTIONS.items()}
add("options", **{name: written(content) for name, content in OPTION_BYTES.items()})
add("options", **{k: v for k, v in SPECIAL.items() if k != "nothing in it"})


# -- checkpoints: linsey eval and linsey inspect -------------------------------------


def step(path: Path) -> dict:
    write_checkpoint(path, 3, TREE, METADATA)
    record = json.loads((path / manifest.NAME).read_bytes())
    record.pop("sha256")
    return record


def checkpoint(change: Callable[[dict], object]) -> Make:
    """A step whose manifest says something else, and vouches for it."""

    def make(path: Path) -> None:
        record = step(path)
        record = change(record) or record
        text = record if isinstance(record, str) else json.dumps(record)
        (path / manifest.NAME).write_bytes(sealed(text))

    return make


def entry(value: object, *keys: str) -> Make:
    def change(record: dict) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return checkpoint(change)


def tensors(header: bytes, length: int | None = None) -> Make:
    """A step with another file of arrays, for which the manifest vouches."""

    def make(path: Path) -> None:
        import hashlib

        record = step(path)
        (name,) = record["files"]
        size = len(header) if length is None else length
        content = struct.pack("<Q", size) + header
        (path / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        record["files"][name] = {"bytes": len(content), "sha256": digest}
        (path / manifest.NAME).write_bytes(sealed(json.dumps(record)))

    return make


def replaced(make: Make, name: str | None = manifest.NAME) -> Make:
    def build(path: Path) -> None:
        record = step(path)
        file = path / (name or next(iter(record["files"])))
        file.unlink()
        make(file)

    return build


def renamed_files(name: str) -> Make:
    def change(record: dict) -> None:
        ((old, value),) = record["files"].items()
        record["files"] = {name: value}
        for array in record["arrays"].values():
            for piece in array["pieces"]:
                piece["file"] = name

    return checkpoint(change)


KERNEL = ("arrays", "params/Dense_0/kernel")
STEPS: dict[str, Make] = {
    "file that climbs": renamed_files("../../../etc/passwd"),
    "file elsewhere": renamed_files("/etc/passwd"),
    "file with escapes": renamed_files("\x1b[2J"),
    "key twice": checkpoint(lambda r: json.dumps(r)[:-1] + ', "step": 4}'),
    "nested": entry(json.loads("[" * 500 + "]" * 500), "metadata", "x"),
    "nested too deep to parse": checkpoint(
        lambda r: json.dumps(r)[:-1] + ', "x": ' + "[" * 90_000 + "]" * 90_000 + "}"
    ),
    "not a number": entry(float("nan"), "metadata", "x"),
    "size of 2^63": entry(2**63, "step"),
    "shape of 10^14": entry([10**14, 0], *KERNEL, "shape"),
    "negative shape": entry([-3, -4], *KERNEL, "shape"),
    "object dtype": entry("object", *KERNEL, "dtype"),
    "code as dtype": entry(CODE, *KERNEL, "dtype"),
    "other format": entry("2; rm", "format"),
    "step of another name": entry(4, "step"),
    "no record": checkpoint(lambda r: "[1, 2]}"),
    "array named by escapes": entry({"shape": []}, "arrays", "\x1b[31m"),
    "array that climbs": entry({"shape": []}, "arrays", "../../x"),
    "header of 2^63 bytes": tensors(b"{}", 2**63),
    "header of no JSON": tensors(b"{" * 5000),
    "header with a key twice": tensors(b'{"a":{},"a":{}}'),
    "header with offsets of 2^64": tensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}'
    ),
    "manifest that is a FIFO": replaced(os.mkfifo),
    "manifest that is a link": replaced(link_to("/etc/passwd")),
    "arrays that are a FIFO": replaced(os.mkfifo, None),
    "arrays that are a link": replaced(link_to("/dev/zero"), None),
    "one file more": lambda path: (step(path), (path / "x").write_bytes(b"")),
    "link": lambda path: (step(path.parent / "real"), os.symlink("real", path)),
}
add("inspect", **STEPS)
CONFIG, DATA = ("metadata", "config"), ("metadata", "data")
add(
    "eval",
    **{
        "unknown model": entry("rm", *CONFIG, "model"),
        "a billion layers": entry(10**9, *CONFIG, "depth"),
        "more layers than arrays": entry(900, *CONFIG, "depth"),
        "option of the place": entry("/etc", *CONFIG, "out"),
        "no options": entry(None, *CONFIG),
        "metadata of another program": entry([], "metadata"),
        "shape of 10^14": entry([10**14, 8, 1], *DATA, "shape"),
        "example of 2^60 values": entry([2**20, 2**20, 2**20], *DATA, "shape"),
        "one class": entry(["a"], *DATA, "class_names"),
        "class of 10^5 letters": entry(["a", "b" * 10**5], *DATA, "class_names"),
        "class that is a number": entry(["a", 1], *DATA, "class_names"),
        "means that do not fit": entry([0.0] * 9, *DATA, "standardizer", "mean"),
        "deviation of 0": entry([0.0], *DATA, "standardizer", "std"),
        "best step to come": entry(99, "metadata", "cursor", "best_step"),
        "accuracy of 2": entry(2.0, "metadata", "cursor", "accuracy"),
    },
)


# -- MessagePack: serialization.msgpack_restore, training.restore_checkpoint ---------


def extension(code: int, content: bytes) -> bytes:
    return b"\x81\xa1w\xc8" + struct.pack(">Hb", len(content), code) + content


def packed_array(shape: list[int], dtype: str, data: bytes = b"") -> bytes:
    import msgpack

    return extension(1, msgpack.packb((shape, dtype, data)))


MESSAGES = {
    "object dtype": packed_array([8], "O", bytes(64)),
    "code as dtype": packed_array([8], CODE, bytes(64)),
    "records": packed_array([1], "i4,O", bytes(12)),
    "shape of 10^14": packed_array([0, 10**14], "float32"),
    "negative shape": packed_array([-1], "float32", bytes(4)),
    "too little data": packed_array([100], "float32", bytes(4)),
    "pickle in an extension": extension(1, pickle.dumps(Payload())),
    "text of 4 GiB": b"\x81\xa1w\xdb\xff\xff\xff\xff",
    "list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "nested": b"\x91" * 100_000,
    "key twice": b"\x82\xa1w\x01\xa1w\x02",
    "key that is a list": b"\x81\x91\x01\x01",
    "something after the end": b"\x80\x80",
    "nothing": b"",
    "reserved byte": b"\xc1",
}
add("message", **{name: written(content) for name, content in MESSAGES.items()})
NO_CHECKPOINT = ("folder", "link to nothing", "link to itself")
add("restore", **{k: v for k, v in SPECIAL.items() if k not in NO_CHECKPOINT})
FLIPPED = serialization.msgpack_serialize({"w": np.arange(9.0)})
add("restore", **{"a flipped bit": written(FLIPPED[:-9] + b"\x01" + FLIPPED[-8:])})


# -- reading them --------------------------------------------------------------------

PLACES = {"data": "data.npz", "images": "images", "options": "options.toml",
          "eval": "step_00000003", "inspect": "step_00000003",
          "message": "message", "restore": "checkpoint_1"}  # fmt: skip


def meet(how: str, path: Path) -> int:
    """Read a file as a user would; returns the exit code."""
    train = ["train", "--out", str(path.parent / "run"), "--batch-size", "1000"]
    if how in ("data", "images"):
        return cli.main([*train, "--data", str(path)])
    if how == "options":
        return cli.main(["train", "--out", train[2], "--config", str(path)])
    if how in ("eval", "inspect"):
        return cli.main([how, str(path)])
    try:
        if how == "message":
            serialization.msgpack_restore(path.read_bytes())
        else:
            checkpoints.restore_checkpoint(path, None)
    except (InputError, DiskError) as error:
        print("linsey: error:", error, file=sys.stderr)
        return 2
    return 0


NEEDLESS = ("import", "exec", "compile", "os.system", "os.exec", "os.posix_spawn",
            "os.spawn", "os.fork", "subprocess.Popen", "socket.connect",
            "pickle.find_class", "ctypes.dlopen", "shutil.rmtree")  # fmt: skip


def event_text(event: str, arguments: tuple) -> str:
    first = arguments[0] if arguments else ""
    if isinstance(first, types.CodeType):
        first = (first.co_filename, first.co_names)
    return f"{event} {first!r:.200}"


def main(root: Path) -> None:
    seen: list[str] = []
    is_watching = False

    def hook(event: str, arguments: tuple) -> None:
        if not is_watching:
            return
        is_open = event == "open" and isinstance(arguments[0], str)
        if event in NEEDLESS or (is_open and not arguments[0].startswith(str(root))):
            seen.append(event_text(event, arguments))

    sys.addaudithook(hook)
    usual: set[str] = set()
    for number, (name, (how, make)) in enumerate({**GOOD, **CORPUS}.items()):
        folder = root / str(number)
        folder.mkdir()
        path = folder / PLACES[how]
        make(path)
        os.chdir(folder)
        out, err = io.StringIO(), io.StringIO()
        start = time.process_time()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            is_watching = True
            code: int | str
            try:
                code = meet(how, path)
            except BaseException as error:
                code = f"{type(error).__name__}: {error}"
            is_watching = False
        told = {
            "name": name, "code": code, "error": err.getvalue(), "out": out.getvalue(),
            "seconds": time.process_time() - start, "seen": sorted({*seen} - usual),
        }  # fmt: skip
        print(json.dumps(told), flush=True)
        if name in GOOD:
            usual.update(seen)
        seen.clear()


def good_images(path: Path) -> None:
    image_folder("a/x.png", lambda path: Image.new("RGB", (3, 3)).save(path))(path)


# What is read first, so that all is imported that is imported late.
GOOD: dict[str, tuple[str, Make]] = {
    "good data": ("data", npz),
    "good images": ("images", good_images),
    "good options": ("options", written(b"batch-size = 10_000")),
    "good step": ("inspect", step),
    "step of another model": ("eval", step),
    "good message": ("message", written(serialization.msgpack_serialize({"w": X}))),
    "good file": ("restore", written(serialization.msgpack_serialize({"w": X}))),
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
