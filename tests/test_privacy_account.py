"""A hospital's privacy account: what was charged stays charged, and nothing is charged past the budget."""

import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from random import Random

import pytest

from federated_health import files
from federated_health.errors import BudgetError, PrivacyError
from federated_health.privacy import Account, PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of
from federated_health.privacy.charges import Charge, Charges, write_line
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


def account_of(csv: Path) -> Account:
    return Account.beside(csv, "a")


def charge_times(account: Account, times: int, plan: PrivacyPlan = PLAN, budget: float | None = None) -> None:
    for _ in range(times):
        account.charge(plan, budget)


def count_charges(account: Account, plan: PrivacyPlan) -> int:
    """Until the account refuses more."""
    for done in range(plan.rounds + 1):
        try:
            account.charge(plan)
        except BudgetError:
            return done
    raise AssertionError("never refused")


def lines_of(account: Account) -> list[bytes]:
    assert account.path is not None
    return account.path.read_bytes().splitlines()


# One run


def test_a_line_to_the_letter(csv: Path) -> None:
    before = datetime.now(UTC)
    account = account_of(csv)
    account.charge(PLAN)
    assert account.path == csv.with_name("privacy-a.jsonl")
    (line,) = lines_of(account)
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
    }


def test_it_is_for_its_owner_only(csv: Path) -> None:
    before = os.umask(0)
    try:
        account_of(csv).charge(PLAN)
    finally:
        os.umask(before)
    assert stat.S_IMODE(csv.with_name("privacy-a.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_as_many_rounds_are_charged_as_were_planned_and_none_more(is_on_disk: bool, csv: Path) -> None:
    account = account_of(csv) if is_on_disk else Account.in_memory()
    account.admit(PLAN, ROWS)
    charge_times(account, 8)
    with pytest.raises(BudgetError, match="all 8 rounds that run 0000000000000000 may be charged have been"):
        account.charge(PLAN)
    with pytest.raises(BudgetError, match="all 8 rounds"):
        account.charge(PLAN, 50.0)  # a plan's promise holds whatever the hospital would allow
    with pytest.raises(BudgetError, match="all 8 rounds"):
        account.admit(PLAN, ROWS, 50.0)
    statement = account.statement()
    assert (statement.charged, statement.delta) == (8, 1e-5)
    assert statement.epsilon == epsilon_of([Steps(0.5, PLAN.noise_multiplier, 32)], 1e-5)
    assert 0.999 < statement.epsilon <= 1.0


def test_admitting_charges_nothing(csv: Path) -> None:
    account_of(csv).admit(PLAN, ROWS)
    assert list(csv.parent.iterdir()) == []


def test_a_resumed_run_goes_on_with_what_is_left(csv: Path) -> None:
    charge_times(account_of(csv), 5)
    account = account_of(csv)
    account.admit(PLAN, ROWS)
    charge_times(account, 2)
    again = account_of(csv)
    again.admit(PLAN, ROWS)
    again.charge(PLAN)
    with pytest.raises(BudgetError, match="all 8 rounds"):
        again.charge(PLAN)
    with pytest.raises(BudgetError, match="all 8 rounds"):
        account_of(csv).admit(PLAN, ROWS)
    assert len(lines_of(again)) == 8


def test_a_smaller_budget_ends_a_run_early(csv: Path) -> None:
    charge_times(account_of(csv), 2)
    account = account_of(csv)
    allowed = epsilon_of([Steps(0.5, PLAN.noise_multiplier, 20)], 1e-5)  # five rounds
    account.admit(PLAN, ROWS, allowed)
    charge_times(account, 3, budget=allowed)
    with pytest.raises(BudgetError, match="--dp-budget allows more"):
        account.charge(PLAN, allowed)
    with pytest.raises(BudgetError, match="--dp-budget allows more"):
        account_of(csv).admit(PLAN, ROWS, allowed)
    assert len(lines_of(account)) == 5


def test_a_run_that_does_not_fit_whole_is_not_begun(csv: Path) -> None:
    with pytest.raises(BudgetError, match=r"cost epsilon 0 so far and may cost 0\.9 in all .* could make it 0\.9999"):
        account_of(csv).admit(PLAN, ROWS, 0.9)
    account_of(csv).admit(PLAN, ROWS, 1.0)


@pytest.mark.parametrize(("rows", "is_allowed"), [(99_999, True), (100_000, False), (100_001, False)])
def test_a_delta_that_would_allow_to_publish_a_row_is_refused(rows: int, is_allowed: bool) -> None:
    account = Account.in_memory()
    if is_allowed:
        account.admit(PLAN, rows)
        return
    with pytest.raises(BudgetError, match=f"delta 1e-05 is not below 1/{rows}") as refused:
        account.admit(PLAN, rows, 50.0)
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
    account = account_of(csv)
    account.charge(PLAN, 10.0)
    with pytest.raises(BudgetError, match="run 0000000000000000 was begun with another privacy plan"):
        account.admit(changed, ROWS, 10.0)
    with pytest.raises(BudgetError, match="was begun with another privacy plan"):
        account.charge(changed, 10.0)
    assert len(lines_of(account)) == 1


def test_a_run_whose_noise_was_calibrated_otherwise_keeps_to_the_budget(csv: Path) -> None:
    """As where a release of dp-accounting, new since the run was stopped, allows a little less noise."""
    charge = replace(Charge.of(PLAN), noise_multiplier=PLAN.noise_multiplier * 0.8)
    account = account_of(csv)
    assert account.path is not None
    account.path.write_bytes(4 * write_line(charge, datetime.now(UTC)))
    done = count_charges(account, PLAN)
    costs = [epsilon_of([charge.times(4), Charge.of(PLAN).times(rounds)], 1e-5) for rounds in (done, done + 1)]
    assert costs[0] <= 1.0 < costs[1]


# Several runs


def test_a_second_run_is_refused_and_a_larger_budget_admits_it(csv: Path) -> None:
    charge_times(account_of(csv), 8)
    account = account_of(csv)
    with pytest.raises(BudgetError) as refused:
        account.admit(OTHER, ROWS)
    assert str(refused.value) == (
        f"{account.path}: these rows have cost epsilon 0.9999 so far and may cost 1 in all (at delta 1e-05), and the "
        "run could make it 1.458; --dp-budget allows more"
    )
    assert refused.value.reason == (
        "what its patients' privacy may cost in all does not allow the run, or the rest of it"
    )
    with pytest.raises(BudgetError):
        account.admit(OTHER, ROWS, 1.45)
    with pytest.raises(BudgetError):
        account.charge(OTHER)
    account.admit(OTHER, ROWS, 1.46)
    charge_times(account, 8, OTHER, 1.46)
    assert account.statement().epsilon == epsilon_of([Steps(0.5, PLAN.noise_multiplier, 64)], 1e-5)


def test_no_later_run_raises_the_budget_of_the_first(csv: Path) -> None:
    """Not even one whose noise, the least that there is, costs less than the epsilon that it asks for."""
    charge_times(account_of(csv), 8)
    greedy = replace(OTHER, epsilon=100.0, steps=1, rounds=1)
    assert epsilon_of([Charge.of(PLAN).times(8), Charge.of(greedy).times(1)], 1e-5) < 100.0
    account = account_of(csv)
    with pytest.raises(BudgetError, match=r"may cost 1 in all"):
        account.admit(greedy, ROWS)
    with pytest.raises(BudgetError, match=r"may cost 1 in all"):
        account.charge(greedy)


def test_what_one_run_left_over_is_not_enough_for_another(csv: Path) -> None:
    charge_times(account_of(csv), 3)
    with pytest.raises(BudgetError, match="--dp-budget"):
        account_of(csv).admit(OTHER, ROWS)


def test_a_run_that_was_not_admitted_is_charged_up_to_the_budget_only(csv: Path) -> None:
    account = account_of(csv)
    charge_times(account, 3)
    assert count_charges(account, OTHER) == 5  # the same noise, so the same rounds in all
    assert len(lines_of(account)) == 8


def test_runs_of_other_figures_compose(csv: Path) -> None:
    account = account_of(csv)
    unlike = replace(OTHER, epsilon=0.5, delta=1e-6, sampling_rate=1.0, steps=1, rounds=3)
    charge_times(account, 8, budget=5.0)
    charge_times(account, 3, unlike, 5.0)
    kinds = [Steps(0.5, PLAN.noise_multiplier, 32), Steps(1.0, unlike.noise_multiplier, 3)]
    statement = account_of(csv).statement()
    assert statement.delta == 1e-6
    assert statement.epsilon == epsilon_of(kinds, 1e-6)
    assert account.statement(1e-3).epsilon == epsilon_of(kinds, 1e-3) < statement.epsilon
    first, second = statement.runs.values()
    assert list(statement.runs) == [PLAN.run, OTHER.run]
    assert (first.charged, second.charged) == (8, 3)
    assert first.epsilon == epsilon_of(kinds[:1], 1e-5)
    assert second.epsilon == epsilon_of(kinds[1:], 1e-6)
    assert second.promised == Charge.of(unlike)
    assert first.first <= first.last <= second.first <= second.last


def test_a_budget_is_of_the_smallest_delta_that_was_promised(csv: Path) -> None:
    strict = replace(OTHER, delta=1e-9)
    charge_times(account_of(csv), 8, strict)
    whole = epsilon_of([Charge.of(strict).times(8), Charge.of(PLAN).times(8)], 1e-9)
    with pytest.raises(BudgetError, match="at delta 1e-09"):
        account_of(csv).admit(PLAN, ROWS, whole - 1e-6)
    account_of(csv).admit(PLAN, ROWS, whole)


def test_nothing_was_charged_yet(csv: Path) -> None:
    statement = account_of(csv).statement()
    assert (statement.epsilon, statement.delta, statement.charged, statement.runs) == (0.0, None, 0, {})


# The file


@pytest.mark.parametrize("tail", TORN)
def test_a_line_that_was_cut_off_was_not_charged(tail: bytes, csv: Path) -> None:
    account = account_of(csv)
    charge_times(account, 2)
    assert account.path is not None
    whole = account.path.read_bytes()
    with account.path.open("ab") as file:
        file.write(tail)
    for one in (account, account_of(csv)):
        assert one.statement().charged == 2
    charge_times(account, 1)
    charge_times(account_of(csv), 1)
    assert account.path.read_bytes().startswith(whole)
    assert [json.loads(line)["run"] for line in lines_of(account)] == ["0" * 16] * 4


@pytest.mark.parametrize("tail", TORN)
def test_a_first_line_that_was_cut_off(tail: bytes, csv: Path) -> None:
    account = account_of(csv)
    assert account.path is not None
    account.path.write_bytes(tail)
    account.admit(PLAN, ROWS)
    account.charge(PLAN)
    assert account_of(csv).statement().charged == len(lines_of(account)) == 1


def test_a_line_that_lacks_its_end_only_counts(csv: Path) -> None:
    account = account_of(csv)
    charge_times(account, 2)
    assert account.path is not None
    account.path.write_bytes(account.path.read_bytes()[:-1])
    one, other = account_of(csv), account_of(csv)
    assert one.statement().charged == other.statement().charged == 2
    one.charge(PLAN)
    assert one.statement().charged == other.statement().charged == account_of(csv).statement().charged == 3
    assert len(lines_of(one)) == 3


def spoilt(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}, separators=(",", ":")).encode() + b"\n"


LINE = write_line(Charge.of(replace(PLAN, epsilon=1.0)), datetime(2026, 11, 22, tzinfo=UTC))


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
        spoilt(LINE, time=5),
        spoilt(LINE, time="yesterday"),
        spoilt(LINE, run="../.."),
        spoilt(LINE, steps=-4),
        spoilt(LINE, steps=4.0),
        spoilt(LINE, steps=True),
        spoilt(LINE, noise_multiplier=0.0),
        spoilt(LINE, noise_multiplier=-1.0),
        spoilt(LINE, noise_multiplier=float("nan")),
        spoilt(LINE, noise_multiplier=float("inf")),
        spoilt(LINE, sampling_rate=0.0),
        spoilt(LINE, delta=2.0),
        spoilt(LINE, patients=3),
        spoilt(LINE, epsilon="1"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_a_line_that_is_no_charge_makes_the_file_unusable(line: bytes, place: int, csv: Path) -> None:
    account = account_of(csv)
    assert account.path is not None
    content = line + LINE if place == 1 and line.endswith(b"\n") else LINE * (place - 1) + line
    account.path.write_bytes(content)
    words = f"^{account.path}, line {place}: is not a charge of a privacy account; put back"
    for refused in (
        lambda: account_of(csv).admit(PLAN, ROWS, 50.0),
        lambda: account_of(csv).charge(PLAN, 50.0),
        lambda: account_of(csv).statement(),
    ):
        with pytest.raises(PrivacyError, match=words) as error:
            refused()
        assert error.value.reason == "its privacy account cannot be used"
    assert account.path.read_bytes() == content


@pytest.mark.parametrize("tail", TORN)
def test_no_charge_stands_behind_a_line_that_was_cut_off(tail: bytes, csv: Path) -> None:
    account = account_of(csv)
    assert account.path is not None
    account.path.write_bytes(tail.rstrip(b"\n") + b"\n" + LINE)
    with pytest.raises(PrivacyError, match="line 1: is not a charge"):
        account.charge(PLAN, 50.0)


def test_a_line_that_goes_bad_while_a_hospital_trains_is_told_by_its_number(csv: Path) -> None:
    account = account_of(csv)
    charge_times(account, 1)
    charge_times(account_of(csv), 2)
    assert account.statement().charged == 3
    assert account.path is not None
    with account.path.open("ab") as file:
        file.write(b"x\n")
    with pytest.raises(PrivacyError, match="line 4: is not a charge"):
        account.charge(PLAN)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_charges_that_are_gone_are_missed(change: object, csv: Path) -> None:
    account = account_of(csv)
    charge_times(account, 3)
    assert account.path is not None
    assert callable(change)
    change(account.path)
    with pytest.raises(PrivacyError, match=r"has lost charges that it held|cannot be read"):
        account.statement()
    with pytest.raises(PrivacyError, match="has lost charges that it held"):
        account.charge(PLAN)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_folder_that_is_read_only(error: int, csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    account = account_of(csv)
    account.admit(PLAN, ROWS)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PrivacyError) as refused:
        account.charge(PLAN)
    assert str(refused.value) == (
        f"{account.path}: cannot be written to ({os.strerror(error)}); what cannot be charged is not trained"
    )
    assert refused.value.reason == "its privacy account cannot be used"


def test_a_disk_that_is_full_for_a_while(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = account_of(csv)
    charge_times(account, 2)

    def write_half(file: FileIO, line: bytes) -> None:
        file.write(line[: len(line) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "append", write_half)
        with pytest.raises(PrivacyError, match="No space left on device"):
            account.charge(PLAN)
    assert len(lines_of(account)) == 3
    charge_times(account, 6)
    with pytest.raises(BudgetError):
        account.charge(PLAN)
    assert account_of(csv).statement().charged == len(lines_of(account)) == 8


def test_a_charge_that_may_be_on_the_disk_counts(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = account_of(csv)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    account.charge(PLAN)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(PrivacyError, match="Input/output error"):
            account.charge(PLAN)
    charge_times(account, 6)
    with pytest.raises(BudgetError):
        account.charge(PLAN)


def test_a_charge_is_on_the_disk_when_it_returns(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account, events = account_of(csv), list[tuple[str, int]]()
    real = os.fsync

    def fsync(file: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
        events.append(("folder", 0) if is_folder else ("file", os.fstat(file).st_size))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert account.path is not None
    account.charge(PLAN)
    one = account.path.stat().st_size
    assert sorted(events) == [("file", one), ("folder", 0)]
    events.clear()
    account.charge(PLAN)
    assert events == [("file", account.path.stat().st_size)]
    assert account.path.stat().st_size == 2 * one


def test_a_disk_that_has_no_room_at_all(csv: Path) -> None:
    account = account_of(csv)
    assert account.path is not None
    account.path.symlink_to("/dev/full")
    with pytest.raises(PrivacyError, match="cannot be written to"):
        account.charge(PLAN)


# Processes

CHARGE = """
import sys
from pathlib import Path
from federated_health.errors import BudgetError
from federated_health.privacy import Account, PrivacyPlan

plan = PrivacyPlan(
    epsilon=1.0, delta=1e-5, clip=1.0, sampling_rate=0.5, steps=1, learning_rate=0.1, rounds=int(sys.argv[2]),
    run="0" * 16,
)
account = Account.beside(Path(sys.argv[1]), "a")
print("ready", plan.noise_multiplier, flush=True)
try:
    while True:
        account.charge(plan)
        sys.stdout.write("drawn\\n")
        sys.stdout.flush()
except BudgetError:
    print("spent", flush=True)
"""


def start_charging(csv: Path, rounds: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHARGE, str(csv), str(rounds)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_a_killed_process_has_charged_whatever_it_drew(csv: Path) -> None:
    draw, drawn = Random(6), 0
    for _ in range(5):
        with start_charging(csv, 3_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready")
            time.sleep(draw.uniform(0.005, 0.1))
            process.send_signal(signal.SIGKILL)
            drawn += process.stdout.read().count("drawn\n")
        account = account_of(csv)
        charged = account.statement().charged
        assert drawn <= charged <= drawn + 5
    assert drawn > 5


@pytest.mark.slow
def test_processes_that_share_an_account_share_its_budget(csv: Path) -> None:
    with start_charging(csv, 400) as one, start_charging(csv, 400) as other:
        words = [process.communicate(timeout=100)[0].splitlines() for process in (one, other)]
    assert [said[-1] for said in words] == ["spent", "spent"]
    assert sum(said.count("drawn") for said in words) == 400
    assert account_of(csv).statement().charged == len(lines_of(account_of(csv))) == 400


@pytest.mark.slow
def test_a_process_waits_while_another_charges(csv: Path) -> None:
    account = account_of(csv)
    charge_times(account, 1)
    assert account.path is not None
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=charge_times, args=(account_of(csv), 1))
    with files.open_to_append(account.path, lock=True):
        child.start()
        child.join(6)
        assert child.is_alive()
        assert len(lines_of(account)) == 1
    child.join(60)
    assert child.exitcode == 0
    assert len(lines_of(account)) == 2
    charge_times(account, 6)
    with pytest.raises(BudgetError):
        account.charge(PLAN)


# Cost


def test_a_charge_asks_the_accountant_once_a_run(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account, asked = account_of(csv), list[float]()
    charge_times(account, 8)
    real = Charges.epsilon

    def counted(self: Charges, delta: float, more: Steps | None = None) -> float:
        asked.append(delta)
        return real(self, delta, more)

    monkeypatch.setattr(Charges, "epsilon", counted)
    account.charge(OTHER, 1.46)
    assert len(asked) == 1  # all of them fit
    charge_times(account, 7, OTHER, 1.46)
    assert len(asked) == 1
