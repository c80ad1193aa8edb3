"""Tasks in this process and in worker processes; test_benefit_journal.py kills and stops workers."""

import os
from functools import partial
from pathlib import Path

import pytest

from federated_health.errors import DataError, RunError
from federated_health.studies.workers import run_tasks


def divide(number: int, divisor: int) -> float:
    if number < 0:
        raise DataError("is below 0")
    return number / divisor


def results_of(tasks: list[int], *, divisor: int = 4, jobs: int = 1) -> dict[int, float]:
    saved: dict[int, float] = {}
    run_tasks(
        tasks,
        partial(divide, divisor=divisor),
        jobs=jobs,
        save=saved.__setitem__,
        show=lambda *_: None,
        crashed="a worker died",
    )
    return saved


def test_every_task_gets_its_result() -> None:
    assert results_of([1, 2, 3]) == {1: 0.25, 2: 0.5, 3: 0.75}


def test_progress_counts_tasks_that_were_finished_earlier() -> None:
    shown: list[tuple[int, int]] = []
    run_tasks(
        [1, 2],
        partial(divide, divisor=4),
        jobs=1,
        save=lambda *_: None,
        show=lambda done, total: shown.append((done, total)),
        crashed="a worker died",
        finished=3,
    )
    assert shown == [(3, 5), (4, 5), (5, 5)]


def test_a_user_error_names_its_task_and_earlier_results_are_saved() -> None:
    saved: dict[int, float] = {}
    with pytest.raises(RunError, match=r"^-2: .*below 0"):
        run_tasks(
            [1, -2, 3],
            partial(divide, divisor=4),
            jobs=1,
            save=saved.__setitem__,
            show=lambda *_: None,
            crashed="a worker died",
        )
    assert saved == {1: 0.25}


def test_any_other_error_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        results_of([1], divisor=0)


@pytest.mark.slow
def test_two_processes_give_the_same_results_and_errors() -> None:
    assert results_of([1, 2, 3], jobs=2) == {1: 0.25, 2: 0.5, 3: 0.75}
    with pytest.raises(RunError, match=r"^-2: .*below 0"):
        results_of([-2, -2], jobs=2)


@pytest.mark.slow
def test_worker_processes_import_no_module_of_the_current_folder(in_folder: Path) -> None:
    (in_folder / "types.py").write_text("raise ImportError('a module of the current folder')")
    assert results_of([1, 2, 3], jobs=2) == {1: 0.25, 2: 0.5, 3: 0.75}
    assert "PYTHONSAFEPATH" not in os.environ  # which other child processes would inherit
