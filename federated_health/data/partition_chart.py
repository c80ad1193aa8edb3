"""A PNG chart of a partition: the class balance of each hospital."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POSITIVE, NEGATIVE = "#b3552f", "#8fb4d9"
MAX_NAME_LENGTH = 32
MAX_NAMES = 40
"""With more hospitals, bars have no names."""


def draw_partition(path: Path, title: str, hospitals: Sequence[Mapping[str, Any]]) -> None:
    """Draw one stacked bar per hospital: its patients with and without the label.

    Args:
        path: the PNG file.
        hospitals: entries of a manifest, with `name`, `rows`, and `labels` (rows by label).
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  # takes a second to import, and most runs draw nothing

    count = len(hospitals)
    named = count <= MAX_NAMES
    positive = [entry["labels"]["1"] for entry in hospitals]
    negative = [entry["labels"]["0"] for entry in hospitals]
    places = range(1, count + 1)
    figure = Figure(figsize=(8, 1.6 + 0.32 * count) if named else (10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if named:
        axes.barh(places, positive, color=POSITIVE, label="yes")
        axes.barh(places, negative, left=positive, color=NEGATIVE, label="no")
        axes.set_yticks(places, [entry["name"][:MAX_NAME_LENGTH] for entry in hospitals])
        axes.set_ylim(count + 0.6, 0.4)  # the first hospital on top
        axes.set_xlabel("patients")
        for place, entry in zip(places, hospitals, strict=True):
            share = f"{100 * entry['labels']['1'] / entry['rows']:.0f} % yes"
            axes.annotate(share, (entry["rows"], place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.margins(x=0.12)
    else:
        # Antialiasing would leave a white gap between bars that are one pixel wide.
        axes.bar(places, positive, width=1.0, color=POSITIVE, label="yes", antialiased=False)
        axes.bar(places, negative, width=1.0, bottom=positive, color=NEGATIVE, label="no", antialiased=False)
        axes.set_xlabel("hospital")
        axes.set_ylabel("patients")
        axes.set_xlim(0.5, count + 0.5)
        axes.locator_params("x", integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
