"""One run of `chaos.py`: a server, four hospitals, the injected fault, and whether all processes ended well."""

import asyncio
import csv
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from chaos_conditions import ORDINARY, Conditions, proxy_variables
from chaos_faults import strike
from chaos_hangs import HANGS, HangingApp
from chaos_hospital import FAR_TOO_LARGE, PoisonedApp, light_app
from chaos_hostile import HOSTILITIES, find_answers, serve_hostile
from chaos_liars import LIES, LyingApp
from chaos_links import ConnectProxy, Link
from chaos_power import Disk, open_disk
from chaos_processes import POLL_SECONDS, Process, ended, run_script
from chaos_trials import (
    DEAD,
    HOSPITALS,
    SAVED,
    SLOW_KEEPALIVE,
    Fault,
    Pace,
    RunOutcome,
    Trial,
)
from flwr.clientapp import ClientApp

from federated_health.names import ROUNDS

PAUSE = 0.05
"""Seconds that a light hospital trains."""

WAIT, SHORT_WAIT = 120, 20
"""--wait of server and hospitals, in seconds: longer than any fault; and that of a server that may lack a hospital."""

RUN_TIMEOUT = 240.0
"""Seconds after which a run counts as hanging."""

END_TIMEOUT = 15.0
"""Seconds that hospitals have to end after the server."""

Change = Callable[[ClientApp], ClientApp]
"""What makes a hospital's app another one."""

INTERRUPTED, REFUSED = 130, 1
"""Exit codes of a script that was asked to end, and of a hospital that was rejected."""


