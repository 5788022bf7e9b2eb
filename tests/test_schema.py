"""A type hint decides what a file may bring along."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linsey import schema
from linsey.errors import InputError
from linsey.schema import Between, Matching, conform, parse_json, read_json


@dataclasses.dataclass(frozen=True)
class Inner:
    size: Annotated[int, Between(0, 10)]


@dataclasses.dataclass(frozen=True)
class Outer:
    names: tuple[str, ...]
    inner: dict[str, Inner]
    rate: float = 0.5
    note: str | None = None


GOOD = {"names": ["a"], "inner": {"x": {"size": 3}}, "rate": 1}


def test_a_record_becomes_its_dataclass():
    found = conform(GOOD, Outer, file="f")
    assert found == Outer(("a",), {"x": Inner(3)}, 1.0)
    assert type(found.rate) is float


HEX = Annotated[str, Matching("[0-9a-f]{2}", "two hexadecimal digits")]
WRONG = [
    ({**GOOD, "inner": {"x": {"size": 11}}}, Outer, "inner.x.size"),
    ({**GOOD, "inner": {"x": {}}}, Outer, "inner.x.size"),
    ({**GOOD, "more": 1}, Outer, "more"),
    ({**GOOD, "names": ["a", 2]}, Outer, r"names\[1\]"),
    ({**GOOD, "note": 3}, Outer, "note"),
    (3, Outer, "a table"),
    (True, int, "an integer"),
    (1, bool, "true or false"),
    (10**400, float, "a finite number"),
    (float("inf"), Any, "a finite number"),
    ("\ud800", str, "Unicode"),
    ("a\0", Any, "null bytes"),
    ({"\ud800": 1}, Any, "Unicode"),
    ([1], tuple[int, int], "a list of 2"),
    ("abc", HEX, "two hexadecimal digits"),
    ("c", Literal["a", "b"], "one of a, b"),
    (True, Literal[1, 2], "one of 1, 2"),
    ([1] * 3, Annotated[list[int], Between(0, 2)], "length of 3"),
]


@pytest.mark.parametrize(("value", "hint", "told"), WRONG)
def test_what_differs_is_named(value, hint, told):
    with pytest.raises(InputError, match=told):
        conform(value, hint, file="f")


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', "NaN", "[Infinity]", "[" * 100_000, "1" * 10_000, "{", "\xff"],
)
def test_json_is_strict(text):
    with pytest.raises(InputError):
        conform(parse_json(text.encode("latin-1"), "f"), Any, file="f")


def test_what_is_larger_than_the_memory_is_refused(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(json, "loads", fail)
    with pytest.raises(InputError, match="memory"):
        parse_json(b"1", "f")
    monkeypatch.setattr(schema._Checker, "check", fail)
    with pytest.raises(InputError, match="memory"):
        conform(1, int, file="f")


def test_read_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"size": 4}))
    assert read_json(path, Inner, limit=100) == Inner(4)
    with pytest.raises(InputError, match="too large"):
        read_json(path, Inner, limit=5)
    assert conform("x/y", Path, file=None) == Path("x/y")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_any_value_conforms_or_is_an_input_error(value):
    for hint in (Outer, Any, dict[str, list[float]], int | list[str] | None):
        try:
            conform(value, hint, file="f")
        except InputError as error:
            assert str(error).isprintable()
