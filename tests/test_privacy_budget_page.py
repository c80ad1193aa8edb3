"""The page of a privacy account."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federated_health.cli import console, tables
from federated_health.errors import PrivacyError
from federated_health.ml.privacy_plan import ACCOUNTANT, GUARANTEE, PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of
from federated_health.privacy.budget_page import BudgetPage, read_page
from federated_health.privacy.spending import EvaluationSpend, RoundSpend, write_line

FIRST = RoundSpend(
    run="0" * 16, epsilon=1.0, delta=1e-5, clip=0.5, sampling_rate=1 / 3, noise_multiplier=6.25, steps=4, rounds=9
)
SECOND = RoundSpend(
    run="f" * 16, epsilon=2.0, delta=1e-6, clip=1.0, sampling_rate=1.0, noise_multiplier=20.0, steps=1, rounds=30
)


def page_of(path: Path, *rounds: RoundSpend) -> BudgetPage:
    lines = [write_line(spend, datetime(2026, 11, 20 + number, 5, tzinfo=UTC)) for number, spend in enumerate(rounds)]
    path.write_bytes(b"".join(lines))
    return read_page(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy-a.jsonl"


def test_the_page_of_rounds_written_by_hand(path: Path) -> None:
    page = page_of(path, FIRST, FIRST, SECOND)
    rounds = [Steps(1 / 3, 6.25, 8), Steps(1.0, 20.0, 1)]
    total, exchanged = epsilon_of(rounds, 1e-6), epsilon_of(rounds, 1e-6, exchange=True)
    assert str(path) in page.title
    period, promise, spent, training, held_out, *_, accountant, _, _, earlier = page.lines()
    assert "2026-11-20 05:00:00 to 2026-11-22 05:00:00 UTC" in period
    assert GUARANTEE in promise
    assert f"epsilon {total:.4g} at delta 1e-06, in 3 rounds of 2 runs" in spent
    assert f"training patients: epsilon {total:.4g}; {exchanged:.4g} if" in training
    assert "held-out patients: epsilon 0; 0 if" in held_out
    assert ACCOUNTANT in accountant
    assert "earlier version" in earlier  # the lines name no split
    assert page.tables() == {
        "Runs": {
            "2026-11-20 0000000000000000": {
                "training": f"{epsilon_of([Steps(1 / 3, 6.25, 8)], 1e-5):.4g} of 1",
                "held-out": "0",
                "delta": "1e-05",
                "clip": "0.5",
                "noise": "6.25",
                "rate": "0.333",
                "steps": 8,
                "rounds": "2 of 9",
            },
            "2026-11-22 ffffffffffffffff": {
                "training": f"{epsilon_of([Steps(1.0, 20.0, 1)], 1e-6):.4g} of 2",
                "held-out": "0",
                "delta": "1e-06",
                "clip": "1",
                "noise": "20",
                "rate": "1",
                "steps": 1,
                "rounds": "1 of 30",
            },
        }
    }


def test_the_page_shows_both_sides_and_adds_them_up_if_the_runs_held_out_different_patients(path: Path) -> None:
    time = datetime(2026, 11, 20, tzinfo=UTC)
    training, evaluation = Steps(1 / 3, 6.25, 4), Steps(1.0, 3.0, 1)
    sides = epsilon_of([training], 1e-5), epsilon_of([evaluation], 1e-5)

    def lines_with(split: str) -> list[str]:
        held_out = EvaluationSpend(run="0" * 16, epsilon=1.0, delta=1e-5, evaluation_noise=3.0, split=split)
        path.write_bytes(write_line(replace(FIRST, split="a" * 16), time) + write_line(held_out, time))
        return read_page(path).lines()

    _, _, spent, first, second, joint, *_ = lines_with("a" * 16)
    assert f"epsilon {max(sides):.4g} at" in spent
    assert f"training patients: epsilon {sides[0]:.4g};" in first
    assert f"held-out patients: epsilon {sides[1]:.4g};" in second
    assert "larger" in joint
    _, _, spent, _, _, joint, *_ = lines_with("b" * 16)
    assert f"epsilon {epsilon_of([training, evaluation], 1e-5):.4g} at" in spent
    assert "added up" in joint


def test_the_page_can_be_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(path, FIRST)
    console.print_lines(page.title, page.lines())
    for title, table in page.tables().items():
        tables.print_figures(title, table)
    output = capsys.readouterr().out
    assert "in 1 round of 1 run" in output
    assert re.search(r"\b0\.\d+ of 1 +0 +1e-05 +0\.5 +6\.25 +0\.333 +4 +1 of 9\b", output)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "holds no round"),
        (b'{"time":"2026', "holds no round"),
    ],
)
def test_a_file_without_a_round_has_no_page(content: bytes | None, words: str, path: Path) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PrivacyError, match=words):
        read_page(path)


def test_another_file_has_no_page(path: Path) -> None:
    path.write_text("age,sex\n63,1\n")
    with pytest.raises(PrivacyError, match="line 1: is not a line"):
        read_page(path)


def test_a_pipe_has_no_page(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PrivacyError, match="regular file"):
        read_page(path)


def test_a_round_spends_the_figures_of_its_plan() -> None:
    plan = PrivacyPlan(
        epsilon=2.0, delta=1e-6, clip=1.0, sampling_rate=1.0, steps=1, learning_rate=0.1, rounds=30, run="f" * 16
    )
    spend = RoundSpend.of(plan)
    assert replace(spend, noise_multiplier=SECOND.noise_multiplier) == SECOND
    assert spend.noise_multiplier == plan.noise_multiplier
    assert spend.times(7) == Steps(1.0, plan.noise_multiplier, 7)
