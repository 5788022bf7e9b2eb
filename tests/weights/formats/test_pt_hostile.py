"""Files of `torch.save` that were made to harm are refused, and nothing runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from linsey.errors import InputError
from linsey.weights import read
from linsey.weights.formats import names, pt_pickle
from tests.weights.formats.pt_files import (
    FLOATS,
    HOOKS,
    ITEMS,
    call,
    name,
    number,
    program,
    row,
    save,
    save_value,
    storage,
    table,
    tensor,
    text,
)

HARM = text("touch harmed")
UNTYPED = name("torch.storage", "UntypedStorage")
LATER = name("torch._utils", "_rebuild_tensor_v3")
PARAMETER = name("torch._utils", "_rebuild_parameter")
MEMORY = 32 * 2**20

Make = Callable[[Path], object]
CORPUS: dict[str, tuple[str, Make]] = {}


def add(told: str, **makers: Make) -> None:
    """Files that are refused with these words."""
    CORPUS.update({key.replace("_", " "): (told, make) for key, make in makers.items()})


def value(content: bytes, **options) -> Make:
    return lambda path: save_value(path, content, **options)


def whole(pickled: bytes, **options) -> Make:
    return lambda path: save(path, pickled, **options)


# -- code ----------------------------------------------------------------------------

add(
    "a name that no state dict has, and nothing is imported: found",
    system=value(call(name("os", "system"), HARM)),
    system_of_posix=value(call(name("posix", "system"), HARM)),
    eval=value(call(name("builtins", "eval"), HARM)),
    exec=value(call(name("builtins", "exec"), HARM)),
    getattr=value(call(name("builtins", "getattr"), HARM)),
    import_=value(call(name("builtins", "__import__"), text("os"))),
    load_of_torch=value(call(name("torch", "load"), text("other.pt"))),
    load_of_torch_serialization=value(call(name("torch.serialization", "load"), HARM)),
    hub_of_torch=value(call(name("torch.hub", "load"), HARM, HARM)),
    run_of_subprocess=value(call(name("subprocess", "run"), HARM)),
    unpickled=value(call(name("pickle", "loads"), HARM)),
    dotted=value(call(name("torch", "_utils.os.system"), HARM)),
    module=value(name("torchvision.models.resnet", "ResNet") + b")\x81"),
    number_of_numpy=value(call(name("numpy.core.multiarray", "scalar"), HARM)),
    subclass_of_tensors=value(call(name("torch._tensor", "_rebuild_from_type_v2"))),
    script=value(name("__torch__.Net", "Net")),
    short_complex=value(
        tensor(storage(UNTYPED), more=[name("torch", "complex32")], function=LATER)
    ),
    in_a_list=value(b"](" + call(name("os", "system"), HARM) + b"e"),
    in_a_key=whole(program(b"}" + call(name("os", "system"), HARM) + b"Ns")),
    in_a_storage=value(storage(name("os", "system"))),
    that_is_put_aside=value(name("os", "system") + b"q\0h\0" + row(HARM) + b"R"),
)
add(
    "an operation that no state dict needs",
    stack_global=value(text("os") + text("system") + b"\x93" + row(HARM) + b"R"),
    inst=value(b"(" + HARM + b"ios\nsystem\n"),
    obj=value(b"(" + FLOATS + HARM + b"o"),
    newobj=value(HOOKS[:-3] + b")\x81"),
    newobj_with_keywords=value(FLOATS + b")}\x92"),
    ext_1=value(b"\x82\x01"),
    ext_2=value(b"\x83\x01\0"),
    ext_4=value(b"\x84\x01\0\0\0"),
    persid=value(b"Pstorage\n"),
    long_of_4_GB=value(b"\x8b\xff\xff\xff\x7f"),
    text_of_16_EB=value(b"\x8d" + b"\xff" * 8),
    bytes=value(b"B\1\0\0\0a"),
    set=value(b"\x8f"),
    buffer=value(b"\x97"),
    pop=value(b"N0"),
    line_of_digits=value(b"I" + b"9" * 9000 + b"\n"),
)
add(
    "a call that no state dict needs",
    call_of_a_class=value(call(FLOATS, number(9))),
    call_of_text=value(call(text("os.system"), HARM)),
    call_of_a_dtype=value(call(name("torch", "float32"))),
    call_with_a_list=value(name("torch", "Size") + b"]R"),
    call_of_a_tensor=value(call(tensor(), HARM)),
)
add(
    "attributes of what is no dictionary",
    attributes_of_a_tensor=value(tensor() + table({"__class__": HARM}) + b"b"),
    attributes_of_a_class=value(FLOATS + b"}b"),
    attributes_that_are_text=value(HOOKS + HARM + b"b"),
    attributes_of_a_plain_table=value(b"}}b"),
)
add("not a pickle of protocol 2", protocol_4=whole(b"\x80\4N."), none=whole(b"N."))

# -- storages and tensors ------------------------------------------------------------

add(
    "not a reference to a storage",
    reference_by_text=value(text("storage") + b"Q"),
    reference_too_short=value(row(text("storage"), FLOATS) + b"Q"),
    reference_too_long=value(row(*[text("storage")] * 6) + b"Q"),
    reference_by_another_word=value(
        row(text("module"), FLOATS, text("0"), text("cpu"), number(12)) + b"Q"
    ),
    reference_without_a_size=value(storage(count=text("12"))),
    key_that_is_a_number=value(storage(key=number(0))),
)
add(
    "not a kind of storage",
    storage_of_tables=value(storage(name("collections", "OrderedDict"))),
    storage_of_a_dtype=value(storage(name("torch", "float32"))),
)
add(
    "not the key of a storage",
    key_that_is_a_path=value(storage(key=text("../../../etc/passwd"))),
    key_that_is_absolute=value(storage(key=text("/etc/passwd"))),
    key_of_other_digits=value(storage(key=text("\u0663"))),
    key_too_long=value(storage(key=text("1" * 999))),
    no_key=value(storage(key=text(""))),
)
add("a storage with a size below 0", storage_below_0=value(storage(count=number(-1))))
add(
    "has another size",
    storage_too_large=value(tensor(storage(count=number(2**60)))),
    storage_too_small=value(tensor(storage(count=number(13)))),
    storage_of_two_sizes=whole(
        program(
            table({"a": tensor(), "b": tensor(storage(count=number(10**9)), 10**8)})
        )
    ),
)
add("the member is missing", other_key=value(tensor(storage(key=text("7")))))
add(
    "a tensor beyond its storage",
    offset_beyond=value(tensor(offset=1)),
    offset_of_64_bits=value(tensor(offset=2**63 - 1)),
    shape_beyond=value(tensor(shape=(4, 4))),
    stride_beyond=value(tensor(strides=(5, 1))),
    stride_that_overflows=value(tensor(strides=(2**62, 2**62))),
    strides_that_wrap=value(tensor(shape=(2**32, 2**32), strides=(2**32, 1))),
)
add(
    "not strides of a tensor",
    stride_below_0=value(tensor(offset=11, strides=(-4, -1))),
    stride_of_80_bits=value(tensor(strides=(2**80, 1))),
)
add(
    "not shape of a tensor",
    shape_below_0=value(tensor(shape=(-3, 4))),
    shape_of_2000_bits=value(tensor(shape=(2**2000, 4))),
    too_many_axes=value(tensor(shape=[1] * 70, strides=[1] * 70)),
    shape_of_text=value(
        call(
            name("torch._utils", "_rebuild_tensor_v2"),
            storage(), number(0), row(HARM), row(HARM), b"\x89", HOOKS,
        )
    ),
)  # fmt: skip
add("not as many strides as axes", fewer_strides=value(tensor(strides=(1,))))
add("not the offset of a tensor", offset_below_0=value(tensor(offset=-1)))
add(
    "a tensor with other arguments",
    no_arguments=value(call(name("torch._utils", "_rebuild_tensor_v2"))),
    too_many_arguments=value(tensor(more=[b"}", b"}"])),
)
add(
    "a tensor without a storage",
    tensor_of_text=value(tensor(text("0"))),
    tensor_of_a_tensor=value(tensor(tensor())),
)
add(
    "a dtype that is not known",
    typed_storage_in_the_later_form=value(
        tensor(more=[name("torch", "uint16")], function=LATER)
    ),
    dtype_that_is_text=value(
        tensor(storage(UNTYPED), more=[text("uint16")], function=LATER)
    ),
    storage_without_a_dtype=value(tensor(storage(UNTYPED))),
)
add(
    "a conjugated or negated view",
    conjugated=value(tensor(more=[table({"conj": b"\x88"})])),
)
add(
    "a parameter without a tensor",
    parameter_of_a_parameter=value(
        call(PARAMETER, call(PARAMETER, tensor(), b"\x88", HOOKS), b"\x88", HOOKS)
    ),
    parameter_of_nothing=value(call(PARAMETER)),
)
add(
    "the arrays are too large for the file",
    expanded=value(tensor(shape=(2**40,), strides=(0,))),
    expanded_beyond_64_bits=value(tensor(shape=(2**62,) * 9, strides=(0,) * 9)),
    hidden_by_a_length_of_0=value(tensor(shape=(0, 2**62), strides=(0, 0))),
    many_that_are_expanded=whole(
        program(
            b"}(" + text("a") + tensor(shape=(2**20,), strides=(0,)) + b"q\0"
            + b"".join(text(f"{i}") + b"h\0" for i in range(99)) + b"u"
        )
    ),
)  # fmt: skip

# -- the machine ---------------------------------------------------------------------


def nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return program(opening * depth + tensor() + closing * depth)


def laughs(depth: int) -> bytes:
    """A list of two lists, which are the same one, of two lists, ..."""
    body = b"](" + tensor() + b"eq\0" + b"](h\0h\0eq\0" * depth
    # Each level is put aside; those below stay on the stack, inside of a list.
    return program(b"}" + text("w") + b"](" + body + b"es")


add(
    "the pickle ends early",
    cut_off=whole(program(table({"w": tensor()}))[:-3]),
    text_beyond_the_end=value(b"X\xff\xff\xff\xff"),
    no_end=whole(b"\x80\2}"),
    nothing=whole(b""),
)
add(
    "a value is missing",
    empty_stack=whole(b"\x80\2."),
    call_of_nothing=whole(program(b"R")),
    entries_of_nothing=whole(program(b"(u")),
    below_a_mark=whole(program(b"N(q\0")),
)
add("a mark is missing", no_mark=whole(program(b"}u")), no_tuple=whole(program(b"t")))
add(
    "more follows, or was left, at the end",
    values_left=whole(program(b"}}")),
    marks_left=whole(program(b"N(")[:-1] + b"N."),
    second_program=whole(program(b"}") + program(b"}")),
)
add("a value that was not put aside", unknown_memory=value(b"j\xff\xff\xff\xff"))
add("items for a value that is not a list", items_of_a_tuple=value(b")Na"))
add(
    "entries of what is no dictionary",
    entries_of_a_list=value(b"]NNs"),
    odd_entries=value(b"}(Nu"),
)
add(
    "a key that no array has",
    key_that_is_a_tuple=whole(program(b"}" + row(number(1)) + b"Ns")),
    key_that_is_nothing=whole(program(b"}NNs")),
    key_that_is_a_truth=whole(program(b"}\x88Ns")),
    key_that_is_a_float=whole(program(b"}G" + bytes(8) + b"Ns")),
    key_that_is_a_tensor=whole(program(b"}" + tensor() + b"Ns")),
    key_that_takes_for_ever_to_hash=whole(
        program(b"}" + b")" + b"q\0h\0\x86" * 90 + b"Ns")
    ),
)
add(
    "a key is there twice",
    key_twice=whole(program(b"}(" + (text("w") + b"N") * 2 + b"u")),
)
add(
    "two arrays have this name",
    number_and_text=whole(
        program(b"}(" + number(0) + tensor() + text("0") + tensor() + b"u")
    ),
)
add(
    "nested too deeply",
    in_itself=whole(program(b"}q\0(" + text("a") + b"h\0u")),
    deep_tables=whole(program((b"}" + text("a")) * 3000 + tensor() + b"s" * 3000)),
    deep_lists=whole(
        program(b"}" + text("a") + b"]" * 5000 + tensor() + b"a" * 5000 + b"s")
    ),
)
add("too many values", laughs=whole(laughs(60)))
add("a name too long", long_name=whole(program(table({"a" * 2000: tensor()}))))
add("a text that is not valid UTF-8", text_that_is_none=value(b"X\1\0\0\0\xff"))
add(
    "a name without an end, or too long",
    name_without_an_end=value(b"ctorch"),
    name_too_long=value(b"c" + b"a" * 9999 + b"\nb\n"),
)
add(
    "a call with other arguments",
    size_of_numbers=value(call(name("torch", "Size"), number(2))),
    table_of_pairs=value(call(name("collections", "OrderedDict"), b"]")),
)
add(
    "not a dictionary of tensors: found",
    a_tensor=whole(program(tensor())),
    a_list=whole(program(b"](" + tensor() + b"e")),
    a_number=whole(program(number(3))),
    a_record=whole(program(storage())),
)
add("no arrays in it", no_tensors=whole(program(table({"epoch": number(3)}))))

# -- the archive ---------------------------------------------------------------------

GOOD = program(table({"w": tensor()}))


def changed(change: Callable[[bytes], bytes], **options) -> Make:
    def make(path: Path) -> None:
        save(path, GOOD, **options)
        path.write_bytes(change(path.read_bytes()))

    return make


def bomb(path: Path) -> None:
    zeros = bytes(64 * 2**20)
    save(path, GOOD, {"0": zeros}, method=zipfile.ZIP_DEFLATED)


def overlapping(path: Path) -> None:
    """Two members whose sizes are, together, more than the file has."""
    save(path, GOOD, {"0": ITEMS.tobytes(), "1": bytes(2**16)})
    content = path.read_bytes()
    size = (2**16).to_bytes(4, "little")
    small = len(ITEMS.tobytes()).to_bytes(4, "little")
    # In the list at the end the first storage gets the sizes of the second one.
    start = content.rindex(b"archive/data/0") - 46 + 20
    assert content[start : start + 8] == small * 2
    path.write_bytes(content[:start] + size * 2 + content[start + 8 :])


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


add(
    "packed as PyTorch does not pack",
    deflated=whole(GOOD, method=zipfile.ZIP_DEFLATED),
    bomb=bomb,
    encrypted=changed(
        lambda c: c.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")
    ),
)
add("members that overlap", overlapping=overlapping)
add(
    "an array is there twice",
    member_twice=changed(lambda c: c.replace(b"data/1", b"data/0"),
                         storages={"0": ITEMS.tobytes(), "1": ITEMS.tobytes()}),
)  # fmt: skip
add(
    "not the name of a member",
    member_above=whole(GOOD, more={"archive/../../../tmp/harmed": b""}),
    member_of_the_root=whole(GOOD, more={"/tmp/harmed": b""}),
    member_of_windows=whole(GOOD, more={"archive/..\\harmed": b""}),
    folder_above=whole(GOOD, root=".."),
)
add("not an archive of `torch.save`", two_folders=whole(GOOD, more={"b/c": b""}))
add("not a byte order", byte_order=whole(GOOD, order=b"middle"))
add("the member is too large", byte_order_too_long=whole(GOOD, order=b"little" * 9))
add(
    "not a readable",
    cut_off_archive=changed(lambda c: c[:-30]),
    half_an_archive=changed(lambda c: c[: len(c) // 2]),
)
add(
    "the member cannot be read",
    other_items=changed(lambda c: c.replace(b"\0\0\x80?", b"\1\0\x80?")),
)
add(
    "an archive of another kind",
    no_pickle=changed(lambda c: c.replace(b"data.pkl", b"data.pkk")),
)
add(
    "a pickle",
    plain_pickle=lambda p: p.write_bytes(pickle.dumps(Harmful())),
    pickle_of_protocol_2=lambda p: p.write_bytes(pickle.dumps(Harmful(), 2)),
    before_zip=lambda p: p.write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Harmful(), 2)
    ),
    before_all=tar,
)
add("weights of an unknown kind", text_file=lambda p: p.write_text("import os"),
    pickle_of_protocol_0=lambda p: p.write_bytes(pickle.dumps(Harmful(), 0)),
    nothing_at_all=lambda p: p.write_bytes(b""))  # fmt: skip
add("a link, and links are not followed", link=lambda p: p.symlink_to("/etc/passwd"))
add("not a regular file", pipe=os.mkfifo)

# -- what happens --------------------------------------------------------------------

_seen: list[tuple[str, tuple[object, ...]]] = []
_is_watching = False
_WATCHED = set(
    "pickle os subprocess exec compile import ctypes socket open shutil".split()
)


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _is_watching and event.split(".")[0] in _WATCHED:
        _seen.append((event, arguments))


sys.addaudithook(_watch)


@contextlib.contextmanager
def watching():
    global _is_watching
    _seen.clear()
    _is_watching = True
    try:
        yield _seen
    finally:
        _is_watching = False


def is_own(opened: object, path: Path) -> bool:
    """Tell whether what is opened is that file, or has been opened already."""
    return isinstance(opened, int) or Path(str(opened)) == path


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """What Python reports while a file is read: it starts with the call."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "good.pt", GOOD)
    read(tmp_path / "good.pt")  # imports what is imported late

    def refusal(path: Path) -> str:
        with pytest.raises(InputError) as caught, watching() as seen:
            read(path)
        others = [e for e in seen if not (e[0] == "open" and is_own(e[1][0], path))]
        assert others == []
        return str(caught.value)

    return refusal


