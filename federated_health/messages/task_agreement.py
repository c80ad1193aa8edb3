"""What two parties must agree on before they train together: names -> words, compared one by one.

A side's terms hold what its rows mean (see `Task.terms`) and, over a stream, the protocol. They travel as JSON, so that
each side can name what differs.
"""

import json
from collections.abc import Mapping

MOST_CHARACTERS = 65_536


def find_difference(other: Mapping[str, str], server: Mapping[str, str], whose: str = "hospital") -> str | None:
    """The first term that differs, in words that either side may show; None where all are equal.

    Args:
        whose: the other terms are.
    """
    for name in dict.fromkeys([*server, *other]):
        if other.get(name) != server.get(name):
            return f"the {whose}'s {name} is {_quote(other.get(name))}; the server's is {_quote(server.get(name))}"
    return None


def write_terms(terms: Mapping[str, str]) -> str:
    """Terms as ASCII text; the inverse of `read_terms`."""
    return json.dumps(terms)


def read_terms(text: str) -> dict[str, str]:
    """Terms as another side wrote them.

    Raises:
        ValueError: the text is too long, or not names and words in JSON.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    try:
        terms = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(terms, dict) or not all(isinstance(words, str) for words in terms.values()):
        raise ValueError("not names and words")
    return terms


def _quote(words: str | None) -> str:
    return "not declared" if words is None else words
