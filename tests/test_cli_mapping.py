"""--mapping at each script, and `federated-health mapping draft`: from an export to a check, hospitals and scores."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.data.exports.mapping_files import parse_mapping
from federated_health.data.exports.mappings import read_mapping
from federated_health.data.task_files import HEART_DISEASE, read_task_file
from federated_health.errors import DataError
from federated_health.files import hash_file
from federated_health.hospital import handlers
from federated_health.names import node_id_of
from federated_health.setting_fields import Value
from federated_health.transport.app_calls import hospital_context
from tests.support.script_calls import RunScript, assert_one_line, assert_refused
from tests.support.scripts import PROJECT
from tests.test_cli_predict import save_some_model

EXAMPLE = PROJECT / "examples" / "own_question"

TASK = "--task heart-disease"

GERMAN_HEART = """\
task = "heart-disease"
[file]
separator = ";"
decimal = ","
missing = ["k.A."]
"""


@pytest.fixture
def heart(in_folder: Path, hospitals_folder: Path) -> tuple[Path, Path]:
    """Cleveland's patients as a German export, and its mapping."""
    table = pd.read_csv(hospitals_folder / "client_1.csv")
    lines, columns = [GERMAN_HEART], {"Fallnummer": [f"C{number:04d}" for number in range(len(table))]}
    for column in HEART_DISEASE.labelled_columns:
        lines.append(f'[columns.{column.name}]\ncolumn = "{column.name.title()} (é)"')
        cells = ["k.A." if np.isnan(cell) else f"{cell:g}".replace(".", ",") for cell in table[column.name]]
        if column is HEART_DISEASE.label:
            lines[-1] += '\ncodes = { "krank" = 1, "gesund" = 0 }'
            cells = ["krank" if cell == "1" else "gesund" for cell in cells]
        columns[f"{column.name.title()} (é)"] = cells
    export, mapping = in_folder / "export.csv", in_folder / "mapping.toml"
    pd.DataFrame(columns).to_csv(export, sep=";", index=False)
    mapping.write_text("\n".join(lines), encoding="utf-8")
    return export, mapping


def test_a_check_of_an_export_shows_what_the_canonical_file_shows(
    run_script: RunScript, heart: tuple[Path, Path], hospitals_folder: Path
) -> None:
    export, mapping = heart
    canonical = run_script("client.py", "--data", hospitals_folder / "client_1.csv", "--check")

    checked = run_script("client.py", "--data", export, "--mapping", mapping, "--check")

    assert checked.succeeded
    assert hash_file(mapping) in checked.output
    found, expected = (result.output.partition("What would leave")[0].splitlines() for result in (checked, canonical))
    assert [line for line in found if "mapping.toml" not in line][2:] == expected[2:]


def test_without_its_mapping_an_export_is_refused(run_script: RunScript, heart: tuple[Path, Path]) -> None:
    assert_refused(run_script("client.py", "--data", heart[0], "--check"), 1, "export.csv")


@pytest.mark.usefixtures("server_identity")
def test_a_hospital_answers_with_the_rows_that_its_mapping_makes(
    heart: tuple[Path, Path], hospitals_folder: Path
) -> None:
    export, mapping = heart
    config = ConfigRecord({"task": HEART_DISEASE.name, "schema": HEART_DISEASE.schema_hash})
    message = Message(RecordDict({"config": config}), node_id_of("a"), "query.statistics")
    node: dict[str, Value] = {"data": str(export), "name": "a", "split-seed": 42, "mapping": str(mapping)}

    mapped = handlers.hospital_of(message, hospital_context("a", node))
    canonical = handlers.hospital_of(
        message, hospital_context("a", {"data": str(hospitals_folder / "client_1.csv"), "name": "a", "split-seed": 42})
    )

    for side in ("train", "test"):
        np.testing.assert_array_equal(getattr(mapped, side).values, getattr(canonical, side).values)
        np.testing.assert_array_equal(getattr(mapped, side).labels, getattr(canonical, side).labels)
    assert any(hash_file(mapping) in line for line in mapped.remarks())


