"""Independent pieces of work, in this process or over several that never outlive it."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from flwr.clientapp import ClientApp

from federated_health.errors import RunError, UserError

Piece = TypeVar("Piece")
Work = TypeVar("Work")
Result = TypeVar("Result")


@contextmanager
def workers(
    jobs: int, begin: Callable[[Work], Callable[[Piece], Result]], work: Work, *, died: str
) -> Iterator[Callable[[list[Piece]], Iterator[tuple[Piece, Result]]]]:
    """Something that does pieces of work, in any order: this process where there is one job, else as many others.

    Args:
        begin: called once in each process, with `work`; returns what does one piece. It is of a module's top level.
        died: what to say where a process is gone.

    Yields:
        A function from pieces to each piece and its result, as they come. It raises RunError, with the words of the
        UserError that a piece raised, or `died`.
    """
    if jobs <= 1:
        _begin(begin, work)
        yield lambda pieces: ((piece, _raise_or(_do(piece))) for piece in pieces)
        return
    # Spawned, since a process that has imported TensorFlow or started threads of Flower's cannot be forked safely.
    spawn = multiprocessing.get_context("spawn")
    ending, held = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, spawn, _begin_worker, (begin, work, ending))

    def run(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Result]]:
        try:
            waiting = {pool.submit(_do, piece): piece for piece in pieces}
            for future in as_completed(waiting):
                yield waiting[future], _raise_or(future.result())
        except BrokenProcessPool:
            raise RunError(died) from None

    try:
        yield run
    finally:
        held.close()
        pool.shutdown(cancel_futures=True)
        ending.close()


def load_app(reference: str) -> ClientApp:
    """The hospitals' ClientApp, such as client:app, for many federations in this one process."""
    module, name = reference.split(":")
    app: ClientApp = getattr(import_module(module), name)
    # TensorFlow warns of compiling anew for many shapes: here many hospitals, of different sizes, share one process.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    return app


@dataclass(frozen=True)
class _Failure:
    """An exception of ours as its words, which any process can read."""

    words: str


_done_by: Callable[[Any], Any]


def _begin_worker(begin: Callable[[Any], Any], work: Any, ending: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends the others
    threading.Thread(target=_end_with, args=(ending,), daemon=True).start()
    _begin(begin, work)


def _end_with(ending: Connection) -> None:
    """End this process, amid a piece perhaps, when the one that asked closes the other end or is gone, even killed."""
    ending.poll(None)
    os._exit(1)


def _begin(begin: Callable[[Any], Any], work: Any) -> None:
    global _done_by
    _done_by = begin(work)


def _do(piece: Any) -> Any:
    try:
        return _done_by(piece)
    except UserError as error:
        return _Failure(str(error))


def _raise_or(result: Any) -> Any:
    if isinstance(result, _Failure):
        raise RunError(result.words)
    return result
