"""A hospital's privacy budget: what was spent stays recorded, and nothing is spent beyond the budget."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from random import Random

import pytest

from federated_health import file_access
from federated_health.errors import BudgetError, PrivacyError
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of
from federated_health.privacy.budget import BudgetSummary, PrivacyBudget
from federated_health.privacy.spending import EvaluationSpend, RoundSpend, Spend, write_line
from tests.conftest import PROJECT

PLAN = PrivacyPlan(
    epsilon=1.0, delta=1e-5, clip=1.0, sampling_rate=0.5, steps=4, learning_rate=0.1, rounds=8, run="0" * 16
)
OTHER = replace(PLAN, run="1" * 16)
ROWS = 90
TORN = [b"{", b'{"time":"2026-11-', b"\0", b'{"time":"2026\0\0\0', b'{"ti\0\0', b'\0\0\0,"rounds":8}\n']


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


def budget_of(csv: Path) -> PrivacyBudget:
    return PrivacyBudget.beside(csv, "a")


def spend_rounds(
    budget: PrivacyBudget, times: int, plan: PrivacyPlan = PLAN, allowed_epsilon: float | None = None
) -> None:
    for _ in range(times):
        budget.spend(plan, allowed_epsilon)


def count_rounds_until_refused(budget: PrivacyBudget, plan: PrivacyPlan) -> int:
    """Rounds that a run may spend."""
    for done in range(plan.rounds + 1):
        try:
            budget.spend(plan)
        except BudgetError:
            return done
    raise AssertionError("never refused")


def lines_of(budget: PrivacyBudget) -> list[bytes]:
    assert budget.path is not None
    return budget.path.read_bytes().splitlines()


# One run


def test_the_line_of_a_round(csv: Path) -> None:
    before = datetime.now(UTC)
    budget = budget_of(csv)
    budget.spend(PLAN)
    assert budget.path == csv.with_name("privacy-a.jsonl")
    (line,) = lines_of(budget)
    entry = json.loads(line)
    assert -0.001 <= (datetime.fromisoformat(entry.pop("time")) - before).total_seconds() < 60
    assert entry == {
        "run": "0" * 16,
        "epsilon": 1.0,
        "delta": 1e-5,
        "clip": 1.0,
        "sampling_rate": 0.5,
        "noise_multiplier": PLAN.noise_multiplier,
        "steps": 4,
        "rounds": 8,
        "split": "",
    }


def test_the_file_is_readable_by_its_owner_only(csv: Path) -> None:
    before = os.umask(0)
    try:
        budget_of(csv).spend(PLAN)
    finally:
        os.umask(before)
    assert stat.S_IMODE(csv.with_name("privacy-a.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_a_run_spends_its_planned_rounds_and_no_more(is_on_disk: bool, csv: Path) -> None:
    budget = budget_of(csv) if is_on_disk else PrivacyBudget()
    budget.check_run(PLAN, ROWS)
    spend_rounds(budget, 8)
    with pytest.raises(BudgetError, match="run 0000000000000000 has used all its 8 rounds"):
        budget.spend(PLAN)
    with pytest.raises(BudgetError, match="all its 8 rounds"):
        budget.spend(PLAN, 50.0)  # a plan's promise holds whatever the hospital would allow
    with pytest.raises(BudgetError, match="all its 8 rounds"):
        budget.check_run(PLAN, ROWS, 50.0)
    summary = budget.summary()
    assert (summary.rounds, summary.delta) == (8, 1e-5)
    assert summary.epsilon == epsilon_of([Steps(0.5, PLAN.noise_multiplier, 32)], 1e-5)
    assert 0.999 < summary.epsilon <= 1.0


def test_checking_a_run_spends_nothing(csv: Path) -> None:
    budget_of(csv).check_run(PLAN, ROWS)
    assert list(csv.parent.iterdir()) == []


def test_a_resumed_run_has_the_rounds_that_are_left(csv: Path) -> None:
    spend_rounds(budget_of(csv), 5)
    budget = budget_of(csv)
    budget.check_run(PLAN, ROWS)
    spend_rounds(budget, 2)
    again = budget_of(csv)
    again.check_run(PLAN, ROWS)
    again.spend(PLAN)
    with pytest.raises(BudgetError, match="all its 8 rounds"):
        again.spend(PLAN)
    with pytest.raises(BudgetError, match="all its 8 rounds"):
        budget_of(csv).check_run(PLAN, ROWS)
    assert len(lines_of(again)) == 8


def test_a_smaller_budget_ends_a_run_early(csv: Path) -> None:
    spend_rounds(budget_of(csv), 2)
    budget = budget_of(csv)
    allowed = epsilon_of([Steps(0.5, PLAN.noise_multiplier, 20)], 1e-5)  # five rounds
    budget.check_run(PLAN, ROWS, allowed)
    spend_rounds(budget, 3, allowed_epsilon=allowed)
    with pytest.raises(BudgetError, match="--dp-budget"):
        budget.spend(PLAN, allowed)
    with pytest.raises(BudgetError, match="--dp-budget"):
        budget_of(csv).check_run(PLAN, ROWS, allowed)
    assert len(lines_of(budget)) == 5


def test_a_new_run_must_fit_into_the_budget_with_all_its_rounds(csv: Path) -> None:
    with pytest.raises(BudgetError, match=r"epsilon 0 of 0\.9 .* 0\.9999"):
        budget_of(csv).check_run(PLAN, ROWS, 0.9)
    budget_of(csv).check_run(PLAN, ROWS, 1.0)


@pytest.mark.parametrize(("rows", "is_allowed"), [(99_999, True), (100_000, False), (100_001, False)])
def test_delta_must_be_below_one_over_the_training_rows(rows: int, is_allowed: bool) -> None:
    budget = PrivacyBudget()
    if is_allowed:
        budget.check_run(PLAN, rows)
        return
    with pytest.raises(BudgetError, match=f"delta .*1/{rows}.* got 1e-05") as refused:
        budget.check_run(PLAN, rows, 50.0)
    assert refused.value.reason == str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLAN, epsilon=2.0),
        replace(PLAN, delta=1e-6),
        replace(PLAN, clip=2.0),
        replace(PLAN, sampling_rate=0.4),
        replace(PLAN, steps=3),
        replace(PLAN, rounds=9),
    ],
)
def test_a_run_cannot_change_its_promise(changed: PrivacyPlan, csv: Path) -> None:
    budget = budget_of(csv)
    budget.spend(PLAN, 10.0)
    with pytest.raises(BudgetError, match=r"run 0000000000000000 .*another privacy plan"):
        budget.check_run(changed, ROWS, 10.0)
    with pytest.raises(BudgetError, match="another privacy plan"):
        budget.spend(changed, 10.0)
    assert len(lines_of(budget)) == 1


def test_a_run_whose_noise_was_calibrated_otherwise_keeps_to_the_budget(csv: Path) -> None:
    """A later release of dp-accounting may allow a little less noise."""
    spend = replace(RoundSpend.of(PLAN), noise_multiplier=PLAN.noise_multiplier * 0.8)
    budget = budget_of(csv)
    assert budget.path is not None
    budget.path.write_bytes(4 * write_line(spend, datetime.now(UTC)))
    done = count_rounds_until_refused(budget, PLAN)
    costs = [epsilon_of([spend.times(4), RoundSpend.of(PLAN).times(rounds)], 1e-5) for rounds in (done, done + 1)]
    assert costs[0] <= 1.0 < costs[1]


# Several runs


def test_a_second_run_needs_a_larger_budget(csv: Path) -> None:
    spend_rounds(budget_of(csv), 8)
    budget = budget_of(csv)
    with pytest.raises(BudgetError, match=r"epsilon 0\.9999 of 1 .*1e-05.* 1\.458\. .*--dp-budget 1\.5\.") as caught:
        budget.check_run(OTHER, ROWS)
    assert str(budget.path) in str(caught.value)
    assert str(csv.parent) not in caught.value.reason
    assert "0.9999" not in caught.value.reason
    with pytest.raises(BudgetError):
        budget.check_run(OTHER, ROWS, 1.45)
    with pytest.raises(BudgetError):
        budget.spend(OTHER)
    budget.check_run(OTHER, ROWS, 1.46)
    spend_rounds(budget, 8, OTHER, 1.46)
    assert budget.summary().epsilon == epsilon_of([Steps(0.5, PLAN.noise_multiplier, 64)], 1e-5)


def test_a_later_run_does_not_raise_the_budget_of_the_first(csv: Path) -> None:
    """Not even a run with the minimum of noise, which costs less than its plan's epsilon."""
    spend_rounds(budget_of(csv), 8)
    greedy = replace(OTHER, epsilon=100.0, steps=1, rounds=1)
    assert epsilon_of([RoundSpend.of(PLAN).times(8), RoundSpend.of(greedy).times(1)], 1e-5) < 100.0
    budget = budget_of(csv)
    with pytest.raises(BudgetError, match=r"epsilon 0\.9999 of 1 "):
        budget.check_run(greedy, ROWS)
    with pytest.raises(BudgetError, match=r"epsilon 0\.9999 of 1 "):
        budget.spend(greedy)