def test_created_hospitals_have_the_canonical_rows_and_name_the_mapping(
    run_script: RunScript, heart: tuple[Path, Path], hospitals_folder: Path
) -> None:
    export, mapping = heart

    flags = ["--task", "heart-disease", "--by", "iid", "--hospitals", 1, "--out", "new"]
    result = run_script("create_dataset.py", "--source", export, "--mapping", mapping, *flags)

    assert result.succeeded
    assert hash_file(mapping) in result.output
    names = [column.name for column in HEART_DISEASE.labelled_columns]
    created, canonical = pd.read_csv("new/client_1.csv")[names], pd.read_csv(hospitals_folder / "client_1.csv")[names]
    pd.testing.assert_frame_equal(
        created.sort_values(names, ignore_index=True), canonical.sort_values(names, ignore_index=True)
    )
    source = json.loads(Path("new/manifest.json").read_text())["source"]
    assert source["mapping"] == {"file": "mapping.toml", "sha256": hash_file(mapping)}
    assert source["files"] == {"export.csv": hash_file(export), "mapping.toml": hash_file(mapping)}
    assert any("krank -> 1" in line for line in source["mapped"])


def test_the_hospitals_of_an_export_may_be_those_of_a_column(run_script: RunScript, heart: tuple[Path, Path]) -> None:
    export, mapping = heart
    table = pd.read_csv(export, sep=";", dtype=str)
    table["Haus"] = ["Haus Süd", "Haus Nord"] * (len(table) // 2) + ["Haus Süd"] * (len(table) % 2)
    table.to_csv(export, sep=";", index=False)
    mapping.write_text(mapping.read_text("utf-8") + '\n[columns.hospital]\ncolumn = "Haus"\n', "utf-8")

    arguments = ["--source", export, "--mapping", mapping, "--task", "heart-disease", "--out", "new"]
    assert run_script("create_dataset.py", *arguments).succeeded

    manifest = json.loads(Path("new/manifest.json").read_text())
    assert [hospital["name"] for hospital in manifest["hospitals"]] == ["haus-sud", "haus-nord"]


def test_invalid_rows_are_dropped_if_asked_but_none_for_its_label(
    run_script: RunScript, heart: tuple[Path, Path]
) -> None:
    export, mapping = heart
    arguments = [
        "create_dataset.py",
        "--source",
        export,
        "--mapping",
        mapping,
        "--task",
        "heart-disease",
        "--out",
        "new",
    ]
    text = export.read_text()
    export.write_text(text.replace(";145;", ";Zzyzx;", 1))

    refused = run_script(*arguments)
    assert_refused(refused, 1, "Trestbps (é) (trestbps), row 1")
    assert "Zzyzx" not in refused.error
    assert not Path("new").exists()
    assert run_script(*arguments, "--drop-invalid").succeeded
    assert json.loads(Path("new/manifest.json").read_text())["source"]["rows"] == {"read": 303, "kept": 302}

    export.write_text(text.replace(";145;", ";Zzyzx;", 1).replace("gesund", "Zzyzx", 1))
    refused = run_script(*arguments, "--drop-invalid", "--force")
    assert_refused(refused, 1, "Disease (é) (disease), row 1")
    assert "Zzyzx" not in refused.error


def test_created_hospitals_hold_running_numbers_of_patients_and_no_identifiers(run_script: RunScript) -> None:
    export, mapping = (EXAMPLE / "riverside" / name for name in ("export.csv", "mapping.toml"))
    flags = ["--mapping", mapping, "--task-file", EXAMPLE / "stroke.toml", "--by", "iid", "--hospitals", 1]

    assert run_script("create_dataset.py", "--source", export, *flags, "--out", "new").succeeded

    numbers = pd.read_csv("new/client_1.csv")["patient_id"]
    identifiers = pd.read_csv(export)["mrn"]
    assert set(numbers) == set(range(1, identifiers.nunique() + 1))
    assert sorted(numbers.value_counts()) == sorted(identifiers.value_counts())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source", "export.csv", "--mapping", "mapping.toml"], "--task"),
        (f"--source export.csv --mapping mapping.toml {TASK} --label-means disease=krank".split(), "--label-means"),
        (["--mapping", "mapping.toml", "--task", "heart-disease"], "--source"),
        (["--source", "readmission", "--mapping", "mapping.toml", "--task", "readmission"], "--source"),
        (["--source", "export.csv", "--mapping", "mapping.toml", "--task", "readmission"], "readmission"),
        (["--source", "export.csv", "--mapping", "none.toml", "--task", "heart-disease"], "none.toml"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    run_script: RunScript, heart: tuple[Path, Path], flags: list[str], words: str
) -> None:
    assert heart[0].exists()
    result = run_script("create_dataset.py", *flags, "--out", "new")

    assert_one_line(result, words)
    assert not Path("new").exists()


@pytest.mark.parametrize("hospital", ["nordklinik", "riverside", "hopital-sud"])
def test_the_mappings_of_the_example_are_its_drafts_completed(run_script: RunScript, hospital: str) -> None:
    folder = EXAMPLE / hospital
    drafted = run_script(
        "federated-health", "mapping", "draft", folder / "export.csv", "--task-file", EXAMPLE / "stroke.toml"
    )

    assert drafted.code == 0
    completed = (folder / "mapping.toml").read_text("utf-8").splitlines()
    drafted_lines = drafted.output.splitlines()
    changed = [(old, new) for old, new in zip(drafted_lines[2:], completed[2:], strict=True) if old != new]
    assert all('"?"' in old or "missing" in old for old, _ in changed)
    task = read_task_file(EXAMPLE / "stroke.toml")
    table = read_mapping(folder / "mapping.toml", task).read(folder / "export.csv")
    assert table[task.label.name].astype(str).isin(["0", "1"]).all()


def test_a_draft_goes_to_standard_output_and_its_open_lines_to_standard_error(
    run_script: RunScript, heart: tuple[Path, Path]
) -> None:
    result = run_script("federated-health", "mapping", "draft", heart[0])

    assert result.code == 0
    assert result.output.startswith("# Draft of a mapping from export.csv")
    assert result.error.count("\n") == 1
    assert '"?"' in result.error
    Path("draft.toml").write_text(result.output, "utf-8")
    assert_refused(
        run_script("client.py", "--data", heart[0], "--mapping", "draft.toml", "--check"), 1, "draft.toml, line "
    )


def test_a_draft_of_no_table_is_refused(run_script: RunScript) -> None:
    Path("export.csv").write_text("Zzyzx\nXyzzy\n")

    result = run_script("federated-health", "mapping", "draft", "export.csv")

    assert_refused(result, 1, "export.csv")
    assert "zzy" not in result.error


@pytest.mark.slow
def test_new_patients_are_scored_and_written_as_their_export_is(
    run_script: RunScript, heart: tuple[Path, Path], hospitals_folder: Path
) -> None:
    export, mapping = heart
    table = pd.read_csv(export, sep=";", dtype=str, keep_default_na=False).drop(columns=["Disease (é)"]).head(20)
    table.to_csv("new.csv", sep=";", index=False)
    pd.read_csv(hospitals_folder / "client_1.csv").head(20).to_csv("canonical.csv", index=False)
    model = Path("model.keras")
    save_some_model(model)

    mapped = run_script("predict.py", model, "new.csv", "--mapping", mapping, "--out", "risk.csv")
    assert mapped.succeeded, mapped.error
    assert run_script("predict.py", model, "canonical.csv", "--out", "canonical-risk.csv").succeeded

    scored, expected = (
        pd.read_csv("risk.csv", sep=";", dtype=str, keep_default_na=False),
        pd.read_csv("canonical-risk.csv", dtype=str),
    )
    pd.testing.assert_frame_equal(scored[list(table.columns)], table)
    assert scored["risk"].tolist() == [risk.replace(".", ",") for risk in expected["risk"]]
    assert scored["prediction"].tolist() == expected["prediction"].tolist()


@pytest.mark.usefixtures("in_folder")
def test_a_plain_check_loads_nothing_of_mappings(hospitals_folder: Path) -> None:
    shutil.copy(hospitals_folder / "client_1.csv", "mine.csv")
    program = (
        "import sys; sys.argv = ['client.py', '--data', 'mine.csv', '--check']\n"
        "from federated_health.cli import client\nfrom federated_health.hospital import handlers\nclient.main()\n"
        "print([name for name in sys.modules if 'mapping' in name and 'federated_health' in name])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=120
    )

    assert finished.stdout.splitlines()[-1] == "[]", finished.stderr


def test_the_documented_example_does_what_is_written(run_script: RunScript) -> None:
    shutil.copytree(EXAMPLE, Path("examples/own_question"))
    page = (PROJECT / "docs" / "own-data.md").read_text("utf-8")
    section = page.split("## Your own export\n", 1)[1].split("\n### ", 1)[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    [draft, check] = [text.split() for kind, text in blocks if kind == "sh"]
    [told, title] = [text for kind, text in blocks if kind == ""]
    [shown] = [text for kind, text in blocks if kind == "toml"]
    assert (draft[:3], draft[-2:]) == (["python", "-m", "federated_health"], [">", "mapping.toml"])

    drafted = run_script("federated-health", *draft[3:-2])
    checked = run_script(*check[1:])

    assert drafted.error == told
    assert all(f"{part}\n" in drafted.output for part in shown.strip().split("\n\n"))
    assert checked.succeeded
    assert checked.output.lstrip().startswith(title)


def test_every_key_is_documented() -> None:
    page = (PROJECT / "docs" / "own-data.md").read_text("utf-8")
    section = page.split("### Keys of a mapping file\n", 1)[1].split("\n## ", 1)[0]
    documented = {
        key for row in section.splitlines() if row.startswith("|") for key in row.split("|")[2].strip().split(", ")
    }

    with pytest.raises(DataError) as of_the_file:
        parse_mapping(b'task = "heart-disease"\n[file]\nx = 1\n[columns]\n', "mapping.toml", HEART_DISEASE)
    known = set(str(of_the_file.value).rpartition(": ")[2].split(", "))
    for name in ("age", "sex"):
        with pytest.raises(DataError) as of_a_column:
            parse_mapping(f'task = "heart-disease"\n[columns.{name}]\nx = 1\n'.encode(), "mapping.toml", HEART_DISEASE)
        known |= set(str(of_a_column.value).rpartition(": ")[2].split(", "))

    assert documented - {"key", "---", "task"} == known


def test_the_advice_for_a_file_with_semicolons_leads_to_a_check_that_passes(
    run_script: RunScript, hospitals_folder: Path
) -> None:
    Path("export.csv").write_text((hospitals_folder / "client_1.csv").read_text().replace(",", ";"))
    refused = run_script("client.py", "--data", "export.csv", "--check")
    advised = re.search(r"python -m federated_health (mapping draft .*) > (\S+); .* add (--mapping \S+)", refused.error)
    assert advised is not None

    draft = run_script("federated-health", *shlex.split(advised[1]))
    completed = re.sub(r'"(\d)" = "\?"', r'"\1" = \1', draft.output).replace('unit = "?"', 'unit = "mm"')
    completed = completed.replace('{ "0" = 0, "2" = 2 }', '{ "0" = 0, "1" = 1, "2" = 2 }')  # the rarer code
    Path(advised[2]).write_text(completed)
    checked = run_script("client.py", "--data", "export.csv", *advised[3].split(), "--check")

    plain = run_script("client.py", "--data", hospitals_folder / "client_1.csv", "--check")
    assert checked.succeeded
    assert checked.output.splitlines()[2:20] == plain.output.splitlines()[2:20]
