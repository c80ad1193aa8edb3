"""`make demo`: one command from nothing to a model."""

import json
import re
from pathlib import Path

import pytest

from federated_health.cli import demo
from federated_health.cli.demo import run_demo
from federated_health.errors import RunError
from federated_health.hospital.policy_file import read_policy
from federated_health.processes import command

pytestmark = pytest.mark.slow


def test_the_demo_leaves_data_logs_and_a_model_and_can_be_run_again_in_its_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_demo(tmp_path / "demo", "heart-disease", {"rounds": 1})
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert metrics["rounds"] == 1
    model = (tmp_path / "demo" / "model.keras").read_bytes()
    output = capfd.readouterr().out
    assert "hospital mean" in output
    assert "with mutual TLS" in output
    for name in ("cleveland", "hungary", "switzerland", "va-long-beach"):
        assert f"{name} joined" in output
        folder = tmp_path / "demo" / "hospitals" / name
        assert "the run is over" in (folder / "console.log").read_text()
        assert read_policy(folder / "policy.toml").max_rounds == 1

    # The second scenario in the same folder; it shows the gap to the best figure.
    run_demo(tmp_path / "demo", "readmission", {"rounds": 2})
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert (metrics["task"], metrics["strategy"], metrics["rounds"]) == ("readmission", "average", 2)
    assert (tmp_path / "demo" / "model.keras").read_bytes() != model
    assert list(metrics["hospitals"]) == ["community", "university"]
    output = capfd.readouterr().out
    (line,) = [line for line in output.splitlines() if line.startswith("Bayes-optimal")]
    best, reached, gap = re.findall(r"\d\.\d+", line)
    assert float(reached) == pytest.approx(metrics["federation"]["roc_auc"], abs=5e-4)
    assert float(best) - float(reached) == pytest.approx(float(gap), abs=2e-3)
    assert float(best) == pytest.approx(0.817, abs=5e-4)  # of the default 4,000 patients, however long is trained


def test_a_demo_whose_hospital_fails_ends_with_the_last_line_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command_with_a_wrong_task(name: str, *rest: object) -> list[str]:
        return command(name, *rest, *(["--task", "none"] if name == "client" else []))

    monkeypatch.setattr(demo, "command", command_with_a_wrong_task)
    with pytest.raises(RunError, match=r"ended with code 2: .*--task"):
        run_demo(tmp_path / "demo", "heart-disease", {"wait": 60})
