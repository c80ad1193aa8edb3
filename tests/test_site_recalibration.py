"""A hospital's recalibration on its way: measured, kept, disclosed, sent, validated, and saved in model files."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError
from federated_health.hospital import handlers
from federated_health.hospital.disclosure import disclose
from federated_health.hospital.policy import Policy
from federated_health.hospital.recalibration import kept_recalibration, recalibrate
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.ml.predictions import find_site, predict_columns, read_sites
from federated_health.ml.recalibration import MeasuredRecalibration, Recalibration, fit_recalibration
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Interval
from federated_health.report.saved_model import sites_of
from tests.support.example_run import benefit, evaluation
from tests.support.targets import task_of
from tests.test_disclosure import hospital_with
from tests.test_hospital_results import finished_run
from tests.test_messages import over_the_wire

MEASURED = MeasuredRecalibration(
    recalibration=Recalibration(
        intercept=Interval(value=1.23456, low=0.5, high=2.0), slope=Interval(value=0.75, low=0.5, high=0.9375)
    ),
    before={"log_loss": 0.34567, "brier": 0.125, "calibration_slope": 0.5, "calibration_intercept": 1.5},
    after={"log_loss": 0.25, "brier": 0.0625, "calibration_slope": None, "calibration_intercept": None},
)
WITH_LINE = replace(benefit(), recalibration=MEASURED)
INTERCEPT_ALONE = replace(MEASURED, recalibration=replace(MEASURED.recalibration, slope=None))
ROWS = 40


def read(content: RecordDict) -> Benefit:
    return Benefit.from_content(content, HEART_DISEASE, ROWS, ROWS)


def content_with(**changes: Any) -> RecordDict:
    """A valid message with these numbers of the recalibration changed; None leaves one out."""
    content = WITH_LINE.to_content()
    metrics = content.metric_records[METRICS]
    for name, value in changes.items():
        key = f"recalibration-{name.replace('_', '-')}"
        if value is None:
            del metrics[key]
        else:
            metrics[key] = value
    return content


# Over the wire


@pytest.mark.parametrize("measured", [MEASURED, INTERCEPT_ALONE, None], ids=["line", "intercept", "none"])
def test_a_recalibration_survives_the_wire(measured: MeasuredRecalibration | None) -> None:
    sent = replace(benefit(), recalibration=measured)
    assert read(over_the_wire(sent.to_content())).recalibration == measured


COEFFICIENTS = [f"{part}_{end}" for part in ("intercept", "slope") for end in ("value", "low", "high")]


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {key: value}
            for key in COEFFICIENTS
            for value in (101.0, -101.0, float("nan"), float("inf"), 1, [0.5], None)
        ),
        {"intercept_low": 1.5},
        {"intercept_high": 1.0},
        {"slope_value": 0.0, "slope_low": -1.0},
        {"slope_value": -0.5, "slope_low": -1.0},
        *({f"{side}_brier": value} for side in ("before", "after") for value in (-0.1, 1.1, float("nan"), None)),
        *({"after_log_loss": value} for value in (-0.1, 1e3, None)),
        *({"before_calibration_slope": value} for value in (101.0, float("nan"), 1)),
        *({"before_calibration_intercept": value} for value in (1e40, float("-inf"))),
    ],
    ids=str,
)
def test_a_malformed_recalibration_is_refused(changes: dict[str, Any]) -> None:
    read(content_with())
    with pytest.raises(MalformedMessageError):
        read(content_with(**changes))


def test_metrics_hold_the_recalibration_of_each_hospital() -> None:
    summary = summarise_benefits(
        {"north": WITH_LINE, "south": benefit()}, dict.fromkeys(("north", "south"), evaluation()), HEART_DISEASE
    )
    assert summary["joining"]["north"]["recalibration"] == {
        "intercept": {"value": 1.23456, "low": 0.5, "high": 2.0},
        "slope": {"value": 0.75, "low": 0.5, "high": 0.9375},
        "before": MEASURED.before,
        "after": MEASURED.after,
    }
    assert "recalibration" not in summary["joining"]["south"]


# What may leave


def disclosed(train: tuple[int, int], test: tuple[int, int] = (10, 10), *, public: bool = False) -> Benefit:
    content = replace(WITH_LINE, importance=np.ones(13), observed=np.zeros(13))
    policy = Policy(public=public)
    result: Benefit = disclose(content, hospital_with(train, test), policy)
    return result


@pytest.mark.parametrize("train", [(4, 36), (36, 4)])
def test_the_recalibration_of_few_training_patients_of_a_class_stays(train: tuple[int, int]) -> None:
    assert disclosed(train).recalibration is None
    assert disclosed(train).comparisons  # of the held-out patients, who are enough
    assert disclosed(train, public=True).recalibration == MEASURED


def test_a_recalibration_leaves_with_three_decimals_unless_the_data_are_public() -> None:
    sent = disclosed((20, 20)).recalibration
    assert sent is not None
    assert sent.recalibration.intercept == Interval(value=1.235, low=0.5, high=2.0)
    assert sent.recalibration.slope == Interval(value=0.75, low=0.5, high=0.938)
    assert sent.before["log_loss"] == 0.346
    assert disclosed((20, 20), public=True).recalibration == MEASURED


def test_no_recalibration_of_few_held_out_patients_leaves() -> None:
    assert disclosed((20, 20), (3, 17)).recalibration is None


# In a run


@pytest.mark.slow
def test_a_hospital_fits_to_training_rows_and_measures_on_held_out_ones() -> None:
    finished = finished_run("binary")
    context, config = finished.contexts["south"], finished.run.train_config()
    local = handlers.local_model(context.hospital, config.network, config.normalisation)
    train, test = context.hospital.train, context.hospital.test
    found = recalibrate(local, finished.run.weights)
    assert found is not None
    assert found.recalibration == fit_recalibration(local.score_training(finished.run.weights), train.labels, train.ids)
    risks = 1 / (1 + np.exp(-local.score(finished.run.weights).astype(float)))
    assert found.before["brier"] == pytest.approx(np.mean((risks - test.labels) ** 2))
    assert kept_recalibration(context) == found


@pytest.mark.slow
def test_other_kinds_of_labels_have_no_recalibration() -> None:
    for kind in ("classes", "number", "count"):
        finished = finished_run(kind)
        assert kept_recalibration(finished.contexts["south"]) is None
        assert not any("recalibration" in entry for entry in finished.figures["joining"].values())


# In model files


def test_the_sites_of_a_model_file_are_those_that_were_released() -> None:
    sites = sites_of({"north": MEASURED.to_json(), "south": INTERCEPT_ALONE.to_json()})
    assert sites == {"north": {"intercept": 1.23456, "slope": 0.75}, "south": {"intercept": 1.23456, "slope": None}}
    read_back = read_sites({"sites": sites}, "m.keras")
    np.testing.assert_allclose(read_back["north"].apply(np.array([2.0])), 0.75 * 2 + 1.23456)
    np.testing.assert_allclose(read_back["south"].apply(np.array([2.0])), 2 + 1.23456)


@pytest.mark.parametrize(
    "sites",
    [
        [],
        None,
        "north",
        {"North": {"intercept": 1.0, "slope": None}},
        {"north": []},
        {"north": {}},
        *({"north": {"intercept": value, "slope": None}} for value in (None, True, 1e3, float("nan"), "1", 10**400)),
        *({"north": {"intercept": 1.0, "slope": value}} for value in (0.0, -1.0, 1e3, float("inf"), "1", False)),
    ],
    ids=str,
)
def test_damaged_sites_of_a_model_file_are_refused(sites: Any) -> None:
    with pytest.raises(DataError, match="sites"):
        read_sites({"sites": sites}, "m.keras")


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_a_label_that_is_not_binary_has_no_sites(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Such a file was not written by a run; a column `risk` would be added to its predictions."""
    task = task_of(kind)
    outputs = np.full((2, target_of(task).outputs), -0.5)
    monkeypatch.setattr("federated_health.ml.predictions.predict", lambda *_: outputs)
    with pytest.raises(DataError, match=f"sites.*kind {kind}"):
        predict_columns(None, task, 0.5, np.zeros((2, len(task.columns))), INTERCEPT_ALONE.recalibration)


def test_an_unknown_site_is_refused_with_those_that_are_known() -> None:
    known = read_sites({"sites": {f"h{number:02}": {"intercept": 0.5, "slope": None} for number in range(30)}}, "m")
    with pytest.raises(DataError, match=r"h00.*and 10 more; got bern"):
        find_site(known, "bern", "m")
    with pytest.raises(DataError, match="holds no recalibration"):
        find_site(read_sites({}, "m"), "bern", "m")
