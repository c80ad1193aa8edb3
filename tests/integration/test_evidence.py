"""The verb evidence as a process on the four real hospitals: its files, that it resumes, and that it ends when told."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from federated_health.processes import process
from federated_health.studies.benefit.journal import JOURNAL
from tests.support.scripts import PROJECT

pytestmark = pytest.mark.slow

FEW = ("--folds", "2", "--repeats", "1", "--rounds", "2", "--no-tune", "--jobs", "2")
LONGER = ("--folds", "2", "--repeats", "1", "--rounds", "30", "--no-tune", "--jobs", "2")
NAMES = ["cleveland", "hungary", "switzerland", "va-long-beach"]
WAYS = ["own", "federated", "pooled", "without", "fedprox"]
FITS = 2 * (4 + 2 + 1 + 4)


def evidence(data: Path, out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "federated_health", "evidence", "--data", str(data), "--out", str(out), *flags]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    wide = os.environ | {"COLUMNS": "120"}
    return subprocess.run(command, cwd=PROJECT, env=wide, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(hospitals_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a study, and what was printed."""
    out = tmp_path_factory.mktemp("evidence") / "study"
    ended = run(evidence(hospitals_folder, out, *FEW, "--strategies", "fedavg,fedprox"))
    assert ended.returncode == 0, ended.stderr
    return out, ended.stdout


class Links(HTMLParser):
    """What a page would fetch, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "srcset", "data", "action"):
            if (value := values.get(name)) and not value.startswith(("#", "data:")):
                self.fetched.append(f"{tag} {value}")


def test_the_files_hold_every_figure_and_the_page_fetches_nothing(finished: tuple[Path, str]) -> None:
    out, printed = finished

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    figures = json.loads((out / "evidence.json").read_text(), parse_constant=refuse)
    assert list(figures["hospitals"]) == NAMES
    assert sum(one["patients"] for one in figures["hospitals"].values()) == figures["all"]["patients"] == 920
    assert sorted(figures["hospitals"]["hungary"]["models"]) == sorted(WAYS)
    for name, one in figures["hospitals"].items():
        interval = one["models"]["federated"]["roc_auc"]
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert f"{interval['value']:.3f}" in printed
        assert f"{one['differences']['federated_minus_own']['value']:+.3f}" in printed, name
    html = (out / "report.html").read_text()
    links = Links()
    links.feed(html)
    assert links.fetched == []
    assert "url(http" not in html
    assert "@import" not in html
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert {"The answer, hospital by hospital", "Strategies", "Calibration", "Intended use and limits"} <= set(titles)
    assert sorted(path.name for path in out.iterdir()) == ["evidence.json", JOURNAL, "report.html"]


def test_the_console_says_how_far_it_is_and_shows_three_tables(finished: tuple[Path, str]) -> None:
    _, printed = finished
    assert f"model 0/{FITS}" in printed
    assert f"model {FITS}/{FITS}" in printed
    for title in ("ROC-AUC of out-of-fold scores", "Benefit of joining", "Other figures, as means over hospitals"):
        assert title in printed
    assert "Traceback" not in printed
    assert "INFO" not in printed


def test_a_second_run_fits_nothing_anew_and_gives_the_same_bytes(
    finished: tuple[Path, str], hospitals_folder: Path
) -> None:
    out, _ = finished
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ended = run(evidence(hospitals_folder, out, *FEW, "--strategies", "fedavg,fedprox"))
    assert ended.returncode == 0, ended.stderr
    assert f"model {FITS}/{FITS}" in ended.stdout
    assert "model 0/" not in ended.stdout
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_study_in_the_same_folder_is_refused(finished: tuple[Path, str], hospitals_folder: Path) -> None:
    out, _ = finished
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ended = run(evidence(hospitals_folder, out, *FEW, "--seed", "7"))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "--force starts anew" in ended.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def children_of(parent: int) -> set[int]:
    """Processes that descend from one."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, ppid = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # it has ended
            continue
        if int(ppid) == parent:
            found |= {int(stat.parent.name)} | children_of(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_study_that_is_told_to_end_keeps_its_fits_and_leaves_no_process(
    hospitals_folder: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "study", tmp_path / "log.txt"
    command = evidence(hospitals_folder, out, *LONGER)
    with process(command, log=log, folder=PROJECT) as study:
        deadline = time.monotonic() + 300
        while not (out / JOURNAL).exists() or len((out / JOURNAL).read_text().splitlines()) < 3:
            assert time.monotonic() < deadline, log.read_text()
            assert study.poll() is None, log.read_text()
            time.sleep(0.05)
        others = children_of(study.pid)
        assert len(others) >= 2
        os.kill(study.pid, signal.SIGTERM)
        assert study.wait(120) == 130
    assert log.read_text().endswith("stopped\n")
    assert "Traceback" not in log.read_text()
    while any(map(is_alive, others)):
        assert time.monotonic() < deadline + 60, "a process of the study is still there"
        time.sleep(0.05)
    assert [path.name for path in out.iterdir()] == [JOURNAL]
    lines = (out / JOURNAL).read_text().splitlines()
    kept = [json.loads(line) for line in lines[1:]]
    assert 2 <= len(kept) < 20
    again = run(evidence(hospitals_folder, out, *LONGER))
    assert again.returncode == 0, again.stderr
    assert (out / JOURNAL).read_text().splitlines()[: len(lines)] == lines
    assert f"model {len(kept)}/20" in again.stdout
