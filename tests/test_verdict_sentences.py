"""What pages and the terminal say a hospital gains by joining, in sentences."""

import itertools
from typing import Any

import numpy as np
import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.content import Evaluation
from federated_health.ml.calibration import calibration
from federated_health.ml.intervals import compare_models
from federated_health.ml.metrics import LESS_IS_BETTER
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Verdict
from federated_health.report.verdict_sentences import describe_verdict, has_news
from tests.support.known_truth import COMBINED, HeldOut, Truth, simulate_federation
from tests.support.targets import task_of

TARGET = target_of(HEART_DISEASE)
GAINS, UNCLEAR, LOSES, UNDEFINED = Verdict.GAINS, Verdict.UNCLEAR, Verdict.LOSES, Verdict.UNDEFINED
BETTER, WORSE, WHETHER = "ranks patients better than", "ranks patients worse than", "Whether it ranks"
ACCURATE, INACCURATE, WHETHER_ACCURATE = "are more accurate", "are less accurate", "Whether its risks"


def comparison(figure: str, verdict: Verdict, p_value: float = 0.5) -> dict[str, Any]:
    """A comparison with this verdict; without one, the federated model is a little worse."""
    if verdict == UNDEFINED:
        nothing = {"value": None, "low": None, "high": None}
        return {"verdict": verdict, "own": nothing, "federated": nothing, "difference": {**nothing, "p_value": None}}
    value = 0.1 if verdict == GAINS else -0.1 if verdict == LOSES else -0.03
    federated = 0.5 - value if figure in LESS_IS_BETTER else 0.5 + value
    return {
        "verdict": verdict,
        "own": {"value": 0.5},
        "federated": {"value": federated},
        "difference": {"value": value, "p_value": 0.001 if verdict in (GAINS, LOSES) else p_value},
    }


def entry(kind: str, *verdicts: Verdict, **more: Any) -> dict[str, Any]:
    comparisons = {name: comparison(name, of) for name, of in zip(comparisons_of(kind), verdicts, strict=True)}
    return {"verdict": Verdict.UNCLEAR, "comparisons": comparisons, **more}


def comparisons_of(kind: str) -> tuple[str, ...]:
    return target_of(task_of(kind)).comparisons


def entries_of(federation: dict[str, HeldOut]) -> dict[str, Any]:
    """As in metrics.json, of a run with these hospitals."""
    nothing = np.zeros(len(HEART_DISEASE.columns))
    benefits, evaluations = {}, {}
    for name, rows in federation.items():
        benefits[name] = Benefit(
            comparisons=compare_models(TARGET, rows.federated, rows.own, rows.labels),
            calibration={
                "own": calibration(rows.own, rows.labels),
                "federated": calibration(rows.federated, rows.labels),
            },
            importance=nothing,
            observed=nothing,
        )
        evaluations[name] = Evaluation(counts=TARGET.measure(rows.federated, rows.labels, 0.5))
    joining: dict[str, Any] = summarise_benefits(benefits, evaluations, HEART_DISEASE)["joining"]
    return joining


WORDS = {
    Truth.HELPS: (BETTER, ACCURATE),
    Truth.HARMS_RISKS: (INACCURATE, "too high (calibration intercept \N{MINUS SIGN}1.", WHETHER),
    Truth.CHANGES_NOTHING: ("No clear difference",),
}


@pytest.mark.parametrize("truth", Truth)
def test_the_sentence_is_right_where_the_truth_is_known(truth: Truth) -> None:
    entries = entries_of(simulate_federation(truth))

    assert len(entries) == 3
    for of in entries.values():
        sentence = describe_verdict(TARGET, of)
        assert of["verdict"] == COMBINED[truth]
        assert {words for group in WORDS.values() for words in group if words in sentence} == set(WORDS[truth])
        assert has_news(of) is (truth != Truth.CHANGES_NOTHING)


@pytest.mark.parametrize(
    ("ranking", "accuracy", "words"),
    [
        (GAINS, GAINS, (BETTER, "and its risks are more accurate")),
        (GAINS, UNCLEAR, (BETTER, WHETHER_ACCURATE)),
        (GAINS, LOSES, (BETTER, "but its risks are less accurate")),
        (UNCLEAR, GAINS, (WHETHER, "The federated model's risks are more accurate")),
        (UNCLEAR, UNCLEAR, ("No clear difference", "ranking patients (ROC-AUC", "accuracy of risks (Brier score")),
        (UNCLEAR, LOSES, (WHETHER, "The federated model's risks are less accurate")),
        (LOSES, GAINS, (WORSE, "but its risks are more accurate")),
        (LOSES, UNCLEAR, (WORSE, WHETHER_ACCURATE)),
        (LOSES, LOSES, (WORSE, "and its risks are less accurate")),
        (UNDEFINED, LOSES, ("The federated model's risks are less accurate",)),
    ],
)
def test_a_sentence_has_the_verdict_on_both_figures(ranking: Verdict, accuracy: Verdict, words: tuple[str]) -> None:
    sentence = describe_verdict(TARGET, entry("binary", ranking, accuracy))

    assert all(of in sentence for of in words)
    said = {BETTER, WORSE, WHETHER, ACCURATE, INACCURATE, WHETHER_ACCURATE}
    assert {of for of in said if of in sentence} == {of for of in said if any(of in part for part in words)}


