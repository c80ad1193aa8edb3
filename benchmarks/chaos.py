"""Run whole federations as processes on loopback, one injected fault each, drawn from a seed; prints a table.

A run is a server and four hospitals. In the first few runs, and where a fault needs it, the hospitals are real, in the
others light: they compute updates by arithmetic instead of Keras. A run ends well if all processes exit with 0, without
a traceback, and the server has saved a complete model with finite weights. If no reply was rejected and every round has
all hospitals, the weights must equal those of an undisturbed run to the bit. With light hospitals the weights are also
recomputed from the updates that rounds.csv names. A run with lying hospitals may also end with one line, and must name
them if they do harm; a hostile server must get no more answers than a run gives. The folder of a failed run is kept and
printed.
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

from chaos_blame import find_wrong_blame
from chaos_processes import Process, prepare_forks
from chaos_run import Run
from chaos_trials import HOSPITALS, Fault, Pace, Trial, plan_trials
from chaos_verdict import Verdict, find_tracebacks, judge, read_verdict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from scripts import script_command

from federated_health.data.manifest import find_hospital

JUDGE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run ended.

    Attributes:
        struck: whether the fault came before the run was over.
        waiting: hospitals that were disconnected when the run ended, and did not learn that it did.
        identical: whether the weights equal those of the undisturbed run to the bit; None if they need not.
        resumed_after: the last completed round of each resumption.
        problems: why the run failed; empty if it ended well.
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
    """Executes runs, several at a time.

    Args:
        data: CSV of each hospital by name.
        folder: parent of the runs' folders; the folder of a run that ended well is removed.
        jobs: number of runs at a time.
    """

    def __init__(self, data: dict[str, Path], folder: Path, jobs: int) -> None:
        self._data, self._folder = data, folder
        self._slots = asyncio.Semaphore(jobs)
        self._references: dict[Trial, asyncio.Task[tuple[Pace, Verdict]]] = {}

    async def run(self, trial: Trial) -> Outcome:
        """Execute one run, after the undisturbed run that it is compared with."""
        pace = reference = None
        if trial.fault is not Fault.HOSTILE_SERVER:
            if trial.reference not in self._references:
                self._references[trial.reference] = asyncio.ensure_future(self._run_reference(trial.reference))
            pace, reference = await self._references[trial.reference]
        folder = self._folder / trial.folder
        async with self._slots:
            run = Run(trial, folder, self._data)
            outcome = await run.execute(pace)
            verdict = await self._judge(trial, folder) if reference and not outcome.refusal else Verdict()
        problems = [*outcome.problems, *verdict.problems, *find_tracebacks(folder)]
        identical = verdict.weights == reference.weights if reference and trial.is_complete else None
        if identical is False:
            problems.append("the weights are not those of the undisturbed run")
        problems += find_wrong_blame(
            trial,
            verdict,
            victim=run.victim,
            liars=run.liars,
            output=run.server_output(),
            undisturbed_auc=reference.roc_auc if reference else 0.0,
        )
        if not problems:
            shutil.rmtree(folder)
        faults = verdict.metrics.get("faults", {})
        return Outcome(
            number=trial.number,
            fault=str(trial.fault),
            description=trial.describe(list(self._data)),
            struck=outcome.struck,
            waiting=tuple(outcome.waiting),
            identical=identical,
            repeated=faults.get("repeated_rounds", 0),
            resumed_after=tuple(faults.get("resumed_after", ())),
            seconds=round(outcome.seconds, 1),
            problems=tuple(problems),
        )

    async def _run_reference(self, trial: Trial) -> tuple[Pace, Verdict]:
        folder = self._folder / trial.folder
        async with self._slots:
            run = await Run(trial, folder, self._data).execute(None)
            verdict = await self._judge(trial, folder)
        if problems := [*run.problems, *verdict.problems, *find_tracebacks(folder)]:
            sys.exit(f"the undisturbed run in {folder} failed: {'; '.join(problems)}")
        return run.pace, verdict

    async def _judge(self, trial: Trial, folder: Path) -> Verdict:
        process = Process(folder / "verdict.txt", judge, trial, folder, self._data)
        await process.wait(JUDGE_SECONDS)
        await process.kill()
        return read_verdict(folder)


def create_hospitals(folder: Path) -> dict[str, Path]:
    """The CSV of each hospital, by name."""
    subprocess.run(script_command("create_dataset.py", "--out", folder), check=True, stdout=subprocess.DEVNULL)
    return {name: path for path, name in (find_hospital(folder, number + 1) for number in range(HOSPITALS))}


async def run_all(
    trials: list[Trial], data: dict[str, Path], folder: Path, jobs: int, console: Console
) -> list[Outcome]:
    """The outcomes of all trials, in order; one line per run is printed when it ends."""
    chaos = Chaos(data, folder, jobs)
    outcomes = []
    tasks = [asyncio.ensure_future(chaos.run(trial)) for trial in trials]  # they begin in this order
    for ending in asyncio.as_completed(tasks):
        outcome = await ending
        outcomes.append(outcome)
        verdict = "failed: " + "; ".join(outcome.problems) if outcome.problems else "ok"
        run = f"#{outcome.number} {outcome.description}; {outcome.seconds} s"
        line = f"{len(outcomes):3d} of {len(trials)}  {run}: {verdict}"
        console.print(line, soft_wrap=True)
    return sorted(outcomes, key=lambda outcome: outcome.number)


def show(outcomes: list[Outcome], console: Console) -> None:
    """Print a table with one row per kind of fault."""
    names = ("runs", "hit", "well", "identical", "repeated", "median", "longest")
    columns = [Column("fault", no_wrap=True), *(Column(name, justify="right", no_wrap=True) for name in names)]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for fault in [*Fault, None]:
        selected = [outcome for outcome in outcomes if fault is None or outcome.fault == fault]
        if not selected:
            continue
        compared = [outcome.identical for outcome in selected if outcome.identical is not None]
        seconds = [outcome.seconds for outcome in selected]
        table.add_row(
            str(fault or "all"),
            str(len(selected)),
            str(sum(outcome.struck for outcome in selected)),
            str(sum(not outcome.problems for outcome in selected)),
            f"{sum(compared)} of {len(compared)}" if compared else "",
            str(sum(outcome.repeated for outcome in selected)),
            f"{statistics.median(seconds):.1f} s",
            f"{max(seconds):.1f} s",
        )
    console.print(table)


def summarise(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    compared = [outcome.identical for outcome in outcomes if outcome.identical is not None]
    return {
        "runs": len(outcomes),
        "ended_well": sum(not outcome.problems for outcome in outcomes),
        "compared": len(compared),
        "bit_identical": sum(compared),
        "struck": sum(outcome.struck for outcome in outcomes),
        "seconds": round(seconds, 1),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--real", type=int, default=10, help="number of runs with Keras")
    parser.add_argument("--jobs", type=int, default=6, help="runs at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="run only these")
    parser.add_argument(
        "--longest-cut", type=float, default=10.0, metavar="SECONDS", help="longest interruption of a network"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all outcomes")
    flags = parser.parse_args()
    console, started = Console(highlight=False), time.monotonic()
    trials = plan_trials(flags.seed, flags.runs, flags.real, flags.longest_cut)
    trials = [trial for trial in trials if not flags.only or trial.number in flags.only]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    prepare_forks()
    outcomes = asyncio.run(run_all(trials, create_hospitals(folder / "data"), folder, flags.jobs, console))
    show(outcomes, console)
    if flags.json:
        flags.json.write_text(json.dumps(summarise(outcomes, time.monotonic() - started), indent=2))
    failed = [outcome for outcome in outcomes if outcome.problems]
    for outcome in failed:
        where = next(folder.glob(f"{outcome.number:03d}*"))
        line = f"#{outcome.number} failed ({'; '.join(outcome.problems)}): see {where}"
        console.print(line, soft_wrap=True)
    if not failed:
        shutil.rmtree(folder)
    console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} ended well, in {time.monotonic() - started:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
