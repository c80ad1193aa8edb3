"""One run of `chaos.py`: a server, four hospitals, the fault that befalls them, and whether all ended well."""

import asyncio
import csv
import shutil
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

from chaos_course import SAVED, FederatedRun, Pace
from chaos_faults import HOSPITALS, Fault, Trial
from chaos_hospital import FAR_TOO_LARGE, Poison, PoisonedApp, light_app
from chaos_links import Link
from chaos_processes import POLL_SECONDS, Process, ended, run_script

from federated_health.names import ROUNDS

PAUSE = 0.05
"""Seconds that a light hospital trains."""

WAIT = 120
"""--wait of server and hospitals: more than any fault lasts."""

PATIENCE = 240.0
"""Seconds after which a run that has not ended never will."""

FAREWELL = 15.0
"""Seconds that hospitals have to end after the server."""

INTERRUPTED, REFUSED = 130, 1
"""Codes of a door that was asked to end, and of a hospital that may not come back."""


class Run:
    """The processes of one run.

    Args:
        folder: of all it leaves; `run` in it is the server's own.
        data: hospital -> its CSV, of which the run takes a copy: a hospital keeps its ledger beside it.
    """

    def __init__(self, trial: Trial, folder: Path, data: dict[str, Path]) -> None:
        self.trial, self.folder = trial, folder
        self._csvs = data
        self.out = folder / "run"
        self.names = list(data)
        # Each has a host of its own: a port that is free for a moment cannot be taken by another run.
        self.host = f"127.{1 + trial.number // 62500}.{trial.number // 250 % 250}.{trial.number % 250 + 1}"
        self.port = _free_port(self.host)
        self.links: dict[str, Link] = {}
        self.hospitals: dict[str, Process] = {}
        self.server: Process | None = None
        self.course = FederatedRun()

    async def go(self, pace: Pace | None) -> FederatedRun:
        """Start all, let the fault come, and wait for the end.

        Args:
            pace: of the undisturbed run; None for this to be one.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self._all = stack.enter_context(ended())
            for name in self.names:
                self.links[name] = Link(self.host, self.port)
                await self.links[name].open()
                stack.push_async_callback(self.links[name].close)
            (self.folder / "data").mkdir(parents=True)
            for path in self._csvs.values():
                shutil.copy(path, self.folder / "data")
            started = loop.time()
            if self.trial.hospitals_first:
                self._start_hospitals()
                await asyncio.sleep(0.5)
            self._start_server()
            if not self.trial.hospitals_first:
                self._start_hospitals()
            watching = asyncio.ensure_future(self._watch_marks(started))
            try:
                async with asyncio.timeout(PATIENCE):
                    if pace is not None and self.trial.fault is not None:
                        await self._strike(*pace.place(self.trial.moment))
                    code = await self._server().wait(PATIENCE)
            except TimeoutError:
                code = None
            finally:
                watching.cancel()
                self._note_marks(started)
            self.course.seconds = loop.time() - started
            await self._part(code)
        return self.course

    async def _part(self, code: int | None) -> None:
        """Note how all processes ended."""
        if self.course.is_over:
            return
        if code != 0:
            self.course.problems.append(f"the server {_ended(code)}")
        for name, one in self.hospitals.items():
            code = await one.wait(FAREWELL if not self.course.problems else 0.0)
            if code is None and self._is_cut_off(name):
                # What was cut off as the run ended cannot know that it did, and waits for the server as it was told.
                self.course.waiting.append(name)
                one.send(signal.SIGTERM)
                code = 0 if await one.wait(FAREWELL) == INTERRUPTED else one.code
            if code != 0 and not (code == REFUSED and self._is_banned(name)):
                self.course.problems.append(f"{name} {_ended(code)}")

    def _is_banned(self, name: str) -> bool:
        """Whether the server wants no more of a hospital, which says so and ends."""
        poison = self.trial.poison
        return poison is not None and poison.kind == FAR_TOO_LARGE and name == self.names[self.trial.victim]

    def _is_cut_off(self, name: str) -> bool:
        """Whether a hospital's last word is that it waits for the server."""
        lines = _read(self.folder / f"{name}.txt").splitlines()
        return bool(lines) and "waiting up to" in lines[-1]

    def finished_round(self) -> int:
        """The last round in rounds.csv, 0 where there is none."""
        rows = list(csv.reader(_read(self.out / ROUNDS).splitlines()))
        return max((int(row[0]) for row in rows[1:] if row and row[0].isdigit()), default=0)

    def reached_marks(self) -> int:
        """Of those in `Pace`."""
        number = self.finished_round()
        return number + sum((self.out / name).exists() for name in SAVED) * (number == self.trial.rounds)

    async def _watch_marks(self, started: float) -> None:
        while True:
            self._note_marks(started)
            await asyncio.sleep(POLL_SECONDS / 2)

    def _note_marks(self, started: float) -> None:
        number = self.reached_marks()
        while len(self.course.marks) < number:
            self.course.marks.append(asyncio.get_running_loop().time() - started)

    async def _reach(self, mark: int, delay: float) -> None:
        """Wait for a mark, and then so long, but no longer than until the next mark or the end."""
        loop, server = asyncio.get_running_loop(), self._server()
        while server.code is None and self.reached_marks() < mark:
            await asyncio.sleep(POLL_SECONDS / 2)
        until = loop.time() + delay
        while server.code is None and self.reached_marks() <= mark and loop.time() < until:
            await asyncio.sleep(POLL_SECONDS / 2)

    async def _strike(self, mark: int, delay: float) -> None:
        """Let the fault come so long after a mark."""
        server, trial = self._server(), self.trial
        if trial.poison is None:
            # Who goes for good before all are gathered is waited for, as the server was told.
            await self._reach(max(mark, 1) if trial.fault is Fault.GONE else mark, delay)
        self.course.struck = server.code is None
        if not self.course.struck:
            return
        name = self.names[trial.victim]
        link, victim = self.links[name], self.hospitals[name]
        match trial.fault:
            case Fault.SERVER_KILLED:
                await server.kill()
                await asyncio.sleep(trial.seconds)
                await self._resume()
            case Fault.POWER_CUT:
                for one in (server, *self.hospitals.values()):
                    one.send(signal.SIGKILL)
                for one in (server, *self.hospitals.values()):
                    await one.kill()
                await asyncio.sleep(trial.seconds)
                self._start_hospitals()
                await self._resume()
            case Fault.GONE:
                await victim.kill()
                del self.hospitals[name]
            case Fault.HOSPITAL_KILLED:
                await victim.kill()
                await asyncio.sleep(trial.seconds)
                self._start_hospital(name)
            case Fault.RESTARTED:
                victim.send(signal.SIGTERM)
                await victim.wait(FAREWELL)
                self._start_hospital(name)
            case Fault.STALLED:
                victim.send(signal.SIGSTOP)
                await asyncio.sleep(trial.seconds)
                victim.send(signal.SIGCONT)
            case Fault.SILENT | Fault.CLOSED:
                (link.hush if trial.fault is Fault.SILENT else link.refuse)()
                await asyncio.sleep(trial.seconds)
                link.restore()
            case Fault.GARBLED:
                link.garble()

    async def _resume(self) -> None:
        """Go on as a user does: with --resume, and anew where the server says that there is nothing to go on from."""
        before = len(_read(self.folder / "server.txt"))
        server = self._start_server("--resume", str(self.out))
        said = ""
        while server.code is None and "listening on" not in said:
            await asyncio.sleep(POLL_SECONDS)
            said = _read(self.folder / "server.txt")[before:]
        said = _read(self.folder / "server.txt")[before:]
        if server.code is not None and ("holds no checkpoint" in said or "the run is over" in said):
            self.course.is_over = all((self.out / name).exists() for name in SAVED)
            if not self.course.is_over:
                self._start_server("--force")

    def _server(self) -> Process:
        assert self.server is not None
        return self.server

    def _start_server(self, *more: str) -> Process:
        trial = self.trial
        flags = {
            "hospitals": HOSPITALS,
            "min-hospitals": trial.min_hospitals,
            "rounds": trial.rounds,
            "strategy": trial.strategy,
            "round-timeout": trial.round_timeout,
            "wait": WAIT,
            "address": f"{self.host}:{self.port}",
            "out": self.out,
        }
        given = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
        self.server = Process(self.folder / "server.txt", run_script, "server.py", [*given, *more])
        self._all.append(self.server)
        return self.server

    def _start_hospitals(self) -> None:
        for name in self.names:
            self._start_hospital(name)

    def _start_hospital(self, name: str) -> None:
        trial = self.trial
        data, link = self.folder / "data" / self._csvs[name].name, self.links[name]
        flags = ["--data", str(data), "--name", name, "--server", link.address, "--wait", str(WAIT)]
        poison = trial.poison if name == self.names[trial.victim] else None
        log = self.folder / f"{name}.txt"
        self.hospitals[name] = Process(log, run_hospital, flags, trial.is_real, poison)
        self._all.append(self.hospitals[name])


def run_hospital(flags: list[str], is_real: bool, poison: Poison | None) -> None:
    """In a forked process: client.py, with a light app and poison as the trial wants them."""
    import client

    app = client.app if is_real else light_app(PAUSE)
    client.app = PoisonedApp(app, poison) if poison else app
    run_script("client.py", flags)


def _ended(code: int | None) -> str:
    return "did not end" if code is None else f"ended with code {code}"


def _read(path: Path) -> str:
    """A file's text; of one that is not there, none."""
    return path.read_text(errors="replace") if path.exists() else ""


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
