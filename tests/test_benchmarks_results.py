"""The page of benchmark results, benchmarks/RESULTS.md."""

import sys
from pathlib import Path

import pytest
import results

CIRCUMSTANCES = {"date": "2026-11-22", "commit": "abc", "machine": "2 cores"}


def test_rows_become_a_table_with_a_column_for_every_key() -> None:
    rows: list[dict[str, object]] = [{"weights": 100_000, "is_linear": True}, {"weights": 689, "steps": [0.5, 1.0]}]
    assert results.table(rows) == (
        "| weights | is linear | steps |\n| --- | --- | --- |\n| 100,000 | yes |  |\n| 689 |  | 0.5, 1 |"
    )


def test_the_page_begins_with_the_targets_of_all_benchmarks() -> None:
    speed = {
        "targets": {"speed": {"figure": 37.0, "target": "at least 25", "reached": True}},
        "ways": {"a": {"ms": 1.0}},
    }
    memory = {"targets": {"memory": {"figure": 300.0, "target": "at most 250", "reached": False}}, "rounds": 3}
    page = results.write_page(
        {"round_rate": {"result": speed, "seconds": 90}, "growth": {"result": memory, "seconds": 30}}, CIRCUMSTANCES
    )
    head, body = page.split("## Rounds\n")
    assert "in 2 minutes" in head
    assert "| what | figure | target | reached |" in head
    assert "| speed | 37 | at least 25 | yes |\n| memory | 300 | at most 250 | no |" in head
    assert "ways:\n\n|  | ms |\n| --- | --- |\n| a | 1 |" in body
    assert "## How cost grows\n\n| rounds |\n| --- |\n| 3 |\n" in body
    assert "37" not in body


def test_nested_tables_become_rows() -> None:
    found = {"hospitals": {"round": {"exponent": 1.0}, "memory": {"exponent": 0.3}}, "plain": {"exponent": 2.0}}
    assert results.rows_of(found) == [
        {"": "hospitals, round", "exponent": 1.0},
        {"": "hospitals, memory", "exponent": 0.3},
        {"": "plain", "exponent": 2.0},
    ]
    assert results.rows_of(3) is None
    assert results.rows_of({"a": 1}) == [{"a": 1}]
    assert results.rows_of([{"a": 1}]) == [{"a": 1}]


def test_the_circumstances_name_no_machine() -> None:
    circumstances = results.read_circumstances()
    assert circumstances["Python"] == ".".join(map(str, sys.version_info[:3]))
    text = " ".join(circumstances.values())
    assert str(Path.home()) not in text
    assert Path("/etc/hostname").read_text().strip() not in text


def test_every_listed_benchmark_has_a_file_and_a_title() -> None:
    assert list(results.TITLES) == list(results.BENCHMARKS)
    assert all(Path(results.__file__).with_name(f"{name}.py").exists() for name in results.BENCHMARKS)


def test_output_that_is_not_json_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "good.py").write_text("print('{\"a\": 1}'); raise SystemExit(1)")
    (tmp_path / "benchmarks" / "bad.py").write_text("raise SystemExit('it failed')")
    monkeypatch.setattr(results, "PROJECT", tmp_path)
    assert results.run("good", ())["result"] == {"a": 1}
    with pytest.raises(ValueError, match="Expecting value"):
        results.run("bad", ())
