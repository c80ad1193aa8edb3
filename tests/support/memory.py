"""Search in the memory of another process (Linux)."""

import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

RUN = 16
"""Number of consecutive bytes per search pattern."""

PAGE = 4096
"""Bytes per page. Pages of zeros are skipped, since most memory of a process is unused."""

BITS = 22
"""Size of the first lookup table, as a power of 2."""

FACTOR = np.uint64(0x9E3779B97F4A7C15)


def runs_of(arrays: Iterable[npt.NDArray[np.generic]]) -> set[bytes]:
    """Every run of RUN bytes that begins with an element of an array."""
    runs = set()
    for array in arrays:
        content = array.tobytes()
        runs |= {content[start : start + RUN] for start in range(0, len(content) - RUN + 1, array.itemsize)}
    return runs


def find_in(content: bytes, wanted: set[bytes]) -> set[bytes]:
    """The wanted runs that occur in the bytes."""
    keys = np.unique(np.array([np.frombuffer(run[:8], np.uint64)[0] for run in wanted], dtype=np.uint64))
    table = np.zeros(2**BITS, dtype=bool)
    table[_hash(keys)] = True
    runs = set()
    for offset in range(8):
        whole = len(content) - (len(content) - offset) % 8
        words = np.frombuffer(content[offset:whole], np.uint64)
        places = np.flatnonzero(table[_hash(words)])
        for place in places[np.isin(words[places], keys)]:
            run = content[offset + 8 * place : offset + 8 * place + RUN]
            if run in wanted:
                runs.add(run)
    return runs


def find_in_process(pid: int, wanted: set[bytes]) -> set[bytes]:
    """The wanted runs that occur in a process's writable memory. The process is stopped during the search."""
    runs = set()
    os.kill(pid, signal.SIGSTOP)
    try:
        for content in _regions(pid):
            runs |= find_in(content, wanted)
    finally:
        os.kill(pid, signal.SIGCONT)
    return runs


def find_in_folder(folder: Path, wanted: set[bytes]) -> set[bytes]:
    """The wanted runs that occur in a file of a folder or below it."""
    runs = set()
    for path in folder.rglob("*"):
        if path.is_file():
            runs |= find_in(path.read_bytes(), wanted)
    return runs


def _without_empty_pages(content: bytes) -> bytes:
    whole = len(content) // PAGE * PAGE
    pages = np.frombuffer(content[:whole], np.uint64).reshape(-1, PAGE // 8)
    return pages[pages.any(axis=1)].tobytes() + content[whole:]


def _hash(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    return ((words * FACTOR) >> np.uint64(64 - BITS)).astype(np.intp)


def _regions(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is None or "[vvar]" in line:
                continue
            start, end = (int(place, 16) for place in match.groups())
            for begin in range(start, end, 2**26):
                try:
                    memory.seek(begin)
                    yield _without_empty_pages(memory.read(min(2**26 + RUN, end - begin)))
                except OSError:  # freed during the search, or not readable
                    break
