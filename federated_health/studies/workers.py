"""Independent tasks, run in this process or in worker processes that never outlive it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import TypeVar

from federated_health.errors import RunError, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    tasks: Sequence[Task],
    function: Callable[[Task], Result],
    *,
    jobs: int,
    save: Callable[[Task, Result], None],
    show: Callable[[int, int], None],
    crashed: str,
    finished: int = 0,
) -> None:
    """Call a function on every task, in any order, and save each result at once.

    Args:
        function: can be pickled, so that worker processes can call it.
        jobs: number of processes; 1 runs all tasks in this process.
        save: called with a task and its result.
        show: called with the number of finished tasks and the total, before the first task and after each.
        crashed: error message for a worker process that dies.
        finished: number of tasks that were finished earlier, for `show`.

    Raises:
        RunError: a task raised a UserError (its message follows the task's name), or a worker process died.
    """
    total = finished + len(tasks)
    show(finished, total)
    with closing(_results(tasks, function, min(jobs, len(tasks)), crashed)) as results:
        for number, (task, result) in enumerate(results, start=finished + 1):
            save(task, result)
            show(number, total)


def _results(
    tasks: Sequence[Task], function: Callable[[Task], Result], jobs: int, crashed: str
) -> Generator[tuple[Task, Result], None, None]:
    if jobs <= 1:
        for task in tasks:
            yield task, _call(function, task)
        return
    # Spawned: a process that has imported TensorFlow or started Flower's threads cannot be forked safely.
    spawn = multiprocessing.get_context("spawn")
    worker_end, own_end = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, spawn, _start_worker, (worker_end,))
    try:
        # One task per worker at a time: before Python 3.11.5 a pool whose workers end never shuts down if a task that
        # is larger than a pipe's buffer still waits for a worker (CPython's issue 94777).
        waiting = iter(tasks)
        with _safe_path():  # submitting starts the workers
            running = {pool.submit(_call, function, task): task for task in islice(waiting, jobs)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                running |= {pool.submit(_call, function, following): following for following in islice(waiting, 1)}
                yield task, future.result()
    except BrokenProcessPool:
        raise RunError(crashed) from None
    finally:
        own_end.close()
        pool.shutdown(cancel_futures=True)
        worker_end.close()


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes that start in the block import no module of the current folder, which may have a standard name."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]


def _call(function: Callable[[Task], Result], task: Task) -> Result:
    try:
        return function(task)
    except UserError as error:  # a RunError can be pickled; errors that take more than a message cannot
        raise RunError(f"{task}: {error}") from None


def _start_worker(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C and ends its workers
    threading.Thread(target=_exit_with_parent, args=(connection,), daemon=True).start()


def _exit_with_parent(connection: Connection) -> None:
    """End this process, even during a task, when the parent closes its end of the pipe or dies."""
    connection.poll(None)
    os._exit(1)
