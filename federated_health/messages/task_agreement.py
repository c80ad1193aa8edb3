"""What two parties must agree on before they train together: names -> words, compared one by one.

A side's agreement holds what its rows mean (see `Task.agreement`) and, over a stream, the protocol. It travels as JSON,
so that each side can name what differs.
"""

import json
from collections.abc import Mapping

MAX_CHARACTERS = 65_536


def find_difference(other: Mapping[str, str], server: Mapping[str, str], whose: str = "hospital") -> str | None:
    """The first term that differs, in words that either side may show; None where all are equal.

    Args:
        whose: the other terms are.
    """
    for name in dict.fromkeys([*server, *other]):
        if other.get(name) != server.get(name):
            return f"the {whose}'s {name} is {_quote(other.get(name))}; the server's is {_quote(server.get(name))}"
    return None


def write_agreement(agreement: Mapping[str, str]) -> str:
    """Terms as ASCII text; the inverse of `read_agreement`."""
    return json.dumps(agreement)


def read_agreement(text: str) -> dict[str, str]:
    """Terms as another side wrote them.

    Raises:
        ValueError: the text is too long, or not names and words in JSON.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError("too long")
    try:
        agreement = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(agreement, dict) or not all(isinstance(words, str) for words in agreement.values()):
        raise ValueError("not names and words")
    return agreement


def _quote(words: str | None) -> str:
    return "not declared" if words is None else words
