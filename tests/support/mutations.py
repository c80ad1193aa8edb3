"""Files that are damaged at random, from a seed."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

STRANGE: tuple[Any, ...] = (None, True, -1, 10**400, 1e308, "", "\ud800", "a" * 300, [], [[]], {}, {"a": []})
"""Values that a reader of JSON may not expect."""


def damaged_bytes(content: bytes, number: int, seed: int = 1) -> Iterator[bytes]:
    """Copies of a file, each with one to four damages: bytes changed, inserted, removed or repeated, or the end cut."""
    generator = random.Random(seed)
    for _ in range(number):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(damaged) + 1)
            length = generator.choice((1, 1, 2, 8, 64))
            match generator.randrange(6):
                case 0:
                    damaged[place : place + length] = generator.randbytes(length)
                case 1:
                    damaged[place:place] = generator.choice((b"\0", b"\xff\xff", b'"', b"\n", b"[" * 3000, b"9" * 5000))
                case 2:
                    del damaged[place : place + length]
                case 3:
                    damaged[place:place] = damaged[place : place + 4 * length]
                case 4:
                    bit = 1 << generator.randrange(8)
                    damaged[place : place + 1] = bytes(byte ^ bit for byte in damaged[place : place + 1])
                case _:
                    del damaged[place:]
        yield bytes(damaged)


def damaged_json(content: bytes, number: int, seed: int = 1) -> Iterator[bytes]:
    """Copies of a JSON text in which one value is another one, or is gone."""
    generator = random.Random(seed)
    whole = json.loads(content)
    for _ in range(number):
        damaged = copy.deepcopy(whole)
        parent, key = generator.choice(list(_places(damaged)))
        if generator.randrange(4):
            parent[key] = generator.choice(STRANGE)
        else:
            del parent[key]
        yield json.dumps(damaged).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value inside another one, as the outer one and the inner one's key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
