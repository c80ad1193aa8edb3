"""Files of a run are whole or not there, and what is not a file is written as such."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from federated_health import runs
from federated_health.errors import RunError
from federated_health.model import read_description
from federated_health.report.page import Page
from federated_health.runs import RunFolder, make_folder, write_json, write_report, write_text
from federated_health.tables import hash_file
from tests.conftest import PROJECT
from tests.test_federation import CHOSEN, federation_of, three_with_scores


def test_text_is_written_as_it_is_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "zürich\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == "zürich\n1\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "through")
    reader.join(5)
    assert got == ["through"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["", "missing/file", "folder"])
def test_what_cannot_be_written_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_text(Path(name), "text")


def test_a_figure_that_is_not_a_number_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"roc_auc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written to"):
        make_folder(tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "threshold"), [(False, CHOSEN), (True, 0.5)])
def test_what_is_saved_holds_the_threshold_of_its_figures(tmp_path: Path, stopped: bool, threshold: float) -> None:
    federation = federation_of(three_with_scores())
    settings = replace(federation.settings, out=str(tmp_path / "run"))
    with RunFolder(settings) as folder:
        federation.gather()
        folder.begin(federation)
        for _ in federation.rounds():
            folder.append_round(federation)
        figures = federation.figures_of_last_round() if stopped else federation.evaluate_finally()
        folder.finish(federation, figures, stopped=stopped)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["threshold"] == threshold
    assert read_description(tmp_path / "run" / "model.keras")["threshold"] == threshold


# The report


def run_in(out: Path, *, rounds: int | None = None, force: bool = False) -> None:
    """A run that goes to its end, or is stopped after so many rounds."""
    federation = federation_of(three_with_scores())
    settings = replace(federation.settings, out=str(out), force=force)
    with RunFolder(settings) as folder:
        federation.gather()
        folder.begin(federation)
        for record in federation.rounds():
            folder.append_round(federation)
            if record.number == rounds:
                break
        stopped = rounds is not None
        figures = federation.figures_of_last_round() if stopped else federation.evaluate_finally()
        folder.finish(federation, figures, stopped=stopped)


@pytest.mark.slow
def test_a_run_leaves_a_report_of_its_own_model_and_force_replaces_it(tmp_path: Path) -> None:
    run_in(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json",
        "model.keras",
        "report.html",
        "rounds.csv",
        "settings.json",
    }
    first = (tmp_path / "report.html").read_text()
    assert read_description(tmp_path / "model.keras")["weights_sha256"] in first
    assert hash_file(tmp_path / "model.keras") in first
    assert "3 hospitals, 3 rounds, strategy fedavg." in first
    run_in(tmp_path, rounds=2, force=True)
    second = (tmp_path / "report.html").read_text()
    assert "3 hospitals, 2 rounds, strategy fedavg, stopped before its last round." in second
    assert hash_file(tmp_path / "model.keras") in second


@pytest.mark.slow
def test_an_old_report_does_not_stay_beside_a_new_run_that_has_none_yet(tmp_path: Path) -> None:
    federation = federation_of(three_with_scores())
    (tmp_path / "report.html").write_text("old")
    with RunFolder(replace(federation.settings, out=str(tmp_path), force=True)) as folder:
        federation.gather()
        folder.begin(federation)
        next(federation.rounds())
        folder.append_round(federation)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_report_that_cannot_be_made_costs_neither_the_figures_nor_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret value")

    monkeypatch.setattr(runs, "page_of_run", fail)
    with pytest.raises(RunError) as told:
        run_in(tmp_path)
    assert str(told.value).startswith(f"{tmp_path}/report.html: could not be made (ZeroDivisionError in test_runs.py, ")
    assert str(told.value).endswith("; everything else is saved")
    assert json.loads((tmp_path / "metrics.json").read_text())["rounds"] == 3
    assert read_description(tmp_path / "model.keras")["rounds"] == 3
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_report(tmp_path / "report.html", lambda: Page(title="a", lead="b", sections=()))


def test_what_draws_is_imported_at_the_end_only() -> None:
    program = (
        "import sys, server, federated_health.evidence.command\n"
        "late = {'matplotlib', 'jinja2', 'scipy', 'sklearn', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(f'imported too early: {sorted(late)}' if late else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
