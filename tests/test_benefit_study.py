"""`python -m federated_health evidence`: the requests that it refuses, and the files that it writes."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from federated_health.cli import studies
from federated_health.cli.tables import difference
from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.task_writing import write_task
from federated_health.errors import RunError
from federated_health.ml.metrics import LESS_IS_BETTER
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import verdict_text
from federated_health.studies.benefit import benefit_study, training_setups
from federated_health.studies.benefit.benefit_study import FILES
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.journal import JOURNAL
from federated_health.studies.benefit.training_setups import EvaluationProtocol, Fit, FitResult
from tests.support.cohorts import patients, write_tables
from tests.support.power_cuts import nothing_lost
from tests.support.script_calls import RunScript, assert_refused
from tests.support.studies import Study, made_up_result, study_of
from tests.support.targets import task_of, write_dataset
from tests.test_benefit_page import LABELS, score


@pytest.fixture
def evidence(run_script: RunScript) -> RunScript:
    """Runs the subcommand with arguments in a folder of its own."""
    return partial(run_script, "federated-health", "evidence")


@pytest.fixture
def never_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was trained")

    monkeypatch.setattr(benefit_study, "run_fits", refuse)


def test_a_study_takes_the_training_settings_of_the_task(
    evidence: RunScript, hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocols: list[EvaluationProtocol] = []

    def stop(_: object, protocol: EvaluationProtocol, *__: object, **___: object) -> None:
        protocols.append(protocol)
        raise RunError("it is not trained here")

    monkeypatch.setattr(benefit_study, "run_fits", stop)
    Path("task.toml").write_text(write_task(replace(HEART_DISEASE, training={"rounds": 7, "l2": 0.5})))
    assert_refused(evidence("--data", hospitals_folder, "--task-file", "task.toml", "--l2", 0.1), 1, "not trained")
    (settings,) = [protocol.settings for protocol in protocols]
    assert (settings.rounds, settings.l2, settings.local_epochs) == (7, 0.1, 5)


# Refused requests


@pytest.mark.usefixtures("never_fitted")
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--folds 1", 2, ["folds", "at least 2", "got 1"]),
        ("--folds 0", 2, ["--folds", "'0'"]),
        ("--folds 295", 2, ["folds", "at most 293", "second largest", "got 295"]),
        ("--repeats 1001", 2, ["repeats", "1,000", "got 1001"]),
        ("--seed 2147483647 --repeats 2", 2, ["seed", "at most 2147483646", "got 2147483647"]),
        ("--repeats 0", 2, ["--repeats", "'0'"]),
        ("--jobs 0", 2, ["--jobs", "'0'"]),
        ("--jobs many", 2, ["--jobs", "'many'"]),
        ("--rounds 0", 2, ["rounds", "at least 1", "got 0"]),
        ("--strategies forest", 2, ["strategies", "fedavg", "forest"]),
        ("--strategies fedavg,forest", 2, ["strategies", "fedavg", "forest"]),
        ("--strategies fedavg,", 2, ["strategies", "fedavg"]),
        ("--strategies=", 2, ["strategies", "fedavg"]),
        ("--strategies fedavg,fedprox,fedavg", 2, ["strategies", "different", "got fedavg and fedavg"]),
        ("--strategies fedavg,fedprox,fedprox:proximal-mu=0.1", 2, ["different", "fedprox and fedprox:proximal-mu"]),
        ("--strategies fedprox:proximal-mu=1,fedprox:proximal-mu=1.0", 2, ["different", "fedprox:proximal-mu=1.0"]),
        ("--strategies fedavg,fedprox:mu=1", 2, ["strategies", "fedprox:mu=1", "proximal-mu"]),
        ("--strategies fedavg,fedavg:eta=1", 2, ["strategies", "fedavg:eta=1", "no parameters"]),
        ("--strategies fedprox:proximal-mu=much", 2, ["strategies", "proximal-mu", "'much'"]),
        ("--strategies fedprox:proximal-mu", 2, ["strategies", "NAME=VALUE", "'proximal-mu'"]),
        ("--strategies fedprox:", 2, ["strategies", "NAME=VALUE", "'fedprox:'"]),
        ("--strategies fedadam:eta=0.1:eta=0.2", 2, ["strategies", "eta", "twice"]),
        ("--strategies fedadam:eta=0.1,tau=0.1", 2, ["strategies", "STRATEGY:NAME=VALUE", "'tau=0.1'"]),
        ("--strategies fedavg,fedprox:proximal-mu=50", 2, ["proximal-mu", "1 / learning-rate", "got 50"]),
        ("--strategies fedavg,krum:num-malicious-nodes=1", 2, ["krum", "at least 5"]),
        ("--strategies fedprox:proximal-mu=1 --strategy-args proximal-mu=2", 2, ["strategy-args", "expected none"]),
        ("--strategies fedavg,fedprox --strategy fedprox", 2, ["strategy", "expected fedavg", "got fedprox"]),
        ("--strategy krum --strategy-args num-malicious-nodes=1", 2, ["krum", "num-malicious-nodes=1", "at least 5"]),
        ("--strategies fedavg,bulyan --strategy-args q=1", 2, ["strategy-args", "fedavg"]),
        ("--strategy fedavg --strategy-args nonsense", 2, ["strategy-args"]),
        ("--strategy fedprox --strategy-args proximal-mu=much", 2, ["proximal-mu"]),
        ("--data nowhere", 1, ["nowhere/manifest.json", "does not exist"]),
        ("--hospitals 3", 2, ["unrecognized", "--hospitals 3"]),
        ("--class-weight balanced", 2, ["unrecognized", "--class-weight balanced"]),
    ],
)
def test_invalid_requests_are_refused_in_one_line_and_nothing_is_written(
    evidence: RunScript, hospitals_folder: Path, flags: str, code: int, words: list[str]
) -> None:
    data = [] if "--data" in flags else ["--data", hospitals_folder]
    assert_refused(evidence(*data, *flags.split()), code, *words)
    assert list(Path().iterdir()) == []


@pytest.fixture
def three_hospitals(uci: Source, in_folder: Path) -> Path:
    partition = Partition(by="iid", hospitals=3, seed=1)
    write_hospitals(in_folder / "data", uci, divide(uci, partition), partition=partition.describe())
    return in_folder / "data"


@pytest.mark.usefixtures("never_fitted")
@pytest.mark.parametrize("strategies", ["krum", "fedmedian,fedavg"])
def test_a_strategy_that_needs_more_hospitals_is_refused_before_anything_is_written(
    evidence: RunScript, three_hospitals: Path, strategies: str
) -> None:
    result = evidence("--data", three_hospitals, "--strategies", strategies)
    assert_refused(result, 2, "hospitals", strategies.split(",")[0], "at least 3", "without hospital-1")
    assert [path.name for path in Path().iterdir()] == ["data"]


@pytest.mark.usefixtures("never_fitted")
def test_equal_rows_count_once_since_they_share_a_fold(evidence: RunScript, three_hospitals: Path) -> None:
    for number in (2, 3):
        path = three_hospitals / f"client_{number}.csv"
        head, *lines = path.read_text().splitlines()
        path.write_text("\n".join([head, *lines[: 7 + number], *[lines[0]] * 50]))
    result = evidence("--data", three_hospitals, "--folds", 11)
    assert_refused(result, 2, "folds", "at most 10", "got 11")


@pytest.mark.usefixtures("never_fitted")
def test_another_study_is_not_overwritten_without_force(evidence: RunScript, hospitals_folder: Path) -> None:
    Path("old").mkdir()
    Path("old", JOURNAL).write_text('{"version": "another"}\n{"a fit": 1}\n')
    result = evidence("--data", hospitals_folder, "--out", "old")
    assert_refused(result, 1, f"old/{JOURNAL}", "another study", "--force")
    assert Path("old", JOURNAL).read_text() == '{"version": "another"}\n{"a fit": 1}\n'


@pytest.mark.usefixtures("never_fitted")
def test_force_keeps_the_old_study_if_the_request_is_refused(evidence: RunScript, hospitals_folder: Path) -> None:
    Path("old").mkdir()
    Path("old", JOURNAL).write_text('{"version": "another"}\n')
    result = evidence("--data", hospitals_folder, "--out", "old", "--force", "--strategies", "fedavg,forest")
    assert_refused(result, 2, "strategies", "forest")
    assert Path("old", JOURNAL).read_text() == '{"version": "another"}\n'


@pytest.mark.usefixtures("never_fitted")
@pytest.mark.parametrize("out", ["file", "file/study"])
def test_an_out_that_cannot_be_a_folder_is_refused(evidence: RunScript, hospitals_folder: Path, out: str) -> None:
    Path("file").write_text("mine")
    assert_refused(evidence("--data", hospitals_folder, "--out", out), 1, f"{out}: ", "written")
    assert Path("file").read_text() == "mine"


@pytest.mark.usefixtures("never_fitted")
def test_the_report_of_a_run_is_not_replaced_without_force(evidence: RunScript, hospitals_folder: Path) -> None:
    Path("run").mkdir()
    Path("run", "metrics.json").write_text("{}")
    Path("run", "report.html").write_text("a run's")
    result = evidence("--data", hospitals_folder, "--out", "run")
    assert_refused(result, 1, "run: ", "metrics.json, report.html", "--force")
    assert sorted(path.name for path in Path("run").iterdir()) == ["metrics.json", "report.html"]
    assert Path("run", "report.html").read_text() == "a run's"


# Hospitals that are left out


@pytest.fixture
def twenty_hospitals(in_folder: Path) -> Path:
    """Hospitals h-1 to h-20 of 12 to 31 patients each; h-7 has 3, and h-9 has no patient with the disease."""
    tables = {f"h-{number}": patients(11 + number, number) for number in range(1, 21)}
    tables["h-7"] = tables["h-7"].head(3)
    tables["h-9"]["disease"] = 0.0
    return write_tables(in_folder / "data", tables)


def test_one_small_hospital_of_twenty_is_left_out_and_named(
    evidence: RunScript, twenty_hospitals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, set[str]]] = []

    def fit(fit: Fit, cohort: Cohort, protocol: EvaluationProtocol, **_: object) -> FitResult:
        trained.append((fit.subject, set(cohort.tables)))
        return made_up_result(fit, cohort, protocol)

    monkeypatch.setattr(training_setups, "run_fit", fit)
    flags = ["--data", twenty_hospitals, "--out", "out", "--folds", 10, "--repeats", 1, "--jobs", 1]

    first = evidence(*flags)

    assert first.succeeded, first.error
    (line,) = [line for line in first.output.splitlines() if "left out" in line]
    assert "h-7" in line
    assert "at least 10 for 10 folds, got 3" in line
    others = {f"h-{number}" for number in range(1, 21)} - {"h-7"}
    written = json.loads(Path("out/evidence.json").read_text())
    assert list(written["left_out"]) == ["h-7"]
    assert set(written["hospitals"]) == set(written["study"]["hospitals"]) == others
    assert all(hospitals == others for _, hospitals in trained)
    assert "h-7" not in {subject for subject, _ in trained}

    trained.clear()
    assert evidence(*flags).succeeded
    assert trained == []  # the same study resumes


@pytest.mark.usefixtures("never_fitted")
def test_a_study_whose_hospitals_are_too_small_is_refused(evidence: RunScript, in_folder: Path) -> None:
    write_tables(in_folder / "data", {"a": patients(20, 1), "b": patients(7, 2), "c": patients(5, 3)})
    result = evidence("--data", "data", "--folds", 2)
    assert_refused(result, 1, "at least 2", "got 1", "b (", "got 7", "c (", "got 5")
    assert [path.name for path in Path().iterdir()] == ["data"]


@pytest.mark.usefixtures("never_fitted")
def test_an_invalid_cell_of_a_small_hospital_is_a_mistake_to_correct(evidence: RunScript, in_folder: Path) -> None:
    small = patients(3, 2)
    small.loc[1, "age"] = -500.0
    write_tables(in_folder / "data", {"a": patients(20, 1), "b": small, "c": patients(30, 3)})
    result = evidence("--data", "data")
    assert_refused(result, 1, "client_2.csv", "age")
    assert "500" not in result.error


@pytest.mark.usefixtures("never_fitted")
def test_a_strategy_that_lacks_a_hospital_that_was_left_out_names_it(evidence: RunScript, in_folder: Path) -> None:
    tables = {name: patients(20, seed) for seed, name in enumerate("abcd")}
    write_tables(in_folder / "data", {**tables, "small": patients(3, 9)})
    assert_refused(evidence("--data", "data", "--strategies", "fedavg,krum:num-malicious-nodes=1"), 2, "krum", "small")
    assert [path.name for path in Path().iterdir()] == ["data"]


@pytest.mark.usefixtures("never_fitted")
@pytest.mark.parametrize("number", [0, 1])
def test_a_study_needs_two_hospitals(evidence: RunScript, in_folder: Path, number: int) -> None:
    write_tables(in_folder / "data", {"a": patients(20, 1)} if number else {})
    assert_refused(evidence("--data", "data"), 1, "at least 2 hospitals", f"got {number}")


# Files and console


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose rows are made up and whose models are not trained."""
    study = study_of(LABELS, score)
    monkeypatch.setattr(benefit_study, "read_cohort", lambda *_: study.cohort)
    monkeypatch.setattr(benefit_study, "run_fits", lambda *_, **__: study.results)
    monkeypatch.setattr(studies, "find_hospitals", lambda *_: (study.cohort.task, None, {}))
    return study


