"""What joining brings each hospital, at a glance and in full, on the pages of runs and of studies.

`entries` are, by hospital, those of `joining` in metrics.json, or of a study (see `studies.benefit.comparison`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from federated_health.ml.metrics import LESS_IS_BETTER, SMALL_CLASS, describe_difference
from federated_health.ml.verdicts import Difference, Verdict, verdict_text
from federated_health.report import svg
from federated_health.report.cells import Cell
from federated_health.report.charts import MAX_CARDS, draw_forest
from federated_health.report.formatting import (
    INTERVAL,
    NOT_DEFINED,
    capitalise,
    figure,
    first_of,
    largest_of,
    list_some,
    number_of,
    with_interval,
)
from federated_health.report.page import SYMBOLS, Block, Card, Cards, Folded, Picture, Share, Strip, Table
from federated_health.report.panels import Panels
from federated_health.report.verdict_sentences import describe_verdict

MAX_FOREST = 22
"""Largest number of hospitals in the picture of the first screen."""

TONES = {
    Verdict.GAINS: "good",
    Verdict.MAY_GAIN: "good",
    Verdict.MIXED: "mixed",
    Verdict.UNCLEAR: "neutral",
    Verdict.MAY_LOSE: "bad",
    Verdict.LOSES: "bad",
    Verdict.UNDEFINED: "unknown",
}

Entries = Mapping[str, Mapping[str, Any]]


def verdict_strip(entries: Entries, *, of_one: bool = False) -> Strip:
    """The number of hospitals with each verdict, or the verdict of the one hospital that writes the page."""
    if of_one:
        ((name, entry),) = entries.items()
        part = Share(number=None, text=verdict_text(entry["verdict"]), tone=TONES[entry["verdict"]])
        return Strip(title=f"Benefit of joining for {name}", parts=[part])
    counts = Counter(entry["verdict"] for entry in entries.values())
    parts = [
        Share(number=counts[verdict], text=verdict_text(verdict), tone=TONES[verdict])
        for verdict in Verdict
        if counts[verdict]
    ]
    return Strip(title=f"Benefit of joining for {number_of(len(entries), 'hospital')}", parts=parts)


def name_of(hospital: str, entry: Mapping[str, Any], panels: Panels, figure: str) -> str:
    """A hospital's name in pictures of a figure; with the mark * where a class has few patients and that matters.

    It matters to how patients of the classes are told apart, and not to a mean loss over all patients.
    """
    is_noisy = entry.get("small") and panels.target.has_classes and figure not in LESS_IS_BETTER
    return f"{hospital} *" if is_noisy else hospital


def explain_marks(names: Iterable[str], panels: Panels) -> str:
    """What the mark * of `name_of` means, where a name has it."""
    few = capitalise(panels.target.describe_few(SMALL_CLASS))
    return f"* {few}: very noisy." if any(name.endswith(" *") for name in names) else ""


def forest(entries: Entries, sizes: Mapping[str, int], panels: Panels) -> Iterator[Picture]:
    """Differences of the federated and the own models, by each figure; nothing where none is defined.

    Args:
        sizes: hospital -> number of its patients; of many hospitals the largest are drawn.
    """
    shown, which = largest_of(entries, sizes, MAX_FOREST)
    drawings, alts, names = [], [], list[str]()
    for name in panels.target.comparisons:
        compared = {hospital: entry["comparisons"][name] for hospital, entry in shown.items()}
        differences = {hospital: Difference(**of["difference"]) for hospital, of in compared.items()}
        if all(difference.value is None for difference in differences.values()):
            continue
        quantity = f"{capitalise(panels.title(name))}, {describe_difference(name)}"
        rows = {
            name_of(hospital, shown[hospital], panels, name): (of, TONES[Verdict(compared[hospital]["verdict"])])
            for hospital, of in differences.items()
        }
        names += rows
        drawings.append(draw_forest(rows, quantity=quantity))
        figures = list_some(f"{hospital} {with_interval(of, signed=True)}" for hospital, of in differences.items())
        alts.append(f"{quantity}: {figures}.")
    if drawings:
        caption = (
            f"Difference between the federated and each hospital's own model on its held-out patients, with its "
            f"{INTERVAL}. Right of 0 the federated model is better. {explain_marks(names, panels)} {which}"
        )
        yield Picture(svg=svg.flow(drawings), alt=" ".join(alts), caption=" ".join(caption.split()))


def verdict_blocks(entries: Entries, panels: Panels, details: Mapping[str, str] | None = None) -> Iterator[Block]:
    """A card per hospital; of many hospitals a table, with the sentences folded.

    Args:
        details: hospital -> text after its figures.
    """
    is_table = len(entries) > MAX_CARDS
    texts = {
        name: " ".join(filter(None, _explain(entry, panels, (details or {}).get(name, ""), has_figures=not is_table)))
        for name, entry in entries.items()
    }
    if not is_table:
        yield Cards(
            [
                Card(name=name, verdict=verdict_text(entry["verdict"]), tone=TONES[entry["verdict"]], text=texts[name])
                for name, entry in entries.items()
            ]
        )
        return
    yield _verdict_table(entries, panels)
    shown, more = first_of(texts)
    rest = [f"And {number_of(more, 'more hospital')}, not shown."] if more else []
    yield Folded("In words, hospital by hospital", [shown, *rest])


def _explain(entry: Mapping[str, Any], panels: Panels, details: str, *, has_figures: bool) -> Iterator[str]:
    """Sentences on a hospital's verdict, with its differences if they are not in a table."""
    target = panels.target
    yield describe_verdict(target, entry)
    differences = {name: Difference(**of["difference"]) for name, of in entry["comparisons"].items()}
    known = [
        f"{describe_difference(name)} {panels.title(name)} {with_interval(difference, signed=True)}"
        for name, difference in differences.items()
        if difference.value is not None
    ]
    if known and has_figures:
        yield f"{capitalise('; '.join(known))}."
    yield details
    if entry["verdict"] != Verdict.UNDEFINED and entry["small"]:
        few = capitalise(target.describe_few(SMALL_CLASS))
        yield f"{few}: one patient more or less would change these figures considerably."
    yield from (f"Problem in this run: {text}" for text in entry.get("data_warnings", ()))


def _verdict_table(entries: Entries, panels: Panels) -> Table:
    """One row per hospital, with its verdict and what it rests on."""
    names = panels.target.comparisons
    rows = []
    for hospital, entry in entries.items():
        cells: list[Cell] = [hospital, f"{SYMBOLS[TONES[entry['verdict']]]} {verdict_text(entry['verdict'])}"]
        for name in names:
            of = entry["comparisons"][name]
            own, federated = (of[model]["value"] for model in ("own", "federated"))
            both = NOT_DEFINED if own is None else f"{figure(own)} \N{RIGHTWARDS ARROW} {figure(federated)}"
            cells += [Difference(**of["difference"]), both]
        rows.append(tuple(cells))
    columns = ["hospital", "verdict"]
    for name in names:
        columns += [f"{panels.title(name)}: difference ({INTERVAL})", "own \N{RIGHTWARDS ARROW} federated"]
    directions = "; ".join(f"{panels.title(name)} {describe_difference(name)}" for name in names)
    return Table(
        caption="Benefit of joining by hospital",
        columns=tuple(columns),
        rows=tuple(rows),
        words=("verdict",),
        note=f"Difference: {directions}. Above 0 the federated model is better.",
    )
