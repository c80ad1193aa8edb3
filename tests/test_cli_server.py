"""server.py as a user meets it: invalid settings, runs that cannot start or resume, and its tables."""

import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.clientapp import ClientApp

from federated_health.cli import run_results
from federated_health.cli.noisy_figures import print_noisy_figures
from federated_health.cli.server import serve
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.task_writing import write_task
from federated_health.messages.benefit import summarise_benefits
from federated_health.messages.content import Evaluation
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.processes import free_port
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_summary import summarise_run
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.example_run import benefit, evaluation
from tests.support.example_targets import run_of_label
from tests.support.script_calls import RunScript, assert_one_line
from tests.support.targets import LABELS


def test_a_server_does_not_start_with_a_malformed_revocation_list(run_script: RunScript, tls: dict[str, Path]) -> None:
    (tls["server"] / "revoked.pem").write_bytes(b"garbage")
    result = run_script("server.py", "--tls", tls["server"], "--address", f"127.0.0.1:{free_port()}")
    assert_one_line(result, "revoked.pem: is not a list of revoked certificates")


def test_a_port_in_use_is_rejected(run_script: RunScript) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(run_script("server.py", "--address", address), address, "cannot open this port")


def test_a_finished_run_is_not_overwritten(run_script: RunScript) -> None:
    Path("old").mkdir()
    Path("old/metrics.json").write_text("{}")
    result = run_script("server.py", "--address", f"127.0.0.1:{free_port()}", "--out", "old", "--wait", 0.1)
    assert_one_line(result, "old: holds a run already (metrics.json)", "--force")
    assert Path("old/metrics.json").read_text() == "{}"


def test_a_server_without_hospitals_ends_after_the_wait_and_leaves_no_folder(run_script: RunScript) -> None:
    result = run_script("server.py", "--address", f"127.0.0.1:{free_port()}", "--out", "runs/new", "--wait", 0.1)
    assert_one_line(result, "0 of 4 hospitals were connected", "--wait")
    assert not Path("runs/new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rounds", 0], "rounds: expected at least 1"),
        (["--rounds", "ten"], "--rounds: expected a whole number, got 'ten'"),
        (["--learning-rate", -1], "learning-rate: expected more than 0"),
        (["--learning-rate", "nan"], "learning-rate: expected more than 0"),
        (["--model", "forest"], "invalid choice"),
        (["--address", "here"], "expected HOST:PORT"),
    ],
)
def test_an_invalid_setting_is_rejected(flags: list[object], words: str, run_script: RunScript) -> None:
    assert_one_line(run_script("server.py", *flags), words)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Value]]:
    """Starts a server with flags, and returns the run config that its app gets."""

    def start(*flags: object) -> dict[str, Value]:
        configs: list[dict[str, Value]] = []
        monkeypatch.setattr("sys.argv", ["server.py", "--address", f"127.0.0.1:{free_port()}", *map(str, flags)])
        serve(lambda _, context: configs.append(context.run_config))
        return configs[0]

    return start


@pytest.mark.usefixtures("in_folder")
def test_a_flag_wins_over_the_task_file_and_the_task_file_over_the_default(
    started: Callable[..., dict[str, Value]],
) -> None:
    Path("task.toml").write_text(
        write_task(
            replace(HEART_DISEASE, name="own", training={"rounds": 7, "l2": 0.5, "dp_rounds": 90, "dp_steps": 2})
        )
    )
    names = ("rounds", "l2", "local-epochs", "dp-steps")

    def chosen(*flags: object) -> list[Value]:
        config = started("--task-file", "task.toml", *flags)
        return [config[name] for name in names]

    assert chosen() == [7, 0.5, 5, 1]
    assert chosen("--rounds", 30, "--local-epochs", 2) == [30, 0.5, 2, 1]
    assert chosen("--dp-epsilon", 2) == [90, 0.5, 5, 2]
    assert chosen("--dp-epsilon", 2, "--rounds", 8, "--dp-steps", 1) == [8, 0.5, 5, 1]


