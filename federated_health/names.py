"""Names of hospitals, their node ids, and names of a run's files."""

import re
import unicodedata
from hashlib import sha256

HOSPITAL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

SETTINGS, ROUNDS, METRICS, MODEL, REPORT = "settings.json", "rounds.csv", "metrics.json", "model.keras", "report.html"
"""Files of a run."""

FEDERATION = "federation"
"""Stands for all hospitals together in tables and files, so no hospital may be called so."""


def is_hospital_name(name: str) -> bool:
    """Whether it is 1 to 63 lower-case ASCII letters, digits and hyphens, and not `federation`."""
    return name != FEDERATION and HOSPITAL_NAME.fullmatch(name) is not None


def hospital_name_from(words: str) -> str:
    """A hospital's name made of what people call it, such as va-long-beach of VA Long Beach; empty where there is none.

    Letters lose their accents; whatever else is not a letter or a digit becomes a hyphen.
    """
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:63].strip("-")
    return name if is_hospital_name(name) else ""


def node_id_of(name: str) -> int:
    """A hospital's Flower node id, below 2**63: a function of its name, so that it is the same in every run."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1 | 2


def printable(text: str, longest: int = 200) -> str:
    """A stranger's words as they may be shown: one line, no control characters, not too long."""
    return "".join(character if character.isprintable() else "?" for character in text[:longest])