def run(
    study: Study,
    out: Path,
    *,
    force: bool = False,
    seed: int | None = None,
    strategies: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    return benefit_study.run(
        data=out,
        out=out,
        force=force,
        folds=2,
        repeats=1,
        strategies=strategies or study.protocol.strategies,
        tune=False,
        settings={"seed": study.protocol.settings.seed if seed is None else seed},
        jobs=1,
        show=lambda *_: None,
    )


def test_a_study_writes_strict_json_and_a_page(made_up: Study, tmp_path: Path) -> None:
    with nothing_lost(tmp_path):
        figures = run(made_up, tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads((tmp_path / "evidence.json").read_text(), parse_constant=refuse)
    assert written == json.loads(json.dumps(figures))
    assert {name: entry["verdict"] for name, entry in written["hospitals"].items()} == {
        "gaining": "gains",
        "losing": "loses",
        "same": "no clear difference",
        "few": "cannot be said",
    }
    assert written["study"]["strategies"] == ["fedavg"]
    assert "Benefit of joining" in (tmp_path / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, JOURNAL, "tables"])


def test_a_study_replaces_its_own_report_and_that_of_a_run_with_force_only(made_up: Study, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("a run's")
    with pytest.raises(RunError, match="holds a run"):
        run(made_up, tmp_path)
    run(made_up, tmp_path, force=True)
    run(made_up, tmp_path)
    (tmp_path / JOURNAL).unlink()
    run(made_up, tmp_path)
    assert "Benefit of joining" in (tmp_path / "report.html").read_text()


def test_another_study_leaves_nothing_of_the_one_that_it_replaces(
    made_up: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(made_up, tmp_path)
    assert (tmp_path / "tables" / "index.json").exists()
    (tmp_path / "mine.txt").write_text("a note")

    def fail(*_: object, **__: object) -> None:
        raise RunError("training diverged")

    monkeypatch.setattr(benefit_study, "run_fits", fail)
    with pytest.raises(RunError, match="another study"):
        run(made_up, tmp_path, seed=1)
    assert set(FILES) < {path.name for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match="diverged"):
        run(made_up, tmp_path, seed=1, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [JOURNAL, "mine.txt"]


def test_an_interrupted_addition_to_a_study_keeps_its_results(
    made_up: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(made_up, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def fail(*_: object, **__: object) -> None:
        raise RunError("training diverged")

    monkeypatch.setattr(benefit_study, "run_fits", fail)
    with pytest.raises(RunError, match="diverged"):
        run(made_up, tmp_path, strategies=(*made_up.protocol.strategies, "fedprox"))
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_the_same_study_gives_the_same_bytes(made_up: Study, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(made_up, tmp_path / name)
    for file in (*FILES, JOURNAL):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_failed_fit_keeps_the_finished_ones(made_up: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, scored = next(iter(made_up.results.items()))

    def fail(_cohort: object, _protocol: object, journal: Any, **_: object) -> None:
        journal.add(fit, scored)
        raise RunError("training diverged")

    monkeypatch.setattr(benefit_study, "run_fits", fail)
    with pytest.raises(RunError, match="diverged"):
        run(made_up, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 2


def test_a_report_that_cannot_be_made_loses_no_figure_and_shows_no_value(
    made_up: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("chol 271.8183")

    monkeypatch.setattr(benefit_study, "benefit_page", fail)
    with pytest.raises(RunError, match=r"report\.html.*ValueError in test_benefit_study\.py.*saved") as caught:
        run(made_up, tmp_path)
    assert "271" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, JOURNAL} - {"report.html"}


def test_the_console_shows_the_saved_figures(
    made_up: Study, evidence: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, output, errors = evidence("--out", "study", "--folds", 2, "--repeats", 1, "--no-tune")
    assert (code, errors) == (0, "")
    assert made_up.figures["hospitals"]["gaining"]["verdict"] == "gains"
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "gaining 0.000 1.000 1.000 1.000 1.000" in lines
    for figure, few in (("roc_auc", "few * 20"), ("brier", "few 20")):
        for name, shown in (("gaining", "gaining 30"), ("few", few)):
            compared = made_up.figures["hospitals"][name]["comparisons"][figure]
            p_value = "0.000" if name == "gaining" else "-"
            verdict = verdict_text(compared["verdict"])
            assert f"{shown} {difference(compared['difference'])} {p_value} {verdict}" in lines
    assert any(line.startswith("- losing: The federated model ranks patients worse") for line in lines)
    assert not any(line.startswith("- same: ") for line in lines)
    assert any("study/evidence.json" in line for line in lines[-2:])
    json.loads(Path("study/evidence.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_a_study_of_another_kind_of_label_end_to_end(
    evidence: RunScript, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    write_dataset(Path("data"), kind)
    flags = "--data data --out out --folds 2 --repeats 1 --rounds 2 --no-tune --jobs 1 --model logistic"

    result = evidence(*flags.split())

    assert result.succeeded, result.error
    target = target_of(task_of(kind))
    figures = json.loads(Path("out/evidence.json").read_text())
    for entry in figures["hospitals"].values():
        for name in target.comparisons:
            own, federated = (entry["models"][model][name] for model in ("own", "federated"))
            better = own["value"] - federated["value"] if name in LESS_IS_BETTER else federated["value"] - own["value"]
            assert entry["differences"]["own"][name]["value"] == pytest.approx(better)
            assert f"{federated['value']:.3f}" in result.output
    html = Path("out/report.html").read_text()
    assert "threshold" not in html
    assert ("ROC curves" in html) is (kind == "classes")