def test_a_run_says_what_it_takes_from_the_task(run_script: RunScript) -> None:
    Path("task.toml").write_text(write_task(replace(HEART_DISEASE, training={"rounds": 7, "l2": 0.5})))
    flags = ["--task-file", "task.toml", "--address", f"127.0.0.1:{free_port()}", "--wait", 0.1, "--rounds", 8]
    result = run_script("server.py", *flags)
    (line,) = [line for line in result.output.splitlines() if "task heart-disease" in line]
    assert line.endswith(": l2=0.5")


def test_an_invalid_training_setting_of_a_task_is_named_with_its_line(run_script: RunScript) -> None:
    Path("task.toml").write_text(write_task(replace(HEART_DISEASE, training={"rounds": 0})))
    number = Path("task.toml").read_text().splitlines().index("rounds = 0") + 1
    assert_one_line(run_script("server.py", "--task-file", "task.toml"), f"task.toml, line {number}: training.rounds")


BINARY = target_of(HEART_DISEASE)


def test_the_benefit_table_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    difference = {"value": 0.0004, "low": -0.0754, "high": 0.0731}
    comparison = {
        "verdict": "no clear difference",
        "own": {"value": 0.7439},
        "federated": {"value": 0.7443},
        "difference": {**difference, "p_value": 0.9},
    }
    benefit = {"verdict": "no clear difference", "comparisons": dict.fromkeys(("roc_auc", "brier"), comparison)}
    run_results.print_benefit({"va-long-beach": {**benefit, "small": False}}, BINARY, {})
    lines = capsys.readouterr().out.splitlines()
    row = " va-long-beach  0.744      0.744  +0.000 (-0.075 to +0.073)  no clear difference"
    assert lines.count(row) == 2
    assert max(map(len, lines)) <= 80