class Run:
    """The processes of one run.

    Args:
        folder: the run's folder; `run` in it is the server's.
        data: CSV of each hospital by name. The run uses copies, because a hospital keeps its ledger beside its CSV.
    """

    def __init__(self, trial: Trial, folder: Path, data: dict[str, Path]) -> None:
        self.trial, self.folder = trial, folder
        self._csvs = dict(data)
        self.names = list(data)
        self.victim = self.names[trial.victim]
        self.liars = _liars(trial, self.names)
        if trial.fault is Fault.LIAR and LIES[trial.kind].copies_rows:
            self._csvs[self.victim] = data[self.names[trial.victim - 1]]
        # Each run has its own loopback address, so that no other run can take a port that is free for a moment.
        self.host = f"127.{1 + trial.number // 62500}.{trial.number // 250 % 250}.{trial.number % 250 + 1}"
        self.port = free_port(self.host)
        self.links: dict[str, Link] = {}
        self.proxy = ConnectProxy(self.host)
        self.disk: Disk | None = None
        self.hospitals: dict[str, Process] = {}
        self._server: Process | None = None
        self.outcome = RunOutcome()

    @property
    def out(self) -> Path:
        """The server's folder, as this process sees it."""
        return (self.disk.seen if self.disk else self.folder) / "run"

    @property
    def server(self) -> Process:
        assert self._server is not None, "it was started"
        return self._server

    @property
    def processes(self) -> list[Process]:
        return [self.server, *self.hospitals.values()]

    async def execute(self, pace: Pace | None) -> RunOutcome:
        """Start all processes, inject the fault, and wait for the end.

        Args:
            pace: the undisturbed run's; None if this is the undisturbed run, or there is none to compare with.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self._all = stack.enter_context(ended())
            await self._prepare(stack)
            started = loop.time()
            if self.trial.fault is Fault.HOSTILE_SERVER:
                await self._meet_hostile_server()
                self.outcome.seconds = loop.time() - started
                return self.outcome
            if self.trial.hospitals_first:
                self.start_hospitals()
                await asyncio.sleep(0.5)
            self.start_server()
            if not self.trial.hospitals_first:
                self.start_hospitals()
            watching = asyncio.ensure_future(self._watch_marks(started))
            try:
                async with asyncio.timeout(RUN_TIMEOUT):
                    if pace is not None and self.trial.fault is not None:
                        await strike(self, pace)
                    code = await self.server.wait(RUN_TIMEOUT)
            except TimeoutError:
                code = None
            finally:
                watching.cancel()
                self._note_marks(started)
            self.outcome.seconds = loop.time() - started
            await self._end_processes(code)
            if self.proxy.connections:
                self.outcome.problems.append(f"{self.proxy.connections} connections went through the proxy")
        return self.outcome

    async def _prepare(self, stack: AsyncExitStack) -> None:
        """What the processes need before they start."""
        (self.folder / "data").mkdir(parents=True)
        for name, path in self._csvs.items():
            shutil.copy(path, self._data_of(name))
        slow = self.trial.slow_link if self.trial.fault else None
        for name in self.names:
            self.links[name] = Link(self.host, self.port, slow.rate if slow and name == self.victim else None)
            await self.links[name].open()
            stack.push_async_callback(self.links[name].close)
        if self.trial.fault is Fault.PROXY:
            await self.proxy.open()
            stack.push_async_callback(self.proxy.close)
            if self.trial.kind == DEAD:
                self.proxy.refuse()
        if self.trial.fault is Fault.POWER_CUT:
            self.disk = stack.enter_context(open_disk(self.folder))

    async def _meet_hostile_server(self) -> None:
        hostility, report = HOSTILITIES[self.trial.kind], self.folder / "report.json"
        self._server = Process(self.folder / "server.txt", serve_hostile, f"{self.host}:{self.port}", hostility, report)
        self._all.append(self._server)
        self.start_hospital(self.victim)
        self.outcome.struck = True
        await self.server.wait(RUN_TIMEOUT)
        await self._end_hospital(self.victim, may_fail=True)
        self.outcome.problems += find_answers(report, hostility)

    async def _end_processes(self, code: int | None) -> None:
        """Wait for all processes and record how they ended."""
        if self.outcome.is_over:
            return
        lines = self.server_output().splitlines()
        if code == REFUSED and self.trial.fault is Fault.LIAR and lines and lines[-1].startswith("error: "):
            self.outcome.refusal = lines[-1]
        elif code != 0:
            self.outcome.problems.append(f"the server {_ended(code)}")
        for name in list(self.hospitals):
            await self._end_hospital(name, may_fail=bool(self.outcome.refusal) or self._is_banned(name))

    async def _end_hospital(self, name: str, *, may_fail: bool) -> None:
        hospital = self.hospitals[name]
        hangs = self.trial.fault is Fault.HANG and HANGS[self.trial.kind].is_lasting and name == self.victim
        code = await hospital.wait(END_TIMEOUT if not self.outcome.problems and not hangs else 0.0)
        if code is None and (hangs or self._is_cut_off(name)):
            if not hangs:
                # A hospital that was disconnected as the run ended cannot know that it did, and waits for `--wait`.
                self.outcome.waiting.append(name)
            hospital.send(signal.SIGTERM)
            code = 0 if await hospital.wait(END_TIMEOUT) == INTERRUPTED else hospital.code
        if code != 0 and not (code == REFUSED and may_fail):
            self.outcome.problems.append(f"{name} {_ended(code)}")

    def _is_banned(self, name: str) -> bool:
        """Whether the server may reject the hospital permanently, so that its client ends with an error."""
        poison = self.trial.poison
        sends_too_much = poison is not None and poison.kind == FAR_TOO_LARGE and name == self.victim
        return sends_too_much or name in self.liars

    def _is_cut_off(self, name: str) -> bool:
        """Whether the last line of a hospital's output is that it waits for the server."""
        lines = read_text(self.folder / f"{name}.txt").splitlines()
        return bool(lines) and "waiting up to" in lines[-1]

    def server_output(self) -> str:
        """What all servers of this run have printed so far."""
        return read_text(self.folder / "server.txt")

    def finished_round(self) -> int:
        """The last round in rounds.csv; 0 if there is none."""
        rows = list(csv.reader(read_text(self.out / ROUNDS).splitlines()))
        return max((int(row[0]) for row in rows[1:] if row and row[0].isdigit()), default=0)

    def reached_marks(self) -> int:
        """Number of marks reached, see `Pace`."""
        number = self.finished_round()
        return number + sum((self.out / name).exists() for name in SAVED) * (number == self.trial.rounds)

    async def _watch_marks(self, started: float) -> None:
        while True:
            self._note_marks(started)
            await asyncio.sleep(POLL_SECONDS / 2)

    def _note_marks(self, started: float) -> None:
        number = self.reached_marks()
        while len(self.outcome.marks) < number:
            self.outcome.marks.append(asyncio.get_running_loop().time() - started)

    def start_server(self, *more: str) -> None:
        trial = self.trial
        flags = {
            "hospitals": HOSPITALS,
            "min-hospitals": trial.min_hospitals,
            "rounds": trial.rounds,
            "hidden": trial.hidden,
            "strategy": trial.strategy,
            "round-timeout": trial.round_timeout,
            "wait": SHORT_WAIT if trial.fault is Fault.LIAR else WAIT,
            "address": f"{self.host}:{self.port}",
            "out": (self.disk.path if self.disk else self.folder) / "run",
        }
        options = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
        self._server = Process(
            self.folder / "server.txt",
            self.disk.run_script if self.disk else run_script,
            "server.py",
            [*options, *more],
            conditions=self._conditions(None),
        )
        self._all.append(self._server)

    def start_hospitals(self) -> None:
        for name in self.names:
            self.start_hospital(name)

    def start_hospital(self, name: str) -> None:
        data, address = self._data_of(name), self.links[name].address
        if self.trial.fault is Fault.HOSTILE_SERVER:
            address = f"{self.host}:{self.port}"
        flags = ["--data", str(data), "--name", name, "--server", address, "--wait", str(WAIT)]
        log, conditions = self.folder / f"{name}.txt", self._conditions(name)
        self.hospitals[name] = Process(
            log, run_hospital, flags, self.trial.is_real, self._change_of(name), conditions=conditions
        )
        self._all.append(self.hospitals[name])

    def _data_of(self, name: str) -> Path:
        return self.folder / "data" / f"{name}.csv"

    def _change_of(self, name: str) -> Change | None:
        """What makes the hospital's app misbehave."""
        trial = self.trial
        if name in self.liars:
            return partial(LyingApp, lie=LIES[trial.kind])
        if name != self.victim:
            return None
        if trial.poison is not None:
            return partial(PoisonedApp, poison=trial.poison)
        if trial.fault is Fault.HANG:
            return partial(HangingApp, hang=HANGS[trial.kind], first=trial.first_round, seconds=trial.seconds)
        return None

    def _conditions(self, name: str | None) -> Conditions:
        """Those under which a hospital starts, or, without a name, the server."""
        match self.trial.fault:
            case Fault.PROXY:
                return Conditions(environment=proxy_variables(self.proxy.address))
            case Fault.OUTPUT if name in (None, self.victim):
                return Conditions(output=self.trial.kind, seconds=self.trial.seconds)
            case Fault.SLOW:
                return Conditions(keepalive=SLOW_KEEPALIVE)
            case Fault.POWER_CUT if name is None and self.disk is not None:
                return self.disk.conditions
        return ORDINARY


def run_hospital(flags: list[str], is_real: bool, change: Change | None, pause: float = PAUSE) -> None:
    """Run client.py in a forked process, with a light app and a change of it if the trial demands them."""
    import client

    app = client.app if is_real else light_app(pause)
    client.app = change(app) if change else app
    run_script("client.py", flags)


def _liars(trial: Trial, names: Sequence[str]) -> list[str]:
    """Hospitals that lie: the victim, and as many after it as the lie needs."""
    if trial.fault is not Fault.LIAR:
        return []
    return [names[(trial.victim + number) % len(names)] for number in range(LIES[trial.kind].liars)]


def _ended(code: int | None) -> str:
    return "did not end" if code is None else f"ended with code {code}"


def read_text(path: Path) -> str:
    """A file's text; empty if there is no file."""
    return path.read_text(errors="replace") if path.exists() else ""


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
