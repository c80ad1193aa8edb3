"""Runs of whole federations, as processes on loopback, each with a fault drawn from a seed; prints a table.

A server and four hospitals: light ones, which answer with arithmetic in place of Keras, and in the first few runs real
ones. Something befalls each run at a random moment. It ends well when all processes end with code 0, without a
traceback, and the server has saved a whole model of finite weights; where no reply was rejected and every round has all
hospitals, the weights are to the bit those of an undisturbed run. Of light hospitals it is known for every run, to the
bit, what the updates give that rounds.csv names. A failed run's folder is kept, and named.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

from chaos_course import Pace
from chaos_faults import HOSPITALS, Fault, Trial, plan_trials, undisturbed
from chaos_hospital import FAR_TOO_LARGE, ON_THE_WAY
from chaos_processes import Process, prepare_forks
from chaos_run import Run
from chaos_verdict import Verdict, judge, read_verdict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from federated_health.cli.processes import script_command
from federated_health.data.manifest import find_hospital

JUDGE_SECONDS = 120.0

TOO_LATE = "sent its reply too late"
"""The one reason for a rejection that is no fault of a hospital's."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run ended.

    Attributes:
        struck: the fault came before the run was over.
        waiting: hospitals that were cut off as the run ended, and did not learn that it did.
        identical: to the undisturbed run, to the bit; None where it need not be.
        resumed_after: rounds that were finished each time that a server went on with it.
        problems: why it failed; empty where it did not.
    """

    number: int
    fault: str
    description: str
    struck: bool
    waiting: tuple[str, ...]
    identical: bool | None
    repeated: int
    resumed_after: tuple[int, ...]
    seconds: float
    problems: tuple[str, ...]


class Chaos:
    """All runs, some of them at once.

    Args:
        folder: of the runs; that of a run which ended well is removed.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder = folder
        self._turn = asyncio.Semaphore(jobs)
        self._data = _create_hospitals(folder / "data")
        self._references: dict[tuple[bool, str], asyncio.Task[tuple[Pace, Verdict]]] = {}

    async def carry_out(self, trial: Trial) -> Outcome:
        """One run, after the undisturbed run that it is compared with."""
        if trial.reference not in self._references:
            self._references[trial.reference] = asyncio.ensure_future(self._refer(*trial.reference))
        pace, reference = await self._references[trial.reference]
        folder = self._folder / f"{trial.number:03d}"
        async with self._turn:
            course = await Run(trial, folder, self._data).go(pace)
            verdict = await self._judge(trial, folder)
        is_compared = trial.min_hospitals == HOSPITALS
        identical = verdict.weights == reference.weights if is_compared else None
        problems = [*course.problems, *verdict.problems]
        if identical is False:
            problems.append("its weights are not those of the undisturbed run")
        problems += _check_rejections(trial, verdict, list(self._data)[trial.victim])
        if not problems:
            shutil.rmtree(folder)
        faults = verdict.metrics.get("faults", {})
        return Outcome(
            number=trial.number,
            fault=str(trial.fault),
            description=trial.describe(list(self._data)),
            struck=course.struck,
            waiting=tuple(course.waiting),
            identical=identical,
            repeated=faults.get("repeated_rounds", 0),
            resumed_after=tuple(faults.get("resumed_after", ())),
            seconds=round(course.seconds, 1),
            problems=tuple(problems),
        )

    async def _refer(self, is_real: bool, strategy: str) -> tuple[Pace, Verdict]:
        trial, folder = undisturbed(is_real, strategy), self._folder / f"{'real' if is_real else 'light'}-{strategy}"
        async with self._turn:
            course = await Run(trial, folder, self._data).go(None)
            verdict = await self._judge(trial, folder)
        if problems := [*course.problems, *verdict.problems]:
            sys.exit(f"the undisturbed run in {folder} failed: {'; '.join(problems)}")
        return course.pace, verdict

    async def _judge(self, trial: Trial, folder: Path) -> Verdict:
        process = Process(folder / "verdict.txt", judge, trial, folder, self._data)
        await process.wait(JUDGE_SECONDS)
        await process.kill()
        return read_verdict(folder)


def _create_hospitals(folder: Path) -> dict[str, Path]:
    """Hospital -> its CSV."""
    subprocess.run(script_command("create_dataset.py", "--out", folder), check=True, stdout=subprocess.DEVNULL)
    return {name: path for path, name in (find_hospital(folder, number + 1) for number in range(HOSPITALS))}


