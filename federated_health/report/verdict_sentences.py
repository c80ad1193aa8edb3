"""Sentences on what a hospital gains by joining, for pages and terminals."""

from collections.abc import Iterator, Mapping
from typing import Any

from federated_health.ml.metrics import figure_title
from federated_health.ml.targets import Target
from federated_health.ml.verdicts import BETTER, WORSE, Verdict
from federated_health.report.formatting import capitalise, with_minus

MIN_FAULT = 0.1
"""Smallest deviation of a calibration intercept from 0, or of a slope from 1, that explains less accurate risks."""

MIN_LONE_FAULT = 0.5
"""The same of risks that are less accurate, but not clearly so: odds are wrong by a factor of 1.6."""

_PREDICTIONS = {"binary": "risks", "classes": "probabilities"}
"""What a model gives a patient, in the plural, by the kind of label; predictions of other kinds."""

_OWN = "the hospital's own model"


def describe_verdict(target: Target[Any], entry: Mapping[str, Any]) -> str:
    """What the verdicts on a hospital mean, in one to three plain sentences.

    Args:
        entry: of the hospital, in `joining` of metrics.json or among the hospitals of evidence.json: its `comparisons`
            with the verdict on each figure, and `calibration` of both models where it is known.
    """
    known = {name: of for name, of in entry["comparisons"].items() if of["verdict"] != Verdict.UNDEFINED}
    if not known:
        return f"{capitalise(target.no_verdict)}: too few for a verdict."
    clear, perhaps, unclear = (
        {name: of for name, of in known.items() if of["verdict"] in verdicts}
        for verdicts in ((BETTER[0], WORSE[0]), (BETTER[1], WORSE[1]), (Verdict.UNCLEAR,))
    )
    predictions = _PREDICTIONS.get(target.label.kind, "predictions")
    sentences = [_difference(of, predictions, entry, is_clear=of is clear) for of in (clear, perhaps) if of]
    if sentences:
        sentences += [_open_question(name, of, predictions) for name, of in unclear.items()]
    else:
        sentences.append(_no_difference(unclear, predictions))
    if faults := _lone_faults(entry):
        sentences.append(f"On these patients, the federated model's {predictions} are {' and '.join(faults)}.")
    if perhaps:
        which = "Both differences are" if len(perhaps) > 1 else f"The difference of the {figure_title(*perhaps)} is"
        sentences.append(f"{which} clear only without the adjustment for the number of hospitals.")
    return " ".join(sentences)


def has_news(entry: Mapping[str, Any]) -> bool:
    """Whether the sentences say more than that there is no clear difference, or that patients are too few."""
    return entry["verdict"] not in (Verdict.UNCLEAR, Verdict.UNDEFINED) or bool(_lone_faults(entry))


def _difference(
    comparisons: Mapping[str, Mapping[str, Any]], predictions: str, entry: Mapping[str, Any], *, is_clear: bool
) -> str:
    """In which respects the federated model is better or worse, or may be."""
    text, last = "", None
    ranks, are = ("ranks", "are") if is_clear else ("may rank", "may be")
    for name, comparison in comparisons.items():
        gains, values = comparison["verdict"] in BETTER, _values(name, comparison)
        if _is_ranking(name):
            text = f"The federated model {ranks} patients {'better' if gains else 'worse'} than {_OWN} ({values})"
        else:
            quality = "more accurate" if gains else "less accurate"
            if text:
                text += f"{', and' if gains is last else ', but'} its {predictions} {are} {quality} ({values})"
            else:
                text = f"The federated model's {predictions} {are} {quality} than those of {_OWN} ({values})"
            if faults := [] if gains else list(_faults(entry.get("calibration", {}), MIN_FAULT)):
                text += f": they are {' and '.join(faults)}"
        last = gains
    return f"{text}."


def _no_difference(unclear: Mapping[str, Mapping[str, Any]], predictions: str) -> str:
    subjects = [
        f"{'ranking patients' if _is_ranking(name) else f'the accuracy of {predictions}'} ({_values(name, comparison)})"
        for name, comparison in unclear.items()
    ]
    where = f"neither in {' nor in '.join(subjects)}" if len(subjects) > 1 else f"in {subjects[0]}"
    return f"No clear difference between the federated model and {_OWN}{',' if len(subjects) > 1 else ''} {where}."


def _open_question(name: str, comparison: Mapping[str, Any], predictions: str) -> str:
    question = "it ranks patients better or worse"
    if not _is_ranking(name):
        question = f"its {predictions} are more or less accurate"
    return f"Whether {question} is not clear ({_values(name, comparison)})."


def _lone_faults(entry: Mapping[str, Any]) -> list[str]:
    """What is wrong with risks that are less accurate, but not clearly so."""
    of_risks = [comparison for name, comparison in entry["comparisons"].items() if not _is_ranking(name)]
    if all(of["verdict"] == Verdict.UNCLEAR and of["difference"]["value"] < 0 for of in of_risks):
        return list(_faults(entry.get("calibration", {}), MIN_LONE_FAULT))
    return []


def _faults(calibration: Mapping[str, Mapping[str, float | None]], minimum: float) -> Iterator[str]:
    """What is wrong with the risks of the federated model, and less or not at all with those of the own one."""
    if not calibration:
        return
    for name, ideal, sign, below, above in (
        ("intercept", 0.0, "+", "too high", "too low"),
        ("slope", 1.0, "", "too extreme", "not extreme enough"),
    ):
        value, of_own = calibration["federated"][name], calibration["own"][name]
        own_fault = 0.0 if of_own is None else abs(of_own - ideal)
        if value is not None and abs(value - ideal) >= minimum and abs(value - ideal) > own_fault:
            shown, other = (with_minus(f"{number or 0.0:{sign}.2f}") for number in (value, of_own))
            known = "" if of_own is None else f", own model {other}"
            yield f"{below if value < ideal else above} (calibration {name} {shown}{known})"


def _is_ranking(name: str) -> bool:
    return name == "roc_auc"


def _values(name: str, comparison: Mapping[str, Any]) -> str:
    """Both models' figures, with as many decimals as a clear difference needs."""
    values = [comparison[model]["value"] for model in ("federated", "own")]
    decimals = 3
    if comparison["verdict"] != Verdict.UNCLEAR:
        decimals = next((some for some in (3, 4, 5) if len({round(value, some) for value in values}) == 2), 3)
    federated, own = (f"{value:.{decimals}f}" for value in values)
    return f"{figure_title(name)} {federated} against {own}"
