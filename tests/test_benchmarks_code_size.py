"""The benchmark that measures how much code a run loads and how many files a train message passes."""

from pathlib import Path

import code_size
import pytest


def test_only_modules_and_packages_of_the_project_have_a_path() -> None:
    assert code_size.path_of("server") == code_size.ROOT / "server.py"
    assert code_size.path_of("federated_health") == code_size.ROOT / "federated_health" / "__init__.py"
    assert code_size.path_of("federated_health.no_such_module") is None


def test_the_size_counts_modules_and_all_their_lines() -> None:
    lines = len((code_size.ROOT / "utils.py").read_text().splitlines())
    assert code_size.size_of(["utils"]) == {"modules": 1, "lines": lines}


STRATEGY = "def configure_train(): pass\ndef aggregate_train(): pass\ndef exchange(): pass\n"
LOOP = """
def rounds():
    for number in range(4):
        configure_train()
        if number == 1:
            exchange()
        yield number
        aggregate_train()
"""


def test_only_files_of_the_second_round_count_and_consumers_separately(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(code_size, "ROOT", tmp_path)
    names: dict[str, object] = {}
    for file, text in {"strategy": STRATEGY, "loop": LOOP, "consumer": "def record(): pass\n"}.items():
        exec(compile(text, str(tmp_path / code_size.PACKAGE / f"{file}.py"), "exec"), names)
    profile = code_size.MessageProfile()
    with code_size.profiled(profile):
        for _ in names["rounds"]():  # type: ignore[operator]
            names["record"]()  # type: ignore[operator]
    assert profile.files == {"federated_health/strategy.py", "federated_health/loop.py"}
    assert profile.meanwhile == {"federated_health/consumer.py"}