def _check_rejections(trial: Trial, verdict: Verdict, name: str) -> list[str]:
    """What is wrong with what metrics.json counts as rejected: each poisoned reply, and of others what came too late.

    A hospital that is cut off when it has spoilt a message may miss the rounds in which it was to spoil another.
    """
    faults, poison = verdict.metrics.get("faults", {}), trial.poison
    rejected, problems = faults.get("rejected", {}), []
    if poison is not None:
        # gRPC ends a stream that carries far too much, and does not tell the server that it was this.
        those = faults.get("unanswered", {}) if poison.kind == FAR_TOO_LARGE else rejected
        counted = sum(those.get(name, {}).values())
        if counted < (1 if poison.kind in ON_THE_WAY else poison.times):
            problems.append(f"{counted} of {poison.times} poisoned replies are counted")
    for hospital, reasons in rejected.items():
        wrong = [reason for reason in reasons if reason != TOO_LATE]
        if wrong and (poison is None or hospital != name):
            problems.append(f"a reply of {hospital} is rejected: {', '.join(wrong)}")
    return problems


async def carry_out_all(trials: list[Trial], folder: Path, jobs: int, console: Console) -> list[Outcome]:
    chaos = Chaos(folder, jobs)
    outcomes = []
    runs = [asyncio.ensure_future(chaos.carry_out(trial)) for trial in trials]  # in their order
    for ending in asyncio.as_completed(runs):
        one = await ending
        outcomes.append(one)
        verdict = "failed: " + "; ".join(one.problems) if one.problems else "ok"
        line = f"{len(outcomes):3d} of {len(trials)}  #{one.number} {one.description}; {one.seconds} s: {verdict}"
        console.print(line, soft_wrap=True)
    return sorted(outcomes, key=lambda one: one.number)


def show(outcomes: list[Outcome], console: Console) -> None:
    """A row a kind of fault."""
    names = ("runs", "hit", "well", "identical", "repeated", "median", "longest")
    columns = [Column("fault", no_wrap=True), *(Column(name, justify="right", no_wrap=True) for name in names)]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for fault in [*Fault, None]:
        those = [one for one in outcomes if fault is None or one.fault == fault]
        if not those:
            continue
        compared = [one.identical for one in those if one.identical is not None]
        seconds = [one.seconds for one in those]
        table.add_row(
            str(fault or "all"),
            *map(str, (len(those), sum(one.struck for one in those), sum(not one.problems for one in those))),
            f"{sum(compared)} of {len(compared)}" if compared else "",
            str(sum(one.repeated for one in those)),
            f"{statistics.median(seconds):.1f} s",
            f"{max(seconds):.1f} s",
        )
    console.print(table)


def summarise(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    compared = [one.identical for one in outcomes if one.identical is not None]
    return {
        "runs": len(outcomes),
        "ended_well": sum(not one.problems for one in outcomes),
        "compared": len(compared),
        "bit_identical": sum(compared),
        "struck": sum(one.struck for one in outcomes),
        "seconds": round(seconds, 1),
        "outcomes": [asdict(one) for one in outcomes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--real", type=int, default=10, help="so many of them with Keras")
    parser.add_argument("--jobs", type=int, default=4, help="runs at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="carry out these runs alone")
    parser.add_argument("--longest-cut", type=float, default=20.0, metavar="SECONDS", help="of a network's cut")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes")
    flags = parser.parse_args()
    console, started = Console(highlight=False), time.monotonic()
    trials = plan_trials(flags.seed, flags.runs, flags.real, flags.longest_cut)
    trials = [trial for trial in trials if not flags.only or trial.number in flags.only]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    prepare_forks()
    outcomes = asyncio.run(carry_out_all(trials, folder, flags.jobs, console))
    show(outcomes, console)
    if flags.json:
        flags.json.write_text(json.dumps(summarise(outcomes, time.monotonic() - started), indent=2))
    failed = [one for one in outcomes if one.problems]
    for one in failed:
        line = f"#{one.number} failed ({'; '.join(one.problems)}): see {folder / f'{one.number:03d}'}"
        console.print(line, soft_wrap=True)
    if not failed:
        shutil.rmtree(folder)
    console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} ended well, in {time.monotonic() - started:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
