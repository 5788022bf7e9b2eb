"""Random damage: to bytes, and to the structure of what bytes mean."""

from __future__ import annotations

import json
from random import Random
from typing import Any

NUMBERS = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
# JSON, as text: some of it no JSON library would write.
LITERALS = [
    "null", "true", "0", "-1", "1.5", "1e308", "-1e308", "1e999", "NaN", "-Infinity",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "1" * 400,
    "1" * 5000, '""', '"x"', r'"\u0000"', r'"\u001b[2J"', r'"\ud800"', r'"\u202e"',
    '"../../../etc/passwd"', '"/etc/passwd"', '"state.safetensors"', '"[/b]"',
    '"O"', '"float32"', '"F64"', '"' + "a" * 5000 + '"', "[]", "{}", "[[]]", "[-1]",
    "[0, 100000000000000]", "[1" + ",1" * 40 + "]", '{"a": 1, "a": 2}',
    "[" * 150 + "]" * 150, "[" * 20000 + "]" * 20000, '{"a":' * 3000 + "1" + "}" * 3000,
    "[" + "0," * 3000 + "0]",
]  # fmt: skip
NAMES = ["", "\0", "\x1b[31m", "..", "../x", "/etc/passwd", "a" * 3000, "é", "\ud800",
         "__class__", "[red]", "step", "params/w", "x.npy", "\n"]  # fmt: skip


def scrambled(rng: Random, *seeds: bytes) -> bytes:
    """One of some byte strings with a few places damaged."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        other = rng.choice(seeds)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x1B))
        elif kind == 2:
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice(NUMBERS) % 256**size
            data[place : place + size] = number.to_bytes(size, order)
        elif kind == 3:
            del data[place : place + rng.choice((1, 2, 8, 100))]
        elif kind == 4:
            start = rng.randrange(len(other) + 1)
            data[place:place] = other[start : start + rng.choice((1, 4, 16, 200))]
        elif kind == 5:
            del data[place:]
        else:
            data[place:] = other[place:]
    return bytes(data)


def shaken(rng: Random, value: Any) -> str:
    """The JSON of a value with a few entries replaced, renamed, doubled or removed."""
    value = {"root": json.loads(json.dumps(value))}
    literals: dict[str, str] = {}

    def mark(literal: str) -> str:
        name = f"@{len(literals)}@"
        literals[json.dumps(name)] = literal
        return name

    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holder, key = rng.choice(list(_places(value)))
        kind = rng.randrange(6)
        if kind <= 2 or holder is value:
            holder[key] = mark(rng.choice(LITERALS))
        elif kind == 3:
            del holder[key]
        elif isinstance(holder, dict):
            moved = holder[key] if kind == 4 else holder.pop(key)
            holder[rng.choice((*NAMES, *holder, key))] = moved
            if kind == 4:  # the same key, twice
                other = mark(rng.choice(LITERALS))
                holder[mark(json.dumps(key))] = other
        else:
            holder *= rng.choice((0, 2, 50))
    text = json.dumps(value["root"])
    for name, literal in literals.items():
        text = text.replace(name, literal)
    return text


def _places(value: Any):
    """Where in a value something stands: the container and the key or index."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
