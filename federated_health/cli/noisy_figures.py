"""Figures of runs with differential privacy in the terminal."""

from collections.abc import Mapping
from typing import Any

from federated_health.cli import tables
from federated_health.ml.noisy_evaluation import NOISE, fixed_threshold
from federated_health.ml.targets import Target


def print_noisy_figures(figures: Mapping[str, Mapping[str, Any]], target: Target[Any]) -> None:
    """Print figures by name, each followed by a line with their noise."""
    rows: dict[str, Mapping[str, Any]] = {}
    chosen, others = tables.choose_figures(figures, list(figures.values())[-1], target)
    shown = {key for row in chosen.values() for key, value in row.items() if value is not None}
    for name, row in figures.items():
        rows[name] = {key: value for key, value in chosen[name].items() if key in shown}
        rows[f"\N{PLUS-MINUS SIGN} {name}"] = {
            key.removesuffix(NOISE): round(value) if "examples" in key else round(value, 3)  # as wide as the figures
            for key, value in row.items()
            if key.endswith(NOISE) and key.removesuffix(NOISE) in shown
        }
    notes = [
        *others,
        *([f"Predicted positive: a risk of at least {fixed_threshold(target)}."] if target.has_threshold else []),
    ]
    notes.append(
        "All are computed from counts with the noise of differential privacy; \N{PLUS-MINUS SIGN} is its standard "
        "deviation."
    )
    tables.print_figures("Figures on held-out patients", rows, "\n".join(notes))
