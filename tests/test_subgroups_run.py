"""Figures of subgroups of a whole run, at the server and at a hospital."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from federated_health.hospital import final_handlers, handlers, results
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.policy import Policy
from federated_health.hospital.results import save_results
from federated_health.ml.targets.binary import probability
from federated_health.names import METRICS, REPORT
from federated_health.report.page import Table
from federated_health.report.run_page import page_of_run
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_summary import summarise
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.example_run import blocks, rows, section, titles
from tests.support.targets import hospitals_of, task_of

TASK = replace(task_of("binary"), subgroups={"age": (45.0, 55.0)})
NAMES = ("north", "south", "east")
BANDS = {"under 45": (0, 45), "45 to under 55": (45, 55), "55 and over": (55, 200)}


class Finished(NamedTuple):
    """A finished run of three hospitals in this process."""

    contexts: dict[str, InMemoryHospital]
    figures: dict[str, Any]
    run: PlainRun


@cache
def finished_run(**settings: Any) -> Finished:
    hospitals = [replace(hospital, task=TASK) for hospital in hospitals_of("binary", held_out=120)]
    policies = {"south": Policy(releases_off=("subgroups",)) if settings.pop("south_is_silent", False) else None}
    contexts = {of.name: InMemoryHospital(of, policy=policies.get(of.name)) for of in hospitals}
    declared = Settings(hospitals=3, rounds=2, wait=0.2, appraisal=False, declared_task=TASK, **settings)
    run = PlainRun(InProcessTransport(handlers.answer, dict(contexts)), declared)
    return Finished(contexts, run.run(), run)


def scores_of(finished: Finished, name: str) -> np.ndarray[Any, Any]:
    """Log-odds of a hospital's held-out rows under the final model."""
    model = final_handlers.final_model(finished.contexts[name])
    assert model is not None
    config, weights = model
    hospital = finished.contexts[name].hospital
    return handlers.local_model(hospital, config.network, config.normalisation).score(weights)


def test_figures_are_those_of_the_final_model_on_the_group_s_rows() -> None:
    finished = finished_run()
    groups = finished.figures["subgroups"]
    found: Mapping[str, list[tuple[int, int]]] = {name: [] for name in BANDS}
    for hospital in NAMES:
        test, scores = finished.contexts[hospital].hospital.test, scores_of(finished, hospital)
        positive, predicted = test.labels == 1, probability(scores) >= finished.run.threshold
        for name, (low, high) in BANDS.items():
            of = (test.values[:, 0] >= low) & (test.values[:, 0] < high)
            figures = groups["hospitals"][hospital]["age"][name]
            assert figures["rows"] == of.sum()
            assert figures["sensitivity"]["value"] == pytest.approx(predicted[of & positive].mean())
            assert figures["specificity"]["value"] == pytest.approx(1 - predicted[of & ~positive].mean())
            assert figures["roc_auc"]["value"] == pytest.approx(roc_auc_score(positive[of], scores[of]))
            expected = probability(scores)[of].sum()
            assert figures["observed_expected"]["value"] == pytest.approx(positive[of].sum() / expected)
            found[name].append((int(predicted[of & positive].sum()), int((of & positive).sum())))
    for name, counts in found.items():
        true, positives = np.sum(counts, axis=0)
        figures = groups["federation"]["age"][name]
        assert figures["sensitivity"]["value"] == pytest.approx(true / positives)
        assert (figures["positives"], figures["hospitals"]) == (positives, 3)


def test_the_page_of_the_server_shows_each_group() -> None:
    finished = finished_run()
    page = page_of_run(summarise(finished.run, finished.figures, stopped=False, facts={}))

    assert {"Decision curves", "Subgroups"} <= set(titles(page))
    (table,) = blocks(section(page, "Subgroups"), Table)
    assert list(rows(table)) == [f"age: {name}" for name in BANDS]
    (of_hospitals,) = blocks(section(page, "Subgroups by hospital"), Table)
    assert len(of_hospitals.rows) == 9
    (limits,) = blocks(section(page, "Intended use and limits"), list)
    assert not any("No figures by age" in text for text in limits)


def test_a_hospital_without_subgroups_is_left_out() -> None:
    finished = finished_run(south_is_silent=True)
    groups = finished.figures["subgroups"]
    assert list(groups["hospitals"]) == ["east", "north"]
    assert {of["hospitals"] for of in groups["federation"]["age"].values()} == {2}
    assert finished.run.evaluations["south"].suppressed == {"subgroups": "switched off by its policy"}


def test_a_hospital_keeps_its_own_figures_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "save_final_model", lambda *_: None)
    finished = finished_run(south_is_silent=True)
    model = final_handlers.final_model(finished.contexts["south"])
    assert model is not None

    save_results(tmp_path, finished.contexts["south"], *model)

    groups = json.loads((tmp_path / METRICS).read_text())["subgroups"]
    assert list(groups["hospitals"]) == ["south"]
    assert "federation" not in groups
    report = (tmp_path / REPORT).read_text()
    assert '<section id="subgroups">' in report
    assert "subgroups-by-hospital" not in report
    assert "north" not in report


def test_a_task_without_subgroups_has_no_section() -> None:
    hospitals = {of.name: InMemoryHospital(of) for of in hospitals_of("binary")}
    settings = Settings(hospitals=3, rounds=1, wait=0.2, appraisal=False, declared_task=task_of("binary"))
    run = PlainRun(InProcessTransport(handlers.answer, dict(hospitals)), settings)
    figures = run.run()
    assert "subgroups" not in figures
    page = page_of_run(summarise(run, figures, stopped=False, facts={}))
    assert "Subgroups" not in titles(page)


def test_a_private_run_has_none_and_says_why() -> None:
    finished = finished_run(dp_epsilon=4.0)
    assert "subgroups" not in finished.figures
    page = page_of_run(summarise(finished.run, finished.figures, stopped=False, facts={}))
    (text,) = section(page, "Subgroups").blocks
    assert "differential privacy" in str(text)
    assert "Decision curves" not in titles(page)
