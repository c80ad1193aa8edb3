"""A short form of `make chaos`: each kind of fault once, in the middle of a short run, and one run with Keras."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import run_all, show, summarise
from chaos_trials import LIGHT_TIMEOUT, Fault, Trial, plan_trials
from rich.console import Console

from federated_health.data.manifest import find_hospital
from tests.support.forks import start_fork_server

pytestmark = pytest.mark.slow


def shorten(trial: Trial) -> Trial:
    """Fewer rounds; all light runs have one strategy, so that one undisturbed run suffices for them."""
    trial = replace(trial, rounds=5, moment=0.5) if trial.is_real else replace(trial, rounds=10, moment=0.4)
    if not trial.is_real:
        trial = replace(trial, strategy="fedyogi")
    if trial.fault is Fault.SLOW:
        return replace(trial, strategy="fedavg", rounds=1, seconds=0.0)
    if trial.poison is not None:
        trial = replace(trial, poison=replace(trial.poison, first=3, times=2))
    if trial.fault in (Fault.SILENT, Fault.STALLED):  # longer than a round may take, so that it is repeated
        return replace(trial, seconds=LIGHT_TIMEOUT + 0.5, round_timeout=LIGHT_TIMEOUT)
    return replace(trial, seconds=min(trial.seconds, 1.0))


def test_a_run_with_each_kind_of_fault_ends_well(tmp_path: Path, hospitals_folder: Path) -> None:
    start_fork_server()
    data = {name: path for path, name in (find_hospital(hospitals_folder, number) for number in range(1, 5))}
    trials = [shorten(trial) for trial in plan_trials(seed=1, runs=len(Fault), real=1, longest_cut=1.0)]
    console = Console()

    outcomes = asyncio.run(run_all(trials, data, tmp_path, jobs=4, console=console))

    show(outcomes, console)
    result = summarise(outcomes, 0.0)
    assert {outcome.fault for outcome in outcomes} == set(Fault)
    assert [outcome.problems for outcome in outcomes if outcome.problems] == []
    assert result["ended_well"] == result["runs"] == result["struck"] == len(Fault)
    assert result["bit_identical"] == result["compared"] == sum(trial.is_complete for trial in trials)
    assert sum(outcome.repeated for outcome in outcomes) >= 2
