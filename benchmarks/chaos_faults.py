"""How `chaos.py` injects the fault of a run at its moment."""

import asyncio
import signal
from typing import TYPE_CHECKING

from chaos_processes import POLL_SECONDS
from chaos_trials import AFTER_SAVED, SAVED, Fault, Pace

if TYPE_CHECKING:
    from chaos_run import Run

RESTART_TIMEOUT = 15.0
"""Seconds that a hospital has to end when it is asked to."""

SAVE_TIMEOUT = 60.0
"""Seconds that a server has to save its run, where the power is cut afterwards."""

FROM_THE_START = (Fault.POISONED, Fault.HANG, Fault.PROXY, Fault.LIAR, Fault.OUTPUT, Fault.SLOW)
"""Faults that need no moment, since processes start with them."""


async def strike(run: "Run", pace: Pace) -> None:
    """Inject the fault, at a moment relative to the pace of an undisturbed run."""
    trial = run.trial
    if trial.fault in FROM_THE_START:
        run.outcome.struck = True
    elif trial.kind == AFTER_SAVED:
        await _cut_power_after(run, pace)
    else:
        mark, delay = pace.place(trial.moment)
        # Before the first round the server would wait for a hospital that does not come back.
        await _reach(run, max(mark, 1) if trial.fault is Fault.GONE else mark, delay)
        run.outcome.struck = run.server.code is None
        if run.outcome.struck:
            await _inject(run)


async def _reach(run: "Run", mark: int, delay: float) -> None:
    """Wait for a mark, then for `delay` seconds, but at most until the next mark or the end."""
    loop, server = asyncio.get_running_loop(), run.server
    while server.code is None and run.reached_marks() < mark:
        await asyncio.sleep(POLL_SECONDS / 2)
    until = loop.time() + delay
    while server.code is None and run.reached_marks() <= mark and loop.time() < until:
        await asyncio.sleep(POLL_SECONDS / 2)


async def _inject(run: "Run") -> None:
    trial, server, name = run.trial, run.server, run.victim
    link, victim = run.links[name], run.hospitals[name]
    match trial.fault:
        case Fault.SERVER_KILLED:
            await server.kill()
            await asyncio.sleep(trial.seconds)
            await _resume(run)
        case Fault.ALL_KILLED:
            for process in run.processes:
                process.send(signal.SIGKILL)
            for process in run.processes:
                await process.kill()
            await asyncio.sleep(trial.seconds)
            run.start_hospitals()
            await _resume(run)
        case Fault.POWER_CUT:
            server.send(signal.SIGKILL)
            await _recover_disk(run)
            await asyncio.sleep(trial.seconds)
            await _resume(run)
        case Fault.GONE:
            await victim.kill()
            del run.hospitals[name]
        case Fault.HOSPITAL_KILLED:
            await victim.kill()
            await asyncio.sleep(trial.seconds)
            run.start_hospital(name)
        case Fault.RESTARTED:
            victim.send(signal.SIGTERM)
            await victim.wait(RESTART_TIMEOUT)
            run.start_hospital(name)
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


async def _cut_power_after(run: "Run", pace: Pace) -> None:
    """Cut the power up to some seconds after the server has said that the run is saved, and ended."""
    if await run.server.wait(pace.end + SAVE_TIMEOUT) == 0:
        await asyncio.sleep(2 * run.trial.seconds)
        run.outcome.struck = True
    await _recover_disk(run)


async def _recover_disk(run: "Run") -> None:
    """Replace the run's disk by what a power cut at this moment leaves of it, which `run.out` then is."""
    assert run.disk is not None, "it was opened at the start"
    disk, run.disk = run.disk, None
    disk.recover(run.out.name, run.out)
    await run.server.kill()


async def _resume(run: "Run") -> None:
    """Continue as a user would: with --resume, or from the start if there is nothing to resume."""
    before = len(run.server_output())
    run.start_server("--resume", str(run.out))
    output = ""
    while run.server.code is None and "listening on" not in output:
        await asyncio.sleep(POLL_SECONDS)
        output = run.server_output()[before:]
    output = run.server_output()[before:]
    if run.server.code is not None and ("holds no checkpoint" in output or "the run is over" in output):
        run.outcome.is_over = all((run.out / name).exists() for name in SAVED)
        if not run.outcome.is_over:
            run.start_server("--force")
