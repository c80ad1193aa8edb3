"""An audit's figures as rows of tables, the same on the page and on the console."""

from collections.abc import Mapping
from typing import Any

from federated_health.ml.metrics import Interval
from federated_health.report.formatting import NOT_DEFINED, number_of, percent_of, with_interval
from federated_health.studies.audit.figures import ATTACKS, ENCRYPTED
from federated_health.studies.audit.plan import AVERAGES, FINAL, UPDATES

TARGETS = {FINAL: "the final model", UPDATES: "one hospital's updates", AVERAGES: "the rounds' averages"}
NOTHING = NOT_DEFINED


def interval_of(content: Mapping[str, Any]) -> Interval:
    """An interval from its entry in audit.json."""
    return Interval(**content)


def strongest(privacy: Mapping[str, Any], target: str) -> Mapping[str, Any] | None:
    """The figures of the attack on one target that has the greatest ROC-AUC; None where there is nothing to attack.

    The greatest of several is a little too great, which errs on the patients' side.
    """
    attacks: Mapping[str, Any] = privacy["attacks"][target] or {}
    return max(attacks.values(), key=lambda found: found["roc_auc"]["value"] or 0.0, default=None)


def auc_rows(figures: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """ROC-AUC of the attacks, on the page and on the console: privacy -> what is attacked -> cell."""
    return _strengths(figures, "roc_auc")


def one_model_rows(figures: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The same of an attack on a single final model: privacy -> interval, and share of models -> cell."""
    rows = {}
    for privacy, one in figures.items():
        found = one["attacks"][FINAL][list(ATTACKS[FINAL])[-1]]
        undecided = found["undecided"]
        rows[privacy] = {
            "ROC-AUC, one model": with_interval(interval_of(found["one_model"])),
            "models like guessing": NOT_DEFINED if undecided is None else percent_of(undecided),
        }
    return rows


def rate_rows(figures: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The same of true-positive rates."""
    return _strengths(figures, "true_positive_rate")


def _strengths(figures: Mapping[str, Any], key: str) -> dict[str, dict[str, str]]:
    return {
        privacy: {
            words: with_interval(interval_of(found[key])) if (found := strongest(one, target)) else NOTHING
            for target, words in TARGETS.items()
        }
        for privacy, one in figures.items()
    }


def inversion_rows(figures: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Shares of columns recovered: privacy -> rows in the update -> cell; then what guesses recover."""
    rows = {
        privacy: {
            _rows(size): NOTHING if one["update"] is None else percent_of(one["update"])
            for size, one in of["inversion"].items()
        }
        for privacy, of in figures.items()
    }
    first = next(iter(figures.values()))["inversion"]
    if ENCRYPTED in figures:
        rows[f"{ENCRYPTED}: the average"] = {_rows(size): percent_of(one["average"]) for size, one in first.items()}
    rows["guess: typical patient"] = {_rows(size): percent_of(one["typical"]) for size, one in first.items()}
    rows["guess: random patients"] = {_rows(size): percent_of(one["random"]) for size, one in first.items()}
    return rows


def _rows(size: str) -> str:
    return number_of(int(size), "row")