def test_the_remaining_rounds_of_a_run_are_not_enough_for_another(csv: Path) -> None:
    spend_rounds(budget_of(csv), 3)
    with pytest.raises(BudgetError, match="--dp-budget"):
        budget_of(csv).check_run(OTHER, ROWS)


def test_an_unchecked_run_spends_up_to_the_budget(csv: Path) -> None:
    budget = budget_of(csv)
    spend_rounds(budget, 3)
    assert count_rounds_until_refused(budget, OTHER) == 5  # the same noise, so the same rounds in all
    assert len(lines_of(budget)) == 8


def test_runs_with_different_plans_compose(csv: Path) -> None:
    budget = budget_of(csv)
    different = replace(OTHER, epsilon=0.5, delta=1e-6, sampling_rate=1.0, steps=1, rounds=3)
    spend_rounds(budget, 8, allowed_epsilon=5.0)
    spend_rounds(budget, 3, different, 5.0)
    kinds = [Steps(0.5, PLAN.noise_multiplier, 32), Steps(1.0, different.noise_multiplier, 3)]
    summary = budget_of(csv).summary()
    assert summary.delta == 1e-6
    assert summary.epsilon == epsilon_of(kinds, 1e-6)
    first, second = summary.runs.values()
    assert list(summary.runs) == [PLAN.run, OTHER.run]
    assert (first.rounds, second.rounds) == (8, 3)
    assert first.epsilon("training") == epsilon_of(kinds[:1], 1e-5)
    assert second.epsilon("training") == epsilon_of(kinds[1:], 1e-6)
    assert second.last_round == RoundSpend.of(different)
    assert first.first <= first.last <= second.first <= second.last