def test_the_good_file_is_read(tmp_path):
    save(tmp_path / "good.pt", GOOD)
    np.testing.assert_array_equal(read(tmp_path / "good.pt")["w"], ITEMS.reshape(3, 4))


def test_the_corpus_is_large():
    assert len(CORPUS) >= 100


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_file_is_refused_and_nothing_runs(case, tmp_path, watched):
    told, make = CORPUS[case]
    make(tmp_path / "hostile.pt")
    tracemalloc.start()
    try:
        message = watched(tmp_path / "hostile.pt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told in message and message.isprintable() and len(message) < 2000
    assert "hostile.pt" in message
    assert peak < MEMORY
    assert not (tmp_path / "harmed").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [b"]" * 2**22, b"}q\0" * 2**21,
     name("collections", "OrderedDict") + b"q\0" + b"h\0)R" * 2**20,
     b"".join(b"]r" + i.to_bytes(4, "little") for i in range(2**20))],
    ids=["lists", "tables", "ordered", "memory"],
)  # fmt: skip
def test_a_program_that_only_takes_memory_gets_little_of_it(body, tmp_path):
    save(tmp_path / "hostile.pt", program(body))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="too many operations|was left|is missing"):
            read(tmp_path / "hostile.pt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400 * 2**20


def test_a_table_that_is_there_very_often_is_looked_at_once(tmp_path):
    items = b"".join(text(f"{i}") + b"N" for i in range(2000))
    shared = b"}(" + text("w") + tensor() + items + b"uq\0"
    again = b"".join(text(f"a{i}") + b"h\0" for i in range(20_000))
    save(tmp_path / "hostile.pt", program(b"}(" + text("a") + shared + again + b"u"))
    assert list(read(tmp_path / "hostile.pt"))[:1] == ["w"]


@pytest.mark.parametrize("bound", ["MAX_OPERATIONS", "MAX_VALUES"])
def test_bounds_are_told(bound, tmp_path, monkeypatch):
    where = pt_pickle if hasattr(pt_pickle, bound) else names
    monkeypatch.setattr(where, bound, 5)
    pairs = {f"{index}": tensor() for index in range(9)}
    save(tmp_path / "hostile.pt", program(table(pairs)))
    with pytest.raises(InputError, match="too many .*: expected at most 5"):
        read(tmp_path / "hostile.pt")


MESSAGES = {
    "system": (
        "hostile.pt: data.pkl, byte 10: a name that no state dict has, and nothing is "
        "imported: found os.system (load it with torch, and save `model.state_dict()` "
        "with `torch.save`)"
    ),
    "offset beyond": (
        "hostile.pt: w: a tensor beyond its storage: expected at most 12 items, found "
        "item 12 (save `tensor.detach().clone()`)"
    ),
    "before zip": (
        "hostile.pt: a file of PyTorch before 1.6, or of its old format: a pickle "
        "(load it with torch, and save it anew: `torch.save(model.state_dict(), F)`)"
    ),
    "deflated": (
        "hostile.pt: archive/byteorder: packed as PyTorch does not pack (save it with "
        "`torch.save`, which does not compress)"
    ),
    "key that is nothing": (
        "hostile.pt: data.pkl, byte 5: a key that no array has: expected text or a "
        "whole number, found NoneType (load it with torch, and save "
        "`model.state_dict()` with `torch.save`)"
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CORPUS[case][1](Path("hostile.pt"))
    with pytest.raises(InputError) as caught:
        read("hostile.pt")
    assert str(caught.value) == MESSAGES[case]
