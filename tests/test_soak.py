"""The soak test's judge; the run itself takes half an hour (`benchmarks/soak.py`)."""

import os
from pathlib import Path
from typing import Any

import pytest
from soak import MAX_GROWTH, compare, measure_process

FIGURES = {"open_files": 20, "threads": 10, "memory_mib": 300.0}


def samples_of(growing: str, growth: float) -> list[dict[str, Any]]:
    """A hundred samples in which one figure of the server grows steadily by this share."""
    samples = []
    for number in range(100):
        grown = FIGURES[growing] * (1 + growth * number / 100)
        samples.append({"server": FIGURES | {growing: grown}, "hospital": FIGURES})
    return samples


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_grows_is_not_flat(name: str) -> None:
    assert all(figure["flat"] for figure in compare(samples_of(name, 0.0)).values())
    figures = compare(samples_of(name, 1.0))  # 1.25 times the first value in the early part, 1.85 times in the late one
    assert [title for title, figure in figures.items() if not figure["flat"]] == [f"server {name}"]
    assert figures[f"server {name}"]["ratio"] == pytest.approx(1.85 / 1.25, abs=0.02)
    assert set(FIGURES) == set(MAX_GROWTH)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux has /proc")
def test_open_files_of_a_process_are_counted() -> None:
    before = measure_process(os.getpid())
    with Path(os.devnull).open():
        assert measure_process(os.getpid())["open_files"] == before["open_files"] + 1
    assert before["threads"] >= 1
    assert before["memory_mib"] > 10