def test_a_budget_is_at_the_smallest_delta_of_all_plans(csv: Path) -> None:
    strict = replace(OTHER, delta=1e-9)
    spend_rounds(budget_of(csv), 8, strict)
    whole = epsilon_of([RoundSpend.of(strict).times(8), RoundSpend.of(PLAN).times(8)], 1e-9)
    with pytest.raises(BudgetError, match="at delta 1e-09"):
        budget_of(csv).check_run(PLAN, ROWS, whole - 1e-6)
    budget_of(csv).check_run(PLAN, ROWS, whole)


def test_a_new_budget_is_unspent(csv: Path) -> None:
    summary = budget_of(csv).summary()
    assert (summary.epsilon, summary.delta, summary.rounds, summary.runs) == (0.0, None, 0, {})


# The final evaluation

SPLIT, OTHER_SPLIT = "a" * 16, "b" * 16


def test_the_line_of_an_evaluation(csv: Path) -> None:
    budget = budget_of(csv)
    budget.spend_evaluation(PLAN, split=SPLIT)
    (line,) = lines_of(budget)
    entry = json.loads(line)
    del entry["time"]
    assert entry == {
        "run": "0" * 16,
        "epsilon": 1.0,
        "delta": 1e-5,
        "evaluation_noise": PLAN.evaluation_noise,
        "split": SPLIT,
    }
    summary = budget_of(csv).summary()
    assert summary.spends == {EvaluationSpend.of(PLAN, SPLIT): 1}
    assert (summary.rounds, summary.delta) == (0, 1e-5)
    assert summary.runs[PLAN.run].is_evaluated


def test_a_run_is_evaluated_once_also_after_a_restart(csv: Path) -> None:
    spend_rounds(budget_of(csv), 8)
    budget_of(csv).spend_evaluation(PLAN)
    for budget in (budget_of(csv), budget_of(csv)):
        with pytest.raises(BudgetError, match="expected once"):
            budget.spend_evaluation(PLAN, 50.0)
    assert len(lines_of(budget_of(csv))) == 9