def test_figures_with_noise_fit_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ratios = ("accuracy", "precision", "recall", "specificity", "f1", "roc_auc", "brier")
    noise = {"test_examples_noise": 16.111, **{f"{name}_noise": 0.0412 for name in ratios}}
    row = {"train_examples": 689, "test_examples": 1227, **dict.fromkeys(ratios, 0.8321), **noise}
    print_noisy_figures({"va-long-beach": row}, BINARY)
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r" va-long-beach +689 +1227( +0\.832){7}", line) for line in lines)
    assert any(re.fullmatch(" \N{PLUS-MINUS SIGN} va-long-beach +16( +0\\.041){7}", line) for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_table_of_a_rare_outcome_fits_into_80_columns_and_ends_with_what_accuracy_is_worth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    groups = {"positives": np.array([[1100.0, -1.8, 0.5]]), "negatives": np.array([[8900.0, -2.2, 0.5]])}
    counts = Counts(500, 2000, 6900, 600, 3400.0, 970.0)
    evaluation = Evaluation(counts=counts, roc_auc=0.67, scores=groups)
    rows = {"hospital-1": 30_000, "hospital-2": 30_000}

    figures = summarise_run(BINARY, dict.fromkeys(rows, evaluation), rows)
    figures["federation"]["small_in_mean"] = 1
    run_results.print_final_figures(figures, 0.14, BINARY)

    lines = capsys.readouterr().out.splitlines()
    heads = [line.split() for line in lines if "recall" in line or "slope" in line]
    assert heads == [["test", "recall", "specificity", "precision", "f1", "precision"], ["slope", "brier", "auc"]]
    federation, further = [line.split() for line in lines if line.startswith(" federation")]
    assert federation[1:5] == ["20000", "0.455", "0.775", "0.200"]  # 1000/2200, 13800/17800, 1000/5000
    assert len(further) == 4
    assert "-" not in federation
    assert any(re.fullmatch(r" hospital mean +0\.670\*", line.rstrip()) for line in lines)
    assert max(map(len, lines)) <= 80
    text = " ".join(line.strip() for line in lines)
    assert "11.0 % of these patients are positive" in text
    assert "Accuracy is 0.740; predicting nobody positive has 0.890." in text


@pytest.mark.parametrize("small", [0, 1, 2])
def test_a_mean_that_includes_hospitals_of_few_patients_is_marked(
    small: int, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = {
        name: Evaluation(counts=Counts(true_positives=30, true_negatives=rows), roc_auc=auc)
        for name, rows, auc in (("a", 9 if small else 10, 1.0), ("b", 3 if small > 1 else 30, 0.5), ("c", 0, None))
    }

    run_results.print_final_figures(summarise_run(BINARY, evaluations, dict.fromkeys("abc", 90)), 0.5, BINARY)

    lines = capsys.readouterr().out.splitlines()
    (mean,) = [line.split()[2:] for line in lines if "hospital mean" in line]
    assert mean == [f"0.750{'*' if small else ''}"]  # of a and b: c has one class only
    assert len([line for line in lines if re.match(r"\* The mean includes \d", line)]) == bool(small)
    marks = {line.split()[0]: "*" in line for line in lines if line.startswith((" a ", " b ", " c "))}
    assert marks == {"a": small > 0, "b": small > 1, "c": False}


def test_a_verdict_points_to_the_data_warnings_of_the_hospital(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = {
        "verdict": "loses",
        "own": {"value": 0.9},
        "federated": {"value": 0.8},
        "difference": {"value": -0.1, "low": -0.2, "high": -0.05, "p_value": 0.01},
    }
    benefit = {"verdict": "loses", "comparisons": dict.fromkeys(("roc_auc", "brier"), comparison), "small": False}
    run_results.print_benefit(
        {"north": benefit, "south": {**benefit, "data_warnings": ["its label is inverted"]}}, BINARY, {}
    )
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Problems in this run" in line]
    assert "south" in line
    assert "north" not in line


def test_the_terminal_says_in_words_what_hospitals_gain_or_lose_and_names_the_adjustment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    better, worse, unclear = (0.05, 0.02, 0.08), (-0.05, -0.08, -0.02), (0.0, -0.05, 0.05)
    benefits = {
        "gaining": benefit(better, better),
        "mixed": benefit(better, worse),
        "neither": benefit(unclear, unclear),
        "small": benefit(None),
    }
    joining = summarise_benefits(benefits, dict.fromkeys(benefits, evaluation(tn=10)), HEART_DISEASE)["joining"]

    run_results.print_benefit(joining, BINARY, {})

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1].rstrip(":") for line in lines if line.startswith("- ")] == ["gaining", "mixed"]
    tables = [[line.split() for line in lines if line.split()[:1] == [name]] for name in benefits]
    assert [[row[-1] for row in of] for of in tables[:2]] == [["gains", "gains"], ["gains", "loses"]]
    assert [[row[-2:] for row in of] for of in tables[2:]] == [[["clear", "difference"]] * 2, [["few", "patients"]] * 2]
    assert "adjusted for the number of hospitals" in " ".join(map(str.strip, lines))


def test_a_hospital_without_a_comparison_has_the_figures_of_the_final_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    benefits = {"few": benefit(None)}
    joining = summarise_benefits(benefits, dict.fromkeys(benefits, evaluation(tn=2)), HEART_DISEASE)["joining"]

    run_results.print_benefit(joining, BINARY, {"few": {"roc_auc": 0.759, "brier": 0.104}})

    ranking, risks = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" few")]
    assert ranking == ["few", "-", "0.759*", "-", "too", "few", "patients"]
    assert risks == ["few", "-", "0.104", "-", "too", "few", "patients"]


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_other_labels_have_a_table_per_figure_by_which_models_are_compared(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figures = run_of_label(LABELS[kind])

    run_results.print_benefit(figures["joining"], run.target, figures["hospitals"])

    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Benefit of joining: ")]
    assert len(titles) == len(run.target.comparisons)
    assert all("minus" in title for title in titles)


NORMALISATION = Normalisation(mean=(54.0, 130.0, 250.0, 150.0, 1.0), variance=(81.0, 300.0, 2700.0, 520.0, 1.3))


@pytest.mark.parametrize(
    ("flags", "code", "pattern"),
    [
        (["--min-hospitals", 5], 2, "min-hospitals: expected at most --hospitals 4, got 5"),
        (["--min-hospitals", -1], 2, "min-hospitals: expected at least 0, got -1"),
        (["--min-hospitals", "all"], 2, "--min-hospitals: expected a whole number, got 'all'"),
        (["--round-timeout", 0], 2, "round-timeout: expected more than 0, got 0.0"),
        (["--round-timeout", "nan"], 2, "round-timeout: expected more than 0, got nan"),
        (["--wait", "inf"], 2, "wait: expected at most 10,000,000, got inf"),
        (["--dp-delta", 1e-3, "--dp-steps", 1], 2, "dp-delta, dp-steps: .*--dp-epsilon"),
        (["--secure-aggregation"], 2, "secure-aggregation: needs --tls"),
        (["--secure-aggregation", "--hospitals", 2], 2, "hospitals: expected at least 3 with --secure-aggregation"),
        (["--secure-aggregation", "--strategy", "krum"], 2, "strategy: expected one of fedavg,.* got krum"),
        (["--max-update-norm", -1], 2, "max-update-norm: expected at least 0, got -1.0"),
        (["--max-update-norm", 0.5], 2, "max-update-norm: expected 0 or at least 1, got 0.5"),
        (["--out", "a" * 300], 1, r"cannot be written to \(File name too long\)"),
        (["--out", "file"], 1, r"file: cannot be written to \(File exists\)"),
        (["--out", "file/run"], 1, r"file/run: cannot be written to \(Not a directory\)"),
        (
            ["--out", "cut"],
            1,
            r"cut: holds a run already \(checkpoints\).*--resume.*--force",
        ),
        (["--resume", "none"], 1, "none: holds no checkpoint"),
        (["--resume", "a" * 300], 1, "holds no checkpoint"),
        (["--resume", "file"], 1, r"file/checkpoints: cannot be read \(Not a directory\)"),
        (["--resume", "empty"], 1, "empty/checkpoints: holds no checkpoint\n"),
        (["--resume", "over"], 1, "over: .*nothing to resume"),
        (["--resume", "earlier"], 1, "earlier: .*nothing to resume"),
        (["--resume", "study"], 1, "study/checkpoints: holds no checkpoint"),
        (["--resume", "torn"], 1, "torn/checkpoints: holds no .*checkpoint"),
        (["--resume", "cut", "--seed", 7], 1, "seed.* 42.* 7"),
        (["--resume", "cut", "--task", "readmission"], 1, 'task.* "heart-disease".* "readmission"'),
        (["--resume", "cut", "--dropout", 0.5, "--l2", 1], 1, "dropout.* 0.0.* 0.5.* l2.* 0.003.* 1.0"),
        (["--resume", "cut", "--rounds", -1], 1, "rounds: expected at least 0, since 0 are completed, got -1"),
        (["--resume", "cut", "--out", "other"], 2, "out: expected .*--resume"),
        (["--resume", "cut", "--min-hospitals", 9], 2, "min-hospitals: expected at most --hospitals 4, got 9"),
        (["--resume", "cut", "--force"], 1, "waiting for hospitals: 0 of 3 hospitals were connected"),
        (["--resume", "cut", "--out", "./cut/", "--seed", 42], 1, "0 of 3 hospitals were connected"),
        (["--resume", "cut", "--min-hospitals", 4], 1, "0 of 4 hospitals were connected"),
    ],
)
def test_a_run_that_cannot_start_or_resume_fails_in_one_line_and_changes_nothing(
    flags: list[object], code: int, pattern: str, run_script: RunScript
) -> None:
    Path("file").touch()
    for name in ("empty", "over", "earlier", "study", "torn/checkpoints"):
        Path(name).mkdir(parents=True)
    Path("over/model.keras").touch()
    Path("earlier/metrics.json").touch()
    Path("study/evidence.json").touch()
    Path("study/report.html").touch()
    Path("torn/checkpoints/round-000003.checkpoint").write_bytes(b"torn")
    federated_run = PlainRun(InProcessTransport(ClientApp(), {}), Settings())
    federated_run.normalisation = NORMALISATION
    CheckpointFolder(Path("cut/checkpoints")).save(federated_run.checkpoint())
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    defaults = ("--address", f"127.0.0.1:{free_port()}", "--wait", 0.1)  # a flag that is given twice has its last value
    result = run_script("server.py", *defaults, *flags)
    assert_one_line(result)
    assert re.search(pattern, result.error)
    assert result.code == code
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before
