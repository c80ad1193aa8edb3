"""A PNG chart of a partition: the class balance of each hospital, or its size if the label is a quantity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

POSITIVE, NEGATIVE = "#b3552f", "#8fb4d9"
CLASSES = "viridis"
"""Colours of several classes, by matplotlib's name for them."""

MAX_NAME_LENGTH = 32
MAX_NAMES = 40
"""With more hospitals, bars have no names."""

MAX_LEGEND_COLUMNS = 10


def draw_partition(path: Path, title: str, hospitals: Sequence[Mapping[str, Any]]) -> None:
    """Draw one stacked bar per hospital: its patients of each class.

    Args:
        path: the PNG file.
        hospitals: entries of a manifest, with `name`, `rows`, and `labels` (rows by class; empty for a quantity), and
            with `patients` if patients may have several rows.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  # takes a second to import, and most runs draw nothing

    count, noun = len(hospitals), _counted(hospitals)
    named = count <= MAX_NAMES
    bars = _make_bars(hospitals)
    places = range(1, count + 1)
    figure = Figure(figsize=(8, 1.6 + 0.32 * count) if named else (10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if named:
        for bar in bars:
            axes.barh(places, bar.lengths, left=bar.starts, color=bar.colour, label=bar.name)
        axes.set_yticks(places, [entry["name"][:MAX_NAME_LENGTH] for entry in hospitals])
        axes.set_ylim(count + 0.6, 0.4)  # the first hospital on top
        axes.set_xlabel(noun)
        for place, entry in zip(places, hospitals, strict=True):
            is_binary = list(entry["labels"]) == ["0", "1"]
            note = f"{100 * entry['labels']['1'] / entry['rows']:.0f} % yes" if is_binary else str(entry["rows"])
            axes.annotate(note, (entry["rows"], place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.margins(x=0.12)
    else:
        # Antialiasing would leave a white gap between bars that are one pixel wide.
        for bar in bars:
            style = {"width": 1.0, "color": bar.colour, "label": bar.name, "antialiased": False}
            axes.bar(places, bar.lengths, bottom=bar.starts, **style)
        axes.set_xlabel("hospital")
        axes.set_ylabel(noun)
        axes.set_xlim(0.5, count + 0.5)
        axes.locator_params("x", integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.legend(loc="outside lower right", ncols=min(len(bars), MAX_LEGEND_COLUMNS), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


class _Bar(NamedTuple):
    """One class in all bars: its name and colour, and where it starts and how long it is at each hospital."""

    name: str
    colour: Any
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def _counted(hospitals: Sequence[Mapping[str, Any]]) -> str:
    """What the bars count, for people."""
    return "rows" if "patients" in hospitals[0] else "patients"


def _make_bars(hospitals: Sequence[Mapping[str, Any]]) -> list[_Bar]:
    codes, rows = list(hospitals[0]["labels"]), np.array([entry["rows"] for entry in hospitals])
    if codes == ["0", "1"]:
        codes, names, colours = ["1", "0"], ["yes", "no"], [POSITIVE, NEGATIVE]
    elif codes:
        from matplotlib import colormaps  # noqa: PLC0415  # as above

        names, colours = codes, list(colormaps[CLASSES](np.linspace(0, 1, len(codes))))
    else:
        return [_Bar(_counted(hospitals), NEGATIVE, np.zeros(len(hospitals), np.int64), rows)]
    lengths = np.array([[entry["labels"][code] for entry in hospitals] for code in codes])
    starts = np.cumsum(lengths, axis=0) - lengths
    return [_Bar(*bar) for bar in zip(names, colours, starts, lengths, strict=True)]