def test_with_one_split_the_evaluation_costs_no_more_epsilon(csv: Path) -> None:
    budget = budget_of(csv)
    for _ in range(8):
        budget.spend(PLAN, split=SPLIT)
    budget.spend_evaluation(PLAN, split=SPLIT)
    summary = budget.summary()
    training, held_out = (summary.epsilon_of_side(side) for side in ("training", "held-out"))
    assert summary.epsilon == max(training, held_out) <= 1.0
    assert training == epsilon_of([Steps(0.5, PLAN.noise_multiplier, 32)], 1e-5)
    assert held_out == epsilon_of([Steps(1.0, PLAN.evaluation_noise, 1)], 1e-5)


def test_evaluations_of_several_runs_are_added_up(csv: Path) -> None:
    """Here they cost more than the trainings, which were of one round each."""
    short, again = replace(PLAN, rounds=1, epsilon=0.5), replace(PLAN, rounds=1, epsilon=0.5, run="2" * 16)
    budget = budget_of(csv)
    for plan in (short, again):
        budget.spend(plan, 5.0, split=SPLIT)
        budget.spend_evaluation(plan, 5.0, split=SPLIT)
    summary = budget.summary()
    assert summary.epsilon_of_side("held-out") == epsilon_of([Steps(1.0, short.evaluation_noise, 2)], 1e-5) > 0.6
    third = replace(short, run="3" * 16)
    with pytest.raises(BudgetError, match="--dp-budget"):
        budget.check_run(third, ROWS, summary.epsilon + 0.01, split=SPLIT)


def test_with_different_splits_both_sides_are_added_up(csv: Path) -> None:
    """A patient may have been in training in one run and held out in the other."""
    budget = budget_of(csv)
    budget.spend(PLAN, 5.0, split=SPLIT)
    budget.spend_evaluation(OTHER, 5.0, split=OTHER_SPLIT)
    training, evaluation = Steps(0.5, PLAN.noise_multiplier, 4), Steps(1.0, OTHER.evaluation_noise, 1)
    assert budget.summary().epsilon == epsilon_of([training, evaluation], 1e-5) > 1.0


def test_an_evaluation_that_exceeds_the_budget_is_refused_and_not_recorded(csv: Path) -> None:
    budget = budget_of(csv)
    budget.spend_evaluation(PLAN, split=SPLIT)
    with pytest.raises(BudgetError, match=r"could raise it to 1\.4"):
        budget.spend_evaluation(OTHER, split=SPLIT)
    assert len(lines_of(budget)) == 1


def test_a_run_begun_before_lines_had_a_split_is_continued(csv: Path) -> None:
    spend_rounds(budget_of(csv), 3)
    budget = budget_of(csv)
    budget.check_run(PLAN, ROWS, split=SPLIT)
    budget.spend(PLAN, split=SPLIT)
    assert budget.summary().rounds == 4


def test_the_message_of_a_spent_budget_says_how_to_go_on(csv: Path) -> None:
    spend_rounds(budget_of(csv), 8)
    with pytest.raises(BudgetError) as caught:
        budget_of(csv).check_run(OTHER, ROWS)
    text = str(caught.value)
    needed = float(text.partition("--dp-budget ")[2].split()[0].rstrip("."))
    budget_of(csv).check_run(OTHER, ROWS, needed)  # what it names is enough
    assert "create_dataset.py --out" in text


# The file


@pytest.mark.parametrize("tail", TORN)
def test_an_incomplete_last_line_does_not_count(tail: bytes, csv: Path) -> None:
    budget = budget_of(csv)
    spend_rounds(budget, 2)
    assert budget.path is not None
    whole = budget.path.read_bytes()
    with budget.path.open("ab") as file:
        file.write(tail)
    assert budget.summary().rounds == budget_of(csv).summary().rounds == 2
    spend_rounds(budget, 1)
    spend_rounds(budget_of(csv), 1)
    assert budget.path.read_bytes().startswith(whole)
    assert [json.loads(line)["run"] for line in lines_of(budget)] == ["0" * 16] * 4


@pytest.mark.parametrize("tail", TORN)
def test_an_incomplete_first_line_does_not_count(tail: bytes, csv: Path) -> None:
    budget = budget_of(csv)
    assert budget.path is not None
    budget.path.write_bytes(tail)
    budget.check_run(PLAN, ROWS)
    budget.spend(PLAN)
    assert budget_of(csv).summary().rounds == len(lines_of(budget)) == 1


