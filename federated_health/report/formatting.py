"""Formatting of numbers, intervals and long lists in reports."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from federated_health.data.columns import Label
from federated_health.data.tasks import Task
from federated_health.ml.bootstrap import LEVEL
from federated_health.ml.metrics import SMALL_CLASS
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Interval

T = TypeVar("T")

NOT_DEFINED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MAX_ROWS = 40  # rows of a table or a picture, and entries of a list, that are shown; the others are counted
LOW_SHARE = 0.5  # of the patients of a class, below which a sentence says how many the model recognises
SUPPRESSED = "Suppressed by the hospital, and left out of the federation's figures"
INTERVAL = f"{LEVEL * 100:g} % interval"


def figure(value: float | None) -> str:
    """A figure with three decimals, or a dash where it is not defined."""
    if value is None:
        return NOT_DEFINED
    return f"{round(value, 3) + 0.0:.3f}".replace("-", MINUS)  # + 0.0: no minus before a zero


def short_number(value: float) -> str:
    """A count, or a figure with three significant digits, for places with little room."""
    is_count = float(value).is_integer() and abs(value) < 1e8
    return with_minus(f"{value + 0.0:,.0f}" if is_count else f"{value:.3g}")  # + 0.0: no minus before a zero


def short_percent(share: float) -> str:
    """A share as a whole percentage without the sign. Only an exact 0 is written 0, and only an exact 1 is 100."""
    if 0 < share < 0.005 or 0.995 <= share < 1:
        return "<1" if share < 0.5 else ">99"
    return f"{100 * share:.0f}"


def percent_of(share: float | None) -> str:
    """A share as a whole percentage, or a dash where it is not defined."""
    return NOT_DEFINED if share is None else f"{100 * share:.0f} %"


def with_minus(number: str) -> str:
    """A number with a minus sign, and an exponent as people write it: 1e6, not 1e+06."""
    return re.sub(r"e\+?(-?)0*", r"e\1", number).replace("-", MINUS)


def with_interval(interval: Interval, *, signed: bool = False) -> str:
    """A figure with its interval, or a dash where it is not defined. `signed` also shows plus signs.

    The sign of a value that is rounded to zero tells on which side of 0 an interval ends.
    """
    if interval.value is None or interval.low is None or interval.high is None:
        return NOT_DEFINED
    sign, joint = "+" if signed else "", " to " if signed or interval.low < 0 else "\N{EN DASH}"
    ends = interval.value, interval.low, interval.high
    value, low, high = (f"{end + 0.0:{sign}.3f}".replace("-", MINUS) for end in ends)
    return f"{value} ({low}{joint}{high})"


def capitalise(text: str) -> str:
    """The text with a capital first letter, and all others as they are."""
    return f"{text[0].upper()}{text[1:]}"


def number_of(number: int, noun: str) -> str:
    """A number with its noun, as in 1 hospital, 1,000 hospitals."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_of(entries: Mapping[str, T], most: int = MAX_ROWS) -> tuple[dict[str, T], int]:
    """The first entries, and the number of the others."""
    return dict(list(entries.items())[:most]), max(0, len(entries) - most)


def largest_of(
    entries: Mapping[str, T], sizes: Mapping[str, int], most: int, noun: str = "hospital"
) -> tuple[dict[str, T], str]:
    """The entries of the hospitals with the most patients, in the given order, and a sentence that says which.

    Args:
        sizes: hospital -> number of patients, or 0 if it is not there.
    """
    if len(entries) <= most:
        return dict(entries), ""
    kept = set(sorted(entries, key=lambda name: -sizes.get(name, 0))[:most])
    sentence = f"Drawn: the {number_of(most, noun)} with the most patients, of {len(entries):,}."
    return {name: entry for name, entry in entries.items() if name in kept}, sentence


def list_some(parts: Iterable[str], joint: str = "; ") -> str:
    """The first MAX_ROWS parts, and the number of the others."""
    parts = list(parts)
    more = [f"and {len(parts) - MAX_ROWS:,} more"] if len(parts) > MAX_ROWS else []
    return joint.join([*parts[:MAX_ROWS], *more])


def today() -> str:
    """This day as pages show it, such as 1 December 2026."""
    now = datetime.now().astimezone()
    return f"{now.day} {now:%B %Y}"


def describe_rows(task: Task) -> str:
    """The note to figures of a task whose patients can have several rows; empty for other tasks."""
    return "A patient with several rows counts once per row." if task.patient else ""


def describe_rare(figures: Mapping[str, Any]) -> str:
    """The note to a table without the accuracy: what it would be worth; empty where it is not known.

    Args:
        figures: of all patients in the table.
    """
    share, accuracy = figures.get("prevalence"), figures.get("accuracy")
    if share is None or accuracy is None:
        return ""
    everybody = "nobody" if share < 0.5 else "everybody"
    return (
        f"{100 * share:.1f} % of these patients are positive: the average precision of guessing. Accuracy is "
        f"{figure(accuracy)}; predicting {everybody} positive has {figure(max(share, 1 - share))}."
    )


def describe_missed(label: Label, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence per class of which the model recognises fewer than half of a hospital's rows, if there are any.

    With differential privacy, numbers are noisy, and a share counts if it is below one half by twice its noise.

    Args:
        rows: name -> figures as in metrics.json; only a binary label has those that are asked for.
    """
    sentences = []
    for figure_name, title, code in (("recall", "sensitivity", 1), ("specificity", "specificity", 0)):
        found = {}
        for name, row in rows.items():
            share, prevalence, noise = row.get(figure_name), row.get("prevalence"), row.get(f"{figure_name}_noise")
            if share is None or prevalence is None:
                continue
            number = round(row["test_examples"] * (prevalence if code else 1 - prevalence))
            if number >= MIN_CLASS_SIZE and share + 2 * (noise or 0.0) < LOW_SHARE:
                about = "about " if noise else ""
                found[name] = f"{about}{round(share * number):,} of {number:,}", f"{title} {figure(share)}"
        patients = f"held-out patients with {label.name} = {code}"
        if len(found) == 1:
            ((name, (count, share_text)),) = found.items()
            sentences.append(f"At {name} the model recognises {count} {patients} ({share_text}).")
        elif found:
            listed = list_some((f"{name} ({', '.join(words)})" for name, words in found.items()), ", ")
            sentences.append(f"The model recognises fewer than half of the {patients} at {listed}.")
    return sentences


def describe_small_in_mean(hospitals: int | None) -> str:
    """The note to a mean of ROC-AUCs, marked with *, that includes hospitals with few patients of a class, or may."""
    which = {None: "may include hospitals", 1: "includes 1 hospital"}.get(hospitals, f"includes {hospitals} hospitals")
    return f"* The mean {which} with fewer than {SMALL_CLASS} patients of one class, whose ROC-AUC is very noisy."
