"""Summaries of measurements: medians, ratios, growth exponents, targets, memory."""

import json
import math
import subprocess
import sys

import measuring
import pytest


def test_rounds_are_described_by_their_median() -> None:
    assert measuring.describe([0.4, 0.1, 0.2]) == {
        "rounds": 3,
        "rounds_per_second": 5.0,
        "median_ms": 200.0,
        "p95_ms": 400.0,
    }


def test_a_ratio_is_the_median_over_turns_of_ratios_within_turns() -> None:
    slow, fast = [[2.0, 2.0, 9.0], [30.0], [1.0]], [[1.0], [10.0, 0.1, 10.0], [1.0]]
    assert measuring.times_as_long(slow, fast) == {"ratio": 2.0, "least": 1.0, "greatest": 3.0}
    with pytest.raises(ValueError, match="shorter"):
        measuring.times_as_long(slow, fast[:2])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    sizes = [4, 16, 64, 1000]
    assert measuring.exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_the_exponent_is_that_of_least_squares() -> None:
    # log2 sizes 0, 1, 2; log2 costs 0, 0, 3: slope = sum((x - 1) * y) / sum((x - 1)**2) = 3 / 2
    assert measuring.exponent([1, 2, 4], [1, 1, 8]) == pytest.approx(1.5)


def test_growth_that_turns_quadratic_at_the_end_is_not_linear() -> None:
    found = measuring.growth([10, 100, 1000], [1, 1, 100])
    assert found == {"exponent": 1.0, "between_neighbours": [0.0, 2.0], "is_linear": False}
    assert measuring.growth([10, 100], [1, 10])["is_linear"] is True


def test_a_cost_of_zero_has_no_exponent() -> None:
    with pytest.raises(ValueError, match="math domain"):
        measuring.exponent([1, 2], [0.0, 1.0])


def test_a_target_is_reached_at_the_exact_figure() -> None:
    assert measuring.judged(25, at_least=25) == {"figure": 25.0, "target": "at least 25", "reached": True}
    assert measuring.judged(1.52, at_most=1.5) == {"figure": 1.52, "target": "at most 1.5", "reached": False}
    assert measuring.judged(24.9, at_least=25)["reached"] is False


def test_a_figure_just_past_its_target_is_judged_before_it_is_rounded() -> None:
    assert measuring.judged(1.5004, at_most=1.5) == {"figure": 1.5, "target": "at most 1.5", "reached": False}


def test_figures_are_rounded_to_three_significant_digits() -> None:
    assert [measuring.significant(figure) for figure in (0.0123456, 12345.6, 1.0)] == [0.0123, 12300.0, 1.0]


def test_memory_and_descendants_of_a_process_are_measured() -> None:
    script = (
        "import os, sys, time; print(os.getpid(), flush=True); taken = bytearray(60 * 2**20); print(); sys.stdin.read()"
    )
    shell = subprocess.Popen(
        ["/bin/sh", "-c", '"$0" -c "$1"; true', sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        pid = int(shell.stdout.readline())
        shell.stdout.readline()
        assert measuring.descendants(shell.pid) == [pid]
        found = measuring.memory_of(pid)
        assert 60 < found["now_mib"] <= found["peak_mib"] < 200
    finally:
        shell.communicate()
    assert measuring.memory_of(pid) == {}
    assert measuring.descendants(shell.pid) == []


def test_people_see_tables_and_programs_json(capsys: pytest.CaptureFixture[str]) -> None:
    measuring.show({"a": 1.5}, {"Title": [{"column": 1.5}]})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"a": 1.5}
    assert all(word in shown.err for word in ("Title", "column", "1.5"))


def test_the_logarithm_is_taken_of_both() -> None:
    assert measuring.exponent([1, math.e], [1, math.e**3]) == pytest.approx(3)