VERDICTS = (GAINS, UNCLEAR, LOSES)


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [(kind, of) for kind in ("binary", "classes") for of in itertools.product(VERDICTS, VERDICTS)]
    + [(kind, (of,)) for kind in ("number", "count") for of in VERDICTS],
)
def test_a_sentence_names_each_figure_with_both_values(kind: str, verdicts: tuple[Verdict, ...]) -> None:
    of, titles = entry(kind, *verdicts), {"binary": "Brier score", "classes": "log-loss"}
    titles |= {"number": "mean absolute error", "count": "mean deviance"}

    sentence = describe_verdict(target_of(task_of(kind)), of)

    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert "  " not in sentence
    for name, part in of["comparisons"].items():
        title = "ROC-AUC" if name == "roc_auc" else titles[kind]
        assert f"({title} {part['federated']['value']:.3f} against 0.500)" in sentence
    noun = {"binary": "risks", "classes": "probabilities"}.get(kind, "predictions")
    assert noun in sentence
    assert ("ranks patients" in sentence) is (kind in ("binary", "classes") and set(verdicts) != {UNCLEAR})


@pytest.mark.parametrize("kind", ["binary", "classes", "number", "count"])
def test_too_few_patients_are_named(kind: str) -> None:
    target, of = target_of(task_of(kind)), entry(kind, *[UNDEFINED] * len(comparisons_of(kind)))

    assert target.no_verdict.lower() in describe_verdict(target, of).lower()
    assert not has_news({**of, "verdict": UNDEFINED})


def calibrations(intercept: float | None, slope: float | None, own: float | None = 0.0) -> dict[str, Any]:
    return {"federated": {"intercept": intercept, "slope": slope}, "own": {"intercept": own, "slope": 1.0}}


@pytest.mark.parametrize(
    ("known", "faults"),
    [
        (calibrations(1.71, 1.0), {"too low"}),
        (calibrations(-0.4, 1.0), {"too high"}),
        (calibrations(0.0, 0.6), {"too extreme"}),
        (calibrations(0.0, 1.5), {"not extreme enough"}),
        (calibrations(0.4, 0.6), {"too low", "too extreme"}),
        (calibrations(0.05, 0.95), set()),
        (calibrations(0.4, None), {"too low"}),
        (calibrations(None, None), set()),
        (calibrations(0.4, 1.0, own=None), {"too low"}),
        (calibrations(0.4, 1.0, own=-0.5), set()),  # the own model's are as wrong
    ],
)
def test_less_accurate_risks_are_explained_by_their_calibration(known: dict[str, Any], faults: set[str]) -> None:
    sentence = describe_verdict(TARGET, entry("binary", UNCLEAR, LOSES, calibration=known))

    assert {of for of in ("too low", "too high", "too extreme", "not extreme enough") if of in sentence} == faults
    assert "too" not in describe_verdict(TARGET, entry("binary", UNCLEAR, GAINS, calibration=known))


def test_risks_that_are_far_off_are_named_without_a_clear_difference() -> None:
    """They are, if the Brier score is worse at all."""
    far, near = (entry("binary", UNCLEAR, UNCLEAR, calibration=calibrations(of, 1.0)) for of in (1.7, 0.3))
    better = entry("binary", UNCLEAR, UNCLEAR, calibration=calibrations(1.7, 1.0))
    better["comparisons"]["brier"]["difference"]["value"] = 0.01

    assert "risks are too low (calibration intercept +1.70, own model +0.00)." in describe_verdict(TARGET, far)
    assert has_news(far)
    for of in (near, better):
        assert "too low" not in describe_verdict(TARGET, of)
        assert not has_news(of)


def test_figures_of_a_clear_difference_are_never_the_same() -> None:
    of = entry("binary", UNCLEAR, GAINS)
    for model, value in (("federated", 0.09661), ("own", 0.09672)):
        of["comparisons"]["brier"][model]["value"] = value

    assert "Brier score 0.0966 against 0.0967" in describe_verdict(TARGET, of)


def test_a_difference_that_is_clear_before_the_adjustment_is_named() -> None:
    assert "adjustment" not in describe_verdict(TARGET, entry("binary", UNCLEAR, UNCLEAR))

    text = describe_verdict(TARGET, entry("binary", UNCLEAR, Verdict.MAY_LOSE))

    assert "risks may be less accurate" in text
    (last,) = [part for part in text.split(". ") if "adjustment" in part]
    assert "Brier score" in last
    assert "ROC-AUC" not in last
    assert "Both" in describe_verdict(TARGET, entry("binary", Verdict.MAY_GAIN, Verdict.MAY_GAIN))
