"""Work that is done in this process; over several, test_benefit_journal.py and test_audit_study.py do it."""

from collections.abc import Callable

import pytest

from federated_health.errors import DataError, RunError
from federated_health.studies.workers import workers


def begin(divisor: int) -> Callable[[int], float]:
    def divide(number: int) -> float:
        if number < 0:
            raise DataError(f"{number}: is below 0")
        return number / divisor

    return divide


def test_every_piece_comes_back_with_its_result() -> None:
    with workers(1, begin, 4, died="gone") as run:
        assert dict(run([1, 2, 3])) == {1: 0.25, 2: 0.5, 3: 0.75}


def test_a_user_s_mistake_comes_back_in_its_own_words_after_what_was_done_before() -> None:
    with workers(1, begin, 4, died="gone") as run:
        results = run([1, -2, 3])
        assert next(results) == (1, 0.25)
        with pytest.raises(RunError, match=r"^-2: is below 0$"):
            next(results)


def test_any_other_error_is_not_swallowed() -> None:
    with workers(1, begin, 0, died="gone") as run, pytest.raises(ZeroDivisionError):
        list(run([1]))


@pytest.mark.slow
def test_two_processes_do_the_same_and_say_the_same() -> None:
    with workers(2, begin, 4, died="gone") as run:
        assert dict(run([1, 2, 3])) == {1: 0.25, 2: 0.5, 3: 0.75}
    with workers(2, begin, 4, died="gone") as run, pytest.raises(RunError, match=r"^-2: is below 0$"):
        list(run([-2]))