def test_a_last_line_without_a_line_break_counts(csv: Path) -> None:
    budget = budget_of(csv)
    spend_rounds(budget, 2)
    assert budget.path is not None
    budget.path.write_bytes(budget.path.read_bytes()[:-1])
    first, second = budget_of(csv), budget_of(csv)
    assert first.summary().rounds == second.summary().rounds == 2
    first.spend(PLAN)
    assert first.summary().rounds == second.summary().rounds == budget_of(csv).summary().rounds == 3
    assert len(lines_of(first)) == 3


def altered(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}, separators=(",", ":")).encode() + b"\n"


LINE = write_line(RoundSpend.of(replace(PLAN, epsilon=1.0)), datetime(2026, 11, 22, tzinfo=UTC))


@pytest.mark.parametrize(
    "line",
    [
        b"x\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"time":\n',
        b'{"time":"2026-11-22"}\n',
        b"[" * 100_000 + b"\n",
        b"age,sex\n",
        b"age",
        LINE[:40] + b"\n",
        LINE[:-2] + b"\n",
        LINE[1:],
        LINE.replace(b"{", b"{{", 1),
        altered(LINE, time=5),
        altered(LINE, time="yesterday"),
        altered(LINE, run="../.."),
        altered(LINE, steps=-4),
        altered(LINE, steps=4.0),
        altered(LINE, steps=True),
        altered(LINE, noise_multiplier=0.0),
        altered(LINE, noise_multiplier=-1.0),
        altered(LINE, noise_multiplier=float("nan")),
        altered(LINE, noise_multiplier=float("inf")),
        altered(LINE, sampling_rate=0.0),
        altered(LINE, delta=2.0),
        altered(LINE, patients=3),
        altered(LINE, epsilon="1"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_an_invalid_line_makes_the_file_unusable(line: bytes, place: int, csv: Path) -> None:
    budget = budget_of(csv)
    assert budget.path is not None
    content = line + LINE if place == 1 and line.endswith(b"\n") else LINE * (place - 1) + line
    budget.path.write_bytes(content)
    for use in (
        lambda: budget_of(csv).check_run(PLAN, ROWS, 50.0),
        lambda: budget_of(csv).spend(PLAN, 50.0),
        lambda: budget_of(csv).summary(),
    ):
        with pytest.raises(PrivacyError, match=f"line {place}: is not a line") as caught:
            use()
        assert str(budget.path) in str(caught.value)
        assert caught.value.reason == PrivacyError.default_reason
    assert budget.path.read_bytes() == content


@pytest.mark.parametrize("tail", TORN)
def test_a_line_after_an_incomplete_one_is_an_error(tail: bytes, csv: Path) -> None:
    budget = budget_of(csv)
    assert budget.path is not None
    budget.path.write_bytes(tail.rstrip(b"\n") + b"\n" + LINE)
    with pytest.raises(PrivacyError, match="line 1: is not a line"):
        budget.spend(PLAN, 50.0)


def test_a_line_damaged_during_a_run_is_named_by_its_number(csv: Path) -> None:
    budget = budget_of(csv)
    spend_rounds(budget, 1)
    spend_rounds(budget_of(csv), 2)
    assert budget.summary().rounds == 3
    assert budget.path is not None
    with budget.path.open("ab") as file:
        file.write(b"x\n")
    with pytest.raises(PrivacyError, match="line 4: is not a line"):
        budget.spend(PLAN)


def test_a_rejected_file_leaves_no_trace_once_the_right_one_is_back(csv: Path) -> None:
    spend_rounds(budget_of(csv), 3)
    budget = budget_of(csv)
    assert budget.path is not None
    right = budget.path.read_bytes()
    budget.path.write_bytes(right.replace(PLAN.run.encode(), OTHER.run.encode()) + b"x\n")
    with pytest.raises(PrivacyError, match="is not a line"):
        budget.summary()
    budget.path.write_bytes(right)
    assert list(budget.summary().runs) == [PLAN.run]
    assert budget.summary().rounds == 3


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_lost_lines_are_an_error(change: object, csv: Path) -> None:
    budget = budget_of(csv)
    spend_rounds(budget, 3)
    assert budget.path is not None
    assert callable(change)
    change(budget.path)
    with pytest.raises(PrivacyError, match=r"fewer lines|cannot be read"):
        budget.summary()
    with pytest.raises(PrivacyError, match="fewer lines"):
        budget.spend(PLAN)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_round_in_a_read_only_folder_is_not_spent(error: int, csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    budget = budget_of(csv)
    budget.check_run(PLAN, ROWS)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PrivacyError, match=f"cannot be written .{os.strerror(error)}") as caught:
        budget.spend(PLAN)
    assert str(budget.path) in str(caught.value)
    assert caught.value.reason == PrivacyError.default_reason
    assert budget.summary().rounds == 0


def test_a_half_written_line_on_a_full_disk_does_not_count(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = budget_of(csv)
    spend_rounds(budget, 2)

    def write_half(file: FileIO, line: bytes) -> None:
        file.write(line[: len(line) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(file_access, "append", write_half)
        with pytest.raises(PrivacyError, match="No space left on device"):
            budget.spend(PLAN)
    assert len(lines_of(budget)) == 3
    spend_rounds(budget, 6)
    with pytest.raises(BudgetError):
        budget.spend(PLAN)
    assert budget_of(csv).summary().rounds == len(lines_of(budget)) == 8


def test_a_round_that_may_be_on_disk_counts(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = budget_of(csv)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    budget.spend(PLAN)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(PrivacyError, match="Input/output error"):
            budget.spend(PLAN)
    spend_rounds(budget, 6)
    with pytest.raises(BudgetError):
        budget.spend(PLAN)


def test_a_round_is_on_the_disk_when_spend_returns(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, events = budget_of(csv), list[tuple[str, int]]()
    real = os.fsync

    def fsync(file: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
        events.append(("folder", 0) if is_folder else ("file", os.fstat(file).st_size))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert budget.path is not None
    budget.spend(PLAN)
    size = budget.path.stat().st_size
    assert sorted(events) == [("file", size), ("folder", 0)]
    events.clear()
    budget.spend(PLAN)
    assert events == [("file", budget.path.stat().st_size)]
    assert budget.path.stat().st_size == 2 * size


def test_a_round_on_a_full_disk_is_not_spent(csv: Path) -> None:
    budget = budget_of(csv)
    assert budget.path is not None
    budget.path.symlink_to("/dev/full")
    with pytest.raises(PrivacyError, match="cannot be written"):
        budget.spend(PLAN)


# Processes

SPEND_LOOP = """
import sys
from federated_health.errors import BudgetError
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy import accounting
from federated_health.privacy.budget import PrivacyBudget
from pathlib import Path

accounting.calibrate = lambda *_: 50.0  # the accountant takes seconds to import
plan = PrivacyPlan(
    epsilon=1.0, delta=1e-5, clip=1.0, sampling_rate=0.5, steps=1, learning_rate=0.1, rounds=int(sys.argv[2]),
    run="0" * 16,
)
budget = PrivacyBudget.beside(Path(sys.argv[1]), "a")
print("ready", flush=True)
try:
    while True:
        budget.spend(plan)
        sys.stdout.write("drawn\\n")
        sys.stdout.flush()
except BudgetError:
    print("spent", flush=True)
"""


def start_spending(csv: Path, rounds: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SPEND_LOOP, str(csv), str(rounds)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_a_killed_process_has_recorded_every_round_it_drew_noise_for(csv: Path) -> None:
    draw, drawn = Random(6), 0
    for _ in range(5):
        with start_spending(csv, 3_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready")
            time.sleep(draw.uniform(0.005, 0.1))
            process.send_signal(signal.SIGKILL)
            drawn += process.stdout.read().count("drawn\n")
        budget = budget_of(csv)
        recorded = budget.summary().rounds
        assert drawn <= recorded <= drawn + 5
    assert drawn > 5


@pytest.mark.slow
def test_processes_that_share_a_file_share_its_budget(csv: Path) -> None:
    with start_spending(csv, 400) as first, start_spending(csv, 400) as second:
        outputs = [process.communicate(timeout=100)[0].splitlines() for process in (first, second)]
    assert [lines[-1] for lines in outputs] == ["spent", "spent"]
    assert sum(lines.count("drawn") for lines in outputs) == 400
    assert budget_of(csv).summary().rounds == len(lines_of(budget_of(csv))) == 400


def test_a_round_waits_while_another_is_written(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock belongs to an open file, so that a thread waits as another process would."""
    budget, is_locking, flock = budget_of(csv), threading.Event(), fcntl.flock
    spend_rounds(budget, 1)
    assert budget.path is not None

    def report_and_lock(file: FileIO, operation: int) -> None:
        is_locking.set()
        flock(file, operation)

    other = threading.Thread(target=spend_rounds, args=(budget_of(csv), 1))
    with file_access.open_to_append(budget.path, lock=True):
        monkeypatch.setattr(fcntl, "flock", report_and_lock)
        other.start()
        assert is_locking.wait(60)
        other.join(0.2)
        assert other.is_alive()
        assert len(lines_of(budget)) == 1
    other.join(60)
    assert len(lines_of(budget)) == 2
    spend_rounds(budget, 6)
    with pytest.raises(BudgetError):
        budget.spend(PLAN)


# Cost


def test_the_accountant_computes_once_per_run(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, deltas = budget_of(csv), list[float]()
    spend_rounds(budget, 8)
    real = BudgetSummary.epsilon_at

    def counted(self: BudgetSummary, delta: float, *more: tuple[Spend, int]) -> float:
        deltas.append(delta)
        return real(self, delta, *more)

    monkeypatch.setattr(BudgetSummary, "epsilon_at", counted)
    budget.spend(OTHER, 1.46)
    assert len(deltas) == 1  # all of them fit
    spend_rounds(budget, 7, OTHER, 1.46)
    assert len(deltas) == 1


# An account in another folder


def test_an_account_in_another_folder_is_found_with_its_folder_only(csv: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "records", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    PrivacyBudget.beside(csv, "a", folder).spend(PLAN)
    assert PrivacyBudget.beside(csv, "a", folder).summary().rounds == 1
    assert [path.name for path in folder.iterdir()] == ["privacy-a.jsonl"]
    assert not (tmp_path / "privacy-a.jsonl").exists()
    for wrong in (None, other, tmp_path):
        with pytest.raises(PrivacyError, match=f"{folder}/privacy-a.jsonl: is the privacy account"):
            PrivacyBudget.beside(csv, "a", wrong)
    (folder / "privacy-a.jsonl").rename(other / "privacy-a.jsonl")
    assert PrivacyBudget.beside(csv, "a", other).summary().rounds == 1
    PrivacyBudget.beside(csv, "a", other).spend(PLAN)
    assert PrivacyBudget.beside(csv, "a", other).summary().rounds == 2
    with pytest.raises(PrivacyError, match=f"{other}/privacy-a.jsonl: is the privacy account"):
        PrivacyBudget.beside(csv, "a", folder)


def test_a_second_account_is_refused_where_one_is_beside_the_csv(csv: Path, tmp_path: Path) -> None:
    budget_of(csv).spend(PLAN)
    with pytest.raises(PrivacyError, match=r"privacy-a\.jsonl: is the privacy account .* move it to"):
        PrivacyBudget.beside(csv, "a", tmp_path / "records")
    assert PrivacyBudget.beside(csv, "a", tmp_path).summary().rounds == 1  # the same folder


def test_an_account_that_was_moved_back_beside_the_csv_is_used(csv: Path, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    PrivacyBudget.beside(csv, "a", tmp_path / "records").spend(PLAN)
    (tmp_path / "records" / "privacy-a.jsonl").rename(tmp_path / "privacy-a.jsonl")
    assert budget_of(csv).summary().rounds == 1


@pytest.mark.parametrize("folder", [None, "records"])
def test_an_account_that_is_missing_where_it_was_is_an_error(csv: Path, tmp_path: Path, folder: str | None) -> None:
    (tmp_path / "records").mkdir()
    PrivacyBudget.beside(csv, "a", tmp_path / "records").spend(PLAN)
    (tmp_path / "records" / "privacy-a.jsonl").unlink()
    with pytest.raises(PrivacyError, match=r"records/privacy-a\.jsonl: .* is missing"):
        PrivacyBudget.beside(csv, "a", tmp_path / folder if folder else None)


def test_a_folder_that_cannot_be_written_to_is_an_error_before_the_first_round(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere but on a read-only disk, so the refusal is simulated."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PrivacyError, match=r"cannot be written.*--ledger"):
        budget_of(csv).check_run(PLAN, ROWS)
