"""What a hospital keeps of a plain run: its own figures, as the server has them, and a report with nobody else's."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from federated_health.hospital import final_handlers, handlers, results
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.results import save_results
from federated_health.ml.networks import weights_hash
from federated_health.ml.targets.binary_figures import SCORE_FIGURES
from federated_health.ml.verdicts import Difference, judge
from federated_health.names import METRICS, REPORT
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.targets import hospitals_of, task_of
from tests.test_ledger_page import LINES, line

pytestmark = pytest.mark.slow

KINDS = ("binary", "classes", "number", "count")
NAMES = ("north", "south", "east")


class Finished(NamedTuple):
    """A finished run of three hospitals in this process."""

    contexts: dict[str, InMemoryHospital]
    figures: dict[str, Any]
    run: PlainRun


@cache
def finished_run(kind: str) -> Finished:
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals_of(kind)}
    settings = Settings(hospitals=3, rounds=2, wait=0.2, declared_task=task_of(kind))
    run = PlainRun(InProcessTransport(handlers.answer, dict(contexts)), settings)
    return Finished(contexts, run.run(), run)


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not written, which loads Keras in another process."""
    monkeypatch.setattr(results, "save_final_model", lambda *_: None)


def save(kind: str, folder: Path, sent: tuple[Path, int] | None = None, name: str = "south") -> tuple[Any, str]:
    """metrics.json and the report of one hospital."""
    context = finished_run(kind).contexts[name]
    model = final_handlers.final_model(context)
    assert model is not None
    assert save_results(folder, context, *model, sent) == "model.keras, metrics.json, report.html, tables/"
    return json.loads((folder / METRICS).read_text()), (folder / REPORT).read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hospital_s_figures_are_those_that_the_server_has_of_it(kind: str, tmp_path: Path) -> None:
    of_server = finished_run(kind).figures
    metrics, _ = save(kind, tmp_path)

    known = {key: value for key, value in of_server["hospitals"]["south"].items() if value is not None}
    own = metrics["hospitals"]["south"]
    assert own.keys() == known.keys()
    for name, value in known.items():  # the server has some from groups of scores only
        assert own[name] == (pytest.approx(value, abs=0.1) if name in SCORE_FIGURES else value), name
    entry, of_south = metrics["joining"].pop("south"), json.loads(json.dumps(of_server["joining"]["south"]))
    assert metrics["joining"] == {}
    for name, comparison in entry["comparisons"].items():  # the server adjusts its verdicts for three hospitals
        assert comparison.pop("verdict") == judge(Difference(**comparison["difference"])), name
        of_south["comparisons"][name].pop("verdict")
    assert {**entry, "verdict": ""} == {**of_south, "verdict": ""}
    assert metrics["observed"] == {"south": of_server["observed"]["south"]}
    assert "federation" not in metrics
    assert ("threshold" in metrics) == (kind == "binary")


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_shows_the_hospital_s_own_figures_and_no_other_hospital(kind: str, tmp_path: Path) -> None:
    finished = finished_run(kind)
    _, report = save(kind, tmp_path)

    assert "south in a federation" in report
    assert weights_hash(finished.run.weights) in report
    assert "Benefit of joining" in report
    assert not any(other in report for other in ("north", "east</", "federation</th>", "differential privacy</p>"))
    compared = "roc_auc" if kind in ("binary", "classes") else "mean_absolute_error"
    own, others = (finished.figures["hospitals"][name].get(compared) for name in ("south", "north"))
    assert own is None or f"<td>{own:.3f}{' *' if kind == 'classes' else ''}</td>" in report
    assert others is None or f"<td>{others:.3f}</td>" not in report


def test_no_file_holds_a_value_of_a_patient(tmp_path: Path) -> None:
    metrics, report = save("number", tmp_path)

    hospital = finished_run("number").contexts["south"].hospital
    values = [*hospital.train.values.ravel(), *hospital.test.values.ravel(), *hospital.test.labels]
    assert len(values) == 280  # 120 rows of 2 columns, and 40 labels
    assert not [value for value in values if f"{value:.3f}" in report or f"{value:.3f}" in json.dumps(metrics)]


def test_the_report_lists_what_left_in_this_run(tmp_path: Path) -> None:
    ledger, earlier = tmp_path / "egress-south.jsonl", line("evaluate.final", 0, None, 9)
    ledger.write_text(earlier + "".join(LINES))

    _, report = save("binary", tmp_path, (ledger, len(earlier)))

    assert "What left this hospital" in report
    assert "<td>5,120</td>" in report  # weights, by hand: 2 * 2,560
    assert "What each hospital sent" not in report


@pytest.mark.parametrize("content", [None, "", "age,sex\n63,1\n"])
def test_a_ledger_that_cannot_be_read_leaves_a_report_with_a_general_list(content: str | None, tmp_path: Path) -> None:
    ledger = tmp_path / "egress-south.jsonl"
    if content is not None:
        ledger.write_text(content)

    _, report = save("binary", tmp_path, (ledger, 0))

    assert "What each hospital sent" in report


def test_a_ledger_that_was_begun_anew_during_the_run_is_read_from_its_start(tmp_path: Path) -> None:
    ledger = tmp_path / "egress-south.jsonl"
    ledger.write_text("".join(LINES))

    _, report = save("binary", tmp_path, (ledger, 10**6))

    assert "<td>5,120</td>" in report
