"""The subcommand evidence as a process on three real hospitals: it is stopped, resumed and done again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from federated_health.processes import process
from federated_health.studies.benefit.journal import JOURNAL
from tests.support.scripts import PROJECT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

FLAGS = ("--folds", "2", "--repeats", "1", "--rounds", "2", "--no-tune", "--strategies", "fedavg,fedprox")
NAMES = ["cleveland", "hungary", "switzerland"]
MODELS = ["own", "federated", "pooled", "without", "fedprox", "recalibrated"]
FITS = 2 * (3 + 2 + 1 + 3)
RESULTS = {"evidence.json", "scores.csv", "learning_curves.csv", "report.html", "tables"}


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A study of two worker processes after SIGTERM.

    Attributes:
        workers: ids of its child processes just before the signal.
        journal: lines of its journal.
        files: names of all its files.
    """

    data: Path
    out: Path
    exit_code: int
    log: str
    workers: set[int]
    journal: list[str]
    files: list[str]


def command(data: Path, out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "federated_health", "evidence", "--data", str(data), "--out", str(out), *flags]


def run_again(study: Stopped) -> str:
    """Run the study in one process to its end; returns what it prints."""
    wide = os.environ | {"COLUMNS": "120"}
    arguments = command(study.data, study.out, *FLAGS, "--jobs", "1")
    completed = subprocess.run(
        arguments, cwd=PROJECT, env=wide, check=False, capture_output=True, text=True, timeout=300
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def stopped(hospitals_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Stopped as soon as two models are in the journal."""
    folder = tmp_path_factory.mktemp("evidence")
    data, out, log = folder / "data", folder / "study", folder / "log.txt"
    shutil.copytree(hospitals_folder, data)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["hospitals"] = manifest["hospitals"][:3]
    (data / "manifest.json").write_text(json.dumps(manifest))
    with process(command(data, out, *FLAGS, "--jobs", "2"), log=log, folder=PROJECT) as study:
        deadline = time.monotonic() + 300
        while not (out / JOURNAL).exists() or len((out / JOURNAL).read_text().splitlines()) < 3:
            assert time.monotonic() < deadline, log.read_text()
            assert study.poll() is None, log.read_text()
            time.sleep(0.05)
        workers = children_of(study.pid)
        os.kill(study.pid, signal.SIGTERM)
        exit_code = study.wait(120)
    return Stopped(
        data=data,
        out=out,
        exit_code=exit_code,
        log=log.read_text(),
        workers=workers,
        journal=(out / JOURNAL).read_text().splitlines(),
        files=[path.name for path in out.iterdir()],
    )


@pytest.fixture(scope="module")
def output(stopped: Stopped) -> str:
    """What the resumed study prints; its files are in the folder of the stopped one."""
    return run_again(stopped)


class Links(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "srcset", "data", "action"):
            if (value := values.get(name)) and not value.startswith(("#", "data:")):
                self.fetched.append(f"{tag} {value}")


def children_of(parent: int) -> set[int]:
    """All descendants of a process."""
    children: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, ppid = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # it has ended
            continue
        if int(ppid) == parent:
            children |= {int(stat.parent.name)} | children_of(int(stat.parent.name))
    return children


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_stopped_study_keeps_its_fits_and_leaves_no_process(stopped: Stopped) -> None:
    assert stopped.exit_code == 130
    assert stopped.log.endswith("stopped\n")
    assert "Traceback" not in stopped.log
    assert len(stopped.workers) >= 2
    deadline = time.monotonic() + 60
    while any(map(is_alive, stopped.workers)):
        assert time.monotonic() < deadline, "a process of the study is still running"
        time.sleep(0.05)
    assert stopped.files == [JOURNAL]
    fits = [json.loads(line) for line in stopped.journal[1:]]
    assert 2 <= len(fits) < FITS


def test_a_resumed_study_trains_the_remaining_models(stopped: Stopped, output: str) -> None:
    lines = (stopped.out / JOURNAL).read_text().splitlines()
    assert lines[: len(stopped.journal)] == stopped.journal
    assert len(lines) == 1 + FITS
    assert f"models {len(stopped.journal) - 1}/{FITS}" in output
    assert f"models {FITS}/{FITS}" in output
    assert "models 0/" not in output


def test_files_hold_every_figure_and_the_page_fetches_nothing(stopped: Stopped, output: str) -> None:
    out = stopped.out

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    figures = json.loads((out / "evidence.json").read_text(), parse_constant=refuse)
    assert list(figures["hospitals"]) == NAMES
    assert sum(entry["patients"] for entry in figures["hospitals"].values()) == figures["all"]["patients"] == 720
    assert sorted(figures["hospitals"]["hungary"]["models"]) == sorted(MODELS)
    for name, entry in figures["hospitals"].items():
        interval = entry["models"]["federated"]["roc_auc"]
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert f"{interval['value']:.3f}" in output
        assert f"{entry['differences']['own']['roc_auc']['value']:+.3f}" in output, name
    html = (out / "report.html").read_text()
    links = Links()
    links.feed(html)
    assert links.fetched == []
    assert "url(http" not in html
    assert "@import" not in html
    assert {"Strategies", "Calibration"} <= set(re.findall(r"<h2>(.*?)</h2>", html))
    assert {path.name for path in out.iterdir()} == {JOURNAL, *RESULTS}


def test_the_console_shows_tables_without_log_lines(output: str) -> None:
    for title in ("ROC-AUC", "verdict", "strategies"):
        assert title in output
    assert "Traceback" not in output
    assert "INFO" not in output


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_completed_study_trains_nothing_again_and_gives_the_same_bytes(stopped: Stopped, output: str) -> None:
    assert f"models {FITS}/{FITS}" in output
    before = contents_of(stopped.out)
    progress = re.findall(r"models \d+/\d+", run_again(stopped))
    assert set(progress) == {f"models {FITS}/{FITS}"}
    assert contents_of(stopped.out) == before
